package main

import (
	"bytes"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"cmkd/testenv/rig"
)

// BenchmarkCall has one caller call a daemon that runs in this process, its plugins in
// their own. The allocations are those of the whole daemon, HTTP included: the caller makes
// none.
func BenchmarkCall(b *testing.B) {
	s := inProcess(b)
	for i := range operations {
		op := &operations[i]
		b.Run(op.name, func(b *testing.B) {
			c := newLoneCaller(b, s, op)
			b.ReportAllocs()
			for b.Loop() {
				c.call(b)
			}
		})
	}
}

// limits are the most allocations that a call may make in the whole daemon, HTTP and the audit trail
// included, by the name of the operation.
var limits = map[string]float64{
	"AES-GCM 32 B":      20,
	"AES-GCM 4 KiB":     20,
	"wrapped data key":  30,
	"HMAC-SHA-256 32 B": 20,
	"sign P-256":        26,
	"sign Ed25519 32 B": 22,
	"sign RSA-2048":     22,
}

// TestAllocations checks the calls against their limits. docs/performance.md says what allocates.
func TestAllocations(t *testing.T) { // not beside other tests, whose allocations would count
	s := inProcess(t)
	for i := range operations {
		op := &operations[i]
		c := newLoneCaller(t, s, op)
		got := math.Inf(1)
		for range 2 { // what a daemon does beside calls counts too
			got = min(got, testing.AllocsPerRun(100, func() { c.call(t) }))
		}
		t.Logf("%s: %v allocations", op.name, got)
		if most := limits[op.name] * detector; got > most {
			t.Errorf("%s: %v allocations, at most %v", op.name, got, most)
		}
	}
}

// inProcess starts a daemon in this process.
func inProcess(t testing.TB) *server {
	t.Helper()
	r := rig.New(t, rig.Config{})
	return &server{socket: r.Socket, http: r.HTTP()}
}

// loneCaller makes one call after the other and allocates nothing.
type loneCaller struct {
	fd      int
	request []byte
	answer  [64 << 10]byte
}

func newLoneCaller(t testing.TB, s *server, op *operation) *loneCaller {
	t.Helper()
	request, err := op.prepare(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.socket}); err != nil {
		t.Fatal(err)
	}
	c := &loneCaller{fd: fd, request: request}
	for range 100 { // fills what is made once
		c.call(t)
	}
	return c
}

func (c *loneCaller) call(t testing.TB) {
	if n, err := unix.Write(c.fd, c.request); n != len(c.request) || err != nil {
		t.Fatalf("wrote %d bytes: %v", n, err)
	}
	for n := 0; ; {
		m, err := unix.Read(c.fd, c.answer[n:])
		if err != nil || m == 0 {
			t.Fatalf("read %d bytes: %v", m, err)
		}
		n += m
		if !bytes.HasPrefix(c.answer[:n], []byte("HTTP/1.1 200 ")) {
			t.Fatalf("answer %q", c.answer[:n])
		}
		if c.answer[n-1] == '}' { // a JSON object ends, and none of these has another in it
			return
		}
	}
}
