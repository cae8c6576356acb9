package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"cmkd/socket/client"
)

// ask puts a question of cmkctl's own to the daemon, beside the KMS API: JSON
// in, JSON out. An answer that is not JSON is the daemon's refusal.
func ask(ctx context.Context, socket, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true // the connection serves once
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.HTTPClient(socket).Do(req)
	if err != nil {
		return fmt.Errorf("cmkd does not answer on %s: %w", socket, rootCause(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", strings.TrimSpace(string(answer)))
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
