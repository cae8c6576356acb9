#include "cryptoki.h"

#include <dlfcn.h>
#include <string.h>

enum {
  MAX_ATTRIBUTES = 48,

  RV_OK = 0x00,
  RV_ARGUMENTS_BAD = 0x07,
  RV_FUNCTION_NOT_SUPPORTED = 0x54,

  MECHANISM_AES_GCM = 0x1087,
  MECHANISM_ECDH1_DERIVE = 0x1050,
  MECHANISM_RSA_AES_KEY_WRAP = 0x1054,
  MECHANISM_AES_CBC_ENCRYPT_DATA = 0x1105,

  USER = 1,
  TAG_BITS = 128,
  OAEP_DATA_SPECIFIED = 1,
  AES_KEY_BITS = 256,
};

void *cmkd_open(const char *path, const void *context, cmkd_functions **functions,
                int *several) {
  /* What miekg/pkcs11 keeps of a module. */
  const struct {
    void *handle;
    cmkd_functions *functions;
  } *known = context;
  *several = 0;
  void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == NULL) return NULL;
  CK_RV (*list)(cmkd_functions **);
  *(void **)&list = dlsym(library, "C_GetFunctionList");
  if (list == NULL || list(functions) != RV_OK || *functions == NULL) {
    dlclose(library);
    return NULL;
  }
  if (known->handle == library && known->functions != *functions) {
    *functions = known->functions;
    *several = 1;
  }
  return library;
}

cmkd_functions_3_2 *cmkd_interface_3_2(void *library) {
  CK_RV (*get)(CK_BYTE *, CK_VERSION *, CK_INTERFACE **, CK_ULONG);
  *(void **)&get = dlsym(library, "C_GetInterface");
  CK_BYTE name[] = "PKCS 11";
  CK_VERSION version = {3, 2};
  CK_INTERFACE *found = NULL;
  if (get == NULL || get(name, &version, &found, 0) != RV_OK || found == NULL)
    return NULL;
  cmkd_functions_3_2 *f = found->functions;
  if (f == NULL || f->base.version.major != 3 || f->base.version.minor < 2)
    return NULL;
  return f;
}

char *cmkd_load_error(const char *path) {
  void *library = dlopen(path, RTLD_LAZY);
  if (library == NULL) { /* dlerror is of the thread */
    const char *text = dlerror();
    return strdup(text == NULL ? "" : text);
  }
  char *text = dlsym(library, "C_GetFunctionList") == NULL
                   ? strdup("it has no C_GetFunctionList")
                   : NULL;
  dlclose(library);
  return text;
}

void cmkd_close(void *library) { dlclose(library); }

static CK_MECHANISM mechanism(cmkd_mechanism m) {
  return (CK_MECHANISM){m.type, m.parameter_len ? m.parameter : NULL,
                        m.parameter_len};
}

// Points attributes at the records of t. Returns their number, or -1 if the
// records do not add up.
static long attributes(cmkd_template t, CK_ATTRIBUTE *a) {
  long n = 0;
  CK_ULONG at = 0;
  while (at < t.len) {
    CK_ULONG head[2];
    if (n == MAX_ATTRIBUTES || t.len - at < sizeof head) return -1;
    memcpy(head, t.records + at, sizeof head);
    at += sizeof head;
    if (head[1] > t.len - at) return -1;
    a[n++] = (CK_ATTRIBUTE){head[0], t.records + at, head[1]};
    at += (head[1] + sizeof(CK_ULONG) - 1) / sizeof(CK_ULONG) * sizeof(CK_ULONG);
  }
  return n;
}

#define ATTRIBUTES(name, count, t)                              \
  CK_ATTRIBUTE name[MAX_ATTRIBUTES];                            \
  long count = attributes(t, name);                             \
  if (count < 0) return (cmkd_result){.rv = RV_ARGUMENTS_BAD}

