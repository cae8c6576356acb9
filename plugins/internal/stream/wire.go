package stream

import (
	"errors"
	"math"
	"unicode/utf8"

	"cmkd/backends"
)

// wire reads and writes the messages of the frequent calls without reflection: the same
// bytes as encoding makes, of which it reads no others. The members of a message are
// listed once, in the order of their numbers, for all that is done with it.
//
// Messages that have no list go the general way. A test checks each list against the
// struct.
type wire struct {
	does does
	// b is what was written, or is left to read.
	b []byte
	// size is more than the message takes.
	size int
	// left counts the members of the struct at hand that are yet to be read, or those
	// that were written.
	left int
	bad  bool // what was read is not what encoding makes
}

// does is what a wire does with the members that it is shown.
type does byte

const (
	measures does = iota
	writes
	reads
)

var errWire = errors.New("not the encoding of the message")

// sizeOf is more than the CBOR of a message takes. It is 0 if the message has no list.
func sizeOf(message any) int {
	w := wire{does: measures}
	if !w.message(message) {
		return 0
	}
	return w.size
}

// appendMessage appends the CBOR of a message if it has a list. If b has not the room that
// sizeOf says, it leaves a copy of it behind.
func appendMessage(b []byte, message any) ([]byte, bool) {
	w := wire{does: writes, b: b}
	ok := w.message(message)
	return w.b, ok
}

// readMessage reads a message if it has a list. Its members lie in b afterwards.
func readMessage(b []byte, message any) (known bool, err error) {
	w := wire{does: reads, b: b}
	if known = w.message(message); known && (w.bad || len(w.b) > 0) {
		err = errWire
	}
	return known, err
}

// message shows w the members of a message. It reports false if that has no list.
func (w *wire) message(message any) bool {
	outer := w.open()
	switch m := message.(type) {
	case *backends.EncryptRequest:
		w.key(1, &m.Key)
		text(w, 2, &m.Algorithm)
		w.bytes(3, &m.Plaintext)
		w.optional(4, &m.AAD)
	case *backends.EncryptAnswer:
		w.sealed(1, &m.Sealed)
	case *backends.DecryptRequest:
		w.key(1, &m.Key)
		text(w, 2, &m.Algorithm)
		w.sealed(3, &m.Sealed)
		w.optional(4, &m.AAD)
		w.recipient(5, &m.Recipient)
	case *backends.DecryptAnswer:
		w.optional(1, &m.Plaintext)
		w.optional(2, &m.ForRecipient)
	case *backends.GenerateDataKeyRequest:
		w.key(1, &m.Key)
		w.key(2, &m.Wrapping)
		w.number(3, &m.Length)
		w.optional(4, &m.AAD)
		w.recipient(5, &m.Recipient)
		w.flag(6, &m.Plaintext)
	case *backends.GenerateDataKeyAnswer:
		w.sealed(1, &m.Sealed)
		w.optional(2, &m.PublicKey)
		w.optional(3, &m.Plaintext)
		w.optional(4, &m.ForRecipient)
	case *backends.OpenDataKeyRequest:
		w.key(1, &m.Key)
		w.sealed(2, &m.Sealed)
		w.optional(3, &m.AAD)
		w.flag(4, &m.Pair)
		w.recipient(5, &m.Recipient)
		w.flag(6, &m.Plaintext)
	case *backends.OpenDataKeyAnswer:
		w.optional(1, &m.Plaintext)
		w.optional(2, &m.ForRecipient)
	case *backends.SignRequest:
		w.key(1, &m.Key)
		text(w, 2, &m.Algorithm)
		text(w, 3, &m.Type)
		w.bytes(4, &m.Message)
	case *backends.SignAnswer:
		w.bytes(1, &m.Signature)
	case *backends.MACRequest:
		w.key(1, &m.Key)
		text(w, 2, &m.Algorithm)
		w.bytes(3, &m.Message)
	case *backends.MACAnswer:
		w.bytes(1, &m.MAC)
	default:
		return false
	}
	w.close(outer)
	return true
}

func (w *wire) key(number byte, k *backends.Key) {
	if !w.required(number) {
		return
	}
	outer := w.open()
	w.id(1, &k.ID)
	text(w, 2, &k.Spec)
	text(w, 3, &k.Usage)
	w.flag(4, &k.Imported)
	w.close(outer)
}

func (w *wire) id(number byte, id *backends.KeyID) {
	if !w.required(number) {
		return
	}
	if w.does != reads {
		w.put(majorBytes, id[:])
		return
	}
	raw := w.take(majorBytes)
	if len(raw) != len(id) {
		w.bad = true
	}
	copy(id[:], raw)
}

func (w *wire) sealed(number byte, s *backends.Sealed) {
	if !w.required(number) {
		return
	}
	outer := w.open()
	w.optional(1, &s.IV)
	w.bytes(2, &s.Ciphertext)
	w.close(outer)
}

