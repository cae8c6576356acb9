package kms

import (
	"slices"
	"testing"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// TestOperations holds the table against the API model: each operation has a
// row, or stands in the list of those that are refused, and nothing else does.
func TestOperations(t *testing.T) {
	t.Parallel()
	var known []string
	for _, o := range kmsapi.Operations {
		known = append(known, o.Name)
		_, row := operations[o.Name]
		why, refused := unsupported[o.Name]
		switch {
		case row == refused:
			t.Errorf("%s: row %t, refused %t: want one of them", o.Name, row, refused)
		case refused && why == "":
			t.Errorf("%s is refused without a reason", o.Name)
		}
	}
	if len(known) != 56 {
		t.Errorf("the model has %d operations, want 56", len(known))
	}
	for name := range operations {
		if !slices.Contains(known, name) {
			t.Errorf("%s is not in the model", name)
		}
	}
	for name := range unsupported {
		if !slices.Contains(known, name) {
			t.Errorf("%s is refused and not in the model", name)
		}
	}
}

// TestStates: a row that reaches a key says something of every key state.
func TestStates(t *testing.T) {
	t.Parallel()
	for name, op := range operations {
		if op.refuses != "" && len(op.refuses) != 7 {
			t.Errorf("%s: %q has %d columns, want 7", name, op.refuses, len(op.refuses))
		}
	}
	for state, column := range stateColumns {
		if column > 6 {
			t.Errorf("%s: column %d", state, column)
		}
	}
}

// TestSpecs: every key spec of the model has its usages and their algorithms.
func TestSpecs(t *testing.T) {
	t.Parallel()
	for _, name := range kmsapi.KeySpec("").Values() {
		s, ok := specs[backends.KeySpec(name)]
		if !ok {
			if name != kmsapi.KeySpecSM2 {
				t.Errorf("%s is missing", name)
			}
			continue
		}
		for _, usage := range s.usages {
			if len(s.algorithms[usage]) == 0 {
				t.Errorf("%s has no algorithm for %s", name, usage)
			}
		}
		if len(s.algorithms) != len(s.usages) {
			t.Errorf("%s has %d usages and algorithms of %d", name, len(s.usages), len(s.algorithms))
		}
	}
}
