// Package imports holds the tests of imported key material: every kind by every wrapping
// algorithm, again, expiring, rotating, unfit, and on tokens that lack mechanisms.
package imports
