package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestContextIsLazy: the Context is asked only for keys of statements that match
// so far, by their names in lower case.
func TestContextIsLazy(t *testing.T) {
	t.Parallel()
	var asked []string
	f := question(t, caller(t, "alice"), "kms:Encrypt", keyARN, "")
	f.Context = ContextFunc(func(dst []string, key string) []string {
		asked = append(asked, key)
		return append(dst, "v")
	})
	key := mustParse(t, documentOf(t, `Allow bob * * {"StringEquals": {"x:principal": "v"}} ; Allow alice Sign * {"StringEquals": {"x:action": "v"}} ; `+
		`Allow alice * other {"StringEquals": {"x:resource": "v"}} ; Deny alice * * {"StringEquals": {"aws:username": "bob"}, "StringLike": {"X:Never": "v"}} ; `+
		`Allow alice * * {"StringEquals": {"aws:ResourceTag/Stage": "v"}}`, KeyPolicy), KeyPolicy)
	if d := Evaluate(&f.Request, key, nil, nil); !d.Allowed {
		t.Error(d)
	}
	// The two operators of the Deny have no order of their own in the document.
	asked = slices.DeleteFunc(asked, func(key string) bool { return key == "x:never" })
	if want := []string{"aws:resourcetag/stage"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

func TestNoContext(t *testing.T) {
	t.Parallel()
	f := question(t, caller(t, "alice"), "kms:Encrypt", keyARN, "")
	f.Context = nil
	d := mustParse(t, documentOf(t, `Allow alice * * {"Null": {"kms:ViaService": "true"}}`, KeyPolicy), KeyPolicy)
	if got := Evaluate(&f.Request, d, nil, nil); !got.Allowed {
		t.Error(got)
	}
}

func TestAppendTag(t *testing.T) {
	t.Parallel()
	tags := map[string]string{"Stage": "dev", "stage": "prod", "Stages": "x", "stag@": "y", "stag`": "z"}
	for name, want := range map[string][]string{"stage": {"dev", "prod"}, "STAGES": {"x"}, "stag@": {"y"}, "none": nil} {
		got := AppendTag(nil, tags, name)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestActionSpelling: the action of a request is matched without regard to case
// too.
func TestActionSpelling(t *testing.T) {
	t.Parallel()
	d := mustParse(t, documentOf(t, "Allow alice Encrypt *", KeyPolicy), KeyPolicy)
	for action, want := range map[string]bool{"kms:Encrypt": true, "KMS:encrypt": true, "kms:Encrypt2": false, "Encrypt": false, "": false} {
		f := question(t, caller(t, "alice"), action, keyARN, "")
		if got := Evaluate(&f.Request, d, nil, nil); got.Allowed != want {
			t.Errorf("%q: %v", action, got)
		}
	}
}

// TestConcurrentEvaluations: documents and the pooled scratch space are safe to
// share, and no request sees the context of another.
func TestConcurrentEvaluations(t *testing.T) {
	t.Parallel()
	d := mustParse(t, documentOf(t, `Allow alice * * {"StringEquals": {"kms:EncryptionContext:user": "${x:user}"}}`, KeyPolicy), KeyPolicy)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 500 {
				user := fmt.Sprint(worker, "-", i)
				f := question(t, caller(t, "alice"), "kms:Encrypt", keyARN, "ec:user="+user+" | x:user="+user)
				if got := Evaluate(&f.Request, d, nil, nil); !got.Allowed {
					t.Errorf("%s: %v", user, got)
				}
				f.EncryptionContext["user"] = strings.Repeat("x", i)
				if got := Evaluate(&f.Request, d, nil, nil); got.Allowed {
					t.Errorf("%s: %v", user, got)
				}
			}
		})
	}
	wg.Wait()
}
