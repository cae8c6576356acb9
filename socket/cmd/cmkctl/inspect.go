package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cmkd/socket/client/envelope"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// inspected is what inspect prints.
type inspected struct {
	Version       byte              `json:"version"`
	Suite         string            `json:"algorithmSuite"`
	KeyCommitment bool              `json:"keyCommitment"`
	Signed        bool              `json:"signed"`
	MessageID     []byte            `json:"messageId"`
	Context       map[string]string `json:"encryptionContext"`
	Keys          []inspectedKey    `json:"encryptedDataKeys"`
	FrameLength   int               `json:"frameLength"` // bytes; 0: all in one piece
}

type inspectedKey struct {
	Provider string `json:"provider"`
	Key      string `json:"key"`
	Bytes    int    `json:"bytes"`
}

func newInspect(s *cli.Service) *cobra.Command {
	var inJSON bool
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show the keys and the encryption context of a sealed file",
		Long: `Inspect prints what the header of FILE, or of standard input, says: format, keys and
encryption context. It needs no daemon and decrypts nothing, so nothing is verified: open
does that.`,
		Example: `  cmkctl inspect dir.tar.sealed
  cmkctl inspect -o json dir.tar.sealed | jq -r '.encryptedDataKeys[].key'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := cli.OpenInput(cmd, args)
			if err != nil {
				return err
			}
			defer in.Close()
			h, err := envelope.ReadHeader(in.Src)
			if err != nil {
				return wordOpening(s, err)
			}
			out := describe(h)
			if inJSON {
				p.Output.Value = cli.AsJSON
			}
			return p.PrintAs(cmd.OutOrStdout(), out, out.print)
		},
	}
	cmd.Flags().BoolVar(&inJSON, "json", false, "the same as -o json")
	p.RegisterFormat(cmd)
	cmd.MarkFlagsMutuallyExclusive("json", "output")
	return cmd
}

func describe(h *envelope.Header) inspected {
	out := inspected{
		Version: h.Version, Suite: h.Suite.String(), KeyCommitment: h.Suite.Commits(), Signed: h.Suite.Signs(),
		MessageID: h.MessageID, Context: h.Context, FrameLength: h.FrameLen,
	}
	for _, k := range h.Keys {
		name := string(k.Info)
		if !utf8.ValidString(name) || slices.ContainsFunc([]rune(name), unicode.IsControl) {
			name = fmt.Sprintf("%x", k.Info)
		}
		out.Keys = append(out.Keys, inspectedKey{k.Provider, name, len(k.Ciphertext)})
	}
	return out
}

func (i inspected) print(dst io.Writer) error {
	w := tabwriter.NewWriter(dst, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "format\tAWS Encryption SDK, version %d\n", i.Version)
	fmt.Fprintf(w, "algorithm suite\t%s (key commitment: %s, signature: %s)\n", i.Suite, yesNo(i.KeyCommitment), yesNo(i.Signed))
	for _, k := range i.Keys {
		fmt.Fprintf(w, "key\t%s\t%s\n", cli.Quote(k.Provider), cli.Quote(k.Key))
	}
	for _, name := range slices.Sorted(maps.Keys(i.Context)) {
		fmt.Fprintf(w, "context\t%q\t%q\n", name, i.Context[name])
	}
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
