package crypt

import (
	"context"
	"crypto"
	_ "crypto/sha256" // for the digests of messages
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// maxMessage is the longest message in bytes that is signed or authenticated as a
// whole.
const maxMessage = 4096

// signing is what sign and verify have in common.
type signing struct {
	useFlags
	algorithm string
	digest    bool // the input is one
	in        cli.BlobIn
}

func (f *signing) register(cmd *cobra.Command) {
	f.registerRequired(cmd)
	cmd.Flags().StringVar(&f.algorithm, "algorithm", "", "signing `algorithm` (default that of the key; RSASSA_PSS_SHA_256 or ED25519_SHA_512 if it has several)")
	cmd.Flags().BoolVar(&f.digest, "digest", false, "FILE is the digest of the message")
	f.in.Register(cmd, "in-format", "digest")
}

const signingHelp = `cmkctl hashes a FILE of more than 4096 bytes itself and sends the
digest; it may have any size. ED25519_SHA_512 and ML_DSA_SHAKE_256 sign the message
itself, of at most 4096 bytes. Without --algorithm, cmkctl describes the key first, which
requires the permission kms:DescribeKey.`

// prepare completes the algorithm and reads the message.
func (f *signing) prepare(ctx context.Context, cmd *cobra.Command, args []string, c *kms.Client) (message []byte, kind types.MessageType, err error) {
	if f.algorithm == "" {
		if f.algorithm, err = defaultAlgorithm(ctx, c, f.key, signingAlgorithms, "RSASSA_PSS_SHA_256", "ED25519_SHA_512"); err != nil {
			return nil, "", err
		}
	}
	if f.digest {
		message, err = f.in.Read(cmd, args, crypto.SHA512.Size(), "digest")
		return message, types.MessageTypeDigest, err
	}
	if cmd.Flags().Changed("in-format") {
		return nil, "", cli.Usagef("--in-format is for a digest: give --digest, too")
	}
	return f.read(cmd, args)
}

// Read reads the message, or if it is long its digest, in constant memory.
func (f *signing) read(cmd *cobra.Command, args []string) (message []byte, kind types.MessageType, err error) {
	in, err := cli.OpenInput(cmd, args)
	if err != nil {
		return nil, "", fmt.Errorf("reading the message: %w", err)
	}
	defer in.Close()
	begin := make([]byte, maxMessage+1)
	n, err := io.ReadFull(in.Src, begin)
	short := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	hash, hashes := digestOf(f.algorithm)
	switch {
	case err != nil && !short:
		return nil, "", cli.Inputf("reading the message: %w", err)
	case short && f.algorithm != string(types.SigningAlgorithmSpecEd25519PhSha512):
		if n == 0 {
			return nil, "", cli.Inputf("the message is empty, which the API does not sign: give its digest with --digest")
		}
		return begin[:n], types.MessageTypeRaw, nil
	case !hashes:
		return nil, "", cli.Inputf("the message is longer than %d bytes: %s signs the message itself, no digest", maxMessage, f.algorithm)
	}
	h := hash.New()
	h.Write(begin[:n])
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{in.Src}, make([]byte, 1<<20)); err != nil {
		return nil, "", cli.Inputf("reading the message: %w", err)
	}
	return h.Sum(nil), types.MessageTypeDigest, nil
}

// digestOf is the hash whose digest an algorithm signs.
func digestOf(algorithm string) (hash crypto.Hash, ok bool) {
	if algorithm == string(types.SigningAlgorithmSpecEd25519Sha512) {
		return 0, false // signs the message twice (RFC 8032 section 5.1.6)
	}
	for suffix, hash := range map[string]crypto.Hash{"_SHA_256": crypto.SHA256, "_SHA_384": crypto.SHA384, "_SHA_512": crypto.SHA512} {
		if strings.HasSuffix(algorithm, suffix) {
			return hash, true
		}
	}
	return 0, false
}

func signingAlgorithms(m *types.KeyMetadata) []string { return cli.Texts(m.SigningAlgorithms) }

func macAlgorithms(m *types.KeyMetadata) []string { return cli.Texts(m.MacAlgorithms) }

