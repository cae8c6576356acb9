package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// Health is what the daemon says of itself.
type Health operatorapi.Health

func NewStatus(s *cli.Service) *cobra.Command {
	var inJSON, watch bool
	var interval time.Duration
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the daemon's status; exit with 1 if it is degraded",
		Long: `Status shows how the daemon, its tokens and its plugins are, and what to do next if
something is wrong.

With -w it goes on: it prints a line whenever the state changes, or what to do next, until it
is interrupted. A daemon that does not answer is unreachable. With -o json each is a line,
with -o yaml a document.`,
		Example: `  cmkctl status
  cmkctl status -w
  cmkctl status -o json | jq -r .state`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval <= 0 {
				return cli.Usagef("--interval %s: want a time above 0", interval)
			}
			if watch {
				return watchStatus(cmd, s, &p, interval)
			}
			body, err := fetchStatus(cmd.Context(), s)
			if err != nil {
				return err
			}
			h, err := parseHealth(body)
			if err != nil {
				return err
			}
			if inJSON {
				_, err = cmd.OutOrStdout().Write(body)
			} else {
				err = p.PrintAs(cmd.OutOrStdout(), json.RawMessage(body), func(out io.Writer) error { return h.print(out, !p.NoHeaders) })
			}
			if err != nil {
				return fmt.Errorf("printing the status: %w", err)
			}
			if h.State != operatorapi.OK {
				return &cli.ExitError{Status: 1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&inJSON, "json", false, "print the daemon's JSON unchanged")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "watch: print a line at each change")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often -w looks")
	p.Register(cmd)
	cmd.MarkFlagsMutuallyExclusive("json", "watch")
	cmd.MarkFlagsMutuallyExclusive("json", "output")
	return cmd
}

// fetchStatus gets /status. A daemon that is not well answers with status 503
// and the same JSON.
func fetchStatus(ctx context.Context, s *cli.Service) ([]byte, error) {
	return fetch(ctx, s, operatorapi.Status.Path, http.StatusOK, http.StatusServiceUnavailable)
}

// fetch gets a page from the daemon. An answer with none of the statuses is a
// refusal.
func fetch(ctx context.Context, s *cli.Service, path string, statuses ...int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	status, body, err := s.Do(req, 64<<20)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(statuses, status) {
		return nil, cli.Refused(status, fmt.Sprintf("the daemon refuses: %s (HTTP status %d)", strings.TrimSpace(string(body)), status))
	}
	return body, nil
}

func parseHealth(body []byte) (*Health, error) {
	var h Health
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, fmt.Errorf("reading the daemon's status: %w", err)
	}
	for _, text := range []*string{&h.ReloadError, &h.EpochError, &h.DatabaseError, &h.Fenced, &h.AuditError} {
		*text = strings.ReplaceAll(*text, "\n", "; ") // the errors of several things, one a line
	}
	cli.Printable(&h)
	return &h, nil
}

// ReadHealth asks the daemon how it is.
func ReadHealth(ctx context.Context, s *cli.Service) (*Health, error) {
	body, err := fetchStatus(ctx, s)
	if err != nil {
		return nil, err
	}
	return parseHealth(body)
}

