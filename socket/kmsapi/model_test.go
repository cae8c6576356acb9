package kmsapi_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"cmkd/socket/kmsapi"
)

// The tests in this file read model.json themselves and so do not share the generator's view of it. They try
// every constraint of every member that a request can have, wherever it is nested.

type model struct {
	Operations map[string]struct {
		Input, Output struct{ Shape string }
	}
	Shapes map[string]modelShape
}

type modelShape struct {
	Type     string
	Required []string
	Members  map[string]struct{ Shape string }
	Member   struct{ Shape string }
	Enum     []string
	Min, Max int
	Pattern  string

	Sensitive bool
}

func readModel(t *testing.T) *model {
	t.Helper()
	b, err := os.ReadFile("model.json")
	if err != nil {
		t.Fatal(err)
	}
	var m model
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

// valid are values for the shapes whose pattern refuses a run of As.
var valid = map[string]string{
	"AccountIdType":                      "123456789012",
	"BackingKeyIdType":                   strings.Repeat("0f", 32),
	"CloudHsmClusterIdType":              "cluster-abcdefghijk",
	"RegionType":                         "eu-central-1",
	"XksProxyUriEndpointType":            "https://xks.example",
	"XksProxyUriPathType":                "/prefix/kms/xks/v1",
	"XksProxyVpcEndpointServiceNameType": "com.amazonaws.vpce.us-east-1.vpce-svc-0a",
}

// sample is a value of the shape, in JSON, that breaks no constraint and has every member.
func (m *model) sample(name string) any {
	switch s := m.Shapes[name]; s.Type {
	case "string":
		switch {
		case s.Enum != nil:
			return s.Enum[len(s.Enum)-1]
		case valid[name] != "":
			return valid[name]
		}
		return strings.Repeat("A", max(s.Min, 1))
	case "blob":
		return base64.StdEncoding.EncodeToString(make([]byte, max(s.Min, 1)))
	case "boolean":
		return true
	case "integer":
		return s.Min
	case "timestamp":
		return 1700000000.125
	case "list":
		return []any{m.sample(s.Member.Shape)}
	case "map":
		return map[string]any{"context": "value"}
	default:
		object := map[string]any{}
		for member, ref := range s.Members {
			object[member] = m.sample(ref.Shape)
		}
		return object
	}
}

// place is a member of a request, perhaps nested.
type place struct {
	keys     []any  // member names and list indexes from the request to the value
	at       string // the same in a message
	shape    string
	required bool
}

// places lists all members of a structure and of what it nests.
func (m *model) places(name string, keys []any, at string) (all []place) {
	s := m.Shapes[name]
	for member, ref := range s.Members {
		p := place{
			keys:     append(slices.Clone(keys), member),
			at:       at + strings.ToLower(member[:1]) + member[1:],
			shape:    ref.Shape,
			required: slices.Contains(s.Required, member),
		}
		all = append(all, p)
		of := m.Shapes[ref.Shape]
		if of.Type == "structure" {
			all = append(all, m.places(ref.Shape, p.keys, p.at+".")...)
		}
		if of.Type == "list" && m.Shapes[of.Member.Shape].Type == "structure" {
			all = append(all, m.places(of.Member.Shape, append(slices.Clone(p.keys), 0), p.at+".1.member.")...)
		}
	}
	return all
}

// with is a copy of object with another value at the place.
func with(t *testing.T, object any, keys []any, value any) any {
	t.Helper()
	out := parse(t, marshal(t, object))
	at := out
	for _, k := range keys[:len(keys)-1] {
		switch k := k.(type) {
		case string:
			at = at.(map[string]any)[k]
		case int:
			at = at.([]any)[k]
		}
	}
	at.(map[string]any)[keys[len(keys)-1].(string)] = value
	return out
}

// eachPlace runs a test for every member of every operation's input.
func eachPlace(t *testing.T, f func(t *testing.T, m *model, in kmsapi.Input, request any, p place)) {
	m := readModel(t)
	if len(m.Operations) != len(kmsapi.Operations) {
		t.Fatalf("%d operations in the model, %d in the table", len(m.Operations), len(kmsapi.Operations))
	}
	tried := 0
	for _, op := range kmsapi.Operations {
		name := m.Operations[op.Name].Input.Shape
		request := m.sample(name)
		for _, p := range m.places(name, nil, "") {
			tried++
			f(t, m, op.NewInput(), request, p)
		}
	}
	if tried < 200 {
		t.Errorf("only %d members tried", tried)
	}
}

func TestEveryRequestIsAccepted(t *testing.T) {
	t.Parallel()
	m := readModel(t)
	for _, op := range kmsapi.Operations {
		body := marshal(t, m.sample(m.Operations[op.Name].Input.Shape))
		if err := op.NewInput().Decode(body); err != nil {
			t.Errorf("%s refuses %s: %v", op.Name, body, err)
		}
	}
}

// TestEveryConstraint breaks one constraint at a time and expects to be told of that one.
func TestEveryConstraint(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, m *model, in kmsapi.Input, request any, p place) {
		for _, b := range m.breaches(p) {
			body := marshal(t, with(t, request, p.keys, b.value))
			code, message := refusal(t, in.Decode(body))
			want := fmt.Sprintf("at '%s' failed to satisfy constraint: %s", p.at, b.constraint)
			if code != kmsapi.CodeValidationException || !strings.Contains(message+";", want+";") {
				t.Errorf("%T %s: %s: %q, want %q", in, p.at, code, message, want)
			}
			if !b.alsoOthers && !strings.HasPrefix(message, "1 validation error detected: Value ") {
				t.Errorf("%T %s: %q, want one error", in, p.at, message)
			}
			if s := m.Shapes[p.shape]; (s.Sensitive || s.Type == "blob") && b.value != nil && !strings.Contains(message, "detected: Value at ") {
				t.Errorf("%T %s: %q shows a value that must not be shown", in, p.at, message)
			}
		}
	})
}

