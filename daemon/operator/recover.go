package operator

import (
	"context"
	"net/http"
	"slices"

	"cmkd/daemon/keyring"
	"cmkd/socket/operatorapi"
)

// recoverKeys compares the tokens, which may have thousands of keys, with the
// database, and adopts what the database lacks.
func (s *Service) recoverKeys(ctx context.Context, c *Caller, in *operatorapi.RecoverRequest) (*operatorapi.Inventory, error) {
	if s.KMS.Mismatch() != nil {
		return nil, invalid(http.StatusConflict, "the database does not verify: see cmkctl accept-state first")
	}
	var adopt func(string) bool
	if in.Adopt {
		adopt = func(keyID string) bool { return len(in.Keys) == 0 || slices.Contains(in.Keys, keyID) }
	}
	found, err := s.KMS.Recover(ctx, c.call, adopt)
	if err != nil {
		return nil, failed("that failed, see the daemon's log; what was recovered before stays recovered", err)
	}
	return inventory(found), nil
}

func inventory(found *keyring.Inventory) *operatorapi.Inventory {
	out := &operatorapi.Inventory{
		Away: found.Away, Missing: Materials(found.Missing), Unsafe: Materials(found.Unsafe), Duplicates: Duplicates(found.Duplicates),
	}
	for _, k := range found.Found {
		out.Found = append(out.Found, &operatorapi.FoundKey{
			KeyID: k.KeyID, Token: k.Token, Versions: k.Versions, Spec: string(k.Spec), Usage: string(k.Usage), Imported: k.Imported,
			Known: k.Known, Problem: k.Problem, Recovered: k.Recovered,
		})
	}
	for _, l := range found.Leftovers {
		out.Leftovers = append(out.Leftovers, operatorapi.Leftover(l))
	}
	return out
}

// Materials are key materials as operators are told of them.
func Materials(list []keyring.Material) []operatorapi.Material {
	var out []operatorapi.Material
	for _, m := range list {
		out = append(out, operatorapi.Material(m))
	}
	return out
}

// Duplicates are CKA_IDs that two objects have, as operators are told of them.
func Duplicates(list []keyring.Duplicate) []operatorapi.Duplicate {
	var out []operatorapi.Duplicate
	for _, d := range list {
		out = append(out, operatorapi.Duplicate(d))
	}
	return out
}
