package daemon

import (
	"errors"
	"time"

	"cmkd/socket/kmsapi"
	"cmkd/socket/sigv4"
)

// signatureRefusal is the refusal of a signature as the API words it.
func signatureRefusal(err error) *kmsapi.Error {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return &kmsapi.Error{Code: e.Code, Message: e.Message}
	}
	return kmsapi.Errorf(kmsapi.CodeInvalidSignatureException, "%s", err)
}

// clock is the time now.
func (d *Daemon) clock() time.Time {
	if d.now != nil {
		return d.now()
	}
	return time.Now()
}
