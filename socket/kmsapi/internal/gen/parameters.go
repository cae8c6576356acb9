package main

import "fmt"

// parameters writes, for the inputs and all that they contain, what an audit
// trail may know of a request: every member but blobs, which are plaintext,
// ciphertext or keys, and secrets.
func (w *writer) parameters() {
	used := w.reachable(w.inputs()...)
	w.structures(func(name string, s shape) {
		if !used[name] {
			return
		}
		w.line("// AppendParameters appends as JSON what an audit trail may know of the request.")
		w.line("func (in *%s) AppendParameters(b []byte) []byte {", name)
		w.line("start := len(b)")
		for _, member := range s.Members.names {
			of := s.Members.by[member].Shape
			switch {
			case w.secret(of):
			case told[member]:
				w.line("if in.%s != nil {\n%s\n}", member, w.writeParameter(member, of))
			default:
				w.line("if %s {\n%s\n}", w.isSet("in."+member, of), w.writeParameter(member, of))
			}
		}
		w.line("return closeObject(b, start)\n}\n")
	})
	w.imports("strconv")
}

// secret reports whether values of the shape stay out of the audit trail.
func (w *writer) secret(of string) bool {
	s := w.Shapes.by[of]
	switch s.Type {
	case "blob":
		return true
	case "list":
		return w.secret(s.Member.Shape)
	default:
		return s.Sensitive || of == "GrantTokenType"
	}
}

// writeParameter is the statement that writes one member, under the name that
// CloudTrail gives it.
func (w *writer) writeParameter(member, of string) string {
	call, s := "", w.Shapes.by[of]
	switch s.Type {
	case "string":
		call = "appendText(%s, in.%s)"
	case "boolean":
		call = "strconv.AppendBool(%s, in.%s)"
		if told[member] {
			call = "strconv.AppendBool(%s, *in.%s)"
		}
	case "integer":
		call = "strconv.AppendInt(%s, int64(in.%s), 10)"
	case "timestamp":
		call = "appendTime(%s, in.%s)"
	case "map":
		call = "appendMap(%s, in.%s)"
	case "list":
		call = "appendTexts(%s, in.%s)"
		if w.Shapes.by[s.Member.Shape].Type == "structure" {
			call = "appendParameterList(%s, in.%s)"
		}
	case "structure":
		return fmt.Sprintf("b = in.%s.AppendParameters(append(b, `,%q:`...))", member, lowerCamel(member))
	}
	return "b = " + fmt.Sprintf(call, fmt.Sprintf("append(b, `,%q:`...)", lowerCamel(member)), member)
}
