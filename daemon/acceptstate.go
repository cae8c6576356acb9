package daemon

import (
	"errors"
	"net/http"

	"cmkd/daemon/kms"
	"cmkd/daemon/store"
)

// acceptRequest is POST /accept-state. Without a root it asks what is the
// matter with the database; with the root that was shown, the operator accepts
// the rows as they are.
type acceptRequest struct {
	Root string `json:"root"`
}

func (in *acceptRequest) readOnly() bool { return in.Root == "" }

// acceptState is the answer to POST /accept-state.
type acceptState struct {
	Accepted bool `json:"accepted"`
	// Mismatch is what there is to decide, nil if the database is trusted.
	Mismatch *kms.Mismatch `json:"mismatch"`
}

func (d *Daemon) acceptState(o *operator, in *acceptRequest) (*acceptState, error) {
	if in.readOnly() {
		return &acceptState{Mismatch: d.kms.Mismatch()}, nil
	}
	err := d.kms.AcceptState(o.Context(), o.call, in.Root)
	if errors.Is(err, store.ErrChanged) {
		return nil, invalid(http.StatusConflict, "the database is not the one that was looked at: look again")
	}
	if errors.Is(err, kms.ErrMalformed) {
		return nil, invalid(http.StatusConflict, err.Error())
	}
	if err == nil {
		err = d.begin(o.Context())
	}
	if err != nil {
		return nil, failed("the log says why that failed; cmkctl status says whether the database is accepted", err)
	}
	return &acceptState{Accepted: true}, nil
}
