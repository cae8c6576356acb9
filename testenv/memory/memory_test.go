package memory_test

import (
	"bytes"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/testenv/memory"
)

// TestMemory: the token in memory behaves as the real ones do.
func TestMemory(t *testing.T) {
	t.Parallel()
	m := memory.New()
	backendstest.Run(t, backendstest.Rig{
		Open: func(testing.TB) backends.Backend { return m },
		Inject: func(_ testing.TB, key backends.Key, value []byte) {
			m.Put(key, "cmkd:injected:1", bytes.Clone(value))
		},
	})
}
