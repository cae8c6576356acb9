package backends

import "context"

// callerKey is the key of the value of WithCaller.
type callerKey struct{}

// WithCaller returns a context for calls that are made for the user with this
// uid. A plugin shares its time out among the callers, and a caller whose calls
// end plugin processes is cut off without the others. Calls without a caller
// are the daemon's own.
func WithCaller(ctx context.Context, uid uint32) context.Context {
	return &callerContext{ctx, uid}
}

// callerContext is a context.WithValue whose value needs no memory of its own.
type callerContext struct {
	context.Context
	uid uint32
}

// Value implements [context.Context].
func (c *callerContext) Value(key any) any {
	if _, ok := key.(callerKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// CallerOf returns the uid that [WithCaller] has set; ok is false without one.
func CallerOf(ctx context.Context) (uid uint32, ok bool) {
	if c, ok := ctx.Value(callerKey{}).(*callerContext); ok {
		return c.uid, true
	}
	return 0, false
}

// Keyed is a request about a key.
type Keyed interface {
	// Subject is the key that does the work.
	Subject() *Key
}

// Subject implements [Keyed].
func (r *CreateKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *CheckKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *DestroyKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *EncryptRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *DecryptRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed]. It is the source, whose ciphertext is the input
// that somebody may have tampered with.
func (r *ReEncryptRequest) Subject() *Key { return &r.Source }

// Subject implements [Keyed].
func (r *GenerateDataKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *GenerateDataKeyPairRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *OpenDataKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *SignRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *VerifyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *MACRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *VerifyMACRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *DeriveSharedSecretRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *ImportKeyRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *EncapsulateRequest) Subject() *Key { return &r.Key }

// Subject implements [Keyed].
func (r *DecapsulateRequest) Subject() *Key { return &r.Key }
