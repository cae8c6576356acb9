package kms_test

import (
	"bytes"
	"slices"
	"time"
)

// The model is what the API promises, in plain Go and without a token, a store
// or a policy. sequence_test.go checks the service against it.

type model struct {
	now     time.Time
	away    bool // the token does not answer
	keys    []*modelKey
	gone    []*modelKey // deleted
	aliases map[string]*modelKey
	sealed  []sealed
}

type modelKey struct {
	id            string
	mac, external bool
	state         string // as stored: not Unavailable
	deletion      time.Time
	description   string
	tags          [][2]string
	grants        map[string]string // ID by name
	period        int               // days, 0: no rotation
	next          time.Time
	onDemand      int
	materials     []*material
	discarded     []*material // deleted or expired before they were current
}

// material is one key material.
type material struct {
	id      string
	state   string // KeyMaterialState
	present bool
	kind    string // RotationType, "" of the first
	// Of imported material.
	secret  []byte
	validTo time.Time
}

// sealed is a ciphertext.
type sealed struct {
	key       *modelKey
	material  *material
	plaintext []byte
	context   map[string]string
	blob      []byte
}

const (
	invalidState = "KMSInvalidStateException"
	unsupported  = "UnsupportedOperationException"
)

func (k *modelKey) current() *material {
	for _, m := range k.materials {
		if m.state == "CURRENT" {
			return m
		}
	}
	return nil
}

// stateOf is KeyState as clients see it.
func (m *model) stateOf(k *modelKey) string {
	if k.state != "Enabled" && k.state != "Disabled" {
		return k.state
	}
	if m.away {
		return "Unavailable"
	}
	return k.state
}

// GoString names the key in the traces of rapid.
func (k *modelKey) GoString() string { return k.id }

// use is the error of operations that use the key.
func (m *model) use(k *modelKey) string {
	switch m.stateOf(k) {
	case "Enabled":
		return ""
	case "Disabled":
		return "DisabledException"
	default:
		return invalidState
	}
}

// useFor is use by operations for MACs or for ciphertexts: the usage counts
// before the state.
func (m *model) useFor(k *modelKey, mac bool) string {
	if k.mac != mac {
		return "InvalidKeyUsageException"
	}
	return m.use(k)
}

// grant is the error of CreateGrant: a key that is unavailable may have grants.
func (m *model) grant(k *modelKey) string {
	if m.stateOf(k) == "Unavailable" {
		return ""
	}
	return m.use(k)
}

// manage is the error of operations that change what is said of the key.
func (m *model) manage(k *modelKey) string {
	if m.stateOf(k) == "PendingDeletion" {
		return invalidState
	}
	return ""
}

// toggle is the error of EnableKey and DisableKey.
func (m *model) toggle(k *modelKey) string {
	if s := m.stateOf(k); s == "PendingDeletion" || s == "PendingImport" {
		return invalidState
	}
	return ""
}

// schedule is the error of operations on automatic rotation.
func (m *model) schedule(k *modelKey) string {
	switch s := m.stateOf(k); {
	case s == "Disabled":
		return "DisabledException"
	case s == "PendingDeletion":
		return invalidState
	case k.mac || k.external:
		return unsupported
	}
	return ""
}

// complete reports whether every material that is or was current is there.
func (k *modelKey) complete() bool {
	return len(k.materials) > 0 && !slices.ContainsFunc(k.materials, func(m *material) bool {
		return m.state != "PENDING_ROTATION" && !m.present
	})
}

// reflect sets the state after a material came or went.
func (k *modelKey) reflect() {
	switch {
	case k.state == "PendingImport" && k.complete():
		k.state = "Enabled"
	case (k.state == "Enabled" || k.state == "Disabled") && !k.complete():
		k.state = "PendingImport"
	}
}

// drop takes a material out.
func (k *modelKey) drop(m *material) {
	if !m.present {
		return
	}
	if m.state == "PENDING_ROTATION" {
		k.materials = slices.DeleteFunc(k.materials, func(other *material) bool { return other == m })
		k.discarded = append(k.discarded, m)
	} else {
		m.present, m.validTo = false, time.Time{}
	}
	k.reflect()
}

// rotate makes fresh the current material.
func (k *modelKey) rotate(fresh *material, kind string) {
	k.current().state = "NON_CURRENT"
	fresh.state, fresh.kind = "CURRENT", kind
	if !slices.Contains(k.materials, fresh) {
		k.materials = append(k.materials, fresh)
	}
}

// jobs does what is due. The IDs of new materials are not known yet.
func (m *model) jobs() {
	for _, k := range m.keys { // which shows at once, whenever the job comes to it
		for _, mat := range slices.Clone(k.materials) {
			if !mat.validTo.IsZero() && !m.now.Before(mat.validTo) {
				k.drop(mat)
			}
		}
	}
	if m.away {
		return
	}
	for _, k := range m.keys {
		if k.state == "Enabled" && k.period > 0 && !m.now.Before(k.next) {
			k.rotate(&material{present: true}, "AUTOMATIC")
			k.next = m.now.Add(time.Duration(k.period) * day)
		}
	}
	m.keys = slices.DeleteFunc(m.keys, func(k *modelKey) bool {
		if k.state != "PendingDeletion" || m.now.Before(k.deletion) {
			return false
		}
		m.gone = append(m.gone, k)
		for name, target := range m.aliases {
			if target == k {
				delete(m.aliases, name)
			}
		}
		return true
	})
}

// importTarget is the material that an import is for, or the error.
func (k *modelKey) importTarget(kind, id string, secret []byte) (target *material, code string) {
	if kind == "" && len(k.materials) > 0 {
		kind = "EXISTING_KEY_MATERIAL"
	}
	if kind == "EXISTING_KEY_MATERIAL" {
		if len(k.materials) == 0 {
			return nil, invalidState
		}
		for _, m := range k.materials {
			if m.id == id || id == "" && bytes.Equal(m.secret, secret) {
				target = m
			}
		}
		if target == nil {
			return nil, "IncorrectKeyMaterialException"
		}
	} else {
		target = &material{state: "CURRENT"}
		for _, m := range k.materials {
			target.state = "PENDING_ROTATION"
			if m.state == "PENDING_ROTATION" {
				return nil, invalidState
			}
		}
		for _, m := range k.discarded {
			if bytes.Equal(m.secret, secret) {
				target.id = m.id
			}
		}
	}
	for _, m := range k.materials {
		if (m == target) != bytes.Equal(m.secret, secret) {
			return nil, "IncorrectKeyMaterialException"
		}
	}
	return target, ""
}

const day = 24 * time.Hour
