package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"cmkd/daemon/kms"
	"cmkd/daemon/store"
)

// acceptState is the answer to POST /accept-state.
type acceptState struct {
	Accepted bool `json:"accepted"`
	// Mismatch is what there is to decide, nil if the database is trusted.
	Mismatch *kms.Mismatch `json:"mismatch"`
}

// serveAcceptState answers POST /accept-state. Without a root it shows an
// operator what is the matter with the database; with the root that was shown,
// the operator accepts the rows as they are.
func (d *Daemon) serveAcceptState(w http.ResponseWriter, r *http.Request) {
	caller := d.admin(w, r)
	if caller == nil {
		return
	}
	var in struct {
		Root string `json:"root"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<12)).Decode(&in); err != nil {
		http.Error(w, "the body is not what cmkctl accept-state sends", http.StatusBadRequest)
		return
	}
	out := acceptState{Mismatch: d.kms.Mismatch()}
	if in.Root != "" {
		err := d.kms.AcceptState(r.Context(), caller, in.Root)
		if errors.Is(err, store.ErrChanged) {
			http.Error(w, "the database is not the one that was looked at: look again", http.StatusConflict)
			return
		}
		if err == nil {
			err = d.begin(r.Context())
		}
		if err != nil {
			d.log.LogAttrs(r.Context(), slog.LevelError, "accepting the database failed", slog.Any("error", err))
			http.Error(w, "the log says why that failed; cmkctl status says whether the database is accepted", http.StatusInternalServerError)
			return
		}
		out = acceptState{Accepted: true}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}
