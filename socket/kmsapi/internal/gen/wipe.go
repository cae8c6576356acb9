package main

import "slices"

// wipers writes, for the inputs and outputs, what overwrites their secrets: the
// blobs that the model marks sensitive, nested ones included. Its sensitive strings
// are not among them, since Go's strings cannot be overwritten: they are of custom key
// stores that cmkd does not have, or that it asks no password for.
func (w *writer) wipers() {
	outputs := w.outputs()
	w.structures(func(name string, s shape) {
		inOrOut, receiver := slices.Contains(outputs, name), "in"
		if inOrOut {
			receiver = "out"
		}
		inOrOut = inOrOut || slices.Contains(w.inputs(), name)
		if !inOrOut && !w.wiped(name) {
			return
		}
		if !w.wiped(name) {
			w.line("// Wipe does nothing: the structure has no secrets.")
			w.line("func (*%s) Wipe() {}\n", name)
			return
		}
		w.line("// Wipe overwrites what the structure has secret.")
		w.line("func (%s *%s) Wipe() {", receiver, name)
		for _, member := range s.Members.names {
			of := s.Members.by[member].Shape
			switch {
			case !w.wiped(of):
			case w.Shapes.by[of].Type == "blob":
				w.line("clear(%s.%s)", receiver, member)
			default:
				w.line("if %s.%s != nil {\n%[1]s.%[2]s.Wipe()\n}", receiver, member)
			}
		}
		w.line("}\n")
	})
}

// wiped reports whether values of the shape have something to wipe.
func (w *writer) wiped(of string) bool {
	switch s := w.Shapes.by[of]; s.Type {
	case "blob":
		return s.Sensitive
	case "structure":
		return slices.ContainsFunc(s.Members.names, func(m string) bool { return w.wiped(s.Members.by[m].Shape) })
	}
	return false
}
