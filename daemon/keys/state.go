package keys

import "cmkd/socket/kmsapi"

// Refusals are the states in which an operation is refused, a column for each, as in
// AWS's table: https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
//
// The columns are the states Enabled, Disabled, PendingDeletion, PendingImport,
// Unavailable, Creating and Updating. The letters: . allowed; D disabled; P pending
// deletion; I pending import; U unavailable; C creating; G updating; N not pending
// deletion. Operations on no key have none.
type Refusals string

const (
	anyState  Refusals = "......."
	cryptoOp  Refusals = ".DPIUC."
	manageOp  Refusals = "..P...."
	grantOp   Refusals = ".DPI.C."
	disableOp Refusals = "..PI.CG"
	// Rotation operations answer for imported material and custom key stores
	// before the states that only those keys have.
	rotationOp Refusals = ".DP..C."
)

// columns are those of [Refusals].
var columns = map[State]int{
	kmsapi.KeyStateEnabled:                0,
	kmsapi.KeyStateDisabled:               1,
	kmsapi.KeyStatePendingDeletion:        2,
	kmsapi.KeyStatePendingReplicaDeletion: 2,
	kmsapi.KeyStatePendingImport:          3,
	kmsapi.KeyStateUnavailable:            4,
	kmsapi.KeyStateCreating:               5,
	kmsapi.KeyStateUpdating:               6,
}

// In is the letter of the state, '.' if the operation is allowed in it.
func (r Refusals) In(state State) byte {
	if r == "" {
		return '.'
	}
	return r[columns[state]]
}

// KnownState reports whether keys can be in the state.
func KnownState(state State) bool {
	_, ok := columns[state]
	return ok
}
