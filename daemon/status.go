package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/operator"
	"cmkd/plugins"
	"cmkd/socket/operatorapi"
	"cmkd/version"
)

// pluginStatus asks the plugin, briefly, how many sessions it holds and what it
// found in the token.
func (h *tokenHost) pluginStatus(ctx context.Context) operatorapi.PluginHealth {
	st := h.Status()
	out := operatorapi.PluginHealth{
		Name: h.plugin, Token: h.token, Member: h.member, State: string(st.Phase), Since: st.Since,
		Restarts: st.Restarts, FailedStarts: st.FailedStarts, LastError: st.LastError, LastErrorAt: st.LastErrorAt, Hanging: st.Hanging, PID: st.PID, InFlight: st.InFlight,
	}
	if st.Phase != plugins.Ready {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if info, err := h.Info(ctx, &backends.InfoRequest{}); err == nil {
		out.Sessions, out.Facts, out.Limits = info.Token.OpenSessions, info.Facts, info.Token.Limits
		out.Unsupported = map[string]string{}
		for _, s := range info.Specs {
			if s.Unsupported != "" {
				out.Unsupported[string(s.Spec)] = s.Unsupported
			}
		}
	}
	return out
}

// nodes are the daemons that have the database, and the servers that keep it.
func (d *Daemon) nodes(ctx context.Context) (nodes []operatorapi.NodeHealth, servers []operatorapi.ServerHealth) {
	for _, n := range d.store.Nodes() {
		if n.Self && d.store.Fresh() != nil { // the others do not know yet
			n.Serves = false
		}
		nodes = append(nodes, operatorapi.NodeHealth{Name: n.Name, Self: n.Self, Serves: n.Serves, Leader: n.Leader, LagMilliseconds: n.Lag.Milliseconds()})
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, server := range d.store.Servers(ctx) {
		health := operatorapi.ServerHealth{Endpoint: server.Name, Leader: server.Leader}
		if server.Err != nil {
			health.Error = server.Err.Error()
		}
		servers = append(servers, health)
	}
	return nodes, servers
}

// health says how the daemon is.
func (d *Daemon) health(ctx context.Context) *operatorapi.Health {
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	d.router.prove(asking)
	cancel()
	sequence, _ := d.audit.Head()
	s := &operatorapi.Health{
		State: operatorapi.OK, Version: version.Release(), UptimeSeconds: int64(time.Since(d.started).Seconds()),
		Account: d.cfg.Account, Regions: d.cfg.Regions, AuditRecords: sequence,
		Tokens: d.router.tokens(), DeletionsHeld: d.kms.Held(), AuditDisk: d.auditDisk(),
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
	if err := d.store.Fresh(); err != nil && d.kms.Mismatch() == nil {
		s.Fenced = err.Error()
	}
	s.Nodes, s.Servers = d.nodes(ctx)
	s.EpochError, s.MissingMaterials = d.kms.EpochWaiting(), d.kms.MissingMaterials()
	s.Duplicates, s.UnsafeMaterials = operator.Duplicates(d.kms.Duplicates()), operator.Materials(d.kms.UnsafeMaterials())
	s.Warnings = d.warnings()
	var late bool
	s.AuditShipping, late = d.auditShipping()
	if s.AuditError != "" || s.DatabaseError != "" || s.Fenced != "" || s.EpochError != "" || s.DeletionsHeld || s.StateMismatch != "" || s.ReloadError != "" || s.AuditDisk.Reserved || late || len(s.Duplicates) > 0 || s.MissingMaterials > 0 || len(s.UnsafeMaterials) > 0 {
		s.State = operatorapi.Degraded
	}
	for _, t := range s.Tokens {
		if t.State != operatorapi.OK {
			s.State = operatorapi.Degraded
		}
	}
	for _, server := range s.Servers { // the set has lost its redundancy
		if server.Error != "" {
			s.State = operatorapi.Degraded
		}
	}
	s.Plugins = make([]operatorapi.PluginHealth, len(d.router.hosts))
	var asked sync.WaitGroup // one that is slow must not hold up the others
	for i, h := range d.router.hosts {
		asked.Go(func() { s.Plugins[i] = h.pluginStatus(ctx) })
	}
	asked.Wait()
	for _, p := range s.Plugins {
		if p.Hanging != "" || len(p.Limits) > 0 {
			s.State = operatorapi.Degraded
		}
	}
	return s
}

// statusTimeout bounds each of what the status waits for, the tokens, the servers of etcd and the plugins,
// so that it takes about a second even if they are flooded.
const statusTimeout = 500 * time.Millisecond

// recipientFacts are what plugins report of the algorithms that encrypt to a
// recipient.
var recipientFacts = map[string]string{
	"oaep-sha256": "RSAES_OAEP_SHA_256",
	"oaep-sha1":   "RSAES_OAEP_SHA_1",
}

// recipientAlgorithms are those that all tokens have.
func (d *Daemon) recipientAlgorithms() []string {
	algorithms := []string{}
	for fact, algorithm := range recipientFacts {
		if slices.ContainsFunc(d.router.hosts, func(h *tokenHost) bool { return h.reports(fact, "yes") }) &&
			!slices.ContainsFunc(d.router.hosts, func(h *tokenHost) bool { return h.reports(fact, "no") }) {
			algorithms = append(algorithms, algorithm)
		}
	}
	slices.Sort(algorithms)
	return algorithms
}

// reports says whether the plugin has reported a fact with the value.
func (h *tokenHost) reports(fact, value string) bool {
	info := h.info.Load()
	return info != nil && info.Facts[fact] == value
}
