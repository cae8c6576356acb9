package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// model is the part of an API model (version 2.0 of the AWS "c2j" format) that this generator reads.
type model struct {
	Operations ordered[operation] `json:"operations"`
	Shapes     ordered[shape]     `json:"shapes"`
}

type operation struct {
	Input  ref   `json:"input"`
	Output ref   `json:"output"`
	Errors []ref `json:"errors"`

	noOutput bool // the model has none; Output is an empty structure made up here
}

type shape struct {
	Type      string       `json:"type"`
	Required  []string     `json:"required"`
	Members   ordered[ref] `json:"members"`
	Member    ref          `json:"member"`
	Enum      []string     `json:"enum"`
	Min       int64        `json:"min"`
	Max       int64        `json:"max"`
	Pattern   string       `json:"pattern"`
	Sensitive bool         `json:"sensitive"`
	Exception bool         `json:"exception"`
	Fault     bool         `json:"fault"`
}

type ref struct {
	Shape string `json:"shape"`
}

// ordered is a JSON object that remembers the order of its members.
type ordered[T any] struct {
	names []string
	by    map[string]T
}

func (o *ordered[T]) UnmarshalJSON(b []byte) error {
	o.by = map[string]T{}
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil { // {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		o.names = append(o.names, name.(string))
		o.by[name.(string)] = v
	}
	return nil
}

func readModel(file string) (*model, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var m model
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	slices.Sort(m.Operations.names)
	slices.Sort(m.Shapes.names)
	m.addEmptyStructures()
	return &m, m.check()
}

// addEmptyStructures gives each operation that has none an input or output without members.
func (m *model) addEmptyStructures() {
	for _, name := range m.Operations.names {
		op := m.Operations.by[name]
		if op.Input.Shape == "" {
			op.Input.Shape = m.addStructure(name + "Request")
		}
		if op.Output.Shape == "" {
			op.Output.Shape, op.noOutput = m.addStructure(name+"Response"), true
		}
		m.Operations.by[name] = op
	}
}

func (m *model) addStructure(name string) string {
	m.Shapes.by[name] = shape{Type: "structure"}
	i, _ := slices.BinarySearch(m.Shapes.names, name)
	m.Shapes.names = slices.Insert(m.Shapes.names, i, name)
	return name
}

// check refuses a model with something that the generated code would silently get wrong.
func (m *model) check() error {
	for _, name := range m.Shapes.names {
		s := m.Shapes.by[name]
		switch s.Type {
		case "integer":
			if s.Max == 0 {
				return fmt.Errorf("integer %s has no range: the decoder relies on one to refuse numbers beyond int32", name)
			}
		case "list":
			switch item := m.Shapes.by[s.Member.Shape]; {
			case item.Type != "string" && item.Type != "structure":
				return fmt.Errorf("%s is a list of %s", name, item.Type)
			case (&writer{model: m}).wiped(s.Member.Shape):
				return fmt.Errorf("%s is a list of secrets, which nothing wipes", name)
			}
		case "structure":
			if len(s.Members.names) > 64 {
				return fmt.Errorf("%s has more members than a set of 64 bits holds", name)
			}
			for _, member := range s.Members.names {
				if _, known := m.Shapes.by[s.Members.by[member].Shape]; !known {
					return fmt.Errorf("%s.%s is of an unknown shape", name, member)
				}
			}
		case "string", "blob", "boolean", "timestamp", "map":
		default:
			return fmt.Errorf("%s is of an unknown type %q", name, s.Type)
		}
	}
	return nil
}

// structures calls visit for each structure that is not an exception, by name.
func (m *model) structures(visit func(name string, s shape)) {
	for _, name := range m.Shapes.names {
		if s := m.Shapes.by[name]; s.Type == "structure" && !s.Exception {
			visit(name, s)
		}
	}
}

// reachable is the set of all shapes that values of the given shapes may contain.
func (m *model) reachable(from ...string) map[string]bool {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if name == "" || seen[name] {
			return
		}
		seen[name] = true
		s := m.Shapes.by[name]
		visit(s.Member.Shape)
		for _, member := range s.Members.names {
			visit(s.Members.by[member].Shape)
		}
	}
	for _, name := range from {
		visit(name)
	}
	return seen
}

func (m *model) inputs() (names []string) {
	for _, name := range m.Operations.names {
		names = append(names, m.Operations.by[name].Input.Shape)
	}
	return names
}

func (m *model) outputs() (names []string) {
	for _, name := range m.Operations.names {
		names = append(names, m.Operations.by[name].Output.Shape)
	}
	return names
}
