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

// reference is a second evaluator, written to be read beside AWS's pages rather
// than to be fast: it interprets the JSON anew for every question, turns
// wildcards into regular expressions and compares numbers as big.Rat. The tests
// and the fuzz targets hold Evaluate against it. It shares no code with it but
// the types of the request.
type reference struct {
	Request
	values map[string][]string // the Context
}

// object is a JSON object.
type object = map[string]any

func (f *reference) decide(key string, identity []string, grants []*Grant) (allowed, explicit bool) {
	named, delegated, delegates := false, false, false
	for _, s := range statementsOf(key) {
		if !f.applies(s, versionOf(key)) {
			continue
		}
		self, account := f.principal(s)
		if s["Effect"] == "Deny" && (self || account) {
			return false, true
		}
		if s["Effect"] == "Allow" {
			named = named || self
			delegated = delegated || account
		}
	}
	for _, text := range identity {
		for _, s := range statementsOf(text) {
			if !f.applies(s, versionOf(text)) {
				continue
			}
			if s["Effect"] == "Deny" {
				return false, true
			}
			delegates = true
		}
	}
	p := f.Principal
	mine := p.Type == Service || p.AccountID == f.ResourceAccount && f.ResourceAccount != ""
	if key == "" {
		isKey := regexp.MustCompile(`^([^:]*:){5}key/`).MatchString(f.Resource)
		return !isKey && (delegates || p.Type == Root && mine), false
	}
	if named && mine || (named || delegated) && delegates {
		return true, false
	}
	for _, g := range grants {
		if f.grantAllows(g, delegates) {
			return true, false
		}
	}
	return false, false
}

func statementsOf(text string) (all []object) {
	if text == "" {
		return nil
	}
	for _, s := range list(parseJSON(text)["Statement"]) {
		all = append(all, s.(object))
	}
	return all
}

func parseJSON(text string) object {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var o object
	if err := d.Decode(&o); err != nil {
		panic(err)
	}
	return o
}

func versionOf(text string) string {
	v, _ := parseJSON(text)["Version"].(string)
	return v
}

func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// applies says whether action, resource and conditions match.
func (f *reference) applies(s object, version string) bool {
	effect := s["Effect"].(string)
	variables := version == "2012-10-17"
	actionElement, inverted := s["Action"], false
	if s["NotAction"] != nil {
		actionElement, inverted = s["NotAction"], true
	}
	hit := false
	for _, a := range list(actionElement) {
		hit = hit || regexp.MustCompile("(?i)"+glob(a.(string))).MatchString(f.Action)
	}
	if hit == inverted {
		return false
	}

	resourceElement, inverted := s["Resource"], false
	if s["NotResource"] != nil {
		resourceElement, inverted = s["NotResource"], true
	}
	if resourceElement == nil {
		return false
	}
	hit, unknown := false, false
	for _, r := range list(resourceElement) {
		pattern, ok := f.expand(r.(string), variables, true)
		if !ok {
			unknown = true
			continue
		}
		hit = hit || pattern.MatchString(f.Resource)
	}
	if hit == inverted || unknown && !hit && effect == "Allow" {
		return false
	}

	conditions, _ := s["Condition"].(object)
	for operator, keys := range conditions {
		for key, wanted := range keys.(object) {
			if !f.condition(operator, key, list(wanted), effect, variables) {
				return false
			}
		}
	}
	return true
}

// glob turns * and ? into a regular expression.
func glob(pattern string) string {
	quoted := regexp.QuoteMeta(pattern)
	return `(?s)^` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(quoted) + `$`
}

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

