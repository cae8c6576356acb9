package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTrustedConfig: what a module reads, and the folder of the socket, must be out of
// the reach of other users, by whatever setting they are named.
func TestTrustedConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"good", "open", "sticky", "good/tokens", "open/tokens"} {
		must(os.Mkdir(at(folder), 0o755))
	}
	for _, name := range []string{"good/file", "good/open", "sticky/file", "open/file"} {
		must(os.WriteFile(at(name), nil, 0o644))
	}
	for name, tokens := range map[string]string{"good/good.conf": "good/tokens", "good/bad.conf": "open/tokens", "good/sticky.conf": "sticky", "good/open.conf": "good/tokens"} {
		must(os.WriteFile(at(name), []byte("log.level = ERROR\ndirectories.tokendir = "+at(tokens)+"\n"), 0o644))
	}
	must(unix.Mkfifo(at("good/fifo"), 0o666))
	for name, mode := range map[string]os.FileMode{
		"good/open": 0o666, "good/open.conf": 0o666, "good/fifo": 0o666, "open": 0o777, "sticky": 0o777 | os.ModeSticky,
	} {
		must(os.Chmod(at(name), mode))
	}
	env := func(name, value string) Token { return Token{Env: map[string]string{name: value}} }
	for _, c := range []struct {
		what   string
		socket string
		token  Token
		want   string // "": taken
	}{
		{"socket", at("good/cmkd.sock"), Token{}, ""},
		{"socket in a folder that is not there yet", at("good/later/cmkd.sock"), Token{}, ""},
		{"socket where nobody replaces it", at("sticky/cmkd.sock"), Token{}, ""},
		{"socket that others can replace", at("open/cmkd.sock"), Token{}, "folder of the socket: " + at("open") + " can be written by others"},
		{"file", "", env("CONF", at("good/file")), ""},
		{"device", "", env("LOG", "/dev/null"), ""},
		{"FIFO", "", env("LOG", at("good/fifo")), ""},
		{"folder for all", "", env("TMPDIR", at("sticky")), ""},
		{"no path", "", env("MODE", "open/file"), ""},
		{"nothing there", "", env("CONF", at("good/nothing")), ""},
		{"file of all", "", env("CONF", at("good/open")), "token : env CONF: " + at("good/open") + " can be written by others"},
		{"file in a folder of all", "", env("CONF", at("open/file")), "env CONF: " + at("open")},
		{"folder of all", "", env("HOME", at("open")), "or, if others have to write there, chmod +t " + at("open")},
		{"list", "", env("LD_LIBRARY_PATH", at("good")+":"+at("open/tokens")), "env LD_LIBRARY_PATH: " + at("open")},
		{"list of good ones", "", env("LD_LIBRARY_PATH", at("good")+":"+at("good/tokens")), ""},
		{"readable", "", Token{Sandbox: Sandbox{Readable: []string{at("good"), at("good/open")}}}, "sandbox.readable: " + at("good/open")},
		{"writable", "", Token{Sandbox: Sandbox{Writable: []string{at("good"), at("open")}}}, "sandbox.writable: " + at("open")},
		{"good ones", "", Token{Sandbox: Sandbox{Readable: []string{at("good/file")}, Writable: []string{at("sticky"), "/dev/null"}}}, ""},
		{"SoftHSM2", "", env("SOFTHSM2_CONF", at("good/good.conf")), ""},
		{"SoftHSM2 in a folder for all", "", env("SOFTHSM2_CONF", at("good/sticky.conf")), ""},
		{"SoftHSM2's tokens", "", env("SOFTHSM2_CONF", at("good/bad.conf")), "directories.tokendir in " + at("good/bad.conf") + ": " + at("open")},
		{"SoftHSM2's configuration", "", env("SOFTHSM2_CONF", at("good/open.conf")), "SoftHSM2's configuration: " + at("good/open.conf")},
		{"SoftHSM2's configuration is a FIFO of all", "", env("SOFTHSM2_CONF", at("good/fifo")), "SoftHSM2's configuration: " + at("good/fifo")},
	} {
		cfg := &Config{StateDir: at("good"), AuditDir: at("good"), Socket: Socket{Path: c.socket}, Tokens: []Token{c.token}}
		err := cfg.CheckTrusted()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "run ch")):
			t.Errorf("%s: %v, want %q and what to run", c.what, err, c.want)
		}
	}
}

// TestExchangedFile: a file that is exchanged for a FIFO while it is looked at makes
// nobody wait.
func TestExchangedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, fifo, path := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "pin")
	for _, err := range []error{os.WriteFile(file, []byte("1234\n"), 0o500), os.Link(file, path), unix.Mkfifo(fifo, 0o500)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // exchanges the names of the two
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, fifo, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for files, fifos := 0, 0; files < 1000 || fifos < 1000; {
			_, err := CheckPIN(path)
			switch {
			case err == nil:
				files++
			case strings.Contains(err.Error(), "not a regular file"):
				fifos++
			default:
				t.Error(err)
				return
			}
			if err := (&Plugin{Path: path, SHA256: strings.Repeat("0", 64)}).check(); err == nil {
				t.Error("no executable")
			}
		}
	}()
	select {
	case <-read:
	case <-time.After(time.Minute):
		t.Error("something waits for the other end of the FIFO")
	}
	close(stop)
	<-stopped
}
