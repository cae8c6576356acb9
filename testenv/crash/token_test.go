package crash

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the database of the daemon, read beside it

	"cmkd/testenv"
)

// rows are the CKA_IDs, in hexadecimal, that the database of a daemon names, and what
// for. An intent explains an object that may be there.
type rows struct{ wanted, explained map[string]string }

// readRows reads the database without the help of the daemon's code, and beside it.
func readRows(ctx context.Context, dir string) (r rows, err error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "cmkd.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return r, err
	}
	defer func() { _ = db.Close() }()
	r = rows{map[string]string{}, map[string]string{}}
	for _, table := range []string{"versions", "system_keys", "import_parameters", "intents"} {
		if err := r.read(ctx, db, table); err != nil {
			return r, fmt.Errorf("%s: %w", table, err)
		}
	}
	return r, nil
}

func (r *rows) read(ctx context.Context, db *sql.DB, table string) error {
	list, err := db.QueryContext(ctx, "SELECT document FROM "+table)
	if err != nil {
		return err
	}
	defer func() { _ = list.Close() }()
	for list.Next() {
		var text string
		if err := list.Scan(&text); err != nil {
			return err
		}
		var d struct {
			CKAID       []byte
			ImportState string
		}
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			return err
		}
		id := fmt.Sprintf("%x", d.CKAID)
		switch {
		case table == "intents":
			r.explained[id] = text
		case d.ImportState != "PENDING_IMPORT": // material that was deleted is known and not there
			r.wanted[id] = table + " " + text
		}
	}
	return list.Err()
}

var (
	objectText = regexp.MustCompile(`(?m)^(Secret Key|Private Key|Public Key) Object.*\n(?:  .*\n)*`)
	labelled   = regexp.MustCompile(`(?m)^[ \t]*label:[ \t]*\S`)
	objectID   = regexp.MustCompile(`(?m)^\s*ID:\s*([0-9a-f]+)$`)
)

// object is one in a token.
type object struct {
	id   string // CKA_ID, in hexadecimal
	kind string // CKA_CLASS: Secret Key, Private Key or Public Key
	text string
}

// readToken lists the objects of a token as a program other than cmkd sees them.
func readToken(t testing.TB, token *testenv.Token, label string) (objects []object) {
	t.Helper()
	out := token.Run(t, "pkcs11-tool", "--module", token.Module, "--token-label", label, "--login", "--pin", token.PIN, "--list-objects")
	for _, text := range objectText.FindAllString(string(out), -1) {
		o := object{kind: text[:strings.Index(text, " Object")], text: text}
		if m := objectID.FindStringSubmatch(text); m != nil {
			o.id = m[1]
		}
		objects = append(objects, o)
	}
	return objects
}

// compare finds objects that no row names, and rows without their object.
//
// It counts those that have neither ID nor label: SoftHSM2 writes the file of an object
// attribute by attribute, so that a kill in the middle of C_GenerateKey may leave
// a part of one, without a value, that nobody can tell whose it was.
func (r rows) compare(objects []object) (nameless int, problems []string) {
	found := map[string]bool{}
	for _, o := range objects {
		if o.id == "" && !labelled.MatchString(o.text) {
			nameless++
			continue
		}
		_, wanted := r.wanted[o.id]
		_, explained := r.explained[o.id]
		if !wanted && !explained {
			problems = append(problems, "an object that no row names: "+o.text)
		}
		if found[o.kind+o.id] {
			problems = append(problems, "an object that is there twice: "+o.text)
		}
		found[o.kind+o.id] = true
	}
	for id, what := range r.wanted {
		if !found["Secret Key"+id] && !found["Private Key"+id] {
			problems = append(problems, fmt.Sprintf("no object in the token for %s of %s", id, what))
		}
	}
	return nameless, problems
}
