#!/bin/sh
# Brings the npm packages of package-lock.json beside it into .cache/javascript, for the tests
# with the AWS Encryption SDK for JavaScript. It says nothing when there is nothing to do.
set -eu
cd "$(dirname "$0")/javascript"
to=../../../.cache/javascript
cmp -s package-lock.json "$to/package-lock.json" && exit 0
mkdir -p ../../../.cache
work=$(mktemp -d ../../../.cache/javascript.XXXXXX)
trap 'rm -rf "$work"' EXIT
cp package.json package-lock.json "$work"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund >log 2>&1) || {
	cat "$work/log" >&2
	echo "deps: the npm packages of testenv/envelopes cannot be had" >&2
	exit 1
}
rm -rf "$to"
mv "$work" "$to"
