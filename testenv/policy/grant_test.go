package policy

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// grantees of these tests, one after the other in a chain.
var (
	grantee1 = rig.User{UID: 61011, GID: 61011}
	grantee2 = rig.User{UID: 61012, GID: 61012}
	grantee3 = rig.User{UID: 61013, GID: 61013}
)

type pairs = map[string]string

func subset(c pairs) *types.GrantConstraints {
	return &types.GrantConstraints{EncryptionContextSubset: c}
}

func equals(c pairs) *types.GrantConstraints {
	return &types.GrantConstraints{EncryptionContextEquals: c}
}

func grantTo(u rig.User, id string, constraints *types.GrantConstraints, operations ...types.GrantOperation) *kms.CreateGrantInput {
	return &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String(u.ARN()), Constraints: constraints, Operations: operations}
}

func encryptIn(t *testing.T, c *kms.Client, id string, context pairs, tokens ...string) error {
	_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x"), EncryptionContext: context, GrantTokens: tokens})
	return err
}

// TestConstraintEscapes: a grant's constraint holds exactly what it says.
func TestConstraintEscapes(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{})
	for _, in := range []*kms.CreateGrantInput{
		grantTo(grantee1, id, subset(pairs{"Dept": "IT", "env": "prod"}), "Encrypt"),
		grantTo(grantee2, id, equals(pairs{"Dept": "IT", "env": "prod"}), "Encrypt"),
		grantTo(grantee3, id, equals(pairs{}), "Encrypt"),
	} {
		if _, err := root.CreateGrant(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	within, exactly, without := r.As(t, grantee1), r.As(t, grantee2), r.As(t, grantee3)
	for _, tt := range []struct {
		name            string
		context         pairs
		subset, equals_ string
	}{
		{"the pairs", pairs{"Dept": "IT", "env": "prod"}, "", ""},
		{"an extra pair", pairs{"Dept": "IT", "env": "prod", "more": "1"}, "", rig.Denied},
		{"nothing", nil, rig.Denied, rig.Denied},
		{"one missing", pairs{"Dept": "IT"}, rig.Denied, rig.Denied},
		{"re-cased key", pairs{"dept": "IT", "env": "prod"}, rig.Denied, rig.Denied},
		{"re-cased value", pairs{"Dept": "it", "env": "prod"}, rig.Denied, rig.Denied},
		{"renamed key", pairs{"Dept ": "IT", "env": "prod"}, rig.Denied, rig.Denied},
		{"key of another script", pairs{"\u0044\u0435pt": "IT", "env": "prod"}, rig.Denied, rig.Denied}, // a Cyrillic e
		{"composed otherwise", pairs{"Dept": "IT", "e\u200bnv": "prod"}, rig.Denied, rig.Denied},
		{"values swapped", pairs{"Dept": "prod", "env": "IT"}, rig.Denied, rig.Denied},
		{"both cases", pairs{"Dept": "IT", "DEPT": "HR", "env": "prod"}, "", rig.Denied},
		{"both cases, the wrong one right", pairs{"Dept": "HR", "dept": "IT", "env": "prod"}, rig.Denied, rig.Denied},
		{"joined", pairs{"Dept": "IT,env=prod"}, rig.Denied, rig.Denied},
	} {
		rig.Outcome(t, "subset, "+tt.name, encryptIn(t, within, id, tt.context), tt.subset)
		rig.Outcome(t, "equals, "+tt.name, encryptIn(t, exactly, id, tt.context), tt.equals_)
	}
	rig.Outcome(t, "equals nothing", encryptIn(t, without, id, nil), "")
	rig.Outcome(t, "equals nothing, with a pair", encryptIn(t, without, id, pairs{"a": "b"}), rig.Denied)

	// No request here is on behalf of an AWS resource.
	source := &types.GrantConstraints{SourceArn: aws.String("arn:aws:s3:::bucket-of-someone")}
	if _, err := root.CreateGrant(ctx, grantTo(rig.App, id, source, "Encrypt", "DescribeKey", "CreateGrant")); err != nil {
		t.Fatal(err)
	}
	onBehalf := r.As(t, rig.App)
	rig.Outcome(t, "source", encryptIn(t, onBehalf, id, nil), rig.Denied)
	_, err := onBehalf.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	rig.Outcome(t, "source, DescribeKey", err, rig.Denied)
	_, err = onBehalf.CreateGrant(ctx, grantTo(rig.App, id, nil, "Encrypt"))
	rig.Outcome(t, "source, without it", err, rig.Denied)

	// A service is named as one, and never the user of an ARN.
	for _, tt := range []struct {
		name, grantee string
		constraints   *types.GrantConstraints
		retiring      *string
		code          string
	}{
		{"service", "ec2.amazonaws.com", source, aws.String(rig.RootARN), ""},
		{"service of no source", "ec2.amazonaws.com", nil, aws.String(rig.RootARN), "ValidationException"},
		{"service that nobody retires", "ec2.amazonaws.com", source, nil, "ValidationException"},
		{"user as a service", rig.Stranger.ARN(), source, aws.String(rig.RootARN), "InvalidArnException"},
		{"account as a service", rig.Account, source, aws.String(rig.RootARN), "InvalidArnException"},
	} {
		_, err := root.CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &id, GranteeServicePrincipal: &tt.grantee, RetiringPrincipal: tt.retiring, Constraints: tt.constraints,
			Operations: []types.GrantOperation{"Encrypt"},
		})
		rig.Outcome(t, tt.name, err, tt.code)
	}

	// The SDK cannot write a key twice; the wire can. No reading of it may pass.
	for _, context := range []string{
		`{"Dept":"HR","Dept":"IT","env":"prod"}`, `{"Dept":"IT","Dept":"HR","env":"prod"}`,
		`{"Dept":"HR","\u0044ept":"IT","env":"prod"}`,
	} {
		body := `{"KeyId":"` + id + `","Plaintext":"eA==","EncryptionContext":` + context + `}`
		if got := rawAnswer(t, r.HTTPAs(t, grantee1), "Encrypt", body); got[:3] != "400" {
			t.Errorf("%s: %s", context, got)
		}
	}
	// Nor may the constraint of a grant be written twice.
	body := `{"KeyId":"` + id + `","GranteePrincipal":"` + grantee1.ARN() + `","Operations":["Encrypt"],"Constraints":{"EncryptionContextSubset":{"a":"b","a":"c"}}}`
	if got := rawAnswer(t, r.HTTP(), "CreateGrant", body); got[:3] != "400" {
		t.Errorf("a constraint with a key twice: %s", got)
	}
}

