package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// attackedTrail is a trail of several segments, as it is on the disk while the
// daemon runs, and what is known of it.
type attackedTrail struct {
	dir    string
	signer *keySigner
	opt    VerifyOptions
	known  Known // what the database names: before the last records
	head   Known // the last record
	older  string
}

const attackedSegments = 6000

func newAttackedTrail(t *testing.T) *attackedTrail {
	t.Helper()
	a := &attackedTrail{dir: t.TempDir(), older: t.TempDir()}
	a.signer, a.opt = newSigner(t)
	a.opt.Tail = &TailLimit{Records: 10, Age: time.Hour}
	l := openChecked(t, a.config(a.dir), a.opt)
	signOff := func(n int) {
		appendN(t, l, n)
		if err := l.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	signOff(9)
	copyTrail(t, a.dir, a.older)
	signOff(12)
	signOff(8)
	appendN(t, l, 1)
	a.known.Sequence, a.known.Hash = l.Head()
	appendN(t, l, 2)
	a.head.Sequence, a.head.Hash = l.Head()
	killed := t.TempDir()
	copyTrail(t, a.dir, killed)
	closeLog(t, l)
	a.dir = killed
	if n := len(segmentsOf(t, killed)); n < 5 {
		t.Fatalf("%d segments", n)
	}
	return a
}

func (a *attackedTrail) config(dir string) Config {
	return Config{Dir: dir, Signer: a.signer, SegmentBytes: attackedSegments, CheckpointInterval: time.Hour, GoOn: true}
}

func copyTrail(t testing.TB, from, to string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func segmentsOf(t testing.TB, dir string) []segment {
	t.Helper()
	segments, err := namedSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	return segments
}

// rewriting rebuilds the chain of a whole trail. body returns what becomes of
// a record, nil if it goes.
func rewriting(body func(sequence uint64, body []byte, links []link) []byte) func(*testing.T, *attackedTrail, string) {
	return func(t *testing.T, _ *attackedTrail, dir string) {
		t.Helper()
		var l link
		links := []link{{}}
		old := uint64(0)
		for _, s := range segmentsOf(t, dir) {
			text, err := os.ReadFile(s.path())
			if err != nil {
				t.Fatal(err)
			}
			var out []byte
			for line := range bytes.Lines(text) {
				old++
				made := body(old, line[:bytes.LastIndex(line, []byte(versionName))], links)
				if made != nil {
					out, l = l.seal(out, made)
					links = append(links, l)
				}
			}
			if err := os.WriteFile(s.path(), out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func forge(body []byte) []byte {
	return bytes.Replace(body, []byte(`"Decrypt"`), []byte(`"Encrypt"`), 1)
}

func isCheckpoint(body []byte) bool { return bytes.Contains(body, []byte(`"`+checkpointEvent+`"`)) }

// resigned makes a checkpoint again, with somebody else's key.
func resigned(t *testing.T, signer *keySigner, name string, body []byte, links []link) []byte {
	t.Helper()
	start := bytes.Index(body, []byte(`"serviceEventDetails":`)) + len(`"serviceEventDetails":`)
	var c checkpoint
	dec := json.NewDecoder(bytes.NewReader(body[start:]))
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	rest := slices.Clone(body[start+int(dec.InputOffset()):])
	c.Hash = hex.EncodeToString(links[c.Sequence].hash[:])
	s, err := c.parse(eventTime(body))
	if err != nil {
		t.Fatal(err)
	}
	digest := s.digest()
	signature, _, err := signer.Sign(t.Context(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	c.Signature, c.KeyID = base64.StdEncoding.EncodeToString(signature), name
	details, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(body[:start], details, rest)
}

// files changes files of a trail.
func files(f func(dir string, s []segment) error) func(*testing.T, *attackedTrail, string) {
	return func(t *testing.T, _ *attackedTrail, dir string) {
		t.Helper()
		if err := f(dir, segmentsOf(t, dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// lines changes the lines of one segment, counted from the end if n < 0.
func lines(n int, f func(lines []string) []string) func(*testing.T, *attackedTrail, string) {
	return files(func(_ string, s []segment) error {
		if n < 0 {
			n += len(s)
		}
		text, err := os.ReadFile(s[n].path())
		if err != nil {
			return err
		}
		changed := f(slices.Collect(strings.Lines(string(text))))
		if strings.Join(changed, "") == string(text) {
			return errors.New("nothing was changed")
		}
		return os.WriteFile(s[n].path(), []byte(strings.Join(changed, "")), 0o600)
	})
}
