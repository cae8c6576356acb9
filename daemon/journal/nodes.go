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

// Answerable is Acknowledged for an answer to a call of the API: others need not know of what it does not rest on.
// A use of keys that succeeds rests on those; a refusal, and a call that lists or changes something, on anything.
func (s *Journal) Answerable(ctx context.Context, c *Call, err error) error {
	if s.Node == "" {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err != nil || c.Op == nil || !c.Op.Uses || len(c.Used) == 0 {
		return s.Store.AwaitChanges(ctx)
	}
	var room [2]string // ReEncrypt has two
	ids := room[:0]
	for _, row := range c.Used {
		ids = append(ids, row.ID)
	}
	return s.Store.AwaitChanges(ctx, ids...)
}

// Accompanied reports whether another node has the database open.
func (s *Journal) Accompanied() bool { return len(s.Store.Nodes()) > 1 }
