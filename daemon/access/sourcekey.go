package access

import (
	"context"

	"cmkd/daemon/ciphertext"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// A blob names its key in a header that anybody can change, so the key ID is held
// against the key material ID beside it, which belongs to one key only. If that is
// another key, the header has been altered, and the answer says so, but only to
// callers who may do what they ask for with the other key. For everybody else the
// material counts as unknown. Otherwise, whoever holds a ciphertext that they may
// not decrypt could write a random key ID into it and learn whether its key still
// exists; the ciphertext as it is does not tell them. Material IDs cannot be
// guessed: they are hashes of 256 bits.

func errInvalidCiphertext() error {
	return &kmsapi.Error{Code: kmsapi.CodeInvalidCiphertextException}
}

// IsInvalidCiphertext reports whether err refuses a ciphertext.
func IsInvalidCiphertext(err error) bool {
	e, ok := journal.AsError[*kmsapi.Error](err)
	return ok && e.Code == kmsapi.CodeInvalidCiphertextException
}

func errIncorrectKey() error {
	return kmsapi.Errorf(kmsapi.CodeIncorrectKeyException,
		"The key ID in the request does not identify a CMK that can perform this operation.")
}

// AdmitNamed admits the call to the key that the client names, or the ciphertext.
func (s *Access) AdmitNamed(ctx context.Context, c *journal.Call, d *Demand, b *ciphertext.Blob) (*Key, error) {
	if d.KeyID != "" {
		return s.Admit(ctx, c, d)
	}
	if b == nil {
		return nil, errInvalidCiphertext()
	}
	if row, ok := s.madeUnder(c, d, b); ok {
		altered := *d
		altered.Ciphertext = func(*store.Key) error { return errInvalidCiphertext() }
		return s.AdmitKey(ctx, c, &altered, row, "")
	}
	if row, ok := c.View.Key(c.Region, b.KeyID); ok {
		return s.AdmitKey(ctx, c, d, row, "")
	}
	return nil, s.Conceal(c, d, s.errNoSource(c, d))
}

// madeUnder returns the key whose material the blob names, if its key ID is that of
// another key and the caller may do what d demands with the key returned.
func (s *Access) madeUnder(c *journal.Call, d *Demand, b *ciphertext.Blob) (*store.Key, bool) {
	if _, ok := c.View.Version(b.KeyID, b.Material); ok {
		return nil, false // nothing contradicts it
	}
	r := s.policyRequest(c, d)
	r.Resource = s.KeyARN(c.Region, b.KeyID)
	r.Context = &keyContext{s: s, c: c, d: d}
	row, ok := keyOfMaterial(c, b.Material)
	if !ok { // as much work as below: the time must not tell either
		_ = policy.Decide(r, s.policies.standard, c.Caller.Policies, nil)
		return nil, false
	}
	of := &keyContext{s: s, c: c, d: d, key: row}
	r.Resource, r.Context = s.KeyARN(row.Region, row.ID), of
	document, err := s.policies.parse(row.Policy)
	return row, err == nil && policy.Decide(r, document, c.Caller.Policies, of).Allowed
}

// keyOfMaterial finds the key with the key material ID in the call's Region.
func keyOfMaterial(c *journal.Call, id string) (*store.Key, bool) {
	v, ok := c.View.VersionByMaterial(id)
	if !ok {
		return nil, false
	}
	return c.View.Key(c.Region, v.KeyID)
}

// errNoSource is the answer if the key of a ciphertext is not in this Region. It
// is the same for whoever may use every key and for whoever may use none, and
// tells neither whether there is such a key elsewhere.
func (s *Access) errNoSource(c *journal.Call, d *Demand) error {
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", policy.HiddenKey(s.policyRequest(c, d)))
}

// CheckBlob checks a blob, nil if the ciphertext is none, against the key that
// is to open it.
func CheckBlob(view *store.View, b *ciphertext.Blob, row *store.Key) error {
	switch {
	case b == nil:
		return errInvalidCiphertext()
	case b.KeyID != row.ID:
		if _, ok := view.Version(row.ID, b.Material); ok {
			return errInvalidCiphertext() // it is of this key, its key ID was altered
		}
		return errIncorrectKey()
	case row.Spec != keys.SymmetricDefault:
		return errInvalidCiphertext() // such a key makes no blobs
	}
	return nil
}
