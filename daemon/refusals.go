package daemon

import (
	"errors"
	"net/http"

	"cmkd/daemon/identity"
	"cmkd/socket/kmsapi"
)

// refused records a call that the socket has refused, and reports
// whether it is, or is counted; see [socket.Config].
func (d *Daemon) refused(r *http.Request, id, code, message string) bool {
	caller, err := d.identities.Load().Caller(r.Context())
	if err != nil && !errors.Is(err, identity.ErrUnmapped) && !errors.Is(err, identity.ErrNameless) {
		d.log.ErrorContext(r.Context(), "call without a caller", "error", err)
		return false
	}
	return d.kms.RecordRefusal(r.Context(), caller, kmsapi.NewRequest(r, id), kmsapi.Errorf(code, "%s", message))
}