type breach struct {
	value      any
	constraint string
	alsoOthers bool // the value breaks other constraints too
}

func (m *model) breaches(p place) (all []breach) {
	s := m.Shapes[p.shape]
	if p.required {
		all = append(all, breach{value: nil, constraint: "Member must not be null"})
	}
	switch s.Type {
	case "string":
		if s.Enum != nil {
			return append(all, breach{value: "NO_SUCH", constraint: "Member must satisfy enum value set: [" + strings.Join(s.Enum, ", ") + "]"})
		}
		if s.Min > 0 {
			all = append(all, breach{strings.Repeat("A", s.Min-1), fmt.Sprintf("Member must have length greater than or equal to %d", s.Min), s.Pattern != ""})
		}
		if s.Max > 0 {
			all = append(all, breach{strings.Repeat("A", s.Max+1), fmt.Sprintf("Member must have length less than or equal to %d", s.Max), s.Pattern != ""})
		}
		if s.Pattern != "" {
			all = append(all, breach{strings.Repeat("\u2603", max(s.Min, 1)), "Member must satisfy regular expression pattern: " + s.Pattern, false})
		}
	case "blob":
		all = append(all,
			breach{base64.StdEncoding.EncodeToString(make([]byte, s.Min-1)), fmt.Sprintf("Member must have length greater than or equal to %d", s.Min), false},
			breach{base64.StdEncoding.EncodeToString(make([]byte, s.Max+1)), fmt.Sprintf("Member must have length less than or equal to %d", s.Max), false})
	case "integer":
		all = append(all,
			breach{s.Min - 1, fmt.Sprintf("Member must have value greater than or equal to %d", s.Min), false},
			breach{s.Max + 1, fmt.Sprintf("Member must have value less than or equal to %d", s.Max), false},
			breach{json.Number("-1e300"), fmt.Sprintf("Member must have value greater than or equal to %d", s.Min), false},
			breach{json.Number("4294967297"), fmt.Sprintf("Member must have value less than or equal to %d", s.Max), false})
	case "list":
		item := m.Shapes[s.Member.Shape]
		if s.Max > 0 {
			all = append(all, breach{slices.Repeat([]any{m.sample(s.Member.Shape)}, s.Max+1), fmt.Sprintf("Member must have length less than or equal to %d", s.Max), false})
		}
		switch {
		case item.Enum != nil:
			all = append(all, breach{[]any{item.Enum[0], "NO_SUCH"}, "Member must satisfy constraint: [Member must satisfy enum value set: [" + strings.Join(item.Enum, ", ") + "]]", false})
		case item.Type == "string":
			all = append(all, breach{[]any{"A", ""}, fmt.Sprintf("Member must satisfy constraint: [Member must have length less than or equal to %d, Member must have length greater than or equal to %d]", item.Max, item.Min), false})
		}
	case "map":
		all = append(all, breach{map[string]any{"context": nil}, "Map value must satisfy constraint: [Member must not be null]", false})
	}
	return all
}

// TestEveryBoundary tries the longest and the shortest value that each member may have.
func TestEveryBoundary(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, m *model, in kmsapi.Input, request any, p place) {
		s, values := m.Shapes[p.shape], []any{}
		switch {
		case s.Type == "string" && s.Enum != nil:
			for _, v := range s.Enum {
				values = append(values, v)
			}
		case s.Type == "string" && s.Max > 0 && valid[p.shape] == "":
			values = []any{strings.Repeat("A", s.Max)}
			if s.Pattern == "" {
				// Four bytes of UTF-8 and two units of UTF-16 each, but one character.
				values = append(values, strings.Repeat("\U0001F511", s.Max), strings.Repeat("A", s.Min))
			}
		case s.Type == "blob":
			values = []any{base64.StdEncoding.EncodeToString(make([]byte, s.Max))}
		case s.Type == "integer":
			values = []any{s.Max}
		case s.Type == "list":
			values = []any{[]any{}, slices.Repeat([]any{m.sample(s.Member.Shape)}, max(s.Max, 1))}
			if item := m.Shapes[s.Member.Shape]; item.Type == "string" && item.Max > 0 {
				values = append(values, []any{strings.Repeat("\U0001F511", item.Max), strings.Repeat("A", item.Min)})
			}
		case s.Type == "map":
			values = []any{map[string]any{}, map[string]any{"": ""}}
		case s.Type == "timestamp":
			values = []any{0, -1.5, json.Number("1.7e9"), 253402300799}
		case s.Type == "boolean":
			values = []any{false}
		}
		if !p.required {
			values = append(values, nil)
		}
		for _, v := range values {
			body := marshal(t, with(t, request, p.keys, v))
			if err := in.Decode(body); err != nil {
				t.Errorf("%T %s: %.300s", in, p.at, err.Error())
			}
		}
	})
}

