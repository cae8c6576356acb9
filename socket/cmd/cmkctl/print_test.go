package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"go.yaml.in/yaml/v3"

	"cmkd/socket/operatorapi"
)

// TestPrintedTexts: what others have written into descriptions and tags keeps neither
// form from being printed, and a program reads it as it was written.
func TestPrintedTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.ToValidUTF8(hostileText, ""), "\x7f", "\u0080", "a\u0085b", "\u009b31m", "\ufeff", "\ufffe", "\uffff", "\u202eevil", "'\u202e'", "\U0001f600",
		"a\nb", "a\n\u202eb\n", "\t", " a ", "", "yes", "No", "on", "y", "null", "~", "0x10", "1:30", "1e3", "<<", "=", "2001-01-01",
		"# no", "- a", "a: b", "{", "[", "!tag", "&a", "*a", "|", ">", "%", "@", "`", "\"", "\\u0041", "---", "...",
	} {
		key := shownKey{KeyMetadata: &types.KeyMetadata{Description: &text}, Tags: []types.Tag{{TagKey: &text, TagValue: aws.String(text + "x")}}}
		for format, read := range map[string]func([]byte, any) error{asJSON: json.Unmarshal, asYAML: yaml.Unmarshal} {
			var out bytes.Buffer
			w := &terminalWriter{to: &out}
			if err := printValue(w, key, format); err != nil {
				t.Errorf("%s of %q: %v", format, text, err)
				continue
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if !shown(out.String()) {
				t.Errorf("%s of %q: a terminal obeys %q", format, text, out.String())
			}
			var got struct {
				Description any `yaml:"Description"`
				Tags        []struct {
					TagKey   any `yaml:"TagKey"`
					TagValue any `yaml:"TagValue"`
				} `yaml:"Tags"`
			}
			if err := read(out.Bytes(), &got); err != nil {
				t.Errorf("%s of %q: %v\n%s", format, text, err, out.String())
				continue
			}
			// An empty member is left out.
			if text != "" && (len(got.Tags) != 1 || !reflect.DeepEqual([]any{got.Description, got.Tags[0].TagKey, got.Tags[0].TagValue}, []any{text, text, text + "x"})) {
				t.Errorf("%s of %q is read as %q\n%s", format, text, got, out.String())
			}
		}
	}
}

// TestYAMLWords: what YAML 1.1, which many programs still read, takes for something
// else than text has quotes.
func TestYAMLWords(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"yes", "No", "on", "OFF", "y", "n", "1:30", "null", "010"} {
		var out bytes.Buffer
		if err := printValue(&out, types.Tag{TagKey: &text}, asYAML); err != nil {
			t.Fatal(err)
		}
		if want := "TagKey: \"" + text + "\"\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}

// TestWholeAnswers: what the daemon leaves out while it is empty is there for scripts.
func TestWholeAnswers(t *testing.T) {
	t.Parallel()
	p := printer{output: choice{value: asJSON}}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{&policyCheck{}, `{"resource":"","calls":0,"refused":null,"others":0,"unknownConditionKeys":null}`},
		{&policyWho{Allowed: []operatorapi.AllowedPrincipal{{Principal: "<a>"}}}, `{"action":"","resource":"","everyone":false,"allowed":[{"principal":"\u003ca\u003e","why":""}],"depends":null}`},
		{
			&inventory{Found: []*operatorapi.FoundKey{{KeyID: "k", Versions: []int{1}}}},
			`{"away":null,"missing":null,"unsafe":null,"found":[{"keyId":"k","token":"","versions":[1],"spec":"","usage":"","imported":false,"known":false,"problem":"","recovered":false}],"duplicates":null,"leftovers":null}`,
		},
		{&operatorapi.PruneAnswer{}, `{"pruned":null}`},
		{
			&operatorapi.PruneAnswer{Pruned: &operatorapi.Pruning{Segments: []string{"a"}, Until: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}},
			`{"pruned":{"first":0,"firstPreviousHash":"","records":0,"segments":["a"],"until":"2026-01-02T03:04:05.000006Z","archive":""}}`,
		},
		{&inspected{MessageID: []byte{1}}, `{"version":0,"algorithmSuite":"","keyCommitment":false,"signed":false,"messageId":"AQ==","encryptionContext":null,"encryptedDataKeys":null,"frameLength":0}`},
	} {
		var out, got bytes.Buffer
		if err := p.printAs(&out, c.answer, nil); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != c.want {
			t.Errorf("%T: %s, want %s, %v", c.answer, got.String(), c.want, err)
		}
	}
}
