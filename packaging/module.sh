#!/bin/sh
# Gives the Go module another path, for when the project has a public home: the line in go.mod,
# and all that follows from it.
#
#   module.sh example.org/cmkd
#
# It changes the files of the tree that it is in, and commits nothing.
set -eu
cd "$(dirname "$0")/.."
old=$(go list -m)
new=$1
case $new in
*.*/*) ;;
*) echo "module.sh: $new: go get takes a path that begins with a domain name" >&2 && exit 2 ;;
esac
# Folders of packages, so that paths such as /run/cmkd/cmkd.sock stay as they are.
folders=$(go list -f '{{.ImportPath}}' ./... | cut -d/ -f"$(($(echo "$old" | tr -dc / | wc -c) + 2))" | sort -u | paste -sd'|')
go mod edit -module "$new"
files() { # NAME...: those of the tree
	set -- $(printf -- '-o -name %s ' "$@")
	shift
	find . \( -name .git -o -name .cache -o -name node_modules -o -path ./bin \) -prune -o -type f ! -path ./packaging/module.sh \( "$@" \) -print0
}
set -f
files '*.go' '*.yml' '*.md' '*.txt' '*.proto' '*.sh' Makefile |
	OLD=$old NEW=$new FOLDERS=$folders xargs -0 perl -pi -e 's{(?<![\w./-])\Q$ENV{OLD}\E(?=/(?:$ENV{FOLDERS})(?![\w-]))}{$ENV{NEW}}g'
go generate ./plugins/internal/control
files '*.go' | xargs -0 gofmt -w
