// Package kms is the AWS KMS API on top of backends: the operations, and
// the one door through which every call reaches a key.
package kms

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"cmkd/daemon/access"
	"cmkd/daemon/attestation"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/lifecycle"
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
	Managed []lifecycle.ManagedKey
	Limits  Limits
	// Principals tells which principals exist; nil means all do.
	Principals access.Principals

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

// Service answers KMS calls. Its methods may be called concurrently.
type Service struct {
	*lifecycle.Lifecycle
	plaintextDataKeys bool
	attestations      *attestation.Verifier
	signingTokens     []string
	limits            Limits
	rates             rates

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
	limits := cfg.Limits.orAWS()
	trust := trust.New(keyring.New(journal, cfg.Token, cfg.Clusters, cfg.Router))
	s := &Service{
		Lifecycle: lifecycle.New(access.New(trust, cfg.Principals), lifecycle.Config{
			Regions: slices.Compact(slices.Sorted(slices.Values(append([]string{cfg.Region}, cfg.Regions...)))), MaxKeys: limits.Keys,
			TokenOnlyImport: cfg.TokenOnlyImport, Managed: cfg.Managed,
		}),
		plaintextDataKeys: cfg.PlaintextDataKeys,
		attestations:      cfg.Attestations,
		signingTokens:     cfg.SigningTokens,
		limits:            limits,
		rates:             newRates(cfg.Limits.RequestRates),
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
