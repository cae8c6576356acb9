package policy

import (
	"strings"
	"unicode/utf8"
)

// budget is what an evaluation may still do, in steps of a few nanoseconds.
//
// Matching one pattern takes time in proportion to pattern and value; but a
// policy may have thousands of patterns, the request thousands of values, and a
// variable may stand for a long one each time. What that can add up to is
// bounded here: an evaluation that spends its budget decides nothing, and the
// request is refused.
type budget struct {
	left  int
	spent bool // more than there was
}

// maxSteps is the budget of one evaluation, some ten milliseconds. Policies and
// requests that somebody means take a few thousand steps.
const maxSteps = 1 << 21

// bytesPerStep is how much text is compared or copied in a step.
const bytesPerStep = 16

func newBudget() budget { return budget{left: maxSteps} }

// spend takes n steps and reports whether they were there.
func (b *budget) spend(n int) bool {
	if b.left < n {
		b.left, b.spent = 0, true
	}
	if !b.spent {
		b.left -= n
	}
	return !b.spent
}

// lookupSteps is what looking for a condition key takes.
func (r *Request) lookupSteps(k *conditionKey) int {
	const eachPair, another = 4, 8
	switch k.kind {
	case keyEncryptionContext, keyEncryptionContextKeys:
		return 1 + eachPair*len(r.EncryptionContext)
	case keyPrincipalTag:
		return 1 + eachPair*len(r.Principal.Tags)
	default:
		return another
	}
}

// minLength is the length of the shortest value that parts can match, in bytes.
func minLength(parts []part) int {
	n := 0
	for i := range parts {
		n += len(parts[i].text) + parts[i].count
	}
	return n
}

// matchParts matches parts, in which variables have been replaced by text. What
// stands before the first * and after the last is matched where it must be; of
// the rest each piece is looked for after the one before, and the first place is
// as good as any.
func matchParts(b *budget, parts []part, value string) bool {
	if !b.spend(1+len(parts)/4) || minLength(parts) > len(value) {
		return false
	}
	var ok bool
	for len(parts) > 0 && parts[0].kind != partAny {
		if value, ok = parts[0].cutPrefix(b, value); !ok {
			return false
		}
		parts = parts[1:]
	}
	if len(parts) == 0 {
		return value == ""
	}
	for end := len(parts) - 1; parts[end].kind != partAny; end-- {
		if value, ok = parts[end].cutSuffix(b, value); !ok {
			return false
		}
		parts = parts[:end]
	}
	for parts = parts[1:]; len(parts) > 0; {
		end := 0
		for parts[end].kind != partAny {
			end++
		}
		if value, ok = cutPiece(b, parts[:end], value); !ok {
			return false
		}
		parts = parts[end+1:]
	}
	return true
}

// cutPrefix takes off what the part, which is not a *, matches at the beginning.
func (p *part) cutPrefix(b *budget, value string) (rest string, ok bool) {
	if p.kind == partText {
		b.spend(len(p.text) / bytesPerStep)
		return strings.CutPrefix(value, p.text)
	}
	if !b.spend(p.count) {
		return value, false
	}
	for range p.count {
		if value == "" {
			return value, false
		}
		_, size := utf8.DecodeRuneInString(value)
		value = value[size:]
	}
	return value, true
}

// cutSuffix takes off what the part, which is not a *, matches at the end.
func (p *part) cutSuffix(b *budget, value string) (rest string, ok bool) {
	if p.kind == partText {
		b.spend(len(p.text) / bytesPerStep)
		return strings.CutSuffix(value, p.text)
	}
	if !b.spend(p.count) {
		return value, false
	}
	for range p.count {
		if value == "" {
			return value, false
		}
		_, size := utf8.DecodeLastRuneInString(value)
		value = value[:len(value)-size]
	}
	return value, true
}

// cutPiece returns what follows the first place where parts, text and ? between
// two *, match.
func cutPiece(b *budget, parts []part, value string) (rest string, ok bool) {
	// With a * before it, a ? at the beginning may as well be at the end.
	after := part{kind: partOne}
	for len(parts) > 0 && parts[0].kind == partOne {
		after.count += parts[0].count
		parts = parts[1:]
	}
	for len(parts) > 0 && parts[len(parts)-1].kind == partOne {
		after.count += parts[len(parts)-1].count
		parts = parts[:len(parts)-1]
	}
	end := find(b, parts, value)
	if end < 0 {
		return value, false
	}
	return after.cutPrefix(b, value[end:])
}

// find returns the end of the first place where parts, which begin and end with
// text, match, -1 if there is none.
func find(b *budget, parts []part, value string) int {
	if len(parts) == 0 {
		return 0
	}
	first := parts[0].text
	b.spend(len(value) / bytesPerStep)
	if len(parts) == 1 {
		if at := strings.Index(value, first); at >= 0 {
			return at + len(first)
		}
		return -1
	}
	// Trying each place where the first text stands is quick, but for texts
	// that are made to be slow.
	for at, patience := 0, max(b.left-4*len(value), 0); b.left > patience; {
		found := strings.Index(value[at:], first)
		if found < 0 {
			return -1
		}
		at += found
		rest, ok := value[at:], true
		for i := 0; i < len(parts) && ok; i++ {
			if !b.spend(1) {
				return -1
			}
			rest, ok = parts[i].cutPrefix(b, rest)
		}
		if ok {
			return len(value) - len(rest)
		}
		_, size := utf8.DecodeRuneInString(value[at:])
		at += max(size, 1)
		if at > len(value) {
			return -1
		}
	}
	return findInParallel(b, parts, value)
}

// findInParallel is find with a bit for each character of parts: whether what
// was read last matches up to there. One step moves 64 of them on.
// (Baeza-Yates, Gonnet: A New Approach to Text Searching, CACM 35, 10.)
func findInParallel(b *budget, parts []part, value string) int {
	length := 0
	for i := range parts {
		length += parts[i].count + utf8.RuneCountInString(parts[i].text)
	}
	words := (length + wordBits - 1) / wordBits
	if length == 0 || !b.spend(words*len(value)) {
		return -1
	}
	masks, other, ok := masksOf(b, parts, words)
	if !ok {
		return -1
	}
	state, last := make([]uint64, words), length-1
	for at, r := range value {
		mask := masks[r]
		if mask == nil {
			mask = other
		}
		carry := uint64(1)
		for w := range state {
			next := state[w] >> (wordBits - 1)
			state[w] = (state[w]<<1 | carry) & mask[w]
			carry = next
		}
		if state[last/wordBits]>>(last%wordBits)&1 != 0 {
			_, size := utf8.DecodeRuneInString(value[at:])
			return at + size
		}
	}
	return -1
}

const wordBits = 64

// masksOf has for each character the places in parts where it may stand; other
// is for those that parts do not have.
func masksOf(b *budget, parts []part, words int) (masks map[rune][]uint64, other []uint64, ok bool) {
	masks, other = map[rune][]uint64{}, make([]uint64, words)
	place := 0
	for i := range parts {
		for range parts[i].count {
			other[place/wordBits] |= 1 << (place % wordBits)
			place++
		}
		for _, r := range parts[i].text {
			if masks[r] == nil {
				if !b.spend(words) {
					return nil, nil, false
				}
				masks[r] = make([]uint64, words)
			}
			masks[r][place/wordBits] |= 1 << (place % wordBits)
			place++
		}
	}
	for _, mask := range masks {
		for w := range mask {
			mask[w] |= other[w]
		}
	}
	return masks, other, true
}
