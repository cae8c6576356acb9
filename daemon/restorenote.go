package daemon

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"cmkd/daemon/config"
)

// restoreNote is what a restore leaves to the next start: the audit trail is recorded by
// the daemon alone, which verifies it first and signs it afterwards.
type restoreNote struct {
	SHA256   string    `json:"sha256"` // of the backup, as in the record of its making
	Created  time.Time `json:"backupCreated"`
	Sequence uint64    `json:"sequence"` // of the backup's last commit
	Before   string    `json:"rootBefore,omitzero"`
	After    string    `json:"rootAfter"`
	Rows     int       `json:"rowsChanged"`
	Time     time.Time `json:"time"`
	UID      int       `json:"uid"`
	User     string    `json:"user,omitzero"`
	// SudoUser is what sudo(8) says of who ran it.
	SudoUser string `json:"sudoUser,omitzero"`
}

func restoreNotePath(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "restored.json") }

// leaveNote notes what is about to be done, before it is done.
func (r *restoring) leaveNote() error {
	note := restoreNote{
		SHA256: hex.EncodeToString(r.found.Seal.Sum[:]), Created: r.found.Header.Created, Sequence: r.found.Header.Sequence,
		Before: r.plan.Present.Root, After: r.found.Header.Root, Rows: len(r.plan.Differences),
		Time: time.Now().UTC(), UID: os.Getuid(), SudoUser: os.Getenv("SUDO_USER"),
	}
	if u, err := user.LookupId(strconv.Itoa(note.UID)); err == nil {
		note.User = u.Username
	}
	text, err := json.Marshal(&note)
	if err == nil {
		err = replaceFile(restoreNotePath(r.cfg), text)
	}
	if err != nil {
		return fmt.Errorf("noting the restore for the audit trail: %w", err)
	}
	return nil
}

// restored reads what a restore has left, nil if there was none. One that was interrupted
// before it changed anything is forgotten.
func (d *Daemon) restored() (*restoreNote, error) {
	text, err := os.ReadFile(restoreNotePath(d.cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // said above
	}
	if err != nil {
		return nil, fmt.Errorf("reading what a restore has left: %w", err)
	}
	note := &restoreNote{}
	if err := json.Unmarshal(text, note); err != nil { // restores write it whole or not at all
		d.log.Error("what a restore has left cannot be read: it will not be recorded", "file", restoreNotePath(d.cfg), "error", err)
		return nil, nil //nolint:nilnil // said above
	}
	if note.Before != note.After && note.Before == hex.EncodeToString(d.store.View().Root()) {
		d.log.Warn("a restore was interrupted: the database is as it was before")
		return nil, os.Remove(restoreNotePath(d.cfg))
	}
	return note, nil
}

// recordRestore records a restore, once the trail has been verified.
func (d *Daemon) recordRestore(ctx context.Context, note *restoreNote) {
	if note == nil {
		return
	}
	err := d.kms.RecordRestore(ctx, note)
	if err == nil {
		err = os.Remove(restoreNotePath(d.cfg))
	}
	if err != nil { // the next start tries again
		d.log.LogAttrs(ctx, slog.LevelError, "the restore of the database is not recorded", slog.Any("error", err))
	}
}
