// Package bridge is `cmkctl bridge`: an HTTP endpoint on loopback for stock AWS clients, whose signed
// calls it verifies and hands to the daemon.
package bridge
