package tokens_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/backends"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// interruptible are imports, of which each token can do one.
var interruptible = []struct {
	spec      backends.KeySpec
	usage     backends.Usage
	algorithm types.AlgorithmSpec
}{
	{backends.HMAC256, backends.GenerateVerifyMAC, types.AlgorithmSpecRsaesOaepSha256},
	{backends.SymmetricDefault, backends.EncryptDecrypt, types.AlgorithmSpecRsaesOaepSha1},
	{backends.HMAC256, backends.GenerateVerifyMAC, types.AlgorithmSpecRsaesOaepSha1},
}

// killedImports kills the plugins in the middle of imports, earlier and later. What was
// begun is undone or finished: in the end the token has the objects that it had before.
func killedImports(t *testing.T, r *rig.Rig, tok *testenv.Token) error {
	t.Helper()
	ctx, w, kind := t.Context(), newWorld(t, r, true), 0
	importing := func() (*string, func() error, error) {
		k := interruptible[kind]
		id, in, err := w.toImport(ctx, k.spec, k.usage, k.algorithm, make([]byte, 32))
		return id, func() error {
			_, err := w.ImportKeyMaterial(ctx, in)
			return err
		}, err
	}
	before, err := settled(t, r, tok)
	if err != nil {
		return err
	}
	var took time.Duration // of one that nobody interrupts
	for {
		id, load, err := importing()
		began := time.Now()
		if err == nil {
			err = load()
			took = time.Since(began)
		}
		if id != nil {
			err = errors.Join(err, w.forget(ctx, id))
		}
		if err == nil {
			break
		}
		if kind++; refused(err) == "" || kind == len(interruptible) {
			return err
		}
	}
	rounds := 4
	if os.Getenv(long) != "" {
		rounds = 20
	}
	for round := range rounds {
		id, load, err := importing()
		if err == nil {
			err = interrupted(t, r, load, took*time.Duration(round+1)/time.Duration(rounds))
		}
		if err == nil {
			err = w.forget(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("import %d: %w", round+1, err)
		}
	}
	return undone(t, r, tok, before)
}

// killedCreations does the same to creations of an RSA pair, which takes the token longest:
// one that is a server goes on with it. In the end the token has both halves of each key
// that a caller was told of, and no more.
func killedCreations(t *testing.T, w *world, tok *testenv.Token) error {
	t.Helper()
	ctx, r := t.Context(), w.rig
	before, err := settled(t, r, tok)
	if err != nil {
		return err
	}
	var made []*string
	load := func() error {
		out, err := w.CreateKey(ctx, w.toCreate(backends.RSA2048, backends.SignVerify))
		if err == nil {
			made = append(made, out.KeyMetadata.KeyId)
		}
		return err
	}
	began := time.Now()
	if err := load(); err != nil {
		return err
	}
	took := time.Since(began)
	const rounds = 3
	for round := range rounds {
		if err := interrupted(t, r, load, took*time.Duration(2*round+1)/(2*rounds)); err != nil {
			return fmt.Errorf("creation %d: %w", round+1, err)
		}
	}
	for _, id := range made {
		out, err := w.Sign(ctx, &kms.SignInput{
			KeyId: id, Message: []byte("message"), SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
		})
		if err != nil || len(out.Signature) == 0 {
			return fmt.Errorf("a key that was made does not sign: %w", err)
		}
	}
	return undone(t, r, tok, before+2*len(made))
}

// killedProbes kills the plugin of key pairs some time after it was started, while it finds
// out what the token can do. What that leaves in the token, the next one destroys.
func killedProbes(t *testing.T, r *rig.Rig, tok *testenv.Token, same func() error) error {
	t.Helper()
	before, err := settled(t, r, tok)
	if err != nil {
		return err
	}
	rounds := 5
	if os.Getenv(long) != "" {
		rounds = 15
	}
	left := 0
	for round := range rounds {
		if err := killPairs(); err != nil {
			return err
		}
		<-time.After(time.Duration(round+1) * 3 * time.Second / time.Duration(rounds)) // the probe takes some seconds
		if err := killPairs(); err != nil {
			return err
		}
		if objects(t, tok) != before {
			left++
		}
	}
	t.Logf("%d of %d probes that were killed left objects", left, rounds)
	if err := killed(t, r, same); err != nil {
		return err
	}
	return undone(t, r, tok, before)
}

// killPairs kills the plugins of key pairs that this process has started, as the daemon.
func killPairs() error {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return err
	}
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread that has ended has none
		for _, field := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + field + "/comm")
			pid, err := strconv.Atoi(field)
			if err != nil || !strings.HasPrefix(string(name), "cmkd-asymmetric"[:15]) {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// interrupted kills all plugins some time after a call has begun, and repeats it until
// the daemon serves.
func interrupted(t *testing.T, r *rig.Rig, load func() error, after time.Duration) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- load() }()
	<-time.After(after)
	for _, p := range r.Status(t).Plugins {
		if p.PID == 0 {
			continue // it is being replaced
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	<-ended // it may have failed, or not
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = load()
		if got := rig.Code(err); r.Status(t).State == "ok" && (err == nil || got == "InvalidImportTokenException") {
			return nil // or the first one was done
		}
	}
	_, status := r.Ask(t, "GET", "/status", "")
	return fmt.Errorf("the daemon does not serve again: %w, status %s", cmpErr(err), status)
}

// forget takes the material out of a key, if it has any, and its wrapping pair.
func (w *world) forget(ctx context.Context, id *string) error {
	if _, err := w.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: id}); err != nil {
		return err
	}
	_, err := w.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(7)})
	return err
}

// settled has the jobs run until nothing explains objects that may come later any more,
// and counts the objects in the token.
func settled(t *testing.T, r *rig.Rig, tok *testenv.Token) (n int, err error) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		ahead.Add(int64(20 * time.Second))
		if err = r.Daemon.RunJobs(t.Context()); err != nil {
			continue
		}
		view := r.Daemon.Store().View()
		if left := slices.Collect(view.Intents()); len(left) > 0 {
			err = fmt.Errorf("%d intents are left: %s of key %s", len(left), left[0].Action, left[0].KeyID)
			continue
		}
		n = objects(t, tok)
		if bytes.Equal(view.Root(), r.Daemon.Store().View().Root()) {
			return n, nil
		}
		err = errors.New("the database changes all the time") // an epoch may have begun
	}
	return 0, err
}

// undone is settled with what should be in the token. There is nothing that the database
// does not know, either. A process that takes the place of one that was spent may be probing
// with objects of its own meanwhile: what is too many must stay to count.
func undone(t *testing.T, r *rig.Rig, tok *testenv.Token, want int) error {
	t.Helper()
	n, err := settled(t, r, tok)
	for deadline := time.Now().Add(time.Minute); err == nil && n != want && time.Now().Before(deadline); {
		<-time.After(time.Second)
		n, err = settled(t, r, tok)
	}
	if err != nil {
		return err
	}
	status, answer := r.Ask(t, "POST", "/recover", `{"adopt":false}`)
	var inventory struct{ Missing, Found, Leftovers []any }
	if err = json.Unmarshal([]byte(answer), &inventory); err != nil || status != 200 {
		return fmt.Errorf("the inventory: %d %s", status, answer)
	}
	if n != want || len(inventory.Missing)+len(inventory.Found)+len(inventory.Leftovers) > 0 {
		return fmt.Errorf("%d objects too many are in the token; the inventory: %s", n-want, answer)
	}
	return nil
}