func (h *Health) print(out io.Writer, headers bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "state\t%s\n", h.State)
	if next := h.next(); next != nothingNext {
		fmt.Fprintf(w, "next\t%s\n", next)
	}
	fmt.Fprintf(w, "version\t%s\n", h.Version)
	fmt.Fprintf(w, "uptime\t%s\n", time.Duration(h.UptimeSeconds)*time.Second)
	fmt.Fprintf(w, "account\t%s\n", h.Account)
	fmt.Fprintf(w, "regions\t%s\n", strings.Join(h.Regions, " "))
	fmt.Fprintf(w, "keys\t%d\n", h.Keys)
	if h.AuditMismatch != "" {
		fmt.Fprintf(w, "audit trail\tdoes not verify: %s; see cmkctl accept-state\n", h.AuditMismatch)
	}
	if h.StateMismatch != "" {
		fmt.Fprintf(w, "database\tdoes not verify: %s; see cmkctl accept-state\n", h.StateMismatch)
	}
	if h.AuditError != "" {
		fmt.Fprintf(w, "audit trail\tcannot be written, all calls are refused: %s\n", h.AuditError)
	}
	if h.DatabaseError != "" {
		fmt.Fprintf(w, "database\tcannot be written, nothing can be changed: %s\n", h.DatabaseError)
	}
	if h.Fenced != "" {
		fmt.Fprintf(w, "database\tthis daemon answers no calls: %s\n", h.Fenced)
	}
	if h.EpochError != "" {
		fmt.Fprintf(w, "database\ta copy from before the start would verify, the next epoch has not begun: %s\n", h.EpochError)
	}
	for _, k := range h.Duplicates {
		fmt.Fprintf(w, "key\t%s version %d is not used: two objects in token %s have CKA_ID %s, remove the one that is not cmkd's\n",
			k.KeyID, k.Version, k.Token, k.ID)
	}
	for _, m := range h.UnsafeMaterials {
		fmt.Fprintf(w, "key\t%s version %d is not used: its object in token %s has other attributes than cmkd gave it, restore it\n", m.KeyID, m.Version, m.Token)
	}
	if h.MissingMaterials > 0 {
		fmt.Fprintf(w, "materials\t%d are not in their token: cmkctl recover names them\n", h.MissingMaterials)
	}
	if h.ReloadError != "" {
		fmt.Fprintf(w, "reload\tfailed, the old settings stay in force: %s\n", h.ReloadError)
	}
	for _, text := range h.Warnings {
		fmt.Fprintf(w, "warning\t%s\n", text)
	}
	if h.DeletionsHeld {
		fmt.Fprintln(w, "deletions\theld: the clock jumped ahead or the database was accepted, see cmkctl confirm-clock")
	}
	if ship := h.AuditShipping; ship != nil {
		text := fmt.Sprintf("%s: %s behind, %d s", ship.To, cli.Number(ship.LagRecords, "record"), ship.LagSeconds)
		if ship.LostRecords > 0 {
			text += fmt.Sprintf(", %s pruned before they were shipped", cli.Number(ship.LostRecords, "record"))
		}
		if ship.Error != "" {
			text += ": " + ship.Error
		}
		fmt.Fprintf(w, "shipping\t%s\n", text)
	}
	if h.AuditDisk.Warning != "" {
		fmt.Fprintf(w, "audit\t%d MiB free: %s\n", h.AuditDisk.FreeBytes>>20, h.AuditDisk.Warning)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w = tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(h.Tokens) > 0 {
		fmt.Fprintln(w)
		if headers {
			fmt.Fprintln(w, "TOKEN\tSTATE\tLABEL\tSERIAL\tMODEL")
		}
		for _, t := range h.Tokens {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.Name, t.State, t.Label, t.Serial, t.Model)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if err := h.printMembers(w, headers); err != nil {
		return err
	}
	if err := h.printNodes(w, headers); err != nil {
		return err
	}
	if len(h.Plugins) > 0 {
		fmt.Fprintln(w)
		if headers {
			fmt.Fprintln(w, "PLUGIN\tTOKEN\tSTATE\tPID\tRESTARTS\tLAST ERROR")
		}
		for _, p := range h.Plugins {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", p.Name, OnToken(&p), p.State, p.PID, p.Restarts, lastError(p.LastError, p.LastErrorAt))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, p := range h.Plugins {
			if p.Hanging != "" {
				fmt.Fprintf(w, "\n%s hangs: %s\n", p.Name, p.Hanging)
			}
			for _, text := range p.Limits {
				fmt.Fprintf(w, "\n%s on token %s: %s\n", p.Name, OnToken(&p), text)
			}
		}
	}
	return w.Flush()
}

// lastError is an error of a plugin with the time at which it was.
func lastError(text string, at time.Time) string {
	if text == "" || at.IsZero() {
		return text
	}
	return at.UTC().Format(time.DateTime) + " UTC: " + text
}