// TestEveryType gives each member a value of each wrong JSON type.
func TestEveryType(t *testing.T) {
	t.Parallel()
	const (
		list   = "Start of list found where not expected"
		object = "Start of structure or map found where not expected."
	)
	scalars := map[string]any{"STRING_VALUE": "?", "NUMBER_VALUE": 7, "TRUE_VALUE": true, "FALSE_VALUE": false}
	kinds := map[string]struct {
		goes  []string // the JSON types that are right
		wants string   // what AWS calls the type
	}{
		"string":    {[]string{"STRING_VALUE"}, "a String"},
		"blob":      {[]string{"STRING_VALUE"}, "a Blob"},
		"integer":   {[]string{"NUMBER_VALUE"}, "an Integer"},
		"timestamp": {[]string{"NUMBER_VALUE"}, "milliseconds since epoch"},
		"boolean":   {[]string{"TRUE_VALUE", "FALSE_VALUE"}, "a Boolean"},
	}
	eachPlace(t, func(t *testing.T, m *model, in kmsapi.Input, request any, p place) {
		expect := func(value any, want string) {
			t.Helper()
			code, message := refusal(t, in.Decode(marshal(t, with(t, request, p.keys, value))))
			if code != kmsapi.CodeSerializationException || message != want {
				t.Errorf("%T %s = %v: %s: %q, want %q", in, p.at, value, code, message, want)
			}
		}
		switch s := m.Shapes[p.shape]; s.Type {
		case "list":
			for _, v := range scalars {
				expect(v, "Expected list or null")
			}
			expect(map[string]any{}, object)
			expect([]any{[]any{}}, list)
			if m.Shapes[s.Member.Shape].Type == "string" {
				expect([]any{7}, "NUMBER_VALUE can not be converted to a String")
			} else {
				expect([]any{"?"}, "Expected null")
			}
		case "map":
			expect(map[string]any{"context": 7}, "NUMBER_VALUE can not be converted to a String")
			fallthrough
		case "structure":
			for _, v := range scalars {
				expect(v, "Expected null")
			}
			expect([]any{}, list)
		default:
			for name, v := range scalars {
				if !slices.Contains(kinds[s.Type].goes, name) {
					expect(v, name+" can not be converted to "+kinds[s.Type].wants)
				}
			}
			expect([]any{}, list)
			expect(map[string]any{}, object)
		}
	})
}

// TestZeroValuesLoseNothing holds the package to its promise that a handler needs no sign of presence:
// wherever a zero value is allowed, it means the same as absence.
func TestZeroValuesLoseNothing(t *testing.T) {
	t.Parallel()
	// "" as a description or a description of key material is the same as none, and so are
	// an empty list and an empty map.
	same := []string{"DescriptionType", "KeyMaterialDescriptionType", "TagValueType", "EncryptionContextValue"}
	eachPlace(t, func(t *testing.T, m *model, _ kmsapi.Input, _ any, p place) {
		s := m.Shapes[p.shape]
		zero := s.Min <= 0 && s.Enum == nil && (s.Type == "string" || s.Type == "integer" || s.Type == "blob")
		if zero && !p.required && !slices.Contains(same, p.shape) {
			t.Errorf("%s: a zero value of %s is allowed and cannot be told from absence", p.at, p.shape)
		}
	})
}

// TestParametersHoldNoSecrets looks for secrets in what the audit trail may know of a request,
// and for the members that it must know.
func TestParametersHoldNoSecrets(t *testing.T) {
	t.Parallel()
	m := readModel(t)
	for _, op := range kmsapi.Operations {
		name := m.Operations[op.Name].Input.Shape
		request := m.sample(name)
		in := op.NewInput()
		if err := in.Decode(marshal(t, request)); err != nil {
			t.Fatal(err)
		}
		audited, ok := in.(interface{ AppendParameters(b []byte) []byte })
		if !ok {
			t.Fatalf("%T has no parameters", in)
		}
		parameters, _ := parse(t, audited.AppendParameters(nil)).(map[string]any)
		for _, p := range m.places(name, nil, "") {
			at := any(parameters)
			for step := range strings.SplitSeq(strings.ReplaceAll(p.at, ".1.member", ".1"), ".") {
				switch v := at.(type) {
				case map[string]any:
					at = v[step]
				case []any:
					at = v[0]
				}
			}
			s := m.Shapes[p.shape]
			secret := s.Sensitive || s.Type == "blob" || s.Member.Shape == "GrantTokenType" || p.shape == "GrantTokenType"
			if secret == (at != nil) {
				t.Errorf("%s: %s is %v in the parameters", op.Name, p.at, at)
			}
		}
	}
}
