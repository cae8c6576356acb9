package daemon

import (
	"cmp"
	"slices"
	"strings"

	"cmkd/plugins"
	"cmkd/socket/operatorapi"
)

// States of a token, and of a member, beside OK.
const (
	unavailable = "unavailable" // a plugin has no process with it
	degraded    = "degraded"    // the same, and another member serves
)

// tokens describes each token once, by name, for the status.
func (r *router) tokens() []operatorapi.TokenHealth {
	found := map[string]*operatorapi.TokenHealth{}
	for _, s := range r.served {
		t := found[s.token]
		if t == nil {
			t = &operatorapi.TokenHealth{Name: s.token, State: operatorapi.OK}
			found[s.token] = t
		}
		for i, h := range s.hosts {
			h.describe(t)
			if h.member != "" {
				if len(t.Members) == i {
					t.Members = append(t.Members, operatorapi.MemberHealth{Name: h.member, State: operatorapi.OK})
				}
				h.describeMember(&t.Members[i])
			}
		}
		switch {
		case s.Phase() != plugins.Ready:
			t.State = unavailable
		case t.State == operatorapi.OK && slices.ContainsFunc(s.hosts, func(h *tokenHost) bool { return !h.ready() }):
			t.State = degraded
		}
	}
	return sortedTokens(found)
}

func sortedTokens(found map[string]*operatorapi.TokenHealth) []operatorapi.TokenHealth {
	tokens := make([]operatorapi.TokenHealth, 0, len(found))
	for _, t := range found {
		tokens = append(tokens, *t)
	}
	slices.SortFunc(tokens, func(a, b operatorapi.TokenHealth) int { return strings.Compare(a.Name, b.Name) })
	return tokens
}

// describe says which token it is, that of the first member that is known.
func (h *tokenHost) describe(t *operatorapi.TokenHealth) {
	if info := h.info.Load(); info != nil && t.Serial == "" {
		t.Label, t.Serial = strings.TrimSpace(info.Token.Label), strings.TrimSpace(info.Token.Serial)
		t.Model = strings.TrimSpace(info.Token.Manufacturer + " " + info.Token.Model)
	}
}

// describeMember adds what this plugin knows of the member. A PIN or a key that is wrong
// says more than a process that does not start.
func (h *tokenHost) describeMember(m *operatorapi.MemberHealth) {
	if info := h.info.Load(); info != nil {
		m.Label, m.Serial = strings.TrimSpace(info.Token.Label), strings.TrimSpace(info.Token.Serial)
	}
	st := h.Status()
	m.InFlight += st.InFlight
	state := unavailable
	switch st.Phase {
	case plugins.Ready:
		return
	case plugins.Refused, plugins.LoginFailed:
		state = string(st.Phase)
	default:
	}
	if m.State == operatorapi.OK || m.State == unavailable && state != unavailable {
		m.State, m.Error = state, st.LastError
	}
	m.Error = cmp.Or(m.Error, st.LastError)
}
