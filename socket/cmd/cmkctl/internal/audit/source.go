package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// trailSource is where a command reads the trail: files, or the daemon that has them.
type trailSource struct {
	trail.Source

	name string // for errors
}

// describe names it in a sentence.
func (t trailSource) describe() string {
	if _, files := t.Source.(trail.Dir); files {
		return "the audit trail in " + t.name
	}
	return t.name
}

// registerSource adds the flags that say where the trail is read.
func (f *trailFlags) registerSource(cmd *cobra.Command) {
	f.registerFolder(cmd)
	cmd.Flags().BoolVar(&f.daemon, "daemon", false, "have the daemon read its trail, as an auditor may; the default if the folder cannot be read and --dir and $"+auditFolderVariable+" name none")
	cmd.MarkFlagsMutuallyExclusive("dir", "daemon")
}

// source is what the flags say.
func (f *trailFlags) source(s *cli.Service) trailSource {
	dir := f.folder()
	files := trailSource{trail.Dir(dir), dir}
	daemon := trailSource{&daemonTrail{s}, "the daemon's audit trail"}
	if f.daemon {
		return daemon
	}
	if f.dir != "" || os.Getenv(auditFolderVariable) != "" {
		return files
	}
	// Who may not read the folder may be an auditor; and where there is none, the daemon
	// may have another.
	if _, err := os.ReadDir(dir); errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.Path()); err == nil {
			return daemon
		}
	}
	return files
}

// daemonTrail is the trail of a daemon that reads it for others. It implements
// [trail.Source].
type daemonTrail struct{ service *cli.Service }

// Search implements [trail.Source].
func (d *daemonTrail) Search(ctx context.Context, o trail.Options, f func(*trail.Event) error) error {
	in := trailQuery(&o.Query)
	in.Reverse = o.Reverse
	if d.service.Timeout > 0 { // the daemon ends it before
		limit := operatorapi.SearchTime + max(d.service.Timeout, time.Minute)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, cli.Exit(cli.ExitUnavailable, fmt.Errorf("the daemon has not sent all records within %s: see its log", limit)))
		defer cancel()
	}
	err := d.read(ctx, in, f)
	if err == trail.Stop { //nolint:errorlint // as it is, and not along with another
		return nil
	}
	return err
}

// reconnectInterval is how long a follower waits for a daemon that has been stopped.
const reconnectInterval = time.Second

// Follow implements [trail.Source]. A daemon that stops ends its answer, and may come back:
// what was written meanwhile comes, too.
func (d *daemonTrail) Follow(ctx context.Context, q trail.Query, after uint64, f func(*trail.Event) error) error {
	in := trailQuery(&q)
	in.Follow, in.After = true, after
	for reached := false; ; {
		var stopped *cli.ExitError
		err := d.read(ctx, in, func(e *trail.Event) error {
			in.After = max(in.After, e.Sequence)
			return f(e)
		})
		switch {
		case err == trail.Stop: //nolint:errorlint // see Search
			return nil
		case err == nil, errors.Is(err, errCutOff):
			reached = true
		case ctx.Err() != nil || !reached || !errors.As(err, &stopped) || stopped.Status != cli.ExitUnavailable:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(reconnectInterval):
		}
	}
}

// errCutOff: the daemon has not sent all that it should have.
var errCutOff = cli.Exit(cli.ExitUnavailable, errors.New("the daemon has not sent all records: see its log"))

// Read hands what the daemon sends to f.
func (d *daemonTrail) read(ctx context.Context, in *operatorapi.TrailQuery, f func(*trail.Event) error) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := d.service.Stream(ctx, operatorapi.ReadTrail.Method, operatorapi.ReadTrail.Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewReaderSize(answer.Body, audit.MaxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF) && len(line) == 0:
			if text := answer.Trailer.Get(operatorapi.TrailErrorTrailer); text != "" {
				return cli.Exit(cli.ExitFailed, fmt.Errorf("the daemon has not sent all records: %s", cli.Quote(text)))
			}
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return cli.Inputf("the daemon sends what is not a line of an audit trail")
		default:
			return errCutOff
		}
		if err := f(trail.Parse(bytes.Clone(line[:len(line)-1]))); err != nil {
			return err
		}
	}
}

// trailQuery is the query as the daemon gets it.
func trailQuery(q *trail.Query) *operatorapi.TrailQuery {
	in := &operatorapi.TrailQuery{
		Principal: q.Principal, Operations: q.Operations, Outcome: q.Outcome, Since: q.Since, Until: q.Until,
		Text: q.Text, Region: q.Region, ID: q.ID, Sequence: q.Sequence, Checkpoints: q.Checkpoints,
	}
	for _, k := range q.Keys {
		in.Keys = append(in.Keys, operatorapi.TrailKey{Region: k.Region, ID: k.ID})
	}
	return in
}
