package der

import (
	encodingasn1 "encoding/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/mldsa"
)

// mlDSAKinds are the kinds of ML-DSA key pair (FIPS 204; the object
// identifiers are those of RFC 9881, the lengths those of FIPS 204, table 2).
var mlDSAKinds = map[backends.KeySpec]*Kind{
	backends.MLDSA44: {
		Spec: backends.MLDSA44, Form: MLDSAKey, Mechanism: cryptoki.CKMMLDSAKeyPairGen, Name: "CKM_ML_DSA_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLDSA44,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, Point: 1312, signature: 2420,
	},
	backends.MLDSA65: {
		Spec: backends.MLDSA65, Form: MLDSAKey, Mechanism: cryptoki.CKMMLDSAKeyPairGen, Name: "CKM_ML_DSA_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLDSA65,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, Point: 1952, signature: 3309,
	},
	backends.MLDSA87: {
		Spec: backends.MLDSA87, Form: MLDSAKey, Mechanism: cryptoki.CKMMLDSAKeyPairGen, Name: "CKM_ML_DSA_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLDSA87,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, Point: 2592, signature: 4627,
	},
}

// MLKEMKinds are the kinds of ML-KEM key pair (FIPS 203; the object identifiers
// are in NIST's register (CSOR), the lengths in FIPS 203, table 3).
var MLKEMKinds = map[backends.KeySpec]*Kind{
	backends.MLKEM512: {
		Spec: backends.MLKEM512, Form: MLKEMKey, Mechanism: cryptoki.CKMMLKEMKeyPairGen, Name: "CKM_ML_KEM_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLKEM512,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, Point: 800, Ciphertext: 768,
	},
	backends.MLKEM768: {
		Spec: backends.MLKEM768, Form: MLKEMKey, Mechanism: cryptoki.CKMMLKEMKeyPairGen, Name: "CKM_ML_KEM_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLKEM768,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, Point: 1184, Ciphertext: 1088,
	},
	backends.MLKEM1024: {
		Spec: backends.MLKEM1024, Form: MLKEMKey, Mechanism: cryptoki.CKMMLKEMKeyPairGen, Name: "CKM_ML_KEM_KEY_PAIR_GEN", ParameterSet: cryptoki.CKPMLKEM1024,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, Point: 1568, Ciphertext: 1568,
	},
}

var mlDSAParameters = map[backends.KeySpec]*mldsa.Parameters{
	backends.MLDSA44: mldsa.MLDSA44, backends.MLDSA65: mldsa.MLDSA65, backends.MLDSA87: mldsa.MLDSA87,
}

// MLDSAPublic is an ML-DSA public key.
type MLDSAPublic struct {
	*mldsa.Parameters
	Bytes []byte
}

func parseMLDSA(kind *Kind, der []byte) (MLDSAPublic, error) {
	b, err := SplitPublic(kind, der)
	return MLDSAPublic{mlDSAParameters[kind.Spec], b}, err
}
