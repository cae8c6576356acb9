package ship

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/octetcounting"
	"github.com/leodido/go-syslog/v4/rfc5424"
	"go.uber.org/goleak"

	"cmkd/daemon/audit"
	"cmkd/testenv/trails"
)

// childEnv makes the test binary a receiver: see childReceives.
const childEnv = "CMKD_SHIP_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "unix":
		childReceives(os.Args[1], os.Args[2])
	default:
		goleak.VerifyTestMain(m)
	}
}

// childReceives listens on a Unix socket and stores each message before it reads the
// next, as a syslog server that is killed at any moment.
func childReceives(socket, file string) {
	_ = os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		store(conn, out)
		conn.Close()
	}
}

// store parses messages (RFC 5424 with octet counting) and writes the records in them.
func store(from io.Reader, to io.Writer) {
	octetcounting.NewParser(syslog.WithMaxMessageLength(audit.MaxLine+1024), syslog.WithListener(func(r *syslog.Result) {
		if r.Error != nil {
			return // the end
		}
		m := r.Message.(*rfc5424.SyslogMessage)
		if *m.Facility != facilityAudit || *m.Appname != "cmkd" {
			fmt.Fprintf(to, "bad message %+v\n", m)
		}
		fmt.Fprintln(to, *m.Message)
	})).Parse(from)
}

