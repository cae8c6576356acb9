// Command cmkd is the daemon. It reads one configuration file and serves the
// AWS KMS API on a Unix socket.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	cmkd "cmkd/daemon"
	"cmkd/version"
)

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "cmkd:", err)
	if _, ok := errors.AsType[*cmkd.UsageError](err); ok {
		os.Exit(2)
	}
	os.Exit(1)
}

// run does what the flags say.
func run(args []string) error {
	flags := flag.NewFlagSet("cmkd", flag.ContinueOnError)
	config := flags.String("config", "/etc/cmkd/config.toml", "configuration `file`")
	initialise := flags.Bool("init", false, "make the daemon's own keys in the token and exit")
	check := flags.Bool("check", false, "read all that a start reads, but for the token and the database, and exit")
	copyTo := flags.String("copy-store", "", "copy the database into the empty one of another configuration `file`, verify both, and exit")
	probe := flags.Bool("probe", false, "probe the tokens, print what they can do as JSON, and exit")
	verify := flags.String("verify-audit", "", "verify the audit trail in `folder`, with the audit-key-*.pem files that follow, and exit")
	restore := flags.String("restore", "", "compare the backup in `file` with the database, print what would change as JSON, and exit")
	accept := flags.String("accept", "", "with -restore: carry out the `plan` that was printed")
	trail := trailFlags(flags)
	printVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return &cmkd.UsageError{Err: err}
	}
	if *printVersion {
		fmt.Println(version.Line("cmkd"))
		return nil
	}
	if *verify != "" {
		trail.KeyFiles = flags.Args()
		return verifyTrail(*verify, trail)
	}
	if flags.NArg() > 0 {
		return &cmkd.UsageError{Err: fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	if *check {
		return checkConfig(*config)
	}
	// Else what is made fails later, and elsewhere.
	if mask := syscall.Umask(0o077); mask&0o700 != 0 {
		return fmt.Errorf("umask %04o takes from the daemon the rights to its own files: use umask 077", mask)
	} else {
		syscall.Umask(mask)
	}
	if *initialise {
		// What is wrong with a file is said before anything is made, and not by way
		// of three plugins.
		if err := checkConfig(*config); err != nil {
			return err
		}
	}
	log := newLog(os.Stderr)
	// From here on no SIGHUP ends the program: what is ignored stays so when it
	// starts itself again.
	signal.Ignore(syscall.SIGHUP)
	if err := restart(); err != nil {
		log.Warn("timers stay exact, which costs CPU time, and signals leave registers in memory", "error", err)
	}
	// The memory holds plaintexts on their way: like the plugins, the daemon makes
	// no core file, and other processes of its user cannot read it (ptrace(2)).
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("core files cannot be disabled", "error", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // after the last execve(2), which undoes it
		log.Warn("the memory cannot be protected from other processes", "error", err)
	}
	hangups := make(chan os.Signal, 1) // one that comes during the start is kept
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *probe {
		return probeTokens(ctx, *config, log)
	}
	if *restore != "" {
		return restoreDatabase(ctx, *config, *restore, *accept, log)
	}
	if *initialise {
		return cmkd.Initialise(ctx, *config, log, cmkd.WithNotes(func(text string) { fmt.Fprintln(os.Stderr, "cmkd: note:", text) }))
	}
	if *copyTo != "" {
		return cmkd.CopyStore(ctx, *config, *copyTo, log)
	}
	return serve(ctx, *config, hangups, log)
}

// newLog returns a logger that writes to f: JSON for machines, and text for a person at a
// terminal.
func newLog(f *os.File) *slog.Logger {
	if term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(f, nil))
	}
	return slog.New(slog.NewJSONHandler(f, nil))
}

// probeTokens prints what the tokens can do.
func probeTokens(ctx context.Context, config string, log *slog.Logger) error {
	found, warnings, err := cmkd.Probe(ctx, config, log)
	warn(warnings)
	if err != nil {
		return err
	}
	return printJSON(found)
}

// restoreDatabase prints what a restore changes, and changes it if that was accepted.
func restoreDatabase(ctx context.Context, config, file, accept string, log *slog.Logger) error {
	plan, err := cmkd.Restore(ctx, config, file, accept, log)
	if err != nil {
		return err
	}
	return printJSON(plan)
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// checkConfig checks what a start reads, and prints what it warns of.
func checkConfig(config string) error {
	warnings, err := cmkd.Check(config)
	warn(warnings)
	return err
}

func warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "cmkd: warning:", w)
	}
}

// patience is how long systemd gives a start after each word of what it waits for: longer than one attempt
// to read the database takes. A start that still waits has not failed.
const patience = 2 * time.Minute

// serve opens the daemon and serves until ctx ends. If ctx ends before clients
// can connect, all that was begun is undone, and that is not an error.
func serve(ctx context.Context, config string, hangups <-chan os.Signal, log *slog.Logger) (err error) {
	began := false
	defer func() {
		if err != nil && ctx.Err() != nil && !began {
			log.Info("stopped during startup", "at", err)
			err = nil
		}
	}()
	d, err := cmkd.Open(ctx, config, log, cmkd.WithWaiting(func(what string) {
		notify(log, fmt.Sprintf("STATUS=%s\nEXTEND_TIMEOUT_USEC=%d", what, patience.Microseconds()))
	}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	return d.Serve(ctx, func() {
		began = true
		notify(log, daemon.SdNotifyReady)
		go reloads(ctx, d, hangups, log)
	})
}

// reloads reloads on each SIGHUP until ctx ends.
func reloads(ctx context.Context, d *cmkd.Daemon, hangups <-chan os.Signal, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			notify(log, daemon.SdNotifyReloading)
			_ = d.Reload(ctx) // it is logged, and in the status
			notify(log, daemon.SdNotifyReady)
		}
	}
}

// notify tells systemd, if it listens.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be notified", "state", state, "error", err)
	}
}
