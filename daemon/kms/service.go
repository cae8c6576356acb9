// Package kms is the AWS KMS API on top of backends: the operations, and
// the one door through which every call reaches a key.
package kms

import (
	"cmp"
	"log/slog"
	"time"

	"cmkd/daemon/attestation"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/daemon/trust"
	"cmkd/socket/kmsapi"
)

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
	// SigningTokens are the further tokens whose custom key stores hold signing keys, too.
	SigningTokens []string
	// Managed are the keys that the service manages for its users.
	Managed []ManagedKey
	Limits  Limits
	// Principals tells which principals exist; nil means all do.
	Principals Principals

	Store  *store.Store
	Trail  journal.Trail
	Router keyring.Router
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
	*trust.Trust
	regions           map[string]bool
	plaintextDataKeys bool
	attestations      *attestation.Verifier
	tokenOnlyImport   bool
	signingTokens     []string
	limits            Limits
	rates             rates
	managed           managedKeys
	principals        Principals
	policies          compiled
	usages            usages

	operations map[string]kmsapi.Method[*journal.Call]
}

// New makes a service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	journal := journal.New(journal.Config{
		Account: cfg.Account, Region: cfg.Region, Node: cfg.Node, Store: cfg.Store, Trail: cfg.Trail, Log: cfg.Logger, Now: cfg.Now,
		RefusalRate: cfg.Limits.RefusalRate, RefusalBurst: cfg.Limits.RefusalBurst,
	})
	trust := trust.New(keyring.New(journal, cfg.Token, cfg.Clusters, cfg.Router))
	s := &Service{
		Trust:             trust,
		regions:           map[string]bool{cfg.Region: true},
		plaintextDataKeys: cfg.PlaintextDataKeys,
		attestations:      cfg.Attestations,
		tokenOnlyImport:   cfg.TokenOnlyImport,
		signingTokens:     cfg.SigningTokens,
		limits:            cfg.Limits.orAWS(),
		rates:             newRates(cfg.Limits.RequestRates),
		managed:           newManagedKeys(cfg.Managed),
		principals:        cfg.Principals,
		policies:          newCompiled(cfg.Account),
	}
	for _, r := range cfg.Regions {
		s.regions[r] = true
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
