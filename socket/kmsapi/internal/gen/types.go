package main

import (
	"fmt"
	"slices"
	"strings"
)

// enums writes the enum types, their constants and the lists of their values in the model's order.
func (w *writer) enums() {
	for _, name := range w.Shapes.names {
		s := w.Shapes.by[name]
		if s.Enum == nil {
			continue
		}
		w.line("// %s is an enum of the API.", name)
		w.line("type %s string\n", name)
		w.line("const (")
		for _, v := range s.Enum {
			w.line("%s %s = %q", constant(name, v), name, v)
		}
		w.line(")\n")
		w.line("// Values lists all values of the type.")
		w.line("func (%s) Values() []%[1]s { return slices.Clone(%s) }\n", name, valuesOf(name))
		w.line("var %s = []%s{", valuesOf(name), name)
		for _, v := range s.Enum {
			w.line("%s,", constant(name, v))
		}
		w.line("}\n")
	}
	w.imports("slices")
}

func valuesOf(enum string) string { return lowerCamel(enum) + "Values" }

// types writes the structures.
func (w *writer) types() {
	inputs, outputs := w.operationsBy(func(o operation) string { return o.Input.Shape }), w.operationsBy(func(o operation) string { return o.Output.Shape })
	w.structures(func(name string, s shape) {
		switch {
		case inputs[name] != nil:
			w.line("// %s is the input of %s.", name, strings.Join(inputs[name], " and "))
		case outputs[name] != nil:
			w.line("// %s is the output of %s.", name, strings.Join(outputs[name], " and "))
		default:
			w.line("// %s is a structure of the API.", name)
		}
		w.line("type %s struct {", name)
		for _, member := range s.Members.names {
			of := s.Members.by[member].Shape
			w.line("%s %s%s", member, w.memberType(member, of), w.limits(of, slices.Contains(s.Required, member)))
		}
		w.line("}\n")
	})
	w.imports("time")
}

// operationsBy groups the operations' names by one of their shapes.
func (w *writer) operationsBy(shape func(operation) string) map[string][]string {
	by := map[string][]string{}
	for _, name := range w.Operations.names {
		s := shape(w.Operations.by[name])
		by[s] = append(by[s], name)
	}
	return by
}

// limits is a comment on what a member may hold.
func (w *writer) limits(of string, required bool) string {
	s, units := w.Shapes.by[of], map[string]string{"string": " characters", "blob": " bytes", "list": " items"}
	var says []string
	if required {
		says = append(says, "required")
	}
	if unit := units[s.Type]; s.Max > 0 {
		says = append(says, fmt.Sprintf("%d to %d%s", s.Min, s.Max, unit))
	}
	if s.Sensitive {
		says = append(says, "secret")
	}
	if says == nil {
		return ""
	}
	return " // " + strings.Join(says, ", ")
}

// imports puts an import declaration in front of what is written so far.
func (w *writer) imports(paths ...string) {
	var b strings.Builder
	b.WriteString("import (\n")
	for _, p := range paths {
		if p == "" {
			b.WriteString("\n")
			continue
		}
		fmt.Fprintf(&b, "%q\n", p)
	}
	b.WriteString(")\n\n")
	rest := w.out.String()
	w.out.Reset()
	w.out.WriteString(b.String() + rest)
}
