package backendstest

import (
	"bytes"
	"fmt"
	"testing"

	"cmkd/backends"
)

func (s *suite) random(t *testing.T, backend backends.Backend) {
	b := backend.(backends.Randomizer)
	for _, n := range []int{1, 2, 31, 1023, 1024} {
		answer, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: n})
		if err != nil || len(answer.Plaintext) != n {
			t.Fatalf("%d bytes: %+v, %v", n, answer, err)
		}
		again, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: n})
		if err != nil || n > 16 && bytes.Equal(answer.Plaintext, again.Plaintext) {
			t.Errorf("%d bytes came twice, %v", n, err)
		}
	}
	for _, n := range []int{-1, 0, 1025} {
		_, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: n})
		wantCode(t, fmt.Sprintf("%d bytes", n), err, backends.InvalidRequest)
	}
	for _, r := range recipientForms(t) {
		for _, n := range []int{1, 1024} {
			answer, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: n, Recipient: r})
			if err != nil || answer.Plaintext != nil {
				t.Fatalf("for a recipient: %+v, %v", answer, err)
			}
			got, err := openRecipient(r, answer.ForRecipient)
			if err != nil || len(got) != n {
				t.Errorf("the recipient gets %d bytes, not %d: %v", len(got), n, err)
			}
		}
	}
	refusedRecipients(t, func(r *backends.Recipient) ([]byte, error) {
		answer, err := b.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: 8, Recipient: r})
		if err != nil {
			return nil, err
		}
		return answer.ForRecipient, nil
	})
}
