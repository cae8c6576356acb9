package socket

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestAnswersArriveWhole: answers of all lengths arrive as the handler wrote them, one after
// the other on one connection, without a length, to HEAD, and when requests come ahead of
// answers.
func TestAnswersArriveWhole(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return strings.Repeat("0123456789abcde\n", n/16+1)[:n] }
	s := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Query().Get("how") != "chunked" {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		size := n/2 + 1
		if r.URL.Query().Get("how") == "parts" { // of which net/http keeps nothing back
			size = 8 << 10
		}
		for part := range slices.Chunk([]byte(text(n)), size) {
			if _, err := w.Write(part); err != nil {
				t.Error(err)
			}
		}
	}))
	lengths := []int{0, 1, 2, 100, 1900, 2047, 2048, 2049, 3800, 4095, 4096, 4097, 5000, 8192, 8193, 20_000, 300_000}
	c := dial(t, s.path)
	for _, how := range []string{"", "parts", "chunked", "head"} {
		for _, n := range lengths {
			method := "GET"
			if how == "head" {
				method = "HEAD"
			}
			c.send(t, fmt.Sprintf("%s /?n=%d&how=%s HTTP/1.1\r\nHost: localhost\r\n\r\n", method, n, how))
			resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := text(n)
			if method == "HEAD" {
				want = ""
			}
			if err != nil || string(body) != want {
				t.Errorf("%d bytes, %s: %d came, %v", n, how, len(body), err)
			}
		}
	}
	var ahead strings.Builder
	for _, n := range lengths {
		fmt.Fprintf(&ahead, "GET /?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n", n)
	}
	c.send(t, ahead.String())
	for _, n := range lengths {
		if a := c.receive(t); a.body != text(n) {
			t.Errorf("%d bytes, asked for ahead: %d came", n, len(a.body))
		}
	}
}

// TestRequestsAreForgotten looks, while it serves a request, at the buffer from which net/http
// read it: what the request before left there is gone, and when the connection ends with
// this one that is, too.
func TestRequestsAreForgotten(t *testing.T) {
	t.Parallel()
	windows := make(chan []byte, 2)
	served := make(chan *conn, 2)
	s := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		c := r.Context().Value(connKey{}).(*conn)
		windows <- bytes.Clone(c.buffers.Window())
		served <- c
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "0")
	}))
	request := func(secret string, header string) string {
		return fmt.Sprintf("POST /other HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s", header, len(secret), secret)
	}
	first, second := strings.Repeat("a long secret ", 100), "another secret"
	c := dial(t, s.path)
	c.send(t, request(first, ""))
	c.receive(t)
	if !bytes.Contains(<-windows, []byte("secret")) {
		t.Fatal("the buffer of net/http is not where it is looked for")
	}
	<-served
	c.send(t, request(second, "Connection: close\r\n"))
	c.receive(t)
	if w := <-windows; bytes.Contains(w, []byte("a long secret")) || !bytes.Contains(w, []byte(second)) {
		t.Errorf("the request before is still there: %q", w)
	}
	if _, err := c.r.ReadByte(); err == nil { // the connection has ended, and so has its goroutine's use of it
		t.Error("the connection goes on")
	}
	if kept := <-served; !kept.buffers.Ended() {
		t.Error("the last request of a connection is not forgotten")
	}
}
