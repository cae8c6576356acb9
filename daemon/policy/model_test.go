package policy

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// apiModel is the part of the API model that concerns this package.
func apiModel(tb testing.TB) (grantOperations []string) {
	tb.Helper()
	text, err := os.ReadFile("../../socket/kmsapi/model.json")
	if err != nil {
		tb.Fatal(err)
	}
	var model struct {
		Shapes struct {
			GrantOperation struct{ Enum []string }
		}
	}
	if err := json.Unmarshal(text, &model); err != nil {
		tb.Fatal(err)
	}
	return slices.Sorted(slices.Values(model.Shapes.GrantOperation.Enum))
}

func TestGrantOperationsAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	want := apiModel(t)
	var got []string
	all := GrantOperations(0)
	for _, op := range grantOperations {
		got = append(got, op.Name)
		one := operations(t, op.Name)
		if one.String() != op.Name || !one.Has(op.Name) || all&one != 0 {
			t.Errorf("operation %s is %v", op.Name, one)
		}
		all |= one
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("grant operations\n%v\nwant\n%v", got, want)
	}
	if _, err := ParseGrantOperations([]string{"Decrypt", "PutKeyPolicy"}); err == nil || all.Has("PutKeyPolicy") {
		t.Error("PutKeyPolicy passes for a grant operation")
	}
}
