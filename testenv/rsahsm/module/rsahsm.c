/* A PKCS#11 module in front of SoftHSM2 that adds what hardware has and
 * SoftHSM2 2.6 has not: RSA-OAEP with SHA-256, C_WrapKey by it and by
 * CKM_AES_CBC_PAD, C_UnwrapKey by it and by CKM_RSA_AES_KEY_WRAP, and
 * CKA_VALUE_LEN of unwrapped keys. For tests: it
 * keeps its notes in this process and is in no hurry. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CK_PTR *
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#ifndef NULL_PTR
#define NULL_PTR NULL
#endif
#include "pkcs11.h"

#define RSA_MAX 512
#define ALLOWED_MAX 16
#define NOTES 4096

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards notes and pending */

/* note is how a private RSA key looks from outside. Behind, it decrypts, by
 * any mechanism. */
static struct note {
	CK_OBJECT_HANDLE key;
	CK_BBOOL decrypt;
	CK_MECHANISM_TYPE allowed[ALLOWED_MAX];
	CK_ULONG count;
} notes[NOTES];
static int noted;

/* pending is a C_DecryptInit with OAEP, by session. */
static struct pending {
	CK_SESSION_HANDLE session;
	CK_MECHANISM_TYPE hash;
} pending[64];

static struct note *note_of(CK_OBJECT_HANDLE key)
{
	for (int i = noted - 1; i >= 0; i--)
		if (notes[i].key == key)
			return &notes[i];
	return NULL;
}

static int may(CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE m)
{
	int yes = 1;
	pthread_mutex_lock(&lock);
	struct note *n = note_of(key);
	if (n && n->count > 0) {
		yes = 0;
		for (CK_ULONG i = 0; i < n->count; i++)
			yes |= n->allowed[i] == m;
	}
	pthread_mutex_unlock(&lock);
	return yes;
}

static CK_ATTRIBUTE_PTR find(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type == type)
			return &t[i];
	return NULL;
}

static int has_ulong(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type, CK_ULONG v)
{
	CK_ATTRIBUTE_PTR a = find(t, n, type);
	return a && a->ulValueLen == sizeof v && memcmp(a->pValue, &v, sizeof v) == 0;
}

static int is_true(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	CK_ATTRIBUTE_PTR a = find(t, n, type);
	return a && a->ulValueLen == 1 && *(CK_BBOOL *)a->pValue;
}

/* disguise makes the template of a private RSA key that decrypts or unwraps
 * one that the module behind lets decrypt, and writes down what it was. It
 * returns the number of attributes in out, which has room for n + 1; 0: it is
 * another key. */
static CK_ULONG disguise(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR out, struct note *note)
{
	static CK_BBOOL yes = CK_TRUE;
	if (!has_ulong(t, n, CKA_CLASS, CKO_PRIVATE_KEY) || !has_ulong(t, n, CKA_KEY_TYPE, CKK_RSA) ||
	    !(is_true(t, n, CKA_DECRYPT) || is_true(t, n, CKA_UNWRAP)))
		return 0;
	memset(note, 0, sizeof *note);
	note->decrypt = is_true(t, n, CKA_DECRYPT);
	CK_ULONG m = 0;
	out[m++] = (CK_ATTRIBUTE){CKA_DECRYPT, &yes, sizeof yes};
	for (CK_ULONG i = 0; i < n; i++) {
		if (t[i].type == CKA_ALLOWED_MECHANISMS && t[i].ulValueLen <= sizeof note->allowed) {
			note->count = t[i].ulValueLen / sizeof *note->allowed;
			memcpy(note->allowed, t[i].pValue, t[i].ulValueLen);
		} else if (t[i].type != CKA_DECRYPT) {
			out[m++] = t[i];
		}
	}
	return m;
}

static void keep(struct note *note, CK_OBJECT_HANDLE key)
{
	pthread_mutex_lock(&lock);
	note->key = key;
	if (noted == NOTES) {
		fprintf(stderr, "rsahsm: too many keys\n");
		abort();
	}
	notes[noted++] = *note;
	pthread_mutex_unlock(&lock);
}

