package kms_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/event"
	"cmkd/daemon/journal"
	"cmkd/daemon/kms"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

const account = "111122223333"

// unrecorded is a trail for calls by the hundred thousand.
type unrecorded struct{ journal.Trail }

func (unrecorded) Append(context.Context, *event.Record) error                   { return nil }
func (unrecorded) AppendIn(context.Context, *event.Record, audit.Room) error     { return nil }
func (unrecorded) AppendBefore(context.Context, *event.Record, audit.Room) error { return nil }
func (unrecorded) Reserve(bool) (audit.Room, error)                              { return audit.Room{}, nil }
func (unrecorded) After(uint64, func([]byte) error) error                        { return nil }
func (unrecorded) Release(audit.Room)                                            {}
func (unrecorded) Err() error                                                    { return nil }
func (unrecorded) Head() (uint64, [32]byte)                                      { return 0, [32]byte{} }

// world is the service and the model of it.
type world struct {
	model
	db      *store.Store
	disk    *storetest.Disk // of db
	memory  *memory.Token
	service *kms.Service
	caller  *journal.Caller
}

// TestModel checks random sequences of operations against the model: time
// passes, the token goes away and comes back, and the daemon starts again in
// between. `make long` runs 10,000 of them.
func TestModel(t *testing.T) {
	administrator, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	caller := &journal.Caller{
		Principal: policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::" + account + ":root", AccountID: account},
		Policies:  []*policy.Document{administrator}, Admin: true,
	}
	sequences := cmp.Or(os.Getenv("CMKD_SEQUENCES"), "200")
	if err := flag.Set("rapid.checks", sequences); err != nil {
		t.Fatalf("CMKD_SEQUENCES: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := &world{disk: storetest.NewDisk(), memory: memory.New(), caller: caller}
		w.now, w.aliases = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC), map[string]*modelKey{}
		w.start(t)
		defer func() { _ = w.db.Close() }()
		w.createKey(t)
		t.Repeat(map[string]func(*rapid.T){
			"":            w.check,
			"CreateKey":   w.createKey,
			"Switch":      w.switchKey,
			"Deletion":    w.changeDeletion,
			"Encrypt":     w.encrypt,
			"Decrypt":     w.decrypt,
			"ReEncrypt":   w.reEncrypt,
			"MAC":         w.mac,
			"Rotation":    w.changeRotation,
			"Rotate":      w.rotateOnDemand,
			"Rotations":   w.listRotations,
			"Alias":       w.changeAlias,
			"Tag":         w.changeTags,
			"Description": w.describe,
			"Grant":       w.changeGrants,
			"Import":      w.importMaterial,
			"Delete":      w.deleteMaterial,
			"Pass":        w.pass,
			"Token":       w.moveToken,
			"Restart":     w.restart,
		})
	})
}

