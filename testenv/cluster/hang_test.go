package cluster

import (
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/testenv"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// TestStoppedInChange: a daemon that is stopped in the middle of a change, while all others wait for their turn,
// has it until its lease ends, and no longer. Its change fails when it goes on.
func TestStoppedInChange(t *testing.T) {
	t.Parallel()
	server, tok := etcd.Start(t), testenv.NewToken(t)
	slow := shim.New(t, tok.Module)
	first := rig.New(t, rig.Config{Etcd: server, StoreExtra: staleness + "node = \"n1\"\n", Process: true, Token: tok, Module: slow.Path, Env: rig.Variables(slow.Env)})
	second := rig.Prepare(t, rig.Config{Etcd: server, StoreExtra: staleness + "node = \"n2\"\n", Process: true, Token: tok})
	second.Start(t)
	key := rig.NewKey(t, first.Client(""), &kms.CreateKeyInput{})

	client := server.Client(t)
	defer client.Close()
	const turn = "/cmkd/turn/n1"
	disabled := make(chan error, 1)
	for try := 1; ; try++ {
		taken := client.Watch(t.Context(), turn)
		slow.Control.Set("C_Sign", shim.Delay(5*time.Second)) // of the head's MAC, which the change needs
		go func() {
			_, err := first.Client("").DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}, once)
			disabled <- err
		}()
		event := (<-taken).Events[0]
		if event.Type != clientv3.EventTypePut {
			t.Fatalf("the turn of the first daemon: %v", event)
		}
		if err := first.Process.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		slow.Control.Set("C_Sign", shim.Delay(0))
		time.Sleep(300 * time.Millisecond) // what was on its way to etcd has arrived
		found, err := client.Get(t.Context(), turn)
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Kvs) == 1 && found.Kvs[0].CreateRevision == event.Kv.CreateRevision {
			break
		}
		if try == 5 {
			t.Fatal("the first daemon was never stopped in its turn")
		}
		// It had committed already.
		if err := first.Process.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		<-disabled
		eventually(t, "the key is enabled again", func() bool {
			_, err := first.Client("").EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}, once)
			return err == nil
		})
	}
	eventually(t, "a change of another daemon", func() bool {
		_, err := second.Client("").CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/second"), TargetKeyId: &key}, once)
		return err == nil || rig.Code(err) == "AlreadyExistsException"
	})
	if found, err := client.Get(t.Context(), turn); err != nil || len(found.Kvs) != 0 {
		t.Errorf("the first daemon still has its turn: %v, %v", found, err)
	}
	if err := first.Process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-disabled; err == nil {
		t.Error("a change that was stopped before it was committed, and whose turn has ended, was answered")
	}
	for i, r := range []*rig.Rig{first, second} {
		eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
		if got := encrypt(t.Context(), r.Client(""), "alias/second"); got != "" {
			t.Errorf("daemon %d: %q", i+1, got)
		}
	}
}
