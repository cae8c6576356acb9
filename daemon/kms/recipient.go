package kms

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/backends"
	"cmkd/daemon/attestation"
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

// recipientAlgorithm is the only KeyEncryptionAlgorithm of AWS's.
const recipientAlgorithm = "RSAES_OAEP_SHA_256"

// recipient reads Recipient: the RSA public key to which the answer is to be
// encrypted. AttestationDocument is one of AWS Nitro, whose measurements policies
// can ask for and which is answered in CMS, or the key alone as DER
// SubjectPublicKeyInfo: the kernel has already said who the caller is.
func (s *Service) recipient(c *journal.Call, in *kmsapi.RecipientInfo) (*backends.Recipient, error) {
	if in == nil {
		return nil, nil //nolint:nilnil // Recipient is optional: nil means none was sent
	}
	if len(in.AttestationDocument) == 0 {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Recipient.AttestationDocument is required.")
	}
	r := &backends.Recipient{
		PublicKey: in.AttestationDocument, Algorithm: cmp.Or(backends.Algorithm(in.KeyEncryptionAlgorithm), recipientAlgorithm),
		ThroughPlugin: s.plaintextDataKeys,
	}
	if attestation.Is(in.AttestationDocument) {
		return r, s.attest(c, r)
	}
	if err := attestation.CheckPublicKey(in.AttestationDocument); err != nil {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"Recipient.AttestationDocument is neither an attestation document of AWS Nitro nor %v.", err)
	}
	return r, nil
}

// attest makes r, whose key is still a document, the recipient that the document
// attests.
func (s *Service) attest(c *journal.Call, r *backends.Recipient) error {
	if s.attestations == nil {
		return kmsapi.Errorf(kmsapi.CodeValidationException,
			"Recipient.AttestationDocument is an attestation document, and no root certificate is configured for them (attestation_roots).")
	}
	if r.Algorithm != recipientAlgorithm {
		return kmsapi.Errorf(kmsapi.CodeValidationException,
			"Recipient.KeyEncryptionAlgorithm must be %s with an attestation document.", recipientAlgorithm)
	}
	d, err := s.attestations.Verify(r.PublicKey, s.Now())
	if err != nil {
		return kmsapi.Errorf(kmsapi.CodeValidationException, "Recipient.AttestationDocument is refused: %v.", err)
	}
	c.Attested = d
	r.PublicKey, r.CMS = d.PublicKey, true
	c.Record.AdditionalEventData.Recipient, err = recipientRecord(d)
	return err
}

// registers are the PCRs of a platform in the audit trail.
type registers struct {
	field    string // after attestationDocument, before the index
	recorded []uint
}

// https://docs.aws.amazon.com/kms/latest/developerguide/ct-attestation.html
var registersOf = map[attestation.Platform]registers{
	attestation.NitroEnclave: {"EnclavePCR", []uint{1, 2, 3, 4, 8}},
	attestation.NitroTPM:     {"NitroTPMPCR", []uint{4, 7, 8, 9, 16, 23}},
}

// recipientRecord is what the audit trail says of an attested recipient, in
// CloudTrail's names.
func recipientRecord(d *attestation.Document) (jsontext.Value, error) {
	out, err := jsontext.AppendQuote([]byte(`{"attestationDocumentModuleId":`), d.ModuleID)
	if err != nil {
		return nil, fmt.Errorf("recording the recipient: %w", err)
	}
	add := func(name string, index uint) {
		if v, ok := d.PCRs[index]; ok {
			out = fmt.Appendf(out, `,"attestationDocument%s":"%x"`, name, v)
		}
	}
	if d.Platform == attestation.NitroEnclave {
		add("EnclaveImageDigest", 0)
	}
	r := registersOf[d.Platform]
	for _, index := range r.recorded {
		add(r.field+strconv.FormatUint(uint64(index), 10), index)
	}
	return append(out, '}'), nil
}
