// Package version is the release that a program is of.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// linked is the release, set when `make build` links: as git describe names it.
var linked string

// Release is what git describe says of the source. Programs that were not built by
// `make build` have the go command's pseudo-version of it, or "dev".
func Release() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// Line is what a program says of itself on one line.
func Line(program string) string {
	return fmt.Sprintf("%s %s (%s %s/%s)", program, Release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
