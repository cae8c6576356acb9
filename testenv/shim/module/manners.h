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
	/* Edwards curves are named by their OID alone, and their points are no OCTET STRINGs. */
	EDWARDS_BY_OID = 128,
	/* Unwrapped keys forget that they were to be sensitive, without a word. */
	UNWRAPS_FORGETFULLY = 256,
	/* Keys that must not leave can be read, or wrapped. */
	READS_SECRET_KEYS = 512,
	READS_PRIVATE_KEYS = 1024,
	WRAPS_UNDER_RSA = 2048,
	WRAPS_PRIVATE_KEYS = 4096,
	COPIES_PRIVATE_KEYS = 8192,
	CHANGES_PRIVATE_KEYS = 16384,
	/* A key that decrypts does not wrap or unwrap. */
	REFUSES_RISKS = 32768,
	/* Sensitive keys do not come from outside as they are. */
	REFUSES_SENSITIVE = 65536,
	/* Labels are short, of few characters, or cut. */
	SHORT_LABELS = 131072,
	CUT_LABELS = 262144,
	/* One kind of key can be read or wrapped, or any by one mechanism. */
	READS_GENERIC_SECRETS = 1 << 19,
	READS_EDWARDS_KEYS = 1 << 20,
	WRAPS_RSA_KEYS = 1 << 21,
	WRAPS_BY_CTR = 1 << 22,
	WRAPS_BY_GCM = 1 << 23,
	WRAPS_BY_DES3 = 1 << 24,
	WRAPS_BY_OAEP_256 = 1 << 25,
	WRAPS_BY_RSA_AES = 1 << 26,
	WRAPS_BY_VENDORS = 1 << 27,
	/* Keys can be derived from any key. */
	DERIVES_KEYS = 1 << 28,
	/* There is no AES. */
	NO_AES = 1 << 29,
	/* Much input is answered as a broken device would, and nothing to encrypt is refused. */
	BIG_INPUT_IS_DEVICE_ERROR = 1 << 30,
};

#define CKK_EDWARDS 0x40UL

/* Keys that stay can be read. */
#define READS_TOKEN_OBJECTS (1U << 31)

/* Pairs are made as token objects only, of no more than 2048 bits, and private keys
 * decrypt: a template that says no to that is a general error. */
#define LASTING_PAIRS (1ULL << 32)
/* Keys that were changed to leave can be read, wrapped or copied. */
#define READS_CHANGED_KEYS (1ULL << 33)
#define WRAPS_CHANGED_KEYS (1ULL << 34)
#define COPIES_CHANGED_KEYS (1ULL << 35)
/* Pairs that are made or sign stay loaded, and there is room for few. */
#define FEW_LOADED_KEYS (1ULL << 36)
/* Usages can be added to keys, and values derived from those that were told to derive. */
#define ADDS_USAGES (1ULL << 37)
#define DERIVES_ADDED (1ULL << 38)
/* A value that is PKCS #8 is read as one of a version that does not exist. */
#define READS_OTHER_PKCS8 (1ULL << 39)
/* Keys are wrapped by a standard mechanism that the token lists for it. */
#define WRAPS_BY_LISTED (1ULL << 40)
/* Keys are derived that have the base key behind data. */
#define CONCATENATES (1ULL << 41)
/* A copy whose template names neither sensitive nor extractable is neither kept in nor hidden. */
#define COPIES_FORGETFULLY (1ULL << 42)
/* A value is given if it is asked for beside others. */
#define READS_IN_COMPANY (1ULL << 43)
/* Searches do not end. */
#define FINDS_FOREVER (1ULL << 44)
/* A wrapped key has a length that cannot be. */
#define WRAPS_TOO_MUCH (1ULL << 45)
/* Random numbers are not written. */
#define NO_RANDOM (1ULL << 46)
/* Little input and few random bytes are answered as a broken device would. */
#define LITTLE_IS_DEVICE_ERROR (1ULL << 47)

static int has(uint64_t m) { return (atomic_load(&control->manners) & m) != 0; }

static _Atomic int changed_keys; /* a private key was changed */

static _Atomic int added_derive; /* a key was told to derive */

static int changed(uint64_t m) { return has(m) && atomic_load(&changed_keys); }

#define LOADED_KEYS 12
static CK_OBJECT_HANDLE loaded_keys[LOADED_KEYS];
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

