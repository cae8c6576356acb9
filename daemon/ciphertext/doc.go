// Package ciphertext is the format of the ciphertext blobs that clients keep, and of what
// is authenticated with them. It is pure; a golden test pins its bytes.
package ciphertext