cmkd_result cmkd_login(cmkd_functions *f, CK_HANDLE session, cmkd_bytes pin) {
  return (cmkd_result){.rv = f->Login(session, USER, pin.p, pin.n)};
}

cmkd_result cmkd_random(cmkd_functions *f, CK_HANDLE session, cmkd_bytes out) {
  return (cmkd_result){.rv = f->GenerateRandom(session, out.p, out.n)};
}

typedef CK_RV (*init_function)(CK_HANDLE, CK_MECHANISM *, CK_HANDLE);
typedef CK_RV (*operation)(CK_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *,
                           CK_ULONG *);

// The Init half and the operation itself, in one crossing from Go.
static cmkd_result run(init_function init, operation op, CK_HANDLE session,
                       CK_MECHANISM *m, CK_HANDLE key, cmkd_bytes in,
                       cmkd_bytes out) {
  CK_BYTE nothing = 0; // modules take a NULL input for a length query
  CK_RV rv = init(session, m, key);
  if (rv != RV_OK) return (cmkd_result){.rv = rv, .init = 1};
  CK_ULONG n = out.n;
  rv = op(session, in.n ? in.p : &nothing, in.n, out.p, &n);
  return (cmkd_result){.rv = rv, .n = rv == RV_OK ? n : 0};
}

static cmkd_result run_gcm(init_function init, operation op, CK_HANDLE session,
                           CK_HANDLE key, cmkd_bytes iv, cmkd_bytes aad,
                           cmkd_bytes in, cmkd_bytes out) {
  CK_GCM_PARAMS p = {.iv = iv.p,
                     .iv_len = iv.n,
                     .iv_bits = iv.n * 8,
                     .aad = aad.n ? aad.p : NULL,
                     .aad_len = aad.n,
                     .tag_bits = TAG_BITS};
  CK_MECHANISM m = {MECHANISM_AES_GCM, &p, sizeof p};
  return run(init, op, session, &m, key, in, out);
}

cmkd_result cmkd_encrypt_gcm(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE key, cmkd_bytes iv, cmkd_bytes aad,
                             cmkd_bytes in, cmkd_bytes out) {
  return run_gcm(f->EncryptInit, f->Encrypt, session, key, iv, aad, in, out);
}

cmkd_result cmkd_decrypt_gcm(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE key, cmkd_bytes iv, cmkd_bytes aad,
                             cmkd_bytes in, cmkd_bytes out) {
  return run_gcm(f->DecryptInit, f->Decrypt, session, key, iv, aad, in, out);
}

cmkd_result cmkd_encrypt(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                         cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out) {
  CK_MECHANISM mech = mechanism(m);
  return run(f->EncryptInit, f->Encrypt, session, &mech, key, in, out);
}

cmkd_result cmkd_decrypt(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                         cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out) {
  CK_MECHANISM mech = mechanism(m);
  return run(f->DecryptInit, f->Decrypt, session, &mech, key, in, out);
}

cmkd_result cmkd_sign(cmkd_functions *f, CK_HANDLE session, CK_HANDLE key,
                      cmkd_mechanism m, cmkd_bytes in, cmkd_bytes out) {
  CK_MECHANISM mech = mechanism(m);
  return run(f->SignInit, f->Sign, session, &mech, key, in, out);
}

cmkd_result cmkd_generate_key(cmkd_functions *f, CK_HANDLE session,
                              cmkd_mechanism m, cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {0};
  r.rv = f->GenerateKey(session, &mech, a, n, &r.n);
  return r;
}

cmkd_result cmkd_generate_pair(cmkd_functions *f, CK_HANDLE session,
                               cmkd_mechanism m, cmkd_template public_key,
                               cmkd_template private_key) {
  ATTRIBUTES(pub, pubs, public_key);
  ATTRIBUTES(priv, privs, private_key);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {0};
  r.rv = f->GenerateKeyPair(session, &mech, pub, pubs, priv, privs, &r.n, &r.m);
  return r;
}

