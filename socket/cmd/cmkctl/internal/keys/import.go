package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // for RSAES-OAEP with SHA-1, which its collisions do not touch (RFC 8017)
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"hash"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
	kwp "github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// wrapping says how key material travels to the token.
type wrapping struct{ algorithm, spec string }

func (w *wrapping) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.algorithm, "wrapping-algorithm", "", "`algorithm` such as RSAES_OAEP_SHA_256 or RSA_AES_KEY_WRAP_SHA_256 (default the first for material of up to 64 bytes, else the second)")
	cmd.Flags().StringVar(&w.spec, "wrapping-key-spec", string(types.WrappingKeySpecRsa4096), "`spec` of the wrapping key: RSA_2048, RSA_3072 or RSA_4096")
}

// parameters asks for a wrapping key and the token that belongs to it.
func (w *wrapping) parameters(ctx context.Context, c *kms.Client, key string) (*kms.GetParametersForImportOutput, error) {
	return c.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
		KeyId: aws.String(key), WrappingAlgorithm: types.AlgorithmSpec(w.algorithm), WrappingKeySpec: types.WrappingKeySpec(w.spec),
	})
}

func newKeyExportParameters(s *cli.Service) *cobra.Command {
	var (
		w             wrapping
		region, token string
	)
	out := cli.BlobOut{Label: "PUBLIC KEY", Form: cli.Choice{Value: cli.FormPEM, Of: []string{cli.FormRaw, cli.FormBase64, cli.FormHex}}}
	cmd := &cobra.Command{
		Use:   "export-parameters KEY --token FILE",
		Short: "Write the wrapping key and the import token, to prepare an import elsewhere",
		Long: `Export-parameters writes the public key for wrapping material for KEY, and the
import token that belongs to it. They are valid for 24 hours, and for one import with
"cmkctl key import --wrapped". KEY must have the origin EXTERNAL.`,
		Example: `  cmkctl key export-parameters "$KEY" --token token --out wrapping.pem
  openssl pkeyutl -encrypt -pubin -inkey wrapping.pem -pkeyopt rsa_padding_mode:oaep \
      -pkeyopt rsa_oaep_md:sha256 -in material -out material.wrapped
  cmkctl key import "$KEY" --wrapped --token token material.wrapped`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out.Answer.Value == "" && token == "" {
				return cli.Usagef("give --token FILE, or the whole answer with -o json")
			}
			if w.algorithm == "" {
				w.algorithm = string(types.AlgorithmSpecRsaesOaepSha256)
			}
			var made *kms.GetParametersForImportOutput
			err := out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				c := s.KMS(region)
				key, err := cli.ResolveKey(ctx, c, args[0])
				if err != nil {
					return nil, nil, err
				}
				if made, err = w.parameters(ctx, c, key); err != nil {
					return nil, nil, err
				}
				return made.PublicKey, made, nil
			})
			if err != nil || token == "" {
				return err
			}
			return cli.WriteFile(token, func(dst io.Writer) error { // of no use without the wrapping key
				_, err := dst.Write(made.ImportToken)
				return err
			})
		},
	}
	w.register(cmd)
	cmd.Flags().StringVar(&token, "token", "", "`file` for the import token")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	out.Register(cmd, "wrapping key")
	return cmd
}

// maxMaterial is the longest key material in bytes, wrapped or not: an RSA-4096 key
// pair in PKCS #8 has less than half of it.
const maxMaterial = 6144

// keyImport is what key import is told.
type keyImport struct {
	wrapping
	in          cli.BlobIn
	wrapped     bool
	token       string // path
	expires     string
	description string
	fresh       bool
	materialID  string
}

func newKeyImport(s *cli.Service) *cobra.Command {
	var f keyImport
	cmd := change{
		use: "import KEY [FILE]", short: "Import key material into a key of origin EXTERNAL", args: cobra.RangeArgs(1, 2),
		long: `Import reads the material from FILE, or standard input, wraps it for the token and
imports it: 32 bytes for symmetric encryption keys, the bytes of an HMAC key, PKCS #8
for key pairs (in PEM with --in-format pem). cmkctl wipes its copy in memory; the file
stays. With --wrapped, FILE is already wrapped with the key that "cmkctl key
export-parameters" wrote.`,
		example: `  KEY=$(cmkctl key create --origin EXTERNAL)
  cmkctl key import "$KEY" material
  cmkctl key import "$KEY" --new --expires 2027-06-30 next-material`,
	}
	var c *cobra.Command
	cmd.work = func(ctx context.Context, client *kms.Client, args []string) (any, string, error) {
		answer, err := f.run(ctx, c, client, args)
		return answer, args[0] + " has the material", err
	}
	c = cmd.command(s, func(cmd *cobra.Command) {
		f.register(cmd)
		fl := cmd.Flags()
		f.in.Register(cmd, "in-format", "material")
		fl.BoolVar(&f.wrapped, "wrapped", false, "FILE is already wrapped; requires --token")
		fl.StringVar(&f.token, "token", "", "`file` with the import token, for --wrapped")
		fl.StringVar(&f.expires, "expires", "", "`time` at which the material is deleted, like 2027-06-30 or RFC 3339, at most 365 days from now (default never)")
		fl.StringVar(&f.description, "description", "", "`text` that describes the material")
		fl.BoolVar(&f.fresh, "new", false, "import new material for the next rotation of a key that already has material")
		fl.StringVar(&f.materialID, "material-id", "", "`ID` that the material must have")
	})
	return c
}

