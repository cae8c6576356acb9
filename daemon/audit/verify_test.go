package audit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"cmkd/daemon/audit/event"
)

// sealed returns n lines of a log.
func sealed(t testing.TB, n int) []string {
	t.Helper()
	var lines []string
	var l link
	for i := range n {
		body, err := event.Append(nil, sample(i), event.MaxRecord)
		if err != nil {
			t.Fatal(err)
		}
		var line []byte
		line, l = l.seal(nil, body)
		lines = append(lines, string(line))
	}
	return lines
}

// TestDocumentedHash computes the hashes as the package comment says.
func TestDocumentedHash(t *testing.T) {
	t.Parallel()
	previous := strings.Repeat("0", 64)
	for _, line := range sealed(t, 3) {
		hashed, rest, ok := strings.Cut(line, `,"hash":`)
		hash := fmt.Sprintf("%x", sha256.Sum256([]byte(hashed)))
		if !ok || rest != `"`+hash+"\"}\n" || !strings.HasSuffix(hashed, `,"previousHash":"`+previous+`"`) {
			t.Errorf("%s", line)
		}
		previous = hash
	}
}

// TestTampering changes a log of five records in every way that one can
// without the chain being remade: the record at fault is named.
func TestTampering(t *testing.T) {
	t.Parallel()
	var lines []string
	replace := func(n int, old, changed string) []string {
		if !strings.Contains(lines[n], old) {
			t.Fatalf("no %q in %s", old, lines[n])
		}
		return slices.Concat(lines[:n], []string{strings.Replace(lines[n], old, changed, 1)}, lines[n+1:])
	}
	lines = sealed(t, 5)
	// A record remade by somebody who leaves the others alone.
	forged, _ := link{sequence: 2, hash: sha256.Sum256([]byte("x"))}.seal(nil, []byte(`{"eventName":"Forged"`))
	for name, c := range map[string]struct {
		lines []string
		want  error
		at    int // the line; its sequence is the same, unless it is the first
	}{
		"edited":                {replace(2, "Decrypt", "Encrypt"), ErrHash, 3},
		"edited first":          {replace(0, "Decrypt", "Encrypt"), ErrHash, 1},
		"edited last":           {replace(4, "Decrypt", "Encrypt"), ErrHash, 5},
		"sequence edited":       {replace(2, `"sequence":3`, `"sequence":4`), ErrHash, 3},
		"sequence with a zero":  {replace(2, `"sequence":3`, `"sequence":03`), ErrFormat, 3},
		"previous hash edited":  {replace(2, `"previousHash":"`+lineHash(lines[1])[:1], `"previousHash":"g`), ErrFormat, 3},
		"hash in capitals":      {[]string{capitals(lines[0])}, ErrFormat, 1},
		"hash of other data":    {replace(2, lineHash(lines[2]), strings.Repeat("0", 64)), ErrHash, 3},
		"other version":         {replace(2, `"chainVersion":1`, `"chainVersion":2`), ErrFormat, 3},
		"member added":          {replace(2, `"}`+"\n", `","x":"y"}`+"\n"), ErrFormat, 3},
		"space added":           {replace(2, "\n", " \n"), ErrFormat, 3},
		"empty line":            {slices.Insert(slices.Clone(lines), 2, "\n"), ErrFormat, 3},
		"deleted":               {slices.Delete(slices.Clone(lines), 2, 3), ErrChain, 3},
		"swapped":               {[]string{lines[0], lines[2], lines[1], lines[3], lines[4]}, ErrChain, 2},
		"repeated":              {slices.Insert(slices.Clone(lines), 3, lines[2]), ErrChain, 4},
		"forged":                {[]string{lines[0], lines[1], string(forged), lines[3]}, ErrChain, 3},
		"of another log":        {slices.Concat(lines[:2], otherLog(t)[2:]), ErrChain, 3},
		"newline removed":       {replace(2, "\n", ""), ErrHash, 3},
		"cut inside":            {replace(2, `,"hash":`, "\n"), ErrFormat, 3},
		"cut at the end":        {replace(4, "\n", ""), ErrTorn, 5},
		"cut in the last":       {slices.Concat(lines[:4], []string{lines[4][:40]}), ErrTorn, 5},
		"zeros at the end":      {slices.Concat(lines, []string{strings.Repeat("\x00", 3*maxLine)}), ErrTorn, 6},
		"long line":             {slices.Concat(lines, []string{strings.Repeat("x", 3*maxLine), "\n"}), ErrFormat, 6},
		"record 1 in disguise":  {[]string{string(first(link{hash: [32]byte{1}}))}, ErrChain, 1},
		"no JSON, right hash":   {[]string{string(second(`nonsense`))}, ErrFormat, 1},
		"duplicate, right hash": {[]string{string(second(`{"a":1,"a":2`))}, ErrFormat, 1},
		"sequence given twice":  {[]string{string(second(`{"sequence":7`))}, ErrFormat, 1},
	} {
		report, err := Verify(strings.NewReader(strings.Join(c.lines, "")), VerifyOptions{})
		var e *ChainError
		if !errors.As(err, &e) || !errors.Is(err, c.want) || e.Line != c.at || report.Records != uint64(c.at-1) ||
			(c.at > 1 && e.Sequence != uint64(c.at)) {
			t.Errorf("%s: got %v after %d records, want %v at %d", name, err, report.Records, c.want, c.at)
		}
	}
}

