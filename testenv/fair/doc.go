// Package fair holds the tests of what floods of one user leave to another, and to root.
// `make fair` is their long form.
package fair
