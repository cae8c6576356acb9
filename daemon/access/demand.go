package access

import (
	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
)

// actionName is the action as policies write it, such as "kms:Encrypt".
func (d *Demand) actionName(c *journal.Call) string { return d.actionOf(c).Permission() }

// actionOf is the action that the call needs.
func (d *Demand) actionOf(c *journal.Call) *keys.Action {
	if d.Action != nil {
		return d.Action
	}
	return c.Op
}

// ResourceTagPrefix is of the condition keys about the tags of a key.
const ResourceTagPrefix = "aws:resourcetag/"

func appendNonEmpty(dst []string, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, value)
}

func nonEmpty(value string) []string { return appendNonEmpty(nil, value) }

// Demand is what a call wants of a key. The operation's row says the rest.
type Demand struct {
	KeyID       string             // as the client wrote it
	Action      *keys.Action       // nil means the operation's
	Region      string             // "" means the call's; ReplicateKey acts in another too
	Algorithm   backends.Algorithm // must be one of the key's; "" means none is asked for
	GrantTokens []string
	Context     map[string]string // encryption context
	Conditions  []Condition
	Presets     []string     // those of conditions that have a default, since the request has no value
	Grant       *store.Grant // that CreateGrant would make
	// Ciphertext checks the ciphertext of the call against the key, nil if
	// there is none.
	Ciphertext func(*store.Key) error
	// OtherKey is the other key of ReEncrypt, as the client wrote it.
	OtherKey string
	// PlaintextDataKey: a data key would leave in the clear.
	PlaintextDataKey bool

	memory struct { // for Say
		conditions [2]Condition
		values     [2]string
	}
}

// Say adds a condition key with one value to those of a demand, which has got all that it has
// from Say and is not a copy of another.
func (d *Demand) Say(name, value string) {
	i, m := len(d.Conditions), &d.memory
	if i >= len(m.conditions) {
		d.Conditions = append(d.Conditions, Says(name, value))
		return
	}
	m.values[i] = value
	m.conditions[i] = Condition{name, m.values[i : i+1 : i+1]}
	d.Conditions = m.conditions[: i+1 : i+1]
}

// Condition is a condition key of the request, such as
// kms:EncryptionAlgorithm, with its values.
type Condition struct {
	name   string
	values []string
}

// Says is the condition key with one value.
func Says[T ~string](name string, value T) Condition { return Condition{name, []string{string(value)}} }

// SaysIf is the condition key with one value, or none if that is "".
func SaysIf[T ~string](name string, value T) Condition {
	return Condition{name, nonEmpty(string(value))}
}

// SaysAll is the condition key with any number of values.
func SaysAll(name string, values []string) Condition { return Condition{name, values} }

// SaysBool is the condition key of a Boolean member, without a value if the request has not
// got it.
func SaysBool(name string, value *bool) Condition {
	if value == nil {
		return Condition{name: name}
	}
	return Says(name, Boolean(*value))
}

// Boolean is a Boolean as condition keys have it.
func Boolean(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// TagConditions are the condition keys of a request that sets tags.
func TagConditions(tags []store.Tag) []Condition {
	if len(tags) == 0 {
		return nil
	}
	keys := Condition{name: "aws:TagKeys"}
	list := []Condition{}
	for _, t := range tags {
		keys.values = append(keys.values, t.Key)
		list = append(list, Condition{"aws:RequestTag/" + t.Key, []string{t.Value}})
	}
	return append(list, keys)
}