// expand replaces variables and makes a regular expression of the rest.
func (f *reference) expand(text string, variables, wildcards bool) (*regexp.Regexp, bool) {
	var b strings.Builder
	known, last := true, 0
	plain := func(s string) {
		quoted := regexp.QuoteMeta(s)
		if wildcards {
			quoted = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(quoted)
		}
		b.WriteString(quoted)
	}
	if variables {
		for _, at := range variable.FindAllStringSubmatchIndex(text, -1) {
			plain(text[last:at[0]])
			value, ok := f.variable(text[at[2]:at[3]])
			known = known && ok
			b.WriteString(regexp.QuoteMeta(value))
			last = at[1]
		}
	}
	plain(text[last:])
	return regexp.MustCompile(`(?s)^` + b.String() + `$`), known
}

func (f *reference) variable(inner string) (string, bool) {
	if inner == "*" || inner == "?" || inner == "$" {
		return inner, true
	}
	name, fallback, hasDefault := strings.Cut(inner, ",")
	switch values := f.lookup(name); {
	case len(values) == 1:
		return values[0], true
	case len(values) == 0 && hasDefault:
		return strings.Trim(strings.TrimSpace(fallback), "'"), true
	default:
		return "", false
	}
}

// lookup collects the values of a condition key.
func (f *reference) lookup(key string) (found []string) {
	lower := strings.ToLower(key)
	p := f.Principal
	add := func(when bool, value string) {
		if when && value != "" {
			found = append(found, value)
		}
	}
	switch lower {
	case "aws:principalarn":
		add(p.Type != Service, p.ARN)
	case "aws:principalaccount", "kms:calleraccount":
		add(p.Type != Service, p.AccountID)
	case "aws:principaltype":
		add(true, map[PrincipalType]string{User: "User", Role: "AssumedRole", Root: "Account"}[p.Type])
	case "aws:principalisawsservice":
		add(true, strconv.FormatBool(p.Type == Service))
	case "aws:principalservicename":
		add(p.Type == Service, p.ARN)
	case "aws:username":
		add(p.Type == User, p.UserName)
	case "aws:resourceaccount":
		add(true, f.ResourceAccount)
	case "aws:currenttime":
		add(true, f.Now.UTC().Format("2006-01-02T15:04:05Z"))
	case "aws:epochtime":
		add(true, strconv.FormatInt(f.Now.Unix(), 10))
	case "kms:encryptioncontextkeys":
		for k := range f.EncryptionContext {
			found = append(found, k)
		}
	default:
		for prefix, from := range map[string]map[string]string{
			"aws:principaltag/": p.Tags, "kms:encryptioncontext:": f.EncryptionContext,
		} {
			if name, ok := strings.CutPrefix(lower, prefix); ok {
				for k, v := range from {
					if foldASCII(k) == name {
						found = append(found, v)
					}
				}
				return found
			}
		}
		found = append(found, f.values[lower]...)
	}
	return found
}