func first(l link) []byte { line, _ := l.seal(nil, []byte(`{"a":1`)); return line }

func second(body string) []byte { line, _ := link{sequence: 1}.seal(nil, []byte(body)); return line }

// capitals writes a line's own hash with capital letters.
func capitals(line string) string {
	i := len(line) - 67
	return line[:i] + strings.ToUpper(line[i:i+64]) + line[i+64:]
}

// otherLog is a log of as many other records.
func otherLog(t *testing.T) []string {
	t.Helper()
	var lines []string
	var l link
	for range 5 {
		var line []byte
		line, l = l.seal(nil, []byte(`{"eventName":"Other"`))
		lines = append(lines, string(line))
	}
	return lines
}

// TestEveryBit flips each bit of a short log.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	var log []byte
	var l link
	for range 3 {
		log, l = l.seal(log, []byte(`{"eventName":"X"`))
	}
	for i := range log {
		for bit := range 8 {
			log[i] ^= 1 << bit
			if _, err := Verify(bytes.NewReader(log), VerifyOptions{}); err == nil {
				t.Fatalf("bit %d of byte %d was flipped: not noticed", bit, i)
			}
			log[i] ^= 1 << bit
		}
	}
}

func TestVerifySound(t *testing.T) {
	t.Parallel()
	lines := sealed(t, 5)
	all := strings.Join(lines, "")
	report, err := Verify(iotest.OneByteReader(strings.NewReader(all)), VerifyOptions{})
	if err != nil || report.Records != 5 || report.First != 1 || report.Last != 5 {
		t.Errorf("%+v, %v", report, err)
	}
	// Older records in an archive.
	after := VerifyOptions{Sequence: 5, Hash: report.Hash, AfterSequence: 2}
	rest := strings.Join(lines[2:], "")
	if _, err := Verify(strings.NewReader(rest), after); !errors.Is(err, ErrBeginning) {
		t.Errorf("behind another record: %v", err)
	}
	if _, err := Verify(strings.NewReader(rest), VerifyOptions{}); !errors.Is(err, ErrBeginning) {
		t.Errorf("the beginning removed: %v", err)
	}
	if _, err := hex.Decode(after.AfterHash[:], []byte(lineHash(lines[1]))); err != nil {
		t.Fatal(err)
	}
	tail, err := Verify(strings.NewReader(rest), after)
	if err != nil || tail.First != 3 || tail.Hash != report.Hash || fmt.Sprintf("%x", tail.PreviousHash) != lineHash(lines[1]) {
		t.Errorf("%+v, %v", tail, err)
	}
	// The end cut off, which only a head kept elsewhere shows.
	_, err = Verify(strings.NewReader(strings.Join(lines[:4], "")), VerifyOptions{Sequence: 5, Hash: report.Hash})
	if !errors.Is(err, ErrHead) {
		t.Errorf("cut off: %v", err)
	}
	// The end remade.
	_, err = Verify(strings.NewReader(all), VerifyOptions{Sequence: 5})
	if !errors.Is(err, ErrChain) {
		t.Errorf("another record 5: %v", err)
	}
	if report, err := Verify(strings.NewReader(""), VerifyOptions{}); err != nil || report.Records != 0 {
		t.Errorf("empty: %+v, %v", report, err)
	}
	if _, err := Verify(iotest.ErrReader(os.ErrPermission), VerifyOptions{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("reader's error: %v", err)
	}
}

// TestSegments tampers with whole segments.
func TestSegments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tamper   func(dir string, s []segment) error
		verify   error
		open     error
		wantOpen bool
	}{
		"none":           {func(string, []segment) error { return nil }, nil, nil, true},
		"oldest removed": {func(_ string, s []segment) error { return os.Remove(s[0].path()) }, ErrBeginning, nil, true},
		"one removed":    {func(_ string, s []segment) error { return os.Remove(s[1].path()) }, ErrChain, ErrChain, false},
		"last two swapped": {func(dir string, s []segment) error {
			a, b := s[len(s)-2].path(), s[len(s)-1].path()
			return errors.Join(os.Rename(a, dir+"/x"), os.Rename(b, a), os.Rename(dir+"/x", b))
		}, ErrChain, ErrChain, false},
		"oldest edited":                {func(_ string, s []segment) error { return edit(s[0].path()) }, ErrHash, ErrHash, false},
		"last edited":                  {func(_ string, s []segment) error { return edit(s[len(s)-1].path()) }, ErrHash, ErrHash, false},
		"last cut to nothing":          {func(_ string, s []segment) error { return os.Truncate(s[len(s)-1].path(), 0) }, ErrChain, ErrChain, false},
		"last cut in its first line":   {func(_ string, s []segment) error { return os.Truncate(s[len(s)-1].path(), 100) }, ErrTorn, ErrTorn, false},
		"the one before cut":           {func(_ string, s []segment) error { return os.Truncate(s[len(s)-2].path(), 100) }, ErrTorn, ErrTorn, false},
		"the one before cut to nought": {func(_ string, s []segment) error { return os.Truncate(s[len(s)-2].path(), 0) }, ErrChain, ErrChain, false},
		"all but an empty one removed": {func(_ string, s []segment) error {
			for _, s := range s[:len(s)-1] {
				if err := os.Remove(s.path()); err != nil {
					return err
				}
			}
			return os.Truncate(s[len(s)-1].path(), 0)
		}, ErrChain, ErrChain, false},
		"stray files": {func(dir string, _ []segment) error {
			return errors.Join(os.WriteFile(dir+"/audit-1.jsonl", nil, 0o600), os.WriteFile(dir+"/audit-.jsonl", nil, 0o600),
				os.WriteFile(dir+"/audit-000002.jsonl.torn-1", nil, 0o600))
		}, nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := openLog(t, Config{Dir: dir, SegmentBytes: 3000})
			appendN(t, l, 9)
			closeLog(t, l)
			segments, err := listSegments(dir)
			if err != nil || len(segments) < 4 {
				t.Fatalf("%d segments, %v", len(segments), err)
			}
			if err := c.tamper(dir, segments); err != nil {
				t.Fatal(err)
			}
			if _, err := VerifyDir(dir, VerifyOptions{}); !errors.Is(err, c.verify) {
				t.Errorf("VerifyDir: got %v, want %v", err, c.verify)
			}
			before := readAll(t, dir)
			l, err = Open(Config{Dir: dir})
			if !errors.Is(err, c.open) || (err == nil) != c.wantOpen {
				t.Fatalf("Open: got %v, want %v", err, c.open)
			}
			if err != nil {
				if readAll(t, dir) != before {
					t.Error("Open changed a log that it refused")
				}
				return
			}
			appendN(t, l, 1)
			closeLog(t, l)
			if _, err := VerifyDir(dir, VerifyOptions{}); !errors.Is(err, c.verify) {
				t.Errorf("VerifyDir after another record: %v", err)
			}
		})
	}
}