static cmkd_result wrap(cmkd_functions *f, CK_HANDLE session, CK_MECHANISM *m,
                        CK_HANDLE wrapping, CK_HANDLE key, cmkd_bytes out) {
  cmkd_result r = {.n = out.n};
  r.rv = f->WrapKey(session, m, wrapping, key, out.p, &r.n);
  if (r.rv != RV_OK) r.n = 0;
  return r;
}

cmkd_result cmkd_wrap(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                      CK_HANDLE wrapping, CK_HANDLE key, cmkd_bytes out) {
  CK_MECHANISM mech = mechanism(m);
  return wrap(f, session, &mech, wrapping, key, out);
}

cmkd_result cmkd_wrap_gcm(cmkd_functions *f, CK_HANDLE session, cmkd_bytes iv,
                          CK_HANDLE wrapping, CK_HANDLE key, cmkd_bytes out) {
  CK_GCM_PARAMS p = {.iv = iv.p,
                     .iv_len = iv.n,
                     .iv_bits = iv.n * 8,
                     .tag_bits = TAG_BITS};
  CK_MECHANISM m = {MECHANISM_AES_GCM, &p, sizeof p};
  return wrap(f, session, &m, wrapping, key, out);
}

cmkd_result cmkd_wrap_rsa_aes(cmkd_functions *f, CK_HANDLE session,
                              CK_ULONG hash, CK_ULONG mgf, CK_HANDLE wrapping,
                              CK_HANDLE key, cmkd_bytes out) {
  CK_RSA_PKCS_OAEP_PARAMS oaep = {
      .hash = hash, .mgf = mgf, .source = OAEP_DATA_SPECIFIED};
  CK_RSA_AES_KEY_WRAP_PARAMS p = {.aes_key_bits = AES_KEY_BITS, .oaep = &oaep};
  CK_MECHANISM m = {MECHANISM_RSA_AES_KEY_WRAP, &p, sizeof p};
  return wrap(f, session, &m, wrapping, key, out);
}

cmkd_result cmkd_unwrap(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                        CK_HANDLE unwrapping, cmkd_bytes in, cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {0};
  r.rv = f->UnwrapKey(session, &mech, unwrapping, in.p, in.n, a, n, &r.n);
  return r;
}

cmkd_result cmkd_unwrap_rsa_aes(cmkd_functions *f, CK_HANDLE session,
                                CK_ULONG hash, CK_ULONG mgf,
                                CK_HANDLE unwrapping, cmkd_bytes in,
                                cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_RSA_PKCS_OAEP_PARAMS oaep = {
      .hash = hash, .mgf = mgf, .source = OAEP_DATA_SPECIFIED};
  CK_RSA_AES_KEY_WRAP_PARAMS p = {.aes_key_bits = AES_KEY_BITS, .oaep = &oaep};
  CK_MECHANISM m = {MECHANISM_RSA_AES_KEY_WRAP, &p, sizeof p};
  cmkd_result r = {0};
  r.rv = f->UnwrapKey(session, &m, unwrapping, in.p, in.n, a, n, &r.n);
  return r;
}

cmkd_result cmkd_derive_ecdh(cmkd_functions *f, CK_HANDLE session,
                             CK_HANDLE base, CK_ULONG kdf, cmkd_bytes peer,
                             cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_ECDH1_DERIVE_PARAMS p = {
      .kdf = kdf, .public_data_len = peer.n, .public_data = peer.p};
  CK_MECHANISM m = {MECHANISM_ECDH1_DERIVE, &p, sizeof p};
  cmkd_result r = {0};
  r.rv = f->DeriveKey(session, &m, base, a, n, &r.n);
  return r;
}

