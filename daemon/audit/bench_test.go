package audit

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"cmkd/daemon/audit/event"
)

// sample is a record as a Decrypt leaves it.
func sample(n int) *event.Record {
	const key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	return &event.Record{
		EventTime: time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC), EventName: "Decrypt", AWSRegion: "us-east-1",
		UserIdentity: event.UserIdentity{
			Type: "IAMUser", PrincipalID: "1001", ARN: "arn:aws:iam::111122223333:user/deploy",
			AccountID: "111122223333", UserName: "deploy",
		},
		UserAgent:           `aws-sdk-go-v2/1.48.0 "quoted" <tag> ` + "\x7f\u2028",
		RequestParameters:   jsontext.Value(`{ "encryptionAlgorithm": "SYMMETRIC_DEFAULT", "encryptionContext": {"service": "HIDDEN"} }`),
		AdditionalEventData: event.AdditionalEventData{Peer: &event.Peer{UID: 1001, GID: 1001, PID: 4242, Executable: "/usr/bin/deploy"}, Decision: "Allow", Reason: "Sid users"},
		RequestID:           fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		EventID:             fmt.Sprintf("10000000-0000-4000-8000-%012d", n),
		ReadOnly:            true, ManagementEvent: true, RecipientAccountID: "111122223333",
		Resources: []event.Resource{{ARN: key, AccountID: "111122223333"}},
	}
}

// BenchmarkAppend measures durable records per second.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			l, err := Open(Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			b.ResetTimer()
			var callersDone sync.WaitGroup
			for c := range callers {
				callersDone.Go(func() {
					r := sample(c)
					for range (b.N + callers - 1 - c) / callers {
						if err := l.Append(ctx, r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callersDone.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	r := sample(1)
	buf, err := event.Append(nil, r, event.MaxRecord)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = event.Append(buf[:0], r, event.MaxRecord)
	}
}

// BenchmarkVerify reads and verifies a log of 10,000 records.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	l, err := Open(Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			for range 100 {
				if err := l.Append(context.Background(), sample(1)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	callers.Wait()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := VerifyDir(dir, VerifyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyMillion verifies the trail that CMKD_TRAIL names, such as the one that
// BenchmarkMillion of daemon/audit/trail leaves there.
func BenchmarkVerifyMillion(b *testing.B) {
	dir := os.Getenv("CMKD_TRAIL")
	if dir == "" {
		b.Skip("CMKD_TRAIL names no trail")
	}
	var records uint64
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r, err := VerifyDir(dir, VerifyOptions{})
		if err != nil {
			b.Fatal(err)
		}
		records = r.Records
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	used := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(records)*float64(b.N)/used.Seconds(), "records/cpu-s")
}
