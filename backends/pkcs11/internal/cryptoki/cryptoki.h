// The part of the PKCS#11 C interface that this package calls, and one C
// function per operation. OASIS PKCS#11 2.40 Base, sections 2 to 5; the layout
// of CK_FUNCTION_LIST is fixed by that standard. On Unix all structures have
// the compiler's natural alignment.

#ifndef CMKD_CRYPTOKI_H
#define CMKD_CRYPTOKI_H

#include <stddef.h>

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef CK_ULONG CK_HANDLE; // of a session or an object

typedef struct {
  CK_ULONG mechanism;
  void *parameter;
  CK_ULONG parameter_len;
} CK_MECHANISM;

typedef struct {
  CK_ULONG type;
  void *value;
  CK_ULONG value_len;
} CK_ATTRIBUTE;

typedef struct {
  CK_BYTE *iv;
  CK_ULONG iv_len;
  CK_ULONG iv_bits;
  CK_BYTE *aad;
  CK_ULONG aad_len;
  CK_ULONG tag_bits;
} CK_GCM_PARAMS;

typedef struct {
  CK_ULONG kdf;
  CK_ULONG shared_data_len;
  CK_BYTE *shared_data;
  CK_ULONG public_data_len;
  CK_BYTE *public_data;
} CK_ECDH1_DERIVE_PARAMS;

typedef struct {
  CK_BYTE iv[16];
  CK_BYTE *data;
  CK_ULONG length;
} CK_AES_CBC_ENCRYPT_DATA_PARAMS;

typedef struct {
  CK_ULONG hash, mgf, source;
  void *source_data;
  CK_ULONG source_data_len;
} CK_RSA_PKCS_OAEP_PARAMS;

typedef struct {
  CK_ULONG aes_key_bits;
  CK_RSA_PKCS_OAEP_PARAMS *oaep;
} CK_RSA_AES_KEY_WRAP_PARAMS;

typedef struct {
  CK_BYTE *data;
  CK_ULONG length;
} CK_KEY_DERIVATION_STRING_DATA;

typedef struct {
  CK_BYTE major, minor;
} CK_VERSION;

