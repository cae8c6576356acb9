package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// access is a read or a write of the description of one of the shared keys.
type access struct {
	key   string
	write bool
	value string // of a write
}

// register is the model: descriptions are registers, one for each key.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(access).key
			byKey[key] = append(byKey[key], op)
		}
		var all [][]porcupine.Operation
		for _, part := range byKey {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return output == state, state
	},
	Equal: func(a, b any) bool { return a == b },
}

// settled is a history without doubts that only cost the checker time. Each write has a value
// of its own, so that one of unknown outcome whose value nobody has read might as well not have
// happened, and any other happened before the first read of its value had returned.
func settled(history []porcupine.Operation) []porcupine.Operation {
	type read struct{ key, value string }
	first := map[read]int64{}
	for _, op := range history {
		if a := op.Input.(access); !a.write {
			r := read{a.key, op.Output.(string)}
			if at, ok := first[r]; !ok || op.Return < at {
				first[r] = op.Return
			}
		}
	}
	var all []porcupine.Operation
	for _, op := range history {
		if a := op.Input.(access); a.write && op.Return == math.MaxInt64 {
			at, ok := first[read{a.key, a.value}]
			if !ok {
				continue
			}
			if at > op.Call { // else it was read too early, which the checker finds
				op.Return = at
			}
		}
		all = append(all, op)
	}
	return all
}

// TestSettled: what is left out of a history changes nothing about it.
func TestSettled(t *testing.T) {
	t.Parallel()
	write := func(value string, from, to int64) porcupine.Operation {
		return porcupine.Operation{Input: access{key: "k", write: true, value: value}, Call: from, Return: to}
	}
	read := func(value string, from, to int64) porcupine.Operation {
		return porcupine.Operation{Input: access{key: "k"}, Output: value, Call: from, Return: to}
	}
	const never = math.MaxInt64
	for name, c := range map[string]struct {
		history []porcupine.Operation
		left    int
		ok      bool
	}{
		"never read":          {[]porcupine.Operation{write("a", 1, 2), write("b", 3, never), read("a", 4, 5)}, 2, true},
		"read late":           {[]porcupine.Operation{write("a", 1, 2), write("b", 3, never), read("a", 4, 5), read("b", 6, 7)}, 4, true},
		"read and gone":       {[]porcupine.Operation{write("a", 1, 2), write("b", 3, never), read("b", 4, 5), read("a", 6, 7)}, 4, false},
		"read before it came": {[]porcupine.Operation{read("b", 1, 2), write("b", 3, never)}, 2, false},
	} {
		got := settled(c.history)
		if ok := porcupine.CheckOperations(register, got); len(got) != c.left || ok != c.ok || ok != porcupine.CheckOperations(register, c.history) {
			t.Errorf("%s: %d operations, linearizable: %t; want %d, %t", name, len(got), ok, c.left, c.ok)
		}
	}
}

// clusterRun is daemons and servers under calls and faults.
type clusterRun struct {
	daemons []*rig.Rig
	servers []*etcd.Server
	keys    []string
	began   time.Time

	mu      sync.Mutex // guards what follows
	history []porcupine.Operation
	done    []promise
	wrong   []string
	unknown int
}

// promise is something that was answered: it holds from then on, on each daemon.
type promise struct {
	what  string
	holds func(ctx context.Context, c *kms.Client) (bool, error)
}