func (w *wire) recipient(number byte, p **backends.Recipient) {
	if !w.member(number, *p != nil) {
		return
	}
	if w.does == reads {
		*p = new(backends.Recipient)
	}
	outer, r := w.open(), *p
	w.bytes(1, &r.PublicKey)
	text(w, 2, &r.Algorithm)
	w.flag(3, &r.CMS)
	w.flag(4, &r.ThroughPlugin)
	w.close(outer)
}

// The major types of CBOR that messages have (RFC 8949, section 3.1), and its simple
// values.
const (
	majorUint  = 0 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorMap   = 5 << 5

	cborTrue = 0xf5
	cborNull = 0xf6
)

// open begins a struct: a map of at most 23 members. It returns what close needs.
func (w *wire) open() (outer int) {
	outer = w.left
	w.left = 0
	switch w.does {
	case measures:
		w.size += headSize
	case writes:
		w.b = append(w.b, majorMap)
		outer = outer<<32 | len(w.b) // and where the head is
	case reads:
		if len(w.b) == 0 || w.b[0] < majorMap || w.b[0] > majorMap+23 {
			w.bad = true
			return outer
		}
		w.left = int(w.b[0] - majorMap)
		w.b = w.b[1:]
	}
	return outer
}

func (w *wire) close(outer int) {
	switch w.does {
	case measures:
	case writes:
		w.b[outer&math.MaxUint32-1] += byte(w.left)
		outer >>= 32
	case reads:
		if w.left != 0 {
			w.bad = true
		}
	}
	w.left = outer
}

// member comes before the value of a member, which is there if it is to be written, or
// is next in what is read: only an optional one may be missing.
func (w *wire) member(number byte, there bool) bool {
	switch w.does {
	case measures:
		w.size += headSize
	case writes:
		if there {
			w.b = append(w.b, number)
			w.left++
		}
	case reads:
		if w.bad || w.left == 0 || len(w.b) == 0 || w.b[0] != number {
			return false
		}
		w.b = w.b[1:]
		w.left--
		return true
	}
	return there
}

// required is member for one that is always there.
func (w *wire) required(number byte) bool {
	ok := w.member(number, true)
	w.bad = w.bad || !ok
	return ok
}

// bytes is a byte string that is always there; nil is null.
func (w *wire) bytes(number byte, p *[]byte) {
	if !w.required(number) {
		return
	}
	switch {
	case w.does == reads && len(w.b) > 0 && w.b[0] == cborNull:
		w.b = w.b[1:]
		*p = nil
	case w.does == reads:
		*p = w.take(majorBytes)
	case w.does == writes && *p == nil:
		w.b = append(w.b, cborNull)
	default:
		w.put(majorBytes, *p)
	}
}

// optional is a byte string that is left out if it is empty.
func (w *wire) optional(number byte, p *[]byte) {
	if !w.member(number, len(*p) > 0) {
		return
	}
	if w.does != reads {
		w.put(majorBytes, *p)
		return
	}
	if *p = w.take(majorBytes); len(*p) == 0 {
		w.bad = true
	}
}

// flag is a Boolean that is left out if it is false.
func (w *wire) flag(number byte, p *bool) {
	if !w.member(number, *p) {
		return
	}
	switch w.does {
	case measures:
	case writes:
		w.b = append(w.b, cborTrue)
	case reads:
		if len(w.b) == 0 || w.b[0] != cborTrue {
			w.bad = true
			return
		}
		w.b = w.b[1:]
		*p = true
	}
}

// number is an integer that is not negative: the length of something.
func (w *wire) number(number byte, p *int) {
	if !w.required(number) {
		return
	}
	if w.does != reads {
		w.head(majorUint, uint64(max(0, *p))) //nolint:gosec // it is not negative
		return
	}
	n := w.readHead(majorUint)
	if n > math.MaxInt32 {
		w.bad = true
		return
	}
	*p = int(n)
}

// text is a text string that is always there.
func text[S ~string](w *wire, number byte, p *S) {
	if !w.required(number) {
		return
	}
	switch w.does {
	case measures:
		w.size += headSize + len(*p)
	case writes:
		w.head(majorText, uint64(len(*p)))
		w.b = append(w.b, *p...)
	case reads:
		raw := w.take(majorText)
		if known, ok := names[string(raw)]; ok {
			*p = S(known)
			return
		}
		w.bad = w.bad || !utf8.Valid(raw)
		*p = S(raw)
	}
}

// names are texts that most messages have, so that reading them makes no copies.
var names = func() map[string]string {
	m := make(map[string]string)
	for spec := range Classes {
		m[string(spec)] = string(spec)
	}
	for _, name := range []string{
		string(backends.EncryptDecrypt), string(backends.SignVerify), string(backends.GenerateVerifyMAC), string(backends.WrapDataKeys),
		string(backends.Raw), string(backends.Digest),
		"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "ECDSA_SHA_256", "ECDSA_SHA_384", "ECDSA_SHA_512", "ED25519_SHA_512",
		"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256", "HMAC_SHA_224", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512",
	} {
		m[name] = name
	}
	return m
}()
