/*
 * A PKCS#11 module for tests: it forwards every call to another module and on
 * the way does what a control file says, which the test changes while the
 * module is in use. The package shim, written in Go, builds and controls it.
 *
 * CMKD_SHIM_MODULE   path of the module behind
 * CMKD_SHIM_CONTROL  path of the control file
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define CK_PTR *
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#include "pkcs11.h"

/* The control file: a header and one rule per function, in native byte order.
 * control.go has the same layout. */
struct header {
	char magic[8]; /* "CMKDSHIM" */
	uint32_t version;
	uint32_t rules;
	_Atomic uint32_t cloudhsm; /* take the manners of AWS CloudHSM */
	_Atomic uint32_t flags;    /* added to those of C_GetTokenInfo */
	_Atomic uint32_t sessions; /* that a process may have open; 0: any number */
	_Atomic uint32_t away;     /* the token is not in its slot */
	_Atomic uint32_t removals; /* of the token so far */
	_Atomic uint32_t readonly; /* the token is write-protected */
	_Atomic uint32_t refuse;   /* CK_RV for making an object that stays; 0: they are made */
	uint32_t unused;
	_Atomic uint64_t inside;  /* nanoseconds that calls have spent in the module */
	_Atomic uint64_t manners; /* enum manner, and those beyond */
	_Atomic uint32_t room; /* 1 + the calls that may still make an object that stays; 0: any number */
	_Atomic uint32_t stuck; /* making an object that stays never ends */
};

struct rule {
	char name[40];
	_Atomic uint32_t action; /* enum action; written last */
	uint32_t unused;
	uint64_t arg;          /* CK_RV or nanoseconds */
	uint64_t skip;         /* calls that go through first */
	uint64_t times;        /* calls that it acts on then; 0: all */
	_Atomic uint64_t seen; /* calls since the rule was set */
	_Atomic uint64_t calls;
};

enum action { NONE, FAIL, FAIL_AFTER, DELAY, HANG, CRASH, CRASH_AFTER, NOISE };

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static struct header *control;

static _Atomic uint32_t open_sessions; /* of this process */
static _Atomic uint32_t seen_removals; /* when the module was initialised */

/* crash is a real SIGSEGV, as a defect in a vendor library would be. */
static void crash(void)
{
	static volatile int *volatile nowhere;
	*nowhere = 0;
}

/* since adds the time since a moment to that spent in the module. */
static void since(const struct timespec *t)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	atomic_fetch_add(&control->inside, (now.tv_sec - t->tv_sec) * 1000000000 + now.tv_nsec - t->tv_nsec);
}

/* delay sleeps for some nanoseconds, and not for as much longer as the timers of
 * plugin processes may be late. */
static void delay(uint64_t ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};
	int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	while (nanosleep(&t, &t) != 0)
		;
	if (slack > 0)
		prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
}

/* act does what comes before the call. It returns the action to do after it,
 * and sets *rv and *done if there is no call. */
static enum action act(struct rule *r, CK_RV *rv, int *done)
{
	atomic_fetch_add(&r->calls, 1);
	enum action a = atomic_load(&r->action);
	if (a == NONE)
		return NONE;
	uint64_t n = atomic_fetch_add(&r->seen, 1);
	if (n < r->skip || (r->times != 0 && n - r->skip >= r->times))
		return NONE;
	switch (a) {
	case FAIL:
		*rv = r->arg;
		*done = 1;
		return NONE;
	case DELAY:
		delay(r->arg);
		return NONE;
	case HANG:
		for (;;)
			pause();
	case CRASH:
		crash();
		return NONE;
	case NOISE:
		printf("shim: noise from %s\n1|1|unix|/nowhere|grpc|\n", r->name);
		fflush(stdout);
		return NONE;
	default:
		return a;
	}
}

static CK_RV act_after(struct rule *r, enum action a, CK_RV rv)
{
	if (a == CRASH_AFTER)
		crash();
	return a == FAIL_AFTER ? r->arg : rv;
}

/* --- tokens that are away, or short of sessions --- */

/* A token that was taken out takes its sessions with it, and those of a token
 * that has come back are invalid until the module is initialised again. */
static CK_RV present(void)
{
	if (atomic_load(&control->away))
		return CKR_DEVICE_REMOVED;
	if (atomic_load(&control->removals) != atomic_load(&seen_removals))
		return CKR_SESSION_HANDLE_INVALID;
	return CKR_OK;
}

static CK_RV slot_Initialize(CK_VOID_PTR a)
{
	atomic_store(&seen_removals, atomic_load(&control->removals));
	return real->C_Initialize(a);
}