func (w *world) start(t *rapid.T) {
	var err error
	if w.db, err = w.disk.OpenStore(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.service = kms.New(kms.Config{
		Account: account, Region: "us-east-1", Token: "main", Store: w.db, Trail: unrecorded{},
		Router: &memory.Router{Token: w.memory}, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
	})
}

// call makes a call and returns the answer, or the error code.
func (w *world) call(t *rapid.T, operation string, in map[string]any) (out map[string]any, code string) {
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	answer := w.service.Dispatch(context.Background(), w.caller, &kmsapi.Request{Operation: operation, Body: body, RequestID: "r"})
	if len(answer.Body) > 0 {
		if err := json.Unmarshal(answer.Body, &out); err != nil {
			t.Fatalf("%s answered %q: %v", operation, answer.Body, err)
		}
	}
	if answer.Status != 200 {
		code, _ = out["__type"].(string)
		if code == "" {
			t.Fatalf("%s answered %d %s", operation, answer.Status, answer.Body)
		}
	}
	return out, code
}

// expect makes a call that must answer with the code, "" for success.
func (w *world) expect(t *rapid.T, want, operation string, in map[string]any) map[string]any {
	out, code := w.call(t, operation, in)
	if code != want {
		t.Fatalf("%s %v: %q, want %q (%v)", operation, in, code, want, out["message"])
	}
	return out
}

func raw(v any) []byte {
	text, _ := v.(string)
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return data
}

// pick chooses a key; without one the action does not apply.
func (w *world) pick(t *rapid.T) *modelKey {
	if len(w.keys) == 0 {
		t.Skip("no key")
	}
	return rapid.SampledFrom(w.keys).Draw(t, "key")
}

func (w *world) createKey(t *rapid.T) {
	if len(w.keys) == 5 {
		t.Skip("keys enough")
	}
	k := &modelKey{state: "Enabled", grants: map[string]string{}}
	in := map[string]any{}
	switch rapid.SampledFrom([]string{"symmetric", "symmetric", "external", "external", "MAC"}).Draw(t, "kind") {
	case "MAC":
		k.mac = true
		in["KeySpec"], in["KeyUsage"] = "HMAC_256", "GENERATE_VERIFY_MAC"
	case "external":
		k.external, k.state = true, "PendingImport"
		in["Origin"] = "EXTERNAL"
	}
	want := ""
	if w.away && !k.external {
		want = "KMSInvalidStateException" // as of every other operation
	}
	out := w.expect(t, want, "CreateKey", in)
	if want != "" {
		return
	}
	k.id = out["KeyMetadata"].(map[string]any)["KeyId"].(string)
	if !k.external {
		k.materials = []*material{{state: "CURRENT", present: true}}
	}
	w.keys = append(w.keys, k)
}

func (w *world) switchKey(t *rapid.T) {
	k := w.pick(t)
	want := w.toggle(k)
	if rapid.Bool().Draw(t, "on") {
		w.expect(t, want, "EnableKey", map[string]any{"KeyId": k.id})
		if want == "" {
			k.state = "Enabled"
		}
		return
	}
	w.expect(t, want, "DisableKey", map[string]any{"KeyId": k.id})
	if want == "" {
		k.state = "Disabled"
	}
}

func (w *world) changeDeletion(t *rapid.T) {
	k := w.pick(t)
	pending := w.stateOf(k) == "PendingDeletion"
	if rapid.Bool().Draw(t, "schedule") {
		days := rapid.IntRange(7, 30).Draw(t, "days")
		want := ""
		if pending {
			want = invalidState
		}
		w.expect(t, want, "ScheduleKeyDeletion", map[string]any{"KeyId": k.id, "PendingWindowInDays": days})
		if want == "" {
			k.state, k.deletion = "PendingDeletion", w.now.Add(time.Duration(days)*day)
		}
		return
	}
	want := invalidState
	if pending {
		want = ""
	}
	w.expect(t, want, "CancelKeyDeletion", map[string]any{"KeyId": k.id})
	if want == "" {
		k.state, k.deletion = "Disabled", time.Time{}
		if k.external && !k.complete() {
			k.state = "PendingImport"
		}
	}
}

func drawContext(t *rapid.T) map[string]string {
	return rapid.SampledFrom([]map[string]string{nil, {"a": "1"}, {"a": "1", "b": "2"}}).Draw(t, "context")
}

func (w *world) encrypt(t *rapid.T) {
	k := w.pick(t)
	want := w.useFor(k, false)
	s := sealed{key: k, context: drawContext(t), plaintext: rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "plaintext")}
	out := w.expect(t, want, "Encrypt", map[string]any{"KeyId": k.id, "Plaintext": s.plaintext, "EncryptionContext": s.context})
	if want == "" {
		s.material, s.blob = k.current(), raw(out["CiphertextBlob"])
		w.sealed = append(w.sealed, s)
	}
}

// openable is the error of using the key of a ciphertext.
func (w *world) openable(s *sealed) string {
	if slices.Contains(w.gone, s.key) {
		return "AccessDeniedException" // as of another Region
	}
	return w.use(s.key)
}

func (w *world) pickSealed(t *rapid.T) *sealed {
	if len(w.sealed) == 0 {
		t.Skip("no ciphertext")
	}
	return &w.sealed[rapid.IntRange(0, len(w.sealed)-1).Draw(t, "ciphertext")]
}

