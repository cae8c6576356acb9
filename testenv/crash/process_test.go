package crash

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"cmkd/daemon"
)

// asDaemon is the first argument of the test binary when it is to be cmkd, with a
// clock that the test moves. The file of the clock, the path of cmkd and cmkd's own
// arguments follow.
const asDaemon = "run-as-cmkd"

func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == asDaemon {
		if err := serve(os.Args[2], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, "cmkd:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(clockFile, config string) (err error) {
	c, err := openClock(clockFile)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	d, err := daemon.Open(ctx, config, log, daemon.WithClock(c.now))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	return d.Serve(ctx, func() {
		go c.run(func() error {
			err := d.RunJobs(ctx)
			if err != nil && ctx.Err() == nil {
				log.Error("jobs failed, will retry", "error", err)
			}
			return err
		})
	})
}
