/* A PKCS#11 module in front of SoftHSM2 that adds the ML-DSA and ML-KEM of PKCS#11
 * 3.2, with C_EncapsulateKey and C_DecapsulateKey in its interface. Such a pair is
 * an EC pair behind, which gives it an identity and all attributes but those that
 * are answered here; its seed is in this process. For tests: another process does
 * the arithmetic, one request at a time, and keys end with the process. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CK_PTR *
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#ifndef NULL_PTR
#define NULL_PTR NULL
#endif
#include "pkcs11.h"

/* PKCS#11 3.2 */
#define KEY_ML_KEM 0x49UL
#define KEY_ML_DSA 0x4AUL
#define GEN_ML_KEM 0x0FUL
#define MECH_ML_KEM 0x17UL
#define GEN_ML_DSA 0x1CUL
#define MECH_ML_DSA 0x1DUL
#define ATTR_PARAMETER_SET 0x61DUL
#define ATTR_ENCAPSULATE 0x633UL
#define ATTR_DECAPSULATE 0x634UL

enum { NEW_KEM, ENCAPSULATE, DECAPSULATE, NEW_SIGNING, SIGN, VERIFY };

#define NOTES 1024
#define VALUE_MAX 16384

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static int to_lattice, from_lattice;

struct value {
	CK_ULONG n;
	CK_BYTE b[VALUE_MAX];
};

/* note is what one object of such a pair is. */
static struct note {
	CK_OBJECT_HANDLE object;
	CK_KEY_TYPE type;
	CK_ULONG set;
	CK_BBOOL private, use; /* use: ENCAPSULATE or DECAPSULATE */
	CK_ULONG n;
	CK_BYTE value[2600]; /* the seed, or the public key */
} notes[NOTES];
static int noted;

/* pending is a C_SignInit or C_VerifyInit with such a key, by session. */
static struct pending {
	CK_SESSION_HANDLE session;
	struct note *note;
} pending[64];

static struct note *note_of(CK_OBJECT_HANDLE o)
{
	for (int i = noted - 1; i >= 0; i--)
		if (notes[i].object == o)
			return &notes[i];
	return NULL;
}

/* --- the other process --- */

static void all(int fd, int out, void *p, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = out ? write(fd, (char *)p + done, n - done) : read(fd, (char *)p + done, n - done);
		if (k <= 0) {
			fprintf(stderr, "pqhsm: the arithmetic is gone\n");
			abort();
		}
		done += k;
	}
}

static void put(const void *p, CK_ULONG n)
{
	CK_BYTE head[] = {n >> 24, n >> 16, n >> 8, n};
	all(to_lattice, 1, head, 4);
	all(to_lattice, 1, (void *)p, n);
}

static void take(struct value *v)
{
	CK_BYTE head[4];
	all(from_lattice, 0, head, 4);
	v->n = (CK_ULONG)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
	if (v->n > VALUE_MAX)
		abort();
	all(from_lattice, 0, v->b, v->n);
}

/* ask is called with the lock held. */
static void ask(int op, CK_ULONG set, const void *a, CK_ULONG an, const void *b, CK_ULONG bn, struct value *x, struct value *y)
{
	CK_BYTE head = op * 16 + set;
	all(to_lattice, 1, &head, 1);
	put(a, an);
	put(b, bn);
	take(x);
	take(y);
}

static void start_lattice(const char *path)
{
	int in[2], out[2];
	if (!path || pipe(in) || pipe(out))
		return;
	pid_t child = fork();
	if (child == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		for (int fd = 3; fd < 1024; fd++)
			close(fd); /* ours above all: its end tells the child of ours */
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	to_lattice = in[1];
	from_lattice = out[0];
}

/* --- attributes --- */

static CK_ATTRIBUTE_PTR find(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type == type)
			return &t[i];
	return NULL;
}

static int is_true(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	CK_ATTRIBUTE_PTR a = find(t, n, type);
	return a && a->ulValueLen == 1 && *(CK_BBOOL *)a->pValue;
}

