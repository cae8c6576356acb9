package daemon_test

import (
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// plugin returns what the status says of a plugin.
func plugin(t *testing.T, r *rig.Rig, name string) (pid, restarts int, ok bool) {
	t.Helper()
	status := r.Status(t)
	for _, p := range status.Plugins {
		if p.Name == name {
			return p.PID, p.Restarts, p.State == "ok"
		}
	}
	t.Fatalf("no plugin %s in the status %+v", name, status)
	return 0, 0, false
}

// replaced waits until another process than pid serves the plugin, and
// returns how long that took.
func replaced(t *testing.T, r *rig.Rig, name string, pid int) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		if now, _, ok := plugin(t, r, name); ok && now != pid {
			return time.Since(begun)
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("plugin %s was not replaced in a minute", name)
		}
		time.Sleep(time.Millisecond) // polls the status
	}
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("signal %v to %d: %v", s, pid, err)
	}
}

var pluginNames = []string{"symmetric", "asymmetric", "hmac"}

// TestPluginsKilled kills every plugin again and again: callers see a delay
// and no error.
func TestPluginsKilled(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	l := newLoad(t, r)
	stop := l.start(t, 32)
	times := count(t, "CMKD_KILLS", 6)
	for range times {
		for _, name := range pluginNames {
			before := l.calls.Load()
			pid, _, _ := plugin(t, r, name)
			signal(t, pid, syscall.SIGKILL)
			replaced(t, r, name, pid)
			for l.calls.Load() < before+64 { // each caller gets through
				time.Sleep(time.Millisecond)
			}
		}
	}
	stop()
	for _, name := range pluginNames {
		if _, restarts, _ := plugin(t, r, name); restarts != times {
			t.Errorf("plugin %s was restarted %d times, want %d", name, restarts, times)
		}
	}
	t.Logf("%d turns of calls, each plugin killed %d times", l.calls.Load(), times)
}

// TestPluginsStopped stops the processes: they are alive, do not answer, and
// are replaced.
func TestPluginsStopped(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	l := newLoad(t, r)
	stop := l.start(t, 32)
	for _, name := range pluginNames {
		pid, _, _ := plugin(t, r, name)
		signal(t, pid, syscall.SIGSTOP)
		t.Logf("plugin %s was replaced after %v", name, replaced(t, r, name, pid))
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("the stopped process %d of %s is still there", pid, name)
		}
	}
	stop()
}

// TestModuleTrouble lets the module crash, lose its token and hang under
// callers, who see a delay and no error.
func TestModuleTrouble(t *testing.T) {
	t.Parallel()
	m := shim.New(t, testenv.Module(t))
	r := rig.New(t, rig.Config{Module: m.Path, Env: variables(m.Env)})
	l := newLoad(t, r)
	stop := l.start(t, 32)
	for _, trouble := range []struct {
		name, function string
		do             shim.Action
		plugin         string
	}{
		{"crash in C_Sign", "C_Sign", shim.Crash, ""},
		{"crash in C_Decrypt", "C_Decrypt", shim.Crash, ""},
		{"crash after C_WrapKey", "C_WrapKey", shim.CrashAfter, "symmetric"},
		{"device error", "C_Encrypt", shim.Fail(p11.CKR_DEVICE_ERROR), "symmetric"},
		{"lost session", "C_DecryptInit", shim.Fail(p11.CKR_SESSION_HANDLE_INVALID), ""},
		{"hang in C_Encrypt", "C_Encrypt", shim.Hang, "symmetric"},
	} {
		before := restarts(t, r, trouble.plugin)
		m.Control.SetRule(trouble.function, shim.Rule{Do: trouble.do, Skip: 20, Times: 1})
		begun := time.Now()
		for restarts(t, r, trouble.plugin) == before {
			if time.Since(begun) > time.Minute {
				t.Fatalf("%s: no plugin was replaced in a minute", trouble.name)
			}
			time.Sleep(time.Millisecond) // polls the status
		}
		settle(t, r, l)
		t.Logf("%s: over after %v", trouble.name, time.Since(begun))
	}
	stop()
}

// restarts counts how often a plugin, or ("") any, has been replaced.
func restarts(t *testing.T, r *rig.Rig, name string) int {
	t.Helper()
	n := 0
	for _, p := range r.Status(t).Plugins {
		if name == "" || p.Name == name {
			n += p.Restarts
		}
	}
	return n
}

// settle waits until every plugin serves and calls are answered again.
func settle(t *testing.T, r *rig.Rig, l *load) {
	t.Helper()
	for begun, ok := time.Now(), false; !ok; {
		if time.Since(begun) > time.Minute {
			t.Fatal("the plugins are not back in a minute")
		}
		time.Sleep(time.Millisecond) // polls the status
		ok = true
		for _, p := range r.Status(t).Plugins {
			ok = ok && p.State == "ok"
		}
	}
	for before := l.calls.Load(); l.calls.Load() < before+64; {
		time.Sleep(time.Millisecond) // polls a counter
	}
}