cmkd_result cmkd_derive_cbc(cmkd_functions *f, CK_HANDLE session,
                            CK_HANDLE base, cmkd_bytes data, cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_AES_CBC_ENCRYPT_DATA_PARAMS p = {.data = data.p, .length = data.n};
  CK_MECHANISM m = {MECHANISM_AES_CBC_ENCRYPT_DATA, &p, sizeof p};
  cmkd_result r = {0};
  r.rv = f->DeriveKey(session, &m, base, a, n, &r.n);
  return r;
}

cmkd_result cmkd_derive(cmkd_functions *f, CK_HANDLE session, cmkd_mechanism m,
                        CK_HANDLE base, cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {0};
  r.rv = f->DeriveKey(session, &mech, base, a, n, &r.n);
  return r;
}

cmkd_result cmkd_derive_string(cmkd_functions *f, CK_HANDLE session,
                               CK_ULONG type, CK_HANDLE base, cmkd_bytes data,
                               cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_KEY_DERIVATION_STRING_DATA p = {.data = data.p, .length = data.n};
  CK_MECHANISM m = {type, &p, sizeof p};
  cmkd_result r = {0};
  r.rv = f->DeriveKey(session, &m, base, a, n, &r.n);
  return r;
}

cmkd_result cmkd_encapsulate(cmkd_functions_3_2 *f, CK_HANDLE session,
                             cmkd_mechanism m, CK_HANDLE public_key,
                             cmkd_template t, cmkd_bytes out) {
  if (f == NULL || f->EncapsulateKey == NULL)
    return (cmkd_result){.rv = RV_FUNCTION_NOT_SUPPORTED};
  ATTRIBUTES(a, n, t);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {.n = out.n};
  r.rv = f->EncapsulateKey(session, &mech, public_key, a, n, out.p, &r.n, &r.m);
  return r;
}

cmkd_result cmkd_decapsulate(cmkd_functions_3_2 *f, CK_HANDLE session,
                             cmkd_mechanism m, CK_HANDLE private_key,
                             cmkd_bytes in, cmkd_template t) {
  if (f == NULL || f->DecapsulateKey == NULL)
    return (cmkd_result){.rv = RV_FUNCTION_NOT_SUPPORTED};
  ATTRIBUTES(a, n, t);
  CK_MECHANISM mech = mechanism(m);
  cmkd_result r = {0};
  r.rv = f->DecapsulateKey(session, &mech, private_key, a, n, in.p, in.n, &r.n);
  return r;
}

cmkd_result cmkd_create(cmkd_functions *f, CK_HANDLE session, cmkd_template t) {
  ATTRIBUTES(a, n, t);
  cmkd_result r = {0};
  r.rv = f->CreateObject(session, a, n, &r.n);
  return r;
}

cmkd_result cmkd_copy(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                      cmkd_template t) {
  ATTRIBUTES(a, n, t);
  cmkd_result r = {0};
  r.rv = f->CopyObject(session, object, a, n, &r.n);
  return r;
}

cmkd_result cmkd_destroy(cmkd_functions *f, CK_HANDLE session,
                         CK_HANDLE object) {
  return (cmkd_result){.rv = f->DestroyObject(session, object)};
}

cmkd_result cmkd_set(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                     cmkd_template t) {
  ATTRIBUTES(a, n, t);
  return (cmkd_result){.rv = f->SetAttributeValue(session, object, a, n)};
}

cmkd_result cmkd_get(cmkd_functions *f, CK_HANDLE session, CK_HANDLE object,
                     cmkd_template t) {
  ATTRIBUTES(a, n, t);
  CK_BYTE *lengths[MAX_ATTRIBUTES];
  for (long i = 0; i < n; i++)
    lengths[i] = (CK_BYTE *)a[i].value - sizeof(CK_ULONG);
  cmkd_result r = {.rv = f->GetAttributeValue(session, object, a, n)};
  // tpm2-pkcs11 leaves NULL as the value of what an object does not have.
  for (long i = 0; i < n; i++)
    memcpy(lengths[i], &a[i].value_len, sizeof(CK_ULONG));
  return r;
}
