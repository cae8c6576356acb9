package ship

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
)

// position is the last record that a receiver has taken. On the disk it is JSON:
//
//	{"version":1,"to":"…","sequence":N,"hash":"…"}
type position struct {
	Version  int    `json:"version"`
	To       string `json:"to"`
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // SHA-256 of the record, hexadecimal
}

const positionVersion = 1

func hexText(hash [32]byte) string { return hex.EncodeToString(hash[:]) }

// readPosition reads the file. One that is not there is the beginning.
func readPosition(path string) (p position, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err == nil && p.Version != positionVersion {
		err = fmt.Errorf("version %d is not known", p.Version)
	}
	if err != nil {
		return p, fmt.Errorf("reading how far the audit trail was shipped: %s: %w; remove the file to ship all of the trail again", path, err)
	}
	return p, nil
}

// write replaces the file: it has the old content or the new, whenever the power fails.
func (p position) write(path string) error {
	p.Version = positionVersion
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// holds reports whether the trail in a folder has the record, or does not reach back to
// it any more.
func (p position) holds(dir string) (bool, error) {
	if p.Sequence == 0 {
		return true, nil
	}
	r := trail.NewReader(dir, p.Sequence-1)
	defer r.Close()
	line, err := r.Next()
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	hash, ok := audit.LineHash(line)
	return audit.LineSequence(line) > p.Sequence || ok && hexText(hash) == p.Hash, nil
}

// keeper keeps the position.
type keeper struct {
	s     *Shipper
	at    position
	saved position // on the disk
	when  time.Time
	log   bool // a failure to save was logged
}

// advance moves the position by n records that were sent, and returns the others.
func (k *keeper) advance(open []sent, n int) []sent {
	if n <= 0 {
		return open
	}
	n = min(n, len(open))
	to := k.at.To
	k.at = open[n-1].position
	k.at.To = to
	rest := open[n:]
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.s.status.Position, k.s.status.Error, k.s.status.Since = k.at.Sequence, "", time.Time{}
	k.s.status.Oldest = time.Now()
	if len(rest) > 0 {
		k.s.status.Oldest = rest[0].at
	}
	return rest
}

// saveSometimes saves the position if the last time is long enough ago.
func (k *keeper) saveSometimes() {
	if k.at != k.saved && time.Since(k.when) >= saveInterval {
		k.save()
	}
}

// save writes the position to the disk. If that fails, more is sent again after a
// restart.
func (k *keeper) save() {
	if k.at == k.saved {
		return
	}
	k.when = time.Now()
	err := k.at.write(k.s.cfg.Position)
	if err == nil {
		k.saved, k.log = k.at, false
		return
	}
	if !k.log {
		k.s.cfg.Logger.Error("the shipping position of the audit trail cannot be saved", slog.Any("error", err))
		k.log = true
	}
}
