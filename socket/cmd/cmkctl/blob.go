package main

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
	formRaw    = "raw"
	formBase64 = "base64"
	formHex    = "hex"
	formPEM    = "pem"
)

// blobOut is where a verb writes the bytes that it is for, and how.
type blobOut struct {
	path   string
	form   choice
	flag   string // that chooses the form
	label  string // of PEM (RFC 7468), "" if there is none for these bytes
	answer choice // the whole answer instead
}

// register adds the flags. what names the bytes in them.
func (b *blobOut) register(cmd *cobra.Command, what string) {
	b.answer = choice{"", []string{asJSON, asYAML}}
	cmd.Flags().StringVar(&b.path, "out", "-", fmt.Sprintf("`file` for the %s, - for standard output", what))
	b.registerForm(cmd, "format", what)
	cmd.Flags().VarP(&b.answer, "output", "o", "print the whole answer in a `format`: json or yaml")
	cmd.MarkFlagsMutuallyExclusive("out", "output")
	cmd.MarkFlagsMutuallyExclusive("format", "output")
}

// registerForm adds the flag for the form alone.
func (b *blobOut) registerForm(cmd *cobra.Command, flag, what string) {
	b.flag = flag
	if len(b.form.of) == 0 {
		b.form = choice{formRaw, []string{formRaw, formBase64, formHex}}
	}
	if b.label != "" {
		b.form.of = append(b.form.of, formPEM)
	}
	cmd.Flags().Var(&b.form, flag, fmt.Sprintf("`form` of the %s: %s", what, alternatives(b.form.of)))
}

// produce writes the bytes that work returns, or the answer that it returns with
// them. Both are wiped.
func (b *blobOut) produce(cmd *cobra.Command, s *service, work func(ctx context.Context) (data []byte, answer any, err error)) error {
	if b.answer.value != "" {
		data, answer, err := work(cmd.Context())
		if err != nil {
			return s.explain(err)
		}
		defer clear(data)
		return printValue(cmd.OutOrStdout(), answer, b.answer.value)
	}
	out, err := b.open(cmd)
	if err != nil {
		return err
	}
	defer out.close()
	data, _, err := work(cmd.Context())
	if err != nil {
		return s.explain(err)
	}
	defer clear(data)
	return b.write(cmd.Context(), out, data)
}

// stream has work write raw bytes, however many, until a signal comes.
func (b *blobOut) stream(cmd *cobra.Command, s *service, work func(ctx context.Context, w io.Writer) error) error {
	out, err := b.open(cmd)
	if err != nil {
		return err
	}
	defer out.close()
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	return out.write(ctx, func(w io.Writer) error {
		if err := work(ctx, w); err != nil {
			return s.explain(err)
		}
		return nil
	})
}

// open opens the output before anything is asked: what cannot be written is not
// made. Raw bytes go to a terminal only if --format says so.
func (b *blobOut) open(cmd *cobra.Command) (*output, error) {
	out, err := openOutputOr(cmd, b.path)
	if err != nil {
		return nil, withStatus(exitInput, err)
	}
	asked := cmd.Flags().Changed(b.flag)
	if file, ok := rawFile(cmd.OutOrStdout()); ok && b.path == "-" && b.form.value == formRaw && !asked && term.IsTerminal(int(file.Fd())) {
		out.close()
		return nil, usagef("refusing to write raw bytes to a terminal: use --out FILE, --format base64, or --format raw to insist")
	}
	return out, nil
}

// write writes the bytes in their form. A file is there with all of them, or as it
// was before.
func (b *blobOut) write(ctx context.Context, out *output, data []byte) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	return out.write(ctx, func(w io.Writer) error { return b.encode(w, data) })
}

func (b *blobOut) encode(w io.Writer, data []byte) error {
	text := data
	switch b.form.value {
	case formBase64:
		text = append(base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+1), data), '\n')
	case formHex:
		text = append(hex.AppendEncode(make([]byte, 0, hex.EncodedLen(len(data))+1), data), '\n')
	case formPEM:
		text = pem.EncodeToMemory(&pem.Block{Type: b.label, Bytes: data})
	}
	if b.form.value != formRaw {
		defer clear(text)
	}
	_, err := w.Write(text)
	return err
}

// openOutputOr opens the file at path, or standard output for -.
func openOutputOr(cmd *cobra.Command, path string) (*output, error) {
	if path != "-" {
		return openOutput(path)
	}
	stdout, ok := rawFile(cmd.OutOrStdout())
	if !ok {
		return nil, errors.New("standard output is not a file")
	}
	return &output{path: "standard output", direct: func() (*os.File, error) { return stdout, nil }}, nil
}

// blobIn is the form in which a verb reads bytes.
type blobIn struct{ form choice }

// register adds the flag; what names the bytes in it.
func (b *blobIn) register(cmd *cobra.Command, flag, what string) {
	b.form = choice{formRaw, []string{formRaw, formBase64, formHex, formPEM}}
	cmd.Flags().Var(&b.form, flag, fmt.Sprintf("`form` of the %s: %s", what, alternatives(b.form.of)))
}

// read reads at most limit bytes from what args name, standard input if they name
// nothing. The caller wipes them. what names the bytes in errors.
func (b *blobIn) read(cmd *cobra.Command, args []string, limit int, what string) ([]byte, error) {
	most := limit
	if b.form.value != formRaw {
		const longer, rest = 4, 1024 // hexadecimal with two characters between bytes; the lines around PEM
		most = limit*longer + rest
	}
	text, err := readAtMost(cmd, args, most)
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	if len(text) > most { // a part of it would decode, too
		clear(text)
		return nil, inputf("the %s is longer than %d bytes", what, limit)
	}
	data := text
	if b.form.value != formRaw {
		defer clear(text)
		if data, err = b.decode(text); err != nil {
			return nil, inputf("reading the %s: %w", what, err)
		}
	}
	switch {
	case len(data) > limit:
		clear(data)
		return nil, inputf("the %s is longer than %d bytes", what, limit)
	case len(data) == 0:
		return nil, inputf("the %s is empty", what)
	}
	return data, nil
}

func (b *blobIn) decode(text []byte) ([]byte, error) {
	switch b.form.value {
	case formBase64:
		joined := bytes.Join(bytes.Fields(text), nil)
		defer clear(joined)
		data, err := base64.StdEncoding.AppendDecode(nil, joined)
		if err != nil {
			return nil, errors.New("it is not base64")
		}
		return data, nil
	case formHex:
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

// readAtMost reads all of the input, or one byte more than most, into memory that is
// not copied, so that it can be wiped.
func readAtMost(cmd *cobra.Command, args []string, most int) ([]byte, error) {
	in, err := openInput(cmd, args)
	if err != nil {
		return nil, err
	}
	defer in.close()
	buf := make([]byte, most+1)
	n, err := io.ReadFull(in.src, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, withStatus(exitInput, err)
	}
	return buf[:n], nil
}

// readFile is readAtMost for a file that a flag names.
func (b *blobIn) readFile(cmd *cobra.Command, path string, limit int, what string) ([]byte, error) {
	return b.read(cmd, []string{path}, limit, what)
}
