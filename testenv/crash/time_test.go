package crash

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// passing is how much time passes at once: what was scheduled with the least waiting
// period, of 7 days, is due.
const passing = 10 * step

// letTimePass lets time pass again and again until there is no answer or ctx ends, with
// a key that rotates every 90 days, and with imported material that expires.
func (c *caller) letTimePass(ctx context.Context, killed <-chan struct{}) error {
	for ctx.Err() == nil {
		for _, prepare := range []func(*caller) *attempt{(*caller).makeRotating, (*caller).startRotating, (*caller).makeExpiring, (*caller).importExpiring} {
			if a := prepare(c); a != nil {
				if err := c.do(context.WithoutCancel(ctx), a); err != nil {
					return err
				}
			}
		}
		if err := c.pass(context.WithoutCancel(ctx), killed); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) kept(kind string) (target, bool) {
	for _, n := range c.names("key/" + c.name + "-*/kind") {
		if t := (target{c.name + "-" + n, rig.Region}); c.fact(t.shared("kind")) == kind {
			return t, true
		}
	}
	return target{c.fresh(), rig.Region}, false
}

func (c *caller) makeRotating() *attempt {
	t, ok := c.kept("symmetric")
	if ok {
		return nil
	}
	return c.creation(t, "symmetric")
}

func (c *caller) startRotating() *attempt {
	t, ok := c.kept("symmetric")
	if !ok || c.fact(t.shared("rotation")) == "90" {
		return nil
	}
	in := &kms.EnableKeyRotationInput{RotationPeriodInDays: aws.Int32(90)}
	return on(c, t, "EnableKeyRotation", in, &in.KeyId, change{t.shared("rotation"): "90"}, (*kms.Client).EnableKeyRotation)
}

func (c *caller) makeExpiring() *attempt {
	t, ok := c.kept("external")
	if ok {
		return nil
	}
	return c.creation(t, "external")
}

func (c *caller) importExpiring() *attempt {
	t, ok := c.kept("external")
	if !ok || c.fact(t.fact("state")) != pendingImport {
		return nil
	}
	return c.importInto(t, &kms.ImportKeyMaterialInput{
		ExpirationModel: types.ExpirationModelTypeKeyMaterialExpires, ValidTo: aws.Time(c.clock.now().Add(passing / 2)),
	})
}

// pass lets the time pass, and notes what the service should do on its own.
func (c *caller) pass(ctx context.Context, killed <-chan struct{}) error {
	c.deaths.Lock()
	defer c.deaths.Unlock()
	var due []*call
	for _, region := range regions {
		for _, name := range c.names("key/*/" + region + "/state") {
			if t := (target{name, region}); c.fact(t.fact("state")) == pendingDeletion {
				due = append(due, c.open("DeleteKey", region+"/"+c.id("key/"+name), c.removal(t)))
			}
		}
	}
	if t, ok := c.kept("external"); ok && c.fact(t.fact("state")) == enabled {
		due = append(due, c.open("DeleteExpiredKeyMaterial", rig.Region+"/"+c.id("key/"+t.name), change{t.fact("state"): pendingImport}))
	}
	if t, ok := c.kept("symmetric"); ok {
		id := c.id("key/" + t.name)
		status, err := c.client(rig.Region).GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id}, named("look"))
		if err != nil {
			return err
		}
		if next := aws.ToTime(status.NextRotationDate); !next.IsZero() && next.Before(c.clock.now().Add(passing)) {
			versions, _ := strconv.Atoi(c.fact(t.shared("versions")))
			due = append(due, c.open("RotateKey", rig.Region+"/"+id, change{t.shared("versions"): strconv.Itoa(versions + 1)}))
		}
	}
	c.clock.target.Store(c.clock.ahead.Load() + int64(passing))
	if !c.clock.reach(killed) {
		return errKilled
	}
	for _, d := range due {
		c.close(d, "")
	}
	return nil
}

// reach waits until the time has come that the clock moves to, and jobs have run then
// that did not fail.
func (c *clock) reach(killed <-chan struct{}) bool {
	for {
		failed := c.failed.Load()
		for c.ahead.Load() < c.target.Load() {
			if !doze(killed) {
				return false
			}
		}
		for until := c.ran.Load() + 2; c.ran.Load() < until; { // one may be under way
			c.asked.Store(until)
			if !doze(killed) {
				return false
			}
		}
		if c.failed.Load() == failed {
			return true
		}
	}
}

// doze waits for a moment, unless the daemon was killed.
func doze(killed <-chan struct{}) bool {
	select {
	case <-killed:
		return false
	case <-time.After(time.Millisecond):
		return true
	}
}
