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

// methods writes the interface of the operations, and what binds its methods to their names.
func (w *writer) methods() {
	w.line("// Methods has a method for each operation. C is what the implementation knows of a call.")
	w.line("type Methods[C any] interface {")
	for _, name := range w.Operations.names {
		op := w.Operations.by[name]
		w.line("%s(ctx context.Context, c C, in *%s) (*%s, error)", name, op.Input.Shape, op.Output.Shape)
	}
	w.line("}\n")
	w.line("// Bind returns the methods by the names of their operations. decoded is told the parameters of each")
	w.line("// valid request, as the audit trail may know them, before its method runs.")
	w.line("func Bind[C any](m Methods[C], decoded func(c C, parameters []byte)) map[string]Method[C] {")
	w.line("return map[string]Method[C]{")
	for _, name := range w.Operations.names {
		w.line("%q: bind(decoded, m.%[1]s),", name)
	}
	w.line("}\n}")
	w.imports("context")
}
