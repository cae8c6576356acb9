package policy

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// reference is a second evaluator, written to be read beside AWS's pages rather
// than to be fast: it interprets the JSON again for every question, turns
// wildcards into regular expressions and compares numbers as big.Rat. The tests
// and the fuzz targets check Evaluate against it. It shares no code with it but
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
	if operation == f.Action || !g.Operations.Has(operation) || !f.isOrDelegated(g.Grantee, delegates) || g.SourceARN != "" {
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
		if child.Operations.Has(op.Name) && !parent.Operations.Has(op.Name) {
			return false
		}
	}
	if parent.SourceARN != "" && child.SourceARN != parent.SourceARN {
		return false
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
