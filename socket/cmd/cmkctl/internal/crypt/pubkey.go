package crypt

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func NewPubkey(s *cli.Service) *cobra.Command {
	var f useFlags
	out := cli.BlobOut{Label: "PUBLIC KEY"}
	cmd := &cobra.Command{
		Use:   "pubkey --key KEY",
		Short: "Write the public key of an asymmetric key",
		Long: `Pubkey writes the public key, a SubjectPublicKeyInfo (RFC 5280), in PEM, or in
DER with --format raw.`,
		Example: `  cmkctl pubkey -k alias/release --out release.pem
  cmkctl pubkey -k alias/release --format raw | sha256sum`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				c, err := f.kms(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				answer, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: aws.String(f.key), GrantTokens: f.tokens})
				if err != nil {
					return nil, nil, err
				}
				return answer.PublicKey, answer, nil
			})
		},
	}
	f.registerRequired(cmd)
	out.Form = cli.Choice{Value: cli.FormPEM, Of: []string{cli.FormRaw, cli.FormBase64, cli.FormHex}}
	out.Register(cmd, "public key")
	return cmd
}

// maxPublicKey is the longest that the API takes, in bytes of DER.
const maxPublicKey = 8192

// readPublicKey reads a SubjectPublicKeyInfo in PEM or DER.
func readPublicKey(cmd *cobra.Command, path string) ([]byte, error) {
	const most = 2 * maxPublicKey // of PEM
	text, err := cli.ReadAtMost(cmd, []string{path}, most)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		return text, nil
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, cli.Inputf("%s is not a public key in PEM (BEGIN PUBLIC KEY)", path)
	}
	return block.Bytes, nil
}

func NewDerive(s *cli.Service) *cobra.Command {
	var (
		f    useFlags
		out  cli.BlobOut
		peer string
	)
	cmd := &cobra.Command{
		Use:   "derive --key KEY --peer FILE",
		Short: "Derive a shared secret with somebody's public key (ECDH)",
		Long: `Derive writes the shared secret of KEY, a key for KEY_AGREEMENT on a NIST curve, and
the public key in --peer, in PEM or DER: the x coordinate (SP 800-56A, 5.7.1.2). Derive
keys from it with a KDF; do not use it as one.`,
		Example: `  openssl ecparam -name prime256v1 -genkey -noout -out mine.pem
  openssl pkey -in mine.pem -pubout | cmkctl derive -k alias/agree --peer - --out secret`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				public, err := readPublicKey(cmd, peer)
				if err != nil {
					return nil, nil, err
				}
				c, err := f.private(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				answer, err := c.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{
					KeyId: aws.String(f.key), PublicKey: public, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, GrantTokens: f.tokens,
				})
				if err != nil {
					return nil, nil, err
				}
				return answer.SharedSecret, answer, nil
			})
		},
	}
	f.registerRequired(cmd)
	cmd.Flags().StringVar(&peer, "peer", "", "`file` with the other party's public key, - for standard input")
	_ = cmd.MarkFlagRequired("peer") // fails only for a flag that is not there
	out.Register(cmd, "shared secret")
	return cmd
}
