package identity

import (
	"errors"
)

// In a user namespace, such as that of a rootless container, the kernel tells one
// number, the overflow ID, for every ID that has no mapping there. It stands for
// anybody outside, so it says nothing about who calls. Where each ID has a mapping
// the same number is a user like others, nobody as a rule.
// https://man7.org/linux/man-pages/man7/user_namespaces.7.html

// ErrUnmapped: the kernel cannot tell the daemon who calls.
var ErrUnmapped = errors.New("the caller's user ID has no mapping in the user namespace of this service, so the caller cannot be identified: " +
	"run the service outside of that namespace, or map the user's ID into it")