func edit(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.Replace(b, []byte("Decrypt"), []byte("Encrypt"), 1), 0o600)
}

// readAll returns the files in dir but the lock with their names.
func readAll(t testing.TB, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl*"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %q\n", file, b)
	}
	return all.String()
}

// TestTorn cuts the last record of a log at every length.
func TestTorn(t *testing.T) {
	t.Parallel()
	lines := sealed(t, 3)
	whole := lines[0] + lines[1]
	for _, torn := range append([]string{strings.Repeat("\x00", 2*maxLine), lines[2] + "{"}, cuts(lines[2])...) {
		dir := t.TempDir()
		path := segment{dir, 1}.path()
		if err := os.WriteFile(path, []byte(whole+torn), 0o600); err != nil {
			t.Fatal(err)
		}
		sound, records := whole, uint64(3)
		if strings.Contains(torn, "\n") {
			sound, torn, records = whole+lines[2], "{", 4
		}
		l := openLog(t, Config{Dir: dir})
		if sequence, _ := l.Head(); sequence != records {
			t.Fatalf("head is %d", sequence)
		}
		closeLog(t, l)
		report, err := VerifyDir(dir, VerifyOptions{})
		if err != nil || report.Records != records || report.Repairs != 1 {
			t.Fatalf("%+v, %v", report, err)
		}
		text := readLog(t, dir)
		if !strings.HasPrefix(text, sound) || !strings.Contains(text[len(sound):],
			fmt.Sprintf(`"bytes":%d,"sha256":"%x","movedTo":"audit-000001.jsonl.torn-1"`, len(torn), sha256.Sum256([]byte(torn)))) {
			t.Fatalf("the repair is not told: %s", text[len(sound):])
		}
		if aside, err := os.ReadFile(path + ".torn-1"); err != nil || string(aside) != torn {
			t.Fatalf("moved aside: %q, %v", aside, err)
		}
	}
}

