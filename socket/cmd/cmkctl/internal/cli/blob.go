package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The forms of bytes in files and pipes.
const (
	FormRaw    = "raw"
	FormBase64 = "base64"
	FormHex    = "hex"
	FormPEM    = "pem"
)

// BlobOut is where a verb writes the bytes that it is for, and how.
type BlobOut struct {
	Path   string
	Form   Choice
	Flag   string // that chooses the form
	Label  string // of PEM (RFC 7468), "" if there is none for these bytes
	Answer Choice // the whole answer instead
}

// Register adds the flags. what names the bytes in them.
func (b *BlobOut) Register(cmd *cobra.Command, what string) {
	b.Answer = Choice{"", []string{AsJSON, AsYAML}}
	cmd.Flags().StringVar(&b.Path, "out", "-", fmt.Sprintf("`file` for the %s, - for standard output", what))
	b.RegisterForm(cmd, "format", what)
	cmd.Flags().VarP(&b.Answer, "output", "o", "print the whole answer in a `format`: json or yaml")
	cmd.MarkFlagsMutuallyExclusive("out", "output")
	cmd.MarkFlagsMutuallyExclusive("format", "output")
}

// RegisterForm adds the flag for the form alone.
func (b *BlobOut) RegisterForm(cmd *cobra.Command, flag, what string) {
	b.Flag = flag
	if len(b.Form.Of) == 0 {
		b.Form = Choice{FormRaw, []string{FormRaw, FormBase64, FormHex}}
	}
	if b.Label != "" {
		b.Form.Of = append(b.Form.Of, FormPEM)
	}
	cmd.Flags().Var(&b.Form, flag, fmt.Sprintf("`form` of the %s: %s", what, alternatives(b.Form.Of)))
}

// Produce writes the bytes that work returns, or the answer that it returns with
// them. Both are wiped.
func (b *BlobOut) Produce(cmd *cobra.Command, s *Service, work func(ctx context.Context) (data []byte, answer any, err error)) error {
	if b.Answer.Value != "" {
		data, answer, err := work(cmd.Context())
		if err != nil {
			return s.Explain(err)
		}
		defer clear(data)
		return PrintValue(cmd.OutOrStdout(), answer, b.Answer.Value)
	}
	out, err := b.Open(cmd)
	if err != nil {
		return err
	}
	defer out.Close()
	data, _, err := work(cmd.Context())
	if err != nil {
		return s.Explain(err)
	}
	defer clear(data)
	return b.Write(cmd.Context(), out, data)
}

// Stream has work write raw bytes, however many, until a signal comes.
func (b *BlobOut) Stream(cmd *cobra.Command, s *Service, work func(ctx context.Context, w io.Writer) error) error {
	out, err := b.Open(cmd)
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, stop := UntilSignal(cmd.Context())
	defer stop()
	return out.Write(ctx, func(w io.Writer) error {
		if err := work(ctx, w); err != nil {
			return s.Explain(err)
		}
		return nil
	})
}

// Open opens the output before anything is asked: what cannot be written is not
// made. Raw bytes go to a terminal only if --format says so.
func (b *BlobOut) Open(cmd *cobra.Command) (*Output, error) {
	out, err := OpenOutputOr(cmd, b.Path)
	if err != nil {
		return nil, WithStatus(ExitInput, err)
	}
	asked := cmd.Flags().Changed(b.Flag)
	if file, ok := rawFile(cmd.OutOrStdout()); ok && b.Path == "-" && b.Form.Value == FormRaw && !asked && term.IsTerminal(int(file.Fd())) {
		out.Close()
		return nil, Usagef("refusing to write raw bytes to a terminal: use --out FILE, --format base64, or --format raw to insist")
	}
	return out, nil
}

// Write writes the bytes in their form. A file is there with all of them, or as it
// was before.
func (b *BlobOut) Write(ctx context.Context, out *Output, data []byte) error {
	ctx, stop := UntilSignal(ctx)
	defer stop()
	return out.Write(ctx, func(w io.Writer) error { return b.encode(w, data) })
}

