// Package journal is the calls on their way through the daemon and the records of them: of
// every call, and of what the daemon does on its own, in the audit trail.
package journal
