package audit

import "fmt"

// finish checks what only the whole trail shows.
func (v *verifier) finish() error {
	v.measureTail()
	if v.opt.Sequence != 0 && !v.found && v.opt.Sequence < v.report.First {
		return fmt.Errorf("%w: record %d is known to exist, the log begins with record %d: it was pruned since, "+
			"or its beginning was removed; compare with a later record", ErrBeginning, v.opt.Sequence, v.report.First)
	}
	if v.opt.Sequence != 0 && !v.found {
		return fmt.Errorf("%w: record %d is known to exist, the log has %d to %d: later records were cut off, or the log is an older copy",
			ErrHead, v.opt.Sequence, v.report.First, v.report.Last)
	}
	if err := v.checkBeginning(); err != nil {
		return err
	}
	if v.opt.Signature == nil || v.opt.Tail == nil {
		return nil
	}
	if v.report.Checkpoints == 0 {
		return fmt.Errorf("%w: it has no checkpoint", ErrUnsigned)
	}
	if v.report.Unsigned > v.opt.Tail.Records {
		return fmt.Errorf("%w: %d records at the end, at most %d are allowed", ErrUnsigned, v.report.Unsigned, v.opt.Tail.Records)
	}
	if v.report.UnsignedAge > v.opt.Tail.Age {
		return fmt.Errorf("%w: %s at the end, at most %s is allowed", ErrUnsigned, v.report.UnsignedAge, v.opt.Tail.Age)
	}
	return nil
}

// measureTail fills in what the report says of the end.
func (v *verifier) measureTail() {
	if v.report.Records == 0 {
		return
	}
	v.setLastTime()
	v.report.Unsigned = v.report.Last - max(v.report.SignedThrough, v.report.First-1)
	from := max(v.report.SignedThrough+1, v.first)
	if v.opt.Signature != nil && v.signedBy == from && v.signed+1 == from {
		v.report.Unsigned-- // the checkpoint that covers all before it
		from++
	}
	if v.report.Unsigned > 0 {
		v.report.UnsignedAge = v.report.LastTime.Sub(parseTime(v.recent[from-v.first].at))
	}
}

// setLastTime fills in the time of the last record so far.
func (v *verifier) setLastTime() {
	if n := len(v.recent); n > 0 {
		v.report.LastTime = parseTime(v.recent[n-1].at)
	}
}

// checkBeginning checks that the trail begins where it should. Records from
// before are sound if those that follow are: a pruning was interrupted.
func (v *verifier) checkBeginning() error {
	got := beginning{v.report.First, v.report.PreviousHash}
	want := firstBeginning
	switch {
	case v.report.Records == 0:
		return nil
	case v.opt.AfterSequence != 0:
		want = link{v.opt.AfterSequence, v.opt.AfterHash}.beginning()
	case v.begin.first > got.first:
		return nil
	case v.begin.first != 0:
		want = v.begin
	}
	return want.check(got)
}

// check compares where a trail begins with where it should.
func (want beginning) check(got beginning) error {
	switch {
	case got == want:
		return nil
	case got.first == want.first:
		return fmt.Errorf("%w: record %d follows another record than it should", ErrBeginning, got.first)
	default:
		return fmt.Errorf("%w: the first record is %d, it should be record %d: "+
			"put back the segments with the records between, or give the record before as the expected beginning", ErrBeginning, got.first, want.first)
	}
}
