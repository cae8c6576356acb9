// Command bench times cmkctl seal and open of a large file from and to a RAM disk, beside the
// cipher alone (openssl speed), age and cp, in rounds of one run:
//
//	unshare --mount --propagation private bench -bin bin -mib 4096 -rounds 3
//
// It mounts the RAM disk, so that it takes root and a mount namespace of its own, and room
// for the file twice.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	b := &bench{best: map[string][]result{}}
	flag.StringVar(&b.bin, "bin", "bin", "`folder` of cmkd's programs")
	flag.IntVar(&b.mib, "mib", 4096, "length of the file in `MiB`")
	flag.StringVar(&b.huge, "huge", "always", "pages of the RAM disk: always or never huge ones (tmpfs(5))")
	rounds := flag.Int("rounds", 3, "how often")
	flag.Parse()
	if err := b.run(context.Background(), *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, huge string
	mib       int
	dir       string // the RAM disk
	env       []string
	best      map[string][]result // by what was done
}

// result is what a command took.
type result struct {
	wall, processor time.Duration
	rss             int64 // KiB
}

func (b *bench) run(ctx context.Context, rounds int) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	defer os.Remove(b.dir) //nolint:errcheck // an empty folder
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, "mode=0700,huge="+b.huge); err != nil {
		return fmt.Errorf("mounting a RAM disk, as root in a namespace of its own: %w", err)
	}
	defer unix.Unmount(b.dir, unix.MNT_DETACH) //nolint:errcheck // it goes with the namespace
	stop, err := b.daemon(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	fmt.Printf("%d MiB from and to tmpfs with huge=%s, %d cores, load %s\n", b.mib, b.huge, runtime.NumCPU(), load())
	for i := range rounds {
		if err := b.round(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// daemon starts one and makes a key.
func (b *bench) daemon(ctx context.Context) (stop func(), err error) {
	env := filepath.Join(b.dir, "env")
	dev := exec.CommandContext(ctx, filepath.Join(b.bin, "cmkctl"), "dev", "--env-file", env)
	dev.Stderr = io.Discard
	if err := dev.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = dev.Process.Signal(syscall.SIGTERM)
		_ = dev.Wait()
	}
	for range 600 {
		text, err := os.ReadFile(env)
		if m := regexp.MustCompile(`CMKD_SOCKET=['"]?([^'"\s]+)`).FindSubmatch(text); err == nil && m != nil {
			b.env = append(os.Environ(), "CMKD_SOCKET="+string(m[1]))
			if _, err := b.command(ctx, filepath.Join(b.bin, "cmkctl"), "key", "create", "--alias", "bench"); err != nil {
				stop()
				return nil, err
			}
			return stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	return nil, errors.New("cmkctl dev is not ready after a minute")
}

// prepare makes the file and a key of age, and touches the memory that the disk will take: that of
// a virtual machine is slow the first time.
func (b *bench) prepare(ctx context.Context) error {
	f, err := os.Create(filepath.Join(b.dir, "plain"))
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), int64(b.mib)<<20); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if _, err := b.command(ctx, "cp", "plain", "copy"); err != nil {
		return err
	}
	if _, err := exec.LookPath("age"); err == nil {
		if _, err := b.command(ctx, "age-keygen", "-o", "identity"); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(b.dir, "copy"))
}

func (b *bench) round(ctx context.Context, n int) error {
	one, busy, err := b.cipher(ctx, 1)
	if err != nil {
		return err
	}
	all, _, err := b.cipher(ctx, runtime.NumCPU())
	if err != nil {
		return err
	}
	fmt.Printf("round %d, load %s: openssl speed -evp aes-256-gcm %.2f GB/s, on all cores %.2f GB/s\n", n+1, load(), one/1e9, all/1e9)
	before, err := b.hash()
	if err != nil {
		return err
	}
	ctl := filepath.Join(b.bin, "cmkctl")
	steps := []struct {
		name, from, to string
		command        []string
	}{
		{"cp", "plain", "copy", []string{"cp", "plain", "copy"}},
		{"cp back", "copy", "plain", []string{"cp", "copy", "plain"}},
		{"cmkctl seal", "plain", "sealed", []string{ctl, "seal", "-k", "alias/bench", "--out", "sealed", "plain"}},
		{"cmkctl open", "sealed", "plain", []string{ctl, "open", "--out", "plain", "sealed"}},
		{"age -e", "plain", "aged", []string{"age", "-e", "-i", "identity", "-o", "aged", "plain"}},
		{"age -d", "aged", "plain", []string{"age", "-d", "-i", "identity", "-o", "plain", "aged"}},
	}
	for _, s := range steps {
		if _, err := exec.LookPath(s.command[0]); err != nil {
			continue
		}
		r, err := b.command(ctx, s.command[0], s.command[1:]...)
		if err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(b.dir, s.from)); err != nil {
			return err
		}
		b.best[s.name] = append(b.best[s.name], r)
		rate := func(r result) float64 { return float64(int64(b.mib)<<20) / r.wall.Seconds() }
		fastest := slices.MinFunc(b.best[s.name], func(a, b result) int { return int(a.wall - b.wall) })
		fmt.Printf("  %-12s %5.2f GB/s, %.2f of openssl (all cores %.2f), %.2f s of processor per GiB (a second of it does %.2f of openssl's), %d MiB; fastest so far %.2f GB/s\n", s.name,
			rate(r)/1e9, rate(r)/one, rate(r)/all, r.processor.Seconds()*1024/float64(b.mib), float64(int64(b.mib)<<20)/r.processor.Seconds()/busy, r.rss>>10, rate(fastest)/1e9)
	}
	after, err := b.hash()
	if err == nil && after != before {
		err = errors.New("what came back is not what was sealed")
	}
	return err
}

// cipher is openssl's rate on some cores, in bytes for each second that passes and for
// each of processor time.
func (b *bench) cipher(ctx context.Context, cores int) (rate, busy float64, err error) {
	const seconds = 2
	args := []string{"speed", "-elapsed", "-evp", "aes-256-gcm", "-seconds", strconv.Itoa(seconds), "-bytes", "65536"}
	if cores > 1 {
		args = append(args, "-multi", strconv.Itoa(cores))
	}
	cmd := exec.CommandContext(ctx, "openssl", args...)
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, err
	}
	m := regexp.MustCompile(`(?m)^AES-256-GCM\s+([0-9.]+)k`).FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("openssl speed said %q", out)
	}
	if rate, err = strconv.ParseFloat(string(m[1]), 64); err != nil {
		return 0, 0, err
	}
	rate *= 1000
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return rate, rate * seconds / used.Seconds(), nil
}

// command runs a command in the RAM disk.
func (b *bench) command(ctx context.Context, name string, args ...string) (result, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = b.dir, b.env
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	r := result{wall: time.Since(begun), processor: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.rss = usage.Maxrss
	}
	return r, nil
}

func (b *bench) hash() (string, error) {
	f, err := os.Open(filepath.Join(b.dir, "plain"))
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it is only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return string(h.Sum(nil)), nil
}

// load is that of the machine in the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
