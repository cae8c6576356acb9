package operatorapi

import "time"

// File is an answer that is a file instead of JSON.
type File struct{}

// BackupSeal is POST /backup/verify: has the token made the MAC of this backup?
type BackupSeal struct {
	// Key, Token and Serial are those of the backup's first line.
	Key    string `json:"key"`
	Token  string `json:"token"`
	Serial string `json:"serial"`
	SHA256 string `json:"sha256"` // of the lines before the last, hexadecimal
	MAC    string `json:"mac"`    // of the last line, hexadecimal
}

// VerifiedBackup is the answer to POST /backup/verify.
type VerifiedBackup struct {
	// Problem is why the backup is not one of this daemon's token, "" if it is.
	Problem string `json:"problem,omitempty"`
}

// RestorePlan is what a restore would do: what `cmkd -restore` prints.
type RestorePlan struct {
	// Plan names the plan: what is done is what was shown.
	Plan string `json:"plan"`
	// Same: the database is as the backup has it, and there is nothing to do.
	Same bool `json:"same,omitempty"`
	// Damage is why the present database cannot be read, "" if it can: nothing is
	// compared then, and its files are moved aside.
	Damage string `json:"damage,omitempty"`
	// Warnings are what speaks against it.
	Warnings []string `json:"warnings,omitempty"`
	// Backup is what the backup is of, and Present the database that there is.
	Backup  RestoreSide `json:"backup"`
	Present RestoreSide `json:"present"`
	// Differences are the rows that are added, changed or removed.
	Differences []Difference `json:"differences,omitempty"`
	// Done: the plan was carried out.
	Done bool `json:"done,omitempty"`
}

// RestoreSide is a state of the database.
type RestoreSide struct {
	Rows     int       `json:"rows"`
	Root     string    `json:"root"`                   // hash over them, hexadecimal
	Sequence uint64    `json:"sequence,omitzero"`      // of the last commit
	Time     time.Time `json:"time,omitzero"`          // of the last commit
	Created  time.Time `json:"created,omitzero"`       // of the backup
	Account  string    `json:"account,omitempty"`      // of the backup
	Audit    uint64    `json:"auditSequence,omitzero"` // the last record of the audit trail then
}
