package main

// errors writes the error codes of the model.
func (w *writer) errors() {
	w.line("// Codes of the errors that the model lists. Each value is the name that clients type on.")
	w.line("const (")
	for _, name := range w.Shapes.names {
		if w.Shapes.by[name].Exception {
			w.line("Code%s = %[1]q", name)
		}
	}
	w.line(")\n")
	w.line("// isFault says whether the model calls the error a fault of the service.")
	w.line("func isFault(code string) bool {")
	w.line("switch code {")
	for _, name := range w.Shapes.names {
		if w.Shapes.by[name].Fault {
			w.line("case Code%s:\nreturn true", name)
		}
	}
	w.line("}\nreturn false\n}")
}

// operations writes the table of operations.
func (w *writer) operations() {
	w.line("// Operations are all operations of the API, by name.")
	w.line("var Operations = []Operation{")
	for _, name := range w.Operations.names {
		op := w.Operations.by[name]
		w.line("{")
		w.line("Name: %q,", name)
		w.line("NewInput: func() Input { return new(%s) },", op.Input.Shape)
		w.line("NewOutput: func() Output { return new(%s) },", op.Output.Shape)
		w.line("Errors: []string{")
		for _, e := range op.Errors {
			w.line("Code%s,", e.Shape)
		}
		w.line("},\n},")
	}
	w.line("}")
}
