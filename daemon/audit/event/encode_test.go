package event

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// quoted is a JSON string.
func quoted(s string) string {
	b, _ := jsontext.AppendQuote(nil, s)
	return string(b)
}

// hostile is a record all of whose fields are as somebody chose them who wants
// no record to be written.
func hostile(s string) *Record {
	value := jsontext.Value(`{"policy":` + quoted(s) + `,"list":[` + quoted(s) + `],"keyId":"k"}`)
	r := &Record{
		EventVersion: s, EventSource: "kms.amazonaws.com" + s, EventName: s, AWSRegion: s, SourceIPAddress: s, UserAgent: s,
		UserIdentity: UserIdentity{Type: s, PrincipalID: s, ARN: s, AccountID: s, AccessKeyID: s, UserName: s, InvokedBy: s},
		ErrorCode:    s, ErrorMessage: s, RequestParameters: value, ResponseElements: value, RequestID: s, EventID: s,
		AdditionalEventData: AdditionalEventData{
			Peer: &Peer{UID: 1<<32 - 1, GID: 1<<32 - 1, PID: -1 << 31, Executable: s}, Decision: s, Reason: s,
			Recipient: value, Details: value, DatabaseSequence: 1<<64 - 1, Node: s,
		},
		EventType: s, ManagementEvent: true, RecipientAccountID: s, ServiceEventDetails: value,
	}
	for range 100 {
		r.Resources = append(r.Resources, Resource{ARN: s, AccountID: s, Type: s})
	}
	return r
}

// TestHostileRecord: whatever is in a record, it fits into the room that a call
// reserves, and is JSON that names what it was.
func TestHostileRecord(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"DEL": "\x7f", "control": "\x01", "invalid": "\xff", "quotes": `"`, "emoji": "😀", "separator": "\u2028", "continuation": "\x80",
	} {
		for _, n := range []int{0, 1, 50, 1 << 10, MaxRecord + 1} {
			for _, isTerse := range []bool{false, true} {
				r := hostile(strings.Repeat(s, n))
				r.Terse = isTerse
				for _, room := range []int{RoomSize - ChainRoom, MaxRecord} {
					body, err := Append(nil, r, room)
					if err != nil {
						t.Fatalf("%s × %d in %d: %v", name, n, room, err)
					}
					if body = append(body, '}'); len(body) > room+1 || !utf8.Valid(body) || !jsontext.Value(body).IsValid() {
						t.Fatalf("%s × %d in %d: %d bytes, or no JSON", name, n, room, len(body))
					}
					if !strings.Contains(string(body), `"keyId":"k"`) {
						t.Errorf("%s × %d in %d: the short member is lost", name, n, room)
					}
				}
			}
		}
	}
}

// TestFixedRoom: a record without JSON values takes at most fixedRoom.
func TestFixedRoom(t *testing.T) {
	t.Parallel()
	r := hostile(strings.Repeat("\x01", 1<<10))
	r.RequestParameters, r.ResponseElements, r.ServiceEventDetails = nil, nil, nil
	r.AdditionalEventData.Recipient, r.AdditionalEventData.Details = nil, nil
	body, err := Append(nil, r, MaxRecord)
	if err != nil || len(body)+ChainRoom > fixedRoom {
		t.Errorf("%d bytes, %v: fixedRoom is %d", len(body), err, fixedRoom)
	}
}

// TestLongFields: what a caller fills at will is cut and marked, each field separately.
func TestLongFields(t *testing.T) {
	t.Parallel()
	policy := strings.Repeat("\x7f", 200_000)
	mark := func(s string, bytes int) string {
		return fmt.Sprintf("…[%d bytes, SHA-256 %x]", bytes, sha256.Sum256([]byte(s)))
	}
	for name, c := range map[string]struct {
		message, parameters string
		wantMessage         string // its end
		wantParameters      string // its beginning
		wantIn              []string
	}{
		"both fit":       {strings.Repeat("m", maxWords-2), `{}`, strings.Repeat("m", maxWords-2), `{}`, nil},
		"a long message": {strings.Repeat("m", 1<<20), `{}`, "m" + mark(strings.Repeat("m", 1<<20), 1<<20), `{}`, nil},
		"characters":     {"m" + strings.Repeat("é", 1<<10), `{}`, "é" + mark("m"+strings.Repeat("é", 1<<10), 1+2<<10), `{}`, nil},
		"a long policy": {
			"", `{"keyId":"k","policy":` + quoted(policy) + `,"bypass":true}`, "", `{"keyId":"k","policy":{"truncated":"` + "\x7f\x7f",
			[]string{fmt.Sprintf(`","length":%d,"sha256":"%x"},"bypass":true}`, len(policy), sha256.Sum256([]byte(policy)))},
		},
		"a long list": {
			"", `{"operations":[` + strings.Repeat(`"Encrypt",`, 50_000) + `"Decrypt"],"granteePrincipal":"g"}`, "",
			`{"operations":{"truncated":"[\"Encrypt\",\"Encrypt\"`,
			[]string{`"length":`, `},"granteePrincipal":"g"}`},
		},
		"two of them": {
			"", `{"a":` + quoted(policy) + `,"b":` + quoted(policy) + `}`, "", `{"a":{"truncated":"`, []string{`},"b":{"truncated":"` + "\x7f"},
		},
		"no object": {"", quoted(policy), "", `{"truncated":"` + "\x7f", []string{`"length":200000`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Record{EventName: "Decrypt", ErrorMessage: c.message, RequestParameters: jsontext.Value(c.parameters)}
			body, err := Append(nil, r, MaxRecord)
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				ErrorMessage      string          `json:"errorMessage"`
				RequestParameters json.RawMessage `json:"requestParameters"`
			}
			if err := json.Unmarshal(append(body, '}'), &got); err != nil || !utf8.ValidString(got.ErrorMessage) {
				t.Fatalf("the record is not valid: %v", err)
			}
			if len(got.ErrorMessage) > maxWords || !strings.HasSuffix(got.ErrorMessage, c.wantMessage) {
				t.Errorf("errorMessage has %d bytes and ends with %.120q, want %.120q", len(got.ErrorMessage),
					got.ErrorMessage[max(0, len(got.ErrorMessage)-120):], c.wantMessage)
			}
			parameters := string(got.RequestParameters)
			if len(parameters) > maxElements || !strings.HasPrefix(parameters, c.wantParameters) {
				t.Errorf("requestParameters has %d bytes and begins with %.80s, want %.80s", len(parameters), parameters, c.wantParameters)
			}
			for _, want := range c.wantIn {
				if !strings.Contains(parameters, want) {
					t.Errorf("requestParameters lacks %s", want)
				}
			}
		})
	}
}

// TestTerse: a stranger gets 1 KiB of words into a record.
func TestTerse(t *testing.T) {
	t.Parallel()
	empty := &Record{Terse: true, UserAgent: "a", ErrorMessage: "a", RequestParameters: jsontext.Value(`1`)}
	least, err := Append(nil, empty, MaxRecord)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"x", "\x7f", "\x01", "\xff", `"`} {
		s = strings.Repeat(s, 100<<10)
		r := &Record{Terse: true, UserAgent: s, ErrorMessage: s, RequestParameters: jsontext.Value(`{"a":` + quoted(s) + `,"b":[` + quoted(s) + `]}`)}
		body, err := Append(nil, r, MaxRecord)
		if err != nil || len(body)-len(least) > 1<<10 {
			t.Errorf("%.4q: %d bytes of a stranger's words, %v", s, len(body)-len(least), err)
		}
	}
}
