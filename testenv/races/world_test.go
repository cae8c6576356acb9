package races

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/daemon/lifecycle"
	"cmkd/daemon/policy"
	"cmkd/daemon/policy/templates"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

const (
	account = "111122223333"
	home    = "us-east-1"
	abroad  = "eu-central-1"
	third   = "ap-south-1"
)

// now is the time of every run: what differs between two runs is their order.
var now = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// world is a service with everything that it changes: rows, a token, a trail.
type world struct {
	later   time.Duration // how far the clock is ahead
	t       *testing.T
	scene   *scene
	disk    *storetest.Disk // of db
	db      *store.Store
	token   *memory.Token
	service *kms.Service
	caller  *journal.Caller // an administrator
	user    *journal.Caller // with no policies of its own but for aliases
	steps   steps

	noting  sync.Mutex
	records []string // guarded by noting; of the trail, in their order
	blobs   [][]byte // guarded by noting; ciphertexts that must go on decrypting

	// What every run begins with.
	rows    rows
	objects map[backends.KeyID]memory.Object
	known   map[string]bool // names of that time
	orders  map[[2]*op]*outcome
	ready   [][]byte // blobs of that time
}

func newWorld(t *testing.T, sc *scene) *world {
	everything, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, scene: sc, disk: storetest.NewDisk(), token: memory.New(),
		caller: &journal.Caller{
			Principal: policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account},
			Policies:  []*policy.Document{everything}, Admin: true,
		},
	}
	aliases, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"arn:aws:kms:*:`+account+`:alias/*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	w.user = &journal.Caller{
		Principal: policy.Principal{Type: policy.User, ARN: user + "a", AccountID: account, UserName: "a"},
		Policies:  []*policy.Document{aliases}, UID: 1000,
	}
	w.open()
	t.Cleanup(func() { _ = w.db.Close() })
	sc.set(w)
	synctest.Wait() // encryptions are counted in the background
	w.rows, w.objects, w.ready = rowsOf(w.db.View()), w.token.Objects(), slices.Clone(w.blobs)
	w.known, w.orders = map[string]bool{}, map[[2]*op]*outcome{}
	for _, line := range w.rows.lines(func(s string) string { return s }) {
		for _, name := range random.FindAllString(line, -1) {
			w.known[name] = true
		}
	}
	return w
}

