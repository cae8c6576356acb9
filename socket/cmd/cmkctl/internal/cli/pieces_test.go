package cli

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

// pieces is a writer that keeps the slices that it gets.
type pieces struct{ got [][]byte }

func (p *pieces) Write(b []byte) (int, error) {
	p.got = append(p.got, b)
	return len(b), nil
}

// TestPieces: whatever is written in is written out in pieces that fill a huge page each, and
// nothing of it stays in memory.
func TestPieces(t *testing.T) {
	t.Parallel()
	var p pieces
	var length []int
	content := bytes.Repeat([]byte{1}, 300_000)
	failed := errors.New("no more")
	err := inPieces(&p, func(w io.Writer) error {
		for range 16 { // 4.8 MB
			if _, err := w.Write(content); err != nil {
				return err
			}
		}
		return nil
	})
	for _, b := range p.got {
		length = append(length, len(b))
		if slices.Max(b) != 0 {
			t.Error("the content is still in memory")
		}
	}
	if want := []int{pieceLen, pieceLen, 16*300_000 - 2*pieceLen}; err != nil || !slices.Equal(length, want) {
		t.Errorf("pieces of %v, want %v; %v", length, want, err)
	}
	if err := inPieces(&p, func(io.Writer) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("%v, want %v", err, failed)
	}
}