static CK_RV my_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	CK_ATTRIBUTE t[64];
	struct note note;
	CK_ULONG n = npriv < 63 ? disguise(priv, npriv, t, &note) : 0;
	if (n == 0)
		return real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
	CK_RV rv = real->C_GenerateKeyPair(s, m, pub, npub, t, n, hpub, hpriv);
	if (rv == CKR_OK)
		keep(&note, *hpriv);
	return rv;
}

static CK_RV my_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR a, CK_ULONG na, CK_OBJECT_HANDLE_PTR o)
{
	CK_ATTRIBUTE t[64];
	struct note note;
	CK_ULONG n = na < 63 ? disguise(a, na, t, &note) : 0;
	if (n == 0)
		return real->C_CreateObject(s, a, na, o);
	CK_RV rv = real->C_CreateObject(s, t, n, o);
	if (rv == CKR_OK)
		keep(&note, *o);
	return rv;
}

/* Handles come again: for other objects, once theirs are gone or the module was
 * initialised anew. */
static CK_RV my_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = real->C_DestroyObject(s, o);
	pthread_mutex_lock(&lock);
	for (int i = 0; rv == CKR_OK && i < noted; i++)
		if (notes[i].key == o)
			notes[i--] = notes[--noted];
	pthread_mutex_unlock(&lock);
	return rv;
}

static CK_RV my_Finalize(void *reserved)
{
	CK_RV rv = real->C_Finalize(reserved);
	pthread_mutex_lock(&lock);
	if (rv == CKR_OK)
		noted = 0;
	pthread_mutex_unlock(&lock);
	return rv;
}

/* unwrap_behind is C_UnwrapKey behind, to a key that may be an RSA key. */
static CK_RV unwrap_behind(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG dl,
	CK_ATTRIBUTE_PTR a, CK_ULONG na, CK_OBJECT_HANDLE_PTR o)
{
	CK_ATTRIBUTE t[64];
	struct note note;
	CK_ULONG n = na < 63 ? disguise(a, na, t, &note) : 0;
	if (n == 0)
		return real->C_UnwrapKey(s, m, w, d, dl, a, na, o);
	CK_RV rv = real->C_UnwrapKey(s, m, w, d, dl, t, n, o);
	if (rv == CKR_OK)
		keep(&note, *o);
	return rv;
}

static CK_RV my_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_ATTRIBUTE_PTR allowed = find(t, n, CKA_ALLOWED_MECHANISMS), decrypt = find(t, n, CKA_DECRYPT);
	CK_ULONG room = allowed ? allowed->ulValueLen : 0;
	CK_RV rv = real->C_GetAttributeValue(s, o, t, n);
	pthread_mutex_lock(&lock);
	struct note *note = note_of(o);
	if (note && allowed && allowed->pValue && room >= note->count * sizeof *note->allowed) {
		allowed->ulValueLen = note->count * sizeof *note->allowed;
		memcpy(allowed->pValue, note->allowed, allowed->ulValueLen);
	}
	if (note && decrypt && decrypt->pValue && decrypt->ulValueLen == 1)
		*(CK_BBOOL *)decrypt->pValue = note->decrypt;
	pthread_mutex_unlock(&lock);
	return rv;
}

/* --- RFC 8017, section 7.1.2, with the module's hashes --- */

static CK_RV digest(CK_SESSION_HANDLE s, CK_MECHANISM_TYPE hash, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG *len)
{
	CK_MECHANISM m = {hash, NULL, 0};
	CK_BYTE nothing = 0;
	CK_RV rv = real->C_DigestInit(s, &m);
	*len = 64;
	return rv != CKR_OK ? rv : real->C_Digest(s, n ? in : &nothing, n, out, len);
}

static CK_RV xor_mask(CK_SESSION_HANDLE s, CK_MECHANISM_TYPE hash, CK_BYTE_PTR out, CK_ULONG n, CK_BYTE_PTR seed, CK_ULONG sn)
{
	CK_BYTE in[RSA_MAX + 4], block[64];
	CK_ULONG len;
	memcpy(in, seed, sn);
	for (unsigned i = 0, at = 0; at < n; i++) {
		CK_BYTE counter[] = {i >> 24, i >> 16, i >> 8, i};
		memcpy(in + sn, counter, 4);
		CK_RV rv = digest(s, hash, in, sn + 4, block, &len);
		if (rv != CKR_OK)
			return rv;
		for (CK_ULONG j = 0; j < len && at < n; j++)
			out[at++] ^= block[j];
	}
	return CKR_OK;
}