// TestDelegation: whoever has a grant to make grants can make none that allows
// more, down a chain, and loses with the first what came of it only if that is
// revoked itself.
func TestDelegation(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{})
	other := rig.NewKey(t, root, &kms.CreateKeyInput{})
	first, err := root.CreateGrant(ctx, grantTo(grantee1, id, subset(pairs{"a": "1"}), "CreateGrant", "RetireGrant", "Encrypt", "DescribeKey"))
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := r.As(t, grantee1), r.As(t, grantee2), r.As(t, grantee3)
	for _, tt := range []struct {
		name string
		in   *kms.CreateGrantInput
		code string
	}{
		{"no constraint", grantTo(grantee2, id, nil, "Encrypt"), rig.Denied},
		{"another operation", grantTo(grantee2, id, subset(pairs{"a": "1"}), "Encrypt", "Decrypt"), rig.Denied},
		{"another value", grantTo(grantee2, id, subset(pairs{"a": "2"}), "Encrypt"), rig.Denied},
		{"another case", grantTo(grantee2, id, subset(pairs{"A": "1"}), "Encrypt"), rig.Denied},
		{"another key", grantTo(grantee2, other, subset(pairs{"a": "1"}), "Encrypt"), rig.Denied},
		{"equals what is not within", grantTo(grantee2, id, equals(pairs{"b": "1"}), "Encrypt"), rig.Denied},
		{"equals nothing", grantTo(grantee2, id, equals(pairs{}), "Encrypt"), rig.Denied},
		{"stricter", grantTo(grantee2, id, subset(pairs{"a": "1", "b": "2"}), "Encrypt", "CreateGrant"), ""},
	} {
		_, err := one.CreateGrant(ctx, tt.in)
		rig.Outcome(t, tt.name, err, tt.code)
	}
	_, err = two.CreateGrant(ctx, grantTo(grantee3, id, subset(pairs{"a": "1"}), "Encrypt"))
	rig.Outcome(t, "the second loosens to the first's constraint", err, rig.Denied)
	_, err = two.CreateGrant(ctx, grantTo(grantee3, id, subset(pairs{"a": "1", "b": "2"}), "Encrypt", "DescribeKey"))
	rig.Outcome(t, "the second gives what it does not have", err, rig.Denied)
	last, err := two.CreateGrant(ctx, grantTo(grantee3, id, equals(pairs{"a": "1", "b": "2", "c": "3"}), "Encrypt"))
	rig.Outcome(t, "the second gives what it has", err, "")
	if err != nil {
		t.FailNow()
	}
	_, err = three.CreateGrant(ctx, grantTo(rig.Stranger, id, equals(pairs{"a": "1", "b": "2", "c": "3"}), "Encrypt"))
	rig.Outcome(t, "the third may not delegate", err, rig.Denied)
	rig.Outcome(t, "the third encrypts", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}), "")
	rig.Outcome(t, "the third, not within", encryptIn(t, three, id, pairs{"a": "1", "b": "2"}), rig.Denied)

	// Tokens give nothing to others, and nothing once their grant is gone.
	for who, c := range map[string]*kms.Client{"another grantee": one, "a stranger": r.As(t, rig.Stranger)} {
		rig.Outcome(t, "token of the third shown by "+who, encryptIn(t, c, id, pairs{"x": "y"}, *last.GrantToken), rig.Denied)
	}
	rig.Outcome(t, "no token", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}, "bm8gdG9rZW4="), "InvalidGrantTokenException")
	_, err = two.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: last.GrantId})
	rig.Outcome(t, "a grantee revokes", err, rig.Denied)
	_, err = three.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: last.GrantToken})
	rig.Outcome(t, "a grantee without RetireGrant retires", err, rig.Denied)
	_, err = two.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	rig.Outcome(t, "somebody else retires", err, rig.Denied)
	_, err = one.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	rig.Outcome(t, "a grantee with RetireGrant retires", err, "")
	rig.Outcome(t, "retired, with its token", encryptIn(t, one, id, pairs{"a": "1"}, *first.GrantToken), rig.Denied)
	_, err = one.CreateGrant(ctx, grantTo(grantee1, id, subset(pairs{"a": "1"}), "Encrypt"))
	rig.Outcome(t, "retired, makes a grant", err, rig.Denied)
	_, err = root.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: last.GrantId})
	rig.Outcome(t, "root revokes", err, "")
	rig.Outcome(t, "revoked, with its token", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}, *last.GrantToken), rig.Denied)
	_, err = one.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	rig.Outcome(t, "retired twice", err, "NotFoundException")
}

