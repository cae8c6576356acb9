package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Ask puts a question of cmkctl's own to the daemon, beside the KMS API: JSON
// in, JSON out, to be printed. An answer that is not JSON is the daemon's refusal.
func Ask(ctx context.Context, s *Service, path string, in, out any) error {
	if err := AskExactly(ctx, s, path, in, out); err != nil {
		return err
	}
	Printable(out)
	return nil
}

// AskExactly is ask for an answer that is not printed.
func AskExactly(ctx context.Context, s *Service, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	status, answer, err := s.Do(req, 64<<20)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return Refused(status, strings.TrimSpace(string(answer)))
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