// TestHistory kills and stops daemons and etcd servers under changes. What was answered holds,
// on all daemons, the history of the descriptions is linearizable, no object
// is left in the token, and each audit trail verifies.
// CMKD_CLUSTER_KILLS is how many faults there are, with three servers; CMKD_CLUSTER_SEED repeats a run.
func TestHistory(t *testing.T) {
	t.Parallel()
	faults, servers := 6, 1
	if text := os.Getenv("CMKD_CLUSTER_KILLS"); text != "" {
		faults, _ = strconv.Atoi(text)
		servers = 3
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CMKD_CLUSTER_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("CMKD_CLUSTER_SEED=%d", seed)
	r := &clusterRun{servers: etcd.StartCluster(t, servers), began: time.Now()}
	r.daemons = nodesOf(t, r.servers, 3, true)
	for range 3 {
		r.keys = append(r.keys, rig.NewKey(t, r.daemons[0].Client(""), &kms.CreateKeyInput{}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for worker := range 6 {
		running.Go(func() { r.work(ctx, worker, rand.New(rand.NewPCG(seed, uint64(worker)))) })
	}
	r.fail(t, faults, rand.New(rand.NewPCG(seed, 99)))
	cancel()
	running.Wait()
	r.check(t)
}

// fail makes faults, one after the other.
func (r *clusterRun) fail(t *testing.T, n int, random *rand.Rand) {
	t.Helper()
	pause := func(longest time.Duration) { wait(t.Context(), time.Duration(random.Int64N(int64(longest)))) }
	pause(time.Second)
	for range n {
		d, s := r.daemons[random.IntN(len(r.daemons))], r.servers[random.IntN(len(r.servers))]
		switch random.IntN(5) {
		case 0, 1:
			d.Kill()
			pause(time.Second)
			eventually(t, "a start", func() bool { // as systemd does, if a plugin is not ready in time
				err := d.TryStart(t)
				if err != nil {
					t.Logf("%v", err)
				}
				return err == nil
			})
		case 2:
			_ = d.Process.Process.Signal(syscall.SIGSTOP)
			pause(6 * time.Second)
			_ = d.Process.Process.Signal(syscall.SIGCONT)
		case 3:
			s.Kill()
			pause(time.Second)
			s.Run(t)
		case 4:
			s.Signal(t, syscall.SIGSTOP)
			pause(3 * time.Second)
			s.Signal(t, syscall.SIGCONT)
		}
		pause(2 * time.Second)
	}
}

// work calls until ctx ends.
func (r *clusterRun) work(ctx context.Context, worker int, random *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		c, name := r.daemons[random.IntN(len(r.daemons))].Client(""), fmt.Sprintf("%d-%d", worker, n)
		if random.IntN(4) > 0 {
			r.access(c, worker, access{key: r.keys[random.IntN(len(r.keys))], write: random.IntN(3) == 0, value: name})
		} else if p := change(c, random.IntN(6), name); p != nil {
			r.mu.Lock()
			r.done = append(r.done, *p)
			r.mu.Unlock()
			r.holds(r.daemons[random.IntN(len(r.daemons))], p)
		}
		wait(ctx, 10*time.Millisecond)
	}
}

const callTime = 20 * time.Second

// once has calls not repeated: what the SDK repeats may happen twice.
func once(o *kms.Options) { o.Retryer = aws.NopRetryer{} }

// access reads or writes a description, and notes it.
func (r *clusterRun) access(c *kms.Client, worker int, a access) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	op := porcupine.Operation{ClientId: worker, Input: a, Call: int64(time.Since(r.began))}
	var err error
	if a.write {
		_, err = c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &a.key, Description: &a.value}, once)
	} else {
		var out *kms.DescribeKeyOutput
		if out, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &a.key}, once); err == nil {
			op.Output = aws.ToString(out.KeyMetadata.Description)
		}
	}
	op.Return = int64(time.Since(r.began))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if !a.write {
			return
		}
		r.unknown++
		op.Return = math.MaxInt64 // it may happen at any time, or never
	}
	r.history = append(r.history, op)
}

