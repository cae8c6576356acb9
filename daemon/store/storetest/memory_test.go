package storetest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) Database { return NewDisk() })
}

func TestSharedMemory(t *testing.T) {
	t.Parallel()
	Run(t, func(*testing.T) Database { return NewSharedDisk() })
}
