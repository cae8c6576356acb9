package api

import (
	"encoding/csv"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/testenv/rig"
)

// stateKey is the key of one cell of the table, made for it alone.
type stateKey struct {
	*api
	id, arn string
	state   string // that it is being brought into
	// What prepare left for the call.
	alias, grantID, grantToken string
	blob, proof                []byte // a ciphertext; a signature, MAC or wrapped material
	token                      []byte // of an import
}

// keyKind is what kind of key an operation needs.
type keyKind struct {
	spec        types.KeySpec
	usage       types.KeyUsageType
	multiRegion bool
	imported    bool
}

var (
	symmetricKind = keyKind{spec: types.KeySpecSymmetricDefault, usage: types.KeyUsageTypeEncryptDecrypt}
	importedKind  = keyKind{spec: types.KeySpecSymmetricDefault, usage: types.KeyUsageTypeEncryptDecrypt, imported: true}
	primaryKind   = keyKind{spec: types.KeySpecSymmetricDefault, usage: types.KeyUsageTypeEncryptDecrypt, multiRegion: true}
	signingKind   = keyKind{spec: types.KeySpecEccNistP256, usage: types.KeyUsageTypeSignVerify}
	macKind       = keyKind{spec: types.KeySpecHmac256, usage: types.KeyUsageTypeGenerateVerifyMac}
)

// testStates tries every cell of AWS's table of operations and key states.
func testStates(t *testing.T, a *api) {
	operations, states, cells := readStates(t)
	for i, operation := range operations {
		row, ok := stateRows[operation]
		if !ok {
			t.Errorf("%s has no row", operation)
			continue
		}
		if row.kind == (keyKind{}) {
			row.kind = symmetricKind
		}
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			for j, state := range states {
				t.Run(state, func(t *testing.T) {
					k := a.keyIn(t, &row, state)
					expected(operation, state, cells[i][j], k.arn).check(t, row.call(t.Context(), k))
				})
			}
		})
	}
	if len(operations) != len(stateRows) {
		t.Errorf("%d operations, %d rows", len(operations), len(stateRows))
	}
}

// readStates reads the table: testdata/key-states.md explains its cells.
func readStates(t *testing.T) (operations, states []string, cells [][]string) {
	t.Helper()
	f, err := os.Open("testdata/key-states.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	r := csv.NewReader(f)
	r.Comma = '\t'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		operations = append(operations, row[0])
		cells = append(cells, row[1:])
	}
	return operations, rows[0][1:], cells
}

var firstNote = regexp.MustCompile(`\[(\d+)\]`)

// expected is the outcome that a cell stands for.
func expected(operation, state, cell, arn string) want {
	switch {
	case strings.HasPrefix(cell, "ok"), strings.HasPrefix(cell, "?"):
		// The keys of the test are such that the conditions are met.
		return wantOK()
	case cell == "-" && state == "PendingImport":
		// The table is older than imported asymmetric and HMAC keys.
		return invalidState(arn, "pending import")
	case cell == "-" && operation == "DeleteImportedKeyMaterial":
		return wrongOrigin(arn, "AWS_CLOUDHSM")
	case cell == "-":
		return invalidState(arn, "unavailable")
	}
	switch firstNote.FindStringSubmatch(cell)[1] {
	case "1":
		return want{"DisabledException", arn + " is disabled."}
	case "2", "3", "8":
		return invalidState(arn, "pending deletion")
	case "4":
		return invalidState(arn, "not pending deletion")
	case "5":
		return invalidState(arn, "pending import")
	case "6":
		return wrongOrigin(arn, "EXTERNAL")
	case "7", "9":
		return wrongOrigin(arn, "AWS_CLOUDHSM")
	case "11":
		return invalidState(arn, "unavailable")
	case "14":
		return invalidState(arn, "creating")
	case "15":
		return invalidState(arn, "updating")
	}
	return want{code: "no such note: " + cell}
}

func wrongOrigin(arn, origin string) want {
	return want{"UnsupportedOperationException", fmt.Sprintf("%s origin is %s which is not valid for this operation.", arn, origin)}
}

// keyIn makes a key for the row and brings it into the state: by calls, except
// for Creating and Updating, which pass too quickly here to be seen from
// outside, and Unavailable, where the custom key store is put into the store.
func (a *api) keyIn(t *testing.T, row *stateRow, state string) *stateKey {
	t.Helper()
	kind := row.kind
	in := &kms.CreateKeyInput{KeySpec: kind.spec, KeyUsage: kind.usage, MultiRegion: aws.Bool(kind.multiRegion)}
	if state == "PendingImport" || kind.imported && state != "Unavailable" {
		in.Origin = types.OriginTypeExternal
	}
	id := *a.fresh(t, in)
	k := &stateKey{api: a, id: id, arn: rig.ARN("key/" + id), state: state}
	if row.prepare != nil {
		row.prepare(t, k)
	}
	ctx := t.Context()
	var err error
	switch state {
	case "Enabled":
		_, err = a.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &id})
	case "Disabled":
		_, err = a.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id})
	case "PendingDeletion":
		if kind.multiRegion { // a replica would make it PendingReplicaDeletion
			a.setKey(t, id, func(row *store.Key) { row.State = keys.State(state) })
			break
		}
		_, err = a.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: aws.Int32(7)})
	case "Creating", "Updating":
		a.setKey(t, id, func(row *store.Key) { row.State = keys.State(state) })
	case "Unavailable":
		a.setKey(t, id, func(row *store.Key) {
			row.Origin, row.CustomKeyStoreID = keys.Origin(types.OriginTypeAwsCloudhsm), "cks-disconnected"
		})
	}
	if err != nil {
		t.Fatalf("bringing the key into the state: %v", err)
	}
	out, err := a.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out.KeyMetadata.KeyState); got != state {
		t.Fatalf("the key is %s, want %s", got, state)
	}
	return k
}

// setKey changes the row of a key behind the daemon's back.
func (a *api) setKey(t *testing.T, id string, change func(row *store.Key)) {
	t.Helper()
	err := a.Daemon.Store().Update(t.Context(), func(tx *store.Tx) error {
		now, ok := tx.Key(rig.Region, id)
		if !ok {
			return fmt.Errorf("no key %s", id)
		}
		row := *now
		change(&row)
		return tx.PutKey(&row)
	})
	if err != nil {
		t.Fatal(err)
	}
}
