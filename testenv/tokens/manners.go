package tokens

import (
	_ "embed"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/shim"
)

//go:embed module/manners.c
var mannersModule []byte

// manners are products that Debian does not have, by what is published of them or was
// seen, before SoftHSM2.
var manners = []*Rig{
	{Name: "cloudhsm", About: "AWS CloudHSM's manners: its own IVs and key wrap, no second CKA_ID", new: newCloudHSM},
	{Name: "kryoptic", About: "kryoptic's manners: a device error for bad input", Few: true, new: withManners("KRYOPTIC")},
	{Name: "luna", About: "Luna's manners: private keys are not wrapped, EXTRACTABLE is forced", Few: true, new: withManners("LUNA")},
	{Name: "nshield", About: "nShield's manners: risky templates, sensitive imports and changes are refused", Few: true, new: withManners("NSHIELD")},
	{Name: "short-labels", About: "a token whose labels are 40 capital letters and digits", new: newShortLabels},
}

func withManners(product string) func(testing.TB, string, string) *testenv.Token {
	return func(t testing.TB, dir, label string) *testenv.Token {
		t.Helper()
		tok := testenv.NewSoftHSM2(t, dir, label)
		tok.Env = append(tok.Env, "CMKD_MANNERS_MODULE="+tok.Module)
		tok.Module = shim.Compile(t, "manners", mannersModule, "-Wno-unused-function", "-D"+product)
		return tok
	}
}

func newCloudHSM(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	return shimmed(t, dir, label, func(c *shim.Control) { c.CloudHSM(true) })
}

func newShortLabels(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	return shimmed(t, dir, label, func(c *shim.Control) { c.Manners(shim.ShortLabels) })
}

// shimmed is SoftHSM2 with manners of package shim.
func shimmed(t testing.TB, dir, label string, set func(*shim.Control)) *testenv.Token {
	t.Helper()
	tok := testenv.NewSoftHSM2(t, dir, label)
	m := shim.New(t, tok.Module)
	set(m.Control)
	tok.Module, tok.Env = m.Path, append(tok.Env, m.Env...)
	return tok
}