static CK_RV slot_Finalize(CK_VOID_PTR a)
{
	CK_RV rv = real->C_Finalize(a);
	if (rv == CKR_OK) /* it closes all sessions */
		atomic_store(&open_sessions, 0);
	return rv;
}

static CK_RV slot_GetSlotList(CK_BBOOL with_token, CK_SLOT_ID_PTR l, CK_ULONG_PTR n)
{
	if (with_token && n && atomic_load(&control->away)) {
		*n = 0;
		return CKR_OK;
	}
	return real->C_GetSlotList(with_token, l, n);
}

static CK_RV slot_GetSlotInfo(CK_SLOT_ID s, CK_SLOT_INFO_PTR i)
{
	CK_RV rv = real->C_GetSlotInfo(s, i);
	if (rv == CKR_OK && i && atomic_load(&control->away))
		i->flags &= ~CKF_TOKEN_PRESENT;
	return rv;
}

static CK_RV slot_GetTokenInfo(CK_SLOT_ID s, CK_TOKEN_INFO_PTR i)
{
	if (atomic_load(&control->away))
		return CKR_TOKEN_NOT_PRESENT;
	CK_RV rv = real->C_GetTokenInfo(s, i);
	if (rv == CKR_OK && i)
		i->flags |= atomic_load(&control->flags) | (atomic_load(&control->readonly) ? CKF_WRITE_PROTECTED : 0);
	return rv;
}

static CK_RV slot_OpenSession(CK_SLOT_ID s, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR h)
{
	if (atomic_load(&control->away))
		return CKR_TOKEN_NOT_PRESENT;
	if (atomic_load(&control->readonly) && (f & CKF_RW_SESSION))
		return CKR_TOKEN_WRITE_PROTECTED;
	uint32_t limit = atomic_load(&control->sessions);
	if (atomic_fetch_add(&open_sessions, 1) >= limit && limit != 0) {
		atomic_fetch_sub(&open_sessions, 1);
		return CKR_SESSION_COUNT;
	}
	CK_RV rv = real->C_OpenSession(s, f, a, n, h);
	if (rv != CKR_OK)
		atomic_fetch_sub(&open_sessions, 1);
	return rv;
}

static CK_RV slot_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv = real->C_CloseSession(s);
	if (rv == CKR_OK)
		atomic_fetch_sub(&open_sessions, 1);
	return rv;
}

static CK_RV slot_CloseAllSessions(CK_SLOT_ID s)
{
	CK_RV rv = real->C_CloseAllSessions(s);
	if (rv == CKR_OK)
		atomic_store(&open_sessions, 0);
	return rv;
}

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
	return a && a->ulValueLen == 1 && *(CK_BBOOL *)a->pValue == CK_TRUE;
}

/* --- tokens without room, and write-protected ones --- */

/* refused says how the token refuses an object of this template, CKR_OK if it
 * does not. */
static CK_RV refused(CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	if (!is_true(t, n, CKA_TOKEN))
		return CKR_OK;
	if (atomic_load(&control->readonly))
		return CKR_TOKEN_WRITE_PROTECTED;
	uint32_t room = atomic_load(&control->room);
	while (room > 1 && !atomic_compare_exchange_weak(&control->room, &room, room - 1))
		;
	if (room == 1)
		return CKR_DEVICE_MEMORY;
	while (atomic_load(&control->stuck))
		pause();
	return atomic_load(&control->refuse);
}

static CK_RV room_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR c)
{
	CK_RV rv = refused(t, n);
	return rv != CKR_OK ? rv : real->C_CopyObject(s, o, t, n, c);
}

/* --- the manners of AWS CloudHSM (client SDK 5), as documented --- */

#define CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD 0x8000216FUL
#define CKM_KEY_WRAP 0x2109UL
#define CKM_KEY_WRAP_PAD 0x210AUL
#define CKM_KEY_WRAP_KWP 0x210BUL

static int cloudhsm(void) { return atomic_load(&control->cloudhsm) != 0; }

/* The HSM makes the IV of AES-GCM: the caller gives 12 zero bytes, which are
 * overwritten. */
static CK_RV hsm_EncryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k)
{
	if (cloudhsm() && m && m->mechanism == CKM_AES_GCM) {
		static const CK_BYTE zero[12];
		CK_GCM_PARAMS *p = m->pParameter;
		if (!p || m->ulParameterLen != sizeof *p || !p->pIv || p->ulIvLen != sizeof zero ||
		    memcmp(p->pIv, zero, sizeof zero) != 0)
			return CKR_MECHANISM_PARAM_INVALID;
		if (getrandom(p->pIv, p->ulIvLen, 0) != (ssize_t)p->ulIvLen)
			return CKR_FUNCTION_FAILED;
	}
	return real->C_EncryptInit(s, m, k);
}

