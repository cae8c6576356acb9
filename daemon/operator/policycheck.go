package operator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"cmkd/daemon/access"
	"cmkd/daemon/audit"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/kms"
	"cmkd/socket/operatorapi"
)

// maxKinds bounds the kinds of calls in an answer. Callers choose the keys of
// their encryption contexts, so there may be any number.
const maxKinds = 10_000

// pastCall is what a record of the audit trail says of a call.
type pastCall struct {
	EventTime         time.Time
	EventName         string
	EventSource       string
	AWSRegion         string
	UserIdentity      struct{ ARN string }
	RequestParameters json.RawMessage
	Resources         []struct{ ARN string }

	AdditionalEventData struct {
		Decision string
		Peer     struct{ UID, GID uint32 }
	}
}

// checkPolicy replays the trail's calls on a key against a new policy, with the
// identity policies and grants as they are now.
func (s *Service) checkPolicy(ctx context.Context, by *Caller, in *operatorapi.CheckRequest) (*operatorapi.PolicyCheck, error) {
	unknown, err := s.KMS.CheckPolicy(in.Policy)
	if err != nil {
		return nil, err
	}
	arn, err := s.KMS.ARNOf(in.Region, in.Key)
	if err != nil {
		return nil, err
	}
	check := &policyCheck{
		kms: s.KMS, ids: by.ids, in: in, arn: arn, callers: map[string]*journal.Caller{}, found: map[string]*operatorapi.RefusedCall{},
		out: operatorapi.PolicyCheck{Resource: arn, Refused: []operatorapi.RefusedCall{}, UnknownConditionKeys: unknown},
	}
	quoted := []byte(`"` + arn + `"`)
	err = audit.Scan(s.AuditDir, func(line []byte) error {
		if err := ctx.Err(); err != nil {
			return err // nobody waits for the answer any more
		}
		if !bytes.Contains(line, quoted) {
			return nil
		}
		var call pastCall
		if err := json.Unmarshal(line, &call); err != nil {
			return err
		}
		return check.replay(&call)
	})
	for _, r := range check.found {
		check.out.Refused = append(check.out.Refused, *r)
	}
	slices.SortFunc(check.out.Refused, func(a, b operatorapi.RefusedCall) int {
		return cmp.Or(cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Action, b.Action), slices.Compare(a.ContextKeys, b.ContextKeys), cmp.Compare(a.Why, b.Why))
	})
	return &check.out, err
}

// policyCheck is a replay on its way.
type policyCheck struct {
	kms     *kms.Service
	ids     Identities
	in      *operatorapi.CheckRequest
	arn     string
	callers map[string]*journal.Caller // nil: gone
	found   map[string]*operatorapi.RefusedCall
	out     operatorapi.PolicyCheck
}

// replay checks one call against the new policy, once for each action that it
// needed on the key.
func (p *policyCheck) replay(call *pastCall) error {
	if call.EventSource != journal.Source || call.AdditionalEventData.Decision != "Allow" ||
		call.EventName == "CreateKey" || call.EventName == "RetireGrant" || call.EventTime.Before(p.in.Since) {
		return nil // a key policy has no say in CreateKey and RetireGrant
	}
	p.out.Calls++
	c, known := p.callers[call.UserIdentity.ARN]
	if !known {
		c, _ = p.ids.ByARN(call.UserIdentity.ARN) // nil if there is nobody of that name any more
		p.callers[call.UserIdentity.ARN] = c
	}
	parameters := map[string]any{}
	if len(call.RequestParameters) > 0 {
		if err := json.Unmarshal(call.RequestParameters, &parameters); err != nil {
			return err
		}
	}
	for i, r := range call.Resources {
		if r.ARN != p.arn {
			continue
		}
		action := keys.ActionOf(call.EventName)
		if action == nil {
			return fmt.Errorf("the audit trail has the unknown action %q", call.EventName)
		}
		if action.Of != "" && i > 0 { // of the two that ReEncrypt needs
			action = keys.ActionNamed("ReEncryptTo")
		}
		if err := p.decide(call, c, action, parameters); err != nil {
			return err
		}
	}
	return nil
}

