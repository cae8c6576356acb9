package policy

import (
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// condition evaluates one operator on one key.
func (f *reference) condition(operator, key string, wanted []any, effect string, variables bool) bool {
	have := f.lookup(key)
	if operator == "Null" {
		for _, w := range wanted {
			if strings.EqualFold(text(w), "true") == (len(have) == 0) {
				return true
			}
		}
		return false
	}
	every := strings.HasPrefix(operator, "ForAllValues:")
	some := strings.HasPrefix(operator, "ForAnyValue:")
	operator = strings.TrimPrefix(strings.TrimPrefix(operator, "ForAllValues:"), "ForAnyValue:")
	bare := strings.TrimSuffix(operator, "IfExists")
	negated := strings.Contains(bare, "Not")

	if len(have) == 0 {
		if every || bare != operator {
			return true
		}
		if some || !negated {
			return false
		}
		for _, w := range wanted {
			if _, known := f.expand(text(w), variables && variableOperator(bare), false); !known && effect == "Allow" {
				return false
			}
		}
		return true
	}
	if (every || some) && strings.Join(have, "") == "" {
		return every
	}
	fitting := 0
	for _, value := range have {
		hit, unknown := false, false
		for _, w := range wanted {
			h, known := f.compare(strings.Replace(bare, "Not", "", 1), text(w), value, variables)
			hit = hit || h && known
			unknown = unknown || !known
		}
		holds := hit
		if negated {
			holds = !hit && (!unknown || effect == "Deny")
		}
		if holds {
			fitting++
		}
	}
	if every || !some && effect == "Allow" {
		return fitting == len(have)
	}
	return fitting > 0
}

func variableOperator(bare string) bool {
	return strings.HasPrefix(bare, "String") || strings.HasPrefix(bare, "Arn")
}

// text spells a condition value.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	default:
		return v.(json.Number).String()
	}
}

// compare applies an operator that is not negated to two values.
func (f *reference) compare(operator, want, have string, variables bool) (hit, known bool) {
	switch operator {
	case "StringEquals", "StringLike":
		pattern, known := f.expand(want, variables, operator == "StringLike")
		return pattern.MatchString(have), known
	case "StringEqualsIgnoreCase":
		pattern, known := f.expand(want, variables, false)
		// The flag (?i) folds as strings.EqualFold does.
		return regexp.MustCompile("(?i)" + pattern.String()).MatchString(have), known
	case "ArnEquals", "ArnLike":
		return f.compareARN(want, have, variables)
	case "Bool":
		return strings.EqualFold(want, have), true
	case "BinaryEquals":
		b, _ := base64.StdEncoding.DecodeString(want)
		return string(b) == have, true
	case "IpAddress":
		return inNetwork(want, have), true
	}
	var order int
	var ok bool
	if relation, isDate := strings.CutPrefix(operator, "Date"); isDate {
		operator = relation
		a, okA := date(have)
		b, okB := date(want)
		order, ok = a.Compare(b), okA && okB
	} else {
		operator = strings.TrimPrefix(operator, "Numeric")
		a, okA := number(have)
		b, okB := number(want)
		if okA && okB {
			order, ok = a.Cmp(b), true
		}
	}
	return ok && map[string]bool{
		"Equals": order == 0, "LessThan": order < 0, "LessThanEquals": order <= 0,
		"GreaterThan": order > 0, "GreaterThanEquals": order >= 0,
	}[operator], true
}

func (f *reference) compareARN(want, have string, variables bool) (hit, known bool) {
	var held []string // variables are taken out while the pattern is cut at its colons
	cut := want
	if variables {
		cut = variable.ReplaceAllStringFunc(want, func(v string) string {
			held = append(held, v)
			return "\x00" + strconv.Itoa(len(held)-1) + "\x00"
		})
	}
	wants, haves := strings.SplitN(cut, ":", 6), strings.SplitN(have, ":", 6)
	hit, known = len(haves) == 6 && haves[0] == "arn", true
	for i, w := range wants {
		for j, v := range held {
			w = strings.ReplaceAll(w, "\x00"+strconv.Itoa(j)+"\x00", v)
		}
		pattern, ok := f.expand(w, variables, true)
		known = known && ok
		if want != "*" {
			hit = hit && pattern.MatchString(haves[i])
		}
	}
	return hit, known
}

func number(s string) (*big.Rat, bool) {
	if !regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`).MatchString(s) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func date(s string) (time.Time, bool) {
	for form, layout := range map[string]string{
		`^\d{4}$`: "2006", `^\d{4}-\d\d$`: "2006-01", `^\d{4}-\d\d-\d\d$`: "2006-01-02",
		`^\d{4}-\d\d-\d\dT\d\d:\d\d(Z|[+-]\d\d:\d\d)$`:              "2006-01-02T15:04Z07:00",
		`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`: time.RFC3339,
	} {
		if regexp.MustCompile(form).MatchString(s) {
			t, err := time.Parse(layout, s)
			return t, err == nil
		}
	}
	if !regexp.MustCompile(`^(-\d{1,11}|\d{1,12})(\.\d+)?$`).MatchString(s) || len(s) > maxDate {
		return time.Time{}, false
	}
	n, ok := number(s)
	if !ok {
		return time.Time{}, false
	}
	n.Mul(n, big.NewRat(int64(time.Second), 1))
	nanoseconds := new(big.Int).Quo(n.Num(), n.Denom())
	seconds, rest := nanoseconds.QuoRem(nanoseconds, big.NewInt(int64(time.Second)), new(big.Int))
	return time.Unix(seconds.Int64(), rest.Int64()), true
}

func inNetwork(want, have string) bool {
	ip := net.ParseIP(have)
	if _, network, err := net.ParseCIDR(want); err == nil {
		return ip != nil && network.Contains(ip)
	}
	return ip != nil && ip.Equal(net.ParseIP(want))
}