// The functions that are not called are void pointers: only their place counts.
typedef struct cmkd_function_list {
  CK_VERSION version;
  void *Initialize, *Finalize, *GetInfo, *GetFunctionList, *GetSlotList,
      *GetSlotInfo, *GetTokenInfo, *GetMechanismList, *GetMechanismInfo,
      *InitToken, *InitPIN, *SetPIN;
  void *OpenSession, *CloseSession, *CloseAllSessions, *GetSessionInfo,
      *GetOperationState, *SetOperationState;
  CK_RV (*Login)(CK_HANDLE, CK_ULONG, CK_BYTE *, CK_ULONG);
  void *Logout;
  CK_RV (*CreateObject)(CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_HANDLE *);
  CK_RV (*CopyObject)
  (CK_HANDLE, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_HANDLE *);
  CK_RV (*DestroyObject)(CK_HANDLE, CK_HANDLE);
  void *GetObjectSize;
  CK_RV (*GetAttributeValue)(CK_HANDLE, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
  CK_RV (*SetAttributeValue)(CK_HANDLE, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
  void *FindObjectsInit, *FindObjects, *FindObjectsFinal;
  CK_RV (*EncryptInit)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE);
  CK_RV (*Encrypt)(CK_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
  void *EncryptUpdate, *EncryptFinal;
  CK_RV (*DecryptInit)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE);
  CK_RV (*Decrypt)(CK_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
  void *DecryptUpdate, *DecryptFinal;
  void *DigestInit, *Digest, *DigestUpdate, *DigestKey, *DigestFinal;
  CK_RV (*SignInit)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE);
  CK_RV (*Sign)(CK_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
  void *SignUpdate, *SignFinal, *SignRecoverInit, *SignRecover;
  CK_RV (*VerifyInit)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE);
  CK_RV (*Verify)(CK_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG);
  void *VerifyUpdate, *VerifyFinal, *VerifyRecoverInit, *VerifyRecover;
  void *DigestEncryptUpdate, *DecryptDigestUpdate, *SignEncryptUpdate,
      *DecryptVerifyUpdate;
  CK_RV (*GenerateKey)
  (CK_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_HANDLE *);
  CK_RV (*GenerateKeyPair)
  (CK_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_ATTRIBUTE *,
   CK_ULONG, CK_HANDLE *, CK_HANDLE *);
  CK_RV (*WrapKey)
  (CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_HANDLE, CK_BYTE *, CK_ULONG *);
  CK_RV (*UnwrapKey)
  (CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_BYTE *, CK_ULONG, CK_ATTRIBUTE *,
   CK_ULONG, CK_HANDLE *);
  CK_RV (*DeriveKey)
  (CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_HANDLE *);
  void *SeedRandom;
  CK_RV (*GenerateRandom)(CK_HANDLE, CK_BYTE *, CK_ULONG);
  void *GetFunctionStatus, *CancelFunction, *WaitForSlotEvent;
} cmkd_functions;

// CK_FUNCTION_LIST_3_2: what PKCS#11 3.0 and 3.2 put behind the list of 2.40.
typedef struct {
  cmkd_functions base;
  void *added_by_3_0[24];
  CK_RV (*EncapsulateKey)
  (CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_BYTE *,
   CK_ULONG *, CK_HANDLE *);
  CK_RV (*DecapsulateKey)
  (CK_HANDLE, CK_MECHANISM *, CK_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_BYTE *,
   CK_ULONG, CK_HANDLE *);
} cmkd_functions_3_2;

typedef struct {
  char *name;
  void *functions;
  CK_ULONG flags;
} CK_INTERFACE;

// A call's return value, the length of what it wrote (or the handle it made,
// two for a pair), and whether it failed in its Init half.
typedef struct {
  CK_RV rv;
  CK_ULONG n, m;
  int init;
} cmkd_result;

// A mechanism with its parameter as flat bytes, without pointers in it.
typedef struct {
  CK_ULONG type;
  CK_BYTE *parameter;
  CK_ULONG parameter_len;
} cmkd_mechanism;

// A template: attributes one after the other, each a CK_ULONG type, a
// CK_ULONG length and the value, padded to a whole number of CK_ULONGs.
typedef struct {
  CK_BYTE *records;
  CK_ULONG len;
} cmkd_template;

typedef struct {
  CK_BYTE *p;
  CK_ULONG n;
} cmkd_bytes;

// Returns NULL unless the module at path has been loaded before.
void *cmkd_open(const char *path, const void *context, cmkd_functions **functions,
                int *several);
// The interface of PKCS#11 3.2, NULL if the module has none.
cmkd_functions_3_2 *cmkd_interface_3_2(void *library);
// cmkd_load_error loads the library and returns why that cannot be done, or why it is
// no module, to be freed; NULL if it is one. It stays loaded only if it was before.
char *cmkd_load_error(const char *path);
void cmkd_close(void *library);

cmkd_result cmkd_login(cmkd_functions *f, CK_HANDLE session, cmkd_bytes pin);
cmkd_result cmkd_random(cmkd_functions *f, CK_HANDLE session, cmkd_bytes out);

cmkd_result cmkd_encrypt_gcm(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE key, cmkd_bytes iv, cmkd_bytes aad,
                             cmkd_bytes in, cmkd_bytes out);
cmkd_result cmkd_decrypt_gcm(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE key, cmkd_bytes iv, cmkd_bytes aad,
                             cmkd_bytes in, cmkd_bytes out);
cmkd_result cmkd_encrypt(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                         cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out);
cmkd_result cmkd_decrypt(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                         cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out);
cmkd_result cmkd_sign(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                      cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out);

cmkd_result cmkd_generate_key(cmkd_functions *f, CK_HANDLE session,
                              cmkd_mechanism m, cmkd_template t);
cmkd_result cmkd_generate_pair(cmkd_functions *f, CK_HANDLE session,
                               cmkd_mechanism m, cmkd_template public_key,
                               cmkd_template private_key);
cmkd_result cmkd_wrap(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                      CK_HANDLE wrapping, CK_HANDLE key, cmkd_bytes out);
cmkd_result cmkd_wrap_gcm(cmkd_functions *f, CK_HANDLE session, cmkd_bytes iv,
                          CK_HANDLE wrapping, CK_HANDLE key, cmkd_bytes out);
cmkd_result cmkd_wrap_rsa_aes(cmkd_functions *f, CK_HANDLE session,
                              CK_ULONG hash, CK_ULONG mgf, CK_HANDLE wrapping,
                              CK_HANDLE key, cmkd_bytes out);
cmkd_result cmkd_unwrap(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                        CK_HANDLE unwrapping, cmkd_bytes in, cmkd_template t);
cmkd_result cmkd_unwrap_rsa_aes(cmkd_functions *f, CK_HANDLE session,
                                CK_ULONG hash, CK_ULONG mgf,
                                CK_HANDLE unwrapping, cmkd_bytes in,
                                cmkd_template t);
cmkd_result cmkd_derive_ecdh(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE base, CK_ULONG kdf, cmkd_bytes peer,
                             cmkd_template t);
cmkd_result cmkd_derive_cbc(cmkd_functions *f, CK_HANDLE session,
                            CK_HANDLE base, cmkd_bytes data, cmkd_template t);
cmkd_result cmkd_derive(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                        CK_HANDLE base, cmkd_template t);
cmkd_result cmkd_derive_string(cmkd_functions *f, CK_HANDLE session,
                               CK_ULONG type, CK_HANDLE base, cmkd_bytes data,
                               cmkd_template t);

// f may be NULL: CKR_FUNCTION_NOT_SUPPORTED. n of an encapsulation is the length
// of the ciphertext in out, and m the shared secret's handle.
cmkd_result cmkd_encapsulate(cmkd_functions_3_2 *f, CK_HANDLE session,
                             cmkd_mechanism m, CK_HANDLE public_key,
                             cmkd_template t, cmkd_bytes out);
cmkd_result cmkd_decapsulate(cmkd_functions_3_2 *f, CK_HANDLE session,
                             cmkd_mechanism m, CK_HANDLE private_key,
                             cmkd_bytes in, cmkd_template t);

cmkd_result cmkd_create(cmkd_functions *f, CK_HANDLE session, cmkd_template t);
cmkd_result cmkd_copy(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                      cmkd_template t);
cmkd_result cmkd_destroy(cmkd_functions *f, CK_HANDLE session,
                         CK_HANDLE object);
cmkd_result cmkd_set(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                     cmkd_template t);
// Fills the values in, up to the lengths given, and sets the lengths;
// CK_UNAVAILABLE_INFORMATION for what the object does not have or give.
cmkd_result cmkd_get(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                     cmkd_template t);

#endif
