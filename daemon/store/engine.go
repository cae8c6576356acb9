package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// Errors of an [Engine]. What else it refuses, it explains with errors of its own.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("the store is in use by another process")
	// ErrNewerSchema: a newer version of the program has migrated the
	// database. There is no way back but a backup.
	ErrNewerSchema = errors.New("the database has a newer schema than this program knows")
	// ErrCorrupt: the database is damaged or not the program's, or a row in it
	// contradicts itself or another.
	ErrCorrupt = errors.New("the database is corrupt")
	// ErrPermissions: the database can be read or written by others than its
	// owner, or belongs to somebody else.
	ErrPermissions = errors.New("unsafe permissions")
	// ErrReplaced: another database lies where this one was. What was written
	// since it was opened is in memory only.
	ErrReplaced = errors.New("the database file has been replaced by another")
	// ErrUnwritable: the database cannot be written: the disk is full, broken or
	// read-only, or ErrBusy or ErrReplaced. See [Store.Err].
	ErrUnwritable = errors.New("the database cannot be written")
	// ErrBusy: another process keeps the database locked. Engines that ask a server
	// return an error of their own that is ErrBusy, if it does not answer.
	ErrBusy = errors.New("another process keeps the database locked")
	// ErrUnknown: the commit failed, and may all the same be in the database: it
	// may be found after a crash. Nothing that it would make true may be undone
	// before [Store.Settle].
	ErrUnknown = errors.New("it is not known whether the commit is in the database")
	// ErrStale: the database has not been heard of for so long that others may have
	// changed it.
	ErrStale = errors.New("the database may have changed without this process")
	// ErrChanged: the rows or the head are not those that were meant.
	ErrChanged = errors.New("the database has changed meanwhile")
)

// Engine is a durable form of the rows. It understands neither rows nor heads.
// The [Store] calls all methods but Trouble one at a time, and nothing after Close.
//
// What an engine stores is authenticated by nobody but the store, so an engine
// returns what it finds. Every engine passes the suite of storetest.
type Engine interface {
	// Load reads the whole database as of one commit and returns its head, nil
	// if it has none. An error of the visitor ends it and is returned as it is.
	Load(ctx context.Context, visit Visitor) (*Sealed, error)
	// Check makes sure that Load reads what a start would find, rather than what
	// the engine remembers of it. [ErrCorrupt] says that a start could not read it.
	Check(ctx context.Context) error
	// Begin makes sure, as far as can be told before, that a commit can be
	// written, and keeps other writers out if the engine can. It waits for those
	// a moment that is counted from when the caller was asked for the change
	// (asked), so that callers who come together fail together. Errors wrap
	// [ErrUnwritable], or are those of ctx.
	Begin(ctx context.Context, asked time.Time) (Writer, error)
	// Probe tries whether the database can be written, by a commit that changes
	// nothing. After it, no earlier commit can appear whose outcome was unknown
	// and which Load does not show. Errors are those of Begin.
	Probe(ctx context.Context, asked time.Time) error
	// Trouble says why nothing can be written. The engine keeps it up to date;
	// it may begin at any time.
	Trouble() *Trouble
	// Close ends the use of the database and lets others open it.
	Close() error
}

// Fenced is an [Engine] whose database others may change after this process has lost
// touch with it.
type Fenced interface {
	// Fresh returns nil while nobody else can have changed the database since it was
	// loaded, and an error that wraps [ErrStale] otherwise. It may be called at any
	// time, concurrently, and is cheap.
	Fresh() error
}

// Writer writes one commit. Either method ends it; Rollback after Commit does
// nothing.
type Writer interface {
	// Commit makes the batch durable, all of it or nothing, however large it is. It
	// does not stop halfway when ctx ends. Errors: [ErrUnwritable], and nothing has
	// been written unless it is [ErrUnknown] too; of an engine that lets several
	// have the database open also [ErrChanged], if the head of the database is not
	// the one that the batch follows, and nothing has been written.
	Commit(ctx context.Context, batch *Batch) error
	Rollback()
}

// Visitor receives what [Engine.Load] reads. What it is given is good until the
// method returns. A nil method leaves out what it is for.
type Visitor struct {
	Row    func(*Row) error
	Digest func(*Digest) error
}

// Row is a row as an engine keeps it.
type Row struct {
	Table string
	// Name is the row's name among those of its table; see [RowName].
	Name string
	// Columns are the row's values of [Table.Columns]: strings, int64s and byte
	// strings. An engine that has no columns leaves them nil when it reads.
	Columns  []any
	Document []byte // JSON
}

// Change is a row as a commit leaves it. A deleted row has no document and only
// the columns of its primary key.
type Change struct {
	Row
	Digest [sha256.Size]byte // of the document, zero if the row is deleted
}

// Deleted reports whether the change deletes the row.
func (c *Change) Deleted() bool { return c.Document == nil }

// Digest is what is stored beside a row, so that a row that differs can be found.
// Nothing trusts it.
type Digest struct {
	Table, Name string
	Sum         []byte // SHA-256 of the document, as found
}

// Batch is one commit: what becomes durable at once. It says all that another
// process which follows the database has to know of it.
type Batch struct {
	// Changes are in the order in which they were made; the last one of a row
	// counts.
	Changes []Change
	// Before is the head of the commit that this one follows, nil if there is none.
	Before *Sealed
	// Head is the new head. Nil: the database has none yet, and no digests are
	// stored.
	Head *Sealed
	// Rehash: Digests replace all digests there are. Otherwise those of the
	// changes are stored.
	Rehash  bool
	Digests []Digest
}

// Table describes a table to an engine that keeps values in columns, beside the
// documents.
type Table struct {
	Name string
	// Columns are the columns beside the document; the first Primary of them are
	// the primary key.
	Columns []string
	Primary int
}

// Tables are all tables, in the order in which they can be filled.
func Tables() []Table {
	all := make([]Table, len(kinds))
	for i, k := range kinds {
		all[i] = k.describe()
	}
	return all
}
