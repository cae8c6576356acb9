package kms

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"cmkd/daemon/attestation"
	"cmkd/daemon/audit"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Duties are parts in running the daemon, beside the use of keys: a set of bits.
type Duties uint8

// The duties.
const (
	Monitoring Duties = 1 << iota // to see how the daemon is
	Auditing                      // and who did and may do what
	Operating                     // to keep it going
)

// Caller is who calls, as the kernel told (SO_PEERCRED).
type Caller struct {
	Principal policy.Principal
	// ID is the principal's UserID if it has been worked out, as it is for who calls often.
	ID string
	// Policies are the identity policies of the principal and its groups.
	Policies []*policy.Document
	// Admin: root, or named in the configuration's admins.
	Admin bool
	// Duties are those that the configuration gives, of one who is no administrator too.
	Duties Duties
	UID    uint32
	GID    uint32
	PID    int32
	// AccessKeyID is of the credential that the request is signed with, "" if it
	// was the kernel that told who calls.
	AccessKeyID string
}

// Call is one call on its way through the daemon.
type Call struct {
	caller Caller
	op     *keys.Action
	region string
	view   *store.View
	// arn is of the key admitted last, for errors.
	arn string
	// relied are the keys that the call has decided on, as they were then.
	relied []*store.Key
	// renewals are the processes that had been replaced to look for objects when the
	// call began.
	renewals int64
	// created: the token was asked to make something since the call decided.
	created bool
	// used are the keys that count as used if the call succeeds.
	used []*store.Key
	// attested is the attestation document of the recipient, nil without one.
	attested *attestation.Document
	recording
	memory callMemory
}

// callMemory is what nearly every call needs, in one piece of memory with it.
type callMemory struct {
	peer      audit.Peer
	resources [1]audit.Resource
	used      [1]*store.Key
	key       key
	keyTaken  bool
}

// newKey is for a key that the call is about.
func (c *Call) newKey() *key {
	if c.memory.keyTaken {
		return new(key)
	}
	c.memory.keyTaken = true
	return &c.memory.key
}

func (s *Journal) newCall(caller *Caller, r *kmsapi.Request) *Call {
	c := &Call{caller: *caller, region: s.region, view: s.store.View()}
	c.used = c.memory.used[:0]
	s.openRecord(c, r)
	return c
}

// decided notes what the policies said.
func (c *Call) decided(d policy.Decision) {
	c.record.AdditionalEventData.Decision = "Deny"
	if d.Allowed {
		c.record.AdditionalEventData.Decision = "Allow"
	}
	c.record.AdditionalEventData.Reason = d.String()
}

// admitted notes the key that the call is about.
func (c *Call) admitted(s *Journal, arn string) {
	c.arn = arn
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	c.record.Resources = append(c.record.Resources, audit.Resource{AccountID: s.account, Type: "AWS::KMS::Key", ARN: arn})
}

// Excess reports whether the caller has had so many refusals lately that that of
// this call is only counted.
func (c *Call) Excess() bool { return c.excess }

// executable is the path of the caller's program. It is advisory: the process
// may have been replaced since it connected.
func (c *Caller) executable() string {
	path, err := os.Readlink("/proc/" + strconv.Itoa(int(c.PID)) + "/exe")
	if err != nil {
		return ""
	}
	return path
}

// errOutdated: what the call decided on has changed since.
var errOutdated = errors.New("what was decided on has changed since")

// maxCreations bounds how often a call has the token make something: a key pair may
// take it a minute, and each one that is taken back is destroyed there. Who changes
// a key all the time must not keep the token busy with somebody else's rotation.
const maxCreations = 4

// creates notes that the call has the token make something.
func (c *Call) creates() {
	if c != nil {
		c.created = true
	}
}

// rely notes that the call decides on the key as it stands in its view.
func (c *Call) rely(row *store.Key) { c.relied = append(c.relied, row) }

// outdated reports whether a key that the call decided on is another now, in any
// Region. A row is replaced by each change of it, and with each change of the
// key's materials.
func (c *Call) outdated(now reader) bool {
	changed := func(row *store.Key) bool {
		return !slices.Equal(c.view.KeyReplicas(row.ID), now.KeyReplicas(row.ID))
	}
	return slices.ContainsFunc(c.relied, changed) || slices.ContainsFunc(c.used, changed)
}

// reader is what View and Tx have in common.
type reader interface {
	Key(region, id string) (*store.Key, bool)
	Alias(region, name string) (*store.Alias, bool)
	CurrentVersion(keyID string) (*store.Version, bool)
	Versions(keyID string) []*store.Version
	KeyReplicas(id string) []*store.Key
	CustomKeyStore(region, id string) (*store.CustomKeyStore, bool)
}

// keyARN returns the ARN of a key.
func (s *Journal) keyARN(region, id string) string {
	return keys.KeyARN(region, s.account, id)
}

// aliasARN returns the ARN of an alias, whose name has its prefix.
func (s *Journal) aliasARN(region, name string) string {
	return keys.AliasARN(region, s.account, name)
}
