/*
 * p11-kit carries only the mechanisms whose parameters it knows: in version
 * 0.24 there is no AES-GCM and no AES key wrap among them. This module lets the
 * others through. It is built twice: with -DCLIENT it stands before
 * p11-kit-client.so and packs every mechanism into the parameters of
 * CKM_RSA_PKCS_OAEP, which p11-kit does carry; without, it stands before the
 * real module in the server and unpacks them.
 *
 * MODULE  the path of the module behind, as a string
 *
 * A packed mechanism has MAGIC for its hash; its source data are the real
 * mechanism's type (CK_ULONG), its parameters, and what they point at, in the
 * order of the table below. Both ends run on one machine.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
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

#define MAGIC 0x434D4B44UL

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;

/* The pointers in parameters, with the lengths of what they point at. */
static const struct pointers {
	CK_MECHANISM_TYPE type;
	size_t size;
	int n;
	struct {
		size_t pointer, length;
	} at[2];
} pointers[] = {
	{CKM_AES_GCM, sizeof(CK_GCM_PARAMS), 2,
	 {{offsetof(CK_GCM_PARAMS, pIv), offsetof(CK_GCM_PARAMS, ulIvLen)},
	  {offsetof(CK_GCM_PARAMS, pAAD), offsetof(CK_GCM_PARAMS, ulAADLen)}}},
	{CKM_RSA_PKCS_OAEP, sizeof(CK_RSA_PKCS_OAEP_PARAMS), 1,
	 {{offsetof(CK_RSA_PKCS_OAEP_PARAMS, pSourceData), offsetof(CK_RSA_PKCS_OAEP_PARAMS, ulSourceDataLen)}}},
	{CKM_ECDH1_DERIVE, sizeof(CK_ECDH1_DERIVE_PARAMS), 2,
	 {{offsetof(CK_ECDH1_DERIVE_PARAMS, pSharedData), offsetof(CK_ECDH1_DERIVE_PARAMS, ulSharedDataLen)},
	  {offsetof(CK_ECDH1_DERIVE_PARAMS, pPublicData), offsetof(CK_ECDH1_DERIVE_PARAMS, ulPublicDataLen)}}},
	{CKM_AES_CBC_ENCRYPT_DATA, sizeof(CK_AES_CBC_ENCRYPT_DATA_PARAMS), 1,
	 {{offsetof(CK_AES_CBC_ENCRYPT_DATA_PARAMS, pData), offsetof(CK_AES_CBC_ENCRYPT_DATA_PARAMS, length)}}},
};

static const struct pointers *pointers_of(CK_MECHANISM_TYPE type)
{
	for (size_t i = 0; i < sizeof pointers / sizeof *pointers; i++)
		if (pointers[i].type == type)
			return &pointers[i];
	return NULL;
}

static CK_ULONG length_at(const unsigned char *params, size_t offset)
{
	CK_ULONG n;
	memcpy(&n, params + offset, sizeof n);
	return n;
}

/* A mechanism on its way through; free buffer after the call. */
struct passage {
	CK_MECHANISM mechanism;
	CK_RSA_PKCS_OAEP_PARAMS oaep;
	unsigned char *buffer;
};

#ifdef CLIENT

static CK_RV pass(CK_MECHANISM_PTR m, struct passage *p)
{
	*p = (struct passage){0};
	if (!m)
		return CKR_ARGUMENTS_BAD;
	if (m->mechanism == CKM_RSA_AES_KEY_WRAP)
		return CKR_MECHANISM_INVALID; /* parameters within parameters */
	const struct pointers *at = pointers_of(m->mechanism);
	if (at && (m->ulParameterLen != at->size || !m->pParameter))
		return CKR_MECHANISM_PARAM_INVALID;
	size_t size = sizeof m->mechanism + m->ulParameterLen;
	for (int i = 0; at && i < at->n; i++)
		size += length_at(m->pParameter, at->at[i].length);
	unsigned char *b = p->buffer = malloc(size);
	if (!b)
		return CKR_HOST_MEMORY;
	memcpy(b, &m->mechanism, sizeof m->mechanism);
	b += sizeof m->mechanism;
	if (m->ulParameterLen != 0)
		memcpy(b, m->pParameter, m->ulParameterLen);
	b += m->ulParameterLen;
	for (int i = 0; at && i < at->n; i++) {
		CK_ULONG n = length_at(m->pParameter, at->at[i].length);
		void *from;
		memcpy(&from, (char *)m->pParameter + at->at[i].pointer, sizeof from);
		if (n != 0)
			memcpy(b, from, n);
		b += n;
	}
	p->oaep = (CK_RSA_PKCS_OAEP_PARAMS){MAGIC, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, p->buffer, size};
	p->mechanism = (CK_MECHANISM){CKM_RSA_PKCS_OAEP, &p->oaep, sizeof p->oaep};
	return CKR_OK;
}