// open starts the daemon on its database.
func (w *world) open() {
	var err error
	if w.db, err = w.disk.OpenStore(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

func (w *world) start() {
	w.service = kms.New(kms.Config{
		Account: account, Region: home, Regions: []string{abroad, third}, Token: "main", Store: w.db,
		Trail: &trail{w: w}, Router: &router{w: w}, Logger: slog.New(slog.DiscardHandler),
		Now:      func() time.Time { w.steps.pass("now"); return now.Add(w.later) },
		Clusters: map[string]string{"cluster-22222222222": "second", "cluster-22222222223": "third", "cluster-22222222224": "fourth"},
		Managed:  []lifecycle.ManagedKey{{Alias: "alias/aws/managed", Policy: templates.DefaultKeyPolicy(account)}},
		Limits:   w.scene.limits,
	})
}

// reset goes back to what every run begins with.
func (w *world) reset() {
	synctest.Wait()
	w.steps = steps{}
	if err := w.db.Update(context.Background(), func(tx *store.Tx) error { return w.rows.restore(tx) }); err != nil {
		w.t.Fatal(err)
	}
	w.token.SetObjects(w.objects)
	w.records, w.blobs = nil, slices.Clone(w.ready)
	w.start()
}

// call makes a call and returns the answer, or the error's code.
func (w *world) call(operation, region string, in map[string]any) (out map[string]any, code string) {
	return w.callAs(w.caller, operation, region, in)
}

func (w *world) callAs(caller *journal.Caller, operation, region string, in map[string]any) (out map[string]any, code string) {
	body, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	answer := w.service.Dispatch(context.Background(), caller, &kmsapi.Request{Operation: operation, Body: body, RequestID: "r", Region: region})
	if len(answer.Body) > 0 {
		if err := json.Unmarshal(answer.Body, &out); err != nil {
			w.t.Fatalf("%s answered %q: %v", operation, answer.Body, err)
		}
	}
	if answer.Status != 200 {
		code, _ = out["__type"].(string)
		return out, code
	}
	return out, ""
}

// must is call for what a scene is made of.
func (w *world) must(operation string, in map[string]any) map[string]any {
	w.t.Helper()
	out, code := w.call(operation, "", in)
	if code != "" {
		w.t.Fatalf("%s %v: %s %v", operation, in, code, out["message"])
	}
	return out
}

// edit changes rows as time would.
func (w *world) edit(f func(tx *store.Tx) error) {
	w.t.Helper()
	if err := w.db.Update(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

// material is key material by its name.
func material(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func wrapped(t *testing.T, name string) []byte {
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, material(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// rows are those of a database, in tables by their names.
type rows struct {
	keys     map[string]*store.Key
	versions map[string]*store.Version
	aliases  map[string]*store.Alias
	grants   map[string]*store.Grant
	intents  map[string]*store.Intent
	system   map[string]*store.SystemKey
	imports  map[string]*store.ImportParameters
	stores   map[string]*store.CustomKeyStore
	usages   map[string]*store.Usage
}

func rowsOf(v *store.View) rows {
	r := rows{
		map[string]*store.Key{},
		map[string]*store.Version{},
		map[string]*store.Alias{},
		map[string]*store.Grant{},
		map[string]*store.Intent{},
		map[string]*store.SystemKey{},
		map[string]*store.ImportParameters{},
		map[string]*store.CustomKeyStore{},
		map[string]*store.Usage{},
	}
	for k := range v.AllKeys() {
		r.keys[k.Region+k.ID] = k
		for g := range v.GrantsOf(k.Region, k.ID, "") {
			r.grants[g.Region+g.ID] = g
		}
		if u, ok := v.Usage(k.Region, k.ID); ok {
			r.usages[k.Region+k.ID] = u
		}
	}
	for row := range v.AllVersions() {
		r.versions[string(row.CKAID)] = row
	}
	for _, region := range []string{home, abroad, third} {
		for a := range v.Aliases(region, "") {
			r.aliases[a.Region+a.Name] = a
		}
		for c := range v.CustomKeyStores(region, "") {
			r.stores[c.Region+c.ID] = c
		}
	}
	for i := range v.Intents() {
		r.intents[string(i.CKAID)] = i
	}
	for k := range v.AllSystemKeys() {
		r.system[string(k.CKAID)] = k
	}
	for p := range v.AllImportParameters() {
		r.imports[string(p.TokenHash)] = p
	}
	return r
}

// restore makes the database have these rows and no others.
func (r *rows) restore(tx *store.Tx) error {
	is := rowsOf(&tx.View)
	replace(is.versions, r.versions, func(v *store.Version) { tx.DeleteVersion(v.KeyID, v.Number) }, nil)
	replace(is.keys, r.keys, func(k *store.Key) { tx.DeleteKey(k.Region, k.ID) }, func(k *store.Key) { _ = tx.PutKey(k) })
	is = rowsOf(&tx.View) // a key takes others with it
	replace(is.versions, r.versions, nil, func(v *store.Version) { _ = tx.PutVersion(v) })
	replace(is.aliases, r.aliases, func(a *store.Alias) { tx.DeleteAlias(a.Region, a.Name) }, func(a *store.Alias) { _ = tx.PutAlias(a) })
	replace(is.grants, r.grants, func(g *store.Grant) { tx.DeleteGrant(g.Region, g.KeyID, g.ID) }, func(g *store.Grant) { _ = tx.PutGrant(g) })
	replace(is.intents, r.intents, func(i *store.Intent) { tx.DeleteIntent(i.CKAID) }, func(i *store.Intent) { _ = tx.PutIntent(i) })
	replace(is.system, r.system, func(k *store.SystemKey) { tx.DeleteSystemKey(k.Token, k.Purpose, k.Version) }, func(k *store.SystemKey) { _ = tx.PutSystemKey(k) })
	replace(is.imports, r.imports, func(p *store.ImportParameters) { tx.DeleteImportParameters(p.TokenHash) }, func(p *store.ImportParameters) { _ = tx.PutImportParameters(p) })
	replace(is.stores, r.stores, func(c *store.CustomKeyStore) { tx.DeleteCustomKeyStore(c.Region, c.ID) }, func(c *store.CustomKeyStore) { _ = tx.PutCustomKeyStore(c) })
	replace(is.usages, r.usages, func(u *store.Usage) { tx.DeleteUsage(u.Region, u.KeyID) }, func(u *store.Usage) { _ = tx.PutUsage(u) })
	return tx.Err()
}

// replace removes what is not wanted, or is another than wanted, and puts what is
// wanted and not there.
func replace[T any](is, want map[string]*T, remove, put func(*T)) {
	for name, row := range is {
		if !reflect.DeepEqual(row, want[name]) {
			if remove != nil {
				remove(row)
			}
			delete(is, name)
		}
	}
	if put == nil {
		return
	}
	for name, row := range want {
		if is[name] == nil {
			put(row)
		}
	}
}

// systemKeys are the daemon's own keys in further tokens, of kinds that the token in
// memory does not make.
func (w *world) systemKeys(tokens ...string) {
	for _, token := range tokens {
		for purpose, key := range map[string]backends.Key{
			keyring.PurposeWrapping: {Spec: backends.AES256, Usage: backends.WrapDataKeys},
			keyring.PurposeState:    {Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC},
			keyring.PurposeAudit:    {Spec: backends.P256, Usage: backends.SignVerify},
		} {
			_, _ = rand.Read(key.ID[:])
			w.token.Put(key, "cmkd:system-"+purpose+":1", material(token+purpose))
			w.edit(func(tx *store.Tx) error {
				return tx.PutSystemKey(&store.SystemKey{Token: token, Purpose: purpose, Version: 1, CKAID: key.ID[:], Created: now})
			})
		}
	}
}
