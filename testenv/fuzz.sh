#!/bin/sh
# Runs every fuzz target of the tree, one after the other: FUZZTIME each (1m), those
# of the policies POLICYTIME (10m). Fuzzing stops at the first failure, whose
# input is under the package's testdata/fuzz.
set -eu
cd "$(dirname "$0")/.."
targets=$(grep -rl --include='*_test.go' '^func Fuzz' --exclude-dir=.cache . | xargs -n1 dirname | sort -u)
for dir in $targets; do
	time=${FUZZTIME:-1m}
	case $dir in
	./daemon/policy) time=${POLICYTIME:-${FUZZTIME:-10m}} ;;
	esac
	listed=$(go test -list '^Fuzz' "$dir") # by itself: a pipe would hide that it fails
	for name in $(echo "$listed" | grep '^Fuzz'); do
		echo "== $dir $name for $time"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "$dir"
	done
done
