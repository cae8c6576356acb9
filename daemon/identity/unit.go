package identity

import (
	"strings"
)

// unitOf returns the systemd service or scope that a control group path
// belongs to, "" if there is none. As in systemd, that is the first part that
// is not a slice: what a unit with delegation makes below itself changes nothing,
// so a user's own "user@1000.service/app.slice/web.service" is user@1000.service
// and never web.service.
// https://systemd.io/CGROUP_DELEGATION/
func unitOf(cgroup string) string {
	for part := range strings.SplitSeq(cgroup, "/") {
		// systemd puts "_" before a name that the kernel could take for a file
		// of its own.
		part = strings.TrimPrefix(part, "_")
		switch {
		case part == "" || strings.HasSuffix(part, ".slice"):
		case strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope"):
			return part
		default:
			return ""
		}
	}
	return ""
}

// matchUnit reports whether a unit is the one that a rule names: "web@.service"
// names every instance.
func matchUnit(rule, unit string) bool {
	if rule == unit {
		return true
	}
	template, suffix, ok := strings.Cut(rule, "@.")
	if !ok {
		return false
	}
	rest, ok := strings.CutPrefix(unit, template+"@")
	return ok && strings.HasSuffix(rest, "."+suffix) && len(rest) > len(suffix)+1
}
