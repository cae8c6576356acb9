// Package races lets operations meet: its tests stop one at each of its steps and run
// another there, a job, or the end of the daemon, and check what that leads to against
// what one after the other leads to.
package races
