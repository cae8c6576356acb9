package trust

import (
	"context"
	"log/slog"
	"maps"
	"slices"
)

// beheld is what the log has said of the nodes.
type beheld struct {
	any    bool
	fenced bool
	leader string
	serve  map[string]bool // by name, this node left out
}

// behold says in the log who has begun or ceased to serve, who leads, and whether this node answers calls.
func (s *Trust) behold(ctx context.Context, seen *beheld) {
	now := beheld{any: true, serve: map[string]bool{}}
	for _, n := range s.Store.Nodes() {
		if n.Leader {
			now.leader = n.Name
		}
		if n.Serves && !n.Self {
			now.serve[n.Name] = true
		}
	}
	stale := s.Store.Fresh()
	now.fenced = stale != nil && s.Mismatch() == nil && seen.any // a start has yet to join
	for _, name := range slices.Sorted(maps.Keys(now.serve)) {
		if !seen.serve[name] {
			s.Log.LogAttrs(ctx, slog.LevelInfo, "another daemon serves the same keys", slog.String("node", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen.serve)) {
		if !now.serve[name] {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "another daemon does not serve any more", slog.String("node", name))
		}
	}
	if now.leader != seen.leader && now.leader != "" {
		s.Log.LogAttrs(ctx, slog.LevelInfo, "a daemon leads: it rotates, expires and deletes", slog.String("node", now.leader))
	}
	switch {
	case now.fenced && !seen.fenced:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "this daemon answers no calls until it knows what others have changed", slog.Any("reason", stale))
	case seen.fenced && !now.fenced && stale == nil:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "this daemon answers calls again")
	}
	*seen = now
}
