package daemon

import (
	"fmt"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
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
