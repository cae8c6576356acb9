package keyring

import (
	"context"
	"time"

	"cmkd/backends"
)

// creationTime is how long a call that makes a key waits for the token. It is well
// below the two minutes after which the socket gives up on an answer, and leaves a
// plugin the time to replace a process that hangs, but for RSA: see creationLimit
// of package plugins.
func creationTime(spec backends.KeySpec) time.Duration {
	switch spec {
	case backends.RSA4096:
		return 100 * time.Second
	case backends.RSA3072:
		return 75 * time.Second
	case backends.RSA2048:
		return 50 * time.Second
	default:
		return 30 * time.Second
	}
}

// InTime makes a call that changes the token and cannot be stopped: when the time
// is over it returns [backends.Timeout] and true, and after is called when the call
// has ended. A caller who leaves does not change that.
func InTime[T any](ctx context.Context, limit time.Duration, call func(context.Context) (T, error), after func()) (out T, late bool, err error) {
	type result struct {
		out T
		err error
	}
	done := make(chan result, 1)
	ctx = context.WithoutCancel(ctx)
	go func() {
		out, err := call(ctx)
		done <- result{out, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.out, false, r.err
	case <-timer.C:
	}
	// It ends with the plugin's own limits.
	go func() {
		<-done
		after()
	}()
	return out, true, backends.Errorf(backends.Timeout, "the token did not make the key in %v", limit)
}