static int is(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type, CK_ULONG value)
{
	CK_ATTRIBUTE_PTR a = find(t, n, type);
	return a && a->ulValueLen == sizeof value && memcmp(a->pValue, &value, sizeof value) == 0;
}

/* A CKA_ID that a token object of the class has already is refused. */
static CK_RV unique_id(CK_SESSION_HANDLE s, CK_OBJECT_CLASS class, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_ATTRIBUTE_PTR id = find(t, n, CKA_ID);
	if (!id || id->ulValueLen == 0 || !is_true(t, n, CKA_TOKEN))
		return CKR_OK;
	CK_BBOOL yes = CK_TRUE;
	CK_ATTRIBUTE query[] = {
		{CKA_TOKEN, &yes, sizeof yes}, {CKA_CLASS, &class, sizeof class}, *id};
	CK_OBJECT_HANDLE found;
	CK_ULONG count = 0;
	CK_RV rv = real->C_FindObjectsInit(s, query, 3);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_FindObjects(s, &found, 1, &count);
	real->C_FindObjectsFinal(s);
	if (rv != CKR_OK)
		return rv;
	return count == 0 ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID;
}

static const CK_ATTRIBUTE_TYPE cipher_bits[] = {CKA_ENCRYPT, CKA_DECRYPT, CKA_WRAP, CKA_UNWRAP};
#define CIPHER_BITS (sizeof cipher_bits / sizeof *cipher_bits)

/* Generic secrets do not know ENCRYPT, DECRYPT, WRAP and UNWRAP. The module
 * behind does and would default to true, so they are set false for it: *out is
 * to be freed, and has room for them. */
static CK_RV generic_secret(int generic, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR *out, CK_ULONG *m)
{
	static CK_BBOOL no = CK_FALSE;
	*m = n;
	*out = malloc((n + CIPHER_BITS) * sizeof *t);
	if (!*out)
		return CKR_HOST_MEMORY;
	if (n != 0)
		memcpy(*out, t, n * sizeof *t);
	for (size_t i = 0; generic && i < CIPHER_BITS; i++) {
		if (find(t, n, cipher_bits[i])) {
			free(*out);
			return CKR_ATTRIBUTE_TYPE_INVALID;
		}
		(*out)[(*m)++] = (CK_ATTRIBUTE){cipher_bits[i], &no, sizeof no};
	}
	return CKR_OK;
}

static CK_RV hsm_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	CK_RV no = refused(t, n);
	if (no != CKR_OK)
		return no;
	if (!cloudhsm() || !m)
		return real->C_GenerateKey(s, m, t, n, k);
	CK_ATTRIBUTE_PTR t2;
	CK_ULONG n2;
	CK_RV rv = generic_secret(m->mechanism == CKM_GENERIC_SECRET_KEY_GEN, t, n, &t2, &n2);
	if (rv != CKR_OK)
		return rv;
	rv = unique_id(s, CKO_SECRET_KEY, t, n);
	if (rv == CKR_OK)
		rv = real->C_GenerateKey(s, m, t2, n2, k);
	free(t2);
	return rv;
}

static CK_RV hsm_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	CK_RV no = refused(priv, npriv);
	if (no != CKR_OK)
		return no;
	if (cloudhsm()) {
		CK_RV rv = unique_id(s, CKO_PUBLIC_KEY, pub, npub);
		if (rv == CKR_OK)
			rv = unique_id(s, CKO_PRIVATE_KEY, priv, npriv);
		if (rv != CKR_OK)
			return rv;
	}
	return real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
}

static CK_RV hsm_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV no = refused(t, n);
	if (no != CKR_OK)
		return no;
	CK_ATTRIBUTE_PTR class = find(t, n, CKA_CLASS), t2;
	if (!cloudhsm() || !class || class->ulValueLen != sizeof(CK_OBJECT_CLASS))
		return real->C_CreateObject(s, t, n, o);
	CK_ULONG n2;
	CK_RV rv = generic_secret(is(t, n, CKA_KEY_TYPE, CKK_GENERIC_SECRET), t, n, &t2, &n2);
	if (rv != CKR_OK)
		return rv;
	rv = unique_id(s, *(CK_OBJECT_CLASS *)class->pValue, t, n);
	if (rv == CKR_OK)
		rv = real->C_CreateObject(s, t2, n2, o);
	free(t2);
	return rv;
}

