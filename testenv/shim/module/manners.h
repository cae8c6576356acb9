/* The manners of further tokens, as they were seen. Part of shim.c: what is allowed goes
 * on to its hsm_ functions or to the module behind. */

enum manner {
	/* C_UnwrapKey refuses SENSITIVE and EXTRACTABLE in the template of a key that AES
	 * unwraps, and ignores them for one that RSA does: the key can always be read. */
	UNWRAPS_READABLE = 1,
	/* Bad ciphertexts and signatures are answered as a broken device would. */
	BAD_INPUT_IS_DEVICE_ERROR = 2,
	/* C_GenerateKeyPair on secp256k1 fails as a broken token would. */
	NO_SECP256K1 = 4,
	/* No mechanism is RFC 5649, and none an HMAC. */
	NO_KEY_WRAP = 8,
	NO_HMAC = 16,
	/* No AES, and no generic secrets: signing keys alone. */
	NO_SECRET_KEYS = 32,
	/* Generic secrets have 10 to 256 bytes. */
	MIDDLING_SECRETS = 64,
	/* Edwards curves are named by their OID alone. */
	EDWARDS_BY_OID = 128,
	/* Unwrapped keys forget that they were to be sensitive, without a word. */
	UNWRAPS_FORGETFULLY = 256,
};

static int has(enum manner m) { return (atomic_load(&control->manners) & m) != 0; }

static CK_RV ways_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m)
{
	CK_RV rv = real->C_Decrypt(s, d, n, o, m);
	return rv != CKR_OK && has(BAD_INPUT_IS_DEVICE_ERROR) ? CKR_DEVICE_ERROR : rv;
}

static CK_RV ways_Verify(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG m)
{
	CK_RV rv = real->C_Verify(s, d, n, o, m);
	return rv != CKR_OK && has(BAD_INPUT_IS_DEVICE_ERROR) ? CKR_DEVICE_ERROR : rv;
}

/* lacks reports whether the token does not know a mechanism. */
static int lacks(CK_MECHANISM_PTR m)
{
	if (!m)
		return 0;
	switch (m->mechanism) {
	case CKM_KEY_WRAP:
	case CKM_KEY_WRAP_PAD:
	case CKM_KEY_WRAP_KWP:
		return has(NO_KEY_WRAP);
	case CKM_SHA224_HMAC:
	case CKM_SHA256_HMAC:
	case CKM_SHA384_HMAC:
	case CKM_SHA512_HMAC:
		return has(NO_HMAC) || has(NO_SECRET_KEYS);
	case CKM_AES_KEY_GEN:
	case CKM_GENERIC_SECRET_KEY_GEN:
		return has(NO_SECRET_KEYS);
	default:
		return 0;
	}
}

static CK_RV ways_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	return lacks(m) ? CKR_MECHANISM_INVALID : real->C_DecryptInit(s, m, k);
}

static CK_RV ways_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	return lacks(m) ? CKR_MECHANISM_INVALID : real->C_SignInit(s, m, k);
}

static CK_RV ways_VerifyInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	return lacks(m) ? CKR_MECHANISM_INVALID : real->C_VerifyInit(s, m, k);
}

static CK_RV ways_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n)
{
	return lacks(m) ? CKR_MECHANISM_INVALID : hsm_WrapKey(s, m, w, k, o, n);
}

static CK_RV ways_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	CK_ATTRIBUTE_PTR length = find(t, n, CKA_VALUE_LEN);
	if (has(MIDDLING_SECRETS) && m && m->mechanism == CKM_GENERIC_SECRET_KEY_GEN && length &&
	    length->ulValueLen == sizeof(CK_ULONG)) {
		CK_ULONG v = *(CK_ULONG *)length->pValue;
		if (v < 10 || v > 256)
			return CKR_KEY_SIZE_RANGE;
	}
	return hsm_GenerateKey(s, m, t, n, k);
}

static const CK_BYTE oid_secp256k1[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a};
static const CK_BYTE oid_ed25519[] = {0x06, 0x03, 0x2b, 0x65, 0x70};
static const CK_BYTE name_ed25519[] = {0x13, 0x0c, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'};

static int holds(CK_ATTRIBUTE_PTR a, const CK_BYTE *v, CK_ULONG n)
{
	return a && a->ulValueLen == n && memcmp(a->pValue, v, n) == 0;
}

static CK_RV ways_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	CK_ATTRIBUTE_PTR curve = find(pub, npub, CKA_EC_PARAMS);
	if (has(NO_SECP256K1) && holds(curve, oid_secp256k1, sizeof oid_secp256k1))
		return CKR_GENERAL_ERROR;
	if (has(EDWARDS_BY_OID) && holds(curve, name_ed25519, sizeof name_ed25519))
		return CKR_CURVE_NOT_SUPPORTED;
	return hsm_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
}

static CK_RV ways_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_ULONG type;
	CK_ATTRIBUTE_PTR a = find(t, n, CKA_CLASS);
	if (has(NO_SECRET_KEYS) && a && a->ulValueLen == sizeof type && (memcpy(&type, a->pValue, sizeof type), type == CKO_SECRET_KEY))
		return CKR_TEMPLATE_INCONSISTENT;
	return hsm_CreateObject(s, t, n, o);
}

static CK_RV ways_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG dl,
	CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	if (!m || (!has(UNWRAPS_READABLE) && !has(UNWRAPS_FORGETFULLY)))
		return hsm_UnwrapKey(s, m, w, d, dl, t, n, k);
	int rsa = m->mechanism == CKM_RSA_PKCS_OAEP || m->mechanism == CKM_RSA_PKCS || m->mechanism == CKM_RSA_AES_KEY_WRAP;
	if (!rsa && !has(UNWRAPS_FORGETFULLY) && (find(t, n, CKA_SENSITIVE) || find(t, n, CKA_EXTRACTABLE)))
		return CKR_ATTRIBUTE_READ_ONLY;
	CK_ATTRIBUTE t2[64];
	CK_ULONG n2 = 0;
	t2[n2++] = (CK_ATTRIBUTE){CKA_SENSITIVE, &no, sizeof no};
	t2[n2++] = (CK_ATTRIBUTE){CKA_EXTRACTABLE, &yes, sizeof yes};
	for (CK_ULONG i = 0; i < n; i++) {
		if (t[i].type == CKA_SENSITIVE || t[i].type == CKA_EXTRACTABLE)
			continue;
		if (n2 == sizeof t2 / sizeof *t2)
			return CKR_HOST_MEMORY;
		t2[n2++] = t[i];
	}
	return hsm_UnwrapKey(s, m, w, d, dl, t2, n2, k);
}
