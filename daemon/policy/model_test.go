package policy

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
)

// apiModel is the part of the API model that concerns this package.
func apiModel(tb testing.TB) (operations, grantOperations []string) {
	tb.Helper()
	text, err := os.ReadFile("../../socket/kmsapi/model.json")
	if err != nil {
		tb.Fatal(err)
	}
	var model struct {
		Operations map[string]any
		Shapes     struct {
			GrantOperation struct{ Enum []string }
		}
	}
	if err := json.Unmarshal(text, &model); err != nil {
		tb.Fatal(err)
	}
	return slices.Sorted(maps.Keys(model.Operations)), slices.Sorted(slices.Values(model.Shapes.GrantOperation.Enum))
}

func TestActionsAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	want, _ := apiModel(t)
	want = slices.DeleteFunc(want, func(name string) bool { return name == "ReEncrypt" })
	want = append(want, "ReEncryptFrom", "ReEncryptTo")
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(actionNames[:])); !slices.Equal(got, want) {
		t.Errorf("actions\n%v\nwant\n%v", got, want)
	}
}

func TestGrantOperationsAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	_, want := apiModel(t)
	var got []string
	all := GrantOperations(0)
	for _, op := range grantOperations {
		got = append(got, op.name)
		one := operations(t, op.name)
		if one.String() != op.name || !one.Has(op.name) || all&one != 0 {
			t.Errorf("operation %s is %v", op.name, one)
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
