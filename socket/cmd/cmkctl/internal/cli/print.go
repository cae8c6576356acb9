package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/aws/smithy-go/middleware"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// Choice is a flag with one of a few values. It implements [pflag.Value].
type Choice struct {
	Value string
	Of    []string
}

// Set implements [pflag.Value].
func (c *Choice) Set(text string) error {
	if !slices.Contains(c.Of, text) {
		return fmt.Errorf("want %s", alternatives(c.Of))
	}
	c.Value = text
	return nil
}

// String implements [pflag.Value].
func (c *Choice) String() string { return c.Value }

// Type implements [pflag.Value].
func (c *Choice) Type() string { return "format" }

// alternatives lists words as in "a, b or c".
func alternatives(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Printer prints answers: tables for people, JSON and YAML for programs, with the
// names that the members have in the API.
type Printer struct {
	Output    Choice
	NoHeaders bool
}

const (
	AsTable = "table"
	AsJSON  = "json"
	AsYAML  = "yaml"
)

// Register adds the flags of commands that print a list or the properties of one thing.
func (p *Printer) Register(cmd *cobra.Command) {
	p.RegisterFormat(cmd)
	cmd.Flags().BoolVar(&p.NoHeaders, "no-headers", false, "print a table without its headers")
}

// RegisterFormat adds the flag of commands that print more than one table.
func (p *Printer) RegisterFormat(cmd *cobra.Command) {
	p.Output = Choice{AsTable, []string{AsTable, AsJSON, AsYAML}}
	cmd.Flags().VarP(&p.Output, "output", "o", "`format`: table, json or yaml")
}

// Ask is ask with the answer as it is to be printed: JSON has escapes of its own.
func (p *Printer) Ask(ctx context.Context, s *Service, path string, in, out any) error {
	if p.Output.Value == AsTable {
		return Ask(ctx, s, path, in, out)
	}
	return AskExactly(ctx, s, path, in, out)
}

// PrintAs prints an answer of the daemon's own with the names of its JSON, for people
// as table does.
func (p *Printer) PrintAs(out io.Writer, v any, table func(io.Writer) error) error {
	if p.Output.Value == AsTable {
		return table(out)
	}
	text, err := json.Marshal(whole(reflect.ValueOf(v)))
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return PrintValue(out, json.RawMessage(text), p.Output.Value)
}

// whole is an answer of the daemon's with every member, those too that the daemon leaves
// out while they are empty: a script finds 0 where there is nothing to count.
func whole(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return whole(v.Elem())
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			return at
		}
		o := object{}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			value := whole(v.Field(i))
			if embedded, ok := value.(object); ok && v.Type().Field(i).Anonymous {
				o = append(o, embedded...)
				continue
			}
			o = append(o, member{name, value})
		}
		return o
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Interface()
		}
		list := make([]any, v.Len())
		for i := range list {
			list[i] = whole(v.Index(i))
		}
		return list
	default:
		return v.Interface()
	}
}

// Table is rows under headers. Without headers each row is a name and a value.
type Table struct {
	Headers []string
	Rows    [][]string
}

func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Print prints v, for people as the table.
func (p *Printer) Print(out io.Writer, v any, t Table) error {
	if p.Output.Value != AsTable {
		return PrintValue(out, v, p.Output.Value)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(t.Headers) > 0 && !p.NoHeaders {
		fmt.Fprintln(w, strings.Join(t.Headers, "\t"))
	}
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = Quote(cell); cell == "" {
				cells[i] = "-" // a column is never empty, for programs like awk
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// PrintValue prints v as JSON or YAML.
func PrintValue(out io.Writer, v any, format string) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(plain(reflect.ValueOf(v))); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	defer func() { clear(text.Bytes()) }()
	if format == AsYAML {
		return PrintYAML(out, text.Bytes())
	}
	_, err := out.Write(text.Bytes())
	return err
}

// PrintYAML prints JSON, which is YAML in another style (YAML 1.2, section 1.2), but
// for characters that YAML has as escapes only.
func PrintYAML(out io.Writer, text []byte) error {
	escaped := escapeText(bytes.TrimSpace(text))
	defer clear(escaped)
	var doc yaml.Node
	if err := yaml.Unmarshal(escaped, &doc); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	restyle(&doc)
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return e.Close()
}

// escapeText writes all in the strings of a JSON text that YAML does not take
// (YAML 1.2, section 5.1) or a terminal obeys as escapes.
func escapeText(text []byte) []byte {
	out := make([]byte, 0, 2*len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r != '\n' && (obeyed(r) || r == 0xfffe || r == 0xffff) {
			out = appendEscape(out, r)
		} else {
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	return out
}

// restyle takes off the brackets and quotes of JSON, except around what is empty, what
// YAML 1.1 takes for something else than text, and what is printed as an escape, which
// only double quotes have.
func restyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		printed, err := yaml.Marshal(n.Value)
		escaped := func(r rune) bool { return r != '\n' && obeyed(r) }
		if err != nil || printed[0] == '"' || strings.ContainsFunc(n.Value, escaped) {
			n.Style = yaml.DoubleQuotedStyle
		}
		clear(printed)
	}
	for _, child := range n.Content {
		restyle(child)
	}
}

// plain is a value of the SDK's as its members are in the API: those that are not set
// are left out, times are RFC 3339 in UTC and blobs base64.
func plain(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			return at.UTC().Format(time.RFC3339)
		}
		return plainStruct(v)
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Interface()
		}
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(v.Index(i))
		}
		return list
	case reflect.Map:
		entries := map[string]any{}
		for _, key := range v.MapKeys() {
			entries[key.String()] = plain(v.MapIndex(key))
		}
		return entries
	default:
		return v.Interface()
	}
}

// member is one of an object's, which keeps their order.
type member struct {
	name  string
	value any
}

type object []member

// MarshalJSON implements [json.Marshaler].
func (o object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		out = append(fmt.Appendf(out, "%q:", m.name), value...)
		clear(value)
	}
	return append(out, '}'), nil
}

func plainStruct(v reflect.Value) object {
	o := object{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || field.Type == reflect.TypeFor[middleware.Metadata]() {
			continue
		}
		value := v.Field(i)
		if value.Kind() != reflect.Bool && value.IsZero() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		if embedded, ok := plain(value).(object); ok && field.Anonymous {
			o = append(o, embedded...)
			continue
		}
		o = append(o, member{name, plain(value)})
	}
	return o
}

// Moment is a time in a table.
func Moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
