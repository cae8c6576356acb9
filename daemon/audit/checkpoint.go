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

	"cmkd/daemon/audit/event"
)

// Signer signs checkpoints with a key that whoever can write the log cannot
// use elsewhere: one in the token. Sign returns the signature over a SHA-256
// digest and the name of the key, by which a verifier finds the public key.
// It is called from one goroutine at a time, with a deadline; an error is
// logged, and the checkpoint is tried again every second.
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
	beginEvent      = "AuditLogBegun"
)

// ownRecord makes one of the log's own records.
func ownRecord(name string, details jsontext.Value) *event.Record {
	return &event.Record{
		EventSource: ownSource, EventName: name, EventType: serviceEvent,
		UserIdentity: event.UserIdentity{Type: "AWSService", InvokedBy: ownSource}, ServiceEventDetails: details,
	}
}

// checkpoint is the serviceEventDetails of a checkpoint record.
type checkpoint struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
	// First and FirstPreviousHash are the [beginning] of the trail at that time.
	// Checkpoints of version 1 have none.
	First             uint64 `json:"first,omitzero"`
	FirstPreviousHash string `json:"firstPreviousHash,omitempty"`
	KeyID             string `json:"keyId"`
	Signature         string `json:"signature"` // base64 (RFC 4648, section 4)
}

// beginning is where a trail begins: the sequence number of its oldest record,
// and the hash that it follows. Nothing older is there, or is meant to be.
type beginning struct {
	first    uint64
	previous [sha256.Size]byte
}

// firstBeginning is that of a trail of which nothing has been pruned.
var firstBeginning = beginning{first: 1}

// beginning is that of what follows l.
func (l link) beginning() beginning { return beginning{l.sequence + 1, l.hash} }

// signed is a checkpoint taken apart.
type signed struct {
	of        link
	begin     beginning // zero: the checkpoint names none
	keyID     string
	signature []byte
	at        string // eventTime
}

// digest is what is signed: that the record with the link was in the trail at
// the time, and where the trail began.
func (s *signed) digest() [sha256.Size]byte {
	if s.begin.first == 0 {
		return sha256.Sum256(fmt.Appendf(nil, "cmkd audit checkpoint v1\n%d\n%x\n%s\n", s.of.sequence, s.of.hash, s.at))
	}
	return sha256.Sum256(fmt.Appendf(nil, "cmkd audit checkpoint v2\n%d\n%x\n%d\n%x\n%s\n",
		s.of.sequence, s.of.hash, s.begin.first, s.begin.previous, s.at))
}

// parse takes the details of a checkpoint apart that was made at a time.
func (c *checkpoint) parse(at string) (*signed, error) {
	s := &signed{of: link{sequence: c.Sequence}, keyID: c.KeyID, at: at}
	if err := decodeHash(&s.of.hash, c.Hash); err != nil {
		return nil, err
	}
	if c.First != 0 {
		s.begin.first = c.First
		if err := decodeHash(&s.begin.previous, c.FirstPreviousHash); err != nil {
			return nil, err
		}
	}
	var err error
	if s.signature, err = base64.StdEncoding.DecodeString(c.Signature); err != nil {
		return nil, fmt.Errorf("%w: bad signature: %w", ErrCheckpoint, err)
	}
	return s, nil
}

func decodeHash(hash *[sha256.Size]byte, digits string) error {
	if len(digits) != hexHash {
		return fmt.Errorf("%w: bad hash", ErrCheckpoint)
	}
	if _, err := hex.Decode(hash[:], []byte(digits)); err != nil {
		return fmt.Errorf("%w: bad hash", ErrCheckpoint)
	}
	return nil
}

// verify checks the signature.
func (s *signed) verify(with SignatureVerifier) error {
	digest := s.digest()
	if err := with(s.keyID, digest[:], s.signature); err != nil {
		return fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	return nil
}

// checkpoint signs the head of the log and where it begins, and appends the
// record. It does nothing unless the log has been checked, see [Log.Check].
func (l *Log) checkpoint(ctx context.Context) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	l.mu.Lock()
	s := signed{of: l.durable, begin: l.begin}
	checked := l.checked && l.problem == nil
	l.mu.Unlock()
	if !checked {
		return nil
	}
	now := time.Now().UTC()
	s.at = now.Format(event.TimeFormat)
	ctx, cancel := context.WithTimeout(ctx, l.cfg.SignTimeout)
	defer cancel()
	digest := s.digest()
	signature, keyID, err := l.cfg.Signer.Sign(ctx, digest[:])
	if err != nil {
		return fmt.Errorf("signing record %d: %w", s.of.sequence, err)
	}
	details, err := json.Marshal(checkpoint{
		Sequence: s.of.sequence, Hash: hex.EncodeToString(s.of.hash[:]),
		First: s.begin.first, FirstPreviousHash: hex.EncodeToString(s.begin.previous[:]),
		KeyID: keyID, Signature: base64.StdEncoding.EncodeToString(signature),
	})
	if err != nil {
		return err
	}
	r := ownRecord(checkpointEvent, details)
	r.EventTime, r.ReadOnly = now, true
	own, err := l.append(ctx, r, Room{}, entry{own: true})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signed, l.signedBy = s.of.sequence, own
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

// signRetry is how long after a checkpoint that failed the next one is tried,
// however many records want one meanwhile.
const signRetry = time.Second

// checkpoints makes a checkpoint after every cfg.CheckpointRecords records
// and, if there is anything new, every cfg.CheckpointInterval. While that fails,
// as it does as long as a token is away, it tries again every signRetry.
func (l *Log) checkpoints(ctx context.Context) {
	defer l.owned.Done()
	ticker := time.NewTicker(l.cfg.CheckpointInterval)
	defer ticker.Stop()
	var retry <-chan time.Time // nil unless the last one failed
	for {
		due, tick := l.due, ticker.C
		if retry != nil {
			due, tick = nil, nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-due:
		case <-retry:
		}
		failed := retry != nil
		retry = nil
		if l.unsigned() == 0 {
			continue
		}
		switch err := l.checkpoint(ctx); {
		case err != nil && ctx.Err() == nil:
			if !failed {
				l.cfg.Logger.ErrorContext(ctx, "the audit trail has no new checkpoint, will retry", "error", err, "every", signRetry.String())
			}
			retry = time.After(signRetry)
		case failed:
			l.cfg.Logger.InfoContext(ctx, "the audit trail has checkpoints again")
		}
	}
}
