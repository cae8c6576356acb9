package faults

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
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
// the plugins are restarted.
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

// restart sets up the module while the daemon is down.
func restart(set func(*stage)) func(*stage) {
	return func(s *stage) {
		s.stop()
		set(s)
		s.start()
	}
}

// kept ends a fault that no process of a plugin may be replaced for.
func kept(inject func(*stage)) func(*stage) {
	return func(s *stage) {
		before := map[string]int{}
		for _, p := range plugins {
			before[p] = s.plugin(s.T, p)
		}
		inject(s)
		for _, p := range plugins {
			for before[p] == s.plugin(s.T, p) {
				time.Sleep(5 * time.Millisecond) // polls the status
			}
			before[p] = s.plugin(s.T, p)
		}
		s.undo = func() {
			for _, p := range plugins {
				if after := s.plugin(s.T, p); after != before[p] {
					s.Errorf("the process of plugin %s was %d and is %d", p, before[p], after)
				}
			}
			s.shim.ClearAll()
		}
	}
}

// tool runs pkcs11-tool on the main token, as somebody else.
func (s *stage) tool(args ...string) {
	s.Helper()
	s.token.Run(s.T, "pkcs11-tool", append([]string{
		"--module", s.token.Module, "--token-label", s.token.Label, "--login", "--pin", s.token.PIN,
	}, args...)...)
}

// duplicate puts a second object with the CKA_ID of a key into the token.
func duplicate(s *stage) {
	db := s.open(s.T)
	defer db.Close()
	var id string
	if err := db.QueryRowContext(s.Context(), "SELECT hex(cka_id) FROM versions WHERE key_id = ?", s.load.keys[encrypts]).Scan(&id); err != nil {
		s.Fatal(err)
	}
	s.tool("--keygen", "--key-type", "AES:32", "--id", id, "--label", "another")
	s.undo = func() {
		s.tool("--delete-object", "--type", "secrkey", "--id", id, "--label", "another")
		s.inventory("")
	}
	s.inventory(`"duplicates"`)
}

// missing takes the object of a key out of the token.
func missing(s *stage) {
	file := s.load.object
	s.move(file, file+".away")
	s.undo = func() { s.move(file+".away", file); s.inventory("") }
	s.inventory(`"missing"`)
}

// inventory has the daemon look through the tokens, and checks what it finds.
func (s *stage) inventory(want string) {
	s.Helper()
	if status, body := s.post(s.T, "/recover", "{}"); status != http.StatusOK || !strings.Contains(body, want) {
		s.Errorf("POST /recover, which should find %s: %d %s", want, status, body)
	}
}

// away takes the token out of its slot, for as long as the row lasts.
func away(s *stage) { s.shim.Away(true) }

// onKeys are the kinds that need the keys of the main token, or that they are not
// unavailable.
var onKeys = []kind{encrypts, dataKeys, decrypts, signs, rsaCrypts, macs, changes, creates}

const (
	tokenDown = `^cmkd_token_up\{token="main"\} 0`
	mainDown  = `"name":"main"[^}]*"state":"unavailable"`
	noEpoch   = `^cmkd_database_epoch_current 0`
)

