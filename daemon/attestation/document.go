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

// coseSign1Tag is the CBOR tag that may stand before a document (RFC 9052,
// section 4.2).
const coseSign1Tag = 18

// The major types of CBOR (RFC 8949, section 3.1) that a document begins with.
const (
	majorArray = 4
	majorTag   = 6
)

// envelope is a COSE_Sign1 (RFC 9052, section 4.2).
type envelope struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte   // a map, encoded: what is signed are these bytes
	Unprotected map[any]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

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

// options are strict, and bound what a document can make the decoder do. Items of
// indefinite length are allowed (RFC 8949, section 3.2): the hypervisor writes
// the payload as such a map since August 2025. Map keys are case-sensitive.
var options = cbor.DecOptions{
	DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthAllowed, TagsMd: cbor.TagsForbidden,
	FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, MaxNestedLevels: 4, MaxArrayElements: 32, MaxMapPairs: 64,
}

var (
	decoding = decodingMode(options)
	// tagged lets the tag of the whole document pass.
	tagged = func() cbor.DecMode {
		o := options
		o.TagsMd, o.MaxNestedLevels = cbor.TagsAllowed, o.MaxNestedLevels+1
		return decodingMode(o)
	}()
)

func decodingMode(o cbor.DecOptions) cbor.DecMode {
	mode, err := o.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return mode
}

// message is a document whose signature is not verified yet.
type message cose.Sign1Message

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
	return (*cose.Sign1Message)(m).Verify(nil, v)
}

// parse takes a document apart and checks its parts.
func parse(document []byte) (*message, *payload, error) {
	if len(document) > maxDocument {
		return nil, nil, fmt.Errorf("it has %d bytes, more than %d", len(document), maxDocument)
	}
	e, err := open(document)
	if err != nil {
		return nil, nil, fmt.Errorf("it is not a COSE_Sign1: %w", err)
	}
	m, err := e.message()
	if err != nil {
		return nil, nil, err
	}
	var p payload
	if err := decoding.Unmarshal(e.Payload, &p); err != nil {
		return nil, nil, fmt.Errorf("reading its payload: %w", err)
	}
	return m, &p, p.check()
}

// open decodes the COSE_Sign1, with its tag or without.
func open(document []byte) (*envelope, error) {
	if len(document) > 0 && document[0]>>5 == majorTag {
		var t cbor.RawTag
		if err := tagged.Unmarshal(document, &t); err != nil {
			return nil, err
		}
		if t.Number != coseSign1Tag {
			return nil, fmt.Errorf("its tag is %d, not %d", t.Number, coseSign1Tag)
		}
		document = t.Content
	}
	var e envelope
	return &e, decoding.Unmarshal(document, &e)
}

// message checks the headers. The algorithm must be signed with the rest, so it
// is in the protected header, and nowhere else (RFC 9052, sections 3 and 3.1).
func (e *envelope) message() (*message, error) {
	var header map[int64]int64
	if err := decoding.Unmarshal(e.Protected, &header); err != nil {
		return nil, fmt.Errorf("reading its protected header: %w", err)
	}
	if len(header) != 1 || header[cose.HeaderLabelAlgorithm] != int64(cose.AlgorithmES384) {
		return nil, errors.New("its protected header is not the algorithm ES384 alone")
	}
	if e.Unprotected == nil {
		return nil, errors.New("its unprotected header is missing")
	}
	if _, twice := e.Unprotected[uint64(cose.HeaderLabelAlgorithm)]; twice {
		return nil, errors.New("its unprotected header names an algorithm")
	}
	if !sized(e.Payload, 1, maxPayload) {
		return nil, fmt.Errorf("its payload has %d bytes, not 1 to %d", len(e.Payload), maxPayload)
	}
	protected, err := cbor.Marshal(e.Protected)
	if err != nil {
		return nil, err
	}
	return &message{
		Headers: cose.Headers{
			RawProtected: protected, Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384},
		},
		Payload: e.Payload, Signature: e.Signature,
	}, nil
}

// check checks the parts against section 3.2.2 of AWS's specification.
func (p *payload) check() error {
	switch {
	case p.ModuleID == "":
		return errors.New("module_id is missing")
	case p.Digest != "SHA384":
		return errors.New("digest is not SHA384")
	case p.Timestamp == 0 || p.Timestamp > 1<<52: // beyond, no time.Time
		return errors.New("timestamp is missing or no time")
	case (len(p.PCRs) == 0) == (len(p.TPMPCRs) == 0):
		return errors.New("it has neither pcrs nor nitrotpm_pcrs")
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
	return nil
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
