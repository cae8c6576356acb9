package envelope

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// ProviderKMS is the provider of data keys that are encrypted under KMS keys.
const ProviderKMS = "aws-kms"

// KMSClient is what a [KMS] keyring needs of an SDK client.
type KMSClient interface {
	GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, options ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error)
	Encrypt(ctx context.Context, in *kms.EncryptInput, options ...func(*kms.Options)) (*kms.EncryptOutput, error)
	Decrypt(ctx context.Context, in *kms.DecryptInput, options ...func(*kms.Options)) (*kms.DecryptOutput, error)
}

// KMS is the keyring of KMS keys, each of which opens the message.
type KMS struct {
	Client KMSClient
	// Keys to seal under: the first makes the data key (kms:GenerateDataKey), the others
	// encrypt it (kms:Encrypt). Each is a key ID, key ARN, alias name or alias ARN, or
	// what the client takes otherwise; an ARN's Region is where it is asked.
	Keys []string
	// Demand, if not empty, is the key that must open a message: a key ID, key ARN, alias
	// name or alias ARN. Otherwise any of the keys in the message may.
	Demand string
	// Region, if not empty, is where the replica of a multi-Region key is asked instead of
	// the key that the message names.
	Region string
}

// Generate implements [Keyring].
func (k *KMS) Generate(ctx context.Context, n int, encryptionContext map[string]string) ([]byte, []EncryptedDataKey, error) {
	if len(k.Keys) == 0 {
		return nil, nil, errors.New("no key to seal under")
	}
	out, err := k.Client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &k.Keys[0], NumberOfBytes: aws.Int32(int32(n)), EncryptionContext: encryptionContext,
	}, inRegionOf(k.Keys[0]))
	if err != nil {
		return nil, nil, fmt.Errorf("key %s: %w", k.Keys[0], err)
	}
	encrypted := []EncryptedDataKey{{ProviderKMS, []byte(aws.ToString(out.KeyId)), out.CiphertextBlob}}
	for i := range k.Keys[1:] {
		id := &k.Keys[1+i]
		e, err := k.Client.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: out.Plaintext, EncryptionContext: encryptionContext}, inRegionOf(*id))
		if err != nil {
			clear(out.Plaintext)
			return nil, nil, fmt.Errorf("key %s: %w", *id, err)
		}
		encrypted = append(encrypted, EncryptedDataKey{ProviderKMS, []byte(aws.ToString(e.KeyId)), e.CiphertextBlob})
	}
	return out.Plaintext, encrypted, nil
}

// ErrNoKey means that none of a message's data keys is for the keyring.
var ErrNoKey = errors.New("no key to open it with")

// KeyError is why one of a message's encrypted data keys was not decrypted.
type KeyError struct {
	Key string // as the message names it
	Err error
}

// Error implements error.
func (e *KeyError) Error() string { return fmt.Sprintf("key %s: %v", e.Key, e.Err) }

func (e *KeyError) Unwrap() error { return e.Err }

// KeyErrors is why none of them was, in the message's order.
type KeyErrors []*KeyError

// Error implements error.
func (e KeyErrors) Error() string { return errors.Join(e.Unwrap()...).Error() }

func (e KeyErrors) Unwrap() []error {
	list := make([]error, len(e))
	for i, one := range e {
		list[i] = one
	}
	return list
}

// Decrypt implements [Keyring]. If all keys fail that are tried, the error is
// [KeyErrors]; once ctx has ended it is the cause of that.
func (k *KMS) Decrypt(ctx context.Context, keys []EncryptedDataKey, n int, encryptionContext map[string]string) ([]byte, error) {
	var failed KeyErrors
	for _, e := range keys {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if e.Provider != ProviderKMS {
			continue
		}
		key, err := k.decrypt(ctx, string(e.Info), e.Ciphertext, encryptionContext)
		if err == nil && len(key) != n {
			clear(key)
			err = fmt.Errorf("%w: data key of %d bytes, want %d", ErrInvalid, len(key), n)
		}
		if err == nil {
			return key, nil
		}
		failed = append(failed, &KeyError{string(e.Info), err})
	}
	if len(failed) == 0 {
		return nil, ErrNoKey
	}
	return nil, failed
}

// decrypt asks for the data key under the KMS key with the ARN, and no other.
func (k *KMS) decrypt(ctx context.Context, arn string, blob []byte, encryptionContext map[string]string) ([]byte, error) {
	parts := strings.SplitN(arn, ":", 6)
	if regionOf(arn) == "" {
		return nil, fmt.Errorf("%w: it is not an ARN", ErrInvalid)
	}
	if k.Region != "" && strings.HasPrefix(parts[5], "key/mrk-") {
		parts[3] = k.Region
		arn = strings.Join(parts, ":")
	}
	in := &kms.DecryptInput{KeyId: &arn, CiphertextBlob: blob, EncryptionContext: encryptionContext}
	if k.Demand != "" {
		in.KeyId = &k.Demand
	}
	out, err := k.Client.Decrypt(ctx, in, inRegionOf(arn))
	if err != nil {
		return nil, err
	}
	if got := aws.ToString(out.KeyId); got != arn {
		clear(out.Plaintext)
		return nil, fmt.Errorf("%w: decrypted with %s", ErrInvalid, got)
	}
	return out.Plaintext, nil
}

// regionOf returns the Region of an ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), "" of
// what is none.
func regionOf(arn string) string {
	if parts := strings.SplitN(arn, ":", 6); len(parts) == 6 && parts[0] == "arn" && parts[2] == "kms" {
		return parts[3]
	}
	return ""
}

// inRegionOf sends a call to the Region of an ARN, and leaves the client's to what is
// none.
func inRegionOf(id string) func(*kms.Options) {
	return func(o *kms.Options) {
		if region := regionOf(id); region != "" {
			o.Region = region
		}
	}
}
