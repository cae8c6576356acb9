package der

import (
	"reflect"
	"unsafe"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// WithKWP runs do with AES key wrapping with padding (RFC 5649) under the key. Neither
// tink nor crypto/aes has a way to forget: the key schedule, which begins with the key, is
// overwritten where it lies.
func WithKWP(key []byte, do func(*subtle.KWP) error) error {
	k, err := subtle.NewKWP(key)
	if err != nil {
		return err
	}
	defer clear(schedule(k))
	return do(k)
}

// schedule is the memory of the AES block cipher.
func schedule(k *subtle.KWP) []byte {
	block := reflect.ValueOf(k).Elem().FieldByName("block").Elem()
	return unsafe.Slice((*byte)(block.UnsafePointer()), block.Type().Elem().Size())
}
