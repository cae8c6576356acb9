package daemon

import (
	"encoding/json"
	"log/slog"
	"net/http"
)

// serveRecover answers POST /recover with a [kms.Inventory]: what the tokens
// and the database do not agree on. If the body says so, the key materials that
// the database lacks are adopted.
func (d *Daemon) serveRecover(w http.ResponseWriter, r *http.Request) {
	caller := d.admin(w, r)
	if caller == nil {
		return
	}
	var in struct {
		Adopt bool `json:"adopt"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<12)).Decode(&in); err != nil {
		http.Error(w, "the body is not what cmkctl recover sends", http.StatusBadRequest)
		return
	}
	if d.kms.Mismatch() != nil {
		http.Error(w, "the database does not verify: see cmkctl accept-state first", http.StatusConflict)
		return
	}
	found, err := d.kms.Recover(r.Context(), caller, in.Adopt)
	if err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelError, "comparing the tokens with the database failed", slog.Any("error", err))
		http.Error(w, "the log says why that failed; what was recovered before stays so", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(found) // the client may be gone
}