func foldASCII(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] >= 'A' && b[i] <= 'Z' {
			b[i] += 32
		}
	}
	return string(b)
}

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
		if negated && !hit && !(unknown && effect == "Allow") || !negated && hit {
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
	order, ok := 0, false
	if relation, isDate := strings.CutPrefix(operator, "Date"); isDate {
		operator = relation
		a, okA := date(have)
		b, okB := date(want)
		order, ok = a.Compare(b), okA && okB
	} else {
		operator = strings.TrimPrefix(operator, "Numeric")
		a, okA := number(have)
		b, okB := number(want)
		if ok = okA && okB; ok {
			order = a.Cmp(b)
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
		`^\d{4}-\d\d-\d\dT\d\d:\d\d(Z|[+-]\d\d:\d\d)$`:               "2006-01-02T15:04Z07:00",
		`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`: time.RFC3339,
	} {
		if regexp.MustCompile(form).MatchString(s) {
			t, err := time.Parse(layout, s)
			return t, err == nil
		}
	}
	if regexp.MustCompile(`^-?\d{1,12}$`).MatchString(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		return time.Unix(n, 0), err == nil
	}
	return time.Time{}, false
}

func inNetwork(want, have string) bool {
	ip := net.ParseIP(have)
	if _, network, err := net.ParseCIDR(want); err == nil {
		return ip != nil && network.Contains(ip)
	}
	return ip != nil && ip.Equal(net.ParseIP(want))
}

// principal says whether the statement speaks of the caller itself, or of its
// account only.
func (f *reference) principal(s object) (self, account bool) {
	p := f.Principal
	listed := func(id string) bool {
		for _, element := range []any{s["Principal"], s["NotPrincipal"]} {
			if element == "*" && id == "*" {
				return true
			}
			kinds, _ := element.(object)
			for kind, ids := range kinds {
				for _, have := range list(ids) {
					if have == id && (kind == "AWS" || kind == "Service" && p.Type == Service) {
						return true
					}
				}
			}
		}
		return false
	}
	everyone := listed("*")
	itsAccount := p.Type != Service && p.AccountID != "" && (listed(p.AccountID) || listed("arn:aws:iam::"+p.AccountID+":root"))
	itself := p.ARN != "" && p.Type != Root && listed(p.ARN)
	group := false
	for _, g := range p.Groups {
		group = group || p.Type != Root && listed(g)
	}
	session := p.SessionARN != "" && listed(p.SessionARN)

	if s["NotPrincipal"] == nil {
		self = everyone || itself || group || session || p.Type == Root && itsAccount
		return self, itsAccount && !self
	}
	if s["Effect"] == "Allow" {
		return !everyone && !itself && !group && !session && !itsAccount, false
	}
	excepted := itsAccount && (p.Type == Root || (itself || group) && (session || p.SessionARN == ""))
	if p.Type == Service {
		excepted = itself
	}
	return !everyone && !excepted, false
}

// grantAllows evaluates one grant.
func (f *reference) grantAllows(g *Grant, delegates bool) bool {
	operation := strings.TrimPrefix(f.Action, "kms:")
	if operation == f.Action || !g.Operations.Has(operation) || !f.isOrDelegated(g.Grantee, delegates) {
		return false
	}
	if operation == "CreateGrant" {
		return f.NewGrant != nil && noLooser(f.NewGrant, g)
	}
	crypto := regexp.MustCompile(`^(En|De)crypt$|^ReEncrypt|^GenerateDataKey`).MatchString(operation)
	return !crypto || satisfies(f.EncryptionContext, g)
}

func (f *reference) isOrDelegated(id string, delegates bool) bool {
	p := f.Principal
	for _, own := range append([]string{p.ARN, p.SessionARN}, p.Groups...) {
		if own != "" && own == id {
			return true
		}
	}
	ofAccount := p.AccountID != "" && p.Type != Service && (id == p.AccountID || id == "arn:aws:iam::"+p.AccountID+":root")
	return ofAccount && (p.Type == Root || delegates)
}

func satisfies(context map[string]string, g *Grant) bool {
	if g.ContextEquals != nil && len(g.ContextEquals) != len(context) {
		return false
	}
	for _, constraint := range []Constraint{g.ContextEquals, g.ContextSubset} {
		for _, pair := range constraint {
			if v, ok := context[pair.key]; !ok || v != pair.value {
				return false
			}
		}
	}
	return true
}

// noLooser tries every context made of the pairs that occur in either grant: a
// context that the child permits, the parent must permit.
func noLooser(child, parent *Grant) bool {
	for _, op := range grantOperations {
		if child.Operations.Has(op.name) && !parent.Operations.Has(op.name) {
			return false
		}
	}
	pairs := []contextPair{{"other", "pair"}}
	for _, c := range []Constraint{child.ContextEquals, child.ContextSubset, parent.ContextEquals, parent.ContextSubset} {
		pairs = append(pairs, c...)
	}
	for subset := range 1 << len(pairs) {
		context := make(map[string]string)
		for i, pair := range pairs {
			if subset&(1<<i) != 0 {
				context[pair.key] = pair.value
			}
		}
		if satisfies(context, child) && !satisfies(context, parent) {
			return false
		}
	}
	return true
}
