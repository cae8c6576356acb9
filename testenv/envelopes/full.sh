#!/bin/sh
# Has a command replace the file b on disks of some sizes, all too small. The test beside it
# calls it as root in a mount namespace of its own:
#
#   full.sh FOLDER OLD INPUT "PAGES..." COMMAND...
#
# The command runs in FOLDER, which is the disk, where b is a copy of the file OLD. Its
# standard input is INPUT, if that is a file.
set -u
at=$1 old=$2 input=$3 sizes=$4
shift 4
[ -f "$input" ] || input=/dev/null
for pages in $sizes; do
	mount -t tmpfs -o "size=$((pages * 4096))" tmpfs "$at" || exit 1
	cd "$at" || exit 1
	cp "$old" b || exit 1
	said=$("$@" 2>&1 <"$input") && echo "it fits into $pages pages"
	case $said in
	*"no space left on device"*) ;;
	*) echo "$pages pages: $said" ;;
	esac
	if cmp b "$old" && [ "$(ls -A)" = b ]; then
		echo 'the old file, and why'
	else
		echo "$pages pages: $(ls -lA)"
	fi
	cd / && umount "$at" || exit 1
done
