// Package scale holds the tests of many keys, mixed load and long runs, and of calls that
// cost a token dear. `make soak` and `make scale` are their long forms.
package scale
