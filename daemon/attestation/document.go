package attestation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Sizes in bytes, of AWS's specification.
const (
	maxDocument    = 32 << 10 // more than every part together
	maxPayload     = 16 << 10
	maxCertificate = 1024
	maxUserData    = 1024
)

// The first byte of a COSE_Sign1 (RFC 9052, section 4.2), with its CBOR tag and
// without.
const (
	coseSign1Tag   = 0xd2
	coseSign1Array = 0x84
)

// payload is the signed map. What is missing or null is empty.
type payload struct {
	ModuleID    string          `cbor:"module_id"`
	Timestamp   uint64          `cbor:"timestamp"` // milliseconds since 1970
	Digest      string          `cbor:"digest"`
	PCRs        map[uint][]byte `cbor:"pcrs"`
	TPMPCRs     map[uint][]byte `cbor:"nitrotpm_pcrs"`
	Certificate []byte          `cbor:"certificate"`
	CABundle    [][]byte        `cbor:"cabundle"`
	PublicKey   []byte          `cbor:"public_key"`
	UserData    []byte          `cbor:"user_data"`
	Nonce       []byte          `cbor:"nonce"`
}

// decoding is strict, and bounds what a document can make the decoder do. Map
// keys of a document are case-sensitive.
var decoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, MaxNestedLevels: 4, MaxArrayElements: 32, MaxMapPairs: 64,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return mode
}()

// message is a document whose signature is not verified yet.
type message cose.UntaggedSign1Message

// verify verifies the signature, ECDSA with P-384 and SHA-384.
func (m *message) verify(leaf *x509.Certificate) error {
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P384() {
		return errors.New("the certificate's key is not of P-384")
	}
	v, err := cose.NewVerifier(cose.AlgorithmES384, public)
	if err != nil {
		return err
	}
	return (*cose.UntaggedSign1Message)(m).Verify(nil, v)
}

// parse takes a document apart and checks its parts.
func parse(document []byte) (*message, *payload, error) {
	if len(document) > maxDocument {
		return nil, nil, fmt.Errorf("it has %d bytes, more than %d", len(document), maxDocument)
	}
	var m cose.UntaggedSign1Message
	var err error
	if len(document) > 0 && document[0] == coseSign1Tag {
		err = (*cose.Sign1Message)(&m).UnmarshalCBOR(document)
	} else {
		err = m.UnmarshalCBOR(document)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("it is no COSE_Sign1: %w", err)
	}
	if a, err := m.Headers.Protected.Algorithm(); err != nil || a != cose.AlgorithmES384 || len(m.Headers.Protected) != 1 {
		return nil, nil, errors.New("its protected header is not the algorithm ES384 alone")
	}
	if len(m.Payload) == 0 || len(m.Payload) > maxPayload {
		return nil, nil, fmt.Errorf("its payload has %d bytes, not 1 to %d", len(m.Payload), maxPayload)
	}
	var p payload
	if err := decoding.Unmarshal(m.Payload, &p); err != nil {
		return nil, nil, fmt.Errorf("reading its payload: %w", err)
	}
	return (*message)(&m), &p, p.check()
}

// check holds the parts against section 3.2.2 of AWS's specification.
func (p *payload) check() error {
	switch {
	case p.ModuleID == "":
		return errors.New("module_id is missing")
	case p.Digest != "SHA384":
		return errors.New("digest is not SHA384")
	case p.Timestamp == 0 || p.Timestamp > 1<<52: // beyond, no time.Time
		return errors.New("timestamp is missing or no time")
	case (len(p.PCRs) == 0) == (len(p.TPMPCRs) == 0):
		return errors.New("it has not one of pcrs and nitrotpm_pcrs")
	case !sized(p.Certificate, 1, maxCertificate):
		return fmt.Errorf("certificate has %d bytes, not 1 to %d", len(p.Certificate), maxCertificate)
	case len(p.CABundle) == 0:
		return errors.New("cabundle is missing")
	case !sized(p.UserData, 0, maxUserData), !sized(p.Nonce, 0, maxUserData), !sized(p.PublicKey, 0, maxUserData):
		return fmt.Errorf("public_key, user_data or nonce has more than %d bytes", maxUserData)
	}
	for i, c := range p.CABundle {
		if !sized(c, 1, maxCertificate) {
			return fmt.Errorf("cabundle[%d] has %d bytes, not 1 to %d", i, len(c), maxCertificate)
		}
	}
	_, pcrs := p.registers()
	for i, v := range pcrs {
		if i > 31 || len(v) != 32 && len(v) != 48 && len(v) != 64 {
			return fmt.Errorf("PCR %d has %d bytes: indexes are 0 to 31, lengths 32, 48 or 64", i, len(v))
		}
	}
	return checkPublicKey(p.PublicKey)
}

func sized(b []byte, least, most int) bool { return len(b) >= least && len(b) <= most }

// registers are the PCRs and whose they are.
func (p *payload) registers() (Platform, map[uint][]byte) {
	if len(p.TPMPCRs) > 0 {
		return NitroTPM, p.TPMPCRs
	}
	return NitroEnclave, p.PCRs
}

func (p *payload) document() *Document {
	platform, pcrs := p.registers()
	return &Document{
		Platform: platform, ModuleID: p.ModuleID, Timestamp: time.UnixMilli(int64(p.Timestamp)).UTC(),
		PCRs: pcrs, PublicKey: p.PublicKey,
	}
}