/* remove_oaep finds the message in em, which it changes. */
static CK_RV remove_oaep(CK_SESSION_HANDLE s, CK_MECHANISM_TYPE hash, CK_BYTE_PTR em, CK_ULONG k, CK_BYTE_PTR *message, CK_ULONG *n)
{
	CK_BYTE label[64];
	CK_ULONG h;
	CK_RV rv = digest(s, hash, NULL, 0, label, &h);
	if (rv != CKR_OK)
		return rv;
	if (k < 2 * h + 2)
		return CKR_ENCRYPTED_DATA_INVALID;
	CK_BYTE_PTR seed = em + 1, db = em + 1 + h;
	CK_ULONG dn = k - h - 1, at = h;
	if ((rv = xor_mask(s, hash, seed, h, db, dn)) != CKR_OK || (rv = xor_mask(s, hash, db, dn, seed, h)) != CKR_OK)
		return rv;
	while (at < dn && db[at] == 0)
		at++;
	if (em[0] != 0 || memcmp(db, label, h) != 0 || at == dn || db[at] != 1)
		return CKR_ENCRYPTED_DATA_INVALID;
	*message = db + at + 1;
	*n = dn - at - 1;
	return CKR_OK;
}

static CK_RV raw_rsa(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR em)
{
	CK_MECHANISM m = {CKM_RSA_X_509, NULL, 0};
	CK_ULONG len = RSA_MAX;
	CK_RV rv = real->C_DecryptInit(s, &m, key);
	if (rv == CKR_OK)
		rv = real->C_Decrypt(s, in, n, em, &len);
	return rv == CKR_OK && len != n ? CKR_FUNCTION_FAILED : rv;
}

static CK_RV my_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	pthread_mutex_lock(&lock);
	struct note *note = note_of(key);
	int permitted = !note || note->decrypt;
	pthread_mutex_unlock(&lock);
	if (!permitted)
		return CKR_KEY_FUNCTION_NOT_PERMITTED;
	if (!m || !may(key, m->mechanism))
		return CKR_MECHANISM_INVALID;
	if (m->mechanism != CKM_RSA_PKCS_OAEP)
		return real->C_DecryptInit(s, m, key);
	CK_MECHANISM raw = {CKM_RSA_X_509, NULL, 0};
	CK_RV rv = real->C_DecryptInit(s, &raw, key);
	if (rv != CKR_OK)
		return rv;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 64; i++) {
		if (pending[i].session == 0 || pending[i].session == s) {
			pending[i] = (struct pending){s, ((CK_RSA_PKCS_OAEP_PARAMS *)m->pParameter)->hashAlg};
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return CKR_OK;
}

static CK_RV my_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_MECHANISM_TYPE hash = 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 64; i++) {
		if (pending[i].session == s && pending[i].hash != 0) {
			hash = pending[i].hash;
			pending[i] = (struct pending){0, 0};
		}
	}
	pthread_mutex_unlock(&lock);
	if (hash == 0)
		return real->C_Decrypt(s, in, n, out, len);
	CK_BYTE em[RSA_MAX], *message;
	CK_ULONG k = sizeof em, mn;
	CK_RV rv = real->C_Decrypt(s, in, n, em, &k);
	if (rv == CKR_OK)
		rv = remove_oaep(s, hash, em, k, &message, &mn);
	if (rv != CKR_OK)
		return rv;
	if (mn > *len)
		return CKR_BUFFER_TOO_SMALL;
	memcpy(out, message, mn);
	*len = mn;
	return CKR_OK;
}

/* aes_key makes a session key of known value. */
static CK_RV aes_key(CK_SESSION_HANDLE s, CK_BYTE_PTR value, CK_ULONG n, CK_OBJECT_HANDLE_PTR key)
{
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_AES;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE t[] = {
		{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &no, sizeof no},
		{CKA_WRAP, &yes, sizeof yes}, {CKA_UNWRAP, &yes, sizeof yes}, {CKA_DECRYPT, &yes, sizeof yes},
		{CKA_ENCRYPT, &yes, sizeof yes}, {CKA_VALUE, value, n}};
	return real->C_CreateObject(s, t, sizeof t / sizeof *t, key);
}

