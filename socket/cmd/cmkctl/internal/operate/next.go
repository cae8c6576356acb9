package operate

import (
	"fmt"

	"cmkd/socket/operatorapi"
)

// nothingNext is what there is to do for a daemon that is well.
const nothingNext = "nothing to do"

// next is the first thing to do about what the status shows, in one line: what stops
// everything comes before what stops something, and that before what will.
func (h *Health) next() string {
	for _, find := range []func() string{h.nextTrust, h.nextDisk, h.nextToken, h.nextMaterial, h.nextLater} {
		if text := find(); text != "" {
			return text
		}
	}
	if h.State != operatorapi.OK {
		return "see what cmkctl status lists, and the daemon's log"
	}
	return nothingNext
}

// nextTrust is about a database or a trail that does not verify.
func (h *Health) nextTrust() string {
	if h.AuditMismatch != "" || h.StateMismatch != "" {
		return "cmkctl accept-state shows what does not verify: restore it, or accept it"
	}
	return ""
}

// nextDisk is about disks that cannot be written.
func (h *Health) nextDisk() string {
	switch {
	case h.AuditError != "":
		return "free space on the disk of the audit trail, or repair what its line says: all calls are refused until then"
	case h.Fenced != "", h.DatabaseError != "" && len(h.Servers) > 0:
		return "check etcd and the network to it: the daemon keeps trying"
	case h.DatabaseError != "":
		return "free space on the disk of the database or repair it: nothing can be changed until then"
	case h.AuditDisk.Reserved:
		return "free space on the disk of the audit trail, such as with cmkctl audit prune: only administrators are served until then"
	}
	return ""
}

// nextToken is about tokens and plugins that do not serve.
func (h *Health) nextToken() string {
	for _, p := range h.Plugins {
		if p.State == "login failed" {
			return fmt.Sprintf("correct the PIN of token %s, then cmkctl reload", OnToken(&p))
		}
	}
	for _, t := range h.Tokens {
		for _, m := range t.Members {
			switch m.State {
			case operatorapi.OK:
			case "refused":
				return fmt.Sprintf("clone token %s to its member %s: it does not show the keys that it should", t.Name, m.Name)
			default:
				return fmt.Sprintf("check member %s of token %s, its network and its module: the daemon keeps trying", m.Name, t.Name)
			}
		}
		if t.State != operatorapi.OK {
			return fmt.Sprintf("check token %s, its network and its module: the daemon keeps trying", t.Name)
		}
	}
	for _, p := range h.Plugins {
		switch {
		case p.State != operatorapi.OK:
			return fmt.Sprintf("check why plugin %s on token %s is %s: the last error is beside it", p.Name, OnToken(&p), p.State)
		case p.Hanging != "":
			return fmt.Sprintf("check token %s: %s", p.Token, p.Hanging)
		}
	}
	return ""
}

// nextMaterial is about keys that are not used.
func (h *Health) nextMaterial() string {
	switch {
	case len(h.Duplicates) > 0:
		d := h.Duplicates[0]
		return fmt.Sprintf("remove the object with CKA_ID %s that is not cmkd's from token %s", d.ID, d.Token)
	case len(h.UnsafeMaterials) > 0:
		m := h.UnsafeMaterials[0]
		return fmt.Sprintf("restore the object of key %s version %d in token %s", m.KeyID, m.Version, m.Token)
	case h.MissingMaterials > 0:
		return "cmkctl recover names the key materials that are missing: restore them in their token"
	}
	return ""
}

// otherLeader is the name of the daemon that leads, "" if it is this one or there is none.
func (h *Health) otherLeader() string {
	for _, n := range h.Nodes {
		if n.Leader && !n.Self {
			return n.Name
		}
	}
	return ""
}

// nextLater is about what stops nothing now.
func (h *Health) nextLater() string {
	switch {
	case h.ReloadError != "":
		return "correct the configuration, then cmkctl reload: the old settings are in force"
	case h.EpochError != "":
		return "check the token and the database for why the epoch cannot begin, then cmkctl reload"
	case h.DeletionsHeld:
		if leader := h.otherLeader(); leader != "" {
			return "cmkctl confirm-clock on the daemon " + leader + ", which leads, if its time is right"
		}
		return "cmkctl confirm-clock, if the daemon's time is right"
	case h.AuditShipping != nil && h.AuditShipping.Error != "":
		return fmt.Sprintf("check the receiver of the audit trail, %s", h.AuditShipping.To)
	case h.AuditDisk.Warning != "":
		return "make room for the audit trail, such as with cmkctl audit prune: " + h.AuditDisk.Warning
	case len(h.Warnings) > 0:
		return h.Warnings[0]
	}
	for _, s := range h.Servers {
		if s.Error != "" {
			return fmt.Sprintf("start the etcd server %s, or replace it, while the others have a quorum: %s", s.Endpoint, s.Error)
		}
	}
	for _, p := range h.Plugins {
		if len(p.Limits) > 0 {
			return fmt.Sprintf("token %s: %s", p.Token, p.Limits[0])
		}
	}
	return ""
}
