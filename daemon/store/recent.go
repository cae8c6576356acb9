package store

import "sync"

// recent remembers which commit was the last to change what answers depend on: each key with
// what belongs to it, and everything else. Bookkeeping does not count. An answer need not wait until
// others know of a commit that has changed nothing which it rests on.
type recent struct {
	mu    sync.RWMutex
	keys  map[string]uint64 // sequences, by key ID; one that is missing changed before other
	other uint64
	all   uint64
}

// maxRecent is how many keys are told apart. Behind them all count as changed.
const maxRecent = 10_000

// everything notes that the commit may have changed anything.
func (r *recent) everything(sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys, r.other, r.all = nil, sequence, sequence
}

// note notes what a commit changes that leads from one snapshot to another. It is called before
// anybody can see that one.
func (r *recent) note(sequence uint64, from, to *View, changes []Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = map[string]uint64{}
	}
	r.all = max(r.all, sequence)
	for i := range changes {
		k := kindsByTable[changes[i].Table]
		if k.asideOf() {
			continue
		}
		before, after := k.owner(from, changes[i].Name), k.owner(to, changes[i].Name)
		if before == "" && after == "" {
			r.other = max(r.other, sequence)
		}
		for _, id := range []string{before, after} {
			if id != "" {
				r.keys[id] = max(r.keys[id], sequence)
			}
		}
	}
	if len(r.keys) > maxRecent {
		r.keys, r.other = nil, r.all
	}
}

// of is the last commit that has changed one of the keys, or what is no key's; without keys the last one
// that has changed anything.
func (r *recent) of(ids []string) uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(ids) == 0 {
		return r.all
	}
	sequence := r.other
	for _, id := range ids {
		sequence = max(sequence, r.keys[id])
	}
	return sequence
}
