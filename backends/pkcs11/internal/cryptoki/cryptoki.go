// Package cryptoki makes the frequent PKCS#11 calls of a module that is loaded
// already: into the caller's buffers, and with a single crossing into C for
// an operation and its Init half.
//
// The general binding, miekg/pkcs11, allocates in C, calls a module twice to
// learn the length of each output (two round trips on a network HSM), and
// loses the output buffer of every C_Decrypt that fails.
//
// Nothing here judges a return value: 0 is CKR_OK, everything else is the
// CK_RV of the call that failed. A session must not be used by two goroutines
// at a time (PKCS#11 2.40 Usage Guide, section 2.6.7).
package cryptoki

/*
#cgo CFLAGS: -O2 -Wall
#cgo LDFLAGS: -ldl
#cgo noescape cmkd_login
#cgo noescape cmkd_random
#cgo noescape cmkd_encrypt_gcm
#cgo noescape cmkd_decrypt_gcm
#cgo noescape cmkd_encrypt
#cgo noescape cmkd_decrypt
#cgo noescape cmkd_sign
#cgo noescape cmkd_generate_key
#cgo noescape cmkd_generate_pair
#cgo noescape cmkd_wrap
#cgo noescape cmkd_wrap_gcm
#cgo noescape cmkd_wrap_rsa_aes
#cgo noescape cmkd_unwrap
#cgo noescape cmkd_unwrap_rsa_aes
#cgo noescape cmkd_derive_ecdh
#cgo noescape cmkd_derive_cbc
#cgo noescape cmkd_derive
#cgo noescape cmkd_derive_string
#cgo noescape cmkd_encapsulate
#cgo noescape cmkd_decapsulate
#cgo noescape cmkd_create
#cgo noescape cmkd_copy
#cgo noescape cmkd_set
#cgo noescape cmkd_get
#include <stdlib.h>
#include "cryptoki.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// Session and Object are the handles of PKCS#11.
type (
	Session uint
	Object  uint
)

// Unavailable is CK_UNAVAILABLE_INFORMATION.
const Unavailable = ^uint(0)

// Module is the function list of a loaded module.
type Module struct {
	// Several: each C_GetFunctionList of the module gives another instance of it, with
	// sessions of its own, as p11-kit-client.so does. This is the one of the context
	// that Open was given, which it takes to initialise it.
	Several   bool
	library   unsafe.Pointer
	functions *C.cmkd_functions
	newer     *C.cmkd_functions_3_2 // nil: the module has no interface of PKCS#11 3.2
	// Failed, if it is set, is told of each call that fails. It is set and
	// called while one goroutine alone uses the module.
	Failed func(rv uint)
	// Destroyed: an object was destroyed.
	Destroyed atomic.Bool
}

func (m *Module) note(rv uint) uint {
	if rv != 0 && m.Failed != nil {
		m.Failed(rv)
	}
	return rv
}

// Open finds the module that was loaded from path before, by the same
// spelling of path, as c has it. It does not load or initialise anything.
func Open(path string, c *p11.Ctx) (*Module, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	m := &Module{}
	var several C.int
	// The only member of a Ctx is a pointer to what C knows of the module.
	known := *(*unsafe.Pointer)(unsafe.Pointer(c))
	if m.library = C.cmkd_open(name, known, &m.functions, &several); m.library == nil {
		return nil, fmt.Errorf("module %s is not loaded or has no C_GetFunctionList", path)
	}
	if m.Several = several != 0; !m.Several {
		m.newer = C.cmkd_interface_3_2(m.library)
	}
	return m, nil
}

// LoadError loads the library and says why that cannot be done, or why it is no module: dlerror(3). It is nil for
// one that is a module.
func LoadError(path string) error {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	text := C.cmkd_load_error(name)
	if text == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(text))
	return errors.New(C.GoString(text))
}

// Close gives the reference to the library back. It does not finalise.
func (m *Module) Close() { C.cmkd_close(m.library) }

// Mechanism is a mechanism whose parameter, if it has one, is a structure
// without pointers: its bytes in memory.
type Mechanism struct {
	Type      uint
	Parameter []byte
}

func (m Mechanism) c() C.cmkd_mechanism {
	return C.cmkd_mechanism{
		_type:         C.CK_ULONG(m.Type),
		parameter:     (*C.CK_BYTE)(unsafe.SliceData(m.Parameter)),
		parameter_len: C.CK_ULONG(len(m.Parameter)),
	}
}

func view(b []byte) C.cmkd_bytes {
	return C.cmkd_bytes{p: (*C.CK_BYTE)(unsafe.SliceData(b)), n: C.CK_ULONG(len(b))}
}

// Result is the outcome of an operation that writes N bytes.
type Result struct {
	RV uint
	N  int
	// Init: it was the Init half that failed, so no operation was begun.
	Init bool
}

// result is the Result of a call that had so much room in out. A length beyond that is the module's fault:
// nothing says what it has written.
func (m *Module) result(r C.cmkd_result, out []byte) Result {
	rv, n := uint(r.rv), uint(r.n)
	if n > uint(len(out)) {
		n = 0
		if rv == p11.CKR_OK {
			rv = p11.CKR_GENERAL_ERROR
		}
	}
	return Result{RV: m.note(rv), N: int(n), Init: r.init != 0} //nolint:gosec // at most len(out)
}

// Login is C_Login as CKU_USER.
func (m *Module) Login(s Session, pin []byte) uint {
	return m.note(uint(C.cmkd_login(m.functions, C.CK_HANDLE(s), view(pin)).rv))
}

// GenerateRandom fills out. A module that says so, and has written nothing, has failed: sixteen zero
// bytes or more do not come by chance.
func (m *Module) GenerateRandom(s Session, out []byte) uint {
	clear(out)
	rv := uint(C.cmkd_random(m.functions, C.CK_HANDLE(s), view(out)).rv)
	if rv == p11.CKR_OK && len(out) >= 16 && !slices.ContainsFunc(out, func(b byte) bool { return b != 0 }) {
		rv = p11.CKR_DEVICE_ERROR
	}
	return m.note(rv)
}

// EncryptGCM encrypts with CKM_AES_GCM and a tag of 128 bits. Modules that
// choose the IV themselves write it to iv. The output needs 16 bytes more than
// the input.
func (m *Module) EncryptGCM(s Session, key Object, iv, aad, in, out []byte) Result {
	return m.result(C.cmkd_encrypt_gcm(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(key), view(iv), view(aad), view(in), view(out)), out)
}

// DecryptGCM is the reverse. Some modules want as much room as in has.
func (m *Module) DecryptGCM(s Session, key Object, iv, aad, in, out []byte) Result {
	return m.result(C.cmkd_decrypt_gcm(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(key), view(iv), view(aad), view(in), view(out)), out)
}

// Encrypt is C_EncryptInit and C_Encrypt.
func (m *Module) Encrypt(s Session, key Object, mech Mechanism, in, out []byte) Result {
	return m.result(C.cmkd_encrypt(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(key), mech.c(), view(in), view(out)), out)
}

// Decrypt is C_DecryptInit and C_Decrypt.
func (m *Module) Decrypt(s Session, key Object, mech Mechanism, in, out []byte) Result {
	return m.result(C.cmkd_decrypt(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(key), mech.c(), view(in), view(out)), out)
}

// Sign is C_SignInit and C_Sign.
func (m *Module) Sign(s Session, key Object, mech Mechanism, in, out []byte) Result {
	return m.result(C.cmkd_sign(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(key), mech.c(), view(in), view(out)), out)
}

// GenerateKey makes a secret key.
func (m *Module) GenerateKey(s Session, mech Mechanism, t Template) (Object, uint) {
	r := C.cmkd_generate_key(m.functions, C.CK_HANDLE(s), mech.c(), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// GenerateKeyPair makes a key pair.
func (m *Module) GenerateKeyPair(s Session, mech Mechanism, public, private Template) (pub, priv Object, rv uint) {
	r := C.cmkd_generate_pair(m.functions, C.CK_HANDLE(s), mech.c(), public.c(), private.c())
	return Object(r.n), Object(r.m), m.note(uint(r.rv))
}

// WrapKey wraps key under wrapping.
func (m *Module) WrapKey(s Session, mech Mechanism, wrapping, key Object, out []byte) Result {
	return m.result(C.cmkd_wrap(m.functions, C.CK_HANDLE(s), mech.c(), C.CK_HANDLE(wrapping), C.CK_HANDLE(key), view(out)), out)
}

// WrapGCM is WrapKey with CKM_AES_GCM, with no additional data.
func (m *Module) WrapGCM(s Session, wrapping, key Object, iv, out []byte) Result {
	return m.result(C.cmkd_wrap_gcm(m.functions, C.CK_HANDLE(s), view(iv), C.CK_HANDLE(wrapping), C.CK_HANDLE(key), view(out)), out)
}

// WrapRSAAES is WrapKey with CKM_RSA_AES_KEY_WRAP.
func (m *Module) WrapRSAAES(s Session, hash, mgf uint, wrapping, key Object, out []byte) Result {
	return m.result(C.cmkd_wrap_rsa_aes(m.functions, C.CK_HANDLE(s), C.CK_ULONG(hash), C.CK_ULONG(mgf), C.CK_HANDLE(wrapping), C.CK_HANDLE(key), view(out)), out)
}

// UnwrapKey makes a key of what WrapKey made.
func (m *Module) UnwrapKey(s Session, mech Mechanism, unwrapping Object, in []byte, t Template) (Object, uint) {
	r := C.cmkd_unwrap(m.functions, C.CK_HANDLE(s), mech.c(), C.CK_HANDLE(unwrapping), view(in), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// UnwrapRSAAES is UnwrapKey with CKM_RSA_AES_KEY_WRAP: an AES-256 key under
// OAEP without a label, then the key under that by RFC 5649.
func (m *Module) UnwrapRSAAES(s Session, hash, mgf uint, unwrapping Object, in []byte, t Template) (Object, uint) {
	r := C.cmkd_unwrap_rsa_aes(m.functions, C.CK_HANDLE(s), C.CK_ULONG(hash), C.CK_ULONG(mgf), C.CK_HANDLE(unwrapping), view(in), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// DeriveECDH is CKM_ECDH1_DERIVE with the peer's public point.
func (m *Module) DeriveECDH(s Session, base Object, kdf uint, peer []byte, t Template) (Object, uint) {
	r := C.cmkd_derive_ecdh(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(base), C.CK_ULONG(kdf), view(peer), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// DeriveCBC is CKM_AES_CBC_ENCRYPT_DATA with an IV of zeros.
func (m *Module) DeriveCBC(s Session, base Object, data []byte, t Template) (Object, uint) {
	r := C.cmkd_derive_cbc(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(base), view(data), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// Derive is C_DeriveKey.
func (m *Module) Derive(s Session, mech Mechanism, base Object, t Template) (Object, uint) {
	r := C.cmkd_derive(m.functions, C.CK_HANDLE(s), mech.c(), C.CK_HANDLE(base), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// DeriveString is Derive with CK_KEY_DERIVATION_STRING_DATA.
func (m *Module) DeriveString(s Session, mech uint, base Object, data []byte, t Template) (Object, uint) {
	r := C.cmkd_derive_string(m.functions, C.CK_HANDLE(s), C.CK_ULONG(mech), C.CK_HANDLE(base), view(data), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// EncapsulateKey is C_EncapsulateKey of PKCS#11 3.2: it makes a
// shared secret for a public key, and writes its ciphertext to out.
// CKR_FUNCTION_NOT_SUPPORTED: the module has no interface of 3.2.
func (m *Module) EncapsulateKey(s Session, mech Mechanism, public Object, t Template, out []byte) (Object, Result) {
	r := C.cmkd_encapsulate(m.newer, C.CK_HANDLE(s), mech.c(), C.CK_HANDLE(public), t.c(), view(out))
	return Object(r.m), m.result(r, out)
}

// DecapsulateKey is C_DecapsulateKey, the reverse.
func (m *Module) DecapsulateKey(s Session, mech Mechanism, private Object, in []byte, t Template) (Object, uint) {
	r := C.cmkd_decapsulate(m.newer, C.CK_HANDLE(s), mech.c(), C.CK_HANDLE(private), view(in), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// CreateObject makes an object of known value.
func (m *Module) CreateObject(s Session, t Template) (Object, uint) {
	r := C.cmkd_create(m.functions, C.CK_HANDLE(s), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// CopyObject copies an object, with the attributes of t changed.
func (m *Module) CopyObject(s Session, o Object, t Template) (Object, uint) {
	r := C.cmkd_copy(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(o), t.c())
	return Object(r.n), m.note(uint(r.rv))
}

// DestroyObject destroys an object.
func (m *Module) DestroyObject(s Session, o Object) uint {
	rv := uint(C.cmkd_destroy(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(o)).rv)
	if rv == 0 {
		m.Destroyed.Store(true)
	}
	return m.note(rv)
}

// SetAttributes changes attributes.
func (m *Module) SetAttributes(s Session, o Object, t Template) uint {
	return m.note(uint(C.cmkd_set(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(o), t.c()).rv))
}

// GetAttributes fills q. CKR_ATTRIBUTE_TYPE_INVALID and
// CKR_ATTRIBUTE_SENSITIVE say that some values are missing; the others are
// there.
func (m *Module) GetAttributes(s Session, o Object, q *Query) uint {
	return m.note(uint(C.cmkd_get(m.functions, C.CK_HANDLE(s), C.CK_HANDLE(o), Template(q.records).c()).rv))
}
