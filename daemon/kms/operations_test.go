package kms

import (
	"slices"
	"testing"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// TestOperations compares the table with the API model: each operation has a row, and
// nothing else does.
func TestOperations(t *testing.T) {
	t.Parallel()
	var known []string
	for _, o := range kmsapi.Operations {
		known = append(known, o.Name)
		if _, ok := operations[o.Name]; !ok {
			t.Errorf("%s has no row", o.Name)
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
