package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	image  string
	holder *exec.Cmd // keeps the namespace; its processes see the disk
}

// mounting mounts the image $1 over the folder $0.
const mounting = `mount -t ext4 -o loop,errors=remount-ro "$1" "$0"`

// newDisk mounts a disk of so many MiB over a folder, which must exist.
func newDisk(t *testing.T, folder string, size int) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems in a namespace of its own, so it must run as root")
	}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(size)<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-m", "0", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	d := &disk{folder: folder, image: image, holder: exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private",
		"sh", "-c", mounting+` && chmod 0700 "$0" && echo mounted && exec sleep infinity`, folder, image)}
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
		`[ -e "$0/.copied" ] || { cp -a "/proc/` + fmt.Sprint(os.Getpid()) + `/root$0/." "$0/" && touch "$0/.copied" && sync -f "$0"; } ; exec "$@"`, d.folder,
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

// remount makes the disk read-only ("ro") or not ("rw"). "abort" does what an error
// does that the file system comes upon.
func (d *disk) remount(t *testing.T, how string) {
	t.Helper()
	d.do(t, "mount", "-o", "remount,"+how, d.folder)
}

// again mounts the disk once more. Nobody may use it.
func (d *disk) again(t *testing.T) {
	t.Helper()
	d.do(t, "sh", "-c", `umount "$0" && `+mounting, d.folder, d.image)
}

// do runs a command where the disk is.
func (d *disk) do(t *testing.T, command ...string) {
	t.Helper()
	args := append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.holder.Process.Pid)}, command...)
	if out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", command, err, out)
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

// outage makes room, and waits until the trail that goes on reports the outage.
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

// endedFull ends the daemon while its trail has no room: it says that it does not
// know whether all is written. The next one has room.
func endedFull(s *stage) {
	s.disk.fill(s.T)
	for mark, began := s.load.mark(), time.Now(); !slices.ContainsFunc(s.load.since(mark), func(c call) bool { return c.code == internal }); {
		if time.Since(began) > seenWithin {
			s.Fatal("the trail is full, and calls are answered")
		}
		time.Sleep(5 * time.Millisecond) // polls the calls
	}
	err := s.rig.Stop()
	if s.rig.Process.ProcessState.ExitCode() != 1 {
		s.Errorf("the daemon ends with a full trail and says %v", err)
	}
	s.note("SIGTERM: %v", err)
	s.disk.empty(s.T)
	s.start()
}

// segmentAway moves the newest segment of the trail away.
func segmentAway(s *stage) {
	list := segments(s.T, s.trail)
	segment := list[len(list)-1]
	s.move(segment, segment+".away")
	s.undo = func() {
		err := s.rig.Stop()
		s.note("SIGTERM: %v", err)
		s.move(segment+".away", segment)
		s.start()
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

// failed has the file system of a disk come upon an error, after which it is
// read-only for those, too, that have files open for writing.
func failed(s *stage) { s.disk.remount(s.T, "abort") }

// replacedDisk ends the daemon and mounts the disk again, as operators do.
func replacedDisk(s *stage) {
	err := s.rig.Stop() // it may have records to write
	s.note("SIGTERM: %v", err)
	s.disk.again(s.T)
	s.start()
}

// replacedTrail is replacedDisk for the trail. Seldom, Linux acknowledges a sync that meets
// the abort and forgets what it was about: then the trail ends before what the database
// knows of it, which the daemon says and operators accept.
func replacedTrail(s *stage) {
	replacedDisk(s)
	if _, text := s.rig.Ask(s.T, "GET", "/status", ""); strings.Contains(text, "the log ends too early") {
		s.note("the disk lost a record that it had acknowledged: accepted")
		accepted(s)
	}
}

var trailBroken = said("ERROR", "the audit trail cannot be written")

var databaseDiskRows = group{name: "disk of the database", set: databaseDisk, rows: []row{
	{
		name: "database full", quick: true, inject: full, heal: empty, must: []string{internal}, only: changing,
		status: `"databaseError":"`, metric: notWritable, log: databaseBroken, prompt: 2 * time.Second, lasts: 3 * time.Second, within: 5 * time.Second,
	},
	{
		name:   "start with a full database",
		inject: func(s *stage) { s.stop(); s.disk.fill(s.T); s.start() }, heal: empty,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true, only: changing,
		status: `"epochError":"`, metric: noEpoch, log: epochGoesOn, prompt: 2 * time.Second, lasts: 3 * time.Second, within: 70 * time.Second,
	},
	{
		name: "database read-only while the daemon runs", quick: true, inject: failed, heal: replacedDisk,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true, only: changing,
		status: `"databaseError":"`, metric: notWritable, log: databaseBroken, lasts: 2 * time.Second, within: 5 * time.Second,
	},
	{
		name: "database read-only at the start", quick: true, inject: readOnlyStart,
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
}}

var trailRows = group{name: "disk of the trail", set: trailDisk, rows: []row{
	{
		name: "trail full", quick: true, inject: full, heal: outage, must: []string{internal}, everybody: true,
		status: `"auditError":"`, metric: `^cmkd_audit_writable 0`, log: trailBroken, lasts: 2 * time.Second, within: 4 * time.Second,
	},
	{
		name: "trail read-only while the daemon runs", inject: failed, heal: replacedTrail,
		must: []string{internal}, callers: []string{noAnswer}, everybody: true,
		status: `"auditError":"`, metric: `^cmkd_audit_writable 0`, log: trailBroken, lasts: 2 * time.Second, within: 5 * time.Second,
	},
	{
		name: "trail read-only at the start", quick: true, inject: readOnlyStart,
		callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "SIGTERM with a full trail", inject: endedFull, must: []string{internal}, callers: []string{noAnswer}, everybody: true,
		log: trailBroken, within: 5 * time.Second,
	},
	{
		name: "trail moved away while the daemon runs", inject: segmentAway, heal: undo,
		must: []string{invalid}, callers: []string{noAnswer, internal}, everybody: true, lasting: true,
		status: `"auditMismatch":"`, metric: `^cmkd_audit_verified 0`, log: said("ERROR", "the database does not verify"), within: 5 * time.Second,
	},
	{
		name: "every bit of 100 records of the trail", inject: bits, within: 5 * time.Second,
	},
	{
		name: "every cut of the trail", quick: true, inject: cuts, shortened: true,
		callers: []string{noAnswer, invalid}, everybody: true, lasting: true, within: 5 * time.Second,
	},
}}
