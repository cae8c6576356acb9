//go:build race

package main

// detector: the race detector throws away a quarter of what comes back to a sync.Pool.
const detector = 2
