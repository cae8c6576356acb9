package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"cmkd/socket/operatorapi"
)

func newMetrics(s *service) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "Print the daemon's metrics in the text format of Prometheus",
		Long: `Metrics prints what GET /metrics answers on the daemon's socket: calls by operation
and error code, their duration, keys by state, tokens, plugins, the audit trail.`,
		Example: `  cmkctl metrics > /var/lib/prometheus/node-exporter/cmkd.prom.new &&
      mv /var/lib/prometheus/node-exporter/cmkd.prom.new /var/lib/prometheus/node-exporter/cmkd.prom`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := fetch(cmd.Context(), s, operatorapi.MetricsPath, http.StatusOK)
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return fmt.Errorf("printing the metrics: %w", err)
			}
			return nil
		},
	}
}
