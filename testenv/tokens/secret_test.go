package tokens_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/backends"
)

// encryption checks AES-GCM keys.
func encryption() (all []check) {
	for _, n := range []int{1, 32, 4096} {
		all = append(all, check{"encrypt", fmt.Sprintf("%d bytes", n), func(ctx context.Context, w *world) error {
			blob, err := w.sealed(ctx, bytes.Repeat([]byte{7}, n))
			if err != nil {
				return err
			}
			return w.opens(ctx, blob, bytes.Repeat([]byte{7}, n))
		}})
	}
	for name, alter := range map[string]func([]byte) []byte{
		"altered":   flipped,
		"shortened": func(b []byte) []byte { return b[:len(b)-1] },
		"tag":       func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b },
	} {
		all = append(all, check{"encrypt", "a ciphertext that is wrong: " + name, func(ctx context.Context, w *world) error {
			blob, err := w.sealed(ctx, []byte("plaintext"))
			if err != nil {
				return err
			}
			return fails("InvalidCiphertextException", func() error { return w.opens(ctx, alter(blob), nil) })
		}})
	}
	return append(all, check{"encrypt", "another context", func(ctx context.Context, w *world) error {
		blob, err := w.sealed(ctx, []byte("plaintext"))
		if err != nil {
			return err
		}
		return fails("InvalidCiphertextException", func() error {
			_, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: map[string]string{"a": "c"}})
			return err
		})
	}}, check{"encrypt", "ReEncrypt", func(ctx context.Context, w *world) error {
		blob, err := w.sealed(ctx, []byte("plaintext"))
		if err != nil {
			return err
		}
		k, _ := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
		out, err := w.ReEncrypt(ctx, &kms.ReEncryptInput{
			CiphertextBlob: blob, SourceEncryptionContext: binding, DestinationKeyId: k.id, DestinationEncryptionContext: binding,
		})
		if err != nil {
			return err
		}
		return w.opens(ctx, out.CiphertextBlob, []byte("plaintext"))
	}}, check{"random", "GenerateRandom", func(ctx context.Context, w *world) error {
		out, err := w.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1024), CustomKeyStoreId: w.store})
		if err == nil && (len(out.Plaintext) != 1024 || bytes.Count(out.Plaintext, []byte{0}) > 100) {
			return errors.New("these are no random bytes")
		}
		return err
	}})
}

// binding is the encryption context of all checks.
var binding = map[string]string{"a": "b"}

func (w *world) sealed(ctx context.Context, plaintext []byte) ([]byte, error) {
	k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
	if err != nil {
		return nil, err
	}
	out, err := w.Encrypt(ctx, &kms.EncryptInput{KeyId: k.id, Plaintext: plaintext, EncryptionContext: binding})
	if err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

// opens decrypts and compares.
func (w *world) opens(ctx context.Context, blob, want []byte) error {
	out, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: binding})
	if err == nil && !bytes.Equal(out.Plaintext, want) {
		return errors.New("it decrypts to something else")
	}
	return err
}

// dataKeys checks data keys of every length that tokens have trouble with.
func dataKeys() (all []check) {
	for _, n := range []int32{1, 8, 9, 10, 16, 24, 32, 40, 64, 256, 264, 1024} {
		all = append(all, check{"data keys", fmt.Sprintf("%d bytes", n), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
			if err != nil {
				return err
			}
			out, err := w.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: k.id, NumberOfBytes: &n, EncryptionContext: binding})
			if err != nil {
				return err
			}
			if len(out.Plaintext) != int(n) {
				return fmt.Errorf("it has %d bytes", len(out.Plaintext))
			}
			return w.opens(ctx, out.CiphertextBlob, out.Plaintext)
		}}, check{"data keys", fmt.Sprintf("%d bytes without plaintext", n), func(ctx context.Context, w *world) error {
			k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
			if err != nil {
				return err
			}
			out, err := w.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: k.id, NumberOfBytes: &n, EncryptionContext: binding})
			if err != nil {
				return err
			}
			opened, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: binding})
			if err == nil && len(opened.Plaintext) != int(n) {
				return fmt.Errorf("it has %d bytes", len(opened.Plaintext))
			}
			return err
		}})
	}
	return append(all, check{"data keys", "a ciphertext that is wrong", func(ctx context.Context, w *world) error {
		k, err := w.of(ctx, backends.SymmetricDefault, backends.EncryptDecrypt)
		if err != nil {
			return err
		}
		out, err := w.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: k.id, KeySpec: types.DataKeySpecAes256})
		if err != nil {
			return err
		}
		return fails("InvalidCiphertextException", func() error {
			_, err := w.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: flipped(out.CiphertextBlob)})
			return err
		})
	}})
}

// macs checks HMAC keys.
func macs() (all []check) {
	for spec, h := range map[backends.KeySpec]crypto.Hash{
		backends.HMAC224: crypto.SHA224, backends.HMAC256: crypto.SHA256, backends.HMAC384: crypto.SHA384, backends.HMAC512: crypto.SHA512,
	} {
		algorithm := types.MacAlgorithmSpec(fmt.Sprintf("HMAC_SHA_%d", 8*h.Size()))
		made := func(ctx context.Context, w *world) (*string, []byte, error) {
			k, err := w.of(ctx, spec, backends.GenerateVerifyMAC)
			if err != nil {
				return nil, nil, err
			}
			out, err := w.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: k.id, Message: []byte("message"), MacAlgorithm: algorithm})
			if err != nil {
				return nil, nil, err
			}
			return k.id, out.Mac, nil
		}
		all = append(all, check{"MACs", string(spec), func(ctx context.Context, w *world) error {
			id, mac, err := made(ctx, w)
			if err != nil {
				return err
			}
			if len(mac) != h.Size() {
				return fmt.Errorf("a MAC of %d bytes", len(mac))
			}
			_, err = w.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: id, Message: []byte("message"), MacAlgorithm: algorithm, Mac: mac})
			return err
		}}, check{"MACs", string(spec) + ", imported", func(ctx context.Context, w *world) error {
			value := bytes.Repeat([]byte{3}, h.Size())
			id, err := w.imported(ctx, spec, backends.GenerateVerifyMAC, types.AlgorithmSpecRsaesOaepSha256, value)
			if err != nil {
				return err
			}
			out, err := w.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: id, Message: []byte("message"), MacAlgorithm: algorithm})
			if err != nil {
				return err
			}
			want := hmac.New(h.New, value)
			_, _ = want.Write([]byte("message")) // never fails: hash.Hash
			if !hmac.Equal(out.Mac, want.Sum(nil)) {
				return errors.New("another MAC than that of the imported key")
			}
			return nil
		}}, check{"MACs", "one that is wrong: " + string(spec), func(ctx context.Context, w *world) error {
			id, mac, err := made(ctx, w)
			if err != nil {
				return err
			}
			return fails("KMSInvalidMacException", func() error {
				_, err := w.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: id, Message: []byte("message"), MacAlgorithm: algorithm, Mac: flipped(mac)})
				return err
			})
		}})
	}
	return all
}
