package journal

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/store"
)

// Trail is where calls are recorded; see [audit.Log].
type Trail interface {
	// Append returns when the record is durable.
	Append(ctx context.Context, r *event.Record) error
	// AppendIn is Append into room that was reserved: it cannot want for it.
	AppendIn(ctx context.Context, r *event.Record, room audit.Room) error
	// AppendBefore is AppendIn for what happens only if it returns nil.
	AppendBefore(ctx context.Context, r *event.Record, room audit.Room) error
	// Reserve takes room for a call, until Release.
	Reserve(privileged bool) (audit.Room, error)
	Release(room audit.Room)
	// After hands every line behind the record with the sequence to f.
	After(sequence uint64, f func(line []byte) error) error
	// Err returns nil while records can be appended, and why not otherwise.
	Err() error
	// Head returns the last durable record's sequence number and hash.
	Head() (sequence uint64, hash [sha256.Size]byte)
	// Check verifies the trail from the last checkpoint before the known record:
	// see [audit.Log.Check] and [audit.IsProblem].
	Check(known audit.Known, signature audit.SignatureVerifier) error
	// Verify verifies all of it.
	Verify(ctx context.Context, signature audit.SignatureVerifier) (audit.Report, error)
	// Hold stops checkpoints until Check succeeds.
	Hold()
	// Begin starts the trail over, and Checkpoint signs its head.
	Begin(ctx context.Context, reason string) error
	Checkpoint(ctx context.Context) error
	// Prune removes the oldest segments.
	Prune(ctx context.Context, opt audit.PruneOptions, signature audit.SignatureVerifier, record func(*audit.Pruning) error, commit func() error) (*audit.Pruning, error)
	// End takes no more records and makes the last checkpoint. If final, nothing
	// comes after what Head returns.
	End() (final bool, err error)
}

// Journal keeps the record of all that happens: of calls, and of what the service does on
// its own.
type Journal struct {
	Config

	acts     acts
	calls    inFlight
	refusals refusals
	troubles troubles
}

// Config is what a [Journal] works with.
type Config struct {
	Account string
	Region  string // of calls that name none
	Node    string // names the daemon among those that take turns, "" if there is one only
	Store   *store.Store
	Trail   Trail
	Log     *slog.Logger
	Now     func() time.Time
	// RefusalRate and RefusalBurst bound the records of a user's calls that were refused,
	// without a permission to show: so many a second, and after a rest. 0 is 10 and 1,000.
	RefusalRate  float64
	RefusalBurst int
}

// New makes a journal.
func New(cfg Config) *Journal {
	return &Journal{Config: cfg, refusals: newRefusals(cfg.RefusalRate, cfg.RefusalBurst)}
}
