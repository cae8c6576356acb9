package shim

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// Rule is what happens when a function is called.
type Rule struct {
	// Do is the action.
	Do Action
	// Skip lets that many calls through first, Times limits the calls that
	// it acts on then. 0: none are skipped, all are acted on.
	Skip, Times uint64
}

// Action is one way to misbehave.
type Action struct {
	kind uint32
	arg  uint64
}

// The actions without a parameter.
var (
	// Hang never returns from the call.
	Hang = Action{kind: 4}
	// Crash ends the process by SIGSEGV instead of the call.
	Crash = Action{kind: 5}
	// CrashAfter does the same after the call has done its work.
	CrashAfter = Action{kind: 6}
	// Noise prints on standard output, a line like go-plugin's handshake
	// among it, and makes the call.
	Noise = Action{kind: 7}
)

// Fail answers the CK_RV instead of making the call.
func Fail(rv uint) Action { return Action{1, uint64(rv)} }

// FailAfter makes the call and answers the CK_RV: it failed but persisted.
func FailAfter(rv uint) Action { return Action{2, uint64(rv)} }

// Delay makes the call after d.
func Delay(d time.Duration) Action { return Action{3, uint64(d.Nanoseconds())} }

// functions are those that rules can name, in the order of module/shim.c.
var functions = []string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo",
	"C_GetMechanismList", "C_GetMechanismInfo", "C_OpenSession", "C_CloseSession", "C_CloseAllSessions",
	"C_GetSessionInfo", "C_Login", "C_Logout", "C_CreateObject", "C_CopyObject", "C_DestroyObject",
	"C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal",
	"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify",
	"C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_GenerateRandom",
}

// header and rule are the structs of module/shim.c, shared through a mapped
// file.
type header struct {
	magic    [8]byte
	version  uint32
	rules    uint32
	cloudHSM uint32
	flags    uint32
	sessions uint32
	away     uint32
	removals uint32
	readOnly uint32
	refuse   uint32
	_        uint32
	inside   uint64
	manners  uint64
	room     uint32
	stuck    uint32
}

type rule struct {
	name   [40]byte
	action uint32
	_      uint32
	arg    uint64
	skip   uint64
	times  uint64
	seen   uint64
	calls  uint64
}

// Control changes what a shim does. It may be used while the module is.
type Control struct {
	path   string
	header *header
	rules  []rule
}

// newControl makes the control file.
func newControl(t testing.TB) *Control {
	t.Helper()
	size := int(unsafe.Sizeof(header{}) + uintptr(len(functions))*unsafe.Sizeof(rule{}))
	b := make([]byte, size)
	copy(b, "CMKDSHIM")
	binary.NativeEndian.PutUint32(b[8:], 1)
	binary.NativeEndian.PutUint32(b[12:], uint32(len(functions)))
	for i, name := range functions {
		copy(b[unsafe.Sizeof(header{})+uintptr(i)*unsafe.Sizeof(rule{}):], name)
	}
	path := filepath.Join(t.TempDir(), "control")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	mapped, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatalf("mapping the control file: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(mapped) })
	first := unsafe.Pointer(&mapped[unsafe.Sizeof(header{})])
	return &Control{
		path:   path,
		header: (*header)(unsafe.Pointer(&mapped[0])),
		rules:  unsafe.Slice((*rule)(first), len(functions)),
	}
}

// rule returns the place of a function's rule; a name that the shim does not
// know is a mistake in the test.
func (c *Control) rule(function string) *rule {
	i := slices.Index(functions, function)
	if i < 0 {
		panic("shim: no rules for " + function)
	}
	return &c.rules[i]
}

// Set makes the function do a, from its next call on.
func (c *Control) Set(function string, a Action) { c.SetRule(function, Rule{Do: a}) }

// SetRule sets a rule, in place of the function's last one, and counts its
// calls again.
func (c *Control) SetRule(function string, r Rule) {
	m := c.rule(function)
	atomic.StoreUint32(&m.action, 0)
	atomic.StoreUint64(&m.arg, r.Do.arg)
	atomic.StoreUint64(&m.skip, r.Skip)
	atomic.StoreUint64(&m.times, r.Times)
	atomic.StoreUint64(&m.seen, 0)
	atomic.StoreUint32(&m.action, r.Do.kind)
}

// ClearAll takes all rules away, and puts the token in good order.
func (c *Control) ClearAll() {
	for i := range c.rules {
		atomic.StoreUint32(&c.rules[i].action, 0)
	}
	c.Flags(0)
	c.Sessions(0)
	c.Away(false)
	c.ReadOnly(false)
	c.RefuseObjects(0)
	atomic.StoreUint32(&c.header.room, 0)
	c.HangObjects(false)
}

// Clear takes the function's rule away.
func (c *Control) Clear(function string) { atomic.StoreUint32(&c.rule(function).action, 0) }

// Calls counts all calls of the function, in all processes.
func (c *Control) Calls(function string) uint64 { return atomic.LoadUint64(&c.rule(function).calls) }

// Inside is the time that calls have spent in the module, all of them together. A
// call counts when it returns.
func (c *Control) Inside() time.Duration { return time.Duration(atomic.LoadUint64(&c.header.inside)) }

// CloudHSM switches the manners of AWS CloudHSM on or off: the module makes
// the IV of AES-GCM (the caller gives 12 zero bytes, which it overwrites), a
// second token object of one class with the same CKA_ID is refused, generic
// secrets do not know ENCRYPT, DECRYPT, WRAP and UNWRAP, and RFC 5649 is
// mechanism 0x8000216F only. Set it before the module is loaded.
func (c *Control) CloudHSM(on bool) {
	set(&c.header.cloudHSM, on)
}

// ReadOnly switches the token's write protection on or off: it has no
// read-write sessions, and makes and changes no token object.
func (c *Control) ReadOnly(on bool) { set(&c.header.readOnly, on) }

// RefuseObjects makes the token refuse to make token objects with the CK_RV; it
// goes on making session objects. CKR_OK ends that.
func (c *Control) RefuseObjects(rv uint) { atomic.StoreUint32(&c.header.refuse, uint32(rv)) }

// Room lets n further calls make token objects. Those after them are answered
// CKR_DEVICE_MEMORY until ClearAll.
func (c *Control) Room(n uint32) { atomic.StoreUint32(&c.header.room, n+1) }

// HangObjects switches on or off that the making of a token object never ends;
// session objects are made. Calls that hang already do so until their process ends.
func (c *Control) HangObjects(on bool) { set(&c.header.stuck, on) }

func set(at *uint32, on bool) {
	v := uint32(0)
	if on {
		v = 1
	}
	atomic.StoreUint32(at, v)
}

// Flags adds flags to those that C_GetTokenInfo answers, such as
// CKF_USER_PIN_COUNT_LOW.
func (c *Control) Flags(f uint32) { atomic.StoreUint32(&c.header.flags, f) }

// Sessions limits how many sessions a process may have open; 0: not at all.
func (c *Control) Sessions(n uint32) { atomic.StoreUint32(&c.header.sessions, n) }

// Away takes the token out of its slot, or puts it back. Sessions that were open
// do not come back with it: they are invalid until the module is initialised
// again.
func (c *Control) Away(away bool) {
	v := uint32(0)
	if away {
		v = 1
		if atomic.LoadUint32(&c.header.away) == 0 {
			atomic.AddUint32(&c.header.removals, 1)
		}
	}
	atomic.StoreUint32(&c.header.away, v)
}