/* behind makes the template of the EC key behind. */
static CK_ULONG behind(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR out, int public)
{
	static CK_KEY_TYPE ec = CKK_EC;
	static CK_BYTE p256[] = {0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07};
	CK_ULONG m = 0;
	out[m++] = (CK_ATTRIBUTE){CKA_KEY_TYPE, &ec, sizeof ec};
	if (public)
		out[m++] = (CK_ATTRIBUTE){CKA_EC_PARAMS, p256, sizeof p256};
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type != CKA_KEY_TYPE && t[i].type != ATTR_PARAMETER_SET && t[i].type != ATTR_ENCAPSULATE && t[i].type != ATTR_DECAPSULATE)
			out[m++] = t[i];
	return m;
}

static void keep(CK_OBJECT_HANDLE o, CK_KEY_TYPE type, CK_ULONG set, int private, int use, const struct value *v)
{
	if (noted == NOTES)
		abort();
	struct note *n = &notes[noted++];
	*n = (struct note){.object = o, .type = type, .set = set, .private = private, .use = use, .n = v->n};
	memcpy(n->value, v->b, v->n);
}

static CK_RV my_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	if (m->mechanism != GEN_ML_KEM && m->mechanism != GEN_ML_DSA)
		return real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
	int kem = m->mechanism == GEN_ML_KEM;
	CK_ATTRIBUTE t[64], u[64], *set = find(pub, npub, ATTR_PARAMETER_SET);
	CK_MECHANISM ec = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
	if (!set || set->ulValueLen != sizeof(CK_ULONG) || *(CK_ULONG *)set->pValue < 1 || *(CK_ULONG *)set->pValue > 3 || npub > 60 || npriv > 60)
		return CKR_TEMPLATE_INCOMPLETE;
	CK_RV rv = real->C_GenerateKeyPair(s, &ec, t, behind(pub, npub, t, 1), u, behind(priv, npriv, u, 0), hpub, hpriv);
	if (rv != CKR_OK)
		return rv;
	static struct value seed, public;
	pthread_mutex_lock(&lock);
	CK_ULONG p = *(CK_ULONG *)set->pValue;
	ask(kem ? NEW_KEM : NEW_SIGNING, p, NULL, 0, NULL, 0, &seed, &public);
	keep(*hpub, kem ? KEY_ML_KEM : KEY_ML_DSA, p, 0, is_true(pub, npub, ATTR_ENCAPSULATE), &public);
	keep(*hpriv, kem ? KEY_ML_KEM : KEY_ML_DSA, p, 1, is_true(priv, npriv, ATTR_DECAPSULATE), &seed);
	pthread_mutex_unlock(&lock);
	return CKR_OK;
}

/* forget ends the notes of an object; 0: of all. Handles come again: for other objects,
 * once theirs are gone or the module was initialised anew. */
static void forget(CK_OBJECT_HANDLE o)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < noted; i++)
		if (o == 0 || notes[i].object == o)
			notes[i].object = 0;
	pthread_mutex_unlock(&lock);
}

static CK_RV my_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = real->C_DestroyObject(s, o);
	if (rv == CKR_OK)
		forget(o);
	return rv;
}

static CK_RV my_Finalize(void *reserved)
{
	CK_RV rv = real->C_Finalize(reserved);
	if (rv == CKR_OK)
		forget(0);
	return rv;
}

static CK_RV give(CK_ATTRIBUTE_PTR a, const void *value, CK_ULONG n)
{
	CK_RV rv = CKR_OK;
	if (a->pValue && a->ulValueLen < n)
		rv = CKR_BUFFER_TOO_SMALL;
	else if (a->pValue)
		memcpy(a->pValue, value, n);
	a->ulValueLen = rv == CKR_OK ? n : (CK_ULONG)-1;
	return rv;
}

