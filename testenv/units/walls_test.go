package units_test

import (
	"fmt"
	"strings"
)

// safe is what systemd-analyze says of a unit below the threshold of 2.0.
const safe = `(?s).*Overall exposure level for cmkd(-bridge@alice|-backup)?\.service: [01]\.[0-9].*`

// attempts are those of the probe, in its order: what comes of them in the unit as it is
// shipped, and, where that differs, in a service without walls and with the
// drop-ins.
var attempts = []struct{ name, unit, plain, network, device string }{
	{name: "unix", unit: "ok"},
	{name: "inet", unit: "EAFNOSUPPORT", plain: "ok", network: "ok"},
	{name: "inet6", unit: "EAFNOSUPPORT", plain: "ok", network: "ok"},
	{name: "netlink", unit: "EAFNOSUPPORT", plain: "ok"},
	{name: "packet", unit: "EAFNOSUPPORT", plain: "EPERM"},
	{name: "alg", unit: "EAFNOSUPPORT"},

	{name: "null", unit: "ok"},
	{name: "urandom", unit: "ok"},
	{name: "device", unit: "ENOENT", plain: "ok", device: "ok"},
	{name: "node", unit: "EPERM"},

	{name: "state", unit: "ok"},
	{name: "temporary", unit: "ok"},
	{name: "configuration", unit: "EROFS", plain: "ok"},
	{name: "elsewhere", unit: "ENOENT", plain: "ok"},
	{name: "home", unit: "EACCES", plain: "ok"},
	{name: "setuid-file", unit: "EPERM", plain: "ok"},

	{name: "peer", unit: "ok"},
	{name: "fips", unit: "ok"},
	{name: "start", unit: "ok"},
	{name: "sealed", unit: "ok"},
	{name: "lock", unit: "ok"},
	{name: "landlock", unit: "ok"},
	{name: "seccomp", unit: "ok"},

	{name: "executable", unit: "EPERM", plain: "ok"},
	{name: "later-executable", unit: "EPERM", plain: "ok"},
	{name: "namespace", unit: "EPERM", plain: "EINVAL"},
	{name: "mount", unit: "EPERM"},
	{name: "trace", unit: "EPERM", plain: "ESRCH"},
	{name: "memory", unit: "EPERM", plain: "ok"},
	{name: "keyring", unit: "EPERM", plain: "ok"},
	{name: "ring", unit: "EPERM", plain: "EFAULT"},
	{name: "user", unit: "EPERM", plain: "ok"},
	{name: "owner", unit: "EPERM", plain: "ok"},
	{name: "personality", unit: "EPERM", plain: "ok"},
	{name: "cpu", unit: "EPERM", plain: "EINVAL"},
	{name: "core", unit: "ok", plain: "unlimited"},
}

// probed is what the probe prints in the unit, in a service without walls ("plain"), or
// with a drop-in.
func probed(where string) string {
	var lines []string
	for _, a := range attempts {
		result := map[string]string{"plain": a.plain, "network": a.network, "device": a.device}[where]
		if result == "" {
			result = a.unit
		}
		lines = append(lines, fmt.Sprintf("%s %s", a.name, result))
	}
	return strings.Join(lines, "\n")
}
