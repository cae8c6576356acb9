// Package crash holds the tests that kill cmkd and cut its power while it works, and
// compare what it had acknowledged with what is there afterwards. `make crash` is their
// long form: 1,000 kills and 100 power cuts.
//
// Callers create, rotate, import, replicate and delete keys, and change policies, grants,
// aliases, tags and custom key stores, at random and all at once; another one lets time
// pass, so that keys are deleted and rotated and material expires. Each knows what it was
// told. At a random moment the daemon, some plugins or both get SIGKILL, now and then
// again in the next start, or the power is cut: package disk says how. Then:
//
//   - What was answered is as it was answered, and what was under way happened wholly or not
//     at all, as the API shows it.
//   - Each call that was answered has exactly one record in the audit trail; each one that
//     was not has one if it happened, and none if it did not, or one that a second
//     record takes back (docs/decisions/0012-records.md). Deletions and rotations by the
//     service have theirs. `cmkctl audit verify` verifies the trail.
//   - What keys made before opens, or verifies.
//   - The tokens, as pkcs11-tool lists them, have an object for each row of the database and no
//     others.
//   - The status is ok, and nothing that was interrupted is left.
//
// The random numbers come from a seed that each run prints. It repeats what callers
// try and when; which of it a kill meets depends on the machine.
//
// The daemon is the test binary, which runs cmkd's code with a clock that the test moves.
package crash
