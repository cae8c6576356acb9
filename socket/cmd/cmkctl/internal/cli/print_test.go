package cli

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/clitest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"go.yaml.in/yaml/v3"
)

// TestPrintedTexts: what others have written into descriptions and tags keeps neither
// form from being printed, and a program reads it as it was written.
func TestPrintedTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.ToValidUTF8(clitest.HostileText, ""), "\x7f", "\u0080", "a\u0085b", "\u009b31m", "\ufeff", "\ufffe", "\uffff", "\u202eevil", "'\u202e'", "\U0001f600",
		"a\nb", "a\n\u202eb\n", "\t", " a ", "", "yes", "No", "on", "y", "null", "~", "0x10", "1:30", "1e3", "<<", "=", "2001-01-01",
		"# no", "- a", "a: b", "{", "[", "!tag", "&a", "*a", "|", ">", "%", "@", "`", "\"", "\\u0041", "---", "...",
	} {
		key := struct {
			*types.KeyMetadata
			Tags []types.Tag
		}{&types.KeyMetadata{Description: &text}, []types.Tag{{TagKey: &text, TagValue: aws.String(text + "x")}}}
		for format, read := range map[string]func([]byte, any) error{AsJSON: json.Unmarshal, AsYAML: yaml.Unmarshal} {
			var out bytes.Buffer
			w := &TerminalWriter{To: &out}
			if err := PrintValue(w, key, format); err != nil {
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
		if err := PrintValue(&out, types.Tag{TagKey: &text}, AsYAML); err != nil {
			t.Fatal(err)
		}
		if want := "TagKey: \"" + text + "\"\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}