/* load_key loads a key, if there is room. */
static CK_RV load_key(CK_OBJECT_HANDLE k)
{
	CK_RV rv = CKR_GENERAL_ERROR;
	if (!has(FEW_LOADED_KEYS))
		return CKR_OK;
	pthread_mutex_lock(&loading);
	for (int i = 0; i < LOADED_KEYS && rv != CKR_OK; i++)
		if (!loaded_keys[i] || loaded_keys[i] == k) {
			loaded_keys[i] = k;
			rv = CKR_OK;
		}
	pthread_mutex_unlock(&loading);
	return rv;
}

static CK_RV ways_Finalize(CK_VOID_PTR a)
{
	memset(loaded_keys, 0, sizeof loaded_keys);
	atomic_store(&changed_keys, 0);
	atomic_store(&added_derive, 0);
	return slot_Finalize(a);
}

/* labelled refuses the label in a template, or shortens it. */
static CK_RV labelled(CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_ATTRIBUTE_PTR a = find(t, n, CKA_LABEL);
	if (!a)
		return CKR_OK;
	if (has(CUT_LABELS) && a->ulValueLen > 8)
		a->ulValueLen = 8;
	if (!has(SHORT_LABELS))
		return CKR_OK;
	for (CK_ULONG i = 0; i < a->ulValueLen; i++) {
		CK_BYTE c = ((CK_BYTE *)a->pValue)[i];
		if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
			return CKR_ATTRIBUTE_VALUE_INVALID;
	}
	return a->ulValueLen > 40 ? CKR_ATTRIBUTE_VALUE_INVALID : CKR_OK;
}

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
		return has(NO_SECRET_KEYS) || has(NO_AES);
	case CKM_GENERIC_SECRET_KEY_GEN:
		return has(NO_SECRET_KEYS);
	default:
		return 0;
	}
}

static int big(CK_ULONG n) { return n > 1024 && has(BIG_INPUT_IS_DEVICE_ERROR); }

static int big_aad(CK_MECHANISM_PTR m)
{
	return m && m->mechanism == CKM_AES_GCM && m->ulParameterLen == sizeof(CK_GCM_PARAMS) && big(((CK_GCM_PARAMS *)m->pParameter)->ulAADLen);
}

static CK_RV ways_EncryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	return big_aad(m) ? CKR_DEVICE_ERROR : hsm_EncryptInit(s, m, k);
}

static CK_RV ways_Encrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m)
{
	if (n == 0 && has(BIG_INPUT_IS_DEVICE_ERROR))
		return CKR_DATA_LEN_RANGE;
	return big(n) ? CKR_DEVICE_ERROR : real->C_Encrypt(s, d, n, o, m);
}

static CK_RV ways_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m)
{
	if (n < 8 && has(LITTLE_IS_DEVICE_ERROR)) {
		CK_BYTE out[1024];
		CK_ULONG room = sizeof out;
		real->C_Sign(s, d, n, out, &room); /* which ends the operation */
		return CKR_DEVICE_ERROR;
	}
	return big(n) ? CKR_DEVICE_ERROR : real->C_Sign(s, d, n, o, m);
}

static CK_RV ways_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n)
{
	if (has(NO_RANDOM))
		return CKR_OK;
	return big(n + 4) || (n < 8 && has(LITTLE_IS_DEVICE_ERROR)) ? CKR_DEVICE_ERROR : real->C_GenerateRandom(s, d, n);
}

static CK_RV ways_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG room, CK_ULONG_PTR n)
{
	if (!has(FINDS_FOREVER))
		return real->C_FindObjects(s, o, room, n);
	for (CK_ULONG i = 0; i < room; i++)
		o[i] = 1;
	*n = room;
	return CKR_OK;
}

static CK_RV ways_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	if (big_aad(m))
		return CKR_DEVICE_ERROR;
	return lacks(m) ? CKR_MECHANISM_INVALID : real->C_DecryptInit(s, m, k);
}

static CK_RV ways_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	CK_RV rv = load_key(k);
	return rv != CKR_OK ? rv : real->C_SignInit(s, m, k);
}

static CK_RV ways_VerifyInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	return lacks(m) ? CKR_MECHANISM_INVALID : real->C_VerifyInit(s, m, k);
}

static int is_private(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE a = {CKA_CLASS, &class, sizeof class};
	return real->C_GetAttributeValue(s, o, &a, 1) == CKR_OK && class == CKO_PRIVATE_KEY;
}

static int must_stay(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_BBOOL extractable = CK_TRUE;
	CK_ATTRIBUTE a = {CKA_EXTRACTABLE, &extractable, sizeof extractable};
	return real->C_GetAttributeValue(s, o, &a, 1) == CKR_OK && !extractable;
}

static CK_ULONG key_type(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_ULONG type = CK_UNAVAILABLE_INFORMATION;
	CK_ATTRIBUTE a = {CKA_KEY_TYPE, &type, sizeof type};
	real->C_GetAttributeValue(s, o, &a, 1);
	return type;
}

