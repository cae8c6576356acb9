package plugins

import (
	"context"

	"cmkd/backends"
)

// The calls that cross the boundary: one row each, used by both sides. To add
// one, add a row and its method of [Host] (forward.go). A number is never used
// again for something else. Quick calls share the workers of a plugin; slow
// ones have goroutines of their own, so that nobody waits for an RSA key.
var (
	info       = define(1, "Info", quick, backends.Backend.Info)
	createKey  = define(2, "CreateKey", slow, backends.Backend.CreateKey)
	checkKey   = define(3, "CheckKey", quick, backends.Backend.CheckKey)
	destroyKey = define(4, "DestroyKey", slow, backends.Backend.DestroyKey)
	listKeys   = define(5, "ListKeys", slow, backends.Backend.ListKeys)

	encrypt   = define(6, "Encrypt", quick, backends.Cipher.Encrypt)
	decrypt   = define(7, "Decrypt", quick, backends.Cipher.Decrypt)
	reEncrypt = define(8, "ReEncrypt", quick, backends.ReEncrypter.ReEncrypt)

	generateDataKey     = define(9, "GenerateDataKey", quick, backends.DataKeyMaker.GenerateDataKey)
	generateDataKeyPair = define(10, "GenerateDataKeyPair", slow, backends.DataKeyMaker.GenerateDataKeyPair)
	openDataKey         = define(11, "OpenDataKey", quick, backends.DataKeyMaker.OpenDataKey)
	generateRandom      = define(12, "GenerateRandom", quick, backends.Randomizer.GenerateRandom)

	sign        = define(13, "Sign", quick, backends.Signer.Sign)
	verify      = define(14, "Verify", quick, backends.Signer.Verify)
	generateMAC = define(15, "GenerateMAC", quick, backends.MACer.GenerateMAC)
	verifyMAC   = define(16, "VerifyMAC", quick, backends.MACer.VerifyMAC)

	deriveSharedSecret = define(17, "DeriveSharedSecret", quick, backends.Agreer.DeriveSharedSecret)
	importKey          = define(18, "ImportKey", slow, backends.Importer.ImportKey)
	encapsulate        = define(19, "Encapsulate", quick, backends.Encapsulator.Encapsulate)
	decapsulate        = define(20, "Decapsulate", quick, backends.Encapsulator.Decapsulate)
)

// pace says which lane of the plugin a call takes.
type pace int

const (
	quick pace = iota
	slow
)

// row is a call as the plugin's side needs it.
type row struct {
	id   byte
	name string
	pace pace
	// serve decodes the request in, calls the backend and returns its answer
	// for encoding, which the caller wipes. The request, and so the answer, may have parts
	// of in.
	serve func(ctx context.Context, b backends.Backend, in []byte) (any, error)
}

// maxAnswer is how many bytes an answer may have that is not a list: a thousand calls
// may be under way. The longest is a key pair.
const maxAnswer = 256 << 10

func (r *row) mostAnswer() int {
	if r.id == listKeys.id {
		return maxFrame
	}
	return maxAnswer
}

// method is the same with its types, as the daemon's side needs it.
type method[In, Out any] struct{ *row }

// rows has every row under its number. It is written by define only, while
// the package's variables are initialised.
var rows [256]*row

// define makes a row out of a method of one of the interfaces of backends.
// A backend without that interface answers Unsupported.
func define[B, In, Out any](id byte, name string, p pace, f func(B, context.Context, *In) (*Out, error)) method[In, Out] {
	r := &row{id: id, name: name, pace: p}
	r.serve = func(ctx context.Context, b backends.Backend, in []byte) (any, error) {
		impl, ok := b.(B)
		if !ok {
			return nil, backends.Errorf(backends.Unsupported, "this plugin does not do %s", name)
		}
		request := new(In)
		defer wipe(request)
		if err := decode(in, request); err != nil {
			return nil, backends.Errorf(backends.Internal, "the %s request does not decode", name)
		}
		answer, err := f(impl, ctx, request)
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
	if rows[id] != nil {
		panic("plugins: " + name + " has the number of " + rows[id].name)
	}
	rows[id] = r
	return method[In, Out]{r}
}