/* RFC 5649 has a number of its own; the standard ones are unknown. */
static CK_RV wrapping(CK_MECHANISM_PTR m, CK_MECHANISM *out)
{
	*out = *m;
	if (!cloudhsm())
		return CKR_OK;
	switch (m->mechanism) {
	case CKM_KEY_WRAP:
	case CKM_KEY_WRAP_PAD:
	case CKM_KEY_WRAP_KWP:
		return CKR_MECHANISM_INVALID;
	case CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD:
		out->mechanism = CKM_KEY_WRAP_PAD; /* SoftHSM2's number */
	}
	return CKR_OK;
}

static CK_RV hsm_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR ol)
{
	CK_MECHANISM m2;
	if (!m)
		return CKR_ARGUMENTS_BAD;
	CK_RV rv = wrapping(m, &m2);
	return rv != CKR_OK ? rv : real->C_WrapKey(s, &m2, w, k, o, ol);
}

static CK_RV hsm_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG dl,
	CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k)
{
	CK_MECHANISM m2;
	if (!m)
		return CKR_ARGUMENTS_BAD;
	CK_RV rv = refused(t, n);
	if (rv == CKR_OK)
		rv = wrapping(m, &m2);
	if (rv != CKR_OK || !cloudhsm())
		return rv != CKR_OK ? rv : real->C_UnwrapKey(s, &m2, w, d, dl, t, n, k);
	CK_ATTRIBUTE_PTR class = find(t, n, CKA_CLASS), t2;
	CK_ULONG n2;
	rv = generic_secret(is(t, n, CKA_KEY_TYPE, CKK_GENERIC_SECRET), t, n, &t2, &n2);
	if (rv != CKR_OK)
		return rv;
	if (class && class->ulValueLen == sizeof(CK_OBJECT_CLASS))
		rv = unique_id(s, *(CK_OBJECT_CLASS *)class->pValue, t, n);
	if (rv == CKR_OK)
		rv = real->C_UnwrapKey(s, &m2, w, d, dl, t2, n2, k);
	free(t2);
	return rv;
}

static CK_RV hsm_GetMechanismList(CK_SLOT_ID s, CK_MECHANISM_TYPE_PTR m, CK_ULONG_PTR n)
{
	CK_RV rv = real->C_GetMechanismList(s, m, n);
	if (!cloudhsm() || rv != CKR_OK || !m)
		return rv; /* the number asked for alone is an upper bound */
	CK_ULONG kept = 0;
	int wraps = 0;
	for (CK_ULONG i = 0; i < *n; i++) {
		if (m[i] == CKM_KEY_WRAP || m[i] == CKM_KEY_WRAP_PAD || m[i] == CKM_KEY_WRAP_KWP)
			wraps = 1;
		else
			m[kept++] = m[i];
	}
	if (wraps)
		m[kept++] = CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD;
	*n = kept;
	return CKR_OK;
}

static CK_RV hsm_GetMechanismInfo(CK_SLOT_ID s, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR i)
{
	CK_MECHANISM m = {type, NULL, 0}, m2;
	CK_RV rv = wrapping(&m, &m2);
	return rv != CKR_OK ? rv : real->C_GetMechanismInfo(s, m2.mechanism, i);
}

#include "manners.h"

/* --- the functions that rules can name: control.go has the same list --- */

#define PASS(name, ...) FORWARD(name, CKR_OK, real->C_##name, __VA_ARGS__)
#define FINAL(name, ...) FORWARD(name, CKR_OK, ways_##name, __VA_ARGS__)
#define SLOT(name, ...) FORWARD(name, CKR_OK, slot_##name, __VA_ARGS__)
#define WAY(name, ...) FORWARD(name, CKR_OK, ways_##name, __VA_ARGS__)
#define CALL(name, ...) FORWARD(name, present(), real->C_##name, __VA_ARGS__)
#define WAYS(name, ...) FORWARD(name, present(), ways_##name, __VA_ARGS__)

