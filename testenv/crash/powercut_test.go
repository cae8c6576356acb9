package crash

import (
	"bytes"
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cmkd/testenv"
	"cmkd/testenv/crash/disk"
)

const (
	diskSize = 96 << 20
	// cutsOfLife is how many power cuts are tried of one life of the daemon.
	cutsOfLife = 10
	// inNamespace is set in the process that has mounts of its own.
	inNamespace = "CMKD_CRASH_NAMESPACE"
)

// TestPowerCuts cuts the power at random moments of what TestKills does, with state
// and tokens on a disk that loses what was not flushed, and compares what was
// acknowledged with what is there when the machine is up again.
//
// The token's files are written through, as a token keeps what it answers for.
// SoftHSM2 does not do that on its own: see TestPowerCutsToken.
func TestPowerCuts(t *testing.T) { withMounts(t, func(t *testing.T) { powerCuts(t, true) }) }

// withMounts runs a test in a process with mounts of its own, which needs root.
func withMounts(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		f(t)
		return
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("power cuts are only tried by root: they mount file systems")
		return
	}
	args := []string{"--mount", "--propagation", "private", "--", testBinary(t), "-test.run=^" + t.Name() + "$", "-test.v"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	var out bytes.Buffer
	var both io.Writer = &out
	if testing.Verbose() { // it takes minutes: show how far it is
		both = io.MultiWriter(&out, os.Stdout)
	}
	cmd.Stdout, cmd.Stderr = both, both // one writer, to which exec.Cmd writes from one goroutine
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "--- PASS: "+t.Name()) {
		t.Errorf("with mounts of its own: %v\n%s", err, &out)
	}
}

// machine is a world on a disk.
type machine struct {
	*world
	disk    *disk.Disk
	folder  string // where the disk is mounted
	served  string // where the file is that is the disk
	image   string // a file for what is on the disk
	content []byte
}

func powerCuts(t *testing.T, durable bool) {
	t.Helper()
	cuts, seed := number(t, "CMKD_CRASH_CUTS", 3), number(t, "CMKD_CRASH_SEED", rand.Uint64()>>1)
	t.Logf("CMKD_CRASH_SEED=%d CMKD_CRASH_CUTS=%d", seed, cuts)
	sum := &tally{codes: map[string]int{}}
	random := rand.New(rand.NewPCG(seed, 2))
	m := newMachine(t, durable)
	for first := 0; first < cuts && !t.Failed(); first += cutsOfLife {
		from, end := m.live(t, random)
		last := m.world
		for i := range min(cutsOfLife, cuts-first) {
			w := m.clone()
			at := m.disk.Between(from, end, random)
			took, loss, problems := m.cut(t, w, at, random)
			sum.add(t, took, len(problems) == 0)
			t.Logf("cut %d at write %d of %d to %d, %+v: well after %v", first+i, at, from, end, loss, took)
			if len(problems) > 0 {
				t.Errorf("power cut %d of seed %d:\n%s", first+i, seed, strings.Join(problems, "\n"))
				return
			}
			last = w
		}
		sum.world(last)
		m.world = last
	}
	t.Logf("power cuts: %v", sum)
}

// newMachine makes a disk with a token and a state in it.
func newMachine(t *testing.T, durable bool) *machine {
	t.Helper()
	ctx := t.Context()
	m := &machine{folder: t.TempDir(), served: t.TempDir(), image: memoryFile(t)}
	var err error
	if m.content, err = disk.Format(ctx, m.image, diskSize); err != nil {
		t.Fatal(err)
	}
	if err := disk.Mount(ctx, m.image, m.folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "--lazy", m.folder).Run() }) // it may be unmounted
	t.Setenv("TMPDIR", m.folder)
	tokens := filepath.Join(m.folder, "token")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if durable { // what is made in it takes the attributes with it
		if out, err := exec.CommandContext(ctx, "chattr", "+S", "+D", tokens).CombinedOutput(); err != nil {
			t.Fatalf("chattr: %v\n%s", err, out)
		}
	}
	m.world = emptyWorld(t)
	m.start(t, testenv.NewTokenIn(t, tokens, "cmkd-test"))
	m.rig.Kill()
	if err := disk.Unmount(ctx, m.folder); err != nil {
		t.Fatal(err)
	}
	if m.content, err = os.ReadFile(m.image); err != nil {
		t.Fatal(err)
	}
	return m
}

