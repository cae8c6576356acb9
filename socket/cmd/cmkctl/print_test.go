package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// TestWholeAnswers: what the daemon leaves out while it is empty is there for scripts.
func TestWholeAnswers(t *testing.T) {
	t.Parallel()
	p := cli.Printer{Output: cli.Choice{Value: cli.AsJSON}}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{&operatorapi.PruneAnswer{}, `{"pruned":null}`},
		{
			&operatorapi.PruneAnswer{Pruned: &operatorapi.Pruning{Segments: []string{"a"}, Until: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}},
			`{"pruned":{"first":0,"firstPreviousHash":"","records":0,"segments":["a"],"until":"2026-01-02T03:04:05.000006Z","archive":""}}`,
		},
		{&inspected{MessageID: []byte{1}}, `{"version":0,"algorithmSuite":"","keyCommitment":false,"signed":false,"messageId":"AQ==","encryptionContext":null,"encryptedDataKeys":null,"frameLength":0}`},
	} {
		var out, got bytes.Buffer
		if err := p.PrintAs(&out, c.answer, nil); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != c.want {
			t.Errorf("%T: %s, want %s, %v", c.answer, got.String(), c.want, err)
		}
	}
}
