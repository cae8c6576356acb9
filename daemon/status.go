package daemon

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/kms"
	"cmkd/plugins"
	"cmkd/socket"
)

// status is the answer to GET /status.
type status struct {
	State         string   `json:"state"` // "ok" or "degraded"
	Version       string   `json:"version"`
	UptimeSeconds int64    `json:"uptimeSeconds"`
	Account       string   `json:"account"`
	Regions       []string `json:"regions"`
	Keys          int      `json:"keys"`
	AuditRecords  uint64   `json:"auditRecords"`
	// DeletionsHeld: the clock jumped ahead, or the database was accepted, and an
	// operator must confirm the time and what is due.
	DeletionsHeld bool `json:"deletionsHeld,omitempty"`
	// ReloadError is why the last reload failed: what it should have changed has not
	// changed.
	ReloadError string `json:"reloadError,omitempty"`
	// Warnings are about the identity policies and the modes of PIN files.
	Warnings []string `json:"warnings,omitempty"`
	// StateMismatch is why the database is not trusted.
	StateMismatch string `json:"stateMismatch,omitempty"`
	// AuditMismatch is why the audit trail is not trusted.
	AuditMismatch string `json:"auditMismatch,omitempty"`
	// AuditError is why the audit trail cannot be written: no call is answered.
	AuditError string `json:"auditError,omitempty"`
	// DatabaseError is why the database cannot be written: nothing can be changed.
	DatabaseError string `json:"databaseError,omitempty"`
	// EpochError is why the epoch of the database goes on that should have ended:
	// an older copy of it, of the same epoch, would verify.
	EpochError string `json:"epochError,omitempty"`
	// Duplicates are the keys that are not used because two objects in the token
	// have their CKA_ID.
	Duplicates []kms.Duplicate `json:"duplicates,omitempty"`
	// UnsafeMaterials are the key materials that are not used because their objects in
	// the token have other attributes than cmkd gave them.
	UnsafeMaterials []kms.Material `json:"unsafeMaterials,omitempty"`
	// MissingMaterials counts the key materials that are not in their token: cmkctl
	// recover names them.
	MissingMaterials int            `json:"missingMaterials,omitempty"`
	AuditDisk        auditStatus    `json:"auditDisk"`
	Tokens           []tokenStatus  `json:"tokens"`
	Plugins          []pluginStatus `json:"plugins"`
}

type tokenStatus struct {
	Name   string `json:"name"`
	Label  string `json:"label"`
	Serial string `json:"serial"`
	Model  string `json:"model"`
	State  string `json:"state"` // "ok" or "unavailable"
}

type pluginStatus struct {
	Name      string    `json:"name"`
	Token     string    `json:"token"`
	State     string    `json:"state"` // see [plugins.Phase]
	Since     time.Time `json:"since"`
	Restarts  int       `json:"restarts"`
	LastError string    `json:"lastError,omitempty"`
	// LastErrorAt is when that was.
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	// Hanging says which creations of keys the token does not get done.
	Hanging string `json:"hanging,omitempty"`
	// Limits are what the token does not do now that it should.
	Limits   []string `json:"limits,omitempty"`
	PID      int      `json:"pid"`
	InFlight int      `json:"inFlight"`
	Sessions int      `json:"sessions"` // PKCS#11 sessions open
	// Facts are what probing found in the token, and Unsupported the key specs
	// that it cannot hold, each with the mechanism that it lacks.
	Facts       map[string]string           `json:"facts,omitempty"`
	Unsupported map[backends.KeySpec]string `json:"unsupported,omitempty"`
}

