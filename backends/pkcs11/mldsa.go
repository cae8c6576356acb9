package pkcs11

import (
	encodingasn1 "encoding/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/mldsa"
)

// PKCS#11 3.2, ML-DSA and ML-KEM (sections 6.67 and 6.68).
const (
	ckkMLKEM = 0x49
	ckkMLDSA = 0x4A

	ckmMLDSAKeyPairGen = 0x1C
	ckmMLDSA           = 0x1D

	ckaParameterSet = 0x61D

	ckpMLDSA44 = 1
	ckpMLDSA65 = 2
	ckpMLDSA87 = 3
)

// Forms that are never those of a data key.
const (
	mlDSAKey form = 0x100 + iota
	mlKEMKey
)

// mlDSAKinds are the kinds of ML-DSA key pair (FIPS 204; the object
// identifiers are those of RFC 9881, the lengths those of FIPS 204, table 2).
var mlDSAKinds = map[backends.KeySpec]*pairKind{
	backends.MLDSA44: {
		spec: backends.MLDSA44, form: mlDSAKey, mechanism: ckmMLDSAKeyPairGen, name: "CKM_ML_DSA_KEY_PAIR_GEN", parameterSet: ckpMLDSA44,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, point: 1312, signature: 2420,
	},
	backends.MLDSA65: {
		spec: backends.MLDSA65, form: mlDSAKey, mechanism: ckmMLDSAKeyPairGen, name: "CKM_ML_DSA_KEY_PAIR_GEN", parameterSet: ckpMLDSA65,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, point: 1952, signature: 3309,
	},
	backends.MLDSA87: {
		spec: backends.MLDSA87, form: mlDSAKey, mechanism: ckmMLDSAKeyPairGen, name: "CKM_ML_DSA_KEY_PAIR_GEN", parameterSet: ckpMLDSA87,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, point: 2592, signature: 4627,
	},
}

var mlDSAParameters = map[backends.KeySpec]*mldsa.Parameters{
	backends.MLDSA44: mldsa.MLDSA44, backends.MLDSA65: mldsa.MLDSA65, backends.MLDSA87: mldsa.MLDSA87,
}

// pairKindOf returns the kind of a key pair of a CMK, nil if there is none.
func pairKindOf(spec backends.KeySpec) *pairKind {
	if k := pairKinds[spec]; k != nil {
		return k
	}
	if k := mlDSAKinds[spec]; k != nil {
		return k
	}
	return mlKEMKinds[spec]
}

// mlDSAPublic is an ML-DSA public key.
type mlDSAPublic struct {
	*mldsa.Parameters
	bytes []byte
}

func parseMLDSA(kind *pairKind, der []byte) (mlDSAPublic, error) {
	b, err := splitPublic(kind, der)
	return mlDSAPublic{mlDSAParameters[kind.spec], b}, err
}