var (
	limitedToken = said("WARN", "the token is limited")
	epochGoesOn  = said("ERROR", "the epoch of the database was not renewed")
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
		status: `"state":"login failed"`, metric: tokenDown, log: said("ERROR", "the token refused the PIN"),
		heal: refusedPIN, within: 10 * time.Second,
	},
	{
		name: "few tries of the PIN left", quick: true,
		inject: restarted(func(s *stage) { s.shim.Flags(p11.CKF_USER_PIN_COUNT_LOW) }),
		must:   []string{invalid}, callers: []string{unavailable}, lasting: true, only: onKeys,
		status: `"state":"login failed"`, metric: tokenDown, log: said("ERROR", "the token refused the PIN"),
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, within: 10 * time.Second,
	},
	{
		name:   "final try of the PIN",
		inject: restarted(func(s *stage) { s.shim.Flags(p11.CKF_USER_PIN_FINAL_TRY) }),
		must:   []string{invalid}, callers: []string{unavailable}, lasting: true, only: onKeys,
		status: `"state":"login failed"`, metric: tokenDown, log: said("ERROR", "the token refused the PIN"),
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
		must:   []string{throttled}, lasting: true, only: []kind{encrypts, dataKeys}, heal: clearRules, lasts: time.Second, within: 30 * time.Second,
	},
	{
		name: "token away for 1 s", quick: true, inject: away, callers: []string{unavailable}, only: onKeys,
		heal: clearRules, lasts: time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 5 s", inject: away, must: []string{unavailable}, only: onKeys,
		status: mainDown, metric: tokenDown, log: lost, heal: clearRules, lasts: 5 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 30 s", inject: away, must: []string{unavailable}, callers: []string{invalid}, lasting: true, only: onKeys,
		status: mainDown, metric: tokenDown, log: lost, heal: clearRules, lasts: 30 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token away for 180 s", inject: away, must: []string{unavailable, invalid}, lasting: true, only: onKeys,
		status: mainDown, metric: tokenDown, log: lost, heal: clearRules, lasts: 180 * time.Second, within: 10 * time.Second,
	},
	{
		name: "token swapped for another", inject: swapped, must: []string{invalid}, callers: []string{unavailable}, lasting: true,
		only: onKeys, status: `"state":"degraded"`, heal: swappedBack, lasts: 3 * time.Second, within: 15 * time.Second,
	},
	{
		name:   "device errors that stay",
		inject: every(shim.Fail(p11.CKR_DEVICE_ERROR), "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_GenerateKey", "C_FindObjectsInit"),
		must:   []string{unavailable}, only: onKeys, status: mainDown, metric: tokenDown, log: lost,
		heal: clearRules, lasts: 5 * time.Second, within: 45 * time.Second,
	},
	{
		name: "logged out", inject: every(shim.Fail(p11.CKR_USER_NOT_LOGGED_IN), "C_EncryptInit", "C_DecryptInit", "C_SignInit"),
		callers: []string{unavailable}, only: onKeys, heal: clearRules, lasts: time.Second, within: 45 * time.Second,
	},
	{
		name: "token read-only", quick: true, inject: restarted(func(s *stage) { s.shim.ReadOnly(true) }),
		must: []string{unsupported}, lasting: true, only: []kind{creates}, status: `"limits":\["[^]]*write-protected`, log: limitedToken,
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, lasts: time.Second, within: 10 * time.Second,
	},
	{
		name: "token full", quick: true, inject: func(s *stage) { s.shim.RefuseObjects(p11.CKR_DEVICE_MEMORY) },
		must: []string{limited}, lasting: true, only: []kind{creates}, status: `"limits":\["[^]]*no room`, log: limitedToken,
		heal: clearRules, lasts: time.Second, within: 3 * time.Second,
	},
	{
		name: "few sessions (4)", quick: true, inject: kept(restarted(func(s *stage) { s.shim.Sessions(4) })),
		heal: undo, lasts: 2 * time.Second, within: 3 * time.Second,
	},
	{
		name: "few sessions (3) and calls that take 3 s",
		inject: func(s *stage) {
			kept(restarted(func(s *stage) { s.shim.Sessions(3) }))(s)
			s.shim.Set("C_Encrypt", shim.Delay(3*time.Second))
		},
		must: []string{throttled}, lasting: true, only: []kind{encrypts, dataKeys, decrypts, creates},
		status: `"limits":\["[^]]*CKR_SESSION_COUNT`, log: limitedToken, heal: undo, lasts: 5 * time.Second, within: 5 * time.Second,
	},
	{
		name: "start with a write-protected token", inject: restart(func(s *stage) { s.shim.ReadOnly(true) }),
		must: []string{unsupported}, callers: []string{noAnswer}, everybody: true, lasting: true, only: []kind{creates},
		status: `"epochError":"`, metric: noEpoch, log: epochGoesOn,
		heal: func(s *stage) { s.shim.ClearAll(); s.reload() }, lasts: 3 * time.Second, within: 70 * time.Second,
	},
	{
		name: "start with a full token", inject: restart(func(s *stage) { s.shim.RefuseObjects(p11.CKR_DEVICE_MEMORY) }),
		must: []string{limited}, callers: []string{noAnswer}, everybody: true, lasting: true, only: []kind{creates},
		status: `"epochError":"`, metric: noEpoch, log: epochGoesOn,
		heal: clearRules, lasts: 3 * time.Second, within: 130 * time.Second,
	},
	{
		name: "two objects with one CKA_ID", quick: true, inject: duplicate, heal: undo, must: []string{invalid}, lasting: true,
		only: []kind{encrypts, dataKeys, decrypts}, status: `"duplicates":\[`, metric: `^cmkd_duplicate_keys\{token="main"\} 1`,
		log: said("ERROR", "two objects in the token have the CKA_ID"), within: 5 * time.Second,
	},
	{
		name: "object missing", quick: true, inject: missing, heal: undo,
		must: []string{invalid}, callers: []string{unavailable}, lasting: true,
		only: []kind{encrypts, dataKeys, decrypts}, status: `"missingMaterials":1`, metric: `^cmkd_key_materials_missing 1`,
		log: said("ERROR", "a key material is not in its token"), within: 5 * time.Second,
	},
}}
