package rig

import (
	"fmt"
	"strings"
)

// Environment is what the configuration of a token says of its module's
// environment, and of what the modules of tests need beside a token.
func Environment(env map[string]string) string { return environment(env, sandboxOf(env)) }

func environment(env map[string]string, sandbox string) string {
	var pairs []string
	for k, v := range env {
		pairs = append(pairs, fmt.Sprintf("%s = %q", k, v))
	}
	return fmt.Sprintf("env = { %s }\n", strings.Join(pairs, ", ")) + sandbox
}

// sandboxOf finds what a module needs by its environment: the shim its control file,
// a remote module its server, pqhsm its arithmetic, which is a program.
func sandboxOf(env map[string]string) string {
	switch {
	case env["CMKD_SHIM_CONTROL"] != "":
		return fmt.Sprintf("sandbox = { writable = [%q] }\n", env["CMKD_SHIM_CONTROL"])
	case env["P11_KIT_SERVER_ADDRESS"] != "":
		return "sandbox = { network = true }\n"
	case env["CMKD_PQHSM_LATTICE"] != "":
		return "sandbox = { off = true }\n"
	}
	return ""
}

// Variables makes a map of an environment.
func Variables(env []string) map[string]string {
	out := map[string]string{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		out[name] = value
	}
	return out
}