func (w *world) decrypt(t *rapid.T) {
	s := w.pickSealed(t)
	context, want := s.context, w.openable(s)
	if rapid.IntRange(0, 4).Draw(t, "wrong context") == 0 {
		context = map[string]string{"a": "2"}
		if want == "" {
			want = "InvalidCiphertextException"
		}
	}
	out := w.expect(t, want, "Decrypt", map[string]any{"CiphertextBlob": s.blob, "EncryptionContext": context})
	if want == "" && (!bytes.Equal(raw(out["Plaintext"]), s.plaintext) || out["KeyMaterialId"] != s.material.id) {
		t.Fatalf("Decrypt of %x gave %v", s.plaintext, out)
	}
}

func (w *world) reEncrypt(t *rapid.T) {
	s, k := w.pickSealed(t), w.pick(t)
	want := w.openable(s)
	if want == "" {
		want = w.useFor(k, false)
	}
	moved := sealed{key: k, plaintext: s.plaintext, context: drawContext(t)}
	out := w.expect(t, want, "ReEncrypt", map[string]any{
		"CiphertextBlob": s.blob, "SourceEncryptionContext": s.context, "DestinationKeyId": k.id, "DestinationEncryptionContext": moved.context,
	})
	if want == "" {
		moved.material, moved.blob = k.current(), raw(out["CiphertextBlob"])
		w.sealed = append(w.sealed, moved)
	}
}

func (w *world) mac(t *rapid.T) {
	k := w.pick(t)
	want := w.useFor(k, true)
	in := map[string]any{"KeyId": k.id, "Message": []byte("message"), "MacAlgorithm": "HMAC_SHA_256"}
	out := w.expect(t, want, "GenerateMac", in)
	if want != "" {
		return
	}
	in["Mac"] = out["Mac"]
	w.expect(t, "", "VerifyMac", in)
	in["Message"] = []byte("another")
	w.expect(t, "KMSInvalidMacException", "VerifyMac", in)
}

func (w *world) changeRotation(t *rapid.T) {
	k := w.pick(t)
	want := w.schedule(k)
	if rapid.Bool().Draw(t, "on") {
		days := rapid.SampledFrom([]int{90, 120}).Draw(t, "period")
		w.expect(t, want, "EnableKeyRotation", map[string]any{"KeyId": k.id, "RotationPeriodInDays": days})
		if want == "" {
			k.period, k.next = days, w.now.Add(time.Duration(days)*day)
		}
		return
	}
	if k.mac && want == unsupported {
		want = "" // there is nothing to turn off
	}
	w.expect(t, want, "DisableKeyRotation", map[string]any{"KeyId": k.id})
	if want == "" {
		k.period = 0
	}
}

func (w *world) rotateOnDemand(t *rapid.T) {
	k := w.pick(t)
	want := w.use(k)
	fresh := &material{present: true}
	if want == "" && k.external {
		i := slices.IndexFunc(k.materials, func(m *material) bool { return m.state == "PENDING_ROTATION" })
		if i < 0 {
			want = invalidState
		} else {
			fresh = k.materials[i]
		}
	}
	switch {
	case want != "":
	case k.mac:
		want = unsupported
	case k.onDemand == 25:
		want = "LimitExceededException"
	}
	w.expect(t, want, "RotateKeyOnDemand", map[string]any{"KeyId": k.id})
	if want == "" {
		k.onDemand++
		k.rotate(fresh, "ON_DEMAND")
		k.reflect()
	}
}

