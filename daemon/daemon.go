// Package daemon wires cmkd together: configuration, store, audit trail,
// plugins, the KMS API and the socket.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/config"
	"cmkd/daemon/identity"
	"cmkd/daemon/kms"
	"cmkd/daemon/store"
	"cmkd/plugins"
	"cmkd/socket"
	"cmkd/socket/kmsapi"
	"cmkd/socket/sigv4"
	"cmkd/version"
)

// Daemon is cmkd with its files open and its plugins running.
type Daemon struct {
	path       string // of the configuration
	cfg        *config.Config
	log        *slog.Logger
	started    time.Time
	store      *store.Store
	audit      *audit.Log
	router     *router
	kms        *kms.Service
	signer     trailSigner
	identities atomic.Pointer[identity.Identities]
	replays    *sigv4.Replays
	calls      *callMetrics
	now        func() time.Time // nil: time.Now
	jobs       sync.Mutex       // held by RunJobs
	shipping   shipping

	reloading    sync.Mutex               // held by Reload
	reloaded     chan struct{}            // of the jobs, after each
	pins         atomic.Pointer[[]string] // warnings of the PIN files, of the last start or reload
	reloadError  atomic.Pointer[string]   // why the last reload failed, nil if it did not
	segmentBytes int64                    // of the audit trail; 0: the usual
	impatient    bool                     // an etcd that does not answer is not waited for
	waiting      func(what string)        // told of what the start waits for; nil: nobody is
	tentative    *footprint               // to be taken back at the end, nil if what was made stays
	note         func(text string)        // see WithNotes
}

// Option changes how a daemon is opened.
type Option func(*Daemon)

// WithClock sets the clock, for tests that move it. nil is [time.Now].
func WithClock(now func() time.Time) Option { return func(d *Daemon) { d.now = now } }

// WithSegmentBytes sets the size of the audit trail's segments, for tests that
// need several. 0 is the usual size.
func WithSegmentBytes(n int64) Option { return func(d *Daemon) { d.segmentBytes = n } }

// WithWaiting has say told what the start waits for, a text of one line: every few seconds for as long as it
// does, and "" when it goes on.
func WithWaiting(say func(what string)) Option { return func(d *Daemon) { d.waiting = say } }

// Store lets tests put rows into states that no call reaches from outside.
func (d *Daemon) Store() *store.Store { return d.store }

// Open opens the store and the audit trail and starts the plugins.
func Open(ctx context.Context, path string, log *slog.Logger, options ...Option) (_ *Daemon, err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	d := &Daemon{path: path, cfg: cfg, log: log, started: time.Now(), replays: sigv4.NewReplays(), calls: newCallMetrics(), reloaded: make(chan struct{}, 1)}
	for _, o := range options {
		o(d)
	}
	defer func() {
		if err != nil {
			_ = d.Close(context.WithoutCancel(ctx)) // err says what matters
		}
	}()
	if err := cfg.CheckTrusted(); err != nil {
		return nil, err
	}
	d.warnOfPINs(cfg)
	attestations, err := cfg.Attestations()
	if err != nil {
		return nil, err
	}
	if d.tentative != nil {
		if err := d.tentative.look(cfg); err != nil {
			return nil, fmt.Errorf("reading the state folder: %w", err)
		}
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	if err := d.loadIdentities(ctx, cfg); err != nil {
		return nil, err
	}
	if d.store, err = d.openStore(ctx); err != nil {
		return nil, err
	}
	if d.tentative != nil && (d.tentative.database || d.store.Found() != nil || !blank(d.store.View())) {
		d.tentative = nil // it is in use
	}
	// The store is locked, so no other daemon has processes there.
	if err := errors.Join(plugins.RemoveLeftovers(pluginsDir(cfg)), plugins.RemoveLeftovers(spareDir(cfg))); err != nil {
		log.WarnContext(ctx, "folders of plugin processes cannot be removed", "error", err)
	}
	if err := d.awaitEtcd(ctx, func() error { return d.bindAccount(ctx) }); err != nil {
		return nil, err
	}
	d.audit, err = patiently(ctx, lockPatience, lockPoll, audit.ErrLocked, func() (*audit.Log, error) { return audit.Open(d.auditConfig()) })
	if err != nil {
		return nil, fmt.Errorf("opening the audit trail: %w", err)
	}
	if d.router, err = startRouter(ctx, cfg, d.store.View, log); err != nil {
		return nil, err
	}
	d.kms = kms.New(kms.Config{
		Account: cfg.Account, Region: cfg.Region, Regions: cfg.Regions, Token: cfg.Tokens[0].Name, Node: cfg.Store.Node,
		PlaintextDataKeys: cfg.PlaintextDataKeys, Principals: principals{d}, Clusters: cfg.Clusters(), SigningTokens: cfg.SigningTokens(),
		Attestations: attestations, TokenOnlyImport: cfg.TokenOnlyImport, Managed: cfg.Managed(), Limits: cfg.Quotas(),
		Store: d.store, Trail: d.audit, Router: d.router, Logger: log, Now: d.now,
	})
	d.signer.service.Store(d.kms)
	return d, nil
}

// bindAccount keeps the account from changing under the keys: it is part of
// every ARN and of what ciphertexts authenticate. The number that a failed
// initialisation has left binds nobody.
func (d *Daemon) bindAccount(ctx context.Context) error {
	view := d.store.View()
	if was, ok := view.Setting("account"); ok && (d.store.Found() != nil || !blank(view)) {
		if was.Value != d.cfg.Account {
			return fmt.Errorf("the store belongs to account %s, the configuration says %s", was.Value, d.cfg.Account)
		}
		return nil
	}
	if d.store.Found() != nil || blank(view) && d.tentative == nil && !d.impatient {
		return nil // somebody has deleted the row, or it is not initialised: verification will say so
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		return tx.PutSetting(&store.Setting{Name: "account", Value: d.cfg.Account})
	})
}

