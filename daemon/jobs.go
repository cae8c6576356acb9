package daemon

import (
	"context"
	"log/slog"
	"time"
)

// jobInterval is how often the daemon looks for what is due: rotations,
// deletions and expiries count in days, so a minute is soon enough.
const jobInterval = time.Minute

// runJobs does what is due, now and every jobInterval, until ctx ends. A job
// that fails is tried again the next time.
func (d *Daemon) runJobs(ctx context.Context) {
	ticker := time.NewTicker(jobInterval)
	defer ticker.Stop()
	for {
		d.doJobs(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// doJobs does what is due now.
func (d *Daemon) doJobs(ctx context.Context) {
	jobs := []struct {
		name string
		run  func(context.Context) (int, error)
	}{
		{"rotation", d.kms.RotateDue},
		{"expiry", d.kms.ExpireDue},
		{"deletion", d.kms.DeleteDue},
		{"usage", func(ctx context.Context) (int, error) { return 0, d.kms.FlushUsage(ctx) }},
	}
	for _, job := range jobs {
		n, err := job.run(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.LogAttrs(ctx, slog.LevelError, "job failed", slog.String("job", job.name), slog.Int("done", n), slog.Any("error", err))
		case n > 0:
			d.log.LogAttrs(ctx, slog.LevelInfo, "job done", slog.String("job", job.name), slog.Int("done", n))
		}
	}
}
