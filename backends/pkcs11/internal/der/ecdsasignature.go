package der

import (
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
)

// MarshalECDSA makes the DER Ecdsa-Sig-Value (RFC 3279, section 2.2.3) of what
// CKM_ECDSA gives: r and s in two halves (PKCS#11 2.40 Current Mechanisms,
// section 2.3.1).
func MarshalECDSA(raw []byte) ([]byte, error) {
	r, s := new(big.Int).SetBytes(raw[:len(raw)/2]), new(big.Int).SetBytes(raw[len(raw)/2:])
	if r.Sign() == 0 || s.Sign() == 0 {
		return nil, backends.Errorf(backends.Internal, "C_Sign gave an ECDSA signature with a zero in it")
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encoding an ECDSA signature: %v", err)
	}
	return der, nil
}

// ParseECDSA is the reverse for what came from outside: strictly DER, both
// numbers positive, nothing behind them. The numbers have no leading zeros.
func ParseECDSA(der []byte) (r, s []byte, ok bool) {
	in := cryptobyte.String(der)
	var sequence cryptobyte.String
	if !in.ReadASN1(&sequence, asn1.SEQUENCE) || !in.Empty() ||
		!sequence.ReadASN1Integer(&r) || !sequence.ReadASN1Integer(&s) || !sequence.Empty() {
		return nil, nil, false
	}
	// A positive number comes without leading zeros, 0 comes as nothing.
	return r, s, len(r) > 0 && len(s) > 0
}
