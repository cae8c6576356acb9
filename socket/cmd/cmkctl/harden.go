package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// harden closes the memory of the process, through which plaintexts, PINs and secret
// access keys pass, to other processes of its user, and leaves no core file of it
// (PR_SET_DUMPABLE(2const)). Programs that it runs are as they always were.
func harden() {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "cmkctl: closing the memory to other processes:", err)
	}
}
