package lanes

import (
	"context"
	"sync"
	"time"
)

// callContext is a context with a deadline that costs a timer only if someone
// waits for it: a call in the module cannot be interrupted, so most backends
// only look at Err and Deadline.
type callContext struct {
	context.Context // of the process
	deadline        time.Time

	mu     sync.Mutex // guards what follows
	waited context.Context
	stop   context.CancelFunc
}

// Deadline implements [context.Context].
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Err implements [context.Context].
func (c *callContext) Err() error {
	c.mu.Lock()
	waited := c.waited
	c.mu.Unlock()
	if waited != nil {
		return waited.Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(c.deadline) {
		// Done and Err must agree, so Done ends now too.
		return c.waiting().Err()
	}
	return nil
}

// Done implements [context.Context].
func (c *callContext) Done() <-chan struct{} { return c.waiting().Done() }

func (c *callContext) waiting() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited == nil {
		c.waited, c.stop = context.WithDeadline(c.Context, c.deadline)
	}
	return c.waited
}

// Release ends the context when the call has returned.
func (c *callContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop()
	}
}
