// Package addition holds the test of what it takes to add an operation: one row and one
// method, beside the API model.
package addition