func (b *BlobOut) encode(w io.Writer, data []byte) error {
	text := data
	switch b.Form.Value {
	case FormBase64:
		text = append(base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+1), data), '\n')
	case FormHex:
		text = append(hex.AppendEncode(make([]byte, 0, hex.EncodedLen(len(data))+1), data), '\n')
	case FormPEM:
		text = pem.EncodeToMemory(&pem.Block{Type: b.Label, Bytes: data})
	}
	if b.Form.Value != FormRaw {
		defer clear(text)
	}
	_, err := w.Write(text)
	return err
}

// OpenOutputOr opens the file at path, or standard output for -.
func OpenOutputOr(cmd *cobra.Command, path string) (*Output, error) {
	if path != "-" {
		return openOutput(path)
	}
	stdout, ok := rawFile(cmd.OutOrStdout())
	if !ok {
		return nil, errors.New("standard output is not a file")
	}
	return &Output{path: "standard output", direct: func() (*os.File, error) { return stdout, nil }}, nil
}

// BlobIn is the form in which a verb reads bytes.
type BlobIn struct{ Form Choice }

// Register adds the flag; what names the bytes in it.
func (b *BlobIn) Register(cmd *cobra.Command, flag, what string) {
	b.Form = Choice{FormRaw, []string{FormRaw, FormBase64, FormHex, FormPEM}}
	cmd.Flags().Var(&b.Form, flag, fmt.Sprintf("`form` of the %s: %s", what, alternatives(b.Form.Of)))
}

// Read reads at most limit bytes from what args name, standard input if they name
// nothing. The caller wipes them. what names the bytes in errors.
func (b *BlobIn) Read(cmd *cobra.Command, args []string, limit int, what string) ([]byte, error) {
	most := limit
	if b.Form.Value != FormRaw {
		const longer, rest = 4, 1024 // hexadecimal with two characters between bytes; the lines around PEM
		most = limit*longer + rest
	}
	text, err := ReadAtMost(cmd, args, most)
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	if len(text) > most { // a part of it would decode, too
		clear(text)
		return nil, Inputf("the %s is longer than %d bytes", what, limit)
	}
	data := text
	if b.Form.Value != FormRaw {
		defer clear(text)
		if data, err = b.decode(text); err != nil {
			return nil, Inputf("reading the %s: %w", what, err)
		}
	}
	switch {
	case len(data) > limit:
		clear(data)
		return nil, Inputf("the %s is longer than %d bytes", what, limit)
	case len(data) == 0:
		return nil, Inputf("the %s is empty", what)
	}
	return data, nil
}

func (b *BlobIn) decode(text []byte) ([]byte, error) {
	switch b.Form.Value {
	case FormBase64:
		joined := bytes.Join(bytes.Fields(text), nil)
		defer clear(joined)
		data, err := base64.StdEncoding.AppendDecode(nil, joined)
		if err != nil {
			return nil, errors.New("it is not base64")
		}
		return data, nil
	case FormHex:
		joined := bytes.Join(bytes.Fields(text), nil)
		defer clear(joined)
		data, err := hex.AppendDecode(nil, joined)
		if err != nil {
			return nil, errors.New("it is not hexadecimal")
		}
		return data, nil
	default:
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, errors.New("it is not PEM")
		}
		return block.Bytes, nil
	}
}

// ReadAtMost reads all of the input, or one byte more than most, into memory that is
// not copied, so that it can be wiped.
func ReadAtMost(cmd *cobra.Command, args []string, most int) ([]byte, error) {
	in, err := OpenInput(cmd, args)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	buf := make([]byte, most+1)
	n, err := io.ReadFull(in.Src, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, WithStatus(ExitInput, err)
	}
	return buf[:n], nil
}

// ReadFile is readAtMost for a file that a flag names.
func (b *BlobIn) ReadFile(cmd *cobra.Command, path string, limit int, what string) ([]byte, error) {
	return b.Read(cmd, []string{path}, limit, what)
}
