package cli

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Descriptions, aliases, tags, audit records and error texts come from others, and a
// terminal obeys what it is sent: control characters among them could hide output,
// make up more of it, or type commands. cmkctl prints none: its standard output and
// standard error are written through a terminalWriter, and values of the daemon's in
// tables have no line feeds or tabs either (see printable). What is not text, such as
// a file that is opened or the output of another program, does not go that way.

// TerminalWriter writes text, with what a terminal would obey written as an escape
// that is the same in JSON: \u001b. Line feeds and tabs are the text's own. Bytes that
// are not UTF-8 are written as \x9b.
type TerminalWriter struct {
	To   io.Writer
	rest []byte // the beginning of a character whose end has not been written yet
}

// Write implements [io.Writer].
func (w *TerminalWriter) Write(text []byte) (int, error) {
	in := append(w.rest, text...)
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		r, size := utf8.DecodeRune(in)
		switch {
		case r == utf8.RuneError && size == 1 && !utf8.FullRune(in):
			w.rest = append([]byte(nil), in...)
			_, err := w.To.Write(out)
			return len(text), err
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, in[0])
		case r != '\n' && r != '\t' && obeyed(r):
			out = appendEscape(out, r)
		default:
			out = append(out, in[:size]...)
		}
		in = in[size:]
	}
	w.rest = nil
	if _, err := w.To.Write(out); err != nil {
		return 0, err
	}
	return len(text), nil
}

// Close writes the beginning of a character that has no end. It does not close what
// is written to.
func (w *TerminalWriter) Close() error {
	rest := w.rest
	w.rest = nil
	for _, b := range rest {
		if _, err := fmt.Fprintf(w.To, `\x%02x`, b); err != nil {
			return err
		}
	}
	return nil
}

// TextWriter writes printable text as it is, and refuses everything else: for content
// that somebody else has made and that is not cmkctl's to escape.
type TextWriter struct {
	To   io.Writer
	rest []byte // the beginning of a character whose end has not been written yet
}

// Write implements [io.Writer]. Of bytes that are not all text it writes none.
func (w *TextWriter) Write(text []byte) (int, error) {
	in := append(w.rest, text...)
	end := 0
	for end < len(in) {
		r, size := utf8.DecodeRune(in[end:])
		if r == utf8.RuneError && size == 1 && !utf8.FullRune(in[end:]) {
			break
		}
		if r == utf8.RuneError && size == 1 || r != '\n' && r != '\t' && obeyed(r) {
			return 0, errNotText
		}
		end += size
	}
	w.rest = append([]byte(nil), in[end:]...)
	if _, err := w.To.Write(in[:end]); err != nil {
		return 0, err
	}
	return len(text), nil
}

// Close reports a character that has no end.
func (w *TextWriter) Close() error {
	if len(w.rest) > 0 {
		return errNotText
	}
	return nil
}

var errNotText = Inputf("refusing to write what is not printable text to a terminal: use --out or a pipe")

// obeyed reports whether a terminal, or what lays out text, does something at a
// character instead of showing it: C0, DEL and C1 (ECMA-48), the separators of lines
// and paragraphs, and the marks that turn the direction of writing (Unicode Standard
// Annex #9).
func obeyed(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r < 0xa0, r == 0x2028, r == 0x2029:
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f, 0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
		return true
	default:
		return r == 0xfeff // or a text would not be what it looks like
	}
}

func appendEscape(out []byte, r rune) []byte { return fmt.Appendf(out, `\u%04x`, r) }

// Quote writes all that is obeyed as an escape, line feeds and tabs too.
func Quote(text string) string {
	if !strings.ContainsFunc(text, obeyed) {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for _, r := range text {
		if obeyed(r) {
			out = appendEscape(out, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// Printable quotes every text in what v points to: an answer of the daemon's that is
// to be printed.
func Printable(v any) { quoteAll(reflect.ValueOf(v)) }

func quoteAll(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			quoteAll(v.Elem())
		}
	case reflect.String:
		if v.CanSet() {
			v.SetString(Quote(v.String()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				quoteAll(v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			quoteAll(v.Index(i))
		}
	case reflect.Map:
		quoteMap(v)
	default: // has no text
	}
}

// quoteMap makes new entries: those of a map cannot be set in place.
func quoteMap(v reflect.Value) {
	for _, key := range v.MapKeys() {
		k, e := reflect.New(key.Type()).Elem(), reflect.New(v.Type().Elem()).Elem()
		k.Set(key)
		e.Set(v.MapIndex(key))
		quoteAll(k)
		quoteAll(e)
		v.SetMapIndex(key, reflect.Value{})
		v.SetMapIndex(k, e)
	}
}

// rawFile is the file under the output of a command, for what is not text. ok is
// false if there is none.
func rawFile(w io.Writer) (f *os.File, ok bool) {
	if t, wrapped := w.(*TerminalWriter); wrapped {
		w = t.To
	}
	f, ok = w.(*os.File)
	return f, ok
}

// Raw is the same for other programs, which write what they write.
func Raw(w io.Writer) io.Writer {
	if f, ok := rawFile(w); ok {
		return f
	}
	return w
}

// ErrorText is the text of an error as it is printed: what begins a line is cmkctl's.
func ErrorText(err error) string { return strings.ReplaceAll(err.Error(), "\n", "\n  ") }