// cuts returns what a crash may leave of a line, in steps.
func cuts(line string) []string {
	var all []string
	for n := 1; n < len(line); n += 37 {
		all = append(all, line[:n])
	}
	return append(all, line[:len(line)-1])
}

var errNoToken = errors.New("no token")

// keySigner signs with a key in memory, as the daemon does with one in the token.
type keySigner struct {
	key   *ecdsa.PrivateKey
	fail  atomic.Bool
	calls atomic.Int64
}

func (s *keySigner) Sign(_ context.Context, digest []byte) ([]byte, string, error) {
	s.calls.Add(1)
	if s.fail.Load() {
		return nil, "", errNoToken
	}
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, digest)
	return signature, "key-1", err
}

func newSigner(t *testing.T) (*keySigner, VerifyOptions) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]*ecdsa.PublicKey{"key-1": &key.PublicKey}
	return &keySigner{key: key}, VerifyOptions{Signature: ECDSAVerifier(keys)}
}

// openChecked opens a log that signs checkpoints.
func openChecked(t testing.TB, cfg Config, opt VerifyOptions) *Log {
	t.Helper()
	l := openLog(t, cfg)
	if err := l.Check(Known{}, opt.Signature); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheckpoints(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	signer, opt := newSigner(t)
	cfg := Config{Dir: dir, Signer: signer, CheckpointRecords: 5, CheckpointInterval: time.Hour}
	l := openChecked(t, cfg, opt)
	for signer.calls.Load() < 3 { // by number of records
		appendN(t, l, 1)
	}
	appendN(t, l, 1)
	head, hash := l.Head()
	opt.Sequence, opt.Hash = head, hash
	closeLog(t, l) // signs the rest
	report, err := VerifyDir(dir, opt)
	if err != nil || report.Checkpoints < 2 || report.SignedThrough < head || report.SignedThrough != report.Last-1 {
		t.Fatalf("head %d: %+v, %v", head, report, err)
	}
	// With nothing new there is nothing to sign.
	calls := signer.calls.Load()
	closeLog(t, openChecked(t, cfg, opt))
	if again, err := VerifyDir(dir, opt); err != nil || again != report || signer.calls.Load() != calls {
		t.Errorf("opened and closed: %+v, %v", again, err)
	}
	// A key that is not there now: the error of Close, and a sound log.
	if l, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(Known{}, opt.Signature); err != nil {
		t.Fatal(err)
	}
	signer.fail.Store(true)
	appendN(t, l, 1)
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("Close without a signature: %v", err)
	}
	unsigned, err := VerifyDir(dir, opt)
	if err != nil || unsigned.Records != report.Records+1 || unsigned.SignedThrough != report.SignedThrough {
		t.Errorf("%+v, %v", unsigned, err)
	}
	// What an earlier run did not come to sign, the next one signs.
	signer.fail.Store(false)
	closeLog(t, openChecked(t, cfg, opt))
	if signed, err := VerifyDir(dir, opt); err != nil || signed.SignedThrough != unsigned.Last {
		t.Errorf("%+v, %v", signed, err)
	}
}

