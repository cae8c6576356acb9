package crash

import (
	"context"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

func (c *caller) createGrant() *attempt {
	t, ok := c.target(enabled)
	if !ok || len(c.names(t.fact("grant/*"))) > 3 {
		return nil
	}
	name := c.fresh()
	operation := types.GrantOperationDescribeKey
	in := &kms.CreateGrantInput{Name: &name, GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":user/uid-61002"), Operations: []types.GrantOperation{operation}}
	a := on(c, t, "CreateGrant", in, &in.KeyId, change{t.fact("grant/" + name): string(operation)}, (*kms.Client).CreateGrant)
	a.send = func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		out, err := k.CreateGrant(ctx, in, named)
		if err == nil {
			c.learn("grant/"+name, *out.GrantId)
		}
		return err
	}
	return a
}

// endGrant retires a grant, or revokes it.
func (c *caller) endGrant() *attempt {
	t, ok := c.target(enabled, disabled)
	name := c.pick(c.names(t.fact("grant/*")))
	if !ok || name == "" {
		return nil
	}
	grant, ended := aws.String(c.id("grant/"+name)), change{t.fact("grant/" + name): gone}
	if c.random.IntN(2) == 0 {
		in := &kms.RevokeGrantInput{GrantId: grant}
		return on(c, t, "RevokeGrant", in, &in.KeyId, ended, (*kms.Client).RevokeGrant)
	}
	in := &kms.RetireGrantInput{GrantId: grant}
	a := on(c, t, "RetireGrant", in, &in.KeyId, ended, (*kms.Client).RetireGrant)
	in.KeyId = aws.String("arn:aws:kms:" + t.region + ":" + rig.Account + ":key/" + *in.KeyId)
	return a
}

func (c *caller) createAlias() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	if !ok || len(c.names("alias/"+t.region+"/"+c.name+"-*")) > 3 {
		return nil
	}
	name := c.fresh()
	in := &kms.CreateAliasInput{AliasName: aws.String("alias/" + name)}
	return on(c, t, "CreateAlias", in, &in.TargetKeyId, change{"alias/" + t.region + "/" + name: t.name}, (*kms.Client).CreateAlias)
}

// updateAlias points an alias to another key of the same kind, as AWS demands.
func (c *caller) updateAlias() *attempt {
	t, ok := c.target(enabled)
	name := c.pick(c.names("alias/" + t.region + "/" + c.name + "-*"))
	if !ok || name == "" {
		return nil
	}
	name = "alias/" + t.region + "/" + c.name + "-" + name
	was := target{c.fact(name), t.region}
	if was.name == t.name || c.usage(was) != c.usage(t) || c.fact(was.fact("state")) == pendingDeletion {
		return nil
	}
	in := &kms.UpdateAliasInput{AliasName: aws.String("alias/" + name[strings.LastIndex(name, "/")+1:])}
	return on(c, t, "UpdateAlias", in, &in.TargetKeyId, change{name: t.name}, (*kms.Client).UpdateAlias)
}

// usage is what a key is for.
func (c *caller) usage(t target) string {
	switch kind := c.fact(t.shared("kind")); kind {
	case "hmac", "signing":
		return kind
	default:
		return "encryption"
	}
}

func (c *caller) deleteAlias() *attempt {
	region := c.pick(regions)
	name := c.pick(c.names("alias/" + region + "/" + c.name + "-*"))
	if name == "" {
		return nil
	}
	name = c.name + "-" + name
	fact := "alias/" + region + "/" + name
	if c.fact((target{c.fact(fact), region}).fact("state")) == pendingDeletion {
		return nil
	}
	in := &kms.DeleteAliasInput{AliasName: aws.String("alias/" + name)}
	return &attempt{operation: "DeleteAlias", region: region, change: change{fact: gone}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		_, err := k.DeleteAlias(ctx, in, named)
		return err
	}}
}

func (c *caller) tag() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	if !ok {
		return nil
	}
	// Two at once: all of a change or nothing.
	key, value := c.pick([]string{"a", "b", "c"}), strconv.Itoa(c.random.IntN(1e9))
	in := &kms.TagResourceInput{Tags: []types.Tag{{TagKey: &key, TagValue: &value}, {TagKey: aws.String("last"), TagValue: &value}}}
	return on(c, t, "TagResource", in, &in.KeyId, change{t.fact("tag/" + key): value, t.fact("tag/last"): value}, (*kms.Client).TagResource)
}

