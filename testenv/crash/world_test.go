package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"cmkd/testenv/rig"
)

// Regions of the rigs, the first one being the rig's own.
var regions = []string{rig.Region, "eu-west-1"}

// world is what the callers of one rig know of it together.
type world struct {
	rig   *rig.Rig
	clock *clock
	// stores: there is a second token, for custom key stores; labels has those of both.
	stores bool
	labels []string
	at     func() int // the position of the disk's log, 0 without a disk

	deaths sync.RWMutex // held for writing while time passes: keys due would be deleted

	mu       sync.Mutex
	base     facts             // when this life of the daemon began
	before   int               // number of the last call before that
	now      facts             // as far as answered
	calls    []*call           // of this life
	next     int               // number of the next call
	ids      map[string]string // IDs of keys and custom key stores, by the name in the facts
	proofs   []*proof
	deleted  map[string]int // how often a key (region/ID) was deleted: a replica may come back
	cut      int            // calls without an answer
	done     int            // those of them that happened
	back     int            // records that were taken back
	nameless int            // objects in the token; see rows.compare
	codes    map[string]int // how many calls were answered with an error, by operation and code
	clients  map[string]*kms.Client
}

// fact returns a fact of the world.
func (w *world) fact(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[name]
}

func (w *world) id(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids[name]
}

func (w *world) learn(name, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids[name] = id
}

// names returns what stands for the stars in the facts whose names match, such as
// "key/c1-*/us-east-1/state", sorted. There is one star.
func (w *world) names(pattern string) []string {
	before, after, _ := strings.Cut(pattern, "*")
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for name := range w.now {
		if rest, ok := strings.CutPrefix(name, before); ok {
			if star, ok := strings.CutSuffix(rest, after); ok && !strings.Contains(star, "/") {
				found = append(found, star)
			}
		}
	}
	slices.Sort(found)
	return found
}

// client is the SDK's client of a Region; one lives as long as the daemon.
func (w *world) client(region string) *kms.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.clients[region] == nil {
		w.clients[region] = w.rig.Client(region)
	}
	return w.clients[region]
}

// attempt is a call that is about to be made.
type attempt struct {
	operation, region string
	change            change
	// prepare is what the call needs, nil for nothing. If it is refused, the call is not made.
	prepare func(ctx context.Context, c *kms.Client) error
	send    func(ctx context.Context, c *kms.Client, named func(*kms.Options)) error
}

// named makes a call say in its User-Agent who it is.
func named(userAgent string) func(*kms.Options) {
	return func(o *kms.Options) {
		o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("User-Agent", userAgent))
	}
}

// open notes a call that begins.
func (w *world) open(operation, event string, c change) *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	made := &call{id: w.next, operation: operation, change: c, event: event, began: w.at(), ended: unanswered}
	w.calls = append(w.calls, made)
	return made
}

// close notes the answer.
func (w *world) close(c *call, failure string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.ended, c.failure = w.at(), failure
	if failure == "" {
		c.change.apply(w.now)
	} else {
		w.codes[c.operation+" "+failure]++
	}
}

// do makes the call. It returns errKilled if there was no answer.
func (w *world) do(ctx context.Context, a *attempt) error {
	if a.prepare != nil {
		err := a.prepare(ctx, w.client(a.region))
		if _, refused := errors.AsType[smithy.APIError](err); refused {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: preparing %s: %w", errKilled, a.operation, err)
		}
	}
	c := w.open(a.operation, "", a.change)
	err := a.send(ctx, w.client(a.region), named(fmt.Sprint(agent, c.id)))
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		w.close(c, e.ErrorCode())
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %v: %w", errKilled, c, err)
	}
	w.close(c, "")
	return nil
}

var errKilled = errors.New("no answer")

// caller makes random calls, one after the other, about things of its own.
type caller struct {
	*world
	name   string // such as "c1": what it makes is called so
	stores bool   // it has custom key stores
	random *rand.Rand
}

// run makes calls until one has no answer or ctx ends.
func (c *caller) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := c.step(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// step makes one call. What concerns the deletion of keys waits while time passes.
func (c *caller) step(ctx context.Context) error {
	calm := c.deaths.TryRLock()
	if calm {
		defer c.deaths.RUnlock()
	}
	a := c.choose()
	if a == nil || !calm && (a.operation == "ScheduleKeyDeletion" || a.operation == "CancelKeyDeletion") {
		return nil
	}
	return c.do(ctx, a)
}

// pick returns one of a list, "" of none.
func (c *caller) pick(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[c.random.IntN(len(list))]
}

// fresh is a name that nothing had before.
func (c *caller) fresh() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%s-%d", c.name, c.next)
}

// target is a key in one of its Regions.
type target struct{ name, region string }

func (t target) fact(of string) string   { return "key/" + t.name + "/" + t.region + "/" + of }
func (t target) shared(of string) string { return "key/" + t.name + "/" + of }

// target picks a key of the caller in one of its Regions, in one of the states, if
// there is one.
func (c *caller) target(states ...string) (target, bool) {
	var all []target
	for _, region := range regions {
		for _, name := range c.names("key/" + c.name + "-*/" + region + "/state") {
			t := target{c.name + "-" + name, region}
			if slices.Contains(states, c.fact(t.fact("state"))) {
				all = append(all, t)
			}
		}
	}
	if len(all) == 0 {
		return target{}, false
	}
	return all[c.random.IntN(len(all))], true
}

// removal is the change that takes a key out of a Region: all its facts there, and if
// it is nowhere else what it shares.
func (w *world) removal(t target) change {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, last := change{}, true
	for name := range w.now {
		if strings.HasPrefix(name, "key/"+t.name+"/") && strings.HasSuffix(name, "/state") && name != t.fact("state") {
			last = false
		}
	}
	for name, value := range w.now {
		switch {
		case strings.HasPrefix(name, t.fact("")):
			out[name] = gone
		case last && strings.HasPrefix(name, t.shared("")):
			out[name] = gone
		case strings.HasPrefix(name, "alias/"+t.region+"/") && value == t.name:
			out[name] = gone
		}
	}
	return out
}

// life begins a life of the daemon with the facts that were seen.
func (w *world) life(seen facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = w.next
	w.base, w.now, w.calls, w.clients = maps.Clone(seen), maps.Clone(seen), nil, map[string]*kms.Client{}
}