static int readable(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_BBOOL stays = CK_FALSE;
	CK_ATTRIBUTE a = {CKA_TOKEN, &stays, sizeof stays};
	if ((atomic_load(&control->manners) & READS_TOKEN_OBJECTS) && real->C_GetAttributeValue(s, o, &a, 1) == CKR_OK && stays)
		return 1;
	if (has(is_private(s, o) ? READS_PRIVATE_KEYS : READS_SECRET_KEYS) || (changed(READS_CHANGED_KEYS) && is_private(s, o)))
		return 1;
	CK_ULONG type = key_type(s, o);
	return (type == CKK_GENERIC_SECRET && has(READS_GENERIC_SECRETS)) || (type == CKK_EDWARDS && has(READS_EDWARDS_KEYS));
}

/* The values are not the keys': that it gives some is what is to be noticed. */
static CK_RV ways_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_ULONG room = n == 1 ? t[0].ulValueLen : 0;
	CK_RV rv = real->C_GetAttributeValue(s, o, t, n);
	if (rv == CKR_ATTRIBUTE_SENSITIVE && has(READS_IN_COMPANY) && n > 1)
		for (CK_ULONG i = 0; i < n; i++)
			if (t[i].type == CKA_VALUE && t[i].pValue && t[i].ulValueLen == CK_UNAVAILABLE_INFORMATION) {
				memset(t[i].pValue, 1, 16);
				t[i].ulValueLen = 16;
			}
	if (rv == CKR_OK && has(READS_OTHER_PKCS8) && n == 1 && t[0].type == CKA_VALUE && t[0].pValue && t[0].ulValueLen > 8) {
		CK_BYTE *v = t[0].pValue, *version = v + 2 + (v[1] > 0x80 ? v[1] & 3 : 0);
		if (v[0] == 0x30 && version[0] == 2 && version[1] == 1)
			version[2] = 9;
	}
	if (rv != CKR_ATTRIBUTE_SENSITIVE || n != 1 || !t[0].pValue || room < 16 || !readable(s, o))
		return rv;
	memset(t[0].pValue, 1, 16);
	t[0].ulValueLen = 16;
	return CKR_OK;
}

static CK_RV ways_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR c)
{
	if ((has(COPIES_PRIVATE_KEYS) || changed(COPIES_CHANGED_KEYS)) && is_private(s, o)) {
		*c = o;
		return CKR_OK;
	}
	if (has(COPIES_FORGETFULLY) && !find(t, n, CKA_SENSITIVE) && !find(t, n, CKA_EXTRACTABLE) && must_stay(s, o)) {
		/* Another key, which has the defaults that a copy would have. */
		CK_BBOOL no = CK_FALSE, yes = CK_TRUE;
		CK_ULONG length = 32;
		CK_ATTRIBUTE copy[] = {{CKA_TOKEN, &no, 1}, {CKA_SENSITIVE, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}, {CKA_VALUE_LEN, &length, sizeof length}};
		CK_MECHANISM generate = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
		return real->C_GenerateKey(s, &generate, copy, 4, c);
	}
	return room_CopyObject(s, o, t, n, c);
}

static CK_RV ways_SetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	if (has(ADDS_USAGES) && n == 1 && (t->type == CKA_DERIVE || t->type == CKA_WRAP)) {
		if (t->type == CKA_DERIVE)
			atomic_store(&added_derive, 1);
		return CKR_OK;
	}
	if (!has(CHANGES_PRIVATE_KEYS) || !is_private(s, o))
		return real->C_SetAttributeValue(s, o, t, n);
	atomic_store(&changed_keys, 1);
	return CKR_OK;
}

#define CKM_VENDORS_WRAP 0x80001234UL
#define CKM_XTS 0x1071UL /* CKM_AES_XTS of PKCS#11 3.0 */

/* more_listed is the mechanism that the token lists beyond its own, 0 if none. */
static CK_MECHANISM_TYPE more_listed(void)
{
	if (has(WRAPS_BY_VENDORS))
		return CKM_VENDORS_WRAP;
	return has(WRAPS_BY_LISTED) ? CKM_XTS : 0;
}

