package bridge

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Harden closes the memory of the process, through which plaintexts, PINs and secret
// access keys pass, to other processes of its user, and leaves no core file of it
// (PR_SET_DUMPABLE(2const)). Programs that it runs are as they always were.
func Harden() {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "cmkctl: closing the memory to other processes:", err)
	}
}

// noSignals is the setting with which the Go runtime sends its threads no signals to interrupt
// them: the kernel leaves the registers of a thread, with what was copied last, on the stack of
// its signals, where they stay until the next one.
const noSignals = "asyncpreemptoff=1"

// formerSettings holds the former GODEBUG, for programs that a bridge runs.
const formerSettings = "CMKCTL_FORMER_GODEBUG"

// withoutSignals starts cmkctl again, with noSignals, unless it has that: the runtime reads it
// before any code of ours runs. Long-running commands call it first.
func withoutSignals() error {
	settings := os.Getenv("GODEBUG")
	if _, again := os.LookupEnv(formerSettings); again || lastSetting(settings, "asyncpreemptoff") == "1" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the program to start it again: %w", err)
	}
	env := append(restored(os.Environ()), formerSettings+"="+settings)
	env = slices.DeleteFunc(env, isVariable("GODEBUG"))
	env = append(env, "GODEBUG="+strings.TrimPrefix(settings+","+noSignals, ","))
	if err := unix.Exec(self, os.Args, env); err != nil {
		return fmt.Errorf("starting %s again: %w", self, err)
	}
	return nil
}

// lastSetting is the value of a setting of GODEBUG: of several with one name the last counts.
func lastSetting(settings, name string) (value string) {
	for s := range strings.SplitSeq(settings, ",") {
		if n, v, ok := strings.Cut(s, "="); ok && n == name {
			value = v
		}
	}
	return value
}

// restored undoes what withoutSignals has done to an environment.
func restored(environ []string) []string {
	former, ok := "", false
	for _, entry := range environ {
		if value, found := strings.CutPrefix(entry, formerSettings+"="); found {
			former, ok = value, true
		}
	}
	env := slices.Clone(environ)
	if !ok {
		return env
	}
	env = slices.DeleteFunc(slices.DeleteFunc(env, isVariable(formerSettings)), isVariable("GODEBUG"))
	if former != "" {
		env = append(env, "GODEBUG="+former)
	}
	return env
}

func isVariable(name string) func(entry string) bool {
	return func(entry string) bool { return strings.HasPrefix(entry, name+"=") }
}
