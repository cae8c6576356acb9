package keys

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// TestActions compares the table with the API model: each operation has a row, ReEncrypt
// two, and nothing else does.
func TestActions(t *testing.T) {
	t.Parallel()
	var operations, rows []string
	for _, o := range kmsapi.Operations {
		operations = append(operations, o.Name)
		if ActionOf(o.Name) == nil {
			t.Errorf("%s has no row", o.Name)
		}
	}
	for i := range Actions {
		a := &Actions[i]
		rows = append(rows, a.Operation())
		if ActionNamed(a.Name) != a || ActionFolded("KMS:"+strings.ToUpper(a.Name)) != a {
			t.Errorf("%s is not found by its name", a.Name)
		}
		if a.Grant == OnUsage && a.Usage == "" {
			t.Errorf("%s: a grant depends on the usage, and it has none", a.Name)
		}
	}
	operations = append(operations, "ReEncrypt")
	slices.Sort(operations)
	if slices.Sort(rows); !slices.Equal(rows, operations) {
		t.Errorf("rows\n%v\nwant\n%v", rows, operations)
	}
	if from, to := ActionOf("ReEncrypt"), ActionNamed("ReEncryptTo"); from.Name != "ReEncryptFrom" || to.Operation() != "ReEncrypt" {
		t.Errorf("ReEncrypt needs %s first, and %s is of %s", from.Name, to.Name, to.Operation())
	}
	if len(Actions) > 64 {
		t.Errorf("%d actions: policies are compiled to sets of 64", len(Actions))
	}
}

// TestMembers: what a row says of members of the request, the request has.
func TestMembers(t *testing.T) {
	t.Parallel()
	for i := range Actions {
		a := &Actions[i]
		op := kmsapi.Operations[slices.IndexFunc(kmsapi.Operations, func(o kmsapi.Operation) bool { return o.Name == a.Operation() })]
		in := reflect.TypeOf(op.NewInput()).Elem()
		members := []string{a.Context}
		for _, c := range a.Conditions {
			members = append(members, c.Member)
			if c.Preset && (c.Member == "" || c.Default == "") {
				t.Errorf("%s: %s is preset, and has no member or no default", a.Name, c.Key)
			}
		}
		for _, member := range members {
			if member == "" {
				continue
			}
			if _, ok := in.FieldByName(strings.ToUpper(member[:1]) + member[1:]); !ok {
				t.Errorf("%s has no member %s", in.Name(), member)
			}
		}
	}
}

// TestStates: a row that reaches a key says something of every key state.
func TestStates(t *testing.T) {
	t.Parallel()
	for i := range Actions {
		if r := Actions[i].Refuses; r != "" && len(r) != 7 {
			t.Errorf("%s: %q has %d columns, want 7", Actions[i].Name, r, len(r))
		}
	}
	for _, state := range State("").Values() {
		if !KnownState(state) || columns[state] > 6 {
			t.Errorf("%s: column %d", state, columns[state])
		}
	}
}

// TestSpecs: every key spec of the model has its usages and their algorithms.
func TestSpecs(t *testing.T) {
	t.Parallel()
	for _, name := range kmsapi.KeySpec("").Values() {
		s, ok := Specs[backends.KeySpec(name)]
		if !ok {
			if name != kmsapi.KeySpecSM2 {
				t.Errorf("%s is missing", name)
			}
			continue
		}
		for _, usage := range s.Usages {
			if len(s.Algorithms[usage]) == 0 {
				t.Errorf("%s has no algorithm for %s", name, usage)
			}
		}
		if len(s.Algorithms) != len(s.Usages) {
			t.Errorf("%s has %d usages and algorithms of %d", name, len(s.Usages), len(s.Algorithms))
		}
	}
}
