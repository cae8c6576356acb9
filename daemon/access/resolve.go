package access

import (
	"strings"

	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// identifier is a parsed key identifier: one of the two. A client may write it as
// (https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id)
//
//	1234abcd-12ab-34cd-56ef-1234567890ab or mrk-1234abcd12ab34cd56ef1234567890ab
//	arn:aws:kms:us-east-1:111122223333:key/1234abcd-…
//	alias/example
//	arn:aws:kms:us-east-1:111122223333:alias/example
type identifier struct {
	keyID string
	alias string // with the prefix "alias/"
}

// parseIdentifier parses what the client wrote. ARNs of other Regions,
// accounts and services are not found.
func (s *Access) parseIdentifier(region, text string) (identifier, error) {
	name := text
	if strings.HasPrefix(text, "arn:") {
		arn, ok := keys.ParseARN(text)
		if !ok || arn.Partition != keys.Partition || arn.Service != "kms" {
			return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid arn %s", text)
		}
		if arn.Region != region {
			return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid arn %s", arn.Region)
		}
		name = arn.Resource
		if id, ok := strings.CutPrefix(name, "key/"); ok {
			if strings.HasPrefix(id, keys.AliasPrefix) { // an alias is not a key
				return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid keyId %s", id)
			}
			name = id
		} else if !strings.HasPrefix(name, keys.AliasPrefix) {
			return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid arn %s", text)
		}
		if arn.Account != s.Account {
			return identifier{}, elsewhere(text, name)
		}
	}
	if strings.HasPrefix(name, keys.AliasPrefix) {
		return identifier{alias: name}, nil
	}
	switch {
	case keys.IsID(name):
		return identifier{keyID: name}, nil
	case name != text: // AWS quotes it only outside of an ARN
		return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid keyId %s", name)
	}
	return identifier{}, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Invalid keyId '%s'", text)
}

// elsewhere refuses the ARN of another account: nothing of it is here.
func elsewhere(arn, name string) error {
	if strings.HasPrefix(name, keys.AliasPrefix) {
		return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Alias %s is not found.", arn)
	}
	return kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", arn)
}

// Resolve finds the key that the client means. Aliases are followed only if
// the operation accepts them: management operations do not. alias is the one that
// the client wrote, "" if it wrote none.
func (s *Access) Resolve(view *store.View, region, text string, aliases bool) (key *store.Key, alias string, err error) {
	id, err := s.parseIdentifier(region, text)
	if err != nil {
		return nil, "", err
	}
	if id.alias != "" {
		if !aliases {
			return nil, id.alias, kmsapi.Errorf(kmsapi.CodeInvalidArnException, "Key Aliases are not supported for this operation.")
		}
		row, ok := view.Alias(region, id.alias)
		if !ok {
			return nil, id.alias, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Alias %s is not found.", s.AliasARN(region, id.alias))
		}
		id.keyID = row.KeyID
	}
	key, ok := view.Key(region, id.keyID)
	if !ok {
		return nil, id.alias, kmsapi.Errorf(kmsapi.CodeNotFoundException, "Key '%s' does not exist", s.KeyARN(region, id.keyID))
	}
	return key, id.alias, nil
}

// IsAlias reports whether the client wrote an alias.
func (s *Access) IsAlias(region, text string) bool {
	id, err := s.parseIdentifier(region, text)
	return err == nil && id.alias != ""
}
