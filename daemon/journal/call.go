package journal

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"cmkd/daemon/attestation"
	"cmkd/daemon/audit/event"
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
	// Duties are those that the configuration gives, also of one who is not an administrator.
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
	Caller Caller
	Op     *keys.Action
	Region string
	View   *store.View
	// ARN is of the key admitted last, for errors.
	ARN string
	// relied are the keys that the call has decided on, as they were then.
	relied []*store.Key
	// Renewals are the processes that had been replaced to look for objects when the
	// call began.
	Renewals int64
	// Created: the token was asked to make something since the call decided.
	Created bool
	// Used are the keys that count as used if the call succeeds.
	Used []*store.Key
	// Attested is the attestation document of the recipient, nil without one.
	Attested *attestation.Document
	// Server is of whoever serves the call, nil if nobody put anything there.
	Server any
	recording
	memory callMemory
}

// callMemory is what nearly every call needs, in one piece of memory with it.
type callMemory struct {
	peer      event.Peer
	resources [1]event.Resource
	used      [1]*store.Key
}

// NewCall makes a call.
func (s *Journal) NewCall(caller *Caller, r *kmsapi.Request) *Call {
	c := new(Call)
	s.InitCall(c, caller, r)
	return c
}

// InitCall is NewCall in memory that is there.
func (s *Journal) InitCall(c *Call, caller *Caller, r *kmsapi.Request) {
	c.Caller, c.Region, c.View = *caller, s.Region, s.Store.View()
	c.Used = c.memory.used[:0]
	s.openRecord(c, r)
}

// Decided notes what the policies said.
func (c *Call) Decided(d policy.Decision) {
	c.Record.AdditionalEventData.Decision = "Deny"
	if d.Allowed {
		c.Record.AdditionalEventData.Decision = "Allow"
	}
	c.Record.AdditionalEventData.Reason = d.String()
}

// Admitted notes the key that the call is about.
func (c *Call) Admitted(s *Journal, arn string) {
	c.ARN = arn
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	c.Record.Resources = append(c.Record.Resources, event.Resource{AccountID: s.Account, Type: "AWS::KMS::Key", ARN: arn})
}

// Excess reports whether the caller has had so many refusals lately that that of
// this call is only counted.
func (c *Call) Excess() bool { return c.excess }

// Executable is the path of the caller's program. It is advisory: the process
// may have been replaced since it connected.
func (c *Caller) Executable() string {
	path, err := os.Readlink("/proc/" + strconv.Itoa(int(c.PID)) + "/exe")
	if err != nil {
		return ""
	}
	return path
}

// ErrOutdated: what the call decided on has changed since.
var ErrOutdated = errors.New("what was decided on has changed since")

// MaxCreations bounds how often a call has the token make something: a key pair may
// take it a minute, and each one that is taken back is destroyed there. Who changes
// a key all the time must not keep the token busy with somebody else's rotation.
const MaxCreations = 4

// Creates notes that the call has the token make something.
func (c *Call) Creates() {
	if c != nil {
		c.Created = true
	}
}

// Rely notes that the call decides on the key as it stands in its view.
func (c *Call) Rely(row *store.Key) { c.relied = append(c.relied, row) }

// Outdated reports whether a key that the call decided on is another now, in any
// Region. A row is replaced by each change of it, and with each change of the
// key's materials.
func (c *Call) Outdated(now Reader) bool {
	changed := func(row *store.Key) bool {
		return !slices.Equal(c.View.KeyReplicas(row.ID), now.KeyReplicas(row.ID))
	}
	return slices.ContainsFunc(c.relied, changed) || slices.ContainsFunc(c.Used, changed)
}

// Reader is what View and Tx have in common.
type Reader interface {
	Key(region, id string) (*store.Key, bool)
	Alias(region, name string) (*store.Alias, bool)
	CurrentVersion(keyID string) (*store.Version, bool)
	Versions(keyID string) []*store.Version
	KeyReplicas(id string) []*store.Key
	CustomKeyStore(region, id string) (*store.CustomKeyStore, bool)
}

// KeyARN returns the ARN of a key.
func (s *Journal) KeyARN(region, id string) string {
	return keys.KeyARN(region, s.Account, id)
}

// AliasARN returns the ARN of an alias, whose name has its prefix.
func (s *Journal) AliasARN(region, name string) string {
	return keys.AliasARN(region, s.Account, name)
}

// Anew forgets what the call has decided and found out.
func (s *Journal) Anew(c *Call) {
	c.View = s.Store.View()
	c.ARN, c.Attested, c.Created = "", nil, false
	c.relied, c.Used = c.relied[:0], c.Used[:0]
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	c.Record.Resources, c.Record.ResponseElements, c.Record.AdditionalEventData.Details = nil, nil, nil
}
