package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/audit/event"
)

// TestLast: what follows the record that was the last at an orderly end.
func TestLast(t *testing.T) {
	t.Parallel()
	signer, opt := newSigner(t)
	cfg := Config{Dir: t.TempDir(), Signer: signer, SegmentBytes: attackedSegments, CheckpointInterval: time.Hour}
	l := openChecked(t, cfg, opt)
	appendN(t, l, 12)
	if final, err := l.End(); !final || err != nil {
		t.Fatal(final, err)
	}
	known := Known{Last: true}
	known.Sequence, known.Hash = l.Head()
	closeLog(t, l)
	if sequence, hash := l.Head(); sequence != known.Sequence || hash != known.Hash {
		t.Fatal("something was recorded after the end")
	}
	a := &attackedTrail{dir: cfg.Dir, signer: signer, opt: opt, known: known, head: known}
	for name, c := range map[string]struct {
		do   func(*testing.T, *attackedTrail, string)
		want error
	}{
		"nothing":           {func(*testing.T, *attackedTrail, string) {}, nil},
		"a record is added": {addRecord, ErrAdded},
		// It is set aside, and a record of the log's own reports it.
		"half a record is":   {lines(-1, func(l []string) []string { return append(l, "{") }), nil},
		"the last is cut":    {cutTo(func(*attackedTrail) uint64 { return known.Sequence - 1 }), ErrHead},
		"the last is edited": {rewritingFrom(func(*attackedTrail) uint64 { return 12 }), ErrCheckpoint},
	} {
		dir := t.TempDir()
		copyTrail(t, cfg.Dir, dir)
		c.do(t, a, dir)
		l := openLog(t, a.config(dir))
		if err := l.Check(known, opt.Signature); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// oldCheckpoint is a checkpoint of version 1, which says nothing of the
// beginning, as earlier versions made it.
func oldCheckpoint(t *testing.T, signer *keySigner, of link) []byte {
	t.Helper()
	s := signed{of: of, at: "2026-03-01T12:00:00.000Z"}
	digest := s.digest()
	signature, keyID, err := signer.Sign(t.Context(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"eventVersion":"1.11","userIdentity":{"type":"AWSService","invokedBy":"audit.cmkd"},"eventTime":%q,`+
		`"eventSource":"audit.cmkd","eventName":"AuditCheckpoint","eventType":"AwsServiceEvent",`+
		`"serviceEventDetails":{"sequence":%d,"hash":"%x","keyId":%q,"signature":%q}`,
		s.at, of.sequence, of.hash, keyID, base64.StdEncoding.EncodeToString(signature))
}

// TestEarlierVersion opens a trail of the version before, of which an operator
// has removed the oldest segment: it is taken as it begins, and no later.
func TestEarlierVersion(t *testing.T) {
	t.Parallel()
	signer, opt := newSigner(t)
	dir := t.TempDir()
	var l link
	for n := 1; n <= 4; n++ {
		var text []byte
		for i := range 3 {
			body, err := event.Append(nil, sample(i), event.MaxRecord)
			if err != nil {
				t.Fatal(err)
			}
			text, l = l.seal(text, body)
		}
		text, l = l.seal(text, oldCheckpoint(t, signer, l))
		if n == 1 {
			continue // removed
		}
		if err := os.WriteFile(segment{dir, n}.path(), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := VerifyDir(dir, opt); !errors.Is(err, ErrBeginning) {
		t.Errorf("offline, before: %v", err)
	}
	cfg := Config{Dir: dir, Signer: signer, CheckpointInterval: time.Hour}
	log := openLog(t, cfg)
	if err := log.Check(Known{Sequence: l.sequence, Hash: l.hash}, opt.Signature); err != nil {
		t.Fatal(err)
	}
	appendN(t, log, 1)
	closeLog(t, log)
	report, err := VerifyDir(dir, opt)
	if err != nil || report.First != 5 || report.Checkpoints != 4 || report.SignedThrough != 17 {
		t.Errorf("offline: %+v, %v", report, err)
	}
	if err := os.Remove(segment{dir, 2}.path()); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyDir(dir, opt); !errors.Is(err, ErrBeginning) {
		t.Errorf("a later beginning, offline: %v", err)
	}
	if err := openLog(t, cfg).Check(Known{}, opt.Signature); !errors.Is(err, ErrBeginning) {
		t.Errorf("a later beginning: %v", err)
	}
}

// TestPrune prunes a trail, and fails or is interrupted at each of its steps.
func TestPrune(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for name, c := range map[string]struct {
		opt            PruneOptions
		record, commit error
		unsigned       bool
		want           error
		left           bool // old segments are there, and belong to the trail
		aside          bool // the next start moves them
	}{
		"done":                   {opt: PruneOptions{Keep: 2}},
		"archived":               {opt: PruneOptions{Keep: 2, Archive: true}},
		"by date":                {opt: PruneOptions{Before: sample(0).EventTime.Add(time.Second)}},
		"nothing to prune":       {opt: PruneOptions{Keep: 100}, left: true},
		"nothing so old":         {opt: PruneOptions{Before: sample(0).EventTime}, left: true},
		"not recorded":           {opt: PruneOptions{Keep: 1}, record: failed, want: failed, left: true},
		"not signed":             {opt: PruneOptions{Keep: 1}, unsigned: true, want: errNoToken, left: true},
		"the database is behind": {opt: PruneOptions{Keep: 1}, commit: failed, want: failed, aside: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer, opt := newSigner(t)
			cfg := Config{Dir: t.TempDir(), Signer: signer, SegmentBytes: attackedSegments, CheckpointInterval: time.Hour}
			l := openChecked(t, cfg, opt)
			appendN(t, l, 22)
			before := segmentsOf(t, cfg.Dir)
			signer.fail.Store(c.unsigned)
			p, err := l.Prune(t.Context(), c.opt, opt.Signature, func(p *Pruning) error {
				if n := len(segmentsOf(t, cfg.Dir)); n != len(before) {
					t.Errorf("%d of %d segments are there before it is recorded", n, len(before))
				}
				if c.record == nil {
					appendN(t, l, 1)
				}
				return c.record
			}, func() error { return c.commit })
			signer.fail.Store(false)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err := l.Check(Known{}, opt.Signature); err != nil {
				t.Errorf("after it: %v", err)
			}
			head := Known{}
			head.Sequence, head.Hash = l.Head()
			closeLog(t, l)
			after := segmentsOf(t, cfg.Dir)
			if left := after[0] == before[0]; left != c.left {
				t.Errorf("segments before %v, after %v", before, after)
			}
			if p != nil && (len(p.Segments) == 0 || p.First == 1 || p.Records != p.First-1) {
				t.Errorf("%+v", p)
			}
			archived, _ := filepath.Glob(filepath.Join(cfg.Dir, archiveName, "*.jsonl"))
			if c.opt.Archive != (len(archived) > 0) {
				t.Errorf("archived: %v", archived)
			}
			report, err := VerifyDir(cfg.Dir, opt)
			if err != nil || (report.First == 1) != c.left {
				t.Errorf("offline: %+v, %v", report, err)
			}
			aside, _ := filepath.Glob(filepath.Join(cfg.Dir, "aside-*", "*.jsonl"))
			if c.aside != (len(aside) > 0) {
				t.Errorf("moved aside: %v", aside)
			}
			if err := openLog(t, cfg).Check(head, opt.Signature); err != nil {
				t.Errorf("the next start: %v", err)
			}
			if c.opt.Archive {
				pruned, err := VerifyDir(filepath.Join(cfg.Dir, archiveName), VerifyOptions{})
				if err != nil || pruned.Last+1 != report.First || pruned.Hash != report.PreviousHash {
					t.Errorf("the archive: %+v, %v", pruned, err)
				}
			}
		})
	}
}

// TestVerifyGivesUp: verifying a whole trail ends with the client who asked, and
// with the daemon.
func TestVerifyGivesUp(t *testing.T) {
	t.Parallel()
	signer, opt := newSigner(t)
	cfg := Config{Dir: t.TempDir(), Signer: signer, SegmentBytes: attackedSegments, CheckpointInterval: time.Hour}
	l := openChecked(t, cfg, opt)
	appendN(t, l, 22)
	if _, err := l.Verify(t.Context(), opt.Signature); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Verify(gone, opt.Signature); !errors.Is(err, context.Canceled) || IsProblem(err) {
		t.Errorf("Verify: %v", err)
	}
	before := segmentsOf(t, cfg.Dir)
	_, err := l.Prune(gone, PruneOptions{Keep: 1}, opt.Signature, func(*Pruning) error { return nil }, func() error { return nil })
	if after := segmentsOf(t, cfg.Dir); !errors.Is(err, context.Canceled) || len(after) != len(before) {
		t.Errorf("Prune: %v, %d of %d segments are left", err, len(after), len(before))
	}
}

// TestPruneUnsound: what does not verify is not removed.
func TestPruneUnsound(t *testing.T) {
	t.Parallel()
	base := newAttackedTrail(t)
	dir := t.TempDir()
	copyTrail(t, base.dir, dir)
	l := openLog(t, base.config(dir))
	if err := l.Check(base.known, base.opt.Signature); err != nil {
		t.Fatal(err)
	}
	attacks[1].do(t, base, dir)
	_, err := l.Prune(t.Context(), PruneOptions{Keep: 1}, base.opt.Signature, func(*Pruning) error {
		t.Error("on record")
		return nil
	}, func() error { return nil })
	if !errors.Is(err, ErrHash) {
		t.Errorf("pruned: %v", err)
	}
}

// TestBegin starts a trail over behind each of the attacks: it verifies, and
// what was there is kept.
func TestBegin(t *testing.T) {
	t.Parallel()
	base := newAttackedTrail(t)
	for _, c := range attacks {
		if !c.found.start {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			copyTrail(t, base.dir, dir)
			c.do(t, base, dir)
			there := segmentsOf(t, dir)
			l := openLog(t, base.config(dir))
			if err := l.Check(base.known, base.opt.Signature); err == nil {
				t.Fatal("nothing is wrong")
			}
			appendN(t, l, 1) // of the time until somebody decides
			if err := l.Begin(t.Context(), c.name); err != nil {
				t.Fatal(err)
			}
			appendN(t, l, 1)
			var known Known
			known.Sequence, known.Hash = l.Head()
			if err := errors.Join(l.Checkpoint(t.Context()), l.Check(known, base.opt.Signature)); err != nil {
				t.Fatal(err)
			}
			appendN(t, l, 9)
			closeLog(t, l)
			report, err := VerifyDir(dir, base.opt)
			if err != nil || report.Unsigned != 0 {
				t.Errorf("%+v, %v", report, err)
			}
			if err := openLog(t, base.config(dir)).Check(known, base.opt.Signature); err != nil {
				t.Errorf("the next start: %v", err)
			}
			aside, err := filepath.Glob(filepath.Join(dir, "aside-*", "*.jsonl"))
			if err != nil || !slices.IsSorted(aside) || len(aside) < len(there) {
				t.Errorf("%d segments were there, kept are %v", len(there), aside)
			}
		})
	}
}

// TestCheckpointFormat computes what is signed as the package comment says.
func TestCheckpointFormat(t *testing.T) {
	t.Parallel()
	signer, opt := newSigner(t)
	dir := t.TempDir()
	l := openChecked(t, Config{Dir: dir, Signer: signer}, opt)
	appendN(t, l, 1)
	closeLog(t, l)
	var event struct {
		EventTime           string     `json:"eventTime"`
		ServiceEventDetails checkpoint `json:"serviceEventDetails"`
	}
	c := &event.ServiceEventDetails
	text := readLog(t, dir)
	if err := json.Unmarshal([]byte(text[len(sealed(t, 1)[0]):]), &event); err != nil {
		t.Fatal(err)
	}
	if c.Sequence != 1 || c.First != 1 || c.FirstPreviousHash != hex.EncodeToString(make([]byte, 32)) {
		t.Errorf("%+v", c)
	}
	s, err := c.parse(event.EventTime)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(fmt.Appendf(nil, "cmkd audit checkpoint v2\n1\n%s\n1\n%s\n%s\n", c.Hash, c.FirstPreviousHash, event.EventTime))
	if s.digest() != want {
		t.Error("something else is signed than the package comment says")
	}
}

// BenchmarkCheck measures what the start costs for each 10,000 records since
// the last checkpoint.
func BenchmarkCheck(b *testing.B) {
	const records = 10_000
	l := openLog(b, Config{Dir: b.TempDir()})
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // queue them, and wait for the last
	for i := range records {
		_ = l.Append(ctx, sample(i))
	}
	appendN(b, l, 1)
	for b.Loop() {
		if err := l.Check(Known{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
