package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// auditFolderVariable names the trail's folder, auditFolder is where the packaged
// configuration has it.
const (
	auditFolderVariable = "CMKD_AUDIT_DIR"
	auditFolder         = "/var/lib/cmkd/audit"
)

// trailFlags are those of commands that read the trail's files.
type trailFlags struct {
	dir          string
	daemon       bool
	since, until string
}

func (f *trailFlags) register(cmd *cobra.Command) {
	f.registerSource(cmd)
	cmd.Flags().StringVar(&f.since, "since", "", "records of this `time` or later: a date, RFC 3339, or how long ago, such as 90m or 7d")
	cmd.Flags().StringVar(&f.until, "until", "", "records before this `time`")
}

func (f *trailFlags) registerFolder(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", "", fmt.Sprintf("`folder` of the trail (default $%s or %s)", auditFolderVariable, auditFolder))
}

// folder is that of the trail.
func (f *trailFlags) folder() string {
	for _, dir := range []string{f.dir, os.Getenv(auditFolderVariable)} {
		if dir != "" {
			return dir
		}
	}
	return auditFolder
}

// times reads --since and --until.
func (f *trailFlags) times(q *trail.Query) (err error) {
	now := time.Now()
	if q.Since, err = parseMoment("--since", f.since, now); err != nil {
		return err
	}
	if q.Until, err = parseMoment("--until", f.until, now); err != nil {
		return err
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return cli.Usagef("--since %s is not before --until %s", f.since, f.until)
	}
	return nil
}

// parseMoment reads a time, or how long ago it was: "" is the zero time.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	ago, err := time.ParseDuration(text)
	var days float64
	if n, scanErr := fmt.Sscanf(text+"|", "%gd|", &days); err != nil && scanErr == nil && n == 1 {
		ago, err = time.Duration(days*24*float64(time.Hour)), nil
	}
	if err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := cli.ParseTime(flag, text)
	if err != nil {
		return at, cli.Usagef("%s %q is neither a date like 2006-01-02 or 2006-01-02T15:04:05Z nor a time ago like 90m or 7d", flag, text)
	}
	return at, nil
}

// trailError words an error of reading the trail.
func trailError(dir string, err error) error {
	if _, worded := errors.AsType[*cli.ExitError](err); worded { // by who asked the daemon
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cli.Exit(cli.ExitNotFound, fmt.Errorf("no audit trail in %s: %w; --dir or %s names another folder", dir, err, auditFolderVariable))
	case errors.Is(err, fs.ErrPermission):
		return cli.Exit(cli.ExitRefused, fmt.Errorf("the audit trail in %s: %w; it is for the daemon's user and root; auditors read it with --daemon", dir, err))
	case audit.IsProblem(err):
		return cli.Inputf("the audit trail in %s: %w", dir, err)
	}
	return err
}

// queryFlags are those of commands that look for records.
type queryFlags struct {
	trailFlags

	key, principal, outcome, text, region string
	operations                            []string
	checkpoints                           bool
}

func (f *queryFlags) register(cmd *cobra.Command) {
	f.trailFlags.register(cmd)
	cmd.Flags().StringVarP(&f.key, "key", "k", "", cli.KeyUsage+" that the records are about")
	cmd.Flags().StringVar(&f.principal, "principal", "", "records of this `caller`: ARN, user/NAME, user name or principal ID; * stands for any text")
	cmd.Flags().StringArrayVar(&f.operations, "operation", nil, "records of this `operation`, such as Decrypt; may be repeated")
	cmd.Flags().StringVar(&f.outcome, "outcome", "", "`outcome` of the call: ok, refused, failed, or an error code")
	cmd.Flags().StringVar(&f.text, "text", "", "records with this `text`, as it is in the JSON")
	cmd.Flags().StringVar(&f.region, "region", "", "records of this Region (default all)")
	cmd.Flags().BoolVar(&f.checkpoints, "checkpoints", false, "include the trail's checkpoints")
}

// query reads the flags. Of an alias it asks the trail.
func (f *queryFlags) query(ctx context.Context, from trailSource) (trail.Query, error) {
	q := trail.Query{
		Principal: f.principal, Operations: f.operations, Outcome: f.outcome, Text: f.text, Region: f.region, Checkpoints: f.checkpoints,
	}
	if lower := strings.ToLower(f.outcome); lower == trail.OK || lower == trail.Refused || lower == trail.Failed {
		q.Outcome = lower
	} else if f.outcome == lower && lower != "" { // error codes begin with a capital
		return q, cli.Usagef("--outcome must be ok, refused, failed or an error code such as AccessDenied, not %s", cli.Quote(f.outcome))
	}
	if err := f.times(&q); err != nil || f.key == "" {
		return q, err
	}
	region, id := "", f.key
	if arn := strings.SplitN(f.key, ":", 6); len(arn) == 6 && arn[0] == "arn" {
		region, id = arn[3], arn[5]
	}
	id = strings.TrimPrefix(id, "key/")
	if !strings.HasPrefix(id, cli.AliasPrefix) {
		err := cli.CheckKey(id, func(alias string) (bool, error) {
			known, err := trail.Alias(ctx, from, alias, f.region)
			return len(known) > 0, err
		})
		if err != nil {
			return q, trailError(from.name, err)
		}
		q.Keys = []trail.Key{{Region: region, ID: id}}
		return q, nil
	}
	if region == "" {
		region = f.region
	}
	var err error
	if q.Keys, err = trail.Alias(ctx, from, id, region); err != nil {
		return q, trailError(from.name, err)
	}
	if len(q.Keys) == 0 {
		return q, cli.Exit(cli.ExitNotFound, fmt.Errorf("%s does not say which key %s is: name the key by its ID", from.describe(), cli.Quote(id)))
	}
	return q, nil
}

