package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkd/daemon"
	"cmkd/testenv/rig"
)

// disk is a small file system in a mount namespace of its own, over a folder: a
// disk that can be full or read-only.
type disk struct {
	folder string
	holder *exec.Cmd // keeps the namespace; its processes see the disk
}

// newDisk mounts a disk of so many MiB over a folder, which must exist.
func newDisk(t *testing.T, folder string, size int) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems in a namespace of its own, so it must run as root")
	}
	d := &disk{folder: folder, holder: exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private",
		"sh", "-c", fmt.Sprintf(`mount -t tmpfs -o size=%dm,mode=0700 cmkd "$0" && echo mounted && exec sleep infinity`, size), folder)}
	d.holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := d.holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.holder.Process.Kill()
		_ = d.holder.Wait()
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("mounting a file system in a namespace: %v", err)
	}
	return d
}

// wrap is for rig.Config: what was made in the folder outside is copied at the
// first start.
func (d *disk) wrap() []string {
	return []string{
		"nsenter", "--mount=" + fmt.Sprintf("/proc/%d/ns/mnt", d.holder.Process.Pid), "sh", "-c",
		`[ -e "$0/.copied" ] || { cp -a "/proc/` + fmt.Sprint(os.Getpid()) + `/root$0/." "$0/" && touch "$0/.copied"; } ; exec "$@"`, d.folder,
	}
}

// path is the folder as the test sees it.
func (d *disk) path() string { return fmt.Sprintf("/proc/%d/root%s", d.holder.Process.Pid, d.folder) }

// fill leaves no room on the disk.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.path(), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for b := make([]byte, size); ; {
			if _, err := f.Write(b); err != nil {
				break
			}
		}
	}
}

// empty makes room again.
func (d *disk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.path(), "filler")); err != nil {
		t.Fatal(err)
	}
}

// remount makes the disk read-only ("ro") or not ("rw").
func (d *disk) remount(t *testing.T, how string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.holder.Process.Pid),
		"mount", "-o", "remount,"+how, d.folder).CombinedOutput()
	if err != nil {
		t.Fatalf("remount,%s: %v: %s", how, err, out)
	}
}

// refused starts the daemon, which must not start, and returns what it says.
func (s *stage) refused(want string) {
	s.Helper()
	args := append(append([]string{}, s.Wrap...), filepath.Join(rig.Binaries(s.T), "cmkd"), "-config", s.rig.Path)
	cmd := exec.CommandContext(s.Context(), args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
		last := out.String()
		last = last[max(0, strings.LastIndex("\n"+last, "\ncmkd: ")):]
		if !strings.Contains(last, want) || cmd.ProcessState.ExitCode() != 1 {
			s.Errorf("the start ends with %v and says %q, not %q", cmd.ProcessState, last, want)
		}
		reason, _, _ := strings.Cut(strings.TrimPrefix(last, "cmkd: "), "\n")
		s.note("start refused: %.160s", strings.ReplaceAll(reason, s.rig.Dir, ""))
	case <-time.After(time.Minute):
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		s.Errorf("the daemon starts, or does not end in a minute:\n%s", out.String())
	}
}

// stop ends the daemon.
func (s *stage) stop() {
	s.Helper()
	if err := s.rig.Stop(); err != nil {
		s.Errorf("stopping cmkd: %v", err)
	}
}

// start starts it again.
func (s *stage) start() { s.Helper(); s.rig.Start(s.T) }

// copies are the files of the database.
func (s *stage) copies() map[string][]byte {
	s.Helper()
	files := map[string][]byte{}
	for _, suffix := range []string{"", "-wal"} {
		if content, err := os.ReadFile(s.database() + suffix); err == nil {
			files[suffix] = content
		}
	}
	return files
}

// restore puts the files of the database back.
func (s *stage) restore(files map[string][]byte) {
	s.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(s.database() + suffix) // it may not be there
	}
	for suffix, content := range files {
		write(s.T, s.database()+suffix, content)
	}
}

// offline changes the database of the stopped daemon, which then does not start,
// and puts it back.
func offline(want string, change func(*stage)) func(*stage) {
	return func(s *stage) {
		s.stop()
		files := s.copies()
		change(s)
		s.refused(want)
		s.restore(files)
		s.start()
	}
}

// rolledBack starts the daemon with the database of a moment ago.
func rolledBack(s *stage) {
	s.stop()
	old := s.copies()
	s.start()
	s.settle(s.T, time.Now())
	s.stop()
	s.restore(old)
	s.start()
}

// accepted ends it as operators do: they look, and accept what is there.
func accepted(s *stage) {
	var answer struct {
		Accepted bool
		Mismatch struct{ Root string }
	}
	for _, root := range []string{"", "looked at"} {
		if root != "" {
			root = answer.Mismatch.Root
		}
		status, body := s.post(s.T, "/accept-state", fmt.Sprintf(`{"root":%q}`, root))
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
			s.Fatalf("POST /accept-state: %d %s", status, body)
		}
	}
	if !answer.Accepted {
		s.Error("the state is not accepted")
	}
	if status, body := s.post(s.T, "/confirm-clock", "{}"); status != http.StatusOK {
		s.Errorf("POST /confirm-clock: %d %s", status, body)
	}
	if status, body := s.post(s.T, "/recover", `{"adopt":true}`); status != http.StatusOK {
		s.Errorf("POST /recover: %d %s", status, body)
	}
}

