package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func testBinary(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// number is a number that the environment may set: `make crash` asks for more than the
// tests do.
func number[N int | uint64](t testing.TB, variable string, preset N) N {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return preset
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a number from 1, not %q", variable, text)
	}
	return N(n)
}

// killsOfRig is how many kills a daemon and its tokens live through: SoftHSM2 becomes
// slower with each object that was ever there.
const killsOfRig = 50

// expected are the errors that callers may see, although plugins are killed: time passes
// while material is on its way.
var expected = map[string]bool{
	"ImportKeyMaterial ExpiredImportTokenException": true,
	"ImportKeyMaterial InvalidImportTokenException": true,
}

// tally is what came of the kills, or of the power cuts.
type tally struct {
	mu    sync.Mutex
	times []time.Duration // until the daemon was well again
	good  int
	codes map[string]int // errors that callers saw, by operation and code

	calls, cut, done, back, nameless int // as in world
}

func (y *tally) add(t *testing.T, took time.Duration, good bool) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.times = append(y.times, took)
	if good {
		y.good++
	}
	if n := len(y.times); n%50 == 0 {
		t.Logf("%d of %d so far", y.good, n)
	}
}

func (y *tally) world(w *world) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for c, n := range w.codes {
		y.codes[c] += n
	}
	y.calls, y.cut, y.done, y.back = y.calls+w.next, y.cut+w.cut, y.done+w.done, y.back+w.back
	y.nameless += w.nameless
}

func (y *tally) String() string {
	slices.Sort(y.times)
	var errors []string
	for c, n := range y.codes {
		errors = append(errors, fmt.Sprintf("%s %d", c, n))
	}
	slices.Sort(errors)
	text := fmt.Sprintf("%d calls, %d of them cut off, of which %d happened and %d had a record taken back, %d left a nameless object in SoftHSM2; errors: %s", y.calls, y.cut, y.done, y.back, y.nameless, strings.Join(errors, ", "))
	if len(y.times) == 0 {
		return text
	}
	return fmt.Sprintf("%d of %d, well again after %v (median), %v (worst); %s",
		y.good, len(y.times), y.times[len(y.times)/2].Round(time.Millisecond), y.times[len(y.times)-1].Round(time.Millisecond), text)
}

// TestKills kills the daemon, its plugins, or both, at random moments of all that
// changes something, and in its start, and compares what was acknowledged with what is
// there after the next start.
func TestKills(t *testing.T) {
	t.Parallel()
	kills, seed := number(t, "CMKD_CRASH_KILLS", 15), number(t, "CMKD_CRASH_SEED", rand.Uint64()>>1)
	t.Logf("CMKD_CRASH_SEED=%d CMKD_CRASH_KILLS=%d", seed, kills)
	sum := &tally{codes: map[string]int{}}
	t.Run("rigs", func(t *testing.T) {
		for first := 0; first < kills; first += killsOfRig {
			t.Run(strconv.Itoa(first), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, uint64(first)))
				w := newWorld(t, first/killsOfRig%3 == 0)
				for i := range min(killsOfRig, kills-first) {
					took, problems := w.killOnce(t, random)
					sum.add(t, took, len(problems) == 0)
					if len(problems) > 0 {
						t.Errorf("kill %d of seed %d:\n%s", first+i, seed, strings.Join(problems, "\n"))
						break
					}
				}
				for code, n := range w.codes {
					if !expected[code] {
						t.Errorf("%d times %s", n, code)
					}
				}
				sum.world(w)
			})
		}
	})
	t.Logf("kills: %v", sum)
}

// killOnce lets callers work, kills something, and checks what is left.
func (w *world) killOnce(t *testing.T, random *rand.Rand) (took time.Duration, problems []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	killed := make(chan struct{})
	var working sync.WaitGroup
	failures := make(chan error, 8)
	callers := w.callers(random)
	timePasses := random.IntN(2) == 0
	for i, c := range callers {
		if i == len(callers)-1 {
			if timePasses {
				working.Go(func() { failures <- c.letTimePass(ctx, killed) })
			}
		} else {
			working.Go(func() { failures <- c.run(ctx) })
		}
	}
	delay := time.Duration(random.Int64N(int64(600 * time.Millisecond)))
	select {
	case <-time.After(delay):
	case err := <-failures:
		return 0, []string{fmt.Sprintf("before the kill: %v", err)}
	}
	var begun time.Time
	switch what := random.IntN(5); what {
	case 0: // plugins alone
		begun = time.Now()
		w.killPlugins(t, random)
		time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
		cancel()
		working.Wait()
		for len(failures) > 0 {
			if err := <-failures; err != nil {
				problems = append(problems, fmt.Sprintf("while plugins were killed: %v", err))
			}
		}
	default:
		if what == 1 {
			w.killPlugins(t, random)
			time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
		}
		w.rig.Kill()
		close(killed)
		working.Wait()
		w.clock.stop()
		if random.IntN(6) == 0 {
			w.killInStart(t, random)
		}
		begun = time.Now()
		w.rig.Start(t)
	}
	_, problem := w.recovered(t.Context(), begun.Add(recovery))
	took = time.Since(begun)
	if problem != "" {
		return took, append(problems, problem)
	}
	return took, append(problems, w.check(t, 0)...)
}

// killPlugins kills one plugin or several.
func (w *world) killPlugins(t *testing.T, random *rand.Rand) {
	t.Helper()
	h, err := w.health(t.Context())
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	for _, p := range h.Plugins {
		if p.PID > 0 && random.IntN(2) == 0 {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may have ended
		}
	}
}

// killInStart kills the daemon while it starts.
func (w *world) killInStart(t *testing.T, random *rand.Rand) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testBinary(t), asDaemon, w.clock.path, "cmkd", "-config", w.rig.Path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(random.Int64N(int64(500 * time.Millisecond))))
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	w.clock.stop()
}