// listRotations compares all that is said of rotation and materials.
func (w *world) listRotations(t *rapid.T) {
	k := w.pick(t)
	want := ""
	if k.external {
		want = unsupported
	}
	out := w.expect(t, want, "GetKeyRotationStatus", map[string]any{"KeyId": k.id})
	on := k.period > 0 && w.stateOf(k) != "PendingDeletion"
	if want == "" && (out["KeyRotationEnabled"] != on || on && out["NextRotationDate"] != float64(k.next.Unix())) {
		t.Fatalf("GetKeyRotationStatus: %v", out)
	}
	if k.mac {
		w.expect(t, unsupported, "ListKeyRotations", map[string]any{"KeyId": k.id})
		return
	}
	out = w.expect(t, "", "ListKeyRotations", map[string]any{"KeyId": k.id, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"})
	var got, model []string
	for _, entry := range out["Rotations"].([]any) {
		e := entry.(map[string]any)
		got = append(got, fmt.Sprint(e["KeyMaterialId"], e["KeyMaterialState"], text(e["RotationType"]), text(e["ImportState"])))
	}
	for _, m := range k.materials {
		state := ""
		if k.external {
			state = map[bool]string{true: "IMPORTED", false: "PENDING_IMPORT"}[m.present]
		}
		model = append(model, fmt.Sprint(m.id, m.state, m.kind, state))
	}
	slices.Sort(got)
	slices.Sort(model) // rotations of one moment have no order
	if !slices.Equal(got, model) {
		t.Fatalf("ListKeyRotations: %q, want %q", got, model)
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func (w *world) changeAlias(t *rapid.T) {
	k := w.pick(t)
	name := rapid.SampledFrom([]string{"alias/a", "alias/b"}).Draw(t, "alias")
	old, exists := w.aliases[name]
	switch rapid.SampledFrom([]string{"create", "update", "delete", "use"}).Draw(t, "what") {
	case "create":
		want := w.manage(k)
		if want == "" && exists {
			want = "AlreadyExistsException"
		}
		w.expect(t, want, "CreateAlias", map[string]any{"AliasName": name, "TargetKeyId": k.id})
		if want == "" {
			w.aliases[name] = k
		}
	case "update":
		want := w.manage(k)
		switch {
		case want != "":
		case !exists:
			want = "NotFoundException"
		case old.mac != k.mac:
			want = "ValidationException"
		}
		w.expect(t, want, "UpdateAlias", map[string]any{"AliasName": name, "TargetKeyId": k.id})
		if want == "" {
			w.aliases[name] = k
		}
	case "delete":
		want := ""
		if !exists {
			want = "NotFoundException"
		}
		w.expect(t, want, "DeleteAlias", map[string]any{"AliasName": name})
		delete(w.aliases, name)
	default:
		want := ""
		if !exists {
			want = "NotFoundException"
		}
		out := w.expect(t, want, "DescribeKey", map[string]any{"KeyId": name})
		if exists && out["KeyMetadata"].(map[string]any)["KeyId"] != old.id {
			t.Fatalf("%s leads to %v", name, out)
		}
	}
}

func (w *world) changeTags(t *rapid.T) {
	k := w.pick(t)
	want, name := w.manage(k), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "tag")
	at := slices.IndexFunc(k.tags, func(tag [2]string) bool { return tag[0] == name })
	if rapid.Bool().Draw(t, "tag it") {
		value := rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "value")
		w.expect(t, want, "TagResource", map[string]any{"KeyId": k.id, "Tags": []any{map[string]any{"TagKey": name, "TagValue": value}}})
		switch {
		case want != "":
		case at < 0:
			k.tags = append(k.tags, [2]string{name, value})
		default:
			k.tags[at][1] = value
		}
	} else {
		w.expect(t, want, "UntagResource", map[string]any{"KeyId": k.id, "TagKeys": []string{name}})
		if want == "" && at >= 0 {
			k.tags = slices.Delete(k.tags, at, at+1)
		}
	}
	out := w.expect(t, "", "ListResourceTags", map[string]any{"KeyId": k.id})
	var got [][2]string
	for _, tag := range out["Tags"].([]any) {
		got = append(got, [2]string{text(tag.(map[string]any)["TagKey"]), text(tag.(map[string]any)["TagValue"])})
	}
	if !slices.Equal(got, k.tags) {
		t.Fatalf("tags %v, want %v", got, k.tags)
	}
}

func (w *world) describe(t *rapid.T) {
	k := w.pick(t)
	want, description := w.manage(k), rapid.StringMatching(`[a-z]{0,4}`).Draw(t, "description")
	w.expect(t, want, "UpdateKeyDescription", map[string]any{"KeyId": k.id, "Description": description})
	if want == "" {
		k.description = description
	}
}

func (w *world) changeGrants(t *rapid.T) {
	k := w.pick(t)
	name := rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "grant")
	id, exists := k.grants[name]
	if rapid.Bool().Draw(t, "create") {
		want := w.grant(k)
		out := w.expect(t, want, "CreateGrant", map[string]any{
			"KeyId": k.id, "GranteePrincipal": "arn:aws:iam::" + account + ":user/alice", "Operations": []string{"DescribeKey"}, "Name": name,
		})
		if want != "" {
			return
		}
		if exists && out["GrantId"] != id {
			t.Fatalf("the same grant again has the ID %v, not %s", out["GrantId"], id)
		}
		k.grants[name] = text(out["GrantId"])
	} else if exists {
		w.expect(t, "", "RevokeGrant", map[string]any{"KeyId": k.id, "GrantId": id})
		delete(k.grants, name)
	}
	out := w.expect(t, "", "ListGrants", map[string]any{"KeyId": k.id})
	if n := len(out["Grants"].([]any)); n != len(k.grants) {
		t.Fatalf("%d grants, want %d", n, len(k.grants))
	}
}

func (w *world) importMaterial(t *rapid.T) {
	k := w.pick(t)
	ask := map[string]any{"KeyId": k.id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
	switch s := w.stateOf(k); {
	case !k.external:
		w.expect(t, unsupported, "GetParametersForImport", ask)
		return
	case s == "PendingDeletion" || s == "Unavailable":
		w.expect(t, invalidState, "GetParametersForImport", ask)
		return
	case w.away:
		w.expect(t, "KeyUnavailableException", "GetParametersForImport", ask)
		return
	}
	parameters := w.expect(t, "", "GetParametersForImport", ask)

	secret := bytes.Repeat([]byte{rapid.ByteRange(0, 5).Draw(t, "secret")}, 32)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]any{"KeyId": k.id, "ImportToken": parameters["ImportToken"], "EncryptedKeyMaterial": wrapped}
	kind := rapid.SampledFrom([]string{"", "EXISTING_KEY_MATERIAL", "NEW_KEY_MATERIAL"}).Draw(t, "type")
	if kind != "" {
		in["ImportType"] = kind
	}
	id := ""
	if kind == "EXISTING_KEY_MATERIAL" && len(k.materials) > 0 && rapid.Bool().Draw(t, "by ID") {
		id = rapid.SampledFrom(k.materials).Draw(t, "material").id
		in["KeyMaterialId"] = id
	}
	var validTo time.Time
	if rapid.Bool().Draw(t, "expires") {
		validTo = w.now.Add(time.Duration(rapid.IntRange(1, 72).Draw(t, "hours")) * time.Hour)
		in["ExpirationModel"], in["ValidTo"] = "KEY_MATERIAL_EXPIRES", validTo.Unix()
	} else {
		in["ExpirationModel"] = "KEY_MATERIAL_DOES_NOT_EXPIRE"
	}
	target, want := k.importTarget(kind, id, secret)
	out := w.expect(t, want, "ImportKeyMaterial", in)
	if want != "" {
		return
	}
	target.present, target.secret, target.validTo = true, secret, validTo
	if target.id == "" {
		target.id = text(out["KeyMaterialId"])
	}
	if !slices.Contains(k.materials, target) {
		k.materials = append(k.materials, target)
		k.discarded = slices.DeleteFunc(k.discarded, func(m *material) bool { return m.id == target.id })
	}
	if out["KeyMaterialId"] != target.id {
		t.Fatalf("imported as %v, want %s", out["KeyMaterialId"], target.id)
	}
	k.reflect()
	w.expect(t, "InvalidImportTokenException", "ImportKeyMaterial", in) // it serves once
}

func (w *world) deleteMaterial(t *rapid.T) {
	k := w.pick(t)
	in, target := map[string]any{"KeyId": k.id}, k.current()
	if len(k.materials) > 0 && k.external && rapid.Bool().Draw(t, "by ID") {
		target = rapid.SampledFrom(k.materials).Draw(t, "material")
		in["KeyMaterialId"] = target.id
	}
	want := ""
	switch {
	case !k.external:
		want = unsupported
	case target != nil && w.away:
		want = invalidState
	}
	w.expect(t, want, "DeleteImportedKeyMaterial", in)
	if want == "" && target != nil {
		k.drop(target)
	}
}

// pass lets hours or weeks pass.
func (w *world) pass(t *rapid.T) {
	hours, steps := rapid.IntRange(1, 24).Draw(t, "hours"), 1
	if rapid.IntRange(0, 3).Draw(t, "long") == 0 {
		hours, steps = 24, rapid.IntRange(2, 40).Draw(t, "days")
	}
	for range steps {
		w.now = w.now.Add(time.Duration(hours) * time.Hour)
		w.runJobs(t)
	}
}

// runJobs does what is due, as the daemon does.
func (w *world) runJobs(t *rapid.T) {
	w.jobs()
	ctx := context.Background()
	if err := w.service.WatchClock(ctx); err != nil {
		t.Fatal(err)
	}
	failed := w.service.Reconcile(ctx)
	for _, job := range []func(context.Context) (int, error){w.service.RotateDue, w.service.ExpireDue, w.service.DeleteDue} {
		if _, err := job(ctx); err != nil {
			failed = err
		}
	}
	if failed != nil && !w.away {
		t.Fatalf("a job failed: %v", failed)
	}
	w.learn(t)
}

// learn asks for the IDs of the materials that the jobs made.
func (w *world) learn(t *rapid.T) {
	for _, k := range w.keys {
		if c := k.current(); c != nil && c.id == "" && !k.mac {
			out := w.expect(t, "", "DescribeKey", map[string]any{"KeyId": k.id})
			c.id = text(out["KeyMetadata"].(map[string]any)["CurrentKeyMaterialId"])
			if slices.ContainsFunc(k.materials, func(m *material) bool { return m != c && m.id == c.id }) {
				t.Fatalf("material %s is current again", c.id)
			}
		}
	}
}

func (w *world) moveToken(t *rapid.T) {
	w.away = !w.away
	w.memory.SetAway(w.away)
	w.runJobs(t)
}

// restart restarts the daemon on its database.
func (w *world) restart(t *rapid.T) {
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	w.runJobs(t)
}

// check compares every key, and the token, after each step.
func (w *world) check(t *rapid.T) {
	w.learn(t)
	for _, k := range w.keys {
		m := w.expect(t, "", "DescribeKey", map[string]any{"KeyId": k.id})["KeyMetadata"].(map[string]any)
		material, validTo := "", time.Time{}
		if c := k.current(); c != nil && !k.mac {
			material, validTo = c.id, c.validTo
		}
		got := fmt.Sprint(m["KeyState"], m["Enabled"], text(m["Description"]), text(m["CurrentKeyMaterialId"]), seconds(m["DeletionDate"]), seconds(m["ValidTo"]))
		want := fmt.Sprint(w.stateOf(k), w.stateOf(k) == "Enabled", k.description, material, unix(k.deletion), unix(validTo))
		if got != want {
			t.Fatalf("DescribeKey: %s, want %s", got, want)
		}
	}
	for _, k := range w.gone {
		w.expect(t, "NotFoundException", "DescribeKey", map[string]any{"KeyId": k.id})
	}
	if n := len(w.expect(t, "", "ListKeys", map[string]any{})["Keys"].([]any)); n != len(w.keys) {
		t.Fatalf("%d keys, want %d", n, len(w.keys))
	}
	if n := len(w.expect(t, "", "ListAliases", map[string]any{})["Aliases"].([]any)); n != len(w.aliases) {
		t.Fatalf("%d aliases, want %d", n, len(w.aliases))
	}
	if !w.away {
		w.checkToken(t)
	}
}

// checkToken compares the objects in the token, wrapping pairs aside.
func (w *world) checkToken(t *rapid.T) {
	want := 0
	for _, k := range w.keys {
		for _, m := range k.materials {
			if m.present {
				want++
			}
		}
	}
	got := 0
	for _, o := range w.memory.Objects() {
		if !strings.HasPrefix(o.Label, "cmkd:import-") {
			got++
		}
	}
	if got != want {
		t.Fatalf("the token has %d objects, want %d", got, want)
	}
}

// seconds reads a time of the API, and unix writes one: 0 is none.
func seconds(v any) int64 {
	f, _ := v.(float64)
	return int64(f)
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
