package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// The TOML library has one untyped error for values of the wrong kind, in terms of Go.
var (
	placedFault = regexp.MustCompile(`^toml: (?:line ([0-9]+) )?\(last key "([^"]*)"\): (.*)$`)
	wrongKind   = regexp.MustCompile(`^incompatible types: TOML value has type (.+); destination has type (.+)$`)
	noTable     = regexp.MustCompile(`^type mismatch for .+: expected table but found (.+)$`)
	outOfRange  = regexp.MustCompile(`^(.+) is out of (?:the safe \S+ range|range for \S+)$`)
)

// configFault says what is wrong with the configuration in the words of TOML. What it
// does not know it leaves as it is.
func configFault(err error) error {
	if syntax, ok := errors.AsType[toml.ParseError](err); ok {
		if m := outOfRange.FindStringSubmatch(syntax.Message); m != nil {
			return fmt.Errorf("%s in line %d: the number %s is too large", syntax.LastKey, syntax.Position.Line, m[1])
		}
		return err
	}
	placed := placedFault.FindStringSubmatch(err.Error())
	if placed == nil {
		return err
	}
	line, key, fault := placed[1], placed[2], placed[3]
	if line != "" {
		line = " in line " + line
	}
	if m := wrongKind.FindStringSubmatch(fault); m != nil {
		return fmt.Errorf("%s%s must be %s, not %s", key, line, tomlKind(m[2]), tomlKind(m[1]))
	}
	if m := noTable.FindStringSubmatch(fault); m != nil {
		return fmt.Errorf("%s%s must be a table, not %s", key, line, tomlKind(m[1]))
	}
	return err
}

// checkKinds refuses values of the wrong kind that the library takes: it leaves a table
// empty, and a number would be nanoseconds.
func checkKinds(meta *toml.MetaData) error {
	for _, key := range meta.Keys() {
		kind := meta.Type(key...)
		switch key[len(key)-1] {
		case "tags", "env", "request_rates":
			if kind != "Hash" {
				return fmt.Errorf("%s must be a table", key)
			}
		case "unavailable_after", "max_staleness":
			if kind != "String" {
				return fmt.Errorf("%s must be a string with a unit, like \"30s\"", key)
			}
		}
	}
	return nil
}

// tomlKind names a kind of value by the library's name for it.
func tomlKind(name string) string {
	switch {
	case strings.HasPrefix(name, "map"):
		return "a table"
	case strings.HasPrefix(name, "[]"), name == "slice":
		return "a list"
	case strings.HasPrefix(name, "int"):
		return "a whole number"
	case strings.HasPrefix(name, "float"):
		return "a number"
	case strings.HasPrefix(name, "bool"):
		return "true or false"
	case name == "time.Time":
		return "a date"
	}
	return "a string in quotes" // also "primitive (string-like)"
}
