// Package policy holds the tests of who may do what, in a whole daemon with callers of
// several users: key policies, identity policies, grants, conditions, principals, and the
// questions about them.
package policy
