package trail

import "context"

// Source is where a trail is read: its files ([Dir]), or a daemon that reads them.
type Source interface {
	// Search hands the records that fit to f, in the order of the trail, and returns f's
	// first error, nil for [Stop]. An event is f's to keep.
	Search(ctx context.Context, o Options, f func(*Event) error) error
	// Follow hands the records behind the one with the sequence to f, those that fit, as
	// they are written. It ends with ctx, or with f's error; [Stop] is none.
	Follow(ctx context.Context, q Query, after uint64, f func(*Event) error) error
}

// Dir is a folder with a trail. It implements [Source].
type Dir string

// Search implements [Source].
func (d Dir) Search(ctx context.Context, o Options, f func(*Event) error) error {
	return Search(ctx, string(d), o, f)
}

// Follow implements [Source].
func (d Dir) Follow(ctx context.Context, q Query, after uint64, f func(*Event) error) error {
	return Follow(ctx, string(d), q, after, f)
}