/* kwp_unwrap is RFC 5649, section 4.2, by AES-ECB. out has room for n. */
static CK_RV kwp_unwrap(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE kek, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG *len)
{
	static const CK_BYTE constant[] = {0xA6, 0x59, 0x59, 0xA6};
	CK_BYTE a[8], block[16];
	CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
	if (n < 16 || n % 8 != 0)
		return CKR_WRAPPED_KEY_LEN_RANGE;
	CK_ULONG blocks = n / 8 - 1, got;
	memcpy(a, in, 8);
	memcpy(out, in + 8, n - 8);
	for (CK_ULONG t = blocks == 1 ? 1 : 6 * blocks; t > 0; t--) {
		CK_BYTE_PTR r = out + 8 * ((t - 1) % blocks);
		memcpy(block, a, 8);
		for (int i = 0; blocks > 1 && i < 8; i++)
			block[7 - i] ^= (unsigned long long)t >> (8 * i);
		memcpy(block + 8, r, 8);
		CK_RV rv = real->C_DecryptInit(s, &ecb, kek);
		got = sizeof block;
		if (rv != CKR_OK || (rv = real->C_Decrypt(s, block, sizeof block, block, &got)) != CKR_OK)
			return rv;
		memcpy(a, block, 8);
		memcpy(r, block + 8, 8);
	}
	*len = (CK_ULONG)a[4] << 24 | a[5] << 16 | a[6] << 8 | a[7];
	if (memcmp(a, constant, 4) != 0 || *len > 8 * blocks || *len + 8 <= 8 * blocks)
		return CKR_WRAPPED_KEY_INVALID;
	for (CK_ULONG i = *len; i < 8 * blocks; i++)
		if (out[i] != 0)
			return CKR_WRAPPED_KEY_INVALID;
	return CKR_OK;
}

/* make makes a key of its value. SoftHSM2 takes PKCS #8 in C_UnwrapKey only,
 * so a private key is wrapped first. */
static CK_RV make(CK_SESSION_HANDLE s, CK_BYTE_PTR value, CK_ULONG n, CK_ATTRIBUTE_PTR t, CK_ULONG count, CK_OBJECT_HANDLE_PTR key)
{
	CK_ATTRIBUTE copy[64];
	if (count > 62)
		return CKR_TEMPLATE_INCONSISTENT;
	if (!has_ulong(t, count, CKA_CLASS, CKO_PRIVATE_KEY)) {
		copy[0] = (CK_ATTRIBUTE){CKA_VALUE, value, n};
		memcpy(copy + 1, t, count * sizeof *t);
		return real->C_CreateObject(s, copy, count + 1, key);
	}
	CK_BYTE zero[32] = {0}, wrapped[4096];
	CK_OBJECT_HANDLE kek, secret;
	CK_OBJECT_CLASS class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = CKK_GENERIC_SECRET;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE g[] = {
		{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &no, sizeof no},
		{CKA_EXTRACTABLE, &yes, sizeof yes}, {CKA_VALUE, value, n}};
	CK_MECHANISM m = {0x210A, NULL, 0};
	CK_ULONG wn = sizeof wrapped;
	CK_RV rv = aes_key(s, zero, sizeof zero, &kek);
	if (rv != CKR_OK)
		return rv;
	if ((rv = real->C_CreateObject(s, g, sizeof g / sizeof *g, &secret)) == CKR_OK) {
		rv = real->C_WrapKey(s, &m, kek, secret, wrapped, &wn);
		real->C_DestroyObject(s, secret);
		if (rv == CKR_OK)
			rv = unwrap_behind(s, &m, kek, wrapped, wn, t, count, key);
	}
	real->C_DestroyObject(s, kek);
	return rv;
}