#else

static CK_RV pass(CK_MECHANISM_PTR m, struct passage *p)
{
	*p = (struct passage){0};
	if (!m)
		return CKR_ARGUMENTS_BAD;
	p->mechanism = *m;
	CK_RSA_PKCS_OAEP_PARAMS *oaep = m->pParameter;
	CK_MECHANISM_TYPE type;
	if (m->mechanism != CKM_RSA_PKCS_OAEP || m->ulParameterLen != sizeof *oaep || oaep->hashAlg != MAGIC)
		return CKR_OK;
	if (oaep->ulSourceDataLen < sizeof type)
		return CKR_MECHANISM_PARAM_INVALID;
	size_t size = oaep->ulSourceDataLen - sizeof type;
	p->buffer = malloc(size + 1);
	if (!p->buffer)
		return CKR_HOST_MEMORY;
	memcpy(&type, oaep->pSourceData, sizeof type);
	memcpy(p->buffer, (char *)oaep->pSourceData + sizeof type, size);

	const struct pointers *at = pointers_of(type);
	size_t used = at ? at->size : size;
	for (int i = 0; at && i < at->n; i++) {
		CK_ULONG n = size >= at->size ? length_at(p->buffer, at->at[i].length) : 1;
		if (n > size - (used <= size ? used : size)) {
			free(p->buffer);
			return CKR_MECHANISM_PARAM_INVALID;
		}
		void *to = n != 0 ? p->buffer + used : NULL;
		memcpy(p->buffer + at->at[i].pointer, &to, sizeof to);
		used += n;
	}
	p->mechanism.mechanism = type;
	p->mechanism.ulParameterLen = at ? at->size : size;
	p->mechanism.pParameter = p->mechanism.ulParameterLen != 0 ? p->buffer : NULL;
	return CKR_OK;
}

#endif

#define THROUGH(name, params, ...) \
	static CK_RV through_##name params \
	{ \
		struct passage p; \
		CK_RV rv = pass(m, &p); \
		if (rv != CKR_OK) \
			return rv; \
		rv = real->C_##name(s, &p.mechanism, __VA_ARGS__); \
		free(p.buffer); \
		return rv; \
	}

THROUGH(EncryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), k)
THROUGH(DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), k)
THROUGH(SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), k)
THROUGH(VerifyInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), k)
THROUGH(GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k), t, n, k)
THROUGH(GenerateKeyPair, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR u, CK_ULONG v,
	CK_OBJECT_HANDLE_PTR a, CK_OBJECT_HANDLE_PTR b), t, n, u, v, a, b)
THROUGH(WrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n), w, k, o, n)
THROUGH(UnwrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG l, CK_ATTRIBUTE_PTR t, CK_ULONG n,
	CK_OBJECT_HANDLE_PTR k), w, d, l, t, n, k)
THROUGH(DeriveKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k), b, t, n, k)

__attribute__((constructor)) static void load(void)
{
	void *lib = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (!get || get(&real) != CKR_OK) {
		fprintf(stderr, "tunnel: %s is no PKCS#11 module: %s\n", MODULE, lib ? "no function list" : dlerror());
		real = NULL;
		return;
	}
	list = *real;
	list.C_EncryptInit = through_EncryptInit;
	list.C_DecryptInit = through_DecryptInit;
	list.C_SignInit = through_SignInit;
	list.C_VerifyInit = through_VerifyInit;
	list.C_GenerateKey = through_GenerateKey;
	list.C_GenerateKeyPair = through_GenerateKeyPair;
	list.C_WrapKey = through_WrapKey;
	list.C_UnwrapKey = through_UnwrapKey;
	list.C_DeriveKey = through_DeriveKey;
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
