package daemon_test

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
	id := newKey(t, root, &kms.CreateKeyInput{})
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
		{"an extra pair", pairs{"Dept": "IT", "env": "prod", "more": "1"}, "", denied},
		{"nothing", nil, denied, denied},
		{"one missing", pairs{"Dept": "IT"}, denied, denied},
		{"re-cased key", pairs{"dept": "IT", "env": "prod"}, denied, denied},
		{"re-cased value", pairs{"Dept": "it", "env": "prod"}, denied, denied},
		{"renamed key", pairs{"Dept ": "IT", "env": "prod"}, denied, denied},
		{"key of another script", pairs{"\u0044\u0435pt": "IT", "env": "prod"}, denied, denied}, // a Cyrillic e
		{"composed otherwise", pairs{"Dept": "IT", "e\u200bnv": "prod"}, denied, denied},
		{"values swapped", pairs{"Dept": "prod", "env": "IT"}, denied, denied},
		{"both cases", pairs{"Dept": "IT", "DEPT": "HR", "env": "prod"}, "", denied},
		{"both cases, the wrong one right", pairs{"Dept": "HR", "dept": "IT", "env": "prod"}, denied, denied},
		{"joined", pairs{"Dept": "IT,env=prod"}, denied, denied},
	} {
		outcome(t, "subset, "+tt.name, encryptIn(t, within, id, tt.context), tt.subset)
		outcome(t, "equals, "+tt.name, encryptIn(t, exactly, id, tt.context), tt.equals_)
	}
	outcome(t, "equals nothing", encryptIn(t, without, id, nil), "")
	outcome(t, "equals nothing, with a pair", encryptIn(t, without, id, pairs{"a": "b"}), denied)

	// No request here is on behalf of an AWS resource.
	source := &types.GrantConstraints{SourceArn: aws.String("arn:aws:s3:::bucket-of-someone")}
	if _, err := root.CreateGrant(ctx, grantTo(app, id, source, "Encrypt", "DescribeKey", "CreateGrant")); err != nil {
		t.Fatal(err)
	}
	onBehalf := r.As(t, app)
	outcome(t, "source", encryptIn(t, onBehalf, id, nil), denied)
	_, err := onBehalf.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	outcome(t, "source, DescribeKey", err, denied)
	_, err = onBehalf.CreateGrant(ctx, grantTo(app, id, nil, "Encrypt"))
	outcome(t, "source, without it", err, denied)

	// A service is named as one, and never the user of an ARN.
	for _, tt := range []struct {
		name, grantee string
		constraints   *types.GrantConstraints
		retiring      *string
		code          string
	}{
		{"service", "ec2.amazonaws.com", source, aws.String(rootARN), ""},
		{"service of no source", "ec2.amazonaws.com", nil, aws.String(rootARN), "ValidationException"},
		{"service that nobody retires", "ec2.amazonaws.com", source, nil, "ValidationException"},
		{"user as a service", stranger.ARN(), source, aws.String(rootARN), "InvalidArnException"},
		{"account as a service", rig.Account, source, aws.String(rootARN), "InvalidArnException"},
	} {
		_, err := root.CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &id, GranteeServicePrincipal: &tt.grantee, RetiringPrincipal: tt.retiring, Constraints: tt.constraints,
			Operations: []types.GrantOperation{"Encrypt"},
		})
		outcome(t, tt.name, err, tt.code)
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
	id := newKey(t, root, &kms.CreateKeyInput{})
	other := newKey(t, root, &kms.CreateKeyInput{})
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
		{"no constraint", grantTo(grantee2, id, nil, "Encrypt"), denied},
		{"another operation", grantTo(grantee2, id, subset(pairs{"a": "1"}), "Encrypt", "Decrypt"), denied},
		{"another value", grantTo(grantee2, id, subset(pairs{"a": "2"}), "Encrypt"), denied},
		{"another case", grantTo(grantee2, id, subset(pairs{"A": "1"}), "Encrypt"), denied},
		{"another key", grantTo(grantee2, other, subset(pairs{"a": "1"}), "Encrypt"), denied},
		{"equals what is not within", grantTo(grantee2, id, equals(pairs{"b": "1"}), "Encrypt"), denied},
		{"equals nothing", grantTo(grantee2, id, equals(pairs{}), "Encrypt"), denied},
		{"stricter", grantTo(grantee2, id, subset(pairs{"a": "1", "b": "2"}), "Encrypt", "CreateGrant"), ""},
	} {
		_, err := one.CreateGrant(ctx, tt.in)
		outcome(t, tt.name, err, tt.code)
	}
	_, err = two.CreateGrant(ctx, grantTo(grantee3, id, subset(pairs{"a": "1"}), "Encrypt"))
	outcome(t, "the second loosens to the first's constraint", err, denied)
	_, err = two.CreateGrant(ctx, grantTo(grantee3, id, subset(pairs{"a": "1", "b": "2"}), "Encrypt", "DescribeKey"))
	outcome(t, "the second gives what it does not have", err, denied)
	last, err := two.CreateGrant(ctx, grantTo(grantee3, id, equals(pairs{"a": "1", "b": "2", "c": "3"}), "Encrypt"))
	outcome(t, "the second gives what it has", err, "")
	if err != nil {
		t.FailNow()
	}
	_, err = three.CreateGrant(ctx, grantTo(stranger, id, equals(pairs{"a": "1", "b": "2", "c": "3"}), "Encrypt"))
	outcome(t, "the third may not delegate", err, denied)
	outcome(t, "the third encrypts", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}), "")
	outcome(t, "the third, not within", encryptIn(t, three, id, pairs{"a": "1", "b": "2"}), denied)

	// Tokens give nothing to others, and nothing once their grant is gone.
	for who, c := range map[string]*kms.Client{"another grantee": one, "a stranger": r.As(t, stranger)} {
		outcome(t, "token of the third shown by "+who, encryptIn(t, c, id, pairs{"x": "y"}, *last.GrantToken), denied)
	}
	outcome(t, "no token", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}, "bm8gdG9rZW4="), "InvalidGrantTokenException")
	_, err = two.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: last.GrantId})
	outcome(t, "a grantee revokes", err, denied)
	_, err = three.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: last.GrantToken})
	outcome(t, "a grantee without RetireGrant retires", err, denied)
	_, err = two.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	outcome(t, "somebody else retires", err, denied)
	_, err = one.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	outcome(t, "a grantee with RetireGrant retires", err, "")
	outcome(t, "retired, with its token", encryptIn(t, one, id, pairs{"a": "1"}, *first.GrantToken), denied)
	_, err = one.CreateGrant(ctx, grantTo(grantee1, id, subset(pairs{"a": "1"}), "Encrypt"))
	outcome(t, "retired, makes a grant", err, denied)
	_, err = root.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: last.GrantId})
	outcome(t, "root revokes", err, "")
	outcome(t, "revoked, with its token", encryptIn(t, three, id, pairs{"a": "1", "b": "2", "c": "3"}, *last.GrantToken), denied)
	_, err = one.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: first.GrantToken})
	outcome(t, "retired twice", err, "NotFoundException")
}