// pluginStatus asks the plugin, briefly, how many sessions it holds and what it
// found in the token.
func (h *tokenHost) pluginStatus(ctx context.Context) pluginStatus {
	st := h.Status()
	out := pluginStatus{
		Name: h.plugin, Token: h.token, State: string(st.Phase), Since: st.Since,
		Restarts: st.Restarts, LastError: st.LastError, LastErrorAt: st.LastErrorAt, Hanging: st.Hanging, PID: st.PID, InFlight: st.InFlight,
	}
	if st.Phase != plugins.Ready {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if info, err := h.Info(ctx, &backends.InfoRequest{}); err == nil {
		out.Sessions, out.Facts, out.Limits = info.Token.OpenSessions, info.Facts, info.Token.Limits
		out.Unsupported = map[backends.KeySpec]string{}
		for _, s := range info.Specs {
			if s.Unsupported != "" {
				out.Unsupported[s.Spec] = s.Unsupported
			}
		}
	}
	return out
}

// status says how the daemon is.
func (d *Daemon) status(ctx context.Context) status {
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	d.router.prove(asking)
	cancel()
	sequence, _ := d.audit.Head()
	s := status{
		State: "ok", Version: Version, UptimeSeconds: int64(time.Since(d.started).Seconds()),
		Account: d.cfg.Account, Regions: d.cfg.Regions, AuditRecords: sequence,
		Tokens: d.router.tokens(), DeletionsHeld: d.kms.Held(), AuditDisk: d.auditStatus(),
	}
	view := d.store.View()
	for _, region := range d.cfg.Regions {
		s.Keys += view.KeyCount(region)
	}
	if m := d.kms.Mismatch(); m != nil {
		s.StateMismatch, s.AuditMismatch = m.Reason, m.Trail
	}
	if text := d.reloadError.Load(); text != nil {
		s.ReloadError = *text
	}
	if err := d.audit.Err(); err != nil {
		s.AuditError = err.Error()
	}
	if err := d.store.Err(); err != nil {
		s.DatabaseError = err.Error()
	}
	s.EpochError, s.Duplicates, s.MissingMaterials = d.kms.EpochWaiting(), d.kms.Duplicates(), d.kms.MissingMaterials()
	s.UnsafeMaterials = d.kms.UnsafeMaterials()
	s.Warnings = d.warnings()
	if s.AuditError != "" || s.DatabaseError != "" || s.EpochError != "" || s.DeletionsHeld || s.StateMismatch != "" || s.ReloadError != "" || s.AuditDisk.Reserved || len(s.Duplicates) > 0 || s.MissingMaterials > 0 || len(s.UnsafeMaterials) > 0 {
		s.State = "degraded"
	}
	for _, t := range s.Tokens {
		if t.State != "ok" {
			s.State = "degraded"
		}
	}
	s.Plugins = make([]pluginStatus, len(d.router.hosts))
	var asked sync.WaitGroup // one that is slow must not hold up the others
	for i, h := range d.router.hosts {
		asked.Go(func() { s.Plugins[i] = h.pluginStatus(ctx) })
	}
	asked.Wait()
	for _, p := range s.Plugins {
		if p.Hanging != "" || len(p.Limits) > 0 {
			s.State = "degraded"
		}
	}
	return s
}

// statusTimeout bounds what the status waits for the plugins, so that it comes
// within a second even if they are flooded.
const statusTimeout = 500 * time.Millisecond

// serveStatus answers GET /status. It tells nothing secret, but it names
// tokens and processes, so only root and admins get it.
func (d *Daemon) serveStatus(w http.ResponseWriter, r *http.Request) {
	s := d.status(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if s.State != "ok" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s) // the client may be gone
}

// recipientFacts are what plugins report of the algorithms that encrypt to a
// recipient.
var recipientFacts = map[string]string{
	"oaep-sha256": "RSAES_OAEP_SHA_256",
	"oaep-sha1":   "RSAES_OAEP_SHA_1",
}

// serveRecipient answers GET /recipient, to everybody: the algorithms that all
// tokens have, so that clients need not find out by calls that fail. A client
// asks once; who asks all the time is slowed down, since nothing else is in the
// way of a question that costs neither token nor disk.
func (d *Daemon) serveRecipient(w http.ResponseWriter, r *http.Request) {
	socket.Throttled(r.Context())
	algorithms := []string{}
	for fact, algorithm := range recipientFacts {
		if slices.ContainsFunc(d.router.hosts, func(h *tokenHost) bool { return h.reports(fact, "yes") }) &&
			!slices.ContainsFunc(d.router.hosts, func(h *tokenHost) bool { return h.reports(fact, "no") }) {
			algorithms = append(algorithms, algorithm)
		}
	}
	slices.Sort(algorithms)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string][]string{"algorithms": algorithms}) // the client may be gone
}

// reports says whether the plugin has reported a fact with the value.
func (h *tokenHost) reports(fact, value string) bool {
	info := h.info.Load()
	return info != nil && info.Facts[fact] == value
}

// confirmed is the answer to POST /confirm-clock.
type confirmed struct {
	Now time.Time `json:"now"`
}

// confirmClock answers POST /confirm-clock: an operator says that the daemon's
// clock is right.
func (d *Daemon) confirmClock(o *operator, _ *struct{}) (*confirmed, error) {
	now, err := d.kms.ConfirmClock(o.Context(), o.call)
	if err != nil {
		return nil, failed("the clock is not confirmed: the log says why", err)
	}
	return &confirmed{now}, nil
}
