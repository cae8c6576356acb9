package crypt

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// dataKeys is what datakey is told.
type dataKeys struct {
	useFlags
	context    cli.Pairs
	spec, pair string
	bytes      int32
	plaintext  string // path, "" for none
	public     string // path of the public key of a pair, "" for none
	encrypted  cli.BlobOut
	opened     cli.BlobOut // the plaintext
}

// dataKey is what the service made.
type dataKey struct {
	encrypted, plaintext, public []byte
	answer                       any
}

func NewDataKey(s *cli.Service) *cobra.Command {
	f := &dataKeys{context: cli.Pairs{}}
	f.opened.Label = "PRIVATE KEY" // PKCS #8 (RFC 5208), as pairs come
	cmd := &cobra.Command{
		Use:   "datakey --key KEY",
		Short: "Generate a data key, encrypted under a key",
		Long: `Datakey generates a data key, or with --pair a key pair, and writes it encrypted
under KEY: "cmkctl decrypt" decrypts it. --plaintext also writes the data key in the
clear, to another file; the private key of a pair is PKCS #8 in DER, or in PEM with
--plaintext-format pem.

The data key leaves the daemon wrapped for a key pair of this process only, so --plaintext
works even if plaintext_data_keys is off. "cmkctl seal" does all of this for files.`,
		Example: `  cmkctl datakey -k alias/app --out key.enc
  cmkctl datakey -k alias/app --out key.enc --plaintext - | program --key-stdin
  cmkctl datakey -k alias/app --pair ECC_NIST_P256 --out pair.enc --public pair.pem`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return f.run(cmd, s)
		},
	}
	f.registerRequired(cmd)
	fl := cmd.Flags()
	fl.VarP(f.context, "context", "c", "encryption context, "+cli.PairsUsage)
	fl.StringVar(&f.spec, "spec", "", "`spec` of the data key: AES_256 (the default) or AES_128")
	fl.Int32Var(&f.bytes, "bytes", 0, "length of the data key in `bytes`, 1 to 1024, instead of a spec")
	fl.StringVar(&f.pair, "pair", "", "generate a key pair of a `spec` such as RSA_3072 or ECC_NIST_P256")
	fl.StringVar(&f.plaintext, "plaintext", "", "`file` for the data key in the clear, - for standard output; with -o, - includes it in the answer")
	fl.StringVar(&f.public, "public", "", "`file` for the public key of a pair, in PEM")
	cmd.MarkFlagsMutuallyExclusive("spec", "bytes", "pair")
	f.encrypted.Register(cmd, "encrypted data key")
	f.opened.RegisterForm(cmd, "plaintext-format", "data key in the clear")
	return cmd
}

// check refuses combinations that cannot be.
func (f *dataKeys) check() error {
	whole := f.encrypted.Answer.Value != ""
	outputs := 0
	for _, path := range []string{f.encrypted.Path, f.plaintext, f.public} {
		if path == "-" {
			outputs++
		}
	}
	switch {
	case whole && (f.plaintext != "" && f.plaintext != "-" || f.public != ""):
		return cli.Usagef("--output prints the whole answer: only --plaintext - goes with it")
	case !whole && outputs > 1:
		return cli.Usagef("only one of --out, --plaintext and --public can be standard output")
	case f.public != "" && f.pair == "":
		return cli.Usagef("--public is of a key pair: give --pair, too")
	case f.opened.Form.Value == cli.FormPEM && f.pair == "":
		return cli.Usagef("--plaintext-format pem is for key pairs")
	}
	if f.pair == "" && f.bytes == 0 && f.spec == "" {
		f.spec = string(types.DataKeySpecAes256)
	}
	return nil
}

func (f *dataKeys) run(cmd *cobra.Command, s *cli.Service) error {
	if f.encrypted.Answer.Value != "" {
		return f.encrypted.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
			made, err := f.make(ctx, s)
			return made.plaintext, made.answer, err
		})
	}
	public := &cli.BlobOut{Path: f.public, Form: cli.Choice{Value: cli.FormPEM}, Flag: "format", Label: "PUBLIC KEY"}
	f.opened.Path = f.plaintext
	var outs []*cli.Output
	for _, b := range []*cli.BlobOut{&f.encrypted, &f.opened, public} {
		if b.Path == "" {
			outs = append(outs, nil)
			continue
		}
		out, err := b.Open(cmd)
		if err != nil {
			return err
		}
		defer out.Close()
		outs = append(outs, out)
	}
	made, err := f.make(cmd.Context(), s)
	if err != nil {
		return s.Explain(err)
	}
	defer clear(made.plaintext)
	// The plaintext goes last: it is of no use without the encrypted data key.
	for _, part := range []struct {
		b    *cli.BlobOut
		out  *cli.Output
		data []byte
	}{{&f.encrypted, outs[0], made.encrypted}, {public, outs[2], made.public}, {&f.opened, outs[1], made.plaintext}} {
		if part.out == nil {
			continue
		}
		if err := part.b.Write(cmd.Context(), part.out, part.data); err != nil {
			return err
		}
	}
	return nil
}

// make asks for the data key, in the clear only if that is wanted.
func (f *dataKeys) make(ctx context.Context, s *cli.Service) (dataKey, error) {
	if f.plaintext == "" {
		c, err := f.kms(ctx, s)
		if err != nil {
			return dataKey{}, err
		}
		return f.makeWithoutPlaintext(ctx, c)
	}
	c, err := f.private(ctx, s)
	if err != nil {
		return dataKey{}, err
	}
	if f.pair != "" {
		a, err := c.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{
			KeyId: aws.String(f.key), KeyPairSpec: types.DataKeyPairSpec(f.pair), EncryptionContext: f.context, GrantTokens: f.tokens,
		})
		if err != nil {
			return dataKey{}, err
		}
		return dataKey{a.PrivateKeyCiphertextBlob, a.PrivateKeyPlaintext, a.PublicKey, a}, nil
	}
	a, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String(f.key), KeySpec: types.DataKeySpec(f.spec), NumberOfBytes: f.length(), EncryptionContext: f.context, GrantTokens: f.tokens,
	})
	if err != nil {
		return dataKey{}, err
	}
	return dataKey{a.CiphertextBlob, a.Plaintext, nil, a}, nil
}

func (f *dataKeys) makeWithoutPlaintext(ctx context.Context, c *kms.Client) (dataKey, error) {
	if f.pair != "" {
		a, err := c.GenerateDataKeyPairWithoutPlaintext(ctx, &kms.GenerateDataKeyPairWithoutPlaintextInput{
			KeyId: aws.String(f.key), KeyPairSpec: types.DataKeyPairSpec(f.pair), EncryptionContext: f.context, GrantTokens: f.tokens,
		})
		if err != nil {
			return dataKey{}, err
		}
		return dataKey{a.PrivateKeyCiphertextBlob, nil, a.PublicKey, a}, nil
	}
	a, err := c.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{
		KeyId: aws.String(f.key), KeySpec: types.DataKeySpec(f.spec), NumberOfBytes: f.length(), EncryptionContext: f.context, GrantTokens: f.tokens,
	})
	if err != nil {
		return dataKey{}, err
	}
	return dataKey{a.CiphertextBlob, nil, nil, a}, nil
}

func (f *dataKeys) length() *int32 {
	if f.bytes == 0 {
		return nil
	}
	return aws.Int32(f.bytes)
}
