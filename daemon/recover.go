package daemon

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
)

// serveRecover answers POST /recover with a [kms.Inventory]: what the tokens
// and the database do not agree on. If the body says so, the key materials that
// the database lacks are adopted: of the keys named, or of all if none is.
func (d *Daemon) serveRecover(w http.ResponseWriter, r *http.Request) {
	caller := d.admin(w, r)
	if caller == nil {
		return
	}
	var in struct {
		Adopt bool     `json:"adopt"`
		Keys  []string `json:"keys"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		http.Error(w, "the body is not what cmkctl recover sends", http.StatusBadRequest)
		return
	}
	if d.kms.Mismatch() != nil {
		http.Error(w, "the database does not verify: see cmkctl accept-state first", http.StatusConflict)
		return
	}
	// Thousands of keys take longer than a call may.
	d.noDeadline(w, r)
	var adopt func(string) bool
	if in.Adopt {
		adopt = func(keyID string) bool { return len(in.Keys) == 0 || slices.Contains(in.Keys, keyID) }
	}
	found, err := d.kms.Recover(r.Context(), caller, adopt)
	if err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelError, "comparing the tokens with the database failed", slog.Any("error", err))
		http.Error(w, "the log says why that failed; what was recovered before stays so", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(found) // the client may be gone
}