func newAuditSearch(s *cli.Service) *cobra.Command {
	var f queryFlags
	var p cli.Printer
	var o trail.Options
	var limit int
	cmd := &cobra.Command{
		Use:   "search",
		Short: "Find records in the audit trail",
		Long: `Search prints the records that match all flags, oldest first. It reads the trail's
files, or has the daemon read them, and does not verify them: cmkctl audit verify does. An
alias stands for the key that it last pointed to in the trail.

Tables show the sequence number of each record; "cmkctl audit show" prints a whole record.
-o json and -o yaml print records as they are in the trail.`,
		Example: `  cmkctl audit search --key alias/app --since 7d --outcome refused
  cmkctl audit search --principal user/deploy --operation Decrypt --operation Sign --reverse --limit 20
  cmkctl audit search --dir /srv/archive --text 203.0.113.7 -o json | jq -r '.[].eventID'`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return cli.Usagef("--limit %d: want 0 or more", limit)
			}
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			from := f.source(s)
			var err error
			if o.Query, err = f.query(ctx, from); err != nil {
				return err
			}
			list := newRecordList(&p, cmd.OutOrStdout())
			err = from.Search(ctx, o, func(e *trail.Event) error {
				if err := list.add(e); err != nil {
					return err
				}
				if limit > 0 && list.n == limit {
					return trail.Stop
				}
				return nil
			})
			if err != nil {
				return trailError(from.name, err)
			}
			if err := list.end(); err != nil {
				return err
			}
			if list.n == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no record fits")
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&o.Reverse, "reverse", false, "newest first")
	cmd.Flags().IntVar(&limit, "limit", 0, "print the first `n` records only, 0 for all")
	p.Register(cmd)
	return cmd
}

// recordList prints records as they come: the whole list may not fit in memory.
type recordList struct {
	p      *cli.Printer
	out    io.Writer
	n      int
	stream bool // no list: a line each, and documents in YAML
	buf    []byte
}

func newRecordList(p *cli.Printer, out io.Writer) *recordList { return &recordList{p: p, out: out} }

// flushSize is how much is printed at a time.
const flushSize = 64 << 10

const recordColumns = "%-9s %-24s %-24s %-22s %-44s %s\n"

func (l *recordList) add(e *trail.Event) error {
	first := l.n == 0
	l.n++
	switch l.p.Output.Value {
	case cli.AsJSON:
		switch {
		case l.stream:
			l.buf = append(append(l.buf, e.Line...), '\n')
		case first:
			l.buf = append(append(l.buf, "[\n"...), e.Line...)
		default:
			l.buf = append(append(l.buf, ",\n"...), e.Line...)
		}
	case cli.AsYAML:
		separator, value := "", jsontext.Value("["+string(e.Line)+"]")
		if l.stream {
			separator, value = "---\n", e.Line
		}
		if err := l.addYAML(separator, value); err != nil {
			return err
		}
	default:
		if first {
			l.header()
		}
		l.row(e)
	}
	if l.stream || len(l.buf) > flushSize {
		return l.flush()
	}
	return nil
}

// addYAML adds a document, or an item of the list, after what separates it from the one before.
func (l *recordList) addYAML(separator string, value jsontext.Value) error {
	text := bytes.NewBuffer(append(l.buf, separator...))
	if err := cli.PrintYAML(text, value); err != nil {
		return err
	}
	l.buf = text.Bytes()
	return nil
}

func (l *recordList) header() {
	if !l.p.NoHeaders {
		l.buf = fmt.Appendf(l.buf, recordColumns, "SEQUENCE", "TIME", "OPERATION", "OUTCOME", "KEY", "PRINCIPAL")
	}
}

func (l *recordList) row(e *trail.Event) {
	outcome := trail.OK
	if e.ErrorCode != "" {
		outcome = strings.TrimSuffix(e.ErrorCode, "Exception")
	}
	cells := []any{fmt.Sprint(e.Sequence), e.EventTime.UTC().Format(audit.TimeFormat), e.EventName, outcome, strings.Join(e.Keys(), ","), e.Identity.Principal()}
	for i, cell := range cells {
		if cells[i] = cli.Quote(cell.(string)); cell == "" {
			cells[i] = "-"
		}
	}
	l.buf = fmt.Appendf(l.buf, recordColumns, cells...)
}

// end prints the end of the list.
func (l *recordList) end() error {
	switch l.p.Output.Value {
	case cli.AsJSON:
		if l.n == 0 {
			l.buf = append(l.buf, '[')
		}
		l.buf = append(l.buf, "\n]\n"...)
		if l.n == 0 {
			l.buf = []byte("[]\n")
		}
	case cli.AsYAML:
		if l.n == 0 {
			l.buf = []byte("[]\n")
		}
	}
	return l.flush()
}

func (l *recordList) flush() error {
	_, err := l.out.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}
