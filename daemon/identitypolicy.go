package daemon

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cmkd/daemon/policy"
)

// identityPolicies are the identity policies by whom they belong to, such as
// "user/deploy". They are immutable.
type identityPolicies map[string][]*policy.Document

// policyKinds are the folders that a folder of identity policies may have.
var policyKinds = []string{"user", "group", "role"}

// loadIdentityPolicies reads the folder
//
//	user/NAME/POLICY.json
//	group/NAME/POLICY.json
//	role/NAME/POLICY.json
//
// as a whole: one file that is not right refuses them all. Files and folders
// must belong to root or to the daemon's user, and nobody else may be able to
// write to them: who writes there gives out permissions. Hidden files and
// those without the ending .json are passed over. "" is no folder.
func loadIdentityPolicies(dir string) (identityPolicies, error) {
	found := identityPolicies{}
	if dir == "" {
		return found, nil
	}
	kinds, err := readFolder(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		if !kind.IsDir() || !slices.Contains(policyKinds, kind.Name()) {
			return nil, fmt.Errorf("%s is not one of the folders user, group and role", filepath.Join(dir, kind.Name()))
		}
		names, err := readFolder(filepath.Join(dir, kind.Name()))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			owner := kind.Name() + "/" + name.Name()
			if found[owner], err = loadOwner(dir, owner); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// loadOwner reads the policies of one user, group or role.
func loadOwner(dir, owner string) ([]*policy.Document, error) {
	files, err := readFolder(filepath.Join(dir, owner))
	if err != nil {
		return nil, err
	}
	var list []*policy.Document
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue
		}
		path := filepath.Join(dir, owner, f.Name())
		text, err := readTrusted(path, policy.MaxSize+1)
		if err != nil {
			return nil, err
		}
		d, err := policy.Parse(text, policy.IdentityPolicy, policy.WithName(owner+"/"+name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, d)
	}
	return list, nil
}

// readFolder lists a folder in the order of names, without hidden entries.
func readFolder(path string) ([]fs.DirEntry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkTrusted(path, info); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), nil
}

// readTrusted reads at most limit bytes of a file that [checkTrusted] accepts.
func readTrusted(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if err := checkTrusted(path, info); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// checkTrusted refuses what somebody but root and the daemon's user can write.
func checkTrusted(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be written by others: mode %#o", path, info.Mode().Perm())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && st.Uid != uint32(os.Getuid()) {
		return fmt.Errorf("%s belongs to uid %d, neither to root nor to the daemon's user", path, st.Uid)
	}
	return nil
}
