package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
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

// killedImports kills the plugins in the middle of imports, earlier and later. What was
// begun is undone or finished: in the end the token has the objects that it had before.
func killedImports(t *testing.T, r *rig.Rig, tok *testenv.Token) error {
	t.Helper()
	ctx, w := t.Context(), newWorld(t, r, true)
	importing := func() (*string, func() error, error) {
		var refusal error
		for _, kind := range []struct {
			spec      backends.KeySpec
			usage     backends.Usage
			algorithm types.AlgorithmSpec
		}{
			{backends.HMAC256, backends.GenerateVerifyMAC, types.AlgorithmSpecRsaesOaepSha256},
			{backends.SymmetricDefault, backends.EncryptDecrypt, types.AlgorithmSpecRsaesOaepSha1},
		} {
			id, in, err := w.toImport(ctx, kind.spec, kind.usage, kind.algorithm, make([]byte, 32))
			if err == nil {
				return id, func() error {
					_, err := w.ImportKeyMaterial(ctx, in)
					return err
				}, nil
			}
			if refusal = err; refused(err) == "" {
				return nil, nil, err
			}
		}
		return nil, nil, refusal
	}
	before := objects(t, tok)
	rounds := 4
	if os.Getenv(long) != "" {
		rounds = 20
	}
	var took time.Duration
	for round := range rounds + 1 {
		id, load, err := importing()
		if err != nil {
			return err
		}
		began := time.Now()
		if round == 0 { // the time in which to kill the others
			err = load()
			took = time.Since(began)
		} else {
			err = interrupted(t, r, load, took*time.Duration(round)/time.Duration(rounds))
		}
		if err == nil || !errors.Is(err, context.DeadlineExceeded) {
			err = w.forget(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("import %d: %w", round, err)
		}
	}
	return undone(t, r, tok, before)
}

// interrupted kills all plugins some time after an import has begun, and imports again
// until the daemon serves.
func interrupted(t *testing.T, r *rig.Rig, load func() error, after time.Duration) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- load() }()
	<-time.After(after)
	for _, p := range r.Status(t).Plugins {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	<-ended // it may have failed, or not
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err := load()
		if got := rig.Code(err); r.Status(t).State == "ok" && (err == nil || got == "InvalidImportTokenException") {
			return nil // or the first one was done
		}
	}
	return context.DeadlineExceeded
}

// forget takes the material out of a key, if it has any, and its wrapping pair.
func (w *world) forget(ctx context.Context, id *string) error {
	if _, err := w.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: id}); err != nil {
		return err
	}
	_, err := w.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(7)})
	return err
}

// undone waits until there is nothing in the token that the database does not know.
func undone(t *testing.T, r *rig.Rig, tok *testenv.Token, want int) (err error) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = r.Daemon.RunJobs(t.Context()); err != nil {
			continue
		}
		status, answer := r.Ask(t, "POST", "/recover", `{"adopt":false}`)
		var inventory struct{ Missing, Found, Leftovers []any }
		if err = json.Unmarshal([]byte(answer), &inventory); err != nil || status != 200 {
			return fmt.Errorf("the inventory: %d %s", status, answer)
		}
		got := objects(t, tok)
		if got == want && len(inventory.Missing)+len(inventory.Found)+len(inventory.Leftovers) == 0 {
			return nil
		}
		err = fmt.Errorf("%d objects too many are in the token; the inventory: %s", got-want, answer)
	}
	return err
}
