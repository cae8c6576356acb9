package daemon_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// count is how often a test does what it does, unless the environment says
// otherwise: `make long` asks for more.
func count(t *testing.T, variable string, preset int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return preset
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a number from 1, not %q", variable, text)
	}
	return n
}

var labelLine = regexp.MustCompile(`(?m)^\s+label:\s+(cmkd:\S+)\s*$`)

// objects are the labels of cmkd's objects in the token that concern the key,
// sorted, as a program other than cmkd sees them.
func objects(t *testing.T, r *rig.Rig, id string) []string {
	t.Helper()
	out := r.Token.Run(t, "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label,
		"--login", "--pin", r.Token.PIN, "--list-objects")
	var found []string
	for _, m := range labelLine.FindAllStringSubmatch(string(out), -1) {
		if strings.Contains(m[1], id) {
			found = append(found, m[1])
		}
	}
	slices.Sort(found)
	return found
}

// labels are what objects should find of a symmetric key with n versions.
func labels(id string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("cmkd:%s:%d", id, i+1))
	}
	slices.Sort(list)
	return list
}

// TestKilledRotation kills the daemon at random moments of a rotation. After
// it is started again the key has been rotated or it has not: the list of its
// rotations, its current material and the objects in the token agree, and
// every ciphertext opens. A rotation that was done is on record, whether or not
// its call is.
func TestKilledRotation(t *testing.T) {
	t.Parallel()
	kills := count(t, "CMKD_KILLS", 10)
	r := rig.New(t, rig.Config{Process: true})
	c, ctx := r.Client(""), t.Context()
	var (
		id     string
		all    []sealed
		took   time.Duration
		states [2]int // how often it was not rotated, and rotated
	)
	for i := range kills {
		if i%20 == 0 { // a key has 25 rotations
			id, all = newKey(t, c, &kms.CreateKeyInput{}), nil
			for range 2 {
				all = append(all, seal(t, c, id, "before any kill"))
				began := time.Now()
				if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
					t.Fatal(err)
				}
				took = time.Since(began) // of the second: the first one warms up
			}
		}
		before, was := len(rotations(t, c, id)), current(t, c, id)
		answer := make(chan error, 1)
		go func() {
			_, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})
			answer <- err
		}()
		select {
		case <-time.After(rand.N(took)):
		case err := <-answer:
			answer <- err
		}
		r.Kill()
		err := <-answer
		r.Start(t)
		c = r.Client("")

		after, is := len(rotations(t, c, id)), current(t, c, id)
		switch {
		case after == before && is == was && err != nil:
			states[0]++
		case after == before+1 && is != was:
			states[1]++
			if !slices.ContainsFunc(serviceEvents(t, r, id), func(e serviceEvent) bool { return e.ServiceEventDetails.CurrentKeyMaterialID == is }) {
				t.Errorf("kill %d: no record tells of material %s", i, is)
			}
		default:
			t.Fatalf("kill %d: %d rotations before and %d after, material %s before and %s after, answer %v", i, before, after, was, is, err)
		}
		if got, want := objects(t, r, id), labels(id, after+1); !slices.Equal(got, want) {
			t.Fatalf("kill %d: the token has %v, want %v", i, got, want)
		}
		for j := range all {
			if got := all[j].open(t, c); got != all[j].material {
				t.Errorf("kill %d: %s opened with %s", i, all[j].plaintext, got)
			}
		}
		all = append(all, seal(t, c, id, fmt.Sprintf("after kill %d", i)))
		if got := all[len(all)-1].material; got != is {
			t.Errorf("kill %d: sealed with %s, the current material is %s", i, got, is)
		}
	}
	t.Logf("%d kills: %d times not rotated, %d times rotated", kills, states[0], states[1])
}
