package trustedfile

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTrustedFiles: a file counts only where nobody but root and the daemon's
// user can have put it, by whatever way it is named.
func TestTrustedFiles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files to other users, so it must run as root")
	}
	const user = 61001
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"good", "theirs", "shared", "sticky", "theirs/deep"} {
		must(os.Mkdir(at(d), 0o755))
	}
	for _, f := range []string{"good/a.json", "good/theirs.json", "good/shared.json", "theirs/a.json", "theirs/deep/a.json", "shared/a.json", "sticky/a.json"} {
		must(os.WriteFile(at(f), []byte("text"), 0o644))
	}
	for link, target := range map[string]string{
		"good/link.json": "a.json", "good/absolute.json": at("good/a.json"), "good/up.json": "../good/./a.json", "good/folder": "../good",
		"good/to-theirs.json": "../theirs/a.json", "good/through-theirs.json": "../theirs/back.json", "theirs/back.json": "../good/a.json",
		"good/to-shared.json": "../shared/a.json", "good/loop.json": "loop.json", "good/gone.json": "nothing.json",
		"sticky/ours.json": "../good/a.json", "sticky/their-link.json": "../good/a.json", "good/out.json": "../theirs/../good/a.json",
	} {
		must(os.Symlink(target, at(link)))
	}
	must(unix.Mkfifo(at("good/fifo.json"), 0o644))
	must(unix.Mkfifo(at("good/there"), 0o644))
	must(os.Symlink("there", at("good/to-fifo.json")))
	must(os.Chmod(at("good/shared.json"), 0o664))
	must(os.Chmod(at("shared"), 0o775))
	for _, path := range []string{"good/shared.json", "shared"} {
		must(os.Chown(at(path), 0, user))
	}
	must(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	// Root's group is root's alone, unless a list lets others in.
	must(os.WriteFile(at("good/private.json"), []byte("text"), 0o644))
	must(os.Chmod(at("good/private.json"), 0o664))
	must(os.WriteFile(at("good/listed.json"), []byte("text"), 0o644))
	must(os.Chmod(at("good/listed.json"), 0o664))
	listed := "written by others"
	if err := unix.Setxattr(at("good/listed.json"), "system.posix_acl_access", accessList(user), 0); err != nil {
		t.Log("no access control lists here: ", err)
		listed = ""
	}
	must(os.Chown(at("theirs"), user, user))
	must(os.Chown(at("good/theirs.json"), user, user))
	must(os.Lchown(at("sticky/their-link.json"), user, user))
	for name, refusal := range map[string]string{
		"good/a.json": "", "good/link.json": "", "good/absolute.json": "", "good/up.json": "", "good/folder/a.json": "", "good/folder/folder/link.json": "",
		"sticky/a.json": "", "sticky/ours.json": "",
		"good/private.json": "", "good/listed.json": listed,
		"good/theirs.json": "run cmkd as that user, or, if it is to run as root, chown 0 ", "good/shared.json": "written by others",
		"theirs/a.json": "theirs belongs to uid 61001", "theirs/deep/a.json": "theirs belongs to uid 61001",
		"good/to-theirs.json": "theirs belongs to uid 61001", "good/through-theirs.json": "theirs belongs to uid 61001",
		"good/out.json": "theirs belongs to uid 61001", "good/to-shared.json": "shared can be written by others",
		"sticky/their-link.json": "their-link.json belongs to uid 61001",
		"good/fifo.json":         "not a regular file", "good/to-fifo.json": "not a regular file", "good": "not a regular file",
		"good/loop.json": "too many levels of symbolic links", "good/gone.json": "no such file", "good/a.json/b": "not a directory",
	} {
		text, err := Read(at(name), 100)
		switch {
		case refusal == "" && (err != nil || string(text) != "text"):
			t.Errorf("%s: %q, %v", name, text, err)
		case refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)):
			t.Errorf("%s: %v, want %q", name, err, refusal)
		}
	}
	for name, refusal := range map[string]string{
		"good": "", "good/folder": "", "sticky": "written by others", "theirs": "belongs to", "theirs/deep": "theirs belongs to", "good/a.json": "not a folder",
	} {
		entries, err := ReadFolder(at(name))
		switch {
		case refusal == "" && (err != nil || len(entries) < 2 || !slices.IsSortedFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })):
			t.Errorf("folder %s: %v, %v", name, entries, err)
		case refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)):
			t.Errorf("folder %s: %v, want %q", name, err, refusal)
		}
	}
}

// accessList is an access control list (acl(5)) as Linux keeps it: owner and the user
// read and write, and the mask is rw-, which the mode shows as the group's.
func accessList(user uint32) []byte {
	list := binary.LittleEndian.AppendUint32(nil, 2) // the version
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, 1<<32 - 1}, {2, 6, user}, {4, 4, 1<<32 - 1}, {16, 6, 1<<32 - 1}, {32, 4, 1<<32 - 1}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}
