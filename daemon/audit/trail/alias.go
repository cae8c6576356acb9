package trail

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json"
)

// Alias finds the keys that an alias names, one in each Region: what the trail says
// last of it. Of an alias that has been deleted it is the key before; of one that the
// trail has no creation of, as older segments were pruned, the key that it was used
// with. There is none if the trail does not know the alias. region "" is all.
func Alias(ctx context.Context, from Source, name, region string) ([]Key, error) {
	found := map[string]string{} // by Region
	var order []string
	q := Query{Text: string(literal(name)) + `"`, Region: region}
	err := from.Search(ctx, Options{Query: q}, func(e *Event) error {
		id := e.target(name)
		if id == "" {
			return nil
		}
		if _, known := found[e.AWSRegion]; !known {
			order = append(order, e.AWSRegion)
		}
		found[e.AWSRegion] = id
		return nil
	})
	keys := make([]Key, len(order))
	for i, r := range order {
		keys[i] = Key{r, found[r]}
	}
	return keys, err
}

// target is the ID of the key that the alias names by the record, "" if it does not say.
func (e *Event) target(alias string) string {
	var p struct {
		KeyID       any `json:"keyId"`
		AliasName   any `json:"aliasName"`
		TargetKeyID any `json:"targetKeyId"`
	}
	if e.ErrorCode != "" || json.Unmarshal(e.Details().Parameters, &p) != nil {
		return ""
	}
	switch e.EventName {
	case "CreateAlias", "UpdateAlias":
		if target, ok := p.TargetKeyID.(string); ok && p.AliasName == alias {
			return KeyID(target)
		}
	default:
		key, _ := p.KeyID.(string)
		if ids := e.Keys(); len(ids) == 1 && (key == alias || strings.HasSuffix(key, ":"+alias)) {
			return ids[0]
		}
	}
	return ""
}

// KeyID is the ID in a key's ARN, or the text as it is.
func KeyID(text string) string {
	if _, id, ok := strings.Cut(text, ":key/"); ok {
		return id
	}
	return text
}
