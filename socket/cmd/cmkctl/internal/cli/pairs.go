package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Pairs is a repeatable flag of NAME=VALUE. VALUE is all that follows the first =. A NAME
// that is given twice is an error: which value was meant is not known. It implements
// [pflag.Value].
type Pairs map[string]string

// Set implements [pflag.Value].
func (p Pairs) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q: want NAME=VALUE", text)
	}
	if _, again := p[name]; again {
		return fmt.Errorf("%s is given twice", name)
	}
	p[name] = value
	return nil
}

// String implements [pflag.Value].
func (p Pairs) String() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(p)) {
		list = append(list, name+"="+p[name])
	}
	return strings.Join(list, ",")
}

// Type implements [pflag.Value].
func (p Pairs) Type() string { return "name=value" }
