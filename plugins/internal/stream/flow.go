package stream

import (
	"context"
	"math"

	"cmkd/backends"
)

// Flow says whose call a frame carries and what kind of key does the work: what
// the plugin shares its time out by.
type Flow struct {
	Caller uint32 // uid
	Class  byte   // see classOf
}

// NoCaller is the caller of the daemon's own calls: (uid_t)-1, which is nobody's
// uid.
const NoCaller = math.MaxUint32

// FlowOf reads the flow of a call.
func FlowOf(ctx context.Context, in any) Flow {
	f := Flow{Caller: NoCaller, Class: classOf(in)}
	if uid, ok := backends.CallerOf(ctx); ok {
		f.Caller = uid
	}
	return f
}

// Classes number the key specs, in the order in which they were added: calls of
// one method and class cost about the same. 0 is what names no spec.
var Classes = func() map[backends.KeySpec]byte {
	m := make(map[backends.KeySpec]byte)
	for i, spec := range []backends.KeySpec{
		backends.SymmetricDefault, backends.AES128, backends.AES256,
		backends.RSA2048, backends.RSA3072, backends.RSA4096,
		backends.P256, backends.P384, backends.P521, backends.Secp256k1, backends.Ed25519,
		backends.HMAC224, backends.HMAC256, backends.HMAC384, backends.HMAC512,
		backends.MLDSA44, backends.MLDSA65, backends.MLDSA87,
		backends.MLKEM512, backends.MLKEM768, backends.MLKEM1024, backends.SM2,
	} {
		m[spec] = byte(i + 1)
	}
	return m
}()

func classOf(in any) byte { return Classes[SpecOf(in)] }

// SpecOf is the spec of the key that does the work, "" without one.
func SpecOf(in any) backends.KeySpec {
	switch in := in.(type) {
	case *backends.GenerateDataKeyPairRequest: // the pair takes the time, not the key above it
		return in.Spec
	case backends.Keyed:
		return in.Subject().Spec
	}
	return ""
}