// locked keeps the database locked, as another program may that looks at it.
func locked(s *stage) {
	db := s.open(s.T)
	conn, err := db.Conn(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if _, err := conn.ExecContext(s.Context(), "BEGIN IMMEDIATE"); err != nil {
		s.Fatal(err)
	}
	s.undo = func() {
		_, _ = conn.ExecContext(s.Context(), "ROLLBACK") // closing does it, too
		_ = conn.Close()
		_ = db.Close()
	}
}

var changing = []kind{changes, creates}

var databaseRows = group{name: "database", set: plain, rows: []row{
	{
		name: "database locked for 15 s", quick: true, inject: locked, heal: undo, must: []string{internal}, only: changing,
		status: `"state":"degraded"`, lasts: 15 * time.Second, within: 12 * time.Second,
	},
	{
		name: "database rolled back", quick: true, inject: rolledBack, heal: accepted,
		must: []string{invalid}, callers: []string{noAnswer}, everybody: true, lasting: true,
		status: `"stateMismatch":"`, metric: `^cmkd_database_verified 0`, within: 5 * time.Second,
	},
	{
		name: "database deleted", quick: true, inject: offline("cmkd -init", func(s *stage) { s.restore(nil) }),
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "database deleted while the daemon runs", quick: true, inject: removed, heal: func(s *stage) { s.stop(); s.start() },
		callers: []string{noAnswer}, everybody: true, lasts: time.Second, within: 5 * time.Second,
	},
	{
		name: "database corrupt", inject: offline("database", corrupt),
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "each column of the database edited", inject: columns, shortened: true,
		callers: []string{noAnswer, invalid}, everybody: true, lasting: true, within: 5 * time.Second,
	},
}}

// removed deletes the files of the database, which the next commit makes again.
func removed(s *stage) {
	s.restore(nil)
	for began := time.Now(); ; {
		if _, err := os.Stat(s.database()); err == nil {
			return
		}
		if time.Since(began) > returns {
			s.Fatal("the database was deleted, and is not made again")
		}
		time.Sleep(5 * time.Millisecond) // polls the folder
	}
}

// corrupt overwrites every page but the first with noise.
func corrupt(s *stage) {
	content := read(s.T, s.database())
	for i := 4096; i < len(content); i++ {
		content[i] ^= byte(i*7 + 1)
	}
	_ = os.Remove(s.database() + "-wal") // it may not be there
	write(s.T, s.database(), content)
}

// databaseDisk has the state folder on a disk of its own, and the trail elsewhere.
func databaseDisk(t *testing.T) setup {
	t.Helper()
	set := plain(t)
	set.trail = filepath.Join(set.Dir, "trail")
	set.Extra = fmt.Sprintf("audit_dir = %q\n", set.trail)
	set.onDisk(t, set.state, 24)
	set.state = set.disk.path()
	return set
}

// trailDisk has the trail on a disk of its own.
func trailDisk(t *testing.T) setup {
	t.Helper()
	set := plain(t)
	folder := filepath.Join(set.Dir, "trail")
	set.Extra = fmt.Sprintf("audit_dir = %q\n", folder)
	set.onDisk(t, folder, 64)
	set.trail = set.disk.path()
	return set
}

// onDisk puts a folder on a disk.
func (set *setup) onDisk(t *testing.T, folder string, size int) {
	t.Helper()
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	set.disk = newDisk(t, folder, size)
	set.Wrap = set.disk.wrap()
}

func empty(s *stage) { s.disk.empty(s.T) }
func full(s *stage)  { s.disk.fill(s.T) }

// outage makes room, and waits until the trail that goes on tells of the outage.
func outage(s *stage) {
	s.disk.empty(s.T)
	for began := time.Now(); ; {
		report, err := daemon.VerifyTrail(s.trail, daemon.TrailOptions{ChainOnly: true})
		if err == nil && report.Outages > 0 {
			return
		}
		if time.Since(began) > returns {
			s.Errorf("the trail does not verify, or does not tell of the outage: %+v, %v", report, err)
			return
		}
		time.Sleep(20 * time.Millisecond) // polls the trail
	}
}

// readOnlyStart starts the daemon on a disk that is read-only, which it refuses.
func readOnlyStart(s *stage) {
	s.stop()
	s.disk.remount(s.T, "ro")
	s.refused("read-only file system")
	s.disk.remount(s.T, "rw")
	s.start()
}

var databaseDiskRows = group{name: "disk of the database", set: databaseDisk, rows: []row{
	{
		name: "database full", quick: true, inject: full, heal: empty, must: []string{internal}, only: changing,
		status: `"state":"degraded"`, lasts: 3 * time.Second, within: 5 * time.Second,
	},
	{
		name:   "start with a full database",
		inject: func(s *stage) { s.stop(); s.disk.fill(s.T); s.start() }, heal: empty,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true,
		status: `"state":"degraded"`, lasts: 3 * time.Second, within: 70 * time.Second,
	},
	{
		name: "database read-only at the start", quick: true, inject: readOnlyStart,
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
}}

var trailRows = group{name: "disk of the trail", set: trailDisk, rows: []row{
	{
		name: "trail full", quick: true, inject: full, heal: outage, must: []string{internal}, everybody: true,
		status: `"state":"degraded"`, metric: `^cmkd_audit_writable 0`, lasts: 2 * time.Second, within: 4 * time.Second,
	},
	{
		name: "trail read-only at the start", quick: true, inject: readOnlyStart,
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "every bit of 100 records of the trail", inject: bits, within: 5 * time.Second,
	},
	{
		name: "every cut of the trail", quick: true, inject: cuts, shortened: true,
		callers: []string{noAnswer, invalid}, everybody: true, lasting: true, within: 5 * time.Second,
	},
}}