func (c *caller) untag() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	key := c.pick(c.names(t.fact("tag/*")))
	if !ok || key == "" {
		return nil
	}
	in := &kms.UntagResourceInput{TagKeys: []string{key}}
	return on(c, t, "UntagResource", in, &in.KeyId, change{t.fact("tag/" + key): gone}, (*kms.Client).UntagResource)
}

func (c *caller) describe() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	if !ok {
		return nil
	}
	text := "d" + strconv.Itoa(c.random.IntN(1e9))
	in := &kms.UpdateKeyDescriptionInput{Description: &text}
	return on(c, t, "UpdateKeyDescription", in, &in.KeyId, change{t.fact("description"): text}, (*kms.Client).UpdateKeyDescription)
}

func (c *caller) enableOrDisable() *attempt {
	t, ok := c.target(enabled, disabled)
	switch {
	case !ok:
		return nil
	case c.fact(t.fact("state")) == enabled && c.random.IntN(3) > 0: // mostly they are enabled
		return nil
	case c.fact(t.fact("state")) == enabled:
		in := &kms.DisableKeyInput{}
		return on(c, t, "DisableKey", in, &in.KeyId, change{t.fact("state"): disabled}, (*kms.Client).DisableKey)
	default:
		in := &kms.EnableKeyInput{}
		return on(c, t, "EnableKey", in, &in.KeyId, change{t.fact("state"): enabled}, (*kms.Client).EnableKey)
	}
}

// store picks the custom key store of the caller.
func (c *caller) store() (name, state string, id *string) {
	if name = c.pick(c.names("store/" + c.name + "-*")); name == "" {
		return "", "", nil
	}
	name = c.name + "-" + name
	return name, c.fact("store/" + name), aws.String(c.id("store/" + name))
}

func (c *caller) createStore() *attempt {
	if name, _, _ := c.store(); !c.stores || name != "" {
		return nil
	}
	name := c.fresh()
	in := &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: &name, CloudHsmClusterId: aws.String(cluster),
		TrustAnchorCertificate: aws.String("-----BEGIN CERTIFICATE-----"), KeyStorePassword: aws.String("kmsPswd1"),
	}
	return &attempt{operation: "CreateCustomKeyStore", region: rig.Region, change: change{"store/" + name: "DISCONNECTED"}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		out, err := k.CreateCustomKeyStore(ctx, in, named)
		if err == nil {
			c.learn("store/"+name, *out.CustomKeyStoreId)
		}
		return err
	}}
}

// keysInStore are the keys in the store of the caller, in whatever state.
func (c *caller) keysInStore() (keys []target) {
	for _, n := range c.names("key/" + c.name + "-*/kind") {
		if t := (target{c.name + "-" + n, rig.Region}); c.fact(t.shared("kind")) == "store" {
			keys = append(keys, t)
		}
	}
	return keys
}

// connectOrDisconnect leaves a store that has keys connected.
func (c *caller) connectOrDisconnect() *attempt {
	name, state, id := c.store()
	switch {
	case name == "":
		return nil
	case state == "DISCONNECTED":
		return &attempt{operation: "ConnectCustomKeyStore", region: rig.Region, change: change{"store/" + name: "CONNECTED"}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
			_, err := k.ConnectCustomKeyStore(ctx, &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: id}, named)
			return err
		}}
	case len(c.keysInStore()) > 0:
		return nil
	}
	return &attempt{operation: "DisconnectCustomKeyStore", region: rig.Region, change: change{"store/" + name: "DISCONNECTED"}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		_, err := k.DisconnectCustomKeyStore(ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: id}, named)
		return err
	}}
}

func (c *caller) renameStore() *attempt {
	name, state, id := c.store()
	if name == "" {
		return nil
	}
	fresh := c.fresh()
	return &attempt{operation: "UpdateCustomKeyStore", region: rig.Region, change: change{"store/" + name: gone, "store/" + fresh: state}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		_, err := k.UpdateCustomKeyStore(ctx, &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: id, NewCustomKeyStoreName: &fresh}, named)
		if err == nil {
			c.learn("store/"+fresh, *id)
		}
		return err
	}}
}

func (c *caller) deleteStore() *attempt {
	name, state, id := c.store()
	if name == "" || state != "DISCONNECTED" || len(c.keysInStore()) > 0 {
		return nil
	}
	return &attempt{operation: "DeleteCustomKeyStore", region: rig.Region, change: change{"store/" + name: gone}, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		_, err := k.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: id}, named)
		return err
	}}
}