static CK_RV my_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	pthread_mutex_lock(&lock);
	struct note *note = note_of(o);
	pthread_mutex_unlock(&lock);
	if (!note)
		return real->C_GetAttributeValue(s, o, t, n);
	CK_RV worst = CKR_OK;
	for (CK_ULONG i = 0; i < n; i++) {
		CK_RV rv;
		if (t[i].type == CKA_KEY_TYPE)
			rv = give(&t[i], &note->type, sizeof note->type);
		else if (t[i].type == ATTR_PARAMETER_SET)
			rv = give(&t[i], &note->set, sizeof note->set);
		else if (t[i].type == (note->private ? ATTR_DECAPSULATE : ATTR_ENCAPSULATE))
			rv = give(&t[i], &note->use, sizeof note->use);
		else if (t[i].type == CKA_VALUE && !note->private)
			rv = give(&t[i], note->value, note->n);
		else
			rv = real->C_GetAttributeValue(s, o, &t[i], 1);
		if (rv != CKR_OK)
			worst = rv;
	}
	return worst;
}

/* --- ML-DSA --- */

/* begin remembers a key of ours for the next call of the session. */
static CK_RV begin(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	CK_RV rv = CKR_MECHANISM_INVALID;
	pthread_mutex_lock(&lock);
	struct note *note = note_of(key);
	for (int i = 0; note && note->type == KEY_ML_DSA && m->mechanism == MECH_ML_DSA && i < 64; i++) {
		if (pending[i].session == 0 || pending[i].session == s) {
			pending[i] = (struct pending){s, note};
			rv = CKR_OK;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return rv;
}

static struct note *begun(CK_SESSION_HANDLE s)
{
	for (int i = 0; i < 64; i++) {
		if (pending[i].session == s && pending[i].note) {
			struct note *n = pending[i].note;
			pending[i].note = NULL;
			return n;
		}
	}
	return NULL;
}

static int ours(CK_MECHANISM_PTR m) { return m && m->mechanism == MECH_ML_DSA; }

static CK_RV my_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	return ours(m) ? begin(s, m, key) : real->C_SignInit(s, m, key);
}

static CK_RV my_VerifyInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	return ours(m) ? begin(s, m, key) : real->C_VerifyInit(s, m, key);
}

static CK_RV my_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	static struct value signature, nothing;
	CK_RV rv = CKR_FUNCTION_FAILED;
	pthread_mutex_lock(&lock);
	struct note *note = begun(s);
	if (note && note->private) {
		ask(SIGN, note->set, note->value, note->n, in, n, &signature, &nothing);
		rv = *len < signature.n ? CKR_BUFFER_TOO_SMALL : CKR_OK;
		if (rv == CKR_OK)
			memcpy(out, signature.b, signature.n);
		*len = signature.n;
	}
	pthread_mutex_unlock(&lock);
	return note ? rv : real->C_Sign(s, in, n, out, len);
}

static CK_RV my_Verify(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR signature, CK_ULONG sn)
{
	static struct value both, yes, nothing;
	CK_RV rv = CKR_SIGNATURE_INVALID;
	pthread_mutex_lock(&lock);
	struct note *note = begun(s);
	if (note && !note->private && sn + n <= VALUE_MAX) {
		memcpy(both.b, signature, sn);
		memcpy(both.b + sn, in, n);
		ask(VERIFY, note->set, note->value, note->n, both.b, sn + n, &yes, &nothing);
		if (yes.n == 1)
			rv = CKR_OK;
	}
	pthread_mutex_unlock(&lock);
	return note ? rv : real->C_Verify(s, in, n, signature, sn);
}

/* --- ML-KEM --- */

static CK_RV make_secret(CK_SESSION_HANDLE s, struct value *secret, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR key)
{
	CK_ATTRIBUTE u[64];
	CK_ULONG m = 0;
	if (secret->n == 0 || n > 60)
		return CKR_FUNCTION_FAILED;
	u[m++] = (CK_ATTRIBUTE){CKA_VALUE, secret->b, secret->n};
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type != CKA_VALUE_LEN)
			u[m++] = t[i];
	return real->C_CreateObject(s, u, m, key);
}

