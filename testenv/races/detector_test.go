//go:build race

package races

// The race detector makes everything take five times as long.
func init() { share = 8 }