static CK_RV my_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG dl,
	CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR key)
{
	if (!m || (m->mechanism != CKM_RSA_PKCS_OAEP && m->mechanism != CKM_RSA_AES_KEY_WRAP))
		return unwrap_behind(s, m, w, d, dl, t, n, key);
	if (!may(w, m->mechanism))
		return CKR_MECHANISM_INVALID;
	CK_BYTE em[RSA_MAX], *value, material[4096];
	CK_ULONG k = 0, vn, mn;
	CK_ATTRIBUTE modulus = {CKA_MODULUS, NULL, 0};
	CK_RV rv = real->C_GetAttributeValue(s, w, &modulus, 1);
	k = modulus.ulValueLen;
	if (rv != CKR_OK || k > sizeof em || dl < k || dl - k > sizeof material)
		return rv != CKR_OK ? rv : CKR_WRAPPED_KEY_LEN_RANGE;
	int twice = m->mechanism == CKM_RSA_AES_KEY_WRAP;
	CK_RSA_PKCS_OAEP_PARAMS *p = twice ? ((CK_RSA_AES_KEY_WRAP_PARAMS *)m->pParameter)->pOAEPParams : m->pParameter;
	if (!twice && dl != k)
		return CKR_WRAPPED_KEY_LEN_RANGE;
	rv = raw_rsa(s, w, d, k, em);
	if (rv == CKR_OK)
		rv = remove_oaep(s, p->hashAlg, em, k, &value, &vn);
	if (rv != CKR_OK)
		return rv == CKR_ENCRYPTED_DATA_INVALID ? CKR_WRAPPED_KEY_INVALID : rv;
	if (!twice)
		return make(s, value, vn, t, n, key);
	CK_OBJECT_HANDLE kek;
	if (vn != ((CK_RSA_AES_KEY_WRAP_PARAMS *)m->pParameter)->ulAESKeyBits / 8)
		return CKR_WRAPPED_KEY_INVALID;
	if ((rv = aes_key(s, value, vn, &kek)) != CKR_OK)
		return rv;
	rv = kwp_unwrap(s, kek, d + k, dl - k, material, &mn);
	real->C_DestroyObject(s, kek);
	return rv == CKR_OK ? make(s, material, mn, t, n, key) : rv;
}

/* der_length is the length of the DER value at p, of at most n bytes. */
static CK_ULONG der_length(CK_BYTE_PTR p, CK_ULONG n)
{
	if (n < 4)
		return n;
	CK_ULONG len = p[1] < 0x80 ? 2ul + p[1] : p[1] == 0x81 ? 3ul + p[2] : 4ul + ((CK_ULONG)p[2] << 8 | p[3]);
	return len < n ? len : n;
}

/* value_of is the value of a key that may be wrapped: the module behind wraps it
 * under a key of zeros, and pads it, so its length is found elsewhere. */
static CK_RV value_of(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, CK_BYTE_PTR value, CK_ULONG *n)
{
	CK_BYTE zero[32] = {0}, wrapped[4096];
	CK_OBJECT_HANDLE kek;
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE a = {CKA_CLASS, &class, sizeof class}, l = {CKA_VALUE_LEN, NULL, sizeof(CK_ULONG)};
	CK_MECHANISM m = {0x210A, NULL, 0};
	CK_ULONG wn = sizeof wrapped, exact = 0;
	CK_RV rv = real->C_GetAttributeValue(s, key, &a, 1);
	if (rv != CKR_OK || (rv = aes_key(s, zero, sizeof zero, &kek)) != CKR_OK)
		return rv;
	rv = real->C_WrapKey(s, &m, kek, key, wrapped, &wn);
	if (rv == CKR_OK)
		rv = kwp_unwrap(s, kek, wrapped, wn, value, n);
	real->C_DestroyObject(s, kek);
	if (rv != CKR_OK)
		return rv;
	l.pValue = &exact;
	if (class == CKO_PRIVATE_KEY)
		*n = der_length(value, *n);
	else if (real->C_GetAttributeValue(s, key, &l, 1) == CKR_OK && exact > 0 && exact < *n)
		*n = exact;
	return CKR_OK;
}

/* wrap_cbc is CKM_AES_CBC_PAD. */
static CK_RV wrap_cbc(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR value, CK_ULONG n,
	CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_BYTE kek_value[4096];
	CK_ULONG kn;
	CK_OBJECT_HANDLE kek;
	CK_RV rv = value_of(s, w, kek_value, &kn);
	if (rv != CKR_OK || (rv = aes_key(s, kek_value, kn, &kek)) != CKR_OK)
		return rv;
	if ((rv = real->C_EncryptInit(s, m, kek)) == CKR_OK)
		rv = real->C_Encrypt(s, value, n, out, len);
	real->C_DestroyObject(s, kek);
	return rv;
}

