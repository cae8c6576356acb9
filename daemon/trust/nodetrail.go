package trust

import (
	"context"
	"maps"
	"time"

	"cmkd/daemon/store"
)

// Daemons that take turns with one database have a trail each. The head names the end of
// every one: who commits writes the end of its own and copies those of the others. So no
// trail can be cut off unnoticed while another daemon serves.

// foundHead reads a head as the database has it, from the point of view of this node: what it
// says of the audit trail is of the node's own, and nothing if it knows none of it.
func (s *Trust) foundHead(found *store.Sealed) (*store.Head, error) {
	head, err := found.Head()
	if err != nil || s.Node == "" || head.Node == "" {
		return head, err
	}
	end := head.Trails[s.Node]
	head.AuditSequence, head.AuditHash, head.AuditLast = end.Sequence, end.Hash, end.Last
	return head, nil
}

// nameTrails completes the head of a node that takes turns with others. The fields of
// its own trail are filled in. If an older copy is accepted, what the others have
// recorded since may or may not be in it.
func (s *Trust) nameTrails(head *store.Head) {
	if s.Node == "" {
		return
	}
	head.Node, head.Trails = s.Node, map[string]store.TrailEnd{}
	if found := s.Store.Found(); found != nil {
		if before, err := found.Head(); err == nil { // else it is about to be accepted without
			maps.Copy(head.Trails, before.Trails)
			head.Accepted = before.Accepted
		}
	}
	if s.integrity.older.Load() {
		head.Accepted = true
		for node, end := range head.Trails {
			end.Accepted, end.Last = true, false
			head.Trails[node] = end
		}
	}
	head.Trails[s.Node] = store.TrailEnd{Sequence: head.AuditSequence, Hash: head.AuditHash, Last: head.AuditLast}
}

// othersServe reports whether another node does, after this one has left them. Several that end at the same moment
// must not each leave the epoch to the others.
func (s *Trust) othersServe(ctx context.Context) bool {
	if !s.Store.OthersServe() {
		return false
	}
	select { // until it is known who has left just before
	case <-time.After(leavePause):
	case <-ctx.Done():
	}
	return s.Store.OthersServe()
}

// leavePause is how soon it is known that another node has left.
const leavePause = 200 * time.Millisecond

// acceptedElsewhere reports whether an older copy was accepted on another node since this one has named the end of
// its trail.
func (s *Trust) acceptedElsewhere(head *store.Head) bool {
	if s.Node == "" {
		return false
	}
	end, known := head.Trails[s.Node]
	return end.Accepted || !known && head.Accepted
}
