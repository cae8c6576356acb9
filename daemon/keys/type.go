package keys

import "cmkd/backends"

// Type is what an alias must not change the key of: UpdateAlias moves it only to a key of
// the same type and usage.
type Type string

// The types of keys.
const (
	Symmetric  Type = "symmetric"
	Asymmetric Type = "asymmetric"
	HMAC       Type = "HMAC"
)

// TypeOf is the type of keys of the spec and usage.
func TypeOf(spec backends.KeySpec, usage backends.Usage) Type {
	switch {
	case spec == backends.SymmetricDefault:
		return Symmetric
	case usage == backends.GenerateVerifyMAC:
		return HMAC
	default:
		return Asymmetric
	}
}
