package disk_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/testenv/crash/disk"
)

// inNamespace is set in the process that has mounts of its own.
const inNamespace = "CMKD_DISK_NAMESPACE"

// TestLoss writes two files on a disk, and syncs one of them: after a power cut that one is
// always there, and the other is not.
func TestLoss(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root mounts file systems")
		return
	}
	if os.Getenv(inNamespace) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "--", os.Args[0], "-test.run=^TestLoss$", "-test.v")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestLoss") {
			t.Fatalf("with mounts of its own: %v\n%s", err, out)
		}
		return
	}
	ctx := t.Context()
	image, served, folder := filepath.Join(t.TempDir(), "image"), t.TempDir(), t.TempDir()
	content, err := disk.Format(ctx, image, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	d := disk.New(content, func() int64 { return 7 })
	file, err := d.Serve(served)
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Mount(ctx, file, folder); err != nil {
		t.Fatal(err)
	}
	synced := filepath.Join(folder, "synced")
	write(t, synced, true)
	done := d.Len()
	write(t, filepath.Join(folder, "unsynced"), false)
	end := d.Len()
	if err := disk.Unmount(ctx, folder); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d.Stamp(end) != 7 {
		t.Errorf("the stamp is %d", d.Stamp(end))
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 10 {
		there := cut(t, d, done+random.IntN(end-done+1), random, image, folder)
		if there["synced"] != text {
			t.Errorf("what was synced is %.20q", there["synced"])
		}
		if there["unsynced"] == text {
			t.Error("what was not synced is there")
		}
	}
	if there := cut(t, d, 0, random, image, folder); len(there) != 0 {
		t.Errorf("before all there was %v", there)
	}
}

var text = strings.Repeat("text ", 10000)

func write(t *testing.T, path string, sync bool) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// cut is what is there after a power cut.
func cut(t *testing.T, d *disk.Disk, at int, random *rand.Rand, image, folder string) map[string]string {
	t.Helper()
	content, _ := d.After(at, random)
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Mount(t.Context(), image, folder); err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, name := range []string{"synced", "unsynced"} {
		if data, err := os.ReadFile(filepath.Join(folder, name)); err == nil {
			there[name] = string(data)
		}
	}
	if err := disk.Unmount(t.Context(), folder); err != nil {
		t.Fatal(err)
	}
	return there
}
