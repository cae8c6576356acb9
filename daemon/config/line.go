package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"

	"cmkd/daemon/trustedfile"
)

// lineOf says in which line of the file a key is, as far as that is easily seen:
// not in inline tables.
func lineOf(path string, key toml.Key) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	table, number := "", 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		name, _, isValue := strings.Cut(line, "=")
		if header, ok := strings.CutPrefix(line, "["); ok {
			table, _, _ = strings.Cut(strings.TrimPrefix(header, "["), "]")
			table = strings.TrimSpace(table)
			name, isValue = "", true
		}
		if found := strings.Trim(table+"."+strings.Trim(strings.TrimSpace(name), `"'`), "."); isValue && found == key.String() {
			return fmt.Sprintf(" in line %d", number)
		}
	}
	return ""
}

// maxConfig is the longest configuration file in bytes.
const maxConfig = 16 << 20

// readConfig reads the file, which says who is an administrator and what runs, where
// nobody but root and the daemon's user can have written it.
func readConfig(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	text, err := trustedfile.Read(path, maxConfig+1)
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("it is longer than %d MiB", maxConfig>>20)
	}
	if err != nil {
		return "", fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	return string(text), nil
}
