package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// The first bytes of what is hashed, so that no hash of one kind can be taken
// for one of another.
const (
	placeMark  = 0
	bucketMark = 1
	rootMark   = 2
)

// bucketBits is how many bits of a place choose its bucket. A change hashes
// its bucket and all bucket hashes: about as much each with a million rows.
const bucketBits = 10

const bucketCount = 1 << bucketBits

// leaf is one row in the hash.
type leaf struct {
	place  [sha256.Size]byte // of table and name
	digest [sha256.Size]byte // of the document
}

func newLeaf(table, name string, document []byte) leaf {
	return leaf{place: place(table, name), digest: sha256.Sum256(document)}
}

func place(table, name string) [sha256.Size]byte {
	b := make([]byte, 0, 2*keyBytes)
	b = append(b, placeMark)
	b = append(b, table...)
	b = append(b, 0)
	b = append(b, name...)
	return sha256.Sum256(b)
}

func (l *leaf) bucket() int { return int(binary.BigEndian.Uint16(l.place[:]) >> (16 - bucketBits)) }

func comparePlaces(a, b leaf) int { return bytes.Compare(a.place[:], b.place[:]) }

// RowName is the name of a row among those of its table: the JSON array of its
// primary key, byte strings in hexadecimal.
func RowName(primary []any) string {
	b := make([]byte, 0, keyBytes)
	b = append(b, '[')
	for i, f := range primary {
		if i > 0 {
			b = append(b, ',')
		}
		switch f := f.(type) {
		case string:
			b, _ = jsontext.AppendQuote(b, f) // the error is for invalid UTF-8, which is replaced
		case []byte:
			b = append(b, '"')
			b = hex.AppendEncode(b, f)
			b = append(b, '"')
		case int:
			b = strconv.AppendInt(b, int64(f), 10)
		case int64:
			b = strconv.AppendInt(b, f, 10)
		}
	}
	return string(append(b, ']'))
}

// hashes are the two levels of the hash over all rows. They do not change:
// with returns a changed copy.
type hashes struct {
	buckets [][]leaf            // by place
	sums    [][sha256.Size]byte // of the buckets
}

func newHashes(leaves []leaf) *hashes {
	h := &hashes{buckets: make([][]leaf, bucketCount), sums: make([][sha256.Size]byte, bucketCount)}
	for _, l := range leaves {
		h.buckets[l.bucket()] = append(h.buckets[l.bucket()], l)
	}
	for i, b := range h.buckets {
		slices.SortFunc(b, comparePlaces)
		h.sums[i] = bucketSum(b)
	}
	return h
}

func bucketSum(leaves []leaf) [sha256.Size]byte {
	b := make([]byte, 0, 1+len(leaves)*2*sha256.Size)
	b = append(b, bucketMark)
	for i := range leaves {
		b = append(b, leaves[i].place[:]...)
		b = append(b, leaves[i].digest[:]...)
	}
	return sha256.Sum256(b)
}

// digest returns the digest of the row that has the leaf's place.
func (h *hashes) digest(l *leaf) (digest [sha256.Size]byte, found bool) {
	b := h.buckets[l.bucket()]
	at, found := slices.BinarySearchFunc(b, *l, comparePlaces)
	if found {
		digest = b[at].digest
	}
	return digest, found
}

// root is the hash over all rows.
func (h *hashes) root() []byte {
	sum := sha256.New()
	sum.Write([]byte{rootMark})
	for i := range h.sums {
		sum.Write(h.sums[i][:])
	}
	return sum.Sum(nil)
}

// with returns the hashes after the changes, of which the last one of a row
// counts. It costs as much as the buckets of the rows hold.
func (h *hashes) with(changes []Change) *hashes {
	next := &hashes{buckets: slices.Clone(h.buckets), sums: slices.Clone(h.sums)}
	touched := make(map[int]bool, len(changes))
	for _, c := range changes {
		l := leaf{place(c.Table, c.Name), c.Digest}
		i := l.bucket()
		if !touched[i] {
			touched[i] = true
			next.buckets[i] = slices.Clone(next.buckets[i])
		}
		b := next.buckets[i]
		at, found := slices.BinarySearchFunc(b, l, comparePlaces)
		switch {
		case c.Deleted() && found:
			b = slices.Delete(b, at, at+1)
		case c.Deleted():
		case found:
			b[at] = l
		default:
			b = slices.Insert(b, at, l)
		}
		next.buckets[i] = b
	}
	for i := range touched {
		next.sums[i] = bucketSum(next.buckets[i])
	}
	return next
}
