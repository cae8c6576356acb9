package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

// dataKeys is what datakey is told.
type dataKeys struct {
	useFlags
	context    pairs
	spec, pair string
	bytes      int32
	plaintext  string // path, "" for none
	public     string // path of the public key of a pair, "" for none
	encrypted  blobOut
	opened     blobOut // the plaintext
}

// dataKey is what the service made.
type dataKey struct {
	encrypted, plaintext, public []byte
	answer                       any
}

func newDatakey(s *service) *cobra.Command {
	f := &dataKeys{context: pairs{}}
	f.opened.label = "PRIVATE KEY" // PKCS #8 (RFC 5208), as pairs come
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
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return f.run(cmd, s)
		},
	}
	f.registerRequired(cmd)
	fl := cmd.Flags()
	fl.VarP(f.context, "context", "c", "encryption context, `name=value`; repeatable")
	fl.StringVar(&f.spec, "spec", "", "`spec` of the data key: AES_256 (the default) or AES_128")
	fl.Int32Var(&f.bytes, "bytes", 0, "length of the data key in `bytes`, 1 to 1024, instead of a spec")
	fl.StringVar(&f.pair, "pair", "", "generate a key pair of a `spec` such as RSA_3072 or ECC_NIST_P256")
	fl.StringVar(&f.plaintext, "plaintext", "", "`file` for the data key in the clear, - for standard output; with -o, - includes it in the answer")
	fl.StringVar(&f.public, "public", "", "`file` for the public key of a pair, in PEM")
	cmd.MarkFlagsMutuallyExclusive("spec", "bytes", "pair")
	f.encrypted.register(cmd, "encrypted data key")
	f.opened.registerForm(cmd, "plaintext-format", "data key in the clear")
	return cmd
}

// check refuses combinations that cannot be.
func (f *dataKeys) check() error {
	whole := f.encrypted.answer.value != ""
	outputs := 0
	for _, path := range []string{f.encrypted.path, f.plaintext, f.public} {
		if path == "-" {
			outputs++
		}
	}
	switch {
	case whole && (f.plaintext != "" && f.plaintext != "-" || f.public != ""):
		return usagef("--output prints the whole answer: only --plaintext - goes with it")
	case !whole && outputs > 1:
		return usagef("only one of --out, --plaintext and --public can be standard output")
	case f.public != "" && f.pair == "":
		return usagef("--public is of a key pair: give --pair, too")
	case f.opened.form.value == formPEM && f.pair == "":
		return usagef("--plaintext-format pem is for key pairs")
	}
	if f.pair == "" && f.bytes == 0 && f.spec == "" {
		f.spec = string(types.DataKeySpecAes256)
	}
	return nil
}

func (f *dataKeys) run(cmd *cobra.Command, s *service) error {
	if f.encrypted.answer.value != "" {
		return f.encrypted.produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
			made, err := f.make(ctx, s)
			return made.plaintext, made.answer, err
		})
	}
	public := &blobOut{path: f.public, form: choice{value: formPEM}, flag: "format", label: "PUBLIC KEY"}
	f.opened.path = f.plaintext
	var outs []*output
	for _, b := range []*blobOut{&f.encrypted, &f.opened, public} {
		if b.path == "" {
			outs = append(outs, nil)
			continue
		}
		out, err := b.open(cmd)
		if err != nil {
			return err
		}
		defer out.close()
		outs = append(outs, out)
	}
	made, err := f.make(cmd.Context(), s)
	if err != nil {
		return s.explain(err)
	}
	defer clear(made.plaintext)
	// The plaintext goes last: it is of no use without the encrypted data key.
	for _, part := range []struct {
		b    *blobOut
		out  *output
		data []byte
	}{{&f.encrypted, outs[0], made.encrypted}, {public, outs[2], made.public}, {&f.opened, outs[1], made.plaintext}} {
		if part.out == nil {
			continue
		}
		if err := part.b.write(cmd.Context(), part.out, part.data); err != nil {
			return err
		}
	}
	return nil
}

// make asks for the data key, in the clear only if that is wanted.
func (f *dataKeys) make(ctx context.Context, s *service) (dataKey, error) {
	if f.plaintext == "" {
		return f.makeWithoutPlaintext(ctx, s.kms(f.region))
	}
	c, err := s.private(f.region)
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
