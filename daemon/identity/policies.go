package identity

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cmkd/daemon/policy"
	"cmkd/daemon/trustedfile"
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
// as a whole: one file that is not right refuses them all. Files, folders and the
// folders on the way to them must belong to root or to the daemon's user, and
// nobody else may be able to write to them (see package trustedfile): who writes there
// gives out permissions. Hidden files and those without the ending .json are
// passed over. Without a folder ("") there are none.
func loadIdentityPolicies(dir string) (identityPolicies, error) {
	found := identityPolicies{}
	if dir == "" {
		return found, nil
	}
	kinds, err := trustedfile.ReadFolder(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		if !kind.IsDir() || !slices.Contains(policyKinds, kind.Name()) {
			return nil, fmt.Errorf("%s is not one of the folders user, group and role", filepath.Join(dir, kind.Name()))
		}
		names, err := trustedfile.ReadFolder(filepath.Join(dir, kind.Name()))
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
	files, err := trustedfile.ReadFolder(filepath.Join(dir, owner))
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
		text, err := trustedfile.Read(path, policy.MaxSize+1)
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
