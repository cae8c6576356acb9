package members

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/callers"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// BenchmarkMembers has 64 callers encrypt with a token that takes 2 ms for it, and with one that
// has two such members.
func BenchmarkMembers(b *testing.B) {
	for _, names := range [][]string{{}, {"a", "b"}} {
		b.Run(fmt.Sprintf("members=%d", len(names)), func(b *testing.B) {
			tok := testenv.NewToken(b)
			cfg := rig.Config{Token: tok, Process: true}
			var members []*member
			for _, name := range names {
				members = append(members, newMember(b, name, tokensOf(tok)))
			}
			if len(members) == 0 {
				m := shim.New(b, tok.Module)
				m.Control.Set("C_Encrypt", shim.Delay(2*time.Millisecond))
				cfg.Module, cfg.Env = m.Path, rig.Variables(m.Env)
			}
			for _, m := range members {
				m.Set("C_Encrypt", shim.Delay(2*time.Millisecond))
			}
			s := prepare(b, cfg, members...)
			s.Initialise(b)
			s.Start(b)
			made, err := s.CreateKey(b.Context(), &kms.CreateKeyInput{})
			if err != nil {
				b.Fatal(err)
			}
			body := fmt.Sprintf(`{"KeyId":%q,"Plaintext":%q}`, *made.KeyMetadata.KeyId, base64.StdEncoding.EncodeToString([]byte("text")))
			request := fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"+
				"X-Amz-Target: TrentService.Encrypt\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			calls, took := 0, time.Duration(0)
			for b.Loop() {
				result, err := callers.Run(b.Context(), callers.Options{Socket: s.Socket, Request: request, Callers: 64}, 2*time.Second)
				if err != nil {
					b.Fatal(err)
				}
				calls, took = calls+result.Calls, took+result.Took
			}
			b.ReportMetric(float64(calls)/took.Seconds(), "calls/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