// change changes something, and returns what holds if it was answered.
func change(c *kms.Client, kind int, name string) *promise {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{}, once)
	if err != nil {
		return nil
	}
	id := made.KeyMetadata.KeyId
	state := func(what string, want types.KeyState) *promise {
		return &promise{what + " " + *id, func(ctx context.Context, c *kms.Client) (bool, error) {
			out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id})
			return err == nil && out.KeyMetadata.KeyState == want, err
		}}
	}
	created := state("create", types.KeyStateEnabled)
	switch kind {
	case 0:
		if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id}, once); err == nil {
			return state("disable", types.KeyStateDisabled)
		}
		return nil
	case 1:
		if _, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id}, once); err == nil {
			return state("delete", types.KeyStatePendingDeletion)
		}
		return nil
	case 2:
		alias := "alias/" + name
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: id}, once); err == nil {
			return &promise{alias, func(ctx context.Context, c *kms.Client) (bool, error) {
				out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &alias})
				return err == nil && *out.KeyMetadata.KeyId == *id, err
			}}
		}
	case 3:
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}, once); err == nil {
			return &promise{"rotate " + *id, func(ctx context.Context, c *kms.Client) (bool, error) {
				out, err := c.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: id})
				return err == nil && len(out.Rotations) == 1, err
			}}
		}
	case 4:
		grantee := "arn:aws:iam::" + rig.Account + ":user/" + name
		if out, err := c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: id, GranteePrincipal: &grantee, Operations: []types.GrantOperation{"Decrypt"}}, once); err == nil {
			if _, err := c.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: id, GrantId: out.GrantId}, once); err != nil {
				return nil
			}
			return &promise{"revoke " + *out.GrantId, func(ctx context.Context, c *kms.Client) (bool, error) {
				list, err := c.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id})
				return err == nil && len(list.Grants) == 0, err
			}}
		}
	case 5:
		text := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"S%s","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}]}`,
			strings.ReplaceAll(name, "-", "x"), rig.Account)
		if _, err := c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: &text}, once); err == nil {
			return &promise{"policy of " + *id, func(ctx context.Context, c *kms.Client) (bool, error) {
				out, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: id})
				return err == nil && strings.Contains(*out.Policy, "S"+strings.ReplaceAll(name, "-", "x")), err
			}}
		}
	}
	return created
}

// holds asks a daemon whether the promise is kept. A 5xx or no answer says nothing.
func (r *clusterRun) holds(d *rig.Rig, p *promise) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	ok, err := p.holds(ctx, d.Client(""))
	if ok || err != nil && rig.Code(err) != "NotFoundException" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf("%s on %s: %v", p.what, d.Dir, err))
}

// check looks at what is there in the end.
func (r *clusterRun) check(t *testing.T) {
	t.Helper()
	for i, d := range r.daemons {
		eventually(t, "healthy", func() bool { return d.Status(t).State == "ok" })
		for n := range r.done {
			ok := false
			eventually(t, r.done[n].what, func() bool {
				held, err := r.done[n].holds(t.Context(), d.Client(""))
				ok = held
				return err == nil || rig.Code(err) == "NotFoundException"
			})
			if !ok {
				t.Errorf("daemon %d has lost: %s", i, r.done[n].what)
			}
		}
	}
	for _, w := range r.wrong {
		t.Errorf("answered against what had been answered: %s", w)
	}
	t.Logf("%d reads and writes, %d of unknown outcome, %d other changes", len(r.history), r.unknown, len(r.done))
	if result := porcupine.CheckOperationsTimeout(register, settled(r.history), 2*time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable, or could not be checked in time: %s", result)
	}
	r.checkObjects(t)
	for i, d := range r.daemons {
		if err := d.Stop(); err != nil {
			t.Errorf("daemon %d: %v", i, err)
		}
	}
	for i, d := range r.daemons { // a start verifies the trail up to what the database says of it
		d.Start(t)
		if s := d.Status(t); s.State != "ok" {
			t.Errorf("daemon %d: %+v", i, s)
		}
		if out, ok := rig.Cmkctl(t, d, "audit", "verify"); !ok {
			t.Errorf("daemon %d: %s", i, out)
		}
	}
}

// checkObjects checks the objects in the token against the rows: each has a row or an intent.
func (r *clusterRun) checkObjects(t *testing.T) {
	t.Helper()
	client := r.servers[0].Client(t)
	defer client.Close()
	known, versions := map[string]bool{}, map[string]bool{}
	for _, table := range []string{"versions", "intents", "system_keys"} {
		found, err := client.Get(t.Context(), "/cmkd/row/"+table+"/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Kvs) == 0 && table != "intents" {
			t.Errorf("no %s", table)
		}
		for _, kv := range found.Kvs {
			var row struct{ CKAID []byte }
			if err := json.Unmarshal(kv.Value, &row); err != nil {
				t.Fatal(err)
			}
			id := hex.EncodeToString(row.CKAID)
			known[id] = true
			versions[id] = versions[id] || table == "versions"
		}
	}
	for _, id := range rig.ObjectIDs(t, r.daemons[0]) {
		if !known[id] {
			t.Errorf("an orphan in the token: CKA_ID %s", id)
		}
		delete(versions, id)
	}
	for id, is := range versions {
		if is {
			t.Errorf("a version without an object: CKA_ID %s", id)
		}
	}
}
