// Package backup is the form of a backup of the database: a file of lines that holds
// every row, the head of the commit that it was made of, and at the end a MAC of all
// that by a key in the token. It holds nothing that the database does not hold.
//
// Version 1, each line ended by a newline:
//
//	{"cmkdBackup":1,…}                  [Header]
//	{"table":"keys","row":{…}}          a row: its table, and its document as the
//	…                                   database has it, byte for byte
//	{"head":{…},"mac":"…"}              the head and its MAC, in hexadecimal; missing
//	                                    if the rows have changed their form since
//	{"sha256":"…","mac":"…"}            of all lines before it
//
// The sum finds what was cut off or damaged, without any key. The MAC is HMAC-SHA-256
// over "cmkd backup v1\n" and the sum, and proves who made the backup: what names a
// file as whole proves nothing, since whoever alters it can compute that again.
//
// A reader takes nothing but what a [Writer] writes, to the byte: two files that differ
// are never the same backup.
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// Format is the version of the form.
const Format = 1

// Suffix ends the names of backups.
const Suffix = ".cmkd-backup"

// MACSize is the length of the MAC in bytes.
const MACSize = sha256.Size

// Errors of [Read].
var (
	// ErrFormat: the file is not a backup, or one of a newer version of the program.
	ErrFormat = errors.New("not a backup that this version of cmkd reads")
	// ErrDamaged: the file was a backup, and is not whole or not as it was.
	ErrDamaged = errors.New("the backup is damaged")
)

// Header says what a backup is of.
type Header struct {
	Format  int       `json:"cmkdBackup"`
	Created time.Time `json:"created"`
	Version string    `json:"version"` // of cmkd
	Account string    `json:"account"`
	// Token is the label, and Serial the serial number, of the token that has the
	// backup key.
	Token  string `json:"token"`
	Serial string `json:"serial"`
	// Key is the CKA_ID, in hexadecimal, of the key that makes the MAC.
	Key string `json:"key"`
	// Rows are counted, and Root is the hash over all of them, in hexadecimal.
	Rows int    `json:"rows"`
	Root string `json:"root"`
	// Sequence, Committed and Epoch are of the last commit.
	Sequence  uint64    `json:"sequence"`
	Committed time.Time `json:"committed"`
	Epoch     int       `json:"epoch"`
	// AuditSequence and AuditHash, in hexadecimal, are of the last record of the audit
	// trail when the backup was made.
	AuditSequence uint64 `json:"auditSequence"`
	AuditHash     string `json:"auditHash,omitzero"`
}

// Row is a row of a table.
type Row struct {
	Table    string
	Document []byte // JSON
}

// Head is the head of the commit as the database has it.
type Head struct {
	Document []byte // JSON
	MAC      []byte
}

// Seal is the last line: what is known of the lines before it.
type Seal struct {
	Sum [sha256.Size]byte // SHA-256
	MAC []byte
}

// Message is what the MAC is computed over.
func Message(sum [sha256.Size]byte) []byte { return append([]byte("cmkd backup v1\n"), sum[:]...) }

// line is the last line of a backup.
func (s *Seal) line() string {
	return `{"sha256":"` + hex.EncodeToString(s.Sum[:]) + `","mac":"` + hex.EncodeToString(s.MAC) + "\"}\n"
}
