package crypt

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// The longest that the API takes, in bytes.
const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
)

// useFlags are common to the commands that use a key.
type useFlags struct {
	key, region string
	tokens      []string
}

// Register adds the flags; keyUsage is the help of --key, "" for commands that find
// the key without.
func (f *useFlags) register(cmd *cobra.Command, keyUsage string) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", keyUsage)
	cmd.Flags().StringArrayVar(&f.tokens, "grant-token", nil, "grant `token` for a new grant; repeatable")
	cmd.Flags().StringVar(&f.region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
}

// kms is a client for calls with the key, and perhaps others, whose names it looks at.
func (f *useFlags) kms(ctx context.Context, s *cli.Service, others ...string) (*kms.Client, error) {
	c := s.KMS(f.region)
	return c, cli.CheckKeys(ctx, c, append(others, f.key)...)
}

// private is kms for answers with a secret in them.
func (f *useFlags) private(ctx context.Context, s *cli.Service) (*kms.Client, error) {
	if _, err := f.kms(ctx, s); err != nil {
		return nil, err
	}
	return s.Private(f.region)
}

func (f *useFlags) registerRequired(cmd *cobra.Command) {
	f.register(cmd, cli.KeyUsage)
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
}

func NewEncrypt(s *cli.Service) *cobra.Command {
	var (
		f         useFlags
		in        cli.BlobIn
		out       cli.BlobOut
		algorithm string
	)
	encryptionContext := cli.Pairs{}
	cmd := &cobra.Command{
		Use:   "encrypt --key KEY [FILE]",
		Short: "Encrypt up to 4096 bytes under a key",
		Long: `Encrypt encrypts FILE, or standard input, of 1 to 4096 bytes in the token. The
ciphertext names the key; the encryption context is not part of it, and is needed to
decrypt. "cmkctl seal" takes files of any size.

RSA keys take fewer bytes, and need an --algorithm; their ciphertexts do not name the key.`,
		Example: `  cmkctl encrypt -k alias/app -c stage=prod --out password.enc password
  printf %s "$TOKEN" | cmkctl encrypt -k alias/app --format base64
  cmkctl encrypt -k alias/rsa --algorithm RSAES_OAEP_SHA_256 --out note.enc note`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				plaintext, err := in.Read(cmd, args, maxPlaintext, "plaintext")
				if err != nil {
					return nil, nil, err
				}
				defer clear(plaintext)
				c, err := f.kms(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				answer, err := c.Encrypt(ctx, &kms.EncryptInput{
					KeyId: aws.String(f.key), Plaintext: plaintext, EncryptionContext: encryptionContext,
					EncryptionAlgorithm: types.EncryptionAlgorithmSpec(algorithm), GrantTokens: f.tokens,
				})
				if err != nil {
					return nil, nil, err
				}
				return answer.CiphertextBlob, answer, nil
			})
		},
	}
	f.registerRequired(cmd)
	cmd.Flags().VarP(encryptionContext, "context", "c", "encryption context, "+cli.PairsUsage)
	cmd.Flags().StringVar(&algorithm, "algorithm", "", algorithmUsage)
	in.Register(cmd, "in-format", "plaintext")
	out.Register(cmd, "ciphertext")
	return cmd
}

const algorithmUsage = "encryption `algorithm` (default SYMMETRIC_DEFAULT)"

