package der

import (
	"cmkd/backends"
)

// AsymmetricSpecs are the specs in the order in which Info names them, with
// the usages that AWS KMS gives them.
var AsymmetricSpecs = []struct {
	Spec   backends.KeySpec
	Usages []backends.Usage
}{
	{backends.RSA2048, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.RSA3072, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.RSA4096, []backends.Usage{backends.EncryptDecrypt, backends.SignVerify}},
	{backends.P256, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.P384, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.P521, []backends.Usage{backends.SignVerify, backends.KeyAgreement}},
	{backends.Secp256k1, []backends.Usage{backends.SignVerify}},
	{backends.Ed25519, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA44, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA65, []backends.Usage{backends.SignVerify}},
	{backends.MLDSA87, []backends.Usage{backends.SignVerify}},
	{backends.MLKEM512, []backends.Usage{backends.EncapsulateDecapsulate}},
	{backends.MLKEM768, []backends.Usage{backends.EncapsulateDecapsulate}},
	{backends.MLKEM1024, []backends.Usage{backends.EncapsulateDecapsulate}},
}
