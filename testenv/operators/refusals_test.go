package operators

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// TestRefusedCallsAreRecorded makes calls that never come to an operation: each
// is recorded, and what one user can have written by them is bounded.
func TestRefusedCallsAreRecorded(t *testing.T) {
	t.Parallel()
	// One call may begin; all others are past the rate.
	r := rig.New(t, rig.Config{SocketExtra: "rate_per_user = 0.000001", Tables: "[audit]\nrefusal_burst = 100\n"})
	post := func(body, length string) (id, code string) {
		t.Helper()
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", r.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: %s\r\n\r\n%s", length, body)
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		_, code, _ = strings.Cut(string(answer), `{"__type":"`)
		code, _, _ = strings.Cut(code, `"`)
		return resp.Header.Get("X-Amzn-Requestid"), code
	}
	recorded := map[string]string{}
	for _, call := range []struct{ body, length, code string }{
		{"", "2000000", "RequestEntityTooLargeException"},
		{"{", "2", "SerializationException"}, // the one that begins
		{"{}", "2", "ThrottlingException"},
	} {
		id, code := post(call.body, call.length)
		if code != call.code {
			t.Errorf("answered %q, want %s", code, call.code)
		}
		recorded[id] = code
	}
	for range 300 {
		post("{}", "2")
	}
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Error(err)
	}
	throttled, counted := 0, 0
	for line := range strings.Lines(r.AuditTrail(t)) {
		for id, code := range recorded {
			if strings.Contains(line, id) && strings.Contains(line, `"eventName":"ListKeys"`) && strings.Contains(line, `"errorCode":"`+code+`"`) {
				delete(recorded, id)
			}
		}
		if _, n, ok := strings.Cut(line, `{"calls":`); ok {
			if _, err := fmt.Sscan(strings.SplitN(n, "}", 2)[0], &counted); err != nil {
				t.Error(err)
			}
		} else if strings.Contains(line, "ThrottlingException") {
			throttled++
		}
	}
	if len(recorded) > 0 {
		t.Errorf("not recorded: %v", recorded)
	}
	if throttled+counted != 301 || counted == 0 || throttled < 95 {
		t.Errorf("of 301 calls %d have a record and %d are counted", throttled, counted)
	}
}