// TestCheckpointFails has a token that is away while many records want
// checkpoints: it is not asked for each, and the log says it once. The checkpoint
// comes with the token, whether or not there are more records.
func TestCheckpointFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	signer, opt := newSigner(t)
	var said bytes.Buffer
	l := openChecked(t, Config{
		Dir: dir, Signer: signer, CheckpointRecords: 1, CheckpointInterval: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&said, nil)),
	}, opt)
	signer.fail.Store(true)
	calls, began := signer.calls.Load(), time.Now()
	for signer.calls.Load() < calls+2 {
		appendN(t, l, 10)
	}
	calls = signer.calls.Load() - calls
	if most := 2 + int64(time.Since(began)/signRetry); calls > most {
		t.Errorf("%d signatures were asked for, want at most %d", calls, most)
	}
	head, _ := l.Head()
	signer.fail.Store(false)
	for began := time.Now(); ; {
		report, err := VerifyDir(dir, opt)
		if err == nil && report.SignedThrough >= head {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("no checkpoint in a minute: %+v, %v", report, err)
		}
		time.Sleep(10 * time.Millisecond) // polls the files
	}
	closeLog(t, l)
	if n := strings.Count(said.String(), "no new checkpoint"); n != 1 || strings.Count(said.String(), "has checkpoints again") != 1 {
		t.Errorf("the log has the failure %d times:\n%s", n, said.String())
	}
}

func TestCheckpointInterval(t *testing.T) {
	t.Parallel()
	signer, opt := newSigner(t)
	l := openChecked(t, Config{Dir: t.TempDir(), Signer: signer, CheckpointInterval: time.Millisecond}, opt)
	for n := 1; signer.calls.Load() < 2; n++ {
		appendN(t, l, 1)
	}
}

// TestCheckpointForgery: somebody who rewrites the whole log, chain and
// all, cannot sign it.
func TestCheckpointForgery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	signer, opt := newSigner(t)
	l := openChecked(t, Config{Dir: dir, Signer: signer}, opt)
	appendN(t, l, 3)
	closeLog(t, l)
	log := readLog(t, dir)
	if report, err := Verify(strings.NewReader(log), opt); err != nil || report.SignedThrough != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	_, stranger := newSigner(t)
	noKey := VerifyOptions{Signature: ECDSAVerifier(nil)}
	other := regexp.MustCompile(`("keyId":"key-1","signature":"[^"]{20})(.)`)
	for name, c := range map[string]struct {
		log string
		opt VerifyOptions
	}{
		"rewritten":          {reseal(t, strings.Replace(log, "Decrypt", "Encrypt", 1)), opt},
		"time changed":       {reseal(t, strings.Replace(log, `"eventTime":"20`, `"eventTime":"19`, 4)), opt},
		"other public key":   {log, stranger},
		"unknown key":        {log, noKey},
		"signature changed":  {reseal(t, other.ReplaceAllString(log, "${1}A${2}")), opt},
		"signature no text":  {reseal(t, other.ReplaceAllString(log, "${1}!")), VerifyOptions{}},
		"covers itself":      {reseal(t, strings.Replace(log, `{"sequence":3`, `{"sequence":4`, 1)), VerifyOptions{}},
		"covers record 0":    {reseal(t, strings.Replace(log, `{"sequence":3`, `{"sequence":0`, 1)), VerifyOptions{}},
		"sequence no number": {reseal(t, strings.Replace(log, `{"sequence":3`, `{"sequence":"3"`, 1)), VerifyOptions{}},
		"hash cut":           {reseal(t, regexp.MustCompile(`(Details":\{"sequence":3,"hash":"..)`).ReplaceAllString(log, `$1","x":"`)), VerifyOptions{}},
	} {
		report, err := Verify(strings.NewReader(c.log), c.opt)
		if !errors.Is(err, ErrCheckpoint) || report.SignedThrough != 0 || report.Records != 3 {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

// reseal chains changed lines again.
func reseal(t *testing.T, log string) string {
	t.Helper()
	var l link
	var out []byte
	for line := range strings.Lines(log) {
		body, _, ok := strings.Cut(line, `,"chainVersion"`)
		if !ok {
			t.Fatalf("no chain: %s", line)
		}
		out, l = l.seal(out, []byte(body))
	}
	if string(out) == log {
		t.Fatal("nothing was changed")
	}
	return string(out)
}
