// Package crypt is the commands of cmkctl that use keys: encryption, data keys, signatures, MACs,
// random bytes.
package crypt
