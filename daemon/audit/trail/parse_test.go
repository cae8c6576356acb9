package trail

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
)

// FuzzParse: the quick way reads what a JSON parser reads, whatever callers have a say in.
func FuzzParse(f *testing.F) {
	f.Add("Decrypt", "app", "", `{"keyId":"k"}`, "arn:aws:kms:us-east-1:1:key/k", "agent")
	f.Add("Decrypt", `a"b`, "AccessDeniedException", `{"a":{"eventType":"AwsApiCall","managementEvent":true,"readOnly":false,"resources":[{"ARN":"x"}]}}`, "", `"errorCode":"X"`)
	f.Add("", "a\\", "", `{"eventTime":"x","requestParameters":{"chainVersion":1}}`, `arn"`, `,"requestParameters":`)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, operation, user, code, parameters, arn, agent string) {
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(audit.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		r := &event.Record{
			EventTime: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), EventName: operation, AWSRegion: "us-east-1", UserAgent: agent,
			UserIdentity: event.UserIdentity{Type: "IAMUser", UserName: user, ARN: "arn:aws:iam::1:user/" + user}, ErrorCode: code, ErrorMessage: agent,
			RecipientAccountID: "1", ManagementEvent: true,
		}
		if jsontext.Value(parameters).IsValid() {
			r.RequestParameters, r.ResponseElements, r.AdditionalEventData.Details = jsontext.Value(parameters), jsontext.Value(parameters), jsontext.Value(parameters)
		}
		if arn != "" {
			r.Resources = []event.Resource{{ARN: arn}, {ARN: arn + "2"}}
		}
		if len(agent)%5 == 4 && r.RequestParameters != nil {
			r.EventType, r.ServiceEventDetails = "AwsServiceEvent", jsontext.Value(parameters)
		}
		if err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(dir + "/audit-000001.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		line := bytes.TrimSuffix(text, []byte("\n"))
		want := slowly(line)
		if got, ok := quickly(line); ok && !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nread as %+v, want %+v", line, got, want)
		}
		if e := parse(line); e.EventName != want.EventName || e.Sequence != 1 {
			t.Errorf("%s\nread as %+v", line, e)
		}
	})
}
