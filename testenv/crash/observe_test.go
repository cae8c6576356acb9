package crash

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// sight is what a daemon shows.
type sight struct {
	mu        sync.Mutex
	facts     facts
	ids       map[string]string // as in world
	materials map[string]string // IDs of materials that rotations made, and the name of the key
	problems  []string
}

func (s *sight) see(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.facts[name]; twice {
		s.problems = append(s.problems, name+" is there twice")
	}
	s.facts[name] = value
}

func (s *sight) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// observe asks the daemon for all that it has, by its API.
func (w *world) observe(ctx context.Context) *sight {
	s := &sight{facts: facts{}, ids: map[string]string{}, materials: map[string]string{}}
	var wait sync.WaitGroup
	busy := make(chan struct{}, 8)
	for _, region := range regions {
		k := w.client(region)
		keys := kms.NewListKeysPaginator(k, &kms.ListKeysInput{Limit: aws.Int32(100)})
		for keys.HasMorePages() {
			page, err := keys.NextPage(ctx, named("look"))
			if err != nil {
				s.problem("ListKeys in %s: %v", region, err)
				break
			}
			for _, key := range page.Keys {
				wait.Go(func() {
					busy <- struct{}{}
					defer func() { <-busy }()
					if err := s.key(ctx, k, region, key.KeyId); err != nil {
						s.problem("key %s in %s: %v", *key.KeyId, region, err)
					}
				})
			}
		}
	}
	wait.Wait()
	for _, region := range regions {
		if err := s.aliases(ctx, w.client(region), region); err != nil {
			s.problem("aliases in %s: %v", region, err)
		}
	}
	stores, err := w.client(rig.Region).DescribeCustomKeyStores(ctx, &kms.DescribeCustomKeyStoresInput{}, named("look"))
	if err != nil {
		s.problem("custom key stores: %v", err)
		return s
	}
	for _, store := range stores.CustomKeyStores {
		s.see("store/"+*store.CustomKeyStoreName, string(store.ConnectionState))
		s.ids["store/"+*store.CustomKeyStoreName] = *store.CustomKeyStoreId
	}
	return s
}

// key looks at a key in a Region.
func (s *sight) key(ctx context.Context, k *kms.Client, region string, id *string) error {
	look := named("look")
	described, err := k.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id}, look)
	if err != nil {
		return err
	}
	tags, err := k.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: id, Limit: aws.Int32(50)}, look)
	if err != nil {
		return err
	}
	t := target{"", region}
	for _, tag := range tags.Tags {
		if *tag.TagKey == "crash" {
			t.name = *tag.TagValue
		}
	}
	if t.name == "" {
		return fmt.Errorf("it has no name: %+v", described.KeyMetadata)
	}
	for _, tag := range tags.Tags {
		if *tag.TagKey != "crash" {
			s.see(t.fact("tag/"+*tag.TagKey), *tag.TagValue)
		}
	}
	s.mu.Lock()
	if other, ok := s.ids["key/"+t.name]; ok && other != *id {
		s.problems = append(s.problems, fmt.Sprintf("%s is two keys, %s and %s", t.name, other, *id))
	}
	s.ids["key/"+t.name] = *id
	s.mu.Unlock()
	m := described.KeyMetadata
	s.see(t.fact("state"), string(m.KeyState))
	s.see(t.fact("description"), aws.ToString(m.Description))
	policy, err := k.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: id}, look)
	if err != nil {
		return err
	}
	_, sid, _ := strings.Cut(aws.ToString(policy.Policy), `"Sid":"`)
	sid, _, _ = strings.Cut(sid, `"`)
	s.see(t.fact("policy"), sid)
	grants, err := k.ListGrants(ctx, &kms.ListGrantsInput{KeyId: id, Limit: aws.Int32(100)}, look)
	if err != nil {
		return err
	}
	for _, g := range grants.Grants {
		s.see(t.fact("grant/"+*g.Name), string(g.Operations[0]))
		s.mu.Lock()
		s.ids["grant/"+*g.Name] = *g.GrantId
		s.mu.Unlock()
	}
	return s.shared(ctx, k, t, m)
}

// shared looks at what the Regions of a key have in common, where its primary is.
func (s *sight) shared(ctx context.Context, k *kms.Client, t target, m *types.KeyMetadata) error {
	kind := "symmetric"
	switch {
	case aws.ToBool(m.MultiRegion):
		kind = "multi-Region"
	case m.Origin == types.OriginTypeExternal:
		kind = "external"
	case m.CustomKeyStoreId != nil:
		kind = "store"
	case m.KeyUsage == types.KeyUsageTypeGenerateVerifyMac:
		kind = "hmac"
	case m.KeyUsage == types.KeyUsageTypeSignVerify:
		kind = "signing"
	}
	if kind == "multi-Region" {
		if primary := *m.MultiRegionConfiguration.PrimaryKey.Region; primary != t.region {
			return nil
		}
		s.see(t.shared("primary"), t.region)
	}
	s.see(t.shared("kind"), kind)
	if kind != "symmetric" && kind != "multi-Region" {
		return nil
	}
	list, err := k.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: m.KeyId, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial, Limit: aws.Int32(100)}, named("look"))
	if err != nil {
		return err
	}
	s.see(t.shared("versions"), strconv.Itoa(len(list.Rotations)))
	for _, v := range list.Rotations {
		if v.RotationDate != nil {
			s.mu.Lock()
			s.materials[aws.ToString(v.KeyMaterialId)] = t.name
			s.mu.Unlock()
		}
	}
	status, err := k.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: m.KeyId}, named("look"))
	if err != nil {
		return err
	}
	s.see(t.shared("rotation"), strconv.Itoa(int(aws.ToInt32(status.RotationPeriodInDays))))
	return nil
}

func (s *sight) aliases(ctx context.Context, k *kms.Client, region string) error {
	names := map[string]string{} // of keys, by ID
	for name, id := range s.ids {
		if name, ok := strings.CutPrefix(name, "key/"); ok {
			names[id] = name
		}
	}
	pages := kms.NewListAliasesPaginator(k, &kms.ListAliasesInput{Limit: aws.Int32(100)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, named("look"))
		if err != nil {
			return err
		}
		for _, a := range page.Aliases {
			name := strings.TrimPrefix(*a.AliasName, "alias/")
			if strings.HasPrefix(name, "aws/") {
				continue
			}
			target := names[aws.ToString(a.TargetKeyId)]
			if target == "" {
				target = "no key"
			}
			s.see("alias/"+region+"/"+name, target)
		}
	}
	return nil
}

// proofs lets every key that is enabled verify what it has made, in each Region that it
// is in.
func (w *world) verifyProofs(ctx context.Context, s *sight, when func(*proof) bool) (n int) {
	var wait sync.WaitGroup
	busy := make(chan struct{}, 8)
	for _, p := range w.proofs {
		for _, region := range regions {
			if s.facts[target{p.name, region}.fact("state")] != enabled || !when(p) {
				continue
			}
			n++
			id := s.ids["key/"+p.name]
			wait.Go(func() {
				busy <- struct{}{}
				defer func() { <-busy }()
				if err := p.verify(ctx, w.client(region), id); err != nil {
					s.problem("what %s made of %q is not good any more in %s: %v", p.name, p.text, region, err)
				}
			})
		}
	}
	wait.Wait()
	return n
}