func openTrail(t *testing.T, dir string) *audit.Log {
	t.Helper()
	l, err := audit.Open(audit.Config{Dir: dir, SegmentBytes: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func appendN(t *testing.T, l *audit.Log, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if err := l.Append(context.Background(), trails.Record(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// until polls.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func start(t *testing.T, l *audit.Log, dir string, r Receiver) *Shipper {
	t.Helper()
	s, err := Start(Config{Dir: dir, Position: dir + ".json", Source: l, Receiver: r, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// complete checks that a file has the records 1 to n, each at least once, as in the trail.
func complete(t *testing.T, file, dir string, n uint64) (lines int) {
	t.Helper()
	want := map[string]bool{}
	if err := audit.Scan(dir, func(line []byte) error { want[string(line)] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]bool{}
	for line := range bytes.Lines(text) {
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		if !whole {
			continue
		}
		if !want[string(line)] {
			t.Fatalf("received, and not in the trail: %.300s", line)
		}
		got[audit.LineSequence(line)] = true
		lines++
	}
	for i := uint64(1); i <= n; i++ {
		if !got[i] {
			t.Fatalf("record %d is missing, %d of %d are there", i, len(got), n)
		}
	}
	return lines
}

// TestProgram: all records, in order, once; and again from where it was.
func TestProgram(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	file := filepath.Join(t.TempDir(), "out")
	l := openTrail(t, dir)
	appendN(t, l, 0, 500)
	p := &Program{Command: []string{"/bin/sh", "-c", "env >" + file + ".env; ls -l /proc/$$/fd >" + file + ".fd; exec cat >>" + file}, settle: 50 * time.Millisecond}
	leak, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	s := start(t, l, dir, p)
	until(t, "500 records", func() bool { return s.Status().Records == 0 })
	appendN(t, l, 500, 10)
	until(t, "510 records", func() bool { return s.Status().Position == 510 })
	s.Stop()
	if st := s.Status(); st.Position != 510 || st.Lag(time.Now()) != 0 {
		t.Errorf("status %+v", st)
	}
	appendN(t, l, 510, 90)
	s = start(t, l, dir, p)
	until(t, "600 records", func() bool { return s.Status().Position == 600 })
	if n := complete(t, file, dir, 600); n != 600 {
		t.Errorf("%d lines, want each record once", n)
	}
	env, _ := os.ReadFile(file + ".env")
	for line := range strings.Lines(string(env)) {
		if name, _, _ := strings.Cut(line, "="); name != "PATH" && name != "PWD" && name != "SHLVL" && name != "_" && name != "OLDPWD" {
			t.Errorf("the program has %q", line)
		}
	}
	fds, _ := os.ReadFile(file + ".fd")
	if n := strings.Count(string(fds), "->"); n > 4 { // 0, 1, 2 and the shell's own
		t.Errorf("the program has descriptors:\n%s", fds)
	}
}

// TestAcknowledged: what a program has read and not acknowledged is sent again.
func TestAcknowledged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	file := filepath.Join(t.TempDir(), "out")
	l := openTrail(t, dir)
	appendN(t, l, 0, 100)
	// It reads everything, stores the first 30 and ends.
	lossy := &Program{Acknowledges: true, Command: []string{"/bin/sh", "-c", "head -n 30 >>" + file + "; echo 30; cat >/dev/null; sleep 1; exit 3"}}
	s := start(t, l, dir, lossy)
	until(t, "30 records", func() bool { return s.Status().Position == 30 })
	appendN(t, l, 100, 1)
	s.Stop()
	if p, err := readPosition(dir + ".json"); err != nil || p.Sequence != 30 {
		t.Fatalf("position %+v, %v", p, err)
	}
}

// TestUnixKilled kills the receiver again and again: the trail arrives whole.
func TestUnixKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	short, err := os.MkdirTemp("", "ship")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	socket, file := filepath.Join(short, "s"), filepath.Join(t.TempDir(), "out")
	l := openTrail(t, dir)
	s := start(t, l, dir, &Unix{Path: socket, settle: 100 * time.Millisecond})
	n := 0
	for range 5 {
		child := exec.CommandContext(t.Context(), os.Args[0], socket, file)
		child.Env = append(os.Environ(), childEnv+"=unix")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		before := s.Status().Position
		appendN(t, l, n, 300)
		n += 300
		until(t, "progress", func() bool { return s.Status().Position > before })
		appendN(t, l, n, 100)
		n += 100
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		child.Wait()
	}
	child := exec.CommandContext(t.Context(), os.Args[0], socket, file)
	child.Env = append(os.Environ(), childEnv+"=unix")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); child.Wait() }()
	until(t, "all records", func() bool { return s.Status().Records == 0 })
	complete(t, file, dir, uint64(n))
}

// TestAway: without a receiver, and with one that reads nothing, records are appended as
// ever, and the status says how far it is behind.
func TestAway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	l := openTrail(t, dir)
	s := start(t, l, dir, &Unix{Path: filepath.Join(dir, "none")})
	appendN(t, l, 0, 10)
	until(t, "an error", func() bool { return s.Status().Error != "" })
	if st := s.Status(); st.Records != 10 || st.Lag(time.Now()) < time.Hour || st.Since.IsZero() {
		t.Errorf("status %+v", st)
	}
	s.Stop()
	stuck := start(t, l, dir, &Program{Command: []string{"/bin/sleep", "1000"}})
	appendN(t, l, 10, 2000)
	if st := stuck.Status(); st.Position != 0 || st.Records != 2010 {
		t.Errorf("status %+v", st)
	}
	began := time.Now()
	stuck.Stop()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("stopping took %v", took)
	}
}

// TestTLS: with certificates on both sides; what a receiver does not confirm by
// close_notify is sent again, a server that is not the named one gets nothing.
func TestTLS(t *testing.T) {
	t.Parallel()
	pool, own := certificate(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var received bytes.Buffer
	rude := true // the first connection ends as when the receiver is killed
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if rude {
				rude = false
				bufio.NewReader(conn).ReadByte()
				conn.(*tls.Conn).NetConn().Close()
			} else {
				store(conn, &received)
				conn.Close()
			}
			mu.Unlock()
		}
	})
	defer serving.Wait()
	defer ln.Close()
	dir := filepath.Join(t.TempDir(), "audit")
	l := openTrail(t, dir)
	appendN(t, l, 0, 300)
	client := &tls.Config{RootCAs: pool, ServerName: "receiver.test", Certificates: []tls.Certificate{own}}
	s := start(t, l, dir, &TLS{Address: ln.Addr().String(), Config: client})
	until(t, "all records", func() bool { return s.Status().Records == 0 })
	s.Stop()
	mu.Lock()
	file := filepath.Join(t.TempDir(), "out")
	err = os.WriteFile(file, received.Bytes(), 0o600)
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	complete(t, file, dir, 300)
	wrong := client.Clone()
	wrong.ServerName = "other.test"
	if conn, err := (&TLS{Address: ln.Addr().String(), Config: wrong}).Open(t.Context()); err == nil {
		conn.Close()
		t.Error("another server's certificate was accepted")
	}
}

func certificate(t *testing.T) (*x509.CertPool, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"receiver.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestPosition: another receiver, another trail and a trail that was rolled back are
// shipped from the beginning; a file that is not a position is an error.
func TestPosition(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	l := openTrail(t, dir)
	appendN(t, l, 0, 20)
	path := dir + ".json"
	_, hash := l.Head()
	u := &Unix{Path: filepath.Join(dir, "none")}
	for name, c := range map[string]struct {
		p    position
		want uint64
	}{
		"the same":         {position{To: u.String(), Sequence: 20, Hash: hexText(hash)}, 20},
		"another receiver": {position{To: "unix:/x", Sequence: 20, Hash: hexText(hash)}, 0},
		"another trail":    {position{To: u.String(), Sequence: 20, Hash: hexText([32]byte{1})}, 0},
		"rolled back":      {position{To: u.String(), Sequence: 21, Hash: hexText(hash)}, 0},
	} {
		if err := c.p.write(path); err != nil {
			t.Fatal(err)
		}
		s := start(t, l, dir, u)
		if got := s.Status().Position; got != c.want {
			t.Errorf("%s: begins behind %d, want %d", name, got, c.want)
		}
		s.Stop()
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Config{Dir: dir, Position: path, Source: l, Receiver: u, Logger: slog.New(slog.DiscardHandler)}); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a broken position: %v", err)
	}
}
