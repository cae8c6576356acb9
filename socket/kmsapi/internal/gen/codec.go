package main

import (
	"fmt"
	"slices"
	"strings"
)

// decoders writes the decoders of the inputs and of all that they contain.
func (w *writer) decoders() {
	used := w.reachable(w.inputs()...)
	w.structures(func(name string, s shape) {
		if !used[name] {
			return
		}
		if slices.Contains(w.inputs(), name) {
			w.line("// Decode reads a request body and checks it against the model. The error is an *Error:")
			w.line("// a SerializationException if the body has the wrong form, a ValidationException that lists")
			w.line("// every constraint the request breaks.")
			w.line("func (in *%s) Decode(body []byte) error { return decodeBody(body, in) }\n", name)
		}
		w.decoder(name, s)
	})
}

func (w *writer) decoder(name string, s shape) {
	w.line("func (in *%s) decode(d *decoder) {", name)
	if s.Required != nil {
		w.line("var present uint64")
	}
	w.line("for d.member() {")
	if len(s.Members.names) == 0 {
		w.line("d.skip()\n}\n}\n")
		return
	}
	w.line("switch string(d.name) {")
	for _, member := range s.Members.names {
		w.line("case %q:", member)
		read := w.read(member, s.Members.by[member].Shape)
		if i := slices.Index(s.Required, member); i >= 0 {
			w.line("if %s {\npresent |= 1 << %d\n}", read, i)
		} else {
			w.line("%s", read)
		}
	}
	w.line("default:\nd.skip()\n}\n}")
	for i, member := range s.Required {
		require := "require"
		if w.Shapes.by[s.Members.by[member].Shape].Sensitive {
			require = "requireSensitive"
		}
		w.line("d.%s(present&(1<<%d) != 0, %q)", require, i, member)
	}
	w.line("}\n")
}

// read is the call that reads one member.
func (w *writer) read(member, of string) string {
	s := w.Shapes.by[of]
	switch s.Type {
	case "string":
		if s.Enum != nil {
			return fmt.Sprintf("enum(d, %q, %s, &in.%[1]s)", member, valuesOf(of))
		}
		return fmt.Sprintf("d.string(%q, &%s, &in.%[1]s)", member, shapeOf(of))
	case "blob":
		return fmt.Sprintf("d.blob(%q, &%s, &in.%[1]s)", member, shapeOf(of))
	case "integer":
		return fmt.Sprintf("d.int32(%q, &%s, &in.%[1]s)", member, shapeOf(of))
	case "boolean":
		if told[member] {
			return fmt.Sprintf("d.told(&in.%s)", member)
		}
		return fmt.Sprintf("d.bool(&in.%s)", member)
	case "timestamp":
		return fmt.Sprintf("d.time(&in.%s)", member)
	case "map":
		return fmt.Sprintf("d.stringMap(%q, &in.%[1]s)", member)
	case "structure":
		return fmt.Sprintf("object(d, %q, &in.%[1]s)", member)
	}
	switch item := w.Shapes.by[s.Member.Shape]; { // list
	case item.Type == "structure":
		return fmt.Sprintf("objects(d, %q, &in.%[1]s)", member)
	case item.Enum != nil:
		return fmt.Sprintf("enums(d, %q, %s, &in.%[1]s)", member, valuesOf(s.Member.Shape))
	}
	return fmt.Sprintf("d.strings(%q, &%s, &%s, &in.%[1]s)", member, shapeOf(of), shapeOf(s.Member.Shape))
}

// alwaysSent are the members that the service sends even when they hold a zero value.
// Members of BooleanType, and of no other type, are always sent without being listed here.
var alwaysSent = map[string]bool{
	"KeyMetadata.Description":                         true, // "" for a key without one
	"KeyMetadata.MultiRegion":                         true,
	"Tag.TagValue":                                    true, // "" is a value
	"GrantListEntry.Name":                             true, // "" for a grant without one
	"MultiRegionConfiguration.ReplicaKeys":            true,
	"DescribeCustomKeyStoresResponse.CustomKeyStores": true,
	"ListAliasesResponse.Aliases":                     true,
	"ListGrantsResponse.Grants":                       true,
	"ListKeyPoliciesResponse.PolicyNames":             true,
	"ListKeyRotationsResponse.Rotations":              true,
	"ListKeysResponse.Keys":                           true,
	"ListResourceTagsResponse.Tags":                   true,
}

