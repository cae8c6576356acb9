//go:build !race

package main

// detector: nothing is thrown away, see the other.
const detector = 1