// defaultAlgorithm asks which algorithms the key has: it is the only one, or the first
// of the preferred ones that it has.
func defaultAlgorithm(ctx context.Context, c *kms.Client, key string, of func(*types.KeyMetadata) []string, preferred ...string) (string, error) {
	answer, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(key)})
	if err != nil {
		return "", fmt.Errorf("looking up the algorithm of the key, since --algorithm is not given: %w", err)
	}
	list := of(answer.KeyMetadata)
	for _, algorithm := range preferred {
		if slices.Contains(list, algorithm) {
			return algorithm, nil
		}
	}
	if len(list) != 1 {
		return "", cli.Inputf("%s is a %s key for %s: it has no algorithm for this", key, answer.KeyMetadata.KeySpec, answer.KeyMetadata.KeyUsage)
	}
	return list[0], nil
}

func NewSign(s *cli.Service) *cobra.Command {
	var (
		f   signing
		out cli.BlobOut
	)
	cmd := &cobra.Command{
		Use:   "sign --key KEY [FILE]",
		Short: "Sign a file of any size",
		Long: `Sign writes the signature of FILE, or of standard input: ECDSA as in RFC 3279 (DER),
RSA as in RFC 8017.

` + signingHelp,
		Example: `  cmkctl sign -k alias/release --out app.sig app
  cmkctl pubkey -k alias/release --out release.pem
  openssl dgst -sha256 -verify release.pem -signature app.sig app
  tar c dir | cmkctl sign -k alias/rsa --algorithm RSASSA_PKCS1_V1_5_SHA_512 --format base64`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				c, err := f.kms(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				message, kind, err := f.prepare(ctx, cmd, args, c)
				if err != nil {
					return nil, nil, err
				}
				defer clear(message)
				answer, err := c.Sign(ctx, &kms.SignInput{
					KeyId: aws.String(f.key), Message: message, MessageType: kind, GrantTokens: f.tokens,
					SigningAlgorithm: types.SigningAlgorithmSpec(f.algorithm),
				})
				if err != nil {
					return nil, nil, err
				}
				return answer.Signature, answer, nil
			})
		},
	}
	f.register(cmd)
	out.Register(cmd, "signature")
	return cmd
}

// maxSignature is the longest that the API takes, in bytes.
const maxSignature = 6144

func NewVerify(s *cli.Service) *cobra.Command {
	var (
		f      signing
		given  cli.BlobIn
		path   string
		answer cli.Printer
	)
	cmd := &cobra.Command{
		Use:   "verify --key KEY --signature FILE [FILE]",
		Short: "Verify a signature; exit with 1 if it does not verify",
		Long: `Verify lets the daemon verify the signature of FILE, or of standard input. It
exits with 1 if the signature was not made with this key over this message.

` + signingHelp,
		Example: `  cmkctl verify -k alias/release --signature app.sig app`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if path == "-" && (len(args) == 0 || args[0] == "-") {
				return cli.Usagef("the message and the signature cannot both be standard input")
			}
			signature, err := given.ReadFile(cmd, path, maxSignature, "signature")
			if err != nil {
				return err
			}
			c, err := f.kms(cmd.Context(), s)
			if err != nil {
				return s.Explain(err)
			}
			message, kind, err := f.prepare(cmd.Context(), cmd, args, c)
			if err != nil {
				return s.Explain(err)
			}
			defer clear(message)
			valid, err := c.Verify(cmd.Context(), &kms.VerifyInput{
				KeyId: aws.String(f.key), Message: message, MessageType: kind, Signature: signature, GrantTokens: f.tokens,
				SigningAlgorithm: types.SigningAlgorithmSpec(f.algorithm),
			})
			if _, not := errors.AsType[*types.KMSInvalidSignatureException](err); not {
				return cli.Exit(cli.ExitFailed, fmt.Errorf("the signature does not verify with %s and %s", f.key, f.algorithm))
			}
			if err != nil {
				return s.Explain(err)
			}
			return answer.Print(cmd.OutOrStdout(), valid, cli.Table{Rows: [][]string{{"valid", f.algorithm, aws.ToString(valid.KeyId)}}})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&path, "signature", "", "`file` with the signature, - for standard input")
	_ = cmd.MarkFlagRequired("signature") // fails only for a flag that is not there
	given.Register(cmd, "signature-format", "signature")
	answer.Register(cmd)
	return cmd
}
