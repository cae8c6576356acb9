package daemon

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cmkd/plugins"
	"cmkd/socket"
	"cmkd/socket/kmsapi"
	"cmkd/socket/operatorapi"
)

// callMetrics count calls of the KMS API.
type callMetrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	known    map[string]*operationMetrics // by operation; fixed
}

// operationMetrics are those of one operation, looked up once.
type operationMetrics struct {
	ok       prometheus.Counter
	duration prometheus.Observer
}

// otherOperations stands for all names that are none of an operation: clients
// choose them, and each would be a time series.
const otherOperations = "other"

func newCallMetrics() *callMetrics {
	m := &callMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cmkd_calls_total", Help: "Calls of the KMS API, by operation and error code; \"\" is success.",
		}, []string{"operation", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cmkd_call_duration_seconds", Help: "Time from the whole request to the answer, record on the disk included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"operation"}),
		known: map[string]*operationMetrics{},
	}
	for _, op := range kmsapi.Operations {
		m.known[op.Name] = &operationMetrics{ok: m.total.WithLabelValues(op.Name, ""), duration: m.duration.WithLabelValues(op.Name)}
	}
	return m
}

// observe counts one call.
func (m *callMetrics) observe(operation, code string, took time.Duration) {
	op, ok := m.known[operation]
	switch {
	case !ok:
		m.total.WithLabelValues(otherOperations, code).Inc()
		return
	case code == "":
		op.ok.Inc()
	default:
		m.total.WithLabelValues(operation, code).Inc()
	}
	op.duration.Observe(took.Seconds())
}

// serveMetrics answers in the text format of Prometheus.
func (d *Daemon) serveMetrics(server *socket.Server) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(d.calls.total, d.calls.duration, &stateMetrics{d, server})
	// In the exporter of the node the names without a prefix are its own.
	prometheus.WrapRegistererWithPrefix("cmkd_", r).MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// stateMetrics tell how the daemon is when somebody asks. It implements
// [prometheus.Collector].
type stateMetrics struct {
	daemon *Daemon
	server *socket.Server
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cmkd_"+name, help, labels, nil)
}

var (
	buildInfo       = describe("build_info", "1, with the version.", "version")
	connections     = describe("connections", "Connections to the socket that are open.")
	callsInFlight   = describe("calls_in_flight", "Calls in flight.")
	refusedTotal    = describe("refused_total", "Calls and connections that the limits of the socket refused.")
	evictedTotal    = describe("connections_evicted_total", "Idle connections that were closed to make room for new ones.")
	usersActive     = describe("users_active", "Users with a request under way, or a moment ago.")
	waiting         = describe("requests_waiting", "Requests that wait for their turn behind others of their user, by class: user, or privileged (root, admins and the daemon's user).", "class")
	waitSeconds     = describe("request_wait_seconds", "What requests waited that had to wait for their turn.", "class")
	keysKnown       = describe("keys", "Keys, by Region and KeyState.", "region", "state")
	materialExpiry  = describe("key_material_expiry_timestamp_seconds", "ValidTo of the imported key material that expires first, Unix time.", "key")
	auditRecords    = describe("audit_records_total", "Sequence number of the last record of the audit trail.")
	auditWritable   = describe("audit_writable", "1 while the audit trail can be written; without it calls are refused.")
	auditTrusted    = describe("audit_verified", "1 while the audit trail verifies; else see cmkctl accept-state.")
	auditFree       = describe("audit_disk_free_bytes", "Bytes that are free on the disk of the audit trail.")
	auditLow        = describe("audit_disk_low", "1 while the disk of the audit trail is getting full.")
	shipLagRecords  = describe("audit_ship_lag_records", "Records of the audit trail that the receiver has not taken yet.", "to")
	shipLagSeconds  = describe("audit_ship_lag_seconds", "Age of the first record of the audit trail that the receiver has not taken yet.", "to")
	shipPosition    = describe("audit_shipped_records_total", "Sequence number of the last record that the receiver has taken.", "to")
	shipUp          = describe("audit_ship_up", "1 unless the audit trail cannot be shipped.", "to")
	shipLost        = describe("audit_ship_lost_records_total", "Records that were pruned or set aside before they were shipped.", "to")
	auditReserved   = describe("audit_disk_reserved", "1 while what is left of the disk is for calls of root and admins.")
	databaseWrites  = describe("database_writable", "1 while the database can be written; without it nothing can be changed.")
	epochCurrent    = describe("database_epoch_current", "1 unless the epoch of the database goes on that should have ended.")
	materialMissing = describe("key_materials_missing", "Key materials of the database that are not in their token; see cmkctl recover.")
	materialUnsafe  = describe("key_materials_unsafe", "Key materials that are not used because their objects have other attributes than cmkd gave them.")
	databaseTrusted = describe("database_verified", "1 while the database verifies; else see cmkctl accept-state.")
	nodeServes      = describe("node_serves", "1 if the daemon answers calls, as far as this one knows; of a database in etcd.", "node")
	nodeLeads       = describe("node_leads", "1 of the daemon that does what one does for all.", "node")
	nodeLag         = describe("node_lag_seconds", "For how long the daemon has not confirmed the last change, which waits for it.", "node")
	etcdUp          = describe("etcd_up", "1 if the server answers and has a leader.", "endpoint")
	duplicateIDs    = describe("duplicate_keys", "CKA_IDs of keys that are not used because two objects in the token have them.", "token")
	deletionsHeld   = describe("deletions_held", "1 while deletions wait for cmkctl confirm-clock.")
	reloadSucceeded = describe("last_reload_successful", "1 unless the last reload of the configuration failed; see cmkctl status.")
	tokenUp         = describe("token_up", "1 if every plugin serves the token, or one of its members.", "token")
	memberUp        = describe("token_member_up", "1 if every plugin serves the member of the token.", "token", "member")
	memberRefused   = describe("token_member_refused", "1 if the member does not show the keys that it should.", "token", "member")
	memberInFlight  = describe("token_member_calls_in_flight", "Calls in flight on the member of the token.", "token", "member")
	pluginUp        = describePlugin("plugin_up", "1 if the process serves.")
	pluginRestarts  = describePlugin("plugin_restarts_total", "Processes that were lost and replaced.")
	pluginFailed    = describePlugin("plugin_failed_starts_total", "Processes that did not start, or could not open the token.")
	pluginInFlight  = describePlugin("plugin_calls_in_flight", "Calls in flight in the process.")
	pluginSessions  = describePlugin("plugin_sessions", "PKCS#11 sessions that the process has open.")
)

