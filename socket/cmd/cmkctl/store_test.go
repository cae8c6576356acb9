package main

import (
	"fmt"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// TestStoreScripts runs cmkctl with a daemon that has two tokens.
func TestStoreScripts(t *testing.T) {
	t.Parallel()
	second := testenv.NewToken(t)
	r := rig.New(t, rig.Config{Tables: fmt.Sprintf("[[token]]\nname = \"second\"\ncluster_id = \"cluster-a2b3c4d5e6f\"\nmodule = %q\nlabel = %q\npin_file = %q\n%s",
		second.Module, second.Label, second.PINFile, rig.Environment(map[string]string{"SOFTHSM2_CONF": second.ConfFile}))})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/store",
		Setup: func(env *testscript.Env) error {
			env.Setenv("CMKD_SOCKET", r.Socket)
			return setupScript(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}
