package policy

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// TestMappedUnit: a systemd unit is a role, whoever it runs as, and no other
// process of that user is.
func TestMappedUnit(t *testing.T) {
	t.Parallel()
	unit := "cmkd-test-" + strconv.Itoa(os.Getpid()) + "@1.service"
	r := rig.New(t, rig.Config{World: true, Tables: fmt.Sprintf("[[principals.map]]\nunit = %q\narn = %q\n",
		strings.Replace(unit, "@1.", "@.", 1), backupRole)})
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(backupRole, `"kms:Encrypt"`, ""))})
	call := func(prefix []string, operation, body string) string {
		t.Helper()
		args := append(prefix, "curl", "-s", "--unix-socket", r.Socket, "-H", "X-Amz-Target: TrentService."+operation, "-d", body, "http://localhost/")
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl: %v\n%s", err, out)
		}
		return string(out)
	}
	describe, encrypt := fmt.Sprintf(`{"KeyId":%q}`, id), fmt.Sprintf(`{"KeyId":%q,"Plaintext":"eA=="}`, id)
	if got := call(nil, "DescribeKey", describe); !strings.Contains(got, "KeyMetadata") {
		t.Errorf("root outside of the unit: %s", got)
	}
	dir, ok := testenv.Cgroup(t, unit)
	if !ok {
		t.Log("no control group can be made here: only a caller outside of the unit was looked at")
		return
	}
	in := func() []string { return []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, dir} }
	if got := call(in(), "Encrypt", encrypt); !strings.Contains(got, "CiphertextBlob") {
		t.Errorf("the unit encrypts: %s", got)
	}
	if got := call(in(), "DescribeKey", describe); !strings.Contains(got, rig.Denied) || !strings.Contains(got, "assumed-role/backup/root") {
		t.Errorf("the unit runs as root and is not root: %s", got)
	}
}
