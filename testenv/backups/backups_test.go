// Package backups holds tests of backups: made under load, verified, refused, and put in
// the place of databases that are there, lost or damaged.
package backups

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/daemon/backup"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/operatorapi"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// cmkctl runs the client, and fails the test unless it ends as it should.
func cmkctl(t *testing.T, r *rig.Rig, well bool, args ...string) string {
	t.Helper()
	out, ok := rig.Cmkctl(t, r, args...)
	if ok != well {
		t.Fatalf("cmkctl %s: %s", strings.Join(args, " "), out)
	}
	return out
}

// contains fails the test unless the text has all that is wanted.
func contains(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// stop stops the daemon.
func stop(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
}

// restored is a daemon that serves what was restored, once it has been accepted.
func restored(t *testing.T, r *rig.Rig) {
	t.Helper()
	r.Start(t)
	status, answer := rig.AcceptState(t, r, "")
	if answer.Mismatch == nil {
		t.Fatalf("an older database is served as it is: status %d", status)
	}
	if len(answer.Mismatch.Differences) != 0 {
		t.Errorf("rows differ from the head of the backup: %v", answer.Mismatch.Differences)
	}
	rig.Accept(t, r)
	if state := r.Status(t).State; state != "ok" {
		t.Errorf("the state is %s", state)
	}
}

// TestLost: the database is lost, and what was backed up comes back: keys, aliases, and
// what the trail says of it.
func TestLost(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	id := rig.NewKey(t, c, &kms.CreateKeyInput{Description: aws.String("before")})
	sealed := rig.Seal(t, c, id, "secret")
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/kept"), TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.Dir, "b.cmkd-backup")
	contains(t, cmkctl(t, r, true, "backup", file), file, "rows, commit")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the mode of the backup is %v, %v", info.Mode(), err)
	}
	contains(t, cmkctl(t, r, true, "backup", "verify", file), "verifies", "account "+rig.Account)
	later := rig.NewKey(t, c, nil)
	contains(t, cmkctl(t, r, false, "restore", "--config", r.Path, "--yes", file), "stop it first")
	stop(t, r)

	for _, lose := range []func() error{
		func() error { return nil }, // an older state than there is
		func() error { return errors.Join(os.Remove(rig.Database(r)), removeAll(rig.Database(r)+"-*")) },
		func() error { return os.RemoveAll(filepath.Join(r.Dir, "s")) }, // with the audit trail
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		there := exists(rig.Database(r))
		out, ok := rig.Cmkctl(t, r, "restore", "--config", r.Path, file) // nobody is there to say yes
		if ok || exists(rig.Database(r)) != there {
			t.Fatalf("it is restored without a yes, or leaves a database: %s", out)
		}
		contains(t, out, "use --yes", "keys  ", `["us-east-1","`)
		contains(t, cmkctl(t, r, true, "restore", "--config", r.Path, "--yes", file), "restored.")
		contains(t, cmkctl(t, r, true, "restore", "--config", r.Path, "--yes", file), "nothing to restore")
		restored(t, r)
		c = r.Client("")
		sealed.Open(t, c)
		if _, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/kept"), Plaintext: []byte("x")}); err != nil {
			t.Errorf("the alias: %v", err)
		}
		if _, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &later}); rig.Code(err) != "NotFoundException" {
			t.Errorf("a key that was made after the backup: %v", err)
		}
		contains(t, cmkctl(t, r, false, "recover"), later)
		contains(t, r.AuditTrail(t), `"eventName":"RestoreDatabase"`, `"sha256":"`+sumOf(t, file)+`"`)
		stop(t, r)
	}
}

