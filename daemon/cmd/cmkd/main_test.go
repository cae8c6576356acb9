package main

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	cmkd "cmkd/daemon"
)

// TestUsage: mistakes in the command line are told from trails that do not verify.
func TestUsage(t *testing.T) {
	t.Parallel()
	trail := t.TempDir()
	noKey := filepath.Join(trail, "no-key.pem")
	if err := os.WriteFile(noKey, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args  string
		usage bool
		want  string
	}{
		"no key":             {"-verify-audit DIR", true, "no public key is given"},
		"a key that is none": {"-verify-audit DIR DIR/no-key.pem", true, "is not a PEM file"},
		"no such key":        {"-verify-audit DIR DIR/missing.pem", true, "no such file"},
		"malformed head":     {"-chain-only -head 1 -verify-audit DIR", true, "is not SEQUENCE:HASH"},
		"malformed after":    {"-chain-only -after x:y -verify-audit DIR", true, "is not SEQUENCE:HASH"},
		"unknown flag":       {"-no-such", true, "not defined"},
		"no number":          {"-max-unsigned-records x", true, "invalid value"},
		"an argument":        {"x", true, "unexpected argument"},
		"empty trail":        {"-chain-only -verify-audit DIR", false, "does not verify"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(strings.Fields(strings.ReplaceAll(c.args, "DIR", trail)))
			if _, usage := errors.AsType[*cmkd.UsageError](err); err == nil || usage != c.usage || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, a mistake in the command line: %t", err, usage)
			}
		})
	}
}

// TestLogFormat: the log is text at a terminal, and JSON anywhere else.
func TestLogFormat(t *testing.T) {
	t.Parallel()
	tty, child, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		read, write *os.File
		want        string
	}{
		{tty, child, `level=WARN msg="the token is full" token=default`},
		{r, w, `"level":"WARN","msg":"the token is full","token":"default"}`},
	} {
		newLog(c.write).Warn("the token is full", "token", "default")
		line, err := bufio.NewReader(c.read).ReadString('\n')
		if err != nil || !strings.Contains(line, c.want) {
			t.Errorf("the log has %q, %v, want %s", line, err, c.want)
		}
		if err := errors.Join(c.write.Close(), c.read.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestNumber: one is singular.
func TestNumber(t *testing.T) {
	t.Parallel()
	if got := number(1, "segment") + ", " + number(0, "record") + ", " + number(uint64(2), "record"); got != "1 segment, 0 records, 2 records" {
		t.Error(got)
	}
}