// memoryFile is the path of a file that is in memory, where the system has a place for
// that: a flush need not reach a disk.
func memoryFile(t *testing.T) string {
	t.Helper()
	f, err := os.CreateTemp("/dev/shm", "cmkd-disk-")
	if err != nil {
		return filepath.Join(t.TempDir(), "disk")
	}
	_ = f.Close()
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	return f.Name()
}

// live lets callers work on the disk for a while, and returns the positions of its
// log in which a power cut is of interest.
func (m *machine) live(t *testing.T, random *rand.Rand) (from, end int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m.disk = disk.New(m.content, m.clock.ahead.Load)
	file, err := m.disk.Serve(m.served)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.disk.Close(); err != nil {
			t.Errorf("closing the disk: %v", err)
		}
	}()
	if err := disk.Mount(ctx, file, m.folder); err != nil {
		t.Fatal(err)
	}
	m.at = m.disk.Len
	m.rig.Start(t)
	if _, problem := m.recovered(ctx, time.Now().Add(recovery)); problem != "" {
		t.Fatal(problem)
	}
	from = m.disk.Len()
	m.life(m.now)
	killed := make(chan struct{})
	var working sync.WaitGroup
	for i, c := range m.callers(random) {
		if i == 4 {
			working.Go(func() { _ = c.letTimePass(ctx, killed) })
		} else {
			working.Go(func() { _ = c.run(ctx) })
		}
	}
	for enough, until := m.before+100+random.IntN(200), time.Now().Add(20*time.Second); m.count() < enough && time.Now().Before(until); {
		time.Sleep(time.Millisecond) // lets them work
	}
	end = m.disk.Len()
	m.rig.Kill()
	close(killed)
	working.Wait()
	if err := disk.Unmount(ctx, m.folder); err != nil {
		t.Fatal(err)
	}
	return from, end
}

// count is the number of the last call.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// clone is the world for one of several futures.
func (w *world) clone() *world {
	return &world{
		rig: w.rig, clock: w.clock, stores: w.stores, labels: w.labels, at: w.at, base: maps.Clone(w.base), now: maps.Clone(w.now), before: w.before,
		calls: slices.Clone(w.calls), next: w.next, ids: maps.Clone(w.ids), proofs: slices.Clone(w.proofs),
		deleted: maps.Clone(w.deleted), codes: maps.Clone(w.codes), cut: w.cut, done: w.done, back: w.back, nameless: w.nameless,
	}
}

// cut starts the machine again after a power cut at a position of the disk's log.
func (m *machine) cut(t *testing.T, w *world, at int, random *rand.Rand) (took time.Duration, loss disk.Loss, problems []string) {
	t.Helper()
	ctx := t.Context()
	content, loss := m.disk.After(at, random)
	if err := os.WriteFile(m.image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Mount(ctx, m.image, m.folder); err != nil {
		return 0, loss, []string{err.Error()}
	}
	w.clock.ahead.Store(m.disk.Stamp(at))
	w.clock.stop()
	begun := time.Now()
	w.rig.Start(t)
	_, problem := w.recovered(ctx, begun.Add(recovery))
	took = time.Since(begun)
	if problem != "" {
		problems = append(problems, problem)
	}
	problems = append(problems, w.check(t, at)...)
	w.forget(at)
	w.rig.Kill()
	if err := disk.Unmount(ctx, m.folder); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.content, err = os.ReadFile(m.image); err != nil {
		t.Fatal(err)
	}
	return took, loss, problems
}

// forget forgets what was after a power cut, and begins to count again.
func (w *world) forget(at int) {
	w.proofs = slices.DeleteFunc(w.proofs, func(p *proof) bool { return p.at > at })
	for i, p := range w.proofs {
		p := *p
		p.at = 0
		w.proofs[i] = &p
	}
}
