package callers

import "testing"

// TestComplete checks that an answer is taken as whole only with its last byte.
func TestComplete(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]int{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Amzn-Requestid: a\r\n\r\n{}":         200,
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{ }": 400,
	} {
		for n := range len(answer) {
			if status, err := complete([]byte(answer[:n])); status != 0 || err != nil {
				t.Errorf("first %d bytes: status %d, error %v", n, status, err)
			}
		}
		if status, err := complete([]byte(answer)); status != want || err != nil {
			t.Errorf("all of it: status %d, error %v", status, err)
		}
	}
	for _, bad := range []string{
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}",
	} {
		if status, err := complete([]byte(bad)); err == nil {
			t.Errorf("%q: status %d and no error", bad, status)
		}
	}
}