/* leaks says how many bytes the token gives of a key that must stay in it, 0 if none. */
static CK_ULONG leaks(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	int rsa = m->mechanism == CKM_RSA_PKCS_OAEP || m->mechanism == CKM_RSA_PKCS;
	if ((rsa && has(WRAPS_UNDER_RSA)) || ((changed(WRAPS_CHANGED_KEYS) || (!rsa && has(WRAPS_PRIVATE_KEYS))) && is_private(s, k)))
		return 16;
	if (!rsa && has(WRAPS_RSA_KEYS) && is_private(s, k) && key_type(s, k) == CKK_RSA)
		return 1224;
	switch (m->mechanism) {
	case CKM_AES_CTR:
		return has(WRAPS_BY_CTR) && m->ulParameterLen == sizeof(CK_ULONG) + 16 ? 32 : 0;
	case CKM_AES_GCM:
		return has(WRAPS_BY_GCM) && m->ulParameterLen == sizeof(CK_GCM_PARAMS) ? 48 : 0;
	case CKM_DES3_CBC_PAD:
		return has(WRAPS_BY_DES3) && m->ulParameterLen == 8 ? 40 : 0;
	case CKM_RSA_PKCS_OAEP:
		return has(WRAPS_BY_OAEP_256) && m->pParameter && ((CK_RSA_PKCS_OAEP_PARAMS *)m->pParameter)->hashAlg == CKM_SHA256 ? 256 : 0;
	case CKM_RSA_AES_KEY_WRAP:
		return has(WRAPS_BY_RSA_AES) && m->pParameter ? 296 : 0;
	case CKM_VENDORS_WRAP:
		return has(WRAPS_BY_VENDORS) ? 40 : 0;
	case CKM_XTS:
		return has(WRAPS_BY_LISTED) && m->ulParameterLen == 16 ? 32 : 0;
	default:
		return 0;
	}
}

static CK_RV ways_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n)
{
	CK_ULONG leak = m ? leaks(s, m, k) : 0;
	if (leak && must_stay(s, k)) {
		CK_RV rv = o && *n < leak ? CKR_BUFFER_TOO_SMALL : CKR_OK;
		*n = leak;
		return rv;
	}
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	CK_RV rv = hsm_WrapKey(s, m, w, k, o, n);
	if (rv == CKR_OK && has(WRAPS_TOO_MUCH))
		*n = CK_UNAVAILABLE_INFORMATION;
	return rv;
}

static CK_RV ways_DeriveKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	int extracts = has(DERIVES_KEYS) || (has(DERIVES_ADDED) && atomic_load(&added_derive));
	if (!(m && m->mechanism == CKM_EXTRACT_KEY_FROM_KEY && extracts) &&
	    !(m && m->mechanism == CKM_CONCATENATE_DATA_AND_BASE && has(CONCATENATES)))
		return real->C_DeriveKey(s, m, b, t, n, k);
	CK_MECHANISM generate = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
	return real->C_GenerateKey(s, &generate, t, n, k);
}

/* The mechanism that wraps is listed. */
static CK_RV ways_GetMechanismList(CK_SLOT_ID s, CK_MECHANISM_TYPE_PTR m, CK_ULONG_PTR n)
{
	CK_ULONG room = m ? *n : 0;
	CK_RV rv = hsm_GetMechanismList(s, m, n);
	if (rv != CKR_OK || !more_listed())
		return rv;
	if (m && *n == room)
		return CKR_BUFFER_TOO_SMALL;
	if (m)
		m[*n] = more_listed();
	++*n;
	return CKR_OK;
}

static CK_RV ways_GetMechanismInfo(CK_SLOT_ID s, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR i)
{
	if (!more_listed() || type != more_listed() || !i)
		return hsm_GetMechanismInfo(s, type, i);
	*i = (CK_MECHANISM_INFO){16, 32, CKF_WRAP | CKF_UNWRAP};
	return CKR_OK;
}

static CK_RV ways_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	CK_RV rv = labelled(t, n);
	if (rv != CKR_OK)
		return rv;
	CK_ATTRIBUTE_PTR length = find(t, n, CKA_VALUE_LEN);
	if (has(MIDDLING_SECRETS) && m && m->mechanism == CKM_GENERIC_SECRET_KEY_GEN && length &&
	    length->ulValueLen == sizeof(CK_ULONG)) {
		CK_ULONG v = *(CK_ULONG *)length->pValue;
		if (v < 10 || v > 256)
			return has(BIG_INPUT_IS_DEVICE_ERROR) ? CKR_DEVICE_ERROR : CKR_KEY_SIZE_RANGE;
	}
	if (length && length->ulValueLen == sizeof(CK_ULONG) && big(4 * *(CK_ULONG *)length->pValue))
		return CKR_DEVICE_ERROR;
	return hsm_GenerateKey(s, m, t, n, k);
}

