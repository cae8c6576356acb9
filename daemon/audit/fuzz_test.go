package audit

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit/event"
)

// FuzzOpen opens whatever may be in a segment. What Verify accepts, Open goes
// on with; what it refuses, Open leaves alone, but for a torn end, of which
// no byte is lost.
func FuzzOpen(f *testing.F) {
	lines := sealed(f, 2)
	for _, seed := range []string{
		"", "\n", "{}\n", lines[0], lines[0] + lines[1], lines[0] + lines[1][:50], lines[1], lines[1] + lines[0],
		lines[0] + "\x00\x00", strings.Replace(lines[0], "Decrypt", "Encrypt", 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		dir := t.TempDir()
		path := segment{dir, 1}.path()
		if err := os.WriteFile(path, log, 0o600); err != nil {
			t.Fatal(err)
		}
		_, verified := Verify(bytes.NewReader(log), VerifyOptions{})
		l, err := Open(Config{Dir: dir})
		after, _ := os.ReadFile(path)
		if err != nil {
			if verified == nil {
				t.Fatalf("sound, but: %v", err)
			}
			if !bytes.Equal(after, log) {
				t.Fatal("a refused log was changed")
			}
			return
		}
		appendN(t, l, 1)
		closeLog(t, l)
		// Where a trail may begin, Check says.
		if _, err := VerifyDir(dir, VerifyOptions{}); err != nil && !errors.Is(err, ErrBeginning) {
			t.Fatal(err)
		}
		aside, _ := os.ReadFile(path + ".torn-1")
		sound := bytes.TrimSuffix(log, aside)
		if after, _ = os.ReadFile(path); !bytes.HasPrefix(after, sound) || len(sound)+len(aside) != len(log) {
			t.Fatal("bytes were lost")
		}
	})
}

// FuzzRecord encodes whatever a caller may hand in: a record that is taken is
// one that verification accepts.
func FuzzRecord(f *testing.F) {
	f.Add("Decrypt", "agent", []byte(`{"a":[1,2.50,"\u0041"]}`))
	f.Add("\"},\"hash\":\"", "\n\x00\xff\u2028", []byte(" null\n"))
	f.Add("", "", []byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, name, agent string, parameters []byte) {
		body, err := event.Append(nil, &event.Record{EventName: name, UserAgent: agent, RequestParameters: jsontext.Value(parameters)}, event.MaxRecord)
		if err != nil {
			return
		}
		line, _ := link{}.seal(nil, body)
		if _, err := Verify(bytes.NewReader(line), VerifyOptions{}); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	})
}

// FuzzOwn verifies whatever record somebody may put into a log whose chain he
// makes again, checkpoints above all.
func FuzzOwn(f *testing.F) {
	const start = `{"eventTime":"2026-03-01T12:00:00.000Z","eventSource":"audit.cmkd","eventType":"AwsServiceEvent",`
	hash := lineHash(sealed(f, 1)[0])
	f.Add([]byte(start + `"eventName":"AuditCheckpoint","serviceEventDetails":{"sequence":1,"hash":"` + hash + `","keyId":"k","signature":"AAAA"}`))
	f.Add([]byte(start + `"eventName":"AuditCheckpoint","serviceEventDetails":{"sequence":18446744073709551615,"hash":"","signature":"!"}`))
	f.Add([]byte(start + `"eventName":"AuditLogRepaired","serviceEventDetails":{"segment":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var l link
		var log []byte
		record, _ := event.Append(nil, sample(0), event.MaxRecord)
		log, l = l.seal(log, record)
		log, _ = l.seal(log, body)
		report, err := Verify(bytes.NewReader(log), VerifyOptions{Signature: ECDSAVerifier(nil)})
		if report.SignedThrough != 0 || (err == nil && report.Checkpoints != 0) {
			t.Fatalf("nobody signed: %+v, %v", report, err)
		}
	})
}

// lineHash returns the hash that a line ends in.
func lineHash(line string) string { return line[len(line)-67:][:64] }