// describePlugin describes a metric of a process: of a token without members, and of a member.
func describePlugin(name, help string) [2]*prometheus.Desc {
	return [2]*prometheus.Desc{describe(name, help, "token", "plugin"), describe(name, help, "token", "plugin", "member")}
}

// Describe implements [prometheus.Collector]: the metrics are not known before
// they are collected.
func (m *stateMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (m *stateMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
	}
	d := m.daemon
	s := d.health(context.Background()) // bounded by statusTimeout
	sockets := m.server.Stats()
	gauge(buildInfo, 1, s.Version)
	gauge(connections, float64(sockets.Connections))
	gauge(callsInFlight, float64(sockets.Calls))
	counter(refusedTotal, float64(sockets.Refused))
	counter(evictedTotal, float64(sockets.Evicted))
	gauge(usersActive, float64(sockets.Active))
	for class, name := range map[socket.Class]string{socket.Users: "user", socket.Privileged: "privileged"} {
		w := &sockets.Waits[class]
		buckets := map[float64]uint64{}
		for i, bound := range socket.WaitBounds {
			buckets[bound.Seconds()] = w.Buckets[i]
		}
		gauge(waiting, float64(w.Waiting), name)
		out <- prometheus.MustNewConstHistogram(waitSeconds, w.Count, w.Sum.Seconds(), buckets, name)
	}
	counter(auditRecords, float64(s.AuditRecords))
	gauge(auditWritable, truth(s.AuditError == ""))
	gauge(auditTrusted, truth(s.AuditMismatch == ""))
	gauge(auditFree, float64(s.AuditDisk.FreeBytes))
	gauge(auditLow, truth(s.AuditDisk.Warning != ""))
	if ship := s.AuditShipping; ship != nil {
		gauge(shipLagRecords, float64(ship.LagRecords), ship.To)
		gauge(shipLagSeconds, float64(ship.LagSeconds), ship.To)
		counter(shipPosition, float64(ship.Position), ship.To)
		gauge(shipUp, truth(ship.Error == ""), ship.To)
		counter(shipLost, float64(ship.LostRecords), ship.To)
	}
	gauge(auditReserved, truth(s.AuditDisk.Reserved))
	gauge(databaseWrites, truth(s.DatabaseError == "" && s.Fenced == ""))
	gauge(epochCurrent, truth(s.EpochError == ""))
	gauge(materialMissing, float64(s.MissingMaterials))
	gauge(materialUnsafe, float64(len(s.UnsafeMaterials)))
	gauge(databaseTrusted, truth(s.StateMismatch == ""))
	gauge(deletionsHeld, truth(s.DeletionsHeld))
	gauge(reloadSucceeded, truth(s.ReloadError == ""))
	for _, n := range s.Nodes {
		gauge(nodeServes, truth(n.Serves), n.Name)
		gauge(nodeLeads, truth(n.Leader), n.Name)
		gauge(nodeLag, float64(n.LagMilliseconds)/1000, n.Name)
	}
	for _, server := range s.Servers {
		gauge(etcdUp, truth(server.Error == ""), server.Endpoint)
	}
	for _, t := range s.Tokens {
		gauge(tokenUp, truth(t.State != unavailable), t.Name)
		twice := 0
		for _, dup := range s.Duplicates {
			if dup.Token == t.Name {
				twice++
			}
		}
		gauge(duplicateIDs, float64(twice), t.Name)
		for _, member := range t.Members {
			gauge(memberUp, truth(member.State == operatorapi.OK), t.Name, member.Name)
			gauge(memberRefused, truth(member.State == string(plugins.Refused)), t.Name, member.Name)
			gauge(memberInFlight, float64(member.InFlight), t.Name, member.Name)
		}
	}
	for _, p := range s.Plugins {
		at, labels := 0, []string{p.Token, p.Name}
		if p.Member != "" {
			at, labels = 1, append(labels, p.Member)
		}
		gauge(pluginUp[at], truth(p.State == string(plugins.Ready)), labels...)
		counter(pluginRestarts[at], float64(p.Restarts), labels...)
		counter(pluginFailed[at], float64(p.FailedStarts), labels...)
		gauge(pluginInFlight[at], float64(p.InFlight), labels...)
		gauge(pluginSessions[at], float64(p.Sessions), labels...)
	}
	count := d.kms.CountKeys()
	for at, n := range count.Keys {
		gauge(keysKnown, float64(n), at.Region, string(at.State))
	}
	for arn, at := range count.Expiries {
		gauge(materialExpiry, float64(at.Unix()), arn)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
