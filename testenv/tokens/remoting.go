package tokens

import (
	"testing"

	"cmkd/testenv"
	p11kit "cmkd/testenv/p11kit"
)

// remoting is SoftHSM2 in another process, by p11-kit's remoting as it is. It carries
// the mechanisms that p11-kit knows, without AES-GCM and AES key wrap.
var remoting = &Rig{
	Name: "p11-kit", About: "p11-kit remoting of Debian 12, on SoftHSM2", new: newP11Kit,
}

func newP11Kit(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	remote := p11kit.Plain(t, testenv.NewSoftHSM2(t, dir, label))
	remote.Sandbox = quoted("sandbox = { network = true }")
	return remote
}
