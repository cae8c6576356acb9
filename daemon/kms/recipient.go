package kms

import (
	"crypto/rsa"
	"crypto/x509"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// recipient reads Recipient: the RSA public key to which the answer is to be
// encrypted, as DER SubjectPublicKeyInfo in AttestationDocument. The kernel
// has already said who the caller is, so there is nothing left to attest.
func (s *Service) recipient(in *kmsapi.RecipientInfo) (*backends.Recipient, error) {
	if in == nil {
		return nil, nil //nolint:nilnil // Recipient is optional: nil means none was sent
	}
	if len(in.AttestationDocument) == 0 {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Recipient.AttestationDocument is required.")
	}
	parsed, err := x509.ParsePKIXPublicKey(in.AttestationDocument)
	if err != nil {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"Recipient.AttestationDocument is no DER SubjectPublicKeyInfo of an RSA key. Nitro attestation documents are refused: no root certificate is configured for them.")
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < 2048 || public.N.BitLen() > 4096 {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Recipient.AttestationDocument must hold an RSA key of 2048 to 4096 bits.")
	}
	algorithm := backends.Algorithm(in.KeyEncryptionAlgorithm)
	if algorithm == "" {
		algorithm = "RSAES_OAEP_SHA_256"
	}
	return &backends.Recipient{PublicKey: in.AttestationDocument, Algorithm: algorithm}, nil
}