/* wrap_oaep is RFC 8017, section 7.1.1, without a label. */
static CK_RV wrap_oaep(CK_SESSION_HANDLE s, CK_MECHANISM_TYPE hash, CK_OBJECT_HANDLE w, CK_BYTE_PTR value, CK_ULONG n,
	CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_BYTE modulus[RSA_MAX], exponent[16], em[RSA_MAX] = {0}, label[64];
	CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	CK_KEY_TYPE type = CKK_RSA;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ATTRIBUTE t[] = {
		{CKA_MODULUS, modulus, sizeof modulus}, {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent},
		{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &no, sizeof no},
		{CKA_ENCRYPT, &yes, sizeof yes}};
	CK_MECHANISM raw = {CKM_RSA_X_509, NULL, 0};
	CK_OBJECT_HANDLE public;
	CK_ULONG h;
	CK_RV rv = real->C_GetAttributeValue(s, w, t, 2);
	if (rv != CKR_OK || (rv = digest(s, hash, NULL, 0, label, &h)) != CKR_OK)
		return rv;
	CK_ULONG k = t[0].ulValueLen, dn = k - h - 1;
	CK_BYTE_PTR seed = em + 1, db = em + 1 + h;
	if (n + 2 * h + 2 > k)
		return CKR_KEY_SIZE_RANGE;
	memcpy(db, label, h);
	db[dn - n - 1] = 1;
	memcpy(db + dn - n, value, n);
	if ((rv = real->C_GenerateRandom(s, seed, h)) != CKR_OK || (rv = xor_mask(s, hash, db, dn, seed, h)) != CKR_OK ||
	    (rv = xor_mask(s, hash, seed, h, db, dn)) != CKR_OK ||
	    (rv = real->C_CreateObject(s, t, sizeof t / sizeof *t, &public)) != CKR_OK)
		return rv;
	if ((rv = real->C_EncryptInit(s, &raw, public)) == CKR_OK)
		rv = real->C_Encrypt(s, em, k, out, len);
	real->C_DestroyObject(s, public);
	return rv;
}

static CK_RV my_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE key, CK_BYTE_PTR out,
	CK_ULONG_PTR len)
{
	int cbc = m && m->mechanism == CKM_AES_CBC_PAD;
	int oaep = m && m->mechanism == CKM_RSA_PKCS_OAEP && ((CK_RSA_PKCS_OAEP_PARAMS *)m->pParameter)->hashAlg != CKM_SHA_1;
	if (!cbc && !oaep)
		return real->C_WrapKey(s, m, w, key, out, len);
	CK_BYTE value[4096];
	CK_BBOOL wraps = CK_FALSE;
	CK_ATTRIBUTE a = {CKA_WRAP, &wraps, sizeof wraps};
	CK_ULONG n;
	CK_RV rv = real->C_GetAttributeValue(s, w, &a, 1);
	if (rv != CKR_OK || !wraps)
		return CKR_WRAPPING_KEY_HANDLE_INVALID;
	if ((rv = value_of(s, key, value, &n)) != CKR_OK)
		return rv;
	if (cbc)
		return wrap_cbc(s, m, w, value, n, out, len);
	return wrap_oaep(s, ((CK_RSA_PKCS_OAEP_PARAMS *)m->pParameter)->hashAlg, w, value, n, out, len);
}

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("CMKD_RSAHSM_MODULE");
	void *lib = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	CK_FUNCTION_LIST_PTR behind;
	if (!get || get(&behind) != CKR_OK) {
		fprintf(stderr, "rsahsm: CMKD_RSAHSM_MODULE names no PKCS#11 module\n");
		return;
	}
	list = *behind;
	list.C_GenerateKeyPair = my_GenerateKeyPair;
	list.C_CreateObject = my_CreateObject;
	list.C_DestroyObject = my_DestroyObject;
	list.C_Finalize = my_Finalize;
	list.C_GetAttributeValue = my_GetAttributeValue;
	list.C_DecryptInit = my_DecryptInit;
	list.C_Decrypt = my_Decrypt;
	list.C_WrapKey = my_WrapKey;
	list.C_UnwrapKey = my_UnwrapKey;
	real = behind;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (!out)
		return CKR_ARGUMENTS_BAD;
	if (!real)
		return CKR_GENERAL_ERROR;
	*out = &list;
	return CKR_OK;
}
