package operators

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"cmkd/testenv/rig"
)

// TestMetrics: what cmkctl prints is in Prometheus's format, and true; other
// users do not get it.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	c, ctx := r.Client(""), t.Context()
	disabled := rig.NewKey(t, c, &kms.CreateKeyInput{})
	id := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &disabled}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/none"), Plaintext: []byte("text")}); err == nil {
		t.Fatal("a key that does not exist encrypts")
	}
	for _, operation := range []string{"MakeCoffee", "MakeTea"} {
		if status, _ := r.Post(t, operation, "{}"); status != http.StatusBadRequest {
			t.Fatalf("%s: status %d", operation, status)
		}
	}

	text, ok := rig.Cmkctl(t, r, "metrics")
	if !ok {
		t.Fatal(text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for name := range families {
		if !strings.HasPrefix(name, "cmkd_") {
			t.Errorf("%s may be another exporter's too", name)
		}
	}
	if families["cmkd_go_goroutines"] == nil || families["cmkd_process_open_fds"] == nil {
		t.Error("nothing of the process itself")
	}
	if n := families["cmkd_call_duration_seconds"].GetMetric(); len(n) == 0 {
		t.Errorf("no durations:\n%s", text)
	}
	for _, want := range []string{
		`cmkd_calls_total{code="",operation="Encrypt"} 3`,
		`cmkd_calls_total{code="NotFoundException",operation="Encrypt"} 1`,
		`cmkd_calls_total{code="UnknownOperationException",operation="other"} 2`,
		`cmkd_call_duration_seconds_count{operation="Encrypt"} 4`,
		`cmkd_keys{region="us-east-1",state="Enabled"} 1`,
		`cmkd_keys{region="us-east-1",state="Disabled"} 1`,
		`cmkd_token_up{token="main"} 1`,
		`cmkd_plugin_up{plugin="symmetric",token="main"} 1`,
		`cmkd_audit_writable 1`,
		`cmkd_database_verified 1`,
		`cmkd_deletions_held 0`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}

	other := r.HTTPAs(t, rig.User{UID: 61009, GID: 61009})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := other.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusForbidden || strings.Contains(string(body), "cmkd_") {
		t.Errorf("another user gets status %d, %s, %v", resp.StatusCode, body, err)
	}
}