func removeAll(pattern string) error {
	names, err := filepath.Glob(pattern)
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// sumOf is the sum that a backup has of itself.
func sumOf(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, err := backup.Read(f, func(*backup.Row) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(found.Seal.Sum[:])
}

// TestUnderLoad makes backups while keys are made and changed: each is of one moment.
func TestUnderLoad(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			c := r.Client("")
			for n := 0; ctx.Err() == nil; n++ {
				made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
				if err == nil {
					_, err = c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprintf("alias/%d-%d", i, n)), TargetKeyId: made.KeyMetadata.KeyId})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	file, last := "", uint64(0)
	for i := range 8 {
		file = filepath.Join(r.Dir, fmt.Sprintf("%d.cmkd-backup", i))
		cmkctl(t, r, true, "backup", file)
		cmkctl(t, r, true, "backup", "verify", file)
		sequence := ofOneMoment(t, file)
		if sequence < last {
			t.Errorf("backup %d is of commit %d, the one before of %d", i, sequence, last)
		}
		last = sequence
	}
	cancel()
	writers.Wait()
	stop(t, r)
	cmkctl(t, r, true, "restore", "--config", r.Path, "--yes", file)
	restored(t, r)
	out, err := r.Client("").ListKeys(t.Context(), &kms.ListKeysInput{})
	if err != nil || len(out.Keys) == 0 {
		t.Fatalf("%d keys, %v", len(out.Keys), err)
	}
	for _, k := range out.Keys {
		if err := rig.EncryptWith(t, r.Client(""), *k.KeyId); err != nil {
			t.Errorf("key %s: %v", *k.KeyId, err)
		}
	}
}

// ofOneMoment compares the rows of a backup with the head of its commit.
func ofOneMoment(t *testing.T, file string) uint64 {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows []*store.Row
	found, err := backup.Read(f, func(r *backup.Row) error {
		rows = append(rows, &store.Row{Table: r.Table, Document: r.Document})
		return nil
	})
	if err != nil || found.Head == nil {
		t.Fatalf("%s: %v, head %v", file, err, found)
	}
	head, err := (&store.Sealed{Document: found.Head.Document, MAC: found.Head.MAC}).Head()
	if err != nil {
		t.Fatal(err)
	}
	image := newImage(t, rows)
	if got := hex.EncodeToString(image); got != hex.EncodeToString(head.Root) || got != found.Header.Root {
		t.Errorf("%s: its rows have the root %s, its head %x, its first line %s", file, got, head.Root, found.Header.Root)
	}
	return head.Sequence
}

// TestAltered: whoever alters a backup and computes its sum again is found out by the
// token, wherever the change is.
func TestAltered(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	rig.NewKey(t, r.Client(""), nil)
	file, forged := filepath.Join(r.Dir, "b"), filepath.Join(r.Dir, "forged")
	cmkctl(t, r, true, "backup", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(forged, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 { // every bit is tried in daemon/backup
		text := bytes.Clone(whole)
		text[rand.IntN(len(text))] ^= 1 << rand.IntN(8)
		write(text)
		cmkctl(t, r, false, "backup", "verify", forged)
	}
	for from, to := range map[string]string{
		`"State":"Enabled"`:     `"State":"Unknown"`,
		`"account":"`:           `"account":" `,
		`{"head":{"Sequence":`:  `{"head":{"Sequence":1`,
		`"cmkdBackup":1,"creat`: `"cmkdBackup":1,"creat`, // nothing
	} {
		write(resum(t, bytes.Replace(whole, []byte(from), []byte(to), 1)))
		if from == to {
			cmkctl(t, r, true, "backup", "verify", forged)
			continue
		}
		contains(t, cmkctl(t, r, false, "backup", "verify", forged), "does not verify")
	}
	write(resum(t, bytes.Replace(whole, []byte(`"State":"Enabled"`), []byte(`"State":"Disabled"`), 1)))
	stop(t, r)
	before, err := os.ReadFile(rig.Database(r))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, cmkctl(t, r, false, "restore", "--config", r.Path, "--yes", forged), "somebody has altered it")
	if after, err := os.ReadFile(rig.Database(r)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("an altered backup changes the database: %v", err)
	}
}

// resum computes the sum of a backup again, with the MAC that it had.
func resum(t *testing.T, text []byte) []byte {
	t.Helper()
	end := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	sum := sha256.Sum256(text[:end])
	var seal struct {
		MAC string `json:"mac"`
	}
	if err := json.Unmarshal(text[end:], &seal); err != nil {
		t.Fatal(err)
	}
	return append(text[:end:end], `{"sha256":"`+hex.EncodeToString(sum[:])+`","mac":"`+seal.MAC+"\"}\n"...)
}

// TestOthers: a backup of another token, of another account and of a database that
// nobody trusts are refused, with the reason.
func TestOthers(t *testing.T) {
	t.Parallel()
	a, b := rig.New(t, rig.Config{}), rig.New(t, rig.Config{})
	file := filepath.Join(a.Dir, "b")
	cmkctl(t, a, true, "backup", file)
	contains(t, cmkctl(t, b, false, "backup", "verify", file), "it says that it is of token", "serial number")
	stop(t, b)
	contains(t, cmkctl(t, b, false, "restore", "--config", b.Path, "--yes", file), "does not verify", "has not its backup key")

	id := rig.NewKey(t, a.Client(""), nil)
	rig.Tamper(t, a, `UPDATE keys SET document = json_set(document, '$.Description', 'eve') WHERE id = '`+id+`'`)
	made := filepath.Join(a.Dir, "untouched")
	cmkctl(t, a, true, "backup", made) // it is of the rows that the daemon has verified
	if text, err := os.ReadFile(made); err != nil || bytes.Contains(text, []byte("eve")) {
		t.Errorf("what somebody wrote into the file is in the backup: %v", err)
	}
	if err := a.Daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	contains(t, cmkctl(t, a, false, "backup", made), "does not verify")
	stop(t, a)
	config, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Path, bytes.Replace(config, []byte(rig.Account), []byte("999999999999"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, cmkctl(t, a, false, "restore", "--config", a.Path, "--yes", file), "of account "+rig.Account)
}

// TestDamaged: a database that cannot be read is kept under another name.
func TestDamaged(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	id := rig.NewKey(t, r.Client(""), nil)
	file := filepath.Join(r.Dir, "b")
	cmkctl(t, r, true, "backup", file)
	stop(t, r)
	garbage := bytes.Repeat([]byte("no database"), 10_000)
	if err := os.WriteFile(rig.Database(r), garbage, 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, cmkctl(t, r, true, "restore", "--config", r.Path, "--yes", file), "cannot be read", "is kept as", "restored.")
	kept, err := filepath.Glob(rig.Database(r) + ".damaged-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept as %v, %v", kept, err)
	}
	if text, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(text, garbage) {
		t.Errorf("the damaged file is not as it was: %v", err)
	}
	restored(t, r)
	if err := rig.EncryptWith(t, r.Client(""), id); err != nil {
		t.Error(err)
	}
}

// TestFolder: backups in a folder are named by the time, and the older ones go.
func TestFolder(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	dir := t.TempDir()
	for _, name := range []string{"cmkd-20200101T000000Z.cmkd-backup", "cmkd-20200102T000000Z.cmkd-backup", "mine.cmkd-backup"} {
		rig.WriteFile(t, dir, name, []byte("x"))
	}
	contains(t, cmkctl(t, r, true, "backup", dir, "--keep", "2"), "removed", "cmkd-20200101T000000Z")
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 3 || exists(filepath.Join(dir, "cmkd-20200101T000000Z.cmkd-backup")) {
		t.Errorf("there are %v, %v", names, err)
	}
	// What was named when the clock was ahead does not cost the new one.
	rig.WriteFile(t, dir, "cmkd-20990101T000000Z.cmkd-backup", []byte("x"))
	made := cmkctl(t, r, true, "backup", dir, "--keep", "1")
	contains(t, made, "cmkd-20990101T000000Z", "time to come")
	file, _, _ := strings.Cut(made, ":")
	if strings.HasPrefix(made, "warning") {
		_, made, _ = strings.Cut(made, "\n")
		file, _, _ = strings.Cut(made, ":")
	}
	if !exists(strings.Trim(file, `"`)) {
		t.Errorf("%s is gone", file)
	}
}

// TestKilled kills restores at random moments: there is the former database or that of
// the backup, and the daemon starts with either.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	id := rig.NewKey(t, c, nil)
	file, now := filepath.Join(r.Dir, "b"), filepath.Join(r.Dir, "now")
	cmkctl(t, r, true, "backup", file)
	for range 30 {
		rig.NewKey(t, c, nil)
	}
	cmkctl(t, r, true, "backup", now)
	stop(t, r)
	began := time.Now()
	first := plan(t, r, file)
	lasts := time.Since(began)
	old, fresh := 0, 0
	for range kills(t) {
		cmd := command(t, r, "-restore", file, "-accept", plan(t, r, file).Plan)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(lasts/2+rand.N(lasts), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		if p := plan(t, r, file); p.Same {
			fresh++
			out, err := command(t, r, "-restore", now, "-accept", plan(t, r, now).Plan).Output()
			if err != nil || !strings.Contains(string(out), `"done": true`) {
				t.Fatalf("%v: %s", err, out)
			}
		} else if old++; p.Present.Root != plan(t, r, now).Backup.Root && p.Present.Root != first.Present.Root {
			t.Fatalf("a database of neither: %+v", p.Present)
		}
	}
	t.Logf("%d old, %d new", old, fresh)
	cmkctl(t, r, true, "restore", "--config", r.Path, "--yes", file)
	restored(t, r)
	if err := rig.EncryptWith(t, r.Client(""), id); err != nil {
		t.Error(err)
	}
}

func kills(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CMKD_KILLS"))
	if err != nil {
		return 6
	}
	t.Logf("%d kills", n)
	return n
}

func command(t *testing.T, r *rig.Rig, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkd"), append([]string{"-config", r.Path}, args...)...)
}

// plan is what a restore would do.
func plan(t *testing.T, r *rig.Rig, file string) *operatorapi.RestorePlan {
	t.Helper()
	out, err := command(t, r, "-restore", file).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := &operatorapi.RestorePlan{}
	if err := json.Unmarshal(out, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// newImage is the root of rows that a database of its own takes.
func newImage(t *testing.T, rows []*store.Row) []byte {
	t.Helper()
	engine, err := storetest.NewDisk().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image, err := store.NewReplacement(t.Context(), engine, rows, nil)
	if err != nil {
		t.Fatal(err)
	}
	return image.After
}

// TestOtherEngine: what was backed up from a file is restored into etcd, and the other way
// round a database in etcd goes back to what it was.
func TestOtherEngine(t *testing.T) {
	t.Parallel()
	a := rig.New(t, rig.Config{})
	id := rig.NewKey(t, a.Client(""), nil)
	sealed := rig.Seal(t, a.Client(""), id, "secret")
	file := filepath.Join(a.Dir, "b")
	cmkctl(t, a, true, "backup", file)
	stop(t, a)
	b := rig.Prepare(t, rig.Config{Token: a.Token, Etcd: etcd.Start(t)})
	contains(t, cmkctl(t, b, true, "restore", "--config", b.Path, "--yes", file), "restored.")
	restored(t, b)
	sealed.Open(t, b.Client(""))
	cmkctl(t, b, true, "backup", file)
	later := rig.NewKey(t, b.Client(""), nil)
	stop(t, b)
	contains(t, cmkctl(t, b, true, "restore", "--config", b.Path, "--yes", file), later, "restored.")
	restored(t, b)
	sealed.Open(t, b.Client(""))
}
