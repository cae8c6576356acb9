// Package monitoring tests what is shipped for Prometheus and Grafana, with a real
// Prometheus that scrapes a daemon through the exporter of cmkctl and through the textfile
// collector of the node exporter.
package monitoring

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// tool is a program of Prometheus, which deps.sh brings.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(rig.Root(), ".cache/prometheus/usr/bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run make deps", name)
	}
	return path
}

func shipped(name string) string { return filepath.Join(rig.Root(), "packaging", name) }

// TestRules has promtool check the rules and run their own tests.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "cmkd.rules.yml"}, {"test", "rules", "cmkd.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), tool(t, "promtool"), args...)
		cmd.Dir = shipped("prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// run starts a program that ends with the test, and returns the first line of its standard
// error that fits.
func run(t *testing.T, ready string, cmd *exec.Cmd) string {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(stderr)
	var all []string
	for lines.Scan() {
		all = append(all, lines.Text())
		if found := regexp.MustCompile(ready).FindStringSubmatch(lines.Text()); found != nil {
			go func() {
				for lines.Scan() { // so that it never waits for a reader
				}
			}()
			return found[1]
		}
	}
	t.Fatalf("%s ended:\n%s", cmd.Path, strings.Join(all, "\n"))
	return ""
}

// query asks Prometheus, until it has samples, for the value of each.
func query(t *testing.T, prometheus, expression string) (values []string) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(50 * time.Millisecond) { // polls what was scraped
		resp, err := http.Get("http://" + prometheus + "/api/v1/query?query=" + url.QueryEscape(expression))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusServiceUnavailable { // it has just begun
			_ = resp.Body.Close()
			continue
		}
		var out struct {
			Data struct {
				Result []struct {
					Value [2]any `json:"value"`
				} `json:"result"`
			} `json:"data"`
		}
		err = json.NewDecoder(resp.Body).Decode(&out)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range out.Data.Result {
			values = append(values, fmt.Sprint(r.Value[1]))
		}
		if values != nil {
			return values
		}
	}
	t.Errorf("Prometheus has no %s", expression)
	return nil
}

// TestScraped: a real Prometheus has the metrics by both ways, and every metric that a rule
// or a panel names is one of the daemon's.
func TestScraped(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Etcd: etcd.Start(t), Tables: "[monitors]\nusers = [\"62004\"]\n"})
	if _, err := r.Client("").CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Fatal(err)
	}
	cmkctl := filepath.Join(rig.Binaries(t), "cmkctl")
	exporter := run(t, `http://([^/]+)/metrics`, exec.CommandContext(t.Context(), cmkctl, "metrics", "--socket", r.Socket, "--listen", "127.0.0.1:0"))

	dir := t.TempDir()
	text, err := exec.CommandContext(t.Context(), cmkctl, "metrics", "--socket", r.Socket).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cmkd.prom"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	node := run(t, `Listening on.*address=(127[^ ]+)`, exec.CommandContext(t.Context(), tool(t, "prometheus-node-exporter"), "--collector.disable-defaults",
		"--collector.textfile", "--collector.textfile.directory="+dir, "--web.listen-address=127.0.0.1:0"))

	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - {job_name: cmkd, static_configs: [{targets: [%q]}]}
  - {job_name: node, static_configs: [{targets: [%q]}]}
`, shipped("prometheus/cmkd.rules.yml"), exporter, node), 0o600); err != nil {
		t.Fatal(err)
	}
	prometheus := run(t, `Listening on.*address=(127[^ ]+)`, exec.CommandContext(t.Context(), tool(t, "prometheus"), "--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0"))

	for _, q := range []string{`up{job="cmkd"}`, `cmkd_token_up{job="cmkd"}`, `cmkd_token_up{job="node"}`, `sum(cmkd_keys{job="cmkd"})`, `cmkd_calls_total{job="cmkd", operation="CreateKey", code=""}`} {
		if got := query(t, prometheus, q); !slices.Equal(got, []string{"1"}) {
			t.Errorf("%s: %v", q, got)
		}
	}
	if got := query(t, prometheus, `count(ALERTS) or vector(0)`); !slices.Equal(got, []string{"0"}) {
		t.Errorf("alerts of a daemon that is well: %v", got)
	}
	known := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^# TYPE (\w+)`).FindAllStringSubmatch(string(text), -1) {
		known[name[1]] = true
	}
	// Those that a daemon with nothing amiss has no samples of.
	for _, name := range []string{
		"cmkd_duplicate_keys", "cmkd_key_material_expiry_timestamp_seconds",
		"cmkd_token_member_up", "cmkd_token_member_refused", "cmkd_token_member_calls_in_flight",
		"cmkd_audit_ship_up", "cmkd_audit_ship_lag_seconds", "cmkd_audit_ship_lost_records_total",
	} {
		known[name] = true
	}
	for _, file := range []string{"prometheus/cmkd.rules.yml", "grafana/cmkd.json"} {
		content, err := os.ReadFile(shipped(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\bcmkd_\w+`).FindAllString(string(content), -1) {
			plain := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !known[name] && !known[plain] {
				t.Errorf("%s names %s, which is no metric", file, name)
			}
		}
	}
}

// TestExporter: nobody but this machine reads the metrics, by its own name, and a daemon
// that does not answer has no old ones.
func TestExporter(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	cmkctl := filepath.Join(rig.Binaries(t), "cmkctl")
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:9816", "nowhere", ":9816"} {
		out, err := exec.CommandContext(t.Context(), cmkctl, "metrics", "--socket", r.Socket, "--listen", address).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "127.0.0.1") {
			t.Errorf("--listen %s: %v %s", address, err, out)
		}
	}
	at := run(t, `http://([^/]+)/metrics`, exec.CommandContext(t.Context(), cmkctl, "metrics", "--socket", r.Socket, "--listen", "127.0.0.1:0"))
	for _, c := range []struct {
		method, path, host string
		status             int
	}{
		{"GET", "/metrics", "", http.StatusOK},
		{"GET", "/metrics", "attacker.example", http.StatusMisdirectedRequest},
		{"POST", "/metrics", "", http.StatusMethodNotAllowed},
		{"GET", "/status", "", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+at+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s of %q: %d, want %d", c.method, c.path, c.host, resp.StatusCode, c.status)
		}
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("without a daemon: %d", resp.StatusCode)
	}
}
