package faults

import (
	"syscall"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv/shim"
)

// groups is the table.
var groups = []group{pluginRows, tokenRows, databaseRows, databaseDiskRows, trailRows, clockRows, lifeRows, clientRows}

const (
	unavailable = "KeyUnavailableException"
	dependency  = "DependencyTimeoutException"
	invalid     = "KMSInvalidStateException"
	internal    = "KMSInternalException"
	limited     = "LimitExceededException"
	stopping    = "ServiceUnavailableException"
	throttled   = "ThrottlingException"
	unsupported = "UnsupportedOperationException"
)

// signal sends a signal to the process of a plugin.
func (s *stage) signal(plugin string, sig syscall.Signal) {
	s.Helper()
	if err := syscall.Kill(s.plugin(s.T, plugin), sig); err != nil {
		s.Fatalf("signal to the plugin %s: %v", plugin, err)
	}
}

// once waits until a function of the module has been called again.
func (s *stage) once(function string) {
	for n := s.shim.Calls(function); s.shim.Calls(function) == n; {
		time.Sleep(time.Millisecond) // polls a counter
	}
}

// rule sets a rule as the fault.
func rule(function string, r shim.Rule) func(*stage) {
	return func(s *stage) { s.shim.SetRule(function, r) }
}

// every acts on every call of the functions.
func every(a shim.Action, functions ...string) func(*stage) {
	return func(s *stage) {
		for _, f := range functions {
			s.shim.Set(f, a)
		}
	}
}

// said is a line of the log.
func said(level, message string) string { return `"level":"` + level + `","msg":"` + message }

func clearRules(s *stage) { s.shim.ClearAll() }

// lost says that a process has ended, or has been ended.
var lost = said("WARN", "plugin lost")

var pluginRows = group{name: "plugins", set: plain, rows: []row{
	{
		name: "plugin killed in crypto", quick: true,
		inject: func(s *stage) {
			times := 1
			if long {
				times = 20
			}
			for range times {
				for _, p := range plugins {
					s.signal(p, syscall.SIGKILL)
				}
				s.settle(s.T, time.Now())
			}
		},
		log: lost, within: 2 * time.Second,
	},
	{
		name: "one crash in C_Sign, one in C_Decrypt, one after C_WrapKey", quick: true,
		inject: func(s *stage) {
			s.shim.SetRule("C_Sign", shim.Rule{Do: shim.Crash, Times: 1})
			s.shim.SetRule("C_Decrypt", shim.Rule{Do: shim.Crash, Times: 1})
			s.shim.SetRule("C_WrapKey", shim.Rule{Do: shim.CrashAfter, Times: 1})
		},
		log: lost, lasts: time.Second, within: 3 * time.Second,
	},
	{
		name: "plugin killed in CreateKey", quick: true,
		inject: func(s *stage) {
			s.shim.Set("C_GenerateKey", shim.Delay(300*time.Millisecond))
			s.once("C_GenerateKey")
			s.signal("symmetric", syscall.SIGKILL)
			s.shim.Clear("C_GenerateKey")
		},
		log: lost, within: 3 * time.Second,
	},
	{
		name: "plugin stopped (SIGSTOP)", quick: true,
		inject: func(s *stage) { s.signal("symmetric", syscall.SIGSTOP) },
		log:    lost,
		lasts:  time.Second,
		within: 6 * time.Second,
	},
	{
		name: "one call hangs", quick: true,
		inject: rule("C_Encrypt", shim.Rule{Do: shim.Hang, Times: 1}),
		log:    lost, heal: clearRules, lasts: time.Second, within: 10 * time.Second,
	},
	{
		name:   "every call hangs",
		inject: every(shim.Hang, "C_Encrypt", "C_Decrypt"),
		must:   []string{unavailable}, callers: []string{dependency, invalid}, lasting: true,
		status: `"state":"(starting|failed)"`, metric: `^cmkd_plugin_up\{plugin="symmetric",token="main"\} 0`,
		log: lost, heal: clearRules, lasts: 12 * time.Second, within: 15 * time.Second,
	},
	{
		name:   "every creation of a key hangs",
		inject: func(s *stage) { s.shim.HangObjects(true) },
		must:   []string{dependency}, callers: []string{unavailable}, only: []kind{creates},
		status: `"hanging":"`, log: lost, heal: clearRules, lasts: 70 * time.Second,
		within: 2 * time.Minute, // the next try is up to a minute away, and the jobs, which make a key for the epoch, another
	},
	{
		name: "noise on standard output", quick: true,
		inject: every(shim.Noise, "C_Encrypt", "C_Sign", "C_GenerateKey", "C_FindObjectsInit"),
		heal:   clearRules, lasts: time.Second, within: time.Second,
	},
	{
		name: "crash in every C_Encrypt", quick: true,
		inject: every(shim.Crash, "C_Encrypt"),
		must:   []string{unavailable}, status: `"name":"main"[^}]*"state":"unavailable"`,
		metric: `^cmkd_plugin_up\{plugin="symmetric",token="main"\} 0`,
		log:    lost, heal: clearRules, lasts: 2 * time.Second, within: 25 * time.Second,
	},
	{
		name: "crash in C_Initialize", quick: true,
		inject: func(s *stage) {
			s.shim.Set("C_Initialize", shim.Crash)
			s.signal("symmetric", syscall.SIGKILL)
		},
		must: []string{unavailable}, status: `"name":"symmetric","token":"main","state":"failed"`,
		metric: `^cmkd_token_up\{token="main"\} 0`, log: said("WARN", "plugin did not start"),
		heal: clearRules, within: 10 * time.Second,
	},
	{
		name: "sessions invalid", quick: true,
		inject: every(shim.Fail(p11.CKR_SESSION_HANDLE_INVALID), "C_EncryptInit", "C_DecryptInit", "C_SignInit"),
		must:   []string{unavailable}, log: lost, heal: clearRules, lasts: time.Second, within: 25 * time.Second,
	},
}}