func (f *keyImport) run(ctx context.Context, cmd *cobra.Command, c *kms.Client, args []string) (*kms.ImportKeyMaterialOutput, error) {
	if f.wrapped != (f.token != "") {
		return nil, cli.Usagef("--wrapped and --token go together")
	}
	if f.token == "-" && (len(args) < 2 || args[1] == "-") {
		return nil, cli.Usagef("the material and the token cannot both come from standard input")
	}
	in := &kms.ImportKeyMaterialInput{
		KeyId: aws.String(args[0]), ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		KeyMaterialDescription: cli.OrNil(f.description), KeyMaterialId: cli.OrNil(f.materialID),
	}
	if f.fresh {
		in.ImportType = types.ImportTypeNewKeyMaterial
	}
	if f.expires != "" {
		at, err := cli.ParseTime("--expires", f.expires)
		if err != nil {
			return nil, err
		}
		in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(at)
	}
	material, err := f.in.Read(cmd, args[1:], maxMaterial, "key material")
	if err != nil {
		return nil, err
	}
	defer clear(material)
	if f.wrapped {
		in.EncryptedKeyMaterial = material
		if in.ImportToken, err = cli.ReadAtMost(cmd, []string{f.token}, maxMaterial); err != nil {
			return nil, fmt.Errorf("reading the import token: %w", err)
		}
		return c.ImportKeyMaterial(ctx, in)
	}
	const short = 64 // an HMAC key of 512 bits
	if f.algorithm == "" {
		f.algorithm = string(types.AlgorithmSpecRsaesOaepSha256)
		if len(material) > short {
			f.algorithm = string(types.AlgorithmSpecRsaAesKeyWrapSha256)
		}
	}
	p, err := f.parameters(ctx, c, args[0])
	if err != nil {
		return nil, err
	}
	if in.EncryptedKeyMaterial, err = wrapMaterial(types.AlgorithmSpec(f.algorithm), p.PublicKey, material); err != nil {
		return nil, err
	}
	in.ImportToken = p.ImportToken
	return c.ImportKeyMaterial(ctx, in)
}

// wrapMaterial encrypts key material to the wrapping key (DER SubjectPublicKeyInfo),
// as AWS documents for ImportKeyMaterial: RSAES-OAEP (RFC 8017), or
// CKM_RSA_AES_KEY_WRAP of PKCS#11, which is OAEP of an AES-256 key and RFC 5649 under it.
func wrapMaterial(algorithm types.AlgorithmSpec, wrappingKey, material []byte) ([]byte, error) {
	parsed, err := x509.ParsePKIXPublicKey(wrappingKey)
	if err != nil {
		return nil, fmt.Errorf("the wrapping key: %w", err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the wrapping key is %T, want RSA", parsed)
	}
	var h hash.Hash
	switch algorithm {
	case types.AlgorithmSpecRsaesOaepSha1, types.AlgorithmSpecRsaAesKeyWrapSha1:
		h = sha1.New() //nolint:gosec // see the import
	case types.AlgorithmSpecRsaesOaepSha256, types.AlgorithmSpecRsaAesKeyWrapSha256:
		h = sha256.New()
	default:
		return nil, cli.Inputf("cmkctl does not wrap with %s: wrap the material yourself, and give --wrapped", algorithm)
	}
	if algorithm == types.AlgorithmSpecRsaesOaepSha1 || algorithm == types.AlgorithmSpecRsaesOaepSha256 {
		wrapped, err := rsa.EncryptOAEP(h, rand.Reader, public, material, nil)
		if err != nil {
			return nil, cli.Inputf("wrapping the material: %w", err)
		}
		return wrapped, nil
	}
	const aes256 = 32
	kek := make([]byte, aes256)
	defer clear(kek)
	if _, err := rand.Read(kek); err != nil {
		return nil, err
	}
	head, err := rsa.EncryptOAEP(h, rand.Reader, public, kek, nil)
	if err != nil {
		return nil, fmt.Errorf("wrapping the material: %w", err)
	}
	wrapper, err := kwp.NewKWP(kek)
	if err != nil {
		return nil, fmt.Errorf("wrapping the material: %w", err)
	}
	tail, err := wrapper.Wrap(material)
	if err != nil {
		return nil, cli.Inputf("wrapping the material: %w", err)
	}
	return bytes.Join([][]byte{head, tail}, nil), nil
}

func newKeyDeleteMaterial(s *cli.Service) *cobra.Command {
	var yes cli.Confirmation
	var id string
	return change{
		use: "delete-material KEY", short: "Delete imported key material", exact: true,
		long: `Delete-material removes the imported material from the token immediately. Anyone
who has kept the material can import it again. KEY is an ID or ARN: an alias may have moved.`,
		example: "  cmkctl key delete-material 1234abcd-12ab-34cd-56ef-1234567890ab --yes",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			if err := yes.Ask(fmt.Sprintf("Delete the material of %s, of which the token has the only copy unless you kept one", args[0])); err != nil {
				return nil, "", err
			}
			answer, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: aws.String(args[0]), KeyMaterialId: cli.OrNil(id)})
			return answer, "the material of " + args[0] + " is deleted", err
		},
	}.command(s, func(cmd *cobra.Command) {
		yes.Register(cmd)
		cmd.Flags().StringVar(&id, "material-id", "", "`ID` of the material (default the current one)")
	})
}
