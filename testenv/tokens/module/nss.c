/*
 * NSS softokn wants a string of parameters when it is initialised, in a member of
 * CK_C_INITIALIZE_ARGS that other modules do not have. This module gives it the one
 * in CMKD_NSS.
 *
 * MODULE  the path of libsoftokn3.so, as a string
 */
#include <dlfcn.h>
#include <stdlib.h>

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

static CK_RV initialize(CK_VOID_PTR unused)
{
	struct {
		void *create, *destroy, *lock, *unlock;
		CK_FLAGS flags;
		char *parameters;
		void *reserved;
	} args = {0};
	(void)unused;
	args.flags = CKF_OS_LOCKING_OK;
	args.parameters = getenv("CMKD_NSS");
	return real->C_Initialize(&args);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (!real) {
		void *library = dlopen(MODULE, RTLD_NOW);
		CK_C_GetFunctionList get;
		if (!library) return CKR_GENERAL_ERROR;
		*(void **)&get = dlsym(library, "C_GetFunctionList");
		if (!get || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
		list = *real;
		list.C_Initialize = initialize;
		list.C_GetFunctionList = C_GetFunctionList;
	}
	*out = &list;
	return CKR_OK;
}
