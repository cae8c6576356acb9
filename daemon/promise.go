package daemon

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"cmkd/backends"
)

// promise is what the processes of a plugin must serve, on every token: calls are
// routed to them by that. The executable of a plugin may be replaced while the daemon
// runs, by another program as well.
type promise struct {
	plugin string
	specs  atomic.Pointer[[]backends.KeySpec]
}

// ownPlugins are the plugins of cmkd's own by their names, each with a key spec that
// only its kind serves.
var ownPlugins = map[string]backends.KeySpec{
	"symmetric":  backends.SymmetricDefault,
	"asymmetric": backends.RSA2048,
	"hmac":       backends.HMAC256,
}

// newPromise is what the name of a plugin promises, which is nothing unless it is one
// of cmkd's own.
func newPromise(plugin string) *promise {
	p := &promise{plugin: plugin}
	specs := []backends.KeySpec{}
	if spec, ok := ownPlugins[plugin]; ok {
		specs = append(specs, spec)
	}
	p.specs.Store(&specs)
	return p
}

// make holds the plugin to what it announced when the daemon started.
func (p *promise) make(info *backends.InfoAnswer) {
	specs := specsOf(info)
	p.specs.Store(&specs)
}

// kept refuses a process that does not serve all that the plugin must.
func (p *promise) kept(path string, info *backends.InfoAnswer) error {
	got := specsOf(info)
	missing := slices.DeleteFunc(slices.Clone(*p.specs.Load()), func(s backends.KeySpec) bool { return slices.Contains(got, s) })
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s is not the program of the plugin %q: it serves %s, and not %s; install the right one, or, if this is meant, give the plugin another name and restart the daemon",
		path, p.plugin, joined(got), joined(missing))
}

func specsOf(info *backends.InfoAnswer) []backends.KeySpec {
	specs := make([]backends.KeySpec, len(info.Specs))
	for i, s := range info.Specs {
		specs[i] = s.Spec
	}
	return specs
}

// joined lists key specs, or says that there are none.
func joined(specs []backends.KeySpec) string {
	if len(specs) == 0 {
		return "no key spec"
	}
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}
