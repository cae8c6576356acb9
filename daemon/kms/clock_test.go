package kms_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

func (s *scene) confirmClock() error {
	return s.service.Operate(s.t.Context(), s.callers[0], &kmsapi.Request{Operation: "ConfirmClock"}, func(c *journal.Call) error {
		_, err := s.service.ConfirmClock(s.t.Context(), c)
		return err
	})
}

// TestClockUnwritten: the time passes while the database cannot be written. That
// does not look like a jump of the clock, unless the clock does jump.
func TestClockUnwritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		step time.Duration
		held bool
	}{{"days pass", time.Hour, false}, {"the clock jumps", 30 * time.Hour, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1)
			if err := s.service.WatchClock(t.Context()); err != nil {
				t.Fatal(err)
			}
			unlock := s.disk.Hold(t)
			for passed := time.Duration(0); passed < 60*time.Hour; passed += c.step {
				s.now = s.now.Add(c.step)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if s.service.WatchClock(ctx) == nil {
					t.Fatal("the database is written while it is locked")
				}
				cancel()
			}
			if got := s.service.Held(); got != c.held {
				t.Errorf("held: %t, want %t", got, c.held)
			}
			unlock()
			if err := s.service.WatchClock(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.service.Held(); got != c.held {
				t.Errorf("with the database again, held: %t, want %t", got, c.held)
			}
			if err := s.confirmClock(); err != nil || s.service.Held() {
				t.Errorf("confirmed: %v, held %t", err, s.service.Held())
			}
		})
	}
}

// TestConfirmedStays: what an operator confirms while the daemon looks at its
// clock stays confirmed.
func TestConfirmedStays(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	for range 50 {
		if err := s.service.WatchClock(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(48 * time.Hour)
		var both sync.WaitGroup
		both.Go(func() {
			if err := s.service.WatchClock(t.Context()); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			for !s.service.Held() {
				t.Error("the jump is not seen")
				return
			}
			if err := s.confirmClock(); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if s.service.Held() {
			t.Fatal("held after the operator has confirmed the time")
		}
	}
}
