package forget

import (
	"bytes"
	"strings"
	"testing"
)

// TestOutgoing: however net/http cuts what it writes, the zeros become the answer and
// the header stays.
func TestOutgoing(t *testing.T) {
	t.Parallel()
	const header, body = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "the answer\r\n\r\nwhole"
	written := header + strings.Repeat("\x00", len(body))
	for i := range len(written) + 1 {
		for k := i; k <= len(written); k++ {
			var a outgoing
			_, _ = a.Write([]byte(body[:5]))
			_, _ = a.Write([]byte(body[5:]))
			var got []byte
			for _, p := range []string{written[:i], written[i:k], written[k:]} {
				head, zeros := a.split([]byte(p))
				out, ok := a.next(len(zeros))
				if !ok {
					t.Fatalf("cut at %d and %d: more than the answer", i, k)
				}
				got = append(append(got, head...), out...)
			}
			if string(got) != header+body || !a.sentAll() {
				t.Errorf("cut at %d and %d: %q", i, k, got)
			}
			kept := (*a.buf)[:cap(*a.buf)]
			a.wipe()
			if bytes.Contains(kept, []byte("whole")) || a.buf != nil {
				t.Fatal("the answer is still there")
			}
		}
	}
}
