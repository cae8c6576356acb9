package access

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"cmkd/daemon/attestation"
	"cmkd/daemon/journal"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
)

// keyContext answers condition keys from the call and its key. key is nil
// where there is none.
type keyContext struct {
	s     *Access
	c     *journal.Call
	d     *Demand
	key   *store.Key
	alias string
}

// AppendValues implements [policy.Context]. What it does not know is not in the
// request: kms:ViaService, aws:SourceIp and others of callers through AWS or a
// network.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
func (k *keyContext) AppendValues(dst []string, name string) []string {
	for _, cond := range k.d.Conditions {
		if policy.EqualFold(cond.name, name) {
			dst = append(dst, cond.values...)
			if !strings.HasPrefix(name, "aws:requesttag/") && !strings.HasPrefix(name, ResourceTagPrefix) {
				return dst
			} // of two tags whose keys differ in case, both have their say
		}
	}
	switch name {
	case "aws:requestedregion":
		return append(dst, cmp.Or(k.d.Region, k.c.Region))
	case "aws:useragent":
		return appendNonEmpty(dst, k.c.Record.UserAgent)
	case "aws:viaawsservice":
		return append(dst, "false")
	case "cmkd:peeruid":
		return append(dst, strconv.FormatUint(uint64(k.c.Caller.UID), 10))
	case "cmkd:peergid":
		return append(dst, strconv.FormatUint(uint64(k.c.Caller.GID), 10))
	case "cmkd:peerexecutable":
		return appendNonEmpty(dst, k.c.Caller.Executable())
	case "cmkd:plaintextdatakey":
		return append(dst, Boolean(k.d.PlaintextDataKey))
	case "kms:requestalias":
		return appendNonEmpty(dst, k.alias)
	}
	if rest, ok := strings.CutPrefix(name, attestationPrefix); ok {
		return appendAttestation(dst, k.c.Attested, rest)
	}
	if k.key == nil {
		return dst
	}
	return k.appendKey(dst, name)
}

// appendKey answers the condition keys that are about the key.
func (k *keyContext) appendKey(dst []string, name string) []string {
	row := k.key
	switch name {
	case "kms:keyspec":
		return append(dst, string(row.Spec))
	case "kms:keyusage":
		return append(dst, string(row.Usage))
	case "kms:keyorigin":
		return append(dst, string(row.Origin))
	case "kms:multiregion":
		return append(dst, Boolean(row.PrimaryRegion != ""))
	case "kms:multiregionkeytype":
		return appendNonEmpty(dst, MultiRegionType(row))
	case "kms:reencryptonsamekey":
		if k.d.OtherKey == "" {
			return dst
		}
		return append(dst, Boolean(k.s.sameKey(k.c, row, k.d.OtherKey)))
	case "kms:resourcealiases":
		for a := range k.c.View.AliasesOf(row.Region, row.ID, "") {
			dst = append(dst, a.Name)
		}
		return dst
	case "kms:trailingdayswithoutkeyusage":
		return append(dst, strconv.Itoa(k.s.daysUnused(k.c.View, row)))
	}
	if tag, ok := strings.CutPrefix(name, ResourceTagPrefix); ok {
		for _, t := range row.Tags {
			if policy.EqualFold(t.Key, tag) {
				dst = append(dst, t.Value)
			}
		}
	}
	return dst
}

// Preset implements [policy.Presetter].
func (k *keyContext) Preset(name string) bool {
	return slices.ContainsFunc(k.d.Presets, func(preset string) bool { return policy.EqualFold(preset, name) })
}

// MultiRegionType is kms:MultiRegionKeyType of the key, "" if it is of one Region.
func MultiRegionType(row *store.Key) string {
	switch row.PrimaryRegion {
	case "":
		return ""
	case row.Region:
		return "PRIMARY"
	default:
		return "REPLICA"
	}
}

// daysUnused is the number of whole days since the key was used, or made.
func (s *Access) daysUnused(view *store.View, row *store.Key) int {
	last := row.Created
	if u, ok := s.usages.get(row.Region, row.ID); ok {
		last = u.Time
	} else if u, ok := view.Usage(row.Region, row.ID); ok {
		last = u.Time
	}
	return max(0, int(s.Now().Sub(last)/(24*time.Hour)))
}

// attestationPrefix is of the condition keys about an attested recipient.
const attestationPrefix = "kms:recipientattestation:"

// registerCondition is what the condition keys of a platform's PCRs have before the index.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html
var registerCondition = map[attestation.Platform]string{
	attestation.NitroEnclave: "pcr",
	attestation.NitroTPM:     "nitrotpmpcr",
}

// appendAttestation answers them: name is what follows the prefix, in lower case.
// Values are in lower-case hexadecimal, as AWS has them.
func appendAttestation(dst []string, d *attestation.Document, name string) []string {
	if d == nil {
		return dst
	}
	if d.Platform == attestation.NitroEnclave && name == "imagesha384" {
		name = "pcr0"
	}
	number, ok := strings.CutPrefix(name, registerCondition[d.Platform])
	index, err := strconv.ParseUint(number, 10, 8)
	if !ok || err != nil || number != strconv.FormatUint(index, 10) {
		return dst
	}
	value, ok := d.PCRs[uint(index)]
	if !ok {
		return dst
	}
	return append(dst, hex.EncodeToString(value))
}

// sameKey reports whether what the client wrote is the key.
func (s *Access) sameKey(c *journal.Call, key *store.Key, written string) bool {
	row, _, err := s.Resolve(c.View, c.Region, written, true)
	return err == nil && row.ID == key.ID
}
