package scale

import (
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// startTimes are those of a start and of a bare listing of the token, the fastest of some in
// turns: what else the machine does only adds to them. The daemon runs afterwards.
func startTimes(t *testing.T, r *rig.Rig, rounds int) (start, bare time.Duration) {
	t.Helper()
	for round := range rounds {
		if round > 0 {
			if err := r.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		bareListing(t, r.Token)
		listed := time.Now()
		r.Start(t)
		took := [2]time.Duration{time.Since(listed), listed.Sub(begun)}
		if round == 0 || took[0] < start {
			start = took[0]
		}
		if round == 0 || took[1] < bare {
			bare = took[1]
		}
	}
	return start, bare
}

// bareListing is what no program can do without that wants to know what is in the token: it
// loads the module, logs in, searches for all objects and reads the CKA_ID of each.
func bareListing(t *testing.T, tok *testenv.Token) {
	t.Helper()
	ctx := p11.New(tok.Module)
	if ctx == nil {
		t.Fatalf("loading %s", tok.Module)
	}
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ctx.Finalize(); err != nil {
			t.Error(err)
		}
	}()
	_, s := tok.Objects(t)
	if err := ctx.Login(s, p11.CKU_USER, strings.TrimSpace(tok.PIN)); err != nil {
		t.Fatal(err)
	}
	if err := ctx.FindObjectsInit(s, nil); err != nil {
		t.Fatal(err)
	}
	var all []p11.ObjectHandle
	for {
		some, _, err := ctx.FindObjects(s, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if _, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, nil)}); err != nil {
			t.Fatal(err)
		}
	}
}
