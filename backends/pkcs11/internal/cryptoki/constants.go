package cryptoki

// PKCS#11 3.2, ML-DSA and ML-KEM (sections 6.67 and 6.68).
const (
	CKKMLKEM = 0x49
	CKKMLDSA = 0x4A

	CKMMLDSAKeyPairGen = 0x1C
	CKMMLDSA           = 0x1D

	CKAParameterSet = 0x61D

	CKPMLDSA44 = 1
	CKPMLDSA65 = 2
	CKPMLDSA87 = 3
)

const (
	CKMMLKEMKeyPairGen = 0x0F
	CKMMLKEM           = 0x17

	CKAEncapsulate = 0x633
	CKADecapsulate = 0x634

	CKPMLKEM512  = 1
	CKPMLKEM768  = 2
	CKPMLKEM1024 = 3
)

// PKCS#11 3.0, Edwards curves.
const (
	CKKECEdwards           = 0x40
	CKMECEdwardsKeyPairGen = 0x1055
)

// CKMEDDSA is CKM_EDDSA of PKCS#11 3.0.
const CKMEDDSA = 0x1057