// TestGrantConditions: key policies can hold CreateGrant to kinds of grants.
func TestGrantConditions(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""),
		rig.Allowing(grantee1.ARN(), `"kms:CreateGrant"`, `{"ForAllValues:StringEquals":{"kms:GrantOperations":["Encrypt"]},"StringEquals":{"kms:EncryptionContext:a":"1","kms:GrantConstraintType":"EncryptionContextSubset"}}`),
		rig.Allowing(grantee2.ARN(), `"kms:CreateGrant"`, `{"Bool":{"kms:GrantIsForAWSResource":"true"}}`),
		rig.Allowing(rig.Operator.ARN(), `"kms:CreateGrant"`, `{"StringEquals":{"kms:GrantConstraintSourceArn":"arn:aws:s3:::bucket-of-someone","kms:GranteeServicePrincipal":"ec2.amazonaws.com","kms:RetiringPrincipal":"`+rig.RootARN+`"}}`),
		rig.Allowing(grantee3.ARN(), `"kms:ReEncrypt*"`, `{"Bool":{"kms:ReEncryptOnSameKey":"true"}}`))})
	one := r.As(t, grantee1)
	for _, tt := range []struct {
		name string
		in   *kms.CreateGrantInput
		code string
	}{
		{"within", grantTo(rig.App, id, subset(pairs{"a": "1"}), "Encrypt"), ""},
		{"operation", grantTo(rig.App, id, subset(pairs{"a": "1"}), "Decrypt"), rig.Denied},
		{"context", grantTo(rig.App, id, subset(pairs{"a": "2"}), "Encrypt"), rig.Denied},
		{"type", grantTo(rig.App, id, equals(pairs{"a": "1"}), "Encrypt"), rig.Denied},
		{"none", grantTo(rig.App, id, nil, "Encrypt"), rig.Denied},
	} {
		_, err := one.CreateGrant(ctx, tt.in)
		rig.Outcome(t, tt.name, err, tt.code)
	}
	_, err := r.As(t, grantee2).CreateGrant(ctx, grantTo(rig.App, id, nil, "Encrypt"))
	rig.Outcome(t, "for AWS resources only", err, rig.Denied)
	for source, want := range map[string]string{"arn:aws:s3:::bucket-of-someone": "", "arn:aws:s3:::bucket-of-another": rig.Denied} {
		_, err := r.As(t, rig.Operator).CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &id, GranteeServicePrincipal: aws.String("ec2.amazonaws.com"), RetiringPrincipal: aws.String(rig.RootARN),
			Constraints: &types.GrantConstraints{SourceArn: &source}, Operations: []types.GrantOperation{"Encrypt"},
		})
		rig.Outcome(t, "to a service, for "+source, err, want)
	}

	// ReEncryptOnSameKey is known on both sides.
	other := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(grantee3.ARN(), `"kms:ReEncrypt*"`, ""))})
	sealed, err := root.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	three := r.As(t, grantee3)
	_, err = three.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: &id})
	rig.Outcome(t, "to the same key", err, "")
	_, err = three.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: &other})
	rig.Outcome(t, "to another key", err, rig.Denied)
}

