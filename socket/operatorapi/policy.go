package operatorapi

import "time"

// PolicyQuestion is POST /policy/explain, and POST /policy/who without As.
type PolicyQuestion struct {
	// As is the principal that would call: the name of a user, user:NAME,
	// group:NAME, role:NAME, unit:NAME or an ARN.
	As                string              `json:"as"`
	Action            string              `json:"action"` // such as kms:Decrypt
	Key               string              `json:"key"`    // "": an operation on no key
	Region            string              `json:"region"`
	EncryptionContext map[string]string   `json:"encryptionContext"`
	Conditions        map[string][]string `json:"conditions"` // by condition key
}

// Explanation is the answer to POST /policy/explain.
type Explanation struct {
	Principal string            `json:"principal"`
	Groups    []string          `json:"groups,omitempty"`
	Action    string            `json:"action"`
	Resource  string            `json:"resource"`
	KeyState  string            `json:"keyState,omitempty"`
	Allowed   bool              `json:"allowed"`
	Decision  string            `json:"decision"`
	Steps     []ExplanationStep `json:"steps"`
}

// ExplanationStep is a statement or grant that was looked at.
type ExplanationStep struct {
	Source    string `json:"source"`
	Statement int    `json:"statement,omitempty"` // from 1
	Sid       string `json:"sid,omitempty"`
	Effect    string `json:"effect,omitempty"`
	Matched   bool   `json:"matched"`
	Why       string `json:"why"`
}

// Allowed is the answer to POST /policy/who.
type Allowed struct {
	Action   string `json:"action"`
	Resource string `json:"resource"`
	// Everyone: somebody of whom nothing is known is allowed.
	Everyone bool               `json:"everyone"`
	Allowed  []AllowedPrincipal `json:"allowed"`
	// Depends are those whom a condition or a grant's constraint kept out:
	// with another request they may be allowed.
	Depends []AllowedPrincipal `json:"depends,omitempty"`
}

// AllowedPrincipal is one who may do it, or could.
type AllowedPrincipal struct {
	Principal string `json:"principal"`
	Why       string `json:"why"`
}

// CheckRequest is POST /policy/check: which calls of the audit trail would a new key
// policy refuse?
type CheckRequest struct {
	Key    string    `json:"key"`
	Region string    `json:"region"`
	Policy string    `json:"policy"`
	Since  time.Time `json:"since"` // zero: the whole trail
}

// PolicyCheck is the answer to POST /policy/check.
type PolicyCheck struct {
	Resource string `json:"resource"`
	// Calls is the number of calls on the key that were allowed.
	Calls   int           `json:"calls"`
	Refused []RefusedCall `json:"refused"`
	// Others is the number of refused calls of further kinds, of which there were
	// too many to list.
	Others int `json:"others,omitempty"`
	// UnknownConditionKeys are those of the new policy that no request ever has:
	// misspelt, most likely.
	UnknownConditionKeys []string `json:"unknownConditionKeys,omitempty"`
}

// RefusedCall are calls of one kind that the new policy would refuse.
type RefusedCall struct {
	Principal   string    `json:"principal"`
	Action      string    `json:"action"`
	ContextKeys []string  `json:"contextKeys,omitempty"` // of the encryption context
	Calls       int       `json:"calls"`
	Last        time.Time `json:"last"`
	Why         string    `json:"why"`
}

// KeyPolicyRequest is POST /policy/key: the text of a key policy for a new key.
type KeyPolicyRequest struct {
	Admins   []string `json:"admins"` // principals, as in [PolicyQuestion]
	Users    []string `json:"users"`
	KeySpec  string   `json:"keySpec"`
	KeyUsage string   `json:"keyUsage"`
}

// KeyPolicy is the answer to POST /policy/key.
type KeyPolicy struct {
	Policy string `json:"policy"` // JSON
}
