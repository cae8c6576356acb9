package tokens

import (
	"fmt"
	"os"
	"time"
)

// waitFor waits for a file, or for the end of the process that is to make it.
func waitFor(path string, ended <-chan error) error {
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("ended before it was ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("no %s after %v", path, limit)
}
