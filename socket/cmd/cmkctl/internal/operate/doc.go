// Package operate is the commands of cmkctl for who runs a daemon: status, metrics, backup, recovery,
// reload and what only a person may decide.
package operate