// encoders writes the encoders of the outputs and of all that they contain.
func (w *writer) encoders() {
	used, given := w.reachable(w.outputs()...), w.operationsWithOutput()
	w.structures(func(name string, s shape) {
		switch {
		case !used[name]:
		case slices.Contains(w.outputs(), name) && !given[name]:
			w.line("// AppendJSON appends nothing: the operation answers with an empty body.")
			w.line("func (*%s) AppendJSON(b []byte) []byte { return b }\n", name)
		case len(s.Members.names) == 0:
			w.line("// AppendJSON appends an empty object to b.")
			w.line("func (*%s) AppendJSON(b []byte) []byte { return append(b, `{}`...) }\n", name)
		default:
			w.encoder(name, s)
		}
	})
	w.imports("encoding/base64", "slices", "strconv")
}

// operationsWithOutput is the set of the outputs that the model itself has.
func (w *writer) operationsWithOutput() map[string]bool {
	given := map[string]bool{}
	for _, name := range w.Operations.names {
		given[w.Operations.by[name].Output.Shape] = !w.Operations.by[name].noOutput
	}
	return given
}

func (w *writer) encoder(name string, s shape) {
	w.line("// AppendJSON appends the structure as JSON to b.")
	w.line("func (out *%s) AppendJSON(b []byte) []byte {", name)
	w.line("b = slices.Grow(b, %s)", w.size(s))
	w.line("start := len(b)")
	for _, member := range s.Members.names {
		of := s.Members.by[member].Shape
		write := w.write(member, of)
		if of == "BooleanType" || alwaysSent[name+"."+member] {
			w.line("%s", write)
		} else {
			w.line("if %s {\n%s\n}", w.isSet("out."+member, of), write)
		}
	}
	w.line("return closeObject(b, start)\n}\n")
}

// isSet is the condition under which an optional member is sent.
func (w *writer) isSet(v, of string) string {
	switch s := w.Shapes.by[of]; s.Type {
	case "string":
		return v + ` != ""`
	case "boolean":
		return v
	case "integer":
		return v + " != 0"
	case "timestamp":
		return "!" + v + ".IsZero()"
	case "blob":
		return "len(" + v + ") != 0"
	default: // list, map, structure
		return v + " != nil"
	}
}

// write is the statement that writes one member.
func (w *writer) write(member, of string) string {
	call, s := "", w.Shapes.by[of]
	switch s.Type {
	case "string":
		call = "appendText(%s, out.%s)"
	case "blob":
		call = "appendBlob(%s, out.%s)"
	case "boolean":
		call = "strconv.AppendBool(%s, out.%s)"
	case "integer":
		call = "strconv.AppendInt(%s, int64(out.%s), 10)"
	case "timestamp":
		call = "appendTime(%s, out.%s)"
	case "map":
		call = "appendMap(%s, out.%s)"
	case "list":
		call = "appendTexts(%s, out.%s)"
		if w.Shapes.by[s.Member.Shape].Type == "structure" {
			call = "appendObjects(%s, out.%s)"
		}
	case "structure":
		return fmt.Sprintf("b = out.%s.AppendJSON(append(b, `,%q:`...))", member, member)
	}
	return "b = " + fmt.Sprintf(call, fmt.Sprintf("append(b, `,%q:`...)", member), member)
}

// size is an expression for about how many bytes the encoded structure takes, without what it nests.
func (w *writer) size(s shape) string {
	fixed, terms := len("{}"), []string{}
	for _, member := range s.Members.names {
		fixed += len(`,"":""`) + len(member)
		switch w.Shapes.by[s.Members.by[member].Shape].Type {
		case "blob":
			terms = append(terms, "base64.StdEncoding.EncodedLen(len(out."+member+"))")
		case "string":
			terms = append(terms, "len(out."+member+")")
		case "timestamp":
			fixed += len("1700000000.123")
		case "boolean", "integer":
			fixed += len("false")
		}
	}
	return strings.Join(append([]string{fmt.Sprint(fixed)}, terms...), "+")
}
