package daemon

import (
	"net/http"
	"slices"

	"cmkd/daemon/kms"
)

// recoverRequest is POST /recover: what do the tokens and the database not
// agree on? If it says so, the key materials that the database lacks are
// adopted: of the keys named, or of all if none is.
type recoverRequest struct {
	Adopt bool     `json:"adopt"`
	Keys  []string `json:"keys"`
}

func (in *recoverRequest) readOnly() bool { return !in.Adopt }

func (d *Daemon) recoverKeys(o *operator, in *recoverRequest) (*kms.Inventory, error) {
	if d.kms.Mismatch() != nil {
		return nil, invalid(http.StatusConflict, "the database does not verify: see cmkctl accept-state first")
	}
	// Thousands of keys take longer than a call may.
	d.noDeadline(o)
	var adopt func(string) bool
	if in.Adopt {
		adopt = func(keyID string) bool { return len(in.Keys) == 0 || slices.Contains(in.Keys, keyID) }
	}
	found, err := d.kms.Recover(o.Context(), o.call, adopt)
	if err != nil {
		return nil, failed("the log says why that failed; what was recovered before stays so", err)
	}
	return found, nil
}
