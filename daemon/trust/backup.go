package trust

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"cmkd/backends"
	"cmkd/daemon/backup"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/version"
)

// A backup is of one snapshot, which the service has verified or written: what somebody
// does to the database meanwhile is not in it. A key in the token authenticates it. That
// of the head cannot: it is destroyed with its epoch, so that nothing verifies an older
// database, and an operator accepts one that was restored.

// Backup is a backup that can be written. It holds a snapshot of the rows.
type Backup struct {
	header backup.Header
	view   *store.View
	head   *backup.Head // nil if the rows have changed their form
	seal   backup.Seal
	size   int64
}

// backupDetails are what the record of a backup says of it.
type backupDetails struct {
	SHA256   string `json:"sha256"` // of the lines before the last
	Rows     int    `json:"rows"`
	Root     string `json:"root"`
	Sequence uint64 `json:"sequence"`
	Key      string `json:"key"`
}

// Backup makes a backup of the database as it is now. It fails with
// [store.ErrUnverified] while the database is not verified: the backup would vouch for it.
func (s *Trust) Backup(ctx context.Context, c *journal.Call) (*Backup, error) {
	if s.integrity.seal.Load() == nil {
		return nil, store.ErrUnverified
	}
	key, err := s.backupKey(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.tokenInfo(ctx)
	if err != nil {
		return nil, err
	}
	b, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	b.header.Token, b.header.Serial, b.header.Key = info.Label, info.Serial, keyring.ObjectID(key.CKAID).String()
	w, err := b.lines(io.Discard)
	if err != nil {
		return nil, err
	}
	b.seal.Sum, b.size = w.Sum(), w.Size()
	if b.seal.MAC, err = s.systemMAC(ctx, key, backup.Message(b.seal.Sum)); err != nil {
		return nil, fmt.Errorf("authenticating the backup: %w", err)
	}
	c.Record.AdditionalEventData.Details, err = json.Marshal(&backupDetails{
		hex.EncodeToString(b.seal.Sum[:]), b.header.Rows, b.header.Root, b.header.Sequence, b.header.Key,
	})
	return b, err
}

// snapshot is a backup without what authenticates it.
func (s *Trust) snapshot(ctx context.Context) (*Backup, error) {
	view, found, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	rows := 0
	root, err := store.RootOf(func(yield func(*store.Row, error) bool) {
		for row, err := range view.Rows() {
			if rows++; !yield(row, err) {
				return
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the rows: %w", err)
	}
	sequence, hash := s.Trail.Head()
	b := &Backup{view: view, header: backup.Header{
		Format: backup.Format, Created: s.Now().UTC(), Version: version.Release(), Account: s.Account, Rows: rows,
		Root: hex.EncodeToString(root), AuditSequence: sequence, AuditHash: hex.EncodeToString(hash[:]),
	}}
	if found == nil {
		return b, nil
	}
	head, err := found.Head()
	if err != nil {
		return nil, err
	}
	b.header.Sequence, b.header.Committed, b.header.Epoch = head.Sequence, head.Time, head.Epoch
	if string(root) == string(view.Root()) {
		b.head = &backup.Head{Document: found.Document, MAC: found.MAC}
	}
	return b, nil
}

// lines writes all lines but the last.
func (b *Backup) lines(to io.Writer) (*backup.Writer, error) {
	w := backup.NewWriter(to, &b.header)
	for row, err := range b.view.Rows() {
		if err == nil {
			err = w.Row(&backup.Row{Table: row.Table, Document: row.Document})
		}
		if err != nil {
			return nil, fmt.Errorf("writing the backup: %w", err)
		}
	}
	if b.head == nil {
		return w, nil
	}
	return w, w.Head(b.head)
}

// WriteTo writes the backup. It implements [io.WriterTo].
func (b *Backup) WriteTo(to io.Writer) (int64, error) {
	w, err := b.lines(to)
	if err == nil {
		err = w.Close(&b.seal)
	}
	if err != nil {
		return 0, err
	}
	return b.size, nil
}

// Size is the length of the backup in bytes.
func (b *Backup) Size() int64 { return b.size }

// tokenInfo is what the first token says of itself.
func (s *Trust) tokenInfo(ctx context.Context) (*backends.TokenInfo, error) {
	b, err := s.SystemRoute(s.Token, keyring.PurposeBackup, keyring.BackupSpec.Spec)
	if err != nil {
		return nil, err
	}
	info, err := b.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return nil, err
	}
	return &info.Token, nil
}

// backupKey is the key that authenticates backups, which is made with the first.
func (s *Trust) backupKey(ctx context.Context) (*store.SystemKey, error) {
	s.backups.Lock()
	defer s.backups.Unlock()
	if k, ok := s.Store.View().CurrentSystemKey(s.Token, keyring.PurposeBackup); ok {
		return k, nil
	}
	if err := s.AddSystemKey(ctx, s.Token, keyring.PurposeBackup, keyring.BackupSpec.Spec, keyring.BackupSpec.Usage, 1); err != nil {
		return nil, fmt.Errorf("making the backup key in token %s: %w", s.Token, err)
	}
	k, ok := s.Store.View().CurrentSystemKey(s.Token, keyring.PurposeBackup)
	if !ok {
		return nil, fmt.Errorf("token %s has no backup key", s.Token)
	}
	return k, nil
}

// VerifyBackup says why a backup is not one that was made with this token, "" if it is.
func (s *Trust) VerifyBackup(ctx context.Context, h *backup.Header, seal *backup.Seal) (problem string, err error) {
	return VerifyBackup(ctx, s.Router, s.Token, h, seal)
}

// VerifyBackup is [Service.VerifyBackup] without a service, with the keys that the token
// has under the label of a backup key: the database that names one may be lost.
func VerifyBackup(ctx context.Context, router keyring.Router, token string, h *backup.Header, seal *backup.Seal) (problem string, err error) {
	b, info, ok := router.Route(token, keyring.BackupSpec.Spec)
	if !ok || info.Unsupported != "" {
		return "", fmt.Errorf("no plugin serves key spec %s on token %s, which the backup key has", keyring.BackupSpec.Spec, token)
	}
	list, err := b.ListKeys(ctx, &backends.ListKeysRequest{})
	if err != nil {
		return "", fmt.Errorf("listing the keys of token %s: %w", token, err)
	}
	for _, o := range list.Objects {
		if !keyring.IsBackupKey(o) || o.ID.String() != h.Key {
			continue
		}
		key := backends.Key{ID: o.ID, Spec: keyring.BackupSpec.Spec, Usage: keyring.BackupSpec.Usage}
		_, err := b.CheckKey(ctx, &backends.CheckKeyRequest{Key: key})
		if code := backends.CodeOf(err); code == backends.KeyUnsafe || code == backends.KeyDuplicate {
			return fmt.Sprintf("the backup key %s in the token is not as cmkd has made it: %v", h.Key, err), nil
		}
		var made *backends.MACAnswer
		if err == nil {
			made, err = b.GenerateMAC(ctx, &backends.MACRequest{Key: key, Algorithm: "HMAC_SHA_256", Message: backup.Message(seal.Sum)})
		}
		switch {
		case err != nil:
			return "", fmt.Errorf("verifying the backup with key %s: %w", h.Key, err)
		case !hmac.Equal(made.MAC, seal.MAC):
			return "its MAC is not the token's: somebody has altered it", nil
		}
		return "", nil
	}
	answer, err := b.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return "", err
	}
	if t := answer.Token; t.Serial != h.Serial {
		return fmt.Sprintf("it says that it is of token %s (serial number %s): this one is %s (%s), and has not its backup key", h.Token, h.Serial, t.Label, t.Serial), nil
	}
	return fmt.Sprintf("the token has no backup key %s: it was removed, or the backup is not of this token", h.Key), nil
}

// RecordRestore records that the database was restored from a backup while no daemon ran.
func (s *Trust) RecordRestore(ctx context.Context, details any) error {
	return s.RecordEvent(ctx, "RestoreDatabase", details)
}
