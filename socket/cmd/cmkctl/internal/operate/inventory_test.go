package operate

import (
	"bytes"
	"encoding/json"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// TestWholeInventory: what the daemon leaves out while it is empty is there for scripts.
func TestWholeInventory(t *testing.T) {
	t.Parallel()
	p := cli.Printer{Output: cli.Choice{Value: cli.AsJSON}}
	answer := &inventory{Found: []*operatorapi.FoundKey{{KeyID: "k", Versions: []int{1}}}}
	want := `{"away":null,"missing":null,"unsafe":null,"found":[{"keyId":"k","token":"","versions":[1],"spec":"","usage":"","imported":false,"known":false,"problem":"","recovered":false}],"duplicates":null,"leftovers":null}`
	var out, got bytes.Buffer
	if err := p.PrintAs(&out, answer, nil); err != nil {
		t.Fatal(err)
	}
	if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != want {
		t.Errorf("%s, want %s, %v", got.String(), want, err)
	}
}
