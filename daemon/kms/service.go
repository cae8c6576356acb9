// Package kms is the AWS KMS API on top of backends: the operations, and
// the one door through which every call reaches a key.
package kms

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/attestation"
	"cmkd/daemon/audit"
	"cmkd/daemon/store"
)

// Backend has every family of operations. Those that its kinds of key do not
// have answer [backends.Unsupported].
type Backend interface {
	backends.Backend
	backends.Cipher
	backends.ReEncrypter
	backends.DataKeyMaker
	backends.Randomizer
	backends.Signer
	backends.MACer
	backends.Agreer
	backends.Importer
	backends.Encapsulator
}

// Router finds the backend for a key.
type Router interface {
	// Route returns the backend that announced the key spec for the token, and
	// what it announced. ok is false if none did.
	Route(token string, spec backends.KeySpec) (b Backend, info backends.SpecInfo, ok bool)
	// Available reports whether keys of the spec in the token count as usable. A
	// token that has gone away does so for a while, in which its calls fail with
	// [backends.Lost]: the key's state would flicker, and clients do not repeat
	// what a state refuses.
	Available(token string, spec backends.KeySpec) bool
	// Serving reports whether calls are answered now, if need be after the
	// plugin's process has been replaced.
	Serving(token string, spec backends.KeySpec) bool
	// Renew puts another process in the place of the one that serves the key spec,
	// which sees the token as it is now.
	Renew(ctx context.Context, token string, spec backends.KeySpec) error
	// Losses counts how often a process was lost while it made or imported a key, among
	// those that serve the key spec: the token may make the key twice then.
	Losses(token string, spec backends.KeySpec) int
}

// Trail is where calls are recorded; see [audit.Log].
type Trail interface {
	// Append returns when the record is durable.
	Append(ctx context.Context, r *audit.Record) error
	// AppendIn is Append into room that was reserved: it cannot want for it.
	AppendIn(ctx context.Context, r *audit.Record, room audit.Room) error
	// AppendBefore is AppendIn for what happens only if it returns nil.
	AppendBefore(ctx context.Context, r *audit.Record, room audit.Room) error
	// Reserve takes room for a call, until Release.
	Reserve(privileged bool) (audit.Room, error)
	Release(room audit.Room)
	// After hands every line behind the record with the sequence to f.
	After(sequence uint64, f func(line []byte) error) error
	// Err returns nil while records can be appended, and why not otherwise.
	Err() error
	// Head returns the last durable record's sequence number and hash.
	Head() (sequence uint64, hash [sha256.Size]byte)
	// Check verifies the trail from the last checkpoint before the known record:
	// see [audit.Log.Check] and [audit.IsProblem].
	Check(known audit.Known, signature audit.SignatureVerifier) error
	// Verify verifies all of it.
	Verify(ctx context.Context, signature audit.SignatureVerifier) (audit.Report, error)
	// Hold stops checkpoints until Check succeeds.
	Hold()
	// Begin starts the trail over, and Checkpoint signs its head.
	Begin(ctx context.Context, reason string) error
	Checkpoint(ctx context.Context) error
	// Prune removes the oldest segments.
	Prune(ctx context.Context, opt audit.PruneOptions, signature audit.SignatureVerifier, record func(*audit.Pruning) error, commit func() error) (*audit.Pruning, error)
	// End takes no more records and makes the last checkpoint. If final, nothing
	// comes after what Head returns.
	End() (final bool, err error)
}

// Config is what a [Service] works with. Every field is required unless it
// says otherwise.
type Config struct {
	Account string   // 12 digits
	Region  string   // of calls that name none
	Regions []string // every Region served, Region included
	Token   string   // name of the token that holds keys of no custom key store
	// Node names the daemon among those that take turns with the database, each with an
	// audit trail of its own; "" if there is one daemon only.
	Node string

	// PlaintextDataKeys lets data keys leave in the clear.
	PlaintextDataKeys bool

	// Attestations verifies attestation documents of recipients; nil refuses
	// them all.
	Attestations *attestation.Verifier

	// TokenOnlyImport refuses imports whose material would have to pass
	// through a plugin's memory because the token lacks the mechanism.
	TokenOnlyImport bool
	// Clusters are the cluster IDs by which clients know further tokens.
	Clusters map[string]string
	// Managed are the keys that the service manages for its users.
	Managed []ManagedKey
	Limits  Limits
	// Principals tells which principals exist; nil means all do.
	Principals Principals

	Store  *store.Store
	Trail  Trail
	Router Router
	Logger *slog.Logger
	// Now is the clock; nil means [time.Now].
	Now func() time.Time
}

// Limits are the quotas of an account in one Region. A zero value means AWS's.
// https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
type Limits struct {
	Keys          int // 100,000
	AliasesPerKey int // 50
	GrantsPerKey  int // 50,000
	// RequestRates are calls per second by operation; EveryOperation is for
	// each one that is not named. None is preset: AWS's are for its fleet.
	RequestRates map[string]float64
	// RefusalRate and RefusalBurst bound the records of a user's calls that were
	// refused, without a permission to show: RefusalRate a second (10), and
	// RefusalBurst (1,000) after a rest. Those beyond are only counted, in a record.
	RefusalRate  float64
	RefusalBurst int
}

// Principals knows who exists.
type Principals interface {
	// Exists reports whether the ARN is of an existing principal.
	Exists(arn string) bool
}

// Service answers KMS calls. Its methods may be called concurrently.
type Service struct {
	account           string
	region            string
	regions           map[string]bool
	token             string
	node              string
	plaintextDataKeys bool
	attestations      *attestation.Verifier
	tokenOnlyImport   bool
	clusters          map[string]string
	limits            Limits
	rates             rates
	managed           managedKeys
	principals        Principals
	policies          compiled
	usages            usages

	store      *store.Store
	trail      Trail
	router     Router
	log        *slog.Logger
	now        func() time.Time
	counters   counters
	working    working
	late       late
	absences   *absences
	unsafes    materialSet
	acts       acts
	calls      inFlight
	refusals   refusals
	troubles   troubles
	duplicates duplicates
	clock      clock

	integrity integrity
	backups   sync.Mutex // held while the key of backups is made

	operations map[string]*operation
}

// New makes a service.
func New(cfg Config) *Service {
	s := &Service{
		account:           cfg.Account,
		region:            cfg.Region,
		regions:           map[string]bool{cfg.Region: true},
		token:             cfg.Token,
		node:              cfg.Node,
		plaintextDataKeys: cfg.PlaintextDataKeys,
		attestations:      cfg.Attestations,
		tokenOnlyImport:   cfg.TokenOnlyImport,
		clusters:          cfg.Clusters,
		limits:            cfg.Limits.orAWS(),
		rates:             newRates(cfg.Limits.RequestRates),
		refusals:          cfg.Limits.refusals(),
		managed:           newManagedKeys(cfg.Managed),
		principals:        cfg.Principals,
		policies:          newCompiled(cfg.Account),
		store:             cfg.Store,
		trail:             cfg.Trail,
		router:            checkedRouter{cfg.Router},
		log:               cfg.Logger,
		now:               cfg.Now,
		clock:             newClock(),
		absences:          newAbsences(),
	}
	for _, r := range cfg.Regions {
		s.regions[r] = true
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.operations = bindOperations(s)
	return s
}

// orAWS fills in AWS's quotas.
func (l Limits) orAWS() Limits {
	l.Keys = cmp.Or(l.Keys, 100_000)
	l.AliasesPerKey = cmp.Or(l.AliasesPerKey, 50)
	l.GrantsPerKey = cmp.Or(l.GrantsPerKey, maxGrants)
	return l
}