static CK_RV EncapsulateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_PTR t, CK_ULONG n,
	CK_BYTE_PTR out, CK_ULONG_PTR len, CK_OBJECT_HANDLE_PTR o)
{
	static struct value secret, ciphertext;
	pthread_mutex_lock(&lock);
	struct note *note = note_of(key);
	CK_RV rv = note && !note->private && note->use ? CKR_OK : CKR_KEY_FUNCTION_NOT_PERMITTED;
	if (m->mechanism != MECH_ML_KEM || (note && note->type != KEY_ML_KEM))
		rv = CKR_MECHANISM_INVALID;
	if (rv == CKR_OK) {
		ask(ENCAPSULATE, note->set, note->value, note->n, NULL, 0, &secret, &ciphertext);
		rv = *len < ciphertext.n ? CKR_BUFFER_TOO_SMALL : make_secret(s, &secret, t, n, o);
		*len = ciphertext.n;
	}
	if (rv == CKR_OK)
		memcpy(out, ciphertext.b, ciphertext.n);
	pthread_mutex_unlock(&lock);
	return rv;
}

static CK_RV DecapsulateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_PTR t, CK_ULONG n,
	CK_BYTE_PTR in, CK_ULONG len, CK_OBJECT_HANDLE_PTR o)
{
	static struct value secret, nothing;
	pthread_mutex_lock(&lock);
	struct note *note = note_of(key);
	CK_RV rv = note && note->private && note->use ? CKR_OK : CKR_KEY_FUNCTION_NOT_PERMITTED;
	if (m->mechanism != MECH_ML_KEM || (note && note->type != KEY_ML_KEM))
		rv = CKR_MECHANISM_INVALID;
	if (rv == CKR_OK) {
		ask(DECAPSULATE, note->set, note->value, note->n, in, len, &secret, &nothing);
		rv = make_secret(s, &secret, t, n, o);
	}
	pthread_mutex_unlock(&lock);
	return rv;
}

/* --- the interface --- */

static struct {
	CK_FUNCTION_LIST base;
	void *added_by_3_0[24];
	void *encapsulate, *decapsulate;
	void *added_by_3_2[10];
} list32;

static struct {
	char *name;
	void *functions;
	CK_FLAGS flags;
} interface = {"PKCS 11", &list32, 0};

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("CMKD_PQHSM_MODULE");
	void *lib = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	CK_FUNCTION_LIST_PTR found;
	if (!get || get(&found) != CKR_OK) {
		fprintf(stderr, "pqhsm: CMKD_PQHSM_MODULE names no PKCS#11 module\n");
		return;
	}
	start_lattice(getenv("CMKD_PQHSM_LATTICE"));
	list = *found;
	list.C_GenerateKeyPair = my_GenerateKeyPair;
	list.C_DestroyObject = my_DestroyObject;
	list.C_Finalize = my_Finalize;
	list.C_GetAttributeValue = my_GetAttributeValue;
	list.C_SignInit = my_SignInit;
	list.C_Sign = my_Sign;
	list.C_VerifyInit = my_VerifyInit;
	list.C_Verify = my_Verify;
	list32.base = list;
	list32.base.version = (CK_VERSION){3, 2};
	list32.encapsulate = EncapsulateKey;
	list32.decapsulate = DecapsulateKey;
	real = found;
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

CK_RV C_GetInterface(CK_UTF8CHAR_PTR name, CK_VERSION_PTR version, void **out, CK_FLAGS flags)
{
	if (!out || flags || (name && strcmp((char *)name, "PKCS 11") != 0) || (version && (version->major != 3 || version->minor != 2)))
		return CKR_ARGUMENTS_BAD;
	*out = &interface;
	return CKR_OK;
}
