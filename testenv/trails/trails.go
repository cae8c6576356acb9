// Package trails makes audit trails for tests: of many records and varied, as a daemon
// with some keys and users leaves them.
package trails

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
)

// Start is the time of the first record. Each is Step after the one before.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Step is the time between two records.
const Step = 200 * time.Millisecond

// Account of the records.
const Account = "111122223333"

// Regions of the records: a quarter is in the second.
var Regions = []string{"us-east-1", "eu-central-1"}

// Key is the ID of one of 100 keys.
func Key(n int) string { return fmt.Sprintf("1234abcd-12ab-34cd-56ef-%012d", n%100) }

// User is the name of one of 20 users.
func User(n int) string { return fmt.Sprintf("app-%d", n%20) }

// Record is the nth of a trail. One in 50 was refused, one in 70 failed.
func Record(n int) *event.Record {
	region := Regions[0]
	if n%4 == 3 {
		region = Regions[1]
	}
	arn := "arn:aws:kms:" + region + ":" + Account + ":key/" + Key(n/3)
	r := &event.Record{
		EventTime: Start.Add(time.Duration(n) * Step), EventName: []string{"Decrypt", "Encrypt", "GenerateDataKey", "Sign"}[n/5%4], AWSRegion: region,
		UserIdentity: event.UserIdentity{
			Type: "IAMUser", PrincipalID: fmt.Sprint(1000 + n%20), ARN: "arn:aws:iam::" + Account + ":user/" + User(n),
			AccountID: Account, UserName: User(n),
		},
		UserAgent:           `aws-sdk-go-v2/1.48.0 os/linux lang/go#1.26 "quoted" api/kms#1.62`,
		RequestParameters:   jsontext.Value(fmt.Sprintf(`{"encryptionAlgorithm":"SYMMETRIC_DEFAULT","keyId":%q,"encryptionContext":{"service":"HIDDEN"}}`, arn)),
		AdditionalEventData: event.AdditionalEventData{Peer: &event.Peer{UID: 1000 + uint32(n%20), GID: 1000, PID: 4242, Executable: "/usr/bin/app"}, Decision: "Allow", Reason: "Sid users"},
		RequestID:           fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		EventID:             fmt.Sprintf("10000000-0000-4000-8000-%012d", n),
		ReadOnly:            true, ManagementEvent: true, RecipientAccountID: Account,
		Resources: []event.Resource{{ARN: arn, AccountID: Account}},
	}
	switch {
	case n%50 == 7:
		r.ErrorCode, r.ErrorMessage, r.AdditionalEventData.Decision = "AccessDeniedException", "User: "+r.UserIdentity.ARN+" is not authorized", "Deny"
	case n%70 == 11:
		r.ErrorCode, r.ErrorMessage = "DisabledException", arn+" is disabled."
	}
	return r
}

// Config says what trail to write.
type Config struct {
	Dir     string
	Records int
	// SegmentBytes is 64 MiB if it is 0.
	SegmentBytes int64
	// Record makes the nth record; nil: [Record].
	Record func(n int) *event.Record
	// KeyFile is where the public key of the checkpoints goes: audit-key-NAME.pem. What
	// is appended to a trail that is there, or with "", is not signed.
	KeyFile string
}

// Write writes the trail.
func Write(c Config) error {
	if c.Record == nil {
		c.Record = Record
	}
	cfg := audit.Config{Dir: c.Dir, SegmentBytes: c.SegmentBytes, Backlog: 1 << 40, DiskReserve: 1, CheckpointInterval: time.Hour}
	if _, err := os.Stat(c.Dir); c.KeyFile != "" && errors.Is(err, fs.ErrNotExist) {
		s, err := newSigner(c.KeyFile)
		if err != nil {
			return err
		}
		cfg.Signer = s
	}
	l, err := audit.Open(cfg)
	if err != nil {
		return err
	}
	if cfg.Signer != nil {
		if err := l.Check(audit.Known{}, nil); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	done, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for a record, which keeps their order
	for n := range c.Records {
		if err := l.Append(done, c.Record(n)); err != nil && !errors.Is(err, context.Canceled) {
			return errors.Join(err, l.Close())
		}
	}
	return l.Close()
}

// signer is a key in memory.
type signer struct {
	key *ecdsa.PrivateKey
	id  string
}

func newSigner(file string) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	const prefix, suffix = "audit-key-", ".pem"
	name := filepath.Base(file)
	id := name[len(prefix) : len(name)-len(suffix)]
	return &signer{key, id}, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

// Sign implements [audit.Signer].
func (s *signer) Sign(_ context.Context, digest []byte) ([]byte, string, error) {
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, digest)
	return signature, s.id, err
}