func NewDecrypt(s *cli.Service) *cobra.Command {
	var (
		f         useFlags
		in        cli.BlobIn
		out       cli.BlobOut
		algorithm string
	)
	encryptionContext := cli.Pairs{}
	cmd := &cobra.Command{
		Use:   "decrypt [FILE]",
		Short: "Decrypt a ciphertext of encrypt, or an encrypted data key",
		Long: `Decrypt decrypts FILE, or standard input: a ciphertext of encrypt or of another
client of the KMS API, or an encrypted data key. It needs the encryption context that was
used to encrypt. The ciphertext names the key; with --key it must be that key.

The plaintext leaves the daemon encrypted to a key pair of this process, so data keys can
be decrypted even if plaintext_data_keys is off.

For RSA keys, --key and --algorithm are required.`,
		Example: `  cmkctl decrypt -c stage=prod --out password password.enc
  echo "$CIPHERTEXT" | cmkctl decrypt --in-format base64 | program --password-stdin`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				ciphertext, err := in.Read(cmd, args, maxCiphertext, "ciphertext")
				if err != nil {
					return nil, nil, err
				}
				c, err := f.private(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				answer, err := c.Decrypt(ctx, &kms.DecryptInput{
					KeyId: cli.OrNil(f.key), CiphertextBlob: ciphertext, EncryptionContext: encryptionContext,
					EncryptionAlgorithm: types.EncryptionAlgorithmSpec(algorithm), GrantTokens: f.tokens,
				})
				if err != nil {
					return nil, nil, wordCiphertext(err)
				}
				return answer.Plaintext, answer, nil
			})
		},
	}
	f.register(cmd, cli.KeyUsage+" that must decrypt it (default the one in the ciphertext)")
	cmd.Flags().VarP(encryptionContext, "context", "c", "encryption context that was used to encrypt, "+cli.PairsUsage)
	cmd.Flags().StringVar(&algorithm, "algorithm", "", algorithmUsage)
	in.Register(cmd, "in-format", "ciphertext")
	out.Register(cmd, "plaintext")
	return cmd
}

// wordCiphertext says what the service does not, as AWS KMS does not: whoever tries
// might learn from it.
func wordCiphertext(err error) error {
	if _, invalid := errors.AsType[*types.InvalidCiphertextException](err); invalid {
		return cli.Inputf("InvalidCiphertextException: it was encrypted with another encryption context (--context) or another key, or it was altered, or it is in another form (--in-format)")
	}
	return err
}

func NewReencrypt(s *cli.Service) *cobra.Command {
	var (
		f                      useFlags
		in                     cli.BlobIn
		out                    cli.BlobOut
		source, algorithm, old string
	)
	from, to := cli.Pairs{}, cli.Pairs{}
	cmd := &cobra.Command{
		Use:   "reencrypt --key KEY [FILE]",
		Short: "Move a ciphertext to another key or another encryption context",
		Long: `Reencrypt decrypts FILE, or standard input, and encrypts it again under KEY, in
the token: the plaintext does not leave it. --context is that of the old ciphertext,
--to-context that of the new one. "cmkctl rewrap" does this for sealed files.`,
		Example: `  cmkctl reencrypt -k alias/app-2027 -c stage=prod --to-context stage=prod --out new.enc old.enc`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				ciphertext, err := in.Read(cmd, args, maxCiphertext, "ciphertext")
				if err != nil {
					return nil, nil, err
				}
				c, err := f.kms(ctx, s, source)
				if err != nil {
					return nil, nil, err
				}
				answer, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{
					CiphertextBlob: ciphertext, DestinationKeyId: aws.String(f.key), SourceKeyId: cli.OrNil(source),
					SourceEncryptionContext: from, DestinationEncryptionContext: to, GrantTokens: f.tokens,
					SourceEncryptionAlgorithm:      types.EncryptionAlgorithmSpec(old),
					DestinationEncryptionAlgorithm: types.EncryptionAlgorithmSpec(algorithm),
				})
				if err != nil {
					return nil, nil, wordCiphertext(err)
				}
				return answer.CiphertextBlob, answer, nil
			})
		},
	}
	f.registerRequired(cmd)
	fl := cmd.Flags()
	fl.VarP(from, "context", "c", "encryption context of the old ciphertext, "+cli.PairsUsage)
	fl.Var(to, "to-context", "encryption context of the new ciphertext, "+cli.PairsUsage)
	fl.StringVar(&source, "from-key", "", cli.KeyUsage+" that must decrypt the old ciphertext (default the one that it names)")
	fl.StringVar(&algorithm, "algorithm", "", "encryption `algorithm` of the new ciphertext (default SYMMETRIC_DEFAULT)")
	fl.StringVar(&old, "from-algorithm", "", "encryption `algorithm` of the old ciphertext (default SYMMETRIC_DEFAULT)")
	in.Register(cmd, "in-format", "ciphertext")
	out.Register(cmd, "new ciphertext")
	return cmd
}
