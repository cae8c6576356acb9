package rig

import (
	"fmt"
	"strings"
)

// Environment is what the configuration of a token says of its module's
// environment, and of what the modules of tests need beside a token: the shim
// its control file, a remote module its server, pqhsm its arithmetic, which is a
// program.
func Environment(env map[string]string) string {
	var pairs []string
	for k, v := range env {
		pairs = append(pairs, fmt.Sprintf("%s = %q", k, v))
	}
	text := fmt.Sprintf("env = { %s }\n", strings.Join(pairs, ", "))
	switch {
	case env["CMKD_SHIM_CONTROL"] != "":
		text += fmt.Sprintf("sandbox = { writable = [%q] }\n", env["CMKD_SHIM_CONTROL"])
	case env["P11_KIT_SERVER_ADDRESS"] != "":
		text += "sandbox = { network = true }\n"
	case env["CMKD_PQHSM_LATTICE"] != "":
		text += "sandbox = { off = true }\n"
	}
	return text
}
