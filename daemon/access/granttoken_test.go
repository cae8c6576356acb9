package access

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"testing"
)

// TestGrantTokenFormat: a token made before names the same grant.
func TestGrantTokenFormat(t *testing.T) {
	t.Parallel()
	const (
		v1 = "AczMzMzMzMzMzMzMzMzMzMwAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw=="
		v2 = "AszMzMzMzMzMzMzMzMzMzMwAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHy3KS+Myfgsm"
	)
	for _, token := range []string{v1, v2} {
		if id, ok := ParseGrantToken(token); !ok || id != formatGrant {
			t.Errorf("the token %s names %q, %t", token, id, ok)
		}
	}
	grant, _ := hex.DecodeString(formatGrant)
	made, err := base64.StdEncoding.DecodeString(NewGrantToken(formatGrant))
	if err != nil || len(made) != 57 || made[0] != 2 || !bytes.Equal(made[17:49], grant) {
		t.Errorf("a new token is %x, %v", made, err)
	}
	raw, _ := base64.StdEncoding.DecodeString(v1)
	for name, token := range map[string]string{
		"of another version":                    base64.StdEncoding.EncodeToString(append([]byte{2}, raw[1:]...)),
		"of the first version, and longer":      base64.StdEncoding.EncodeToString(append([]byte{1}, made[1:]...)),
		"of the first version, with a bit more": v1[:len(v1)-3] + "x==",
		"in two lines":                          v2[:38] + "\n" + v2[38:],
		"with a line break at the end":          v2 + "\r\n",
		"that is empty":                         "",
		"without its checksum":                  base64.StdEncoding.EncodeToString(made[:49]),
		"in the other base64":                   base64.RawURLEncoding.EncodeToString(append(bytes.Repeat([]byte{0xff}, 48), made[:9]...)),
	} {
		if _, ok := ParseGrantToken(token); ok {
			t.Errorf("a token %s is taken", name)
		}
	}
}

const formatGrant = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
