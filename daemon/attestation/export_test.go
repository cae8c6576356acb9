package attestation

import "time"

// VerifyRecorded is Verify of a recorded document, which has no public key.
func (v *Verifier) VerifyRecorded(document []byte, now time.Time) (*Document, error) {
	return v.verify(document, now)
}