// TestEffectUnderLoad: a call that starts after the answer to a change sees the
// change, while many calls are on their way.
func TestEffectUnderLoad(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := rig.NewKey(t, root, &kms.CreateKeyInput{})
	open, shut := rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(rig.App.ARN(), `"kms:Encrypt"`, "")), rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""))
	var token string
	for _, change := range []struct {
		name       string
		allow, end func() error
		after      string
	}{
		{
			"policy",
			func() error {
				_, err := root.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: open})
				return err
			},
			func() error {
				_, err := root.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: shut})
				return err
			},
			rig.Denied,
		},
		{
			"grant",
			func() error {
				g, err := root.CreateGrant(ctx, grantTo(rig.App, id, nil, "Encrypt"))
				if err == nil {
					token = *g.GrantId
				}
				return err
			},
			func() error {
				_, err := root.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: &token})
				return err
			},
			rig.Denied,
		},
		{
			"disable",
			func() error {
				_, err := root.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: open})
				return err
			},
			func() error { _, err := root.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id}); return err },
			"DisabledException",
		},
	} {
		if err := change.allow(); err != nil {
			t.Fatal(err)
		}
		underLoad(t, r, id, change.name, change.end, change.after)
	}
}

// underLoad ends what allows app to encrypt while eight callers do, and holds
// each of their answers to the time when its call started.
func underLoad(t *testing.T, r *rig.Rig, id, name string, end func() error, after string) {
	t.Helper()
	var (
		ended      atomic.Bool // set once end has been answered
		good, late atomic.Int64
		callers    sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	warm := make(chan struct{}, 8)
	for range cap(warm) {
		c := r.As(t, rig.App)
		callers.Go(func() {
			for calls := 0; ctx.Err() == nil; calls++ {
				isLate := ended.Load()
				err := rig.EncryptWith(t, c, id)
				switch {
				case isLate && rig.Code(err) != after:
					t.Errorf("%s: a call that started after the change: %v", name, err)
					return
				case isLate:
					if late.Add(1) >= 200 {
						return
					}
				case err == nil:
					good.Add(1)
				case rig.Code(err) != after:
					t.Errorf("%s: a call before the change: %v", name, err)
					return
				}
				if calls == 10 {
					warm <- struct{}{}
				}
			}
		})
	}
	for range cap(warm) {
		<-warm
	}
	if err := end(); err != nil {
		t.Errorf("%s: %v", name, err)
		stop()
	}
	ended.Store(true)
	callers.Wait()
	if good.Load() == 0 || late.Load() == 0 {
		t.Errorf("%s: %d calls before the change and %d after it", name, good.Load(), late.Load())
	}
}
