package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/callers"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// BenchmarkCluster says what etcd costs beside SQLite, in one run: crypto calls of 64 callers, changes that wait
// for three daemons, and a new leader of etcd.
func BenchmarkCluster(b *testing.B) {
	file := rig.New(b, rig.Config{Process: true})
	fileKey := rig.NewKey(b, file.Client(""), &kms.CreateKeyInput{})
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			servers := etcd.StartCluster(b, n)
			all := nodesOf(b, servers, 3, true)
			key := rig.NewKey(b, all[0].Client(""), &kms.CreateKeyInput{})
			ratio := cryptoRatio(b, all[0], key, file, fileKey)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ratio, "crypto-ratio-to-sqlite")
			c := all[0].Client("")
			b.ReportMetric(p50(b, describe(b, file.Client(""), fileKey)), "change-on-sqlite-p50-ms")
			b.ReportMetric(p50(b, describe(b, c, key)), "change-p50-ms")
			b.ReportMetric(p50(b, func(i int) error {
				var err error
				if i%2 == 0 {
					_, err = c.DisableKey(b.Context(), &kms.DisableKeyInput{KeyId: &key})
				} else {
					_, err = c.EnableKey(b.Context(), &kms.EnableKeyInput{KeyId: &key})
				}
				return err
			}), "revocation-p50-ms")
			if n > 1 {
				lost, failed, longest := newLeader(b, all[0], key, servers)
				b.ReportMetric(lost.Seconds(), "changes-lost-to-new-leader-s")
				b.ReportMetric(float64(failed), "crypto-errors-of-new-leader")
				b.ReportMetric(float64(longest.Milliseconds()), "longest-crypto-call-of-new-leader-ms")
			}
		})
	}
}

// describe changes the description of a key.
func describe(b *testing.B, c *kms.Client, key string) func(i int) error {
	b.Helper()
	return func(i int) error {
		text := fmt.Sprint(i)
		_, err := c.UpdateKeyDescription(b.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &text})
		return err
	}
}

// cryptoRatio is how many Encrypts a second 64 callers get answered by the first, for each that the second answers. They are
// asked in turn, a second each, so that both have the same machine.
func cryptoRatio(b *testing.B, first *rig.Rig, firstKey string, second *rig.Rig, secondKey string) float64 {
	b.Helper()
	var calls [2]float64
	for range 25 {
		for i, of := range []struct {
			*rig.Rig
			key string
		}{{first, firstKey}, {second, secondKey}} {
			body := fmt.Sprintf(`{"KeyId":%q,"Plaintext":"dGV4dA=="}`, of.key)
			request := fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"+
				"X-Amz-Target: TrentService.Encrypt\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			result, err := callers.Run(b.Context(), callers.Options{Socket: of.Socket, Request: request, Callers: 64}, time.Second)
			if err != nil {
				b.Fatal(err)
			}
			calls[i] += float64(result.Calls) / result.Took.Seconds()
		}
	}
	return calls[0] / calls[1]
}

// p50 is the median time of a call in milliseconds.
func p50(b *testing.B, call func(i int) error) float64 {
	b.Helper()
	var took []time.Duration
	for i := range 200 {
		began := time.Now()
		if err := call(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Microseconds()) / 1000
}

// newLeader kills the leader of etcd. lost is how long no change is answered then, failed how many
// crypto calls of 8 callers fail meanwhile, and longest what one of them takes.
func newLeader(b *testing.B, r *rig.Rig, key string, servers []*etcd.Server) (lost time.Duration, failed int64, longest time.Duration) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var errors atomic.Int64
	took := make([]time.Duration, 8)
	var running sync.WaitGroup
	for i := range took {
		c := r.Client("")
		running.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if encryptOnce(ctx, c, key) != "" && ctx.Err() == nil {
					errors.Add(1)
				}
				took[i] = max(took[i], time.Since(began))
			}
		})
	}
	leader(b, servers).Kill()
	began := time.Now()
	for {
		text := "after " + began.String()
		if _, err := r.Client("").UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &text}, once); err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			b.Fatal("no change is answered within a minute of the leader's end")
		}
	}
	lost = time.Since(began)
	cancel()
	running.Wait()
	return lost, errors.Load(), slices.Max(took)
}
