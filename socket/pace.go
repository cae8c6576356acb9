package socket

import (
	"context"
	"time"
)

// Of a user's calls that are answered with ThrottlingException, or are refused
// beyond what the audit trail records one by one, throttleBurst and then
// throttleRate a second are answered as fast as they come. Connections
// on which more of them come are not read for a while, longer and longer, up to
// maxPause: less than ReadHeaderTimeout, which runs on a new connection.
const (
	throttleRate  = 100
	throttleBurst = 200
	maxPause      = 5 * time.Second
)

// throttle notes that a call on c was one too many.
func (c *conn) throttle() {
	c.pause = min(c.account.throttles.Reserve().Delay(), maxPause)
}

// pause is how long a connection of a throttled user is not read, so that a new
// one does not help.
func (acct *account) pause() time.Duration {
	debt := -acct.throttles.Tokens()
	if debt <= 0 {
		return 0
	}
	return min(time.Duration(debt/throttleRate*float64(time.Second)), maxPause)
}

// Draining returns a channel that is closed once the server of a request, whose context
// is ctx, stops: an answer without an end is to end then. It is nil if no server of this
// package serves the request.
func Draining(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.server.drained
	}
	return nil
}

// Throttled tells the server that the user of a request, whose context is ctx,
// is asking for too much, as ThrottlingException says: the connections of a user
// with many such requests are read more and more slowly.
func Throttled(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.throttle()
	}
}
