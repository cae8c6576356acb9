package rig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// labelLine is a line of pkcs11-tool.
var labelLine = regexp.MustCompile(`(?m)^\s+label:\s+(cmkd:\S+)\s*$`)

// listObjects has a program other than cmkd list the objects in the token.
func listObjects(t *testing.T, r *Rig) []byte {
	t.Helper()
	return r.Token.Run(t, "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label,
		"--login", "--pin", r.Token.PIN, "--list-objects")
}

// Objects are the labels of cmkd's objects in the token that concern the key,
// sorted, as a program other than cmkd sees them.
func Objects(t *testing.T, r *Rig, id string) []string {
	t.Helper()
	out := listObjects(t, r)
	var found []string
	for _, m := range labelLine.FindAllStringSubmatch(string(out), -1) {
		if strings.Contains(m[1], id) {
			found = append(found, m[1])
		}
	}
	slices.Sort(found)
	return found
}

// objectIDs are the CKA_IDs in a list of objects, behind labels of cmkd's.
var objectIDs = regexp.MustCompile(`(?m)^\s+label:\s+cmkd:\S+\s*\n\s+ID:\s+([0-9a-f]+)\s*$`)

// ObjectIDs are the CKA_IDs of cmkd's objects in the token in hexadecimal digits, sorted, those of a pair once.
func ObjectIDs(t *testing.T, r *Rig) []string {
	t.Helper()
	out := listObjects(t, r)
	if all, with := len(labelLine.FindAll(out, -1)), len(objectIDs.FindAll(out, -1)); all != with {
		t.Errorf("of %d objects, %d have a CKA_ID:\n%s", all, with, out)
	}
	var found []string
	for _, m := range objectIDs.FindAllSubmatch(out, -1) {
		found = append(found, string(m[1]))
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Labels are what objects should find of a symmetric key with n versions.
func Labels(id string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("cmkd:%s:%d", id, i+1))
	}
	slices.Sort(list)
	return list
}
