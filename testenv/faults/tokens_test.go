package faults

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv/shim"
)

// restarted sets up the module while its plugins are replaced: what is looked at
// only when a token is opened.
func restarted(set func(*stage)) func(*stage) {
	return func(s *stage) {
		set(s)
		for _, p := range plugins {
			s.signal(p, syscall.SIGKILL)
		}
	}
}

var plugins = []string{"symmetric", "asymmetric", "hmac"}

// reload replaces the plugins without losing a call, as operators do.
func (s *stage) reload() {
	s.Helper()
	if status, body := s.post(s.T, "/reload", ""); status != http.StatusOK {
		s.Errorf("the reload fails: %d %s", status, body)
	}
}

// refusedPIN ends as operators end it: the PIN is put into its file again, and
// the plugins are started anew.
func refusedPIN(s *stage) {
	s.shim.ClearAll()
	s.record()
	s.reload()
}

// record removes the record of a PIN that was refused: the token has got its
// old one back.
func (s *stage) record() {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(s.state, "login-*"))
	if err != nil || len(files) == 0 {
		s.Fatalf("no record of a refused PIN: %v", err)
	}
	for _, f := range files {
		if err := os.Truncate(f, 0); err != nil {
			s.Fatal(err)
		}
	}
}

func undo(s *stage) { s.undo() }

// move renames a file or folder.
func (s *stage) move(from, to string) {
	s.Helper()
	if err := os.Rename(from, to); err != nil {
		s.Fatal(err)
	}
}

// swapped puts a token with the same label and PIN, and nothing in it, in the
// place of the main one.
func swapped(s *stage) {
	tokens := filepath.Join(filepath.Dir(s.token.ConfFile), "tokens")
	s.shim.Away(true)
	s.move(tokens, tokens+".away")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		s.Fatal(err)
	}
	s.token.AddToken(s.T, s.token.Label)
	s.shim.Away(false)
}

func swappedBack(s *stage) {
	tokens := filepath.Join(filepath.Dir(s.token.ConfFile), "tokens")
	s.shim.Away(true)
	s.move(tokens, tokens+".other")
	s.move(tokens+".away", tokens)
	s.shim.Away(false)
	s.reload()
}

// away takes the token out of its slot, for as long as the row lasts.
func away(s *stage) { s.shim.Away(true) }

// onKeys are the kinds that need the keys of the main token, or that they are not
// unavailable.
var onKeys = []kind{encrypts, dataKeys, decrypts, signs, rsaCrypts, macs, changes, creates}

const (
	tokenDown = `^cmkd_token_up\{token="main"\} 0`
	mainDown  = `"name":"main"[^}]*"state":"unavailable"`
)

var tokenRows = group{name: "tokens", set: plain, rows: []row{
	{
		name: "device errors that pass", quick: true,
		inject: func(s *stage) {
			for _, f := range []string{"C_EncryptInit", "C_SignInit"} {
				s.shim.SetRule(f, shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR), Times: 1})
			}
		},
		heal: clearRules, lasts: time.Second, within: 3 * time.Second,
	},
	{
		name: "PIN refused", quick: true,
		inject: restarted(every(shim.Fail(p11.CKR_PIN_INCORRECT), "C_Login")),
		must:   []string{invalid}, callers: []string{unavailable}, lasting: true, only: onKeys,
		status: `"state":"login failed"`, metric: tokenDown,
		heal: refusedPIN, within: 10 * time.Second,
	},
	{
		name: "few tries of the PIN left", quick: true,
		inject: restarted(func(s *stage) { s.shim.Flags(p11.CKF_USER_PIN_COUNT_LOW) }),
		must:   []string{invalid}, callers: []string{unavailable}, lasting: true, only: onKeys,
		status: `"state":"login failed"`, metric: tokenDown,
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, within: 10 * time.Second,
	},
	{
		name:   "final try of the PIN",
		inject: restarted(func(s *stage) { s.shim.Flags(p11.CKF_USER_PIN_FINAL_TRY) }),
		must:   []string{invalid}, callers: []string{unavailable}, lasting: true, only: onKeys,
		status: `"state":"login failed"`, metric: tokenDown,
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, within: 10 * time.Second,
	},
	{
		name: "slow search for objects", quick: true,
		inject: restarted(every(shim.Delay(100*time.Millisecond), "C_FindObjectsInit")),
		heal:   clearRules, lasts: 2 * time.Second, within: 3 * time.Second,
	},
	{
		name: "no room for a session object in C_EncryptInit (CKR_DEVICE_MEMORY)", quick: true,
		inject: every(shim.Fail(p11.CKR_DEVICE_MEMORY), "C_EncryptInit"),
		must:   []string{"ThrottlingException"}, lasting: true, only: []kind{encrypts, dataKeys}, heal: clearRules, lasts: time.Second, within: 30 * time.Second,
	},
	{
		name: "token away for 1 s", quick: true, inject: away, callers: []string{unavailable}, only: onKeys,
		heal: clearRules, lasts: time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 5 s", inject: away, must: []string{unavailable}, only: onKeys,
		status: mainDown, metric: tokenDown, heal: clearRules, lasts: 5 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 30 s", inject: away, must: []string{unavailable}, callers: []string{invalid}, lasting: true, only: onKeys,
		status: mainDown, metric: tokenDown, heal: clearRules, lasts: 30 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 180 s", inject: away, must: []string{unavailable, invalid}, lasting: true, only: onKeys,
		status: mainDown, metric: tokenDown, heal: clearRules, lasts: 180 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token swapped for another", inject: swapped, must: []string{invalid}, callers: []string{unavailable}, lasting: true,
		only: onKeys, status: `"state":"degraded"`, heal: swappedBack, lasts: 3 * time.Second, within: 15 * time.Second,
	},
	{
		name:   "device errors that stay",
		inject: every(shim.Fail(p11.CKR_DEVICE_ERROR), "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_GenerateKey", "C_FindObjectsInit"),
		must:   []string{unavailable}, only: onKeys, status: mainDown, metric: tokenDown,
		heal: clearRules, lasts: 5 * time.Second, within: 45 * time.Second,
	},
	{
		name: "logged out", inject: every(shim.Fail(p11.CKR_USER_NOT_LOGGED_IN), "C_EncryptInit", "C_DecryptInit", "C_SignInit"),
		callers: []string{unavailable}, only: onKeys, heal: clearRules, lasts: time.Second, within: 45 * time.Second,
	},
	{
		name: "token read-only", quick: true, inject: restarted(func(s *stage) { s.shim.ReadOnly(true) }),
		must: []string{unsupported}, lasting: true, only: []kind{creates}, status: `"state":"degraded"`,
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, lasts: time.Second, within: 10 * time.Second,
	},
	{
		name: "token full", quick: true, inject: func(s *stage) { s.shim.RefuseObjects(p11.CKR_DEVICE_MEMORY) },
		must: []string{limited}, lasting: true, only: []kind{creates},
		heal: clearRules, lasts: time.Second, within: 3 * time.Second,
	},
	{
		name: "few sessions (4)", quick: true, inject: restarted(func(s *stage) { s.shim.Sessions(4) }),
		heal: clearRules, lasts: 2 * time.Second, within: 3 * time.Second,
	},
}}
