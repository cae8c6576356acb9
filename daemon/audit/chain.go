package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit/event"
)

// link is a place in the chain: a record's sequence number and hash. The zero
// link is before the first record.
type link struct {
	sequence uint64
	hash     [sha256.Size]byte
}

// The members that chain a line, by the format that the package comment draws:
// chainVersion is its version.
const (
	versionName  = `,"chainVersion":1,"sequence":`
	previousName = `,"previousHash":"`
	hashName     = `,"hash":"`
	lineEnd      = "\"}\n"

	hexHash = 2 * sha256.Size
	// chainSize is what the chain adds to a record at most, and maxLine the length
	// of the longest line.
	chainSize = len(versionName) + 20 + len(previousName) + hexHash + 1 + len(hashName) + hexHash + len(lineEnd)
	maxLine   = event.MaxRecord + chainSize
)

var _ [event.ChainRoom - chainSize]struct{} // it has room

// seal appends the record that follows l to dst: body, which lacks its closing
// brace, and the fields of the chain. It returns the record's own link.
func (l link) seal(dst, body []byte) ([]byte, link) {
	start := len(dst)
	next := link{sequence: l.sequence + 1}
	dst = append(dst, body...)
	dst = append(dst, versionName...)
	dst = strconv.AppendUint(dst, next.sequence, 10)
	dst = append(dst, previousName...)
	dst = hex.AppendEncode(dst, l.hash[:])
	dst = append(dst, '"')
	next.hash = sha256.Sum256(dst[start:])
	dst = append(dst, hashName...)
	dst = hex.AppendEncode(dst, next.hash[:])
	return append(dst, lineEnd...), next
}

// Problems that verification finds. Each comes in a [*ChainError].
var (
	// ErrTorn: the last line is not complete. A crash in the middle of a write
	// leaves it; its record was not acknowledged to anybody.
	ErrTorn = errors.New("the last record is cut short")
	// ErrFormat: the line is not a record.
	ErrFormat = errors.New("not a record of the audit log")
	// ErrHash: the record is not what its hash says: it has been edited.
	ErrHash = errors.New("the record does not match its hash")
	// ErrChain: the record does not follow the one before: one has been
	// removed, added, moved or replaced.
	ErrChain = errors.New("the record does not follow the one before it")
	// ErrCheckpoint: a checkpoint contradicts the log, or its signature is
	// not of the key that it names.
	ErrCheckpoint = errors.New("the checkpoint is wrong")
	// ErrHead: the log ends before a record that is known to exist.
	ErrHead = errors.New("the log ends too early")
	// ErrBeginning: the oldest records are missing, and no checkpoint says that
	// they were pruned; or the trail is empty.
	ErrBeginning = errors.New("the beginning of the trail is missing")
	// ErrFile: a segment is not a regular file.
	ErrFile = errors.New("not a regular file")
	// ErrAdded: there is something that the daemon did not write.
	ErrAdded = errors.New("added to the trail")
	// ErrUnsigned: more of the end is unsigned than [TailLimit] allows.
	ErrUnsigned = errors.New("too much of the trail is not signed")
)

// record is a line taken apart.
type record struct {
	link
	previous [sha256.Size]byte
}

// parse checks a line, without its newline, on its own.
func parse(line []byte) (record, error) {
	var r record
	rest, ok := bytes.CutSuffix(line, []byte(lineEnd[:2]))
	if !ok {
		return r, ErrFormat
	}
	rest, ok = cutHash(&r.hash, rest, hashName)
	if !ok {
		return r, ErrFormat
	}
	hashed := rest
	rest, ok = bytes.CutSuffix(rest, []byte(`"`))
	if !ok {
		return r, ErrFormat
	}
	rest, ok = cutHash(&r.previous, rest, previousName)
	if !ok {
		return r, ErrFormat
	}
	digits := rest[bytes.LastIndexByte(rest, ':')+1:]
	sequence, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || sequence == 0 || digits[0] == '0' || !bytes.HasSuffix(rest[:len(rest)-len(digits)], []byte(versionName)) {
		return r, ErrFormat
	}
	r.sequence = sequence
	if sha256.Sum256(hashed) != r.hash {
		return r, ErrHash
	}
	// The hash covers the bytes; that they are one JSON object without
	// duplicate names makes sure that every reader sees the same record.
	if line[0] != '{' || !jsontext.Value(line).IsValid() {
		return r, ErrFormat
	}
	return r, nil
}

// chainAt is where the members begin that chain a line, without its newline, to the one
// before: -1 if there are none.
func chainAt(line []byte) int {
	const name, most = len(`,"chainVersion":`), chainSize
	// What follows the sequence always has the same length.
	at := len(line) - (len(previousName) + hexHash + 1 + len(hashName) + hexHash + len(lineEnd) - 1)
	for at > 0 && line[at-1] >= '0' && line[at-1] <= '9' {
		at--
	}
	if at -= len(versionName); at >= 0 && string(line[at:at+len(versionName)]) == versionName {
		return at
	}
	// A line cut short, or of another version. What is before is quoted.
	from := max(0, len(line)-most)
	if at = bytes.LastIndex(line[from:], []byte(versionName[:name])); at >= 0 {
		at += from
	}
	return at
}

// cutHash takes name and a hash in lower-case hexadecimal off the end of line.
func cutHash(hash *[sha256.Size]byte, line []byte, name string) ([]byte, bool) {
	if len(line) < hexHash {
		return nil, false
	}
	digits := line[len(line)-hexHash:]
	if _, err := hex.Decode(hash[:], digits); err != nil || bytes.ContainsAny(digits, "ABCDEF") {
		return nil, false
	}
	return bytes.CutSuffix(line[:len(line)-hexHash], []byte(name))
}

// follow checks that r is the record behind l.
func (l link) follow(r record) error {
	switch {
	case r.sequence != l.sequence+1:
		return fmt.Errorf("%w: sequence %d comes after %d", ErrChain, r.sequence, l.sequence)
	case r.previous != l.hash:
		return fmt.Errorf("%w: its previousHash is not the hash of record %d", ErrChain, l.sequence)
	}
	return nil
}

// IsProblem reports whether the error is one of the problems that verification
// finds, and not one of reading or writing.
func IsProblem(err error) bool {
	if _, ok := errors.AsType[*ChainError](err); ok {
		return true
	}
	for _, problem := range []error{ErrTorn, ErrFormat, ErrHash, ErrChain, ErrCheckpoint, ErrHead, ErrBeginning, ErrFile, ErrAdded, ErrUnsigned} {
		if errors.Is(err, problem) {
			return true
		}
	}
	return false
}
