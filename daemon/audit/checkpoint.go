package audit

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Signer signs checkpoints with a key that whoever can write the log cannot
// use elsewhere: one in the token. Sign returns the signature over a SHA-256
// digest and the name of the key, by which a verifier finds the public key.
// It is called from one goroutine at a time, with a deadline; an error is
// logged, and the checkpoint is tried again when the next one is due.
type Signer interface {
	Sign(ctx context.Context, digest []byte) (signature []byte, keyID string, err error)
}

// SignatureVerifier checks a checkpoint's signature over a SHA-256 digest
// with the public key that has the name keyID.
type SignatureVerifier func(keyID string, digest, signature []byte) error

// ECDSAVerifier verifies DER ECDSA signatures (RFC 3279, section 2.2.3) with
// public keys by their names.
func ECDSAVerifier(keys map[string]*ecdsa.PublicKey) SignatureVerifier {
	return func(keyID string, digest, signature []byte) error {
		key, ok := keys[keyID]
		if !ok {
			return fmt.Errorf("no public key %q", keyID)
		}
		if !ecdsa.VerifyASN1(key, digest, signature) {
			return errors.New("the signature is not valid")
		}
		return nil
	}
}

// Names of the log's own records. They have the eventType AwsServiceEvent.
const (
	ownSource       = "audit.cmkd"
	serviceEvent    = "AwsServiceEvent"
	checkpointEvent = "AuditCheckpoint"
	repairEvent     = "AuditLogRepaired"
	resumeEvent     = "AuditLogResumed"
)

// ownRecord makes one of the log's own records.
func ownRecord(event string, details jsontext.Value) *Record {
	return &Record{
		EventSource: ownSource, EventName: event, EventType: serviceEvent,
		UserIdentity: UserIdentity{Type: "AWSService", InvokedBy: ownSource}, ServiceEventDetails: details,
	}
}

// checkpoint is the serviceEventDetails of a checkpoint record.
type checkpoint struct {
	Sequence  uint64 `json:"sequence"`
	Hash      string `json:"hash"`
	KeyID     string `json:"keyId"`
	Signature string `json:"signature"` // base64 (RFC 4648, section 4)
}

// checkpointDigest is what is signed: that the record with this link was in
// the log at the time.
func checkpointDigest(l link, at string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "cmkd audit checkpoint v1\n%d\n%x\n%s\n", l.sequence, l.hash, at))
}

// checkpoint signs the head of the log and appends the record.
func (l *Log) checkpoint(ctx context.Context) error {
	head := l.head()
	now := time.Now().UTC()
	ctx, cancel := context.WithTimeout(ctx, l.cfg.SignTimeout)
	defer cancel()
	digest := checkpointDigest(head, now.Format(timeFormat))
	signature, keyID, err := l.cfg.Signer.Sign(ctx, digest[:])
	if err != nil {
		return fmt.Errorf("signing record %d: %w", head.sequence, err)
	}
	details, err := json.Marshal(checkpoint{
		Sequence: head.sequence, Hash: hex.EncodeToString(head.hash[:]),
		KeyID: keyID, Signature: base64.StdEncoding.EncodeToString(signature),
	})
	if err != nil {
		return err
	}
	r := ownRecord(checkpointEvent, details)
	r.EventTime, r.ReadOnly = now, true
	own, err := l.append(ctx, r, true)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signed, l.signedBy = head.sequence, own
	return nil
}

// unsigned is the number of records in need of a checkpoint: those behind the
// last one signed, checkpoints themselves not counted.
func (l *Log) unsigned() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.durable.sequence - l.signed
	if l.signedBy > l.signed && n > 0 {
		n--
	}
	return n
}

// checkpoints makes a checkpoint after every cfg.CheckpointRecords records
// and, if there is anything new, every cfg.CheckpointInterval.
func (l *Log) checkpoints(ctx context.Context) {
	defer l.owned.Done()
	ticker := time.NewTicker(l.cfg.CheckpointInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.due:
		}
		if l.unsigned() == 0 {
			continue
		}
		if err := l.checkpoint(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.ErrorContext(ctx, "audit log: no checkpoint", "error", err)
		}
	}
}
