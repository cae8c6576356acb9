package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"

	"cmkd/daemon/backup"
	"cmkd/daemon/store"
	"cmkd/socket/operatorapi"
)

// backup answers with a backup of the database.
func (s *Service) backup(ctx context.Context, c *Caller, _ *operatorapi.None) (content, error) {
	made, err := s.KMS.Backup(ctx, c.call)
	if errors.Is(err, store.ErrUnverified) {
		return nil, invalid(http.StatusConflict, "the database or the audit trail does not verify, and a backup would vouch for it: see cmkctl accept-state first")
	}
	if err != nil {
		return nil, failed("the backup failed, see the daemon's log", err)
	}
	return &whole{made}, nil
}

// verifyBackup asks the token about a backup.
func (s *Service) verifyBackup(ctx context.Context, _ *Caller, in *operatorapi.BackupSeal) (*operatorapi.VerifiedBackup, error) {
	sum, err := hex.DecodeString(in.SHA256)
	mac, err2 := hex.DecodeString(in.MAC)
	if err := errors.Join(err, err2); err != nil || len(sum) != sha256.Size || len(mac) != backup.MACSize {
		return nil, invalid(http.StatusBadRequest, "the body is not what cmkctl backup verify sends: the sum and the MAC have 64 hexadecimal digits each")
	}
	problem, err := s.KMS.VerifyBackup(ctx, &backup.Header{Key: in.Key, Token: in.Token, Serial: in.Serial},
		&backup.Seal{Sum: [sha256.Size]byte(sum), MAC: mac})
	if err != nil {
		return nil, failed("the backup cannot be verified, see the daemon's log", err)
	}
	return &operatorapi.VerifiedBackup{Problem: problem}, nil
}
