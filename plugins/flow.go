package plugins

import (
	"context"
	"math"

	"cmkd/backends"
)

// flow says whose call a frame carries and what kind of key does the work: what
// the plugin shares its time out by.
type flow struct {
	caller uint32 // uid
	class  byte   // see classOf
}

// noCaller is the caller of the daemon's own calls: (uid_t)-1, which is nobody's
// uid.
const noCaller = math.MaxUint32

// flowOf reads the flow of a call.
func flowOf(ctx context.Context, in any) flow {
	f := flow{caller: noCaller, class: classOf(in)}
	if uid, ok := backends.CallerOf(ctx); ok {
		f.caller = uid
	}
	return f
}

// classes number the key specs, in the order in which they were added: calls of
// one method and class cost about the same. 0 is what names no spec.
var classes = func() map[backends.KeySpec]byte {
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

func classOf(in any) byte { return classes[specOf(in)] }

// specOf is the spec of the key that does the work, "" without one.
func specOf(in any) backends.KeySpec {
	switch in := in.(type) {
	case *backends.GenerateDataKeyPairRequest: // the pair takes the time, not the key above it
		return in.Spec
	case backends.Keyed:
		return in.Subject().Spec
	}
	return ""
}
