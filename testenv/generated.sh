#!/bin/sh
# Regenerates all generated code in a copy of the tree and compares it with what
# is there: `make check` fails if somebody has forgotten `make generate`, or has
# edited what it writes.
set -eu
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar --exclude=./.git --exclude=./bin --exclude=./.cache -cf - . | tar -xf - -C "$copy"
(
	cd "$copy"
	# What no generator writes any more is found too.
	grep -rlE --include='*.go' '^// Code generated .* DO NOT EDIT\.$' . | xargs rm -f
	go generate ./...
)
if ! diff -r --exclude=.git --exclude=bin --exclude=.cache . "$copy"; then
	echo 'generated: the code above is not what its generator writes: run make generate' >&2
	exit 1
fi
