package policy

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/extrausers"
	"cmkd/testenv/rig"
)

// TestNamesOfTheSystem: users whom only another source than the files knows are who
// policies name, and nobody while it does not answer.
func TestNamesOfTheSystem(t *testing.T) {
	t.Parallel()
	source := extrausers.New(t)
	r := rig.New(t, rig.Config{World: true, Tables: "[names]\nsource = \"system\"\ngetent = \"" + source.Getent + "\"\ncache = \"1ns\"\ntimeout = \"1m\"\n[admins]\ngroups = [\"others\"]\n"})
	lea := rig.User{UID: 62001, GID: 62101}
	policy := rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing("arn:aws:iam::"+rig.Account+":user/lea", `"kms:Encrypt"`, ""))
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{Policy: policy})
	rig.Outcome(t, "lea", rig.EncryptWith(t, r.As(t, lea), id), "")
	rig.Outcome(t, "an administrator by her group", rig.ErrOf(r.As(t, rig.User{UID: 62009, GID: 62102}).CreateKey(t.Context(), &kms.CreateKeyInput{})), "")
	rig.Outcome(t, "one without a name", rig.EncryptWith(t, r.As(t, rig.User{UID: 62010, GID: 62010}), id), "AccessDeniedException")
	if out, ok := rig.Cmkctl(t, r, "policy", "explain", "--action", "kms:Encrypt", "--key", id, "--as", "lea"); !ok || !strings.Contains(out, "user/lea") {
		t.Errorf("explained: %s", out)
	}

	source.Silence(t)
	if err := r.Daemon.Reload(t.Context()); err != nil { // what is named in the configuration has been seen
		t.Fatal(err)
	}
	rig.Outcome(t, "lea, while nobody knows her", rig.EncryptWith(t, r.As(t, lea), id), "KMSInternalException")
	rig.Outcome(t, "root", rig.EncryptWith(t, r.Client(""), id), "")
	rig.Outcome(t, "one who has never been seen", rig.EncryptWith(t, r.As(t, rig.User{UID: 62011, GID: 62011}), id), "AccessDeniedException")
	if out, _ := rig.Cmkctl(t, r, "status"); !strings.Contains(out, "names cannot be told") {
		t.Errorf("the status: %s", out)
	}
	if !strings.Contains(r.AuditTrail(t), `"errorMessage":"the names of the caller and its groups cannot be resolved now"`) {
		t.Error("the refusal is not recorded")
	}
	source.Answer(t)
	if err := r.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	rig.Outcome(t, "lea again", rig.EncryptWith(t, r.As(t, lea), id), "")
}
