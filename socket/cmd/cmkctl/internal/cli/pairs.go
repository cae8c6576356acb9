package cli

import (
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// PairsUsage ends the help of a flag of [Pairs].
const PairsUsage = "`name=value`; repeatable, and a=1,b=2 is two pairs: quote one that has commas, '\"a=1,2\",b=3'"

// Pairs is a repeatable flag of NAME=VALUE. A NAME that is given twice is an
// error: which value was meant is not known. One flag may hold several pairs, as
// a line of CSV (RFC 4180). It implements [pflag.Value].
type Pairs map[string]string

// Set implements [pflag.Value].
func (p Pairs) Set(text string) error {
	fields := []string{text}
	if strings.Count(text, "=") > 1 || strings.HasPrefix(text, `"`) {
		var err error
		if fields, err = csv.NewReader(strings.NewReader(text)).Read(); err != nil {
			return fmt.Errorf("want NAME=VALUE, or several with commas between them, each in quotes if it has commas itself: %w", err)
		}
	}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok || name == "" {
			return fmt.Errorf("%q: want NAME=VALUE", field)
		}
		if _, again := p[name]; again {
			return fmt.Errorf("%s is given twice", name)
		}
		p[name] = value
	}
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
