package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"cmkd/daemon"
)

// part is how many records each trail has whose bits are changed.
const part = 10

// bits copies 100 records of the trail, in parts, and changes every bit of them
// but for the line feeds between them, one after the other. Verification finds
// each: nothing in a record may change.
func bits(s *stage) {
	lines := bytes.SplitAfter(read(s.T, segments(s.T, s.trail)[0]), []byte("\n"))
	if len(lines) < 10*part+1 {
		s.Fatalf("the trail has only %d records", len(lines))
	}
	var found atomic.Int64
	var working sync.WaitGroup
	for i := range 10 {
		content := bytes.Join(lines[:i*part+part], nil)
		from := len(bytes.Join(lines[:i*part], nil))
		working.Go(func() { found.Add(s.flip(content, from)) })
	}
	working.Wait()
	s.note("%d bits changed, each found", found.Load())
}

// flip changes each bit of content from a place on and counts those that are
// found.
func (s *stage) flip(content []byte, from int) (found int64) {
	folder := s.TempDir()
	file := filepath.Join(folder, filepath.Base(segments(s.T, s.trail)[0]))
	for i := from; i < len(content); i++ {
		for bit := range 8 {
			content[i] ^= 1 << bit
			if err := os.WriteFile(file, content, 0o600); err != nil {
				s.Error(err)
				return found
			}
			if _, err := daemon.VerifyTrail(folder, daemon.TrailOptions{ChainOnly: true}); err == nil {
				s.Errorf("bit %d of byte %d was changed, and the trail verifies", bit, i-from)
			} else {
				found++
			}
			content[i] ^= 1 << bit
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
