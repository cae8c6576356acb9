package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// TestLongFields: what a caller fills at will is cut, and the record is written.
func TestLongFields(t *testing.T) {
	t.Parallel()
	long := fmt.Sprintf(`{"description":%q}`, strings.Repeat("x", maxElements))
	fits := fmt.Sprintf(`{"d":%q}`, strings.Repeat("x", maxElements-len(`{"d":""}`)))
	for name, c := range map[string]struct {
		message, parameters         string
		wantMessage, wantParameters string
	}{
		"both fit":             {strings.Repeat("m", maxErrorMessage), fits, strings.Repeat("m", maxErrorMessage), fits},
		"a long message":       {strings.Repeat("m", 1<<20), `{}`, strings.Repeat("m", maxErrorMessage), `{}`},
		"between characters":   {"m" + strings.Repeat("é", maxErrorMessage), `{}`, "m" + strings.Repeat("é", (maxErrorMessage-1)/2), `{}`},
		"long parameters":      {"", long, "", fmt.Sprintf(`{"omitted":true,"originalSize":%d}`, len(long))},
		"bytes of no encoding": {strings.Repeat("\x80", 1<<20), `{}`, "", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := sample(1)
			r.ErrorMessage, r.RequestParameters = c.message, jsontext.Value(c.parameters)
			body, err := appendRecord(nil, r)
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
			if got.ErrorMessage != c.wantMessage {
				t.Errorf("errorMessage has %d bytes, want %d", len(got.ErrorMessage), len(c.wantMessage))
			}
			if string(got.RequestParameters) != c.wantParameters {
				t.Errorf("requestParameters is %.60s, want %.60s", got.RequestParameters, c.wantParameters)
			}
		})
	}
}
