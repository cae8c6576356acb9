package journal

import "context"

// Several daemons, the nodes, may have one database: docs/decisions/0023-etcd.md. Each follows
// what the others commit, and no answer leaves a node that was decided on something that
// another one does not know yet. What is to be done once, the leader does.

// Acknowledged returns when all nodes know what the answer to a call was decided on: another
// one must not answer afterwards as if it had not happened.
func (s *Journal) Acknowledged(ctx context.Context) error {
	if s.Node == "" {
		return nil
	}
	return s.Store.Await(context.WithoutCancel(ctx))
}

// Accompanied reports whether another node has the database open.
func (s *Journal) Accompanied() bool { return len(s.Store.Nodes()) > 1 }
