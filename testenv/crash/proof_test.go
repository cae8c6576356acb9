package crash

import (
	"bytes"
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// mostProofs are kept of one key.
const mostProofs = 8

// proof is what a key once made, a ciphertext, a MAC or a signature of text: whatever
// happens, as long as the key is enabled it opens, or verifies.
type proof struct {
	target
	kind       string
	text, made []byte
	at         int // the position of the disk's log when it was there
}

// prove lets a key make a proof.
func (c *caller) prove() *attempt {
	t, ok := c.target(enabled)
	if !ok {
		return nil
	}
	id, text := c.id("key/"+t.name), []byte(c.fresh())
	p := &proof{target: t, kind: c.usage(t), text: text}
	a := &attempt{region: t.region}
	switch p.kind {
	case "hmac":
		a.operation, a.send = "GenerateMac", func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
			out, err := k.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &id, Message: text, MacAlgorithm: types.MacAlgorithmSpecHmacSha256}, named)
			if err == nil {
				c.keep(p, out.Mac)
			}
			return err
		}
	case "signing":
		a.operation, a.send = "Sign", func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
			out, err := k.Sign(ctx, &kms.SignInput{KeyId: &id, Message: text, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}, named)
			if err == nil {
				c.keep(p, out.Signature)
			}
			return err
		}
	default:
		a.operation, a.send = "Encrypt", func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
			out, err := k.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: text}, named)
			if err == nil {
				c.keep(p, out.CiphertextBlob)
			}
			return err
		}
	}
	return a
}

// keep keeps a proof, in the place of another one if there are many of the key.
func (c *caller) keep(p *proof, made []byte) {
	p.made, p.at = made, c.at()
	c.mu.Lock()
	defer c.mu.Unlock()
	var same []int
	for i, q := range c.proofs {
		if q.name == p.name {
			same = append(same, i)
		}
	}
	if len(same) < mostProofs {
		c.proofs = append(c.proofs, p)
	} else {
		c.proofs[same[c.random.IntN(len(same))]] = p
	}
}

// verify lets the key say whether the proof is good, in a Region.
func (p *proof) verify(ctx context.Context, k *kms.Client, id string) error {
	switch p.kind {
	case "hmac":
		_, err := k.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: &id, Message: p.text, Mac: p.made, MacAlgorithm: types.MacAlgorithmSpecHmacSha256}, named("look"))
		return err
	case "signing":
		_, err := k.Verify(ctx, &kms.VerifyInput{KeyId: &id, Message: p.text, Signature: p.made, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}, named("look"))
		return err
	}
	out, err := k.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(id), CiphertextBlob: p.made}, named("look"))
	if err == nil && !bytes.Equal(out.Plaintext, p.text) {
		return fmt.Errorf("%q opens to something else", p.text)
	}
	return err
}
