/*
 * A PKCS#11 module before SoftHSM2 with the manners of a product that cannot be had.
 * What the macro of a product switches on is in its documentation, or was seen.
 *
 * CMKD_MANNERS_MODULE  path of the module behind
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define CK_PTR *
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#include "pkcs11.h"

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;

enum { MOST = 64 };

/* attribute finds one in a template. */
static inline CK_ATTRIBUTE_PTR attribute(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	for (CK_ULONG i = 0; i < n; i++)
		if (t[i].type == type)
			return &t[i];
	return NULL;
}

static inline int is_true(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	CK_ATTRIBUTE_PTR a = attribute(t, n, type);
	return a && a->ulValueLen == 1 && *(CK_BBOOL *)a->pValue;
}

static inline CK_ULONG class_of(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_ULONG class = 0;
	CK_ATTRIBUTE a = {CKA_CLASS, &class, sizeof class};
	return real->C_GetAttributeValue(s, o, &a, 1) == CKR_OK ? class : 0;
}

#ifdef KRYOPTIC
/* What does not decrypt or verify is a device error, and so is a pair on secp256k1. */
static CK_RV decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	CK_RV rv = real->C_Decrypt(s, in, n, out, len);
	return rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL ? rv : CKR_DEVICE_ERROR;
}

static CK_RV verify(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG len)
{
	return real->C_Verify(s, in, n, sig, len) == CKR_OK ? CKR_OK : CKR_DEVICE_ERROR;
}

static CK_RV pair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR p, CK_ULONG np, CK_ATTRIBUTE_PTR q, CK_ULONG nq,
		  CK_OBJECT_HANDLE_PTR pub, CK_OBJECT_HANDLE_PTR priv)
{
	static const CK_BYTE secp256k1[] = {6, 5, 0x2b, 0x81, 4, 0, 0x0a};
	CK_ATTRIBUTE_PTR curve = attribute(p, np, CKA_EC_PARAMS);
	if (curve && curve->ulValueLen == sizeof secp256k1 && !memcmp(curve->pValue, secp256k1, sizeof secp256k1))
		return CKR_GENERAL_ERROR;
	return real->C_GenerateKeyPair(s, m, p, np, q, nq, pub, priv);
}

static void take(void)
{
	list.C_Decrypt = decrypt;
	list.C_Verify = verify;
	list.C_GenerateKeyPair = pair;
}
#endif

#ifdef LUNA
/* Policy "Allow private key wrapping" is off: a private key cannot be extracted,
 * whatever its template says, and is not wrapped. */
static CK_RV wrap(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	return class_of(s, k) == CKO_PRIVATE_KEY ? CKR_KEY_NOT_WRAPPABLE : real->C_WrapKey(s, m, w, k, out, n);
}

static CK_RV pair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR p, CK_ULONG np, CK_ATTRIBUTE_PTR q, CK_ULONG nq,
		  CK_OBJECT_HANDLE_PTR pub, CK_OBJECT_HANDLE_PTR priv)
{
	static CK_BBOOL no = CK_FALSE;
	CK_ATTRIBUTE forced[MOST];
	if (nq > MOST)
		return CKR_ARGUMENTS_BAD;
	memcpy(forced, q, nq * sizeof *q);
	CK_ATTRIBUTE_PTR a = attribute(forced, nq, CKA_EXTRACTABLE);
	if (a)
		a->pValue = &no;
	return real->C_GenerateKeyPair(s, m, p, np, forced, nq, pub, priv);
}

static void take(void)
{
	list.C_WrapKey = wrap;
	list.C_GenerateKeyPair = pair;
}
#endif

#ifdef NSHIELD
/* Security assurances: no key that wraps and decrypts or unwraps and decrypts, no
 * sensitive key from outside by C_CreateObject, no change of a key. */
static int risky(CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	return (is_true(t, n, CKA_WRAP) && is_true(t, n, CKA_DECRYPT)) || (is_true(t, n, CKA_UNWRAP) && is_true(t, n, CKA_DECRYPT));
}

static CK_RV create(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	return risky(t, n) || is_true(t, n, CKA_SENSITIVE) ? CKR_TEMPLATE_INCONSISTENT : real->C_CreateObject(s, t, n, o);
}

static CK_RV generate(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	return risky(t, n) ? CKR_TEMPLATE_INCONSISTENT : real->C_GenerateKey(s, m, t, n, o);
}

static CK_RV pair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR p, CK_ULONG np, CK_ATTRIBUTE_PTR q, CK_ULONG nq,
		  CK_OBJECT_HANDLE_PTR pub, CK_OBJECT_HANDLE_PTR priv)
{
	return risky(q, nq) ? CKR_TEMPLATE_INCONSISTENT : real->C_GenerateKeyPair(s, m, p, np, q, nq, pub, priv);
}

static CK_RV change(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	(void)s, (void)o, (void)t, (void)n;
	return CKR_ATTRIBUTE_READ_ONLY;
}

static void take(void)
{
	list.C_CreateObject = create;
	list.C_GenerateKey = generate;
	list.C_GenerateKeyPair = pair;
	list.C_SetAttributeValue = change;
}
#endif

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (!real) {
		const char *path = getenv("CMKD_MANNERS_MODULE");
		void *library = path ? dlopen(path, RTLD_NOW) : NULL;
		CK_C_GetFunctionList get;
		if (!library)
			return CKR_GENERAL_ERROR;
		*(void **)&get = dlsym(library, "C_GetFunctionList");
		if (!get || get(&real) != CKR_OK)
			return CKR_GENERAL_ERROR;
		list = *real;
		list.C_GetFunctionList = C_GetFunctionList;
		take();
	}
	*out = &list;
	return CKR_OK;
}
