package kms

import (
	"cmkd/backends"
	"cmkd/daemon/policy/templates"
	"cmkd/socket/kmsapi"
)

// ConsolePolicy is the key policy that AWS's console writes: for the account,
// for administrators and for users, given by their ARNs. spec and usage are as
// in CreateKey, which has the same defaults.
func (s *Service) ConsolePolicy(admins, users []string, spec, usage string) (string, error) {
	in := &kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpec(spec), KeyUsage: kmsapi.KeyUsageType(usage)}
	keySpec, keyUsage, err := specAndUsage(in)
	if err != nil {
		return "", err
	}
	use := templates.UseSymmetricEncryption
	switch keyUsage {
	case backends.SignVerify:
		use = templates.UseSigning
	case backends.GenerateVerifyMAC:
		use = templates.UseMAC
	case backends.KeyAgreement:
		use = templates.UseKeyAgreement
	case backends.EncapsulateDecapsulate:
		use = templates.UseEncapsulation
	default:
		if keySpec != backends.SymmetricDefault {
			use = templates.UseAsymmetricEncryption
		}
	}
	return templates.KeyPolicyFor(s.Account, admins, users, use), nil
}
