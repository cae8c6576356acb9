// Package trust is what the daemon believes of its database and its audit trail: the head
// that a key in the token authenticates, its epochs, and what an operator accepts.
package trust