static const CK_BYTE oid_secp256k1[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a};
static const CK_BYTE oid_ed25519[] = {0x06, 0x03, 0x2b, 0x65, 0x70};
static const CK_BYTE name_ed25519[] = {0x13, 0x0c, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'};

static int holds(CK_ATTRIBUTE_PTR a, const CK_BYTE *v, CK_ULONG n)
{
	return a && a->ulValueLen == n && memcmp(a->pValue, v, n) == 0;
}

static int risky(CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	return has(REFUSES_RISKS) && is_true(t, n, CKA_DECRYPT) && (is_true(t, n, CKA_WRAP) || is_true(t, n, CKA_UNWRAP));
}

static CK_RV lasting_pair(CK_ATTRIBUTE_PTR pub, CK_ULONG npub, CK_ATTRIBUTE_PTR priv, CK_ULONG npriv)
{
	if (!has(LASTING_PAIRS))
		return CKR_OK;
	CK_ATTRIBUTE_PTR bits = find(pub, npub, CKA_MODULUS_BITS);
	if (!is_true(priv, npriv, CKA_TOKEN) || (bits && bits->ulValueLen == sizeof(CK_ULONG) && *(CK_ULONG *)bits->pValue > 2048))
		return CKR_ATTRIBUTE_VALUE_INVALID;
	return find(priv, npriv, CKA_DECRYPT) ? CKR_GENERAL_ERROR : CKR_OK;
}

static CK_RV ways_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	if (risky(priv, npriv))
		return CKR_TEMPLATE_INCONSISTENT;
	CK_RV no = lasting_pair(pub, npub, priv, npriv);
	if (no != CKR_OK)
		return no;
	if (labelled(pub, npub) != CKR_OK || labelled(priv, npriv) != CKR_OK)
		return CKR_ATTRIBUTE_VALUE_INVALID;
	CK_ATTRIBUTE_PTR curve = find(pub, npub, CKA_EC_PARAMS);
	if (has(NO_SECP256K1) && holds(curve, oid_secp256k1, sizeof oid_secp256k1))
		return CKR_GENERAL_ERROR;
	if (has(EDWARDS_BY_OID) && holds(curve, name_ed25519, sizeof name_ed25519))
		return CKR_CURVE_NOT_SUPPORTED;
	CK_RV rv = hsm_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
	if (rv == CKR_OK && (rv = load_key(*hpriv)) != CKR_OK) {
		real->C_DestroyObject(s, *hpub);
		real->C_DestroyObject(s, *hpriv);
	}
	return rv;
}

/* A public key on an Edwards curve has the bytes of RFC 8032, not an OCTET STRING of them. */
static CK_RV edwards_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR point, CK_OBJECT_HANDLE_PTR o)
{
	CK_BYTE string[34] = {4, 32};
	CK_ATTRIBUTE t2[64];
	if (point->ulValueLen != 32 || n > sizeof t2 / sizeof *t2)
		return CKR_FUNCTION_FAILED;
	memcpy(string + 2, point->pValue, 32);
	memcpy(t2, t, n * sizeof *t);
	t2[point - t].pValue = string;
	t2[point - t].ulValueLen = sizeof string;
	return hsm_CreateObject(s, t2, n, o);
}

static CK_RV ways_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	if (has(NO_AES) && is(t, n, CKA_KEY_TYPE, CKK_AES))
		return CKR_ATTRIBUTE_VALUE_INVALID;
	if (risky(t, n) || (has(REFUSES_SENSITIVE) && is_true(t, n, CKA_SENSITIVE)))
		return CKR_TEMPLATE_INCONSISTENT;
	CK_RV rv = labelled(t, n);
	if (rv != CKR_OK)
		return rv;
	CK_ULONG type;
	CK_ATTRIBUTE_PTR a = find(t, n, CKA_CLASS);
	if (has(NO_SECRET_KEYS) && a && a->ulValueLen == sizeof type && (memcpy(&type, a->pValue, sizeof type), type == CKO_SECRET_KEY))
		return CKR_TEMPLATE_INCONSISTENT;
	if (has(LASTING_PAIRS) && is(t, n, CKA_CLASS, CKO_PRIVATE_KEY))
		return CKR_ATTRIBUTE_VALUE_INVALID;
	CK_ATTRIBUTE_PTR point = find(t, n, CKA_EC_POINT);
	if (has(EDWARDS_BY_OID) && point && holds(find(t, n, CKA_EC_PARAMS), oid_ed25519, sizeof oid_ed25519))
		return edwards_CreateObject(s, t, n, point, o);
	return hsm_CreateObject(s, t, n, o);
}

static CK_RV ways_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG dl,
	CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	if (lacks(m))
		return CKR_MECHANISM_INVALID;
	CK_RV rv = labelled(t, n);
	if (rv != CKR_OK)
		return rv;
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
