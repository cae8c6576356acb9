package main

import (
	"context"
	"time"

	"cmkd/testenv/callers"
)

// load makes calls for d, and measures the processor time that they take.
func (s *server) load(ctx context.Context, request []byte, count int, d time.Duration) (sample, error) {
	var before usage
	r, err := callers.Run(ctx, callers.Options{
		Socket: s.socket, Request: request, Callers: count,
		Begin: func() (err error) { before, err = s.usage(); return err },
	}, d)
	if err != nil {
		return sample{}, err
	}
	after, err := s.usage()
	if err != nil {
		return sample{}, err
	}
	return sample{
		calls: r.Calls, took: r.Took, p50: r.P50, p99: r.P99,
		daemon: after.daemon - before.daemon, plugins: after.plugins - before.plugins, client: after.client - before.client,
	}, nil
}
