// Package cli is what the commands of cmkctl share: the connection to the daemon, exit statuses,
// files and pipes in and out, what a terminal may be sent, and answers for people and programs.
package cli
