package stream

import (
	"time"

	"cmkd/backends"
)

// Limits are how long the calls of a plugin may run in the module.
type Limits struct{ Quick, Slow time.Duration }

// Creation is how long the module may take to make a key of the class. An
// AES key or a point takes milliseconds, in a network HSM a second; the time for
// an RSA pair varies: RSA-4096 takes SoftHSM2 4 s and up to 30, some small HSMs a
// minute.
func (l Limits) Creation(class byte) time.Duration {
	limit := 10 * time.Second
	switch class {
	case Classes[backends.RSA2048]:
		limit = 30 * time.Second
	case Classes[backends.RSA3072]:
		limit = time.Minute
	case Classes[backends.RSA4096]:
		limit = 90 * time.Second
	}
	return min(limit, l.Slow)
}
