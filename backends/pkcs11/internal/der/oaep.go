package der

import (
	"crypto"
	"crypto/subtle"
	"encoding/binary"
)

// RemoveOAEP undoes EME-OAEP without a label (RFC 8017, section 7.1.2, step 3)
// on what the bare RSA primitive gave, in place. MGF1 uses the same hash.
//
// An attacker who learns which of the checks failed, by the answer or by its
// time, can decrypt (Manger, CRYPTO 2001). So every check is made whatever the
// others found, without a branch or an index that depends on secret bytes, and
// their results are joined into one. Only when all have passed does anything
// depend on the length of the message, which the caller learns anyway.
func RemoveOAEP(h crypto.Hash, encoded []byte) (message []byte, ok bool) {
	n := h.Size()
	if len(encoded) < 2*n+2 {
		return nil, false // by the length of the modulus, which is public
	}
	seed, db := encoded[1:1+n], encoded[1+n:]
	xorMGF1(h, seed, db)
	xorMGF1(h, db, seed)

	good := subtle.ConstantTimeByteEq(encoded[0], 0)
	good &= subtle.ConstantTimeCompare(db[:n], h.New().Sum(nil))

	// PS | 01 | M: the zeros end at the first byte that is not one, and that
	// must be 01.
	rest := db[n:]
	before, separator := 1, 0 // before: still among the zeros
	for i, b := range rest {
		zero := subtle.ConstantTimeByteEq(b, 0)
		first := before & (zero ^ 1)
		good &= subtle.ConstantTimeByteEq(b, 1) | (first ^ 1)
		separator = subtle.ConstantTimeSelect(first, i, separator)
		before &= zero
	}
	good &= before ^ 1 // there was one
	if good != 1 {
		return nil, false
	}
	return rest[separator+1:], true
}

// xorMGF1 XORs out with MGF1 of seed (RFC 8017, appendix B.2.1).
func xorMGF1(h crypto.Hash, out, seed []byte) {
	var counter [4]byte
	var mask [64]byte
	state := h.New()
	for i := uint32(0); len(out) > 0; i++ {
		binary.BigEndian.PutUint32(counter[:], i)
		state.Reset()
		state.Write(seed)
		state.Write(counter[:])
		n := subtle.XORBytes(out, out, state.Sum(mask[:0]))
		out = out[n:]
	}
	clear(mask[:])
}
