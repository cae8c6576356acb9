// Package trust holds the tests of databases and audit trails that were altered, lost,
// exchanged or restored.
package trust
