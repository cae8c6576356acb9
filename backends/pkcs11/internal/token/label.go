package token

import (
	"encoding/base32"
	"encoding/hex"
	"strconv"
	"strings"
)

// Labels are of the form "cmkd:<name>:<number>", with up to some 60 characters. Tokens
// that take short ones only, or few characters, get another form of the same, which
// nobody outside of this package sees:
//
//	"CMKD", a letter that says what the name is, the 16 bytes of its ID in base32 if it
//	has one (26 characters, RFC 4648), and the number to the base 32
//
// which are at most compactLength capital letters and digits.
const (
	compactPrefix = "CMKD"
	compactLength = 38
	// numberBits is the most that a number may have: seven digits.
	numberBits = 35
)

// LabelForm is which of them the token takes.
type LabelForm int

const (
	PlainLabels LabelForm = iota
	CompactLabels
	NoLabels
)

// NeedsLabel is what a token lacks that takes neither.
const NeedsLabel = "CKA_LABEL of 38 capital letters and digits"

// labelNames are the names in labels, the longer ones first.
var labelNames = []struct {
	letter byte
	before string
	id     idForm
}{
	{'J', "import-mrk-", hexID},
	{'I', "import-", uuidID},
	{'L', "system-state-", hexID},
	{'W', "system-wrapping", withoutID},
	{'A', "system-audit", withoutID},
	{'S', "system-state", withoutID},
	{'M', "mrk-", hexID},
	{'K', "", uuidID},
}

// idForm is how an ID of 16 bytes is written in a name.
type idForm int

const (
	withoutID idForm = iota
	hexID
	uuidID
)

var base32ID = base32.StdEncoding.WithPadding(base32.NoPadding)

// format writes an ID.
func (f idForm) format(id []byte) string {
	h := hex.EncodeToString(id)
	if f == uuidID {
		return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	}
	return h
}

// parse reads what format writes.
func (f idForm) parse(s string) ([]byte, bool) {
	if f == withoutID {
		return nil, s == ""
	}
	id, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	return id, err == nil && len(id) == 16 && f.format(id) == s
}

// compactLabel is the short form of a label; ok is false if it has none.
func compactLabel(label string) (compact string, ok bool) {
	rest, ok := strings.CutPrefix(label, LabelPrefix)
	colon := strings.LastIndexByte(rest, ':')
	if !ok || colon < 0 {
		return "", false
	}
	n, err := strconv.ParseUint(rest[colon+1:], 10, numberBits)
	if err != nil || strconv.FormatUint(n, 10) != rest[colon+1:] {
		return "", false
	}
	for _, name := range labelNames {
		text, ok := strings.CutPrefix(rest[:colon], name.before)
		if !ok {
			continue
		}
		if id, ok := name.id.parse(text); ok {
			return compactPrefix + string(name.letter) + base32ID.EncodeToString(id) + strings.ToUpper(strconv.FormatUint(n, 32)), true
		}
	}
	return "", false
}

// plainLabel is the label that an object's CKA_LABEL stands for: the same, unless it is
// the short form of one.
func plainLabel(stored string) string {
	rest, ok := strings.CutPrefix(stored, compactPrefix)
	if !ok || rest == "" {
		return stored
	}
	for _, name := range labelNames {
		if name.letter != rest[0] {
			continue
		}
		number, id := rest[1:], ""
		if n := base32ID.EncodedLen(16); name.id != withoutID {
			if len(number) < n {
				return stored
			}
			raw, err := base32ID.DecodeString(number[:n])
			if err != nil {
				return stored
			}
			id, number = name.id.format(raw), number[n:]
		}
		n, err := strconv.ParseUint(number, 32, numberBits)
		if err != nil {
			return stored
		}
		plain := LabelPrefix + name.before + id + ":" + strconv.FormatUint(n, 10)
		if again, ok := compactLabel(plain); ok && again == stored {
			return plain
		}
	}
	return stored
}

// Label is CKA_LABEL of an object in the form that the token takes.
func (p *Profile) Label(label string) []byte {
	if p.Labels == CompactLabels {
		if compact, ok := compactLabel(label); ok {
			return []byte(compact)
		}
	}
	return []byte(label)
}
