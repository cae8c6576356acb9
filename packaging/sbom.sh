#!/bin/sh
# Writes a list of the modules that the programs are made of, in CycloneDX, to the file OUT:
#
#   sbom.sh OUT
#
# SBOM is a list that is at hand already.
set -eu
CYCLONEDX=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
if [ -n "${SBOM-}" ]; then
	cp "$SBOM" "$1"
else
	go run "$CYCLONEDX" mod -type application -std -licenses -noserial -notimestamp -json -output "$1"
fi