// blank reports whether the database knows of nothing in a token.
func blank(v *store.View) bool {
	for range v.AllSystemKeys() {
		return false
	}
	for range v.Intents() {
		return false
	}
	for range v.AllKeys() {
		return false
	}
	return true
}

// Init finishes interrupted work and makes the daemon's own keys, those that
// are missing, in every token that is there. A database that does not verify
// is refused.
func (d *Daemon) Init(ctx context.Context) error {
	if err := d.kms.VerifyState(ctx); err != nil {
		return err
	}
	if err := d.mismatch(); err != nil {
		return err
	}
	if d.store.Found() != nil { // before that, nobody answers for intents
		if err := d.kms.Reconcile(ctx); err != nil {
			return err
		}
	}
	for i, t := range d.cfg.Tokens {
		made, err := d.kms.Init(ctx, t.Name)
		if err != nil && i > 0 { // ConnectCustomKeyStore does it when the token is there
			d.log.Warn("token is not initialised", "token", t.Name, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		d.log.Info("token is initialised", "token", t.Name, "made", made)
	}
	if d.store.Found() == nil {
		return errors.Join(d.kms.VerifyState(ctx), d.mismatch())
	}
	return nil
}

// mismatch is an error if the database or the trail does not verify.
func (d *Daemon) mismatch() error {
	m := d.kms.Mismatch()
	switch {
	case m == nil:
		return nil
	case m.Trail != "":
		return fmt.Errorf("the audit trail does not verify: %s; start cmkd and see cmkctl accept-state", m.Trail)
	default:
		return fmt.Errorf("the database does not verify: %s; start cmkd and see cmkctl accept-state", m.Reason)
	}
}

// Serve answers clients until ctx ends, then drains. It calls ready once
// clients can connect.
func (d *Daemon) Serve(ctx context.Context, ready func()) error {
	restored, err := d.restored()
	if err != nil {
		return err
	}
	if err := d.awaitEtcd(ctx, func() error { return d.kms.VerifyState(ctx) }); err != nil {
		return err
	}
	d.recordRestore(ctx, restored)
	jobs, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait() // if it does not come to serve
	defer stop()
	leave := d.join(ctx)
	defer leave()
	if d.kms.Mismatch() == nil {
		if err := d.begin(ctx); err != nil {
			return err
		}
	}
	sc, err := d.cfg.Socket.Config()
	if err != nil {
		return err
	}
	sc.Log, sc.Refused, sc.Privileged, sc.Barred = d.log, d.refused, d.privileged, d.barred
	server, err := socket.Listen(ctx, sc)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", kmsapi.NewHandler(d))
	d.operators(server).Handle(mux)
	d.log.Info("serving", "socket", server.Addr().String(), "version", version.Release(),
		"account", d.cfg.Account, "startup", time.Since(d.started).Round(time.Millisecond).String())
	if err := d.ship(d.cfg); err != nil { // the status says so; calls are served
		d.log.LogAttrs(ctx, slog.LevelError, "the audit trail is not shipped", slog.Any("error", err))
	}
	defer d.endShipping()
	running.Go(func() { d.mendTrail(jobs) })
	running.Go(func() { d.mendDatabase(jobs) })
	running.Go(func() { d.jobLoop(jobs) })
	running.Go(func() { d.watchTokens(jobs) })
	ready()
	err = server.Serve(ctx, mux)
	stop()
	running.Wait()
	ctx = context.WithoutCancel(ctx)
	d.signer.ending.Store(true)
	err = errors.Join(err, d.endCalls(ctx))
	leave()
	// What hangs in the token would hang each of these.
	if failed := d.kms.FlushRefusals(ctx); failed != nil || d.kms.Mismatch() != nil { // nothing is written to a database that does not verify
		return errors.Join(err, failed)
	}
	return errors.Join(err, d.kms.FlushUsage(ctx))
}

// begin does what a daemon does first, once it trusts its database.
func (d *Daemon) begin(ctx context.Context) error {
	if err := d.kms.CheckSystemKeys(ctx, d.cfg.Tokens[0].Name); err != nil {
		return err
	}
	if !d.store.Shared() { // else commits, which wait for other daemons, would hold up the start: the jobs do it
		if err := d.kms.Reconcile(ctx); err != nil { // what is left harms nobody; the jobs go on with it
			d.log.LogAttrs(ctx, slog.LevelError, "reconciliation incomplete, will retry", slog.Any("error", err))
		}
	}
	if err := d.kms.UpdateManaged(ctx); errors.Is(err, store.ErrUnwritable) { // keys that exist are used as they are
		d.log.LogAttrs(ctx, slog.LevelError, "managed keys will not match the configuration until the next start", slog.Any("error", err))
	} else if err != nil {
		return err
	}
	if err := d.publishAuditKeys(); err != nil { // the next start does it
		d.log.LogAttrs(ctx, slog.LevelError, "the audit key cannot be published", slog.Any("error", err))
	}
	return nil
}

// endCallsTimeout bounds the wait for calls that were cut off to notice.
const endCallsTimeout = 2 * time.Second

// endCalls has all calls recorded before the trail is closed.
func (d *Daemon) endCalls(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endCallsTimeout)
	defer cancel()
	return d.kms.EndCalls(ctx)
}

// endTimeout bounds what the end of the daemon waits for the token.
const endTimeout = 5 * time.Second

// end makes copies of the database that were taken while it was open
// worthless, and says in it where the audit trail ends. If the token is away,
// the next start goes on without.
func (d *Daemon) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := d.kms.End(ctx); err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "the database was not closed properly: it does not name the end of the audit trail, or its epoch stays in use until the next start", slog.Any("error", err))
	}
}

