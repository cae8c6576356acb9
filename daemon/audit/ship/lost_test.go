package ship

import (
	"errors"
	"log/slog"
	"testing"
)

// headOf is a trail that ends with the record.
type headOf uint64

func (h headOf) Head() (uint64, [32]byte) { return uint64(h), [32]byte{} }

// TestLostOnce: records that are gone count once, however often the batch is read again.
func TestLostOnce(t *testing.T) {
	t.Parallel()
	s := &Shipper{cfg: Config{Source: headOf(30), Logger: slog.New(slog.DiscardHandler)}}
	for range 3 {
		s.lost(t.Context(), &batch{lost: 5, gap: 6})
	}
	s.lost(t.Context(), &batch{lost: 3, gap: 20})
	if got := s.Status().Lost; got != 8 {
		t.Errorf("%d records are lost, want 8", got)
	}
}

// TestNothingWaits: an error is none any more when the receiver has everything.
func TestNothingWaits(t *testing.T) {
	t.Parallel()
	s := &Shipper{cfg: Config{Source: headOf(7), Logger: slog.New(slog.DiscardHandler)}}
	s.failed(t.Context(), errors.New("the connection ended"))
	if st := s.Status(); st.Error == "" || st.Records != 7 {
		t.Errorf("with records that wait: %+v", st)
	}
	s.status.Position = 7
	if st := s.Status(); st.Error != "" || !st.Since.IsZero() {
		t.Errorf("with none: %+v", st)
	}
}