func (p *policyCheck) decide(call *pastCall, c *journal.Caller, action *keys.Action, parameters map[string]any) error {
	refused := operatorapi.RefusedCall{Principal: call.UserIdentity.ARN, Action: "kms:" + action.Name, Calls: 1, Last: call.EventTime}
	if c == nil {
		refused.Why = "the principal does not exist any more"
		p.add(&refused)
		return nil
	}
	caller := *c
	caller.UID, caller.GID = call.AdditionalEventData.Peer.UID, call.AdditionalEventData.Peer.GID
	q := &access.Question{
		Caller: &caller, Action: action.Name, KeyID: p.arn, Region: p.in.Region, Policy: p.in.Policy,
		EncryptionContext: encryptionContext(action, parameters), Conditions: pastConditions(action, parameters),
		Now: call.EventTime,
	}
	e, err := p.kms.Explain(q)
	if err != nil || e.Decision.Allowed {
		return err
	}
	for key := range q.EncryptionContext {
		refused.ContextKeys = append(refused.ContextKeys, key)
	}
	slices.Sort(refused.ContextKeys)
	refused.Why = e.Decision.String()
	p.add(&refused)
	return nil
}

// add counts a call to those of its kind.
func (p *policyCheck) add(r *operatorapi.RefusedCall) {
	kind := strings.Join(append([]string{r.Principal, r.Action, r.Why}, r.ContextKeys...), "\x00")
	if old := p.found[kind]; old != nil {
		old.Calls++
		old.Last = r.Last
		return
	}
	if len(p.found) >= maxKinds {
		p.out.Others += r.Calls
		return
	}
	p.found[kind] = r
}

// encryptionContext is that of a call, or of the constraint of a grant, as its
// parameters in the audit trail say.
func encryptionContext(action *keys.Action, parameters map[string]any) map[string]string {
	from, in := action.Context, parameters
	if action.Name == "CreateGrant" {
		in, _ = parameters["constraints"].(map[string]any)
		from = "encryptionContextSubset"
		if in["encryptionContextEquals"] != nil {
			from = "encryptionContextEquals"
		}
	}
	pairs, _ := in[from].(map[string]any)
	if pairs == nil {
		return nil
	}
	context := map[string]string{}
	for key, value := range pairs {
		context[key], _ = value.(string)
	}
	return context
}

// pastConditions are the condition keys that a call had, as far as its
// parameters in the audit trail say.
func pastConditions(action *keys.Action, parameters map[string]any) map[string][]string {
	conditions := map[string][]string{}
	for _, c := range action.Conditions {
		if values := texts(parameters[c.Member]); values != nil {
			conditions[c.Key] = values
		}
	}
	if key, _ := parameters["keyId"].(string); strings.Contains(key, "alias/") {
		conditions["kms:RequestAlias"] = []string{key[strings.Index(key, "alias/"):]}
	}
	if constraints, _ := parameters["constraints"].(map[string]any); constraints != nil {
		for _, kind := range []string{"EncryptionContextEquals", "EncryptionContextSubset"} {
			if constraints["e"+kind[1:]] != nil {
				conditions["kms:GrantConstraintType"] = []string{kind}
			}
		}
		if values := texts(constraints["sourceArn"]); values != nil {
			conditions["kms:GrantConstraintSourceArn"] = values
		}
	}
	return conditions
}

// texts are the values of a parameter as condition keys have them, nil if there
// are none.
func texts(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{v}
	case bool, float64:
		raw, err := json.Marshal(v)
		if err != nil {
			return nil
		}
		return []string{string(raw)}
	case []any:
		var list []string
		for _, item := range v {
			list = append(list, texts(item)...)
		}
		return list
	}
	return nil
}
