// Command envelopes does what the file named as its argument says, one job after the other,
// with the AWS Encryption SDK for Go. It is javascript/esdk.mjs, which describes the jobs,
// in Go. It is a module of its own, so that cmkd's does not carry that SDK.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	providers "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygenerated"
	provider "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygeneratedtypes"
	sdk "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygenerated"
	sdktypes "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygeneratedtypes"
)

type job struct {
	Op          string
	In, Out     string
	Keys        []string
	Suite       int
	FrameLength int64
	Context     map[string]string
}

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var jobs []job
	if err := json.Unmarshal(raw, &jobs); err != nil {
		return err
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	s := &supplier{cfg}
	for _, j := range jobs {
		if err := j.run(ctx, s); err != nil {
			return fmt.Errorf("%s %s: %w", j.Op, j.In, err)
		}
	}
	return nil
}

// supplier makes clients of Regions, all for the bridge.
type supplier struct{ config aws.Config }

func (s *supplier) GetClient(in provider.GetClientInput) (kms.Client, error) {
	return *kms.NewFromConfig(s.config, func(o *kms.Options) { o.Region = in.Region }), nil
}

// keyring is one of the job's keys, of which the first makes the data key.
func (j *job) keyring(ctx context.Context, s *supplier) (provider.IKeyring, error) {
	p, err := providers.NewClient(provider.MaterialProvidersConfig{})
	if err != nil {
		return nil, err
	}
	in := provider.CreateAwsKmsMultiKeyringInput{ClientSupplier: s}
	if j.Op == "encrypt" {
		in.Generator, in.KmsKeyIds = &j.Keys[0], j.Keys[1:]
	} else {
		in.KmsKeyIds = j.Keys
	}
	return p.CreateAwsKmsMultiKeyring(ctx, in)
}

func (j *job) run(ctx context.Context, s *supplier) error {
	keyring, err := j.keyring(ctx, s)
	if err != nil {
		return err
	}
	policy := provider.ESDKCommitmentPolicyRequireEncryptRequireDecrypt
	if j.Op == "encrypt" && j.Suite < 0x0400 {
		policy = provider.ESDKCommitmentPolicyForbidEncryptAllowDecrypt
	}
	client, err := sdk.NewClient(sdktypes.AwsEncryptionSdkConfig{CommitmentPolicy: &policy})
	if err != nil {
		return err
	}
	content, err := os.ReadFile(j.In)
	if err != nil {
		return err
	}
	if j.Op == "encrypt" {
		suite := provider.ESDKAlgorithmSuiteId(fmt.Sprintf("0x%04X", j.Suite))
		out, err := client.Encrypt(ctx, sdktypes.EncryptInput{
			Plaintext: content, Keyring: keyring, AlgorithmSuiteId: &suite, FrameLength: &j.FrameLength, EncryptionContext: j.Context,
		})
		if err != nil {
			return err
		}
		return os.WriteFile(j.Out, out.Ciphertext, 0o600)
	}
	out, err := client.Decrypt(ctx, sdktypes.DecryptInput{Ciphertext: content, Keyring: keyring})
	if err != nil {
		return err
	}
	for name, value := range j.Context {
		if got, ok := out.EncryptionContext[name]; !ok || got != value {
			return fmt.Errorf("encryption context %s: %q", name, got)
		}
	}
	return os.WriteFile(j.Out, out.Plaintext, 0o600)
}