// TestGrantConditions: key policies can hold CreateGrant to kinds of grants.
func TestGrantConditions(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := newKey(t, root, &kms.CreateKeyInput{Policy: keyPolicy(allowing(rootARN, `"kms:*"`, ""),
		allowing(grantee1.ARN(), `"kms:CreateGrant"`, `{"ForAllValues:StringEquals":{"kms:GrantOperations":["Encrypt"]},"StringEquals":{"kms:EncryptionContext:a":"1","kms:GrantConstraintType":"EncryptionContextSubset"}}`),
		allowing(grantee2.ARN(), `"kms:CreateGrant"`, `{"Bool":{"kms:GrantIsForAWSResource":"true"}}`),
		allowing(operator.ARN(), `"kms:CreateGrant"`, `{"StringEquals":{"kms:GrantConstraintSourceArn":"arn:aws:s3:::bucket-of-someone","kms:GranteeServicePrincipal":"ec2.amazonaws.com","kms:RetiringPrincipal":"`+rootARN+`"}}`),
		allowing(grantee3.ARN(), `"kms:ReEncrypt*"`, `{"Bool":{"kms:ReEncryptOnSameKey":"true"}}`))})
	one := r.As(t, grantee1)
	for _, tt := range []struct {
		name string
		in   *kms.CreateGrantInput
		code string
	}{
		{"within", grantTo(app, id, subset(pairs{"a": "1"}), "Encrypt"), ""},
		{"operation", grantTo(app, id, subset(pairs{"a": "1"}), "Decrypt"), denied},
		{"context", grantTo(app, id, subset(pairs{"a": "2"}), "Encrypt"), denied},
		{"type", grantTo(app, id, equals(pairs{"a": "1"}), "Encrypt"), denied},
		{"none", grantTo(app, id, nil, "Encrypt"), denied},
	} {
		_, err := one.CreateGrant(ctx, tt.in)
		outcome(t, tt.name, err, tt.code)
	}
	_, err := r.As(t, grantee2).CreateGrant(ctx, grantTo(app, id, nil, "Encrypt"))
	outcome(t, "for AWS resources only", err, denied)
	for source, want := range map[string]string{"arn:aws:s3:::bucket-of-someone": "", "arn:aws:s3:::bucket-of-another": denied} {
		_, err := r.As(t, operator).CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &id, GranteeServicePrincipal: aws.String("ec2.amazonaws.com"), RetiringPrincipal: aws.String(rootARN),
			Constraints: &types.GrantConstraints{SourceArn: &source}, Operations: []types.GrantOperation{"Encrypt"},
		})
		outcome(t, "to a service, for "+source, err, want)
	}

	// ReEncryptOnSameKey is known on both sides.
	other := newKey(t, root, &kms.CreateKeyInput{Policy: keyPolicy(allowing(rootARN, `"kms:*"`, ""), allowing(grantee3.ARN(), `"kms:ReEncrypt*"`, ""))})
	sealed, err := root.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	three := r.As(t, grantee3)
	_, err = three.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: &id})
	outcome(t, "to the same key", err, "")
	_, err = three.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: &other})
	outcome(t, "to another key", err, denied)
}

// TestEffectUnderLoad: a call that starts after the answer to a change sees the
// change, while many calls are on their way.
func TestEffectUnderLoad(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ctx, root := t.Context(), r.Client("")
	id := newKey(t, root, &kms.CreateKeyInput{})
	open, shut := keyPolicy(allowing(rootARN, `"kms:*"`, ""), allowing(app.ARN(), `"kms:Encrypt"`, "")), keyPolicy(allowing(rootARN, `"kms:*"`, ""))
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
			denied,
		},
		{
			"grant",
			func() error {
				g, err := root.CreateGrant(ctx, grantTo(app, id, nil, "Encrypt"))
				if err == nil {
					token = *g.GrantId
				}
				return err
			},
			func() error {
				_, err := root.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &id, GrantId: &token})
				return err
			},
			denied,
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
		c := r.As(t, app)
		callers.Go(func() {
			for calls := 0; ctx.Err() == nil; calls++ {
				isLate := ended.Load()
				err := encryptWith(t, c, id)
				switch {
				case isLate && code(err) != after:
					t.Errorf("%s: a call that started after the change: %v", name, err)
					return
				case isLate:
					if late.Add(1) >= 200 {
						return
					}
				case err == nil:
					good.Add(1)
				case code(err) != after:
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
