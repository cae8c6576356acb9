package kms_test

import (
	"strings"
	"syscall"
	"testing"

	"cmkd/socket/kmsapi"
)

// TestUnknownOutcome: the disk reports a failure of a commit, and nobody knows
// whether it is in the database. The trail does not say that it is not before
// that is certain, and says so then, before anything else is changed.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		committed bool
	}{{"committed", true}, {"not committed", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 1)
			create := func(alias string) {
				s.service.Dispatch(t.Context(), s.callers[0], &kmsapi.Request{
					Operation: "CreateAlias", RequestID: alias, Body: []byte(`{"AliasName":"alias/` + alias + `","TargetKeyId":"` + s.name("key") + `"}`),
				})
			}
			s.learn("CreateKey", s.service.Dispatch(t.Context(), s.callers[0], &kmsapi.Request{Operation: "CreateKey", Body: []byte(`{}`)}))
			takeBack := s.disk.Copy(t)
			s.disk.AfterCommit(func() error {
				if !c.committed {
					takeBack()
				}
				return syscall.EIO
			})
			create("first")
			s.disk.AfterCommit(nil)
			records := s.recordsOf("first")
			if len(records) != 2 || records[0].ErrorCode != "" || records[1].ErrorCode != kmsapi.CodeKMSInternalException ||
				!strings.Contains(records[1].line, `"details":{"outcomeUnknown":"`+records[0].EventID+`"}`) {
				t.Fatalf("%+v", records)
			}
			create("second")
			if _, there := s.db.View().Alias("us-east-1", "alias/first"); there != c.committed {
				t.Errorf("the alias is there: %t", there)
			}
			taken := s.recordsOf("first")
			s.read = 0
			second := s.recordsOf("second")
			switch {
			case c.committed && len(taken) > 0:
				t.Errorf("taken back: %+v", taken)
			case !c.committed && (len(taken) != 1 || taken[0].EventName != "ChangeNotCommitted" ||
				!strings.Contains(taken[0].line, `"notCommitted":"`+records[0].EventID+`"`)):
				t.Errorf("not taken back: %+v", taken)
			case len(second) != 1 || second[0].ErrorCode != "":
				t.Errorf("the change that follows: %+v", second)
			}
		})
	}
}
