// Package stream is what the daemon and a plugin process say to each other once the plugin
// is open: the methods of package backends, one row each, their messages in CBOR, the
// frames that carry them, and the daemon's end of the stream of frames ([Link]).
package stream

import (
	"context"

	"cmkd/backends"
)

// The calls that cross the boundary: one row each, used by both sides. To add
// one, add a row and its method of Calls (plugins/forward.go). A number is never used
// again for something else. Quick calls share the workers of a plugin; slow
// ones have goroutines of their own, so that nobody waits for an RSA key.
var (
	Info       = define(1, "Info", quick, backends.Backend.Info)
	CreateKey  = define(2, "CreateKey", Slow, backends.Backend.CreateKey)
	CheckKey   = define(3, "CheckKey", quick, backends.Backend.CheckKey)
	DestroyKey = define(4, "DestroyKey", Slow, backends.Backend.DestroyKey)
	ListKeys   = define(5, "ListKeys", Slow, backends.Backend.ListKeys)

	Encrypt   = define(6, "Encrypt", quick, backends.Cipher.Encrypt)
	Decrypt   = define(7, "Decrypt", quick, backends.Cipher.Decrypt)
	ReEncrypt = define(8, "ReEncrypt", quick, backends.ReEncrypter.ReEncrypt)

	GenerateDataKey     = define(9, "GenerateDataKey", quick, backends.DataKeyMaker.GenerateDataKey)
	GenerateDataKeyPair = define(10, "GenerateDataKeyPair", Slow, backends.DataKeyMaker.GenerateDataKeyPair)
	OpenDataKey         = define(11, "OpenDataKey", quick, backends.DataKeyMaker.OpenDataKey)
	GenerateRandom      = define(12, "GenerateRandom", quick, backends.Randomizer.GenerateRandom)

	Sign        = define(13, "Sign", quick, backends.Signer.Sign)
	Verify      = define(14, "Verify", quick, backends.Signer.Verify)
	GenerateMAC = define(15, "GenerateMAC", quick, backends.MACer.GenerateMAC)
	VerifyMAC   = define(16, "VerifyMAC", quick, backends.MACer.VerifyMAC)

	DeriveSharedSecret = define(17, "DeriveSharedSecret", quick, backends.Agreer.DeriveSharedSecret)
	ImportKey          = define(18, "ImportKey", Slow, backends.Importer.ImportKey)
	Encapsulate        = define(19, "Encapsulate", quick, backends.Encapsulator.Encapsulate)
	Decapsulate        = define(20, "Decapsulate", quick, backends.Encapsulator.Decapsulate)
)

// pace says which lane of the plugin a call takes.
type pace int

const (
	quick pace = iota
	Slow
)

// Row is a call as the plugin's side needs it.
type Row struct {
	ID   byte
	Name string
	Pace pace
	// serve decodes the request in, calls the backend and returns its answer
	// for encoding, which the caller wipes. The request, and so the answer, may have parts
	// of in.
	Serve func(ctx context.Context, b backends.Backend, in []byte) (any, error)
}

// MaxAnswer is how many bytes an answer may have that is not a list: a thousand calls
// may be under way. The longest is a key pair.
const MaxAnswer = 256 << 10

func (r *Row) mostAnswer() int {
	if r.ID == ListKeys.ID {
		return MaxFrame
	}
	return MaxAnswer
}

// Method is the same with its types, as the daemon's side needs it.
type Method[In, Out any] struct{ *Row }

// Rows has every row under its number. It is written by define only, while
// the package's variables are initialised.
var Rows [256]*Row

// define makes a row out of a method of one of the interfaces of backends.
// A backend without that interface answers Unsupported.
func define[B, In, Out any](id byte, name string, p pace, f func(B, context.Context, *In) (*Out, error)) Method[In, Out] {
	r := &Row{ID: id, Name: name, Pace: p}
	r.Serve = func(ctx context.Context, b backends.Backend, in []byte) (any, error) {
		impl, ok := b.(B)
		if !ok {
			return nil, backends.Errorf(backends.Unsupported, "this plugin does not do %s", name)
		}
		request := new(In)
		defer Wipe(request)
		if err := decode(in, request); err != nil {
			return nil, backends.Errorf(backends.Internal, "the %s request does not decode", name)
		}
		answer, err := f(impl, ctx, request)
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
	if Rows[id] != nil {
		panic("plugins: " + name + " has the number of " + Rows[id].Name)
	}
	Rows[id] = r
	return Method[In, Out]{r}
}

// MakesKey says whether the call leaves a key in the token, under a CKA_ID.
func (r *Row) MakesKey() bool { return r == CreateKey.Row || r == ImportKey.Row }

// Creates reports whether calls of the row make keys.
func (r *Row) Creates() bool { return r == CreateKey.Row || r == GenerateDataKeyPair.Row }