#define FUNCTIONS \
	SLOT(Initialize, (CK_VOID_PTR a), (a)) \
	FINAL(Finalize, (CK_VOID_PTR a), (a)) \
	PASS(GetInfo, (CK_INFO_PTR i), (i)) \
	SLOT(GetSlotList, (CK_BBOOL t, CK_SLOT_ID_PTR l, CK_ULONG_PTR n), (t, l, n)) \
	SLOT(GetSlotInfo, (CK_SLOT_ID s, CK_SLOT_INFO_PTR i), (s, i)) \
	SLOT(GetTokenInfo, (CK_SLOT_ID s, CK_TOKEN_INFO_PTR i), (s, i)) \
	WAY(GetMechanismList, (CK_SLOT_ID s, CK_MECHANISM_TYPE_PTR m, CK_ULONG_PTR n), (s, m, n)) \
	WAY(GetMechanismInfo, (CK_SLOT_ID s, CK_MECHANISM_TYPE m, CK_MECHANISM_INFO_PTR i), (s, m, i)) \
	SLOT(OpenSession, (CK_SLOT_ID s, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR h), (s, f, a, n, h)) \
	SLOT(CloseSession, (CK_SESSION_HANDLE s), (s)) \
	SLOT(CloseAllSessions, (CK_SLOT_ID s), (s)) \
	CALL(GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR i), (s, i)) \
	CALL(Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n), (s, u, p, n)) \
	CALL(Logout, (CK_SESSION_HANDLE s), (s)) \
	WAYS(CreateObject, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o), (s, t, n, o)) \
	WAYS(CopyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR c), (s, o, t, n, c)) \
	CALL(DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (s, o)) \
	WAYS(GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n)) \
	WAYS(SetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n)) \
	CALL(FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, t, n)) \
	WAYS(FindObjects, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG m, CK_ULONG_PTR n), (s, o, m, n)) \
	CALL(FindObjectsFinal, (CK_SESSION_HANDLE s), (s)) \
	WAYS(EncryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k)) \
	WAYS(Encrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m)) \
	WAYS(DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k)) \
	WAYS(Decrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m)) \
	WAYS(SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k)) \
	WAYS(Sign, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m)) \
	WAYS(VerifyInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k)) \
	WAYS(Verify, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG m), (s, d, n, o, m)) \
	WAYS(GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k), (s, m, t, n, k)) \
	WAYS(GenerateKeyPair, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_PTR u, CK_ULONG v, \
		CK_OBJECT_HANDLE_PTR a, CK_OBJECT_HANDLE_PTR b), (s, m, t, n, u, v, a, b)) \
	WAYS(WrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n), (s, m, w, k, o, n)) \
	WAYS(UnwrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR d, CK_ULONG l, CK_ATTRIBUTE_PTR t, CK_ULONG n, \
		CK_OBJECT_HANDLE_PTR k), (s, m, w, d, l, t, n, k)) \
	WAYS(DeriveKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k), (s, m, b, t, n, k)) \
	WAYS(GenerateRandom, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n), (s, d, n))

#define FORWARD(name, before, target, params, args) \
	static struct rule *rule_##name; \
	static CK_RV shim_##name params \
	{ \
		CK_RV result = CKR_OK; \
		int done = 0; \
		struct timespec began; \
		clock_gettime(CLOCK_MONOTONIC, &began); \
		enum action after = act(rule_##name, &result, &done); \
		if (!done && (result = before) != CKR_OK) \
			done = 1; \
		if (!done) \
			result = act_after(rule_##name, after, target args); \
		since(&began); \
		return result; \
	}
FUNCTIONS
#undef FORWARD

static struct rule *rule_for(const char *name)
{
	struct rule *rules = (struct rule *)(control + 1);
	for (uint32_t i = 0; i < control->rules; i++)
		if (strcmp(rules[i].name, name) == 0)
			return &rules[i];
	fprintf(stderr, "shim: the control file has no rule for %s\n", name);
	return NULL;
}

/* open_control maps the control file. It returns NULL, with a line on
 * standard error, if that cannot be done. */
static struct header *open_control(void)
{
	const char *path = getenv("CMKD_SHIM_CONTROL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	struct stat st;
	if (fd < 0 || fstat(fd, &st) != 0) {
		fprintf(stderr, "shim: CMKD_SHIM_CONTROL names no control file\n");
		return NULL;
	}
	struct header *h = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (h == MAP_FAILED || (size_t)st.st_size < sizeof *h || memcmp(h->magic, "CMKDSHIM", 8) != 0 || h->version != 1 ||
	    (size_t)st.st_size != sizeof *h + h->rules * sizeof(struct rule)) {
		fprintf(stderr, "shim: the control file is not of this version\n");
		return NULL;
	}
	return h;
}

/* load runs before main or in dlopen, so that the calls find a whole table. */
__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("CMKD_SHIM_MODULE");
	void *lib = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	CK_FUNCTION_LIST_PTR behind;
	if (!get || get(&behind) != CKR_OK) {
		fprintf(stderr, "shim: CMKD_SHIM_MODULE names no PKCS#11 module\n");
		return;
	}
	control = open_control();
	if (!control)
		return;
	list = *behind;
#define FORWARD(name, before, target, params, args) \
	rule_##name = rule_for("C_" #name); \
	if (!rule_##name) \
		return; \
	list.C_##name = shim_##name;
	FUNCTIONS
#undef FORWARD
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
