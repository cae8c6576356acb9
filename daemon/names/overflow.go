package names

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// allMapped is the number of IDs in a map of all: 2^32-1 is not an ID (setreuid(2)).
const allMapped = 1<<32 - 1

// OverflowUID and OverflowGID stand for IDs without a mapping; noID: all have one.
var (
	OverflowUID = sync.OnceValue(func() int64 { return overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid") })
	OverflowGID = sync.OnceValue(func() int64 { return overflow("/proc/self/gid_map", "/proc/sys/kernel/overflowgid") })
)

const noID = -1

// overflow reads the map, and the overflow ID unless all IDs are in it. A map that
// cannot be read has none.
func overflow(mapFile, overflowFile string) int64 {
	text, err := os.ReadFile(mapFile)
	if err == nil && mapped(string(text)) == allMapped {
		return noID
	}
	const preset = 65534
	text, err = os.ReadFile(overflowFile)
	if err != nil {
		return preset
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return preset
	}
	return int64(n)
}

// mapped counts the IDs of a map: lines of an ID inside, the ID outside, and a
// count.
func mapped(text string) (count uint64) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return 0
		}
		n, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return 0
		}
		count += n
	}
	return count
}
