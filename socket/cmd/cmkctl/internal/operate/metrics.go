package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

func NewMetrics(s *cli.Service) *cobra.Command {
	var listen string
	output := cli.Choice{Value: asText, Of: []string{asText, cli.AsJSON, cli.AsYAML}}
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print the daemon's metrics in the Prometheus text format",
		Long: `Metrics prints what GET /metrics answers on the daemon's socket: calls by operation
and error code, their duration, keys by state, tokens, plugins, the audit trail.

With --listen it serves them to a Prometheus server on this machine instead, until you
stop it: http://ADDRESS/metrics, on a loopback address only. Run it as a user listed in
the configuration's [monitors]. Anyone who can reach the address can read the metrics,
which name keys and tokens.`,
		Example: `  cmkctl metrics > /var/lib/prometheus/node-exporter/cmkd.prom.new &&
      mv /var/lib/prometheus/node-exporter/cmkd.prom.new /var/lib/prometheus/node-exporter/cmkd.prom
  cmkctl metrics --listen 127.0.0.1:9816`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if listen != "" {
				ctx, stop := cli.UntilSignal(cmd.Context())
				defer stop()
				return export(ctx, s, listen, cmd.ErrOrStderr())
			}
			text, err := fetch(cmd.Context(), s, operatorapi.MetricsPath, http.StatusOK)
			if err != nil {
				return err
			}
			if output.Value != asText {
				families, err := readMetrics(text)
				if err != nil {
					return fmt.Errorf("reading the metrics: %w", err)
				}
				return cli.PrintValue(cmd.OutOrStdout(), families, output.Value)
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return fmt.Errorf("printing the metrics: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "loopback `address` to serve the metrics on, such as 127.0.0.1:9816")
	cmd.Flags().VarP(&output, "output", "o", "`format`: text, which is Prometheus's, json or yaml")
	cmd.MarkFlagsMutuallyExclusive("listen", "output")
	return cmd
}

// export serves the metrics on a loopback address until ctx ends.
func export(ctx context.Context, s *cli.Service, address string, out io.Writer) error {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return cli.Usagef("--listen %s is not an address: give one such as 127.0.0.1:9816", address)
	}
	if !addr.IP.IsLoopback() {
		return cli.Usagef("--listen %s is not a loopback address, and the metrics name keys: listen on 127.0.0.1 or ::1, and put a proxy that knows its clients in front", address)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("listening for Prometheus: %w", err)
	}
	server := &http.Server{
		Handler:           exporter(s, ln.Addr()),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 3 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Fprintf(out, "metrics are on http://%s/metrics\n", ln.Addr())
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the metrics: %w", err)
	}
	return nil
}

// exporter answers GET /metrics with what the daemon answers: 502 if it does not, so that
// Prometheus has no sample rather than an old one.
func exporter(s *cli.Service, addr net.Addr) http.Handler {
	host, _, _ := net.SplitHostPort(addr.String())
	hosts := bridge.HostsAt(addr, "80", host, "localhost")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(hosts, r.Host) { // a page of the web, by a name of its own
			http.Error(w, "this is not the exporter's name", http.StatusMisdirectedRequest)
			return
		}
		text, err := fetch(r.Context(), s, operatorapi.MetricsPath, http.StatusOK)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text) // the client may be gone
	})
	return mux
}
