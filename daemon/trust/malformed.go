package trust

import (
	"fmt"
	"strings"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// maxNamed is how many malformed rows a reason names.
const maxNamed = 10

// The largest numbers that rows have. Beyond them arithmetic overflows.
const (
	maxVersionNumber = 1 << 31
	maxDays          = 10_000
)

// vetting collects rows that no version of the program writes.
type vetting struct {
	named []string
	count int
}

func (v *vetting) note(ok bool, row, what string) {
	if ok {
		return
	}
	if v.count++; v.count <= maxNamed {
		v.named = append(v.named, row+": "+what)
	}
}

func (v *vetting) id(id []byte, row string) {
	v.note(len(id) == len(backends.KeyID{}), row, fmt.Sprintf("its CKA_ID has %d bytes, not %d", len(id), len(backends.KeyID{})))
}

// date checks a time that is encoded again when the row changes (RFC 3339).
func (v *vetting) date(t time.Time, row string) {
	v.note(t.Year() >= 0 && t.Year() <= 9999, row, "a date is beyond the year 9999")
}

// malformed says which rows hold what no version of the program writes, "" if
// none does: a CKA_ID of a wrong length, an unknown state, a number or a date
// beyond all limits. Nothing is done in the name of such rows, whoever has
// authenticated them.
func malformed(view *store.View) string {
	var v vetting
	for k := range view.AllKeys() {
		row := fmt.Sprintf("keys [%q,%q]", k.Region, k.ID)
		v.note(keys.KnownState(k.State), row, fmt.Sprintf("its state is %q", k.State))
		v.note(k.PendingWindowDays >= 0 && k.PendingWindowDays <= maxDays && k.RotationPeriodDays >= 0 && k.RotationPeriodDays <= maxDays,
			row, "a number of days is beyond all limits")
		for _, t := range []time.Time{k.Created, k.Deletion, k.NextRotation, k.ValidTo} {
			v.date(t, row)
		}
	}
	for m := range view.AllVersions() {
		row := fmt.Sprintf("versions [%q,%d]", m.KeyID, m.Number)
		v.id(m.CKAID, row)
		v.note(m.Number > 0 && m.Number < maxVersionNumber, row, "its number is beyond all limits")
		v.note(m.Encryptions <= keyring.MaxEncryptions+keyring.MaxBlock, row, "its count of encryptions is beyond 2^32")
		switch m.State {
		case kmsapi.KeyMaterialStateCurrent, kmsapi.KeyMaterialStateNonCurrent,
			kmsapi.KeyMaterialStatePendingRotation, kmsapi.KeyMaterialStatePendingMultiRegionImportAndRotation:
		default:
			v.note(false, row, fmt.Sprintf("its state is %q", m.State))
		}
		for _, t := range []time.Time{m.Created, m.Rotated, m.ValidTo} {
			v.date(t, row)
		}
	}
	for k := range view.AllSystemKeys() {
		row := fmt.Sprintf("system_keys [%q,%q,%d]", k.Token, k.Purpose, k.Version)
		v.id(k.CKAID, row)
		v.note(k.Version > 0 && k.Version < maxVersionNumber, row, "its version is beyond all limits")
	}
	for i := range view.Intents() {
		row := fmt.Sprintf("intents [\"%x\"]", i.CKAID)
		v.id(i.CKAID, row)
		v.note(i.Action == "create" || i.Action == "destroy", row, fmt.Sprintf("its action is %q", i.Action))
	}
	for p := range view.AllImportParameters() {
		row := fmt.Sprintf("import_parameters [\"%x\"]", p.TokenHash)
		v.id(p.CKAID, row)
		v.date(p.ValidTo, row)
	}
	if v.count > len(v.named) {
		v.named = append(v.named, fmt.Sprintf("and %d more", v.count-len(v.named)))
	}
	return strings.Join(v.named, "; ")
}
