#!/bin/sh
# Brings Prometheus, promtool and the node exporter into .cache/prometheus: unpacked, not
# installed, since the Debian packages start servers.
set -eu
cd "$(dirname "$0")/../.."
[ -x .cache/prometheus/usr/bin/prometheus-node-exporter ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: prometheus is missing and there is no apt-get" >&2
	exit 1
fi
mkdir -p .cache
dir=$(mktemp -d .cache/prometheus.XXXXXX)
trap 'rm -rf "$dir"' EXIT
packages='prometheus prometheus-node-exporter'
(cd "$dir" && apt-get download $packages >/dev/null 2>&1) || {
	apt-get update >/dev/null 2>&1 || sudo apt-get update >/dev/null
	(cd "$dir" && apt-get download $packages >/dev/null)
}
for deb in "$dir"/*.deb; do
	dpkg-deb -x "$deb" "$dir/tree"
done
rm -rf .cache/prometheus
mv "$dir/tree" .cache/prometheus
