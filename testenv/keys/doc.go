// Package keys holds the tests of keys over time: rotation, expiry, deletion,
// replicas, custom key stores, quotas, and that no key leaves the token.
package keys
