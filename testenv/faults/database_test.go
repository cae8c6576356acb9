package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// copies are the files of the database.
func (s *stage) copies() map[string][]byte {
	s.Helper()
	files := map[string][]byte{}
	for _, suffix := range []string{"", "-wal"} {
		if content, err := os.ReadFile(s.database() + suffix); err == nil {
			files[suffix] = content
		}
	}
	return files
}

// restore puts the files of the database back.
func (s *stage) restore(files map[string][]byte) {
	s.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(s.database() + suffix) // it may not be there
	}
	for suffix, content := range files {
		write(s.T, s.database()+suffix, content)
	}
}

// offline changes the database of the stopped daemon, which then does not start,
// and puts it back.
func offline(want string, change func(*stage)) func(*stage) {
	return func(s *stage) {
		s.stop()
		files := s.copies()
		change(s)
		s.refused(want)
		s.restore(files)
		s.start()
	}
}

// rolledBack starts the daemon with the database of a moment ago.
func rolledBack(s *stage) {
	s.stop()
	old := s.copies()
	s.start()
	s.settle(s.T, time.Now())
	s.stop()
	s.restore(old)
	s.start()
}

// accepted ends it as operators do: they look, and accept what is there.
func accepted(s *stage) {
	var answer struct {
		Accepted bool
		Mismatch struct{ Root string }
	}
	for _, root := range []string{"", "looked at"} {
		if root != "" {
			root = answer.Mismatch.Root
		}
		status, body := s.post(s.T, "/accept-state", fmt.Sprintf(`{"root":%q}`, root))
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
			s.Fatalf("POST /accept-state: %d %s", status, body)
		}
	}
	if !answer.Accepted {
		s.Error("the state is not accepted")
	}
	if status, body := s.post(s.T, "/confirm-clock", "{}"); status != http.StatusOK {
		s.Errorf("POST /confirm-clock: %d %s", status, body)
	}
	s.adopt()
}

// locked keeps the database locked, as another program may that looks at it.
func locked(s *stage) {
	db := s.open(s.T)
	conn, err := db.Conn(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if _, err := conn.ExecContext(s.Context(), "BEGIN IMMEDIATE"); err != nil {
		s.Fatal(err)
	}
	s.undo = func() {
		_, _ = conn.ExecContext(s.Context(), "ROLLBACK") // closing does it, too
		_ = conn.Close()
		_ = db.Close()
	}
}

var changing = []kind{changes, creates}

const (
	notWritable = `^cmkd_database_writable 0`
	notVerified = `^cmkd_database_verified 0`
)

var databaseBroken = said("ERROR", "the database cannot be written")

// damaged damages the database under the running daemon. The copy that it is to be
// replaced by is of a moment ago.
func damaged(s *stage) {
	files := s.copies()
	s.undo = func() { s.restore(files) }
	corrupt(s)
}

// replaced puts the database of a moment ago in the place of the one that the
// daemon has open.
func replaced(s *stage) {
	files := s.copies()
	s.settle(s.T, time.Now()) // something is changed
	s.undo = func() { s.restore(files) }
	s.restore(files)
}

// copied starts the daemon with the copy, which may lack the last keys: it is of the
// same epoch, so it verifies.
func copied(s *stage) {
	if err := s.rig.Stop(); err == nil { // it could not note the time of its end
		s.Error("the daemon ends well without its database")
	}
	s.undo()
	s.start()
	s.adopt()
}

// adopt has the daemon take in the keys of the token that its database lacks.
func (s *stage) adopt() {
	s.Helper()
	if status, body := s.post(s.T, "/recover", `{"adopt":true}`); status != http.StatusOK {
		s.Errorf("POST /recover: %d %s", status, body)
	}
}

// shortID cuts a CKA_ID in the database, and in the document beside it.
func shortID(s *stage) {
	s.stop()
	files, segment := s.copies(), segments(s.T, s.trail)[0]
	trail := read(s.T, segment)
	db := s.open(s.T)
	const cut = "UPDATE versions SET cka_id = x'00010203', document = json_set(document, '$.CKAID', 'AAECAw==') WHERE key_id = ?"
	_, err := db.ExecContext(s.Context(), cut, s.load.keys[encrypts])
	if err := errors.Join(err, db.Close()); err != nil {
		s.Fatal(err)
	}
	s.undo = func() {
		s.stop()
		s.restore(files)
		write(s.T, segment, trail) // else the records since would be what is found
		s.start()
	}
	s.start()
}

var databaseRows = group{name: "database", set: plain, rows: []row{
	{
		name: "database locked for 15 s", quick: true, inject: locked, heal: undo, must: []string{internal}, only: changing,
		status: `"databaseError":"`, metric: notWritable, log: databaseBroken, prompt: 2 * time.Second, lasts: 15 * time.Second, within: 12 * time.Second,
	},
	{
		name: "start with a locked database", inject: func(s *stage) { s.stop(); locked(s); s.start() }, heal: undo,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true, only: changing,
		status: `"epochError":"`, metric: noEpoch, log: epochGoesOn, prompt: 2 * time.Second, lasts: 5 * time.Second, within: 5 * time.Second,
	},
	{
		name: "database rolled back", quick: true, inject: rolledBack, heal: accepted,
		must: []string{invalid}, callers: []string{noAnswer}, everybody: true, lasting: true,
		status: `"stateMismatch":"`, metric: notVerified, log: said("ERROR", "the database does not verify"), within: 5 * time.Second,
	},
	{
		name: "database deleted", quick: true, inject: offline("cmkd -init", func(s *stage) { s.restore(nil) }),
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "database deleted while the daemon runs", quick: true, inject: removed, heal: func(s *stage) { s.stop(); s.start() },
		callers: []string{noAnswer}, everybody: true, log: said("ERROR", "the database files were removed"), lasts: time.Second, within: 5 * time.Second,
	},
	{
		name: "database damaged while the daemon runs", inject: damaged, heal: copied,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true, only: changing,
		status: `"databaseError":"`, metric: notWritable, log: databaseBroken, lasts: time.Second, within: 5 * time.Second,
	},
	{
		name: "another file in the database's place", inject: replaced, heal: copied,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true, only: changing,
		status: `"databaseError":"`, metric: notWritable, log: databaseBroken, lasts: time.Second, within: 5 * time.Second,
	},
	{
		name: "a row with a CKA_ID of 4 bytes", inject: shortID, heal: undo, shortened: true,
		must: []string{invalid}, callers: []string{noAnswer}, lasting: true, everybody: true,
		status: `"stateMismatch":"`, metric: notVerified, log: said("ERROR", "the database does not verify"), lasts: 65 * time.Second, within: 5 * time.Second,
	},
	{
		name: "database corrupt", inject: offline("database", corrupt),
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "each column of the database edited", inject: columns, shortened: true,
		callers: []string{noAnswer, invalid}, everybody: true, lasting: true, within: 5 * time.Second,
	},
}}

// removed deletes the files of the database, which the next commit makes again.
func removed(s *stage) {
	s.restore(nil)
	for began := time.Now(); ; {
		if _, err := os.Stat(s.database()); err == nil {
			return
		}
		if time.Since(began) > returns {
			s.Fatal("the database was deleted, and is not made again")
		}
		time.Sleep(5 * time.Millisecond) // polls the folder
	}
}

// corrupt overwrites every page but the first with noise.
func corrupt(s *stage) {
	content := read(s.T, s.database())
	for i := 4096; i < len(content); i++ {
		content[i] ^= byte(i*7 + 1)
	}
	_ = os.Remove(s.database() + "-wal") // it may not be there
	write(s.T, s.database(), content)
}
