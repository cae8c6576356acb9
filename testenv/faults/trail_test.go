package faults

import (
	"bytes"
	"slices"
	"strings"

	"cmkd/daemon/audit"
)

// bits copies 100 records of the trail and changes every bit of them, one after
// the other, and ends the trail after every byte. Verification finds each: nothing
// in a record may change. It is given the changed record and the one after it,
// what comes before the first, and for the ends what the last should be.
func bits(s *stage) {
	const records = 100
	lines := bytes.SplitAfter(read(s.T, segments(s.T, s.trail)[0]), []byte("\n"))
	if len(lines) < records+3 {
		s.Fatalf("the trail has only %d records", len(lines))
	}
	found, ended := 0, 0
	var before audit.Report
	for i := range records {
		options := audit.VerifyOptions{AfterSequence: before.Last, AfterHash: before.Hash}
		after, err := audit.Verify(bytes.NewReader(lines[i]), options)
		if err != nil {
			s.Fatalf("record %d as it is: %v", i+1, err)
		}
		found += s.flip(slices.Concat(lines[i], lines[i+1]), len(lines[i]), options)
		options.Sequence, options.Hash = after.Last, after.Hash
		for end := range lines[i] {
			if _, err := audit.Verify(bytes.NewReader(lines[i][:end]), options); err == nil {
				s.Errorf("the trail ends after byte %d of %q, and verifies", end, lines[i])
			} else {
				ended++
			}
		}
		before = after
	}
	s.note("%d bits changed and %d ends, each found", found, ended)
}

// flip changes each bit of the first bytes of a trail and counts those that are
// found.
func (s *stage) flip(trail []byte, length int, options audit.VerifyOptions) (found int) {
	for i := range length {
		for bit := range 8 {
			trail[i] ^= 1 << bit
			if _, err := audit.Verify(bytes.NewReader(trail), options); err == nil {
				s.Errorf("bit %d of byte %d was changed in %q, and the trail verifies", bit, i, trail[:length])
			} else {
				found++
			}
			trail[i] ^= 1 << bit
		}
	}
	return found
}

// cuts ends the trail of the stopped daemon early: after each of its last records,
// and in the middle of them. The daemon finds at each start that it is shorter than
// its database says.
func cuts(s *stage) {
	s.stop()
	files := segments(s.T, s.trail)
	file := files[len(files)-1]
	content := read(s.T, file)
	ends := []int{}
	for i := len(content) - 2; i >= 0 && len(ends) < 6; i-- {
		if content[i] == '\n' {
			ends = append(ends, i+1, i+1+(len(content)-i)/2)
		}
	}
	if !long {
		ends = ends[:2]
	}
	for _, end := range ends {
		write(s.T, file, content[:end])
		if said := s.look(); !strings.Contains(said, `"auditMismatch"`) && !strings.Contains(said, "cmkd: ") {
			s.Errorf("the trail was cut at byte %d of %d, and the daemon says %.600q", end, len(content), said)
		}
	}
	s.note("%d cuts, each found at the start", len(ends))
	write(s.T, file, content)
	s.start()
}
