package daemon

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
)

// In a user namespace, such as that of a rootless container, the kernel tells one
// number, the overflow ID, for every ID that has no mapping there. It stands for
// anybody outside, so it says nothing about who calls. Where each ID has a mapping
// the same number is a user like others, nobody as a rule.
// https://man7.org/linux/man-pages/man7/user_namespaces.7.html

// errUnmapped: the kernel cannot tell the daemon who calls.
var errUnmapped = errors.New("the caller's user ID has no mapping in the user namespace of this service, so the caller cannot be identified: " +
	"run the service outside of that namespace, or map the user's ID into it")

// allMapped is the number of IDs in a map of all: 2^32-1 is no ID (setreuid(2)).
const allMapped = 1<<32 - 1

// overflowUID and overflowGID stand for IDs without a mapping; noID: all have one.
var (
	overflowUID = sync.OnceValue(func() int64 { return overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid") })
	overflowGID = sync.OnceValue(func() int64 { return overflow("/proc/self/gid_map", "/proc/sys/kernel/overflowgid") })
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