// Dispatch implements [kmsapi.Dispatcher].
func (d *Daemon) Dispatch(ctx context.Context, r *kmsapi.Request) *kmsapi.Answer {
	began := time.Now()
	answer := d.dispatch(ctx, r)
	d.calls.observe(r.Operation, answer.Code, time.Since(began))
	if answer.Code == kmsapi.CodeThrottlingException || answer.Excess {
		socket.Throttled(ctx)
	}
	return answer
}

func (d *Daemon) dispatch(ctx context.Context, r *kmsapi.Request) *kmsapi.Answer {
	ids := d.identities.Load()
	caller, err := ids.Caller(ctx)
	unmapped, nameless := errors.Is(err, identity.ErrUnmapped), errors.Is(err, identity.ErrNameless)
	if err != nil && !unmapped && !nameless {
		d.log.ErrorContext(ctx, "call without a caller", "error", err)
		return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The caller is not known."))
	}
	if r.Refused != nil { // before the signature, which covers the body
		return d.kms.Refuse(ctx, caller, r, r.Refused)
	}
	if signer, ok, err := ids.SignedBy(caller, r, d.replays, d.clock()); err != nil {
		return d.kms.Refuse(ctx, caller, r, signatureRefusal(err))
	} else if ok {
		caller = signer
	} else if unmapped {
		return d.kms.Refuse(ctx, caller, r, kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", identity.ErrUnmapped))
	} else if nameless { // SDKs try again
		return d.kms.Refuse(ctx, caller, r, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%s", identity.ErrNameless))
	}
	return d.kms.Dispatch(ctx, caller, r)
}

// Close ends the plugins and closes the files.
func (d *Daemon) Close(ctx context.Context) error {
	var errs []error
	if d.kms != nil {
		d.end(ctx)
	}
	if d.audit != nil { // before the plugins: it signs a last checkpoint
		errs = append(errs, d.audit.Close())
	}
	if d.router != nil {
		d.router.close(ctx)
		_ = os.Remove(spareDir(d.cfg)) // mostly it was never needed
	}
	if d.store != nil {
		if d.tentative != nil && blank(d.store.View()) { // else the next one says what is left in the token
			errs = append(errs, d.tentative.takeBack(d.cfg))
		}
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}
