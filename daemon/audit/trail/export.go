package trail

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"cmkd/daemon/audit"
)

// maxOpen is how many files of an export are written at once: each compressor takes
// about a megabyte.
const maxOpen = 8

// Export writes the records that fit in the form of CloudTrail's log files: one gzip
// file for each day, account and Region, with the path that CloudTrail gives it below a
// bucket. Of a record the members of the chain are left out. What is missing that
// CloudTrail always has is added: sourceIPAddress "AWS Internal" of callers on a Unix
// socket, and account and Region of records without, which are the given ones. The
// names are the same each time, and files get them when they are whole. A file has all of its day that
// fits: Since and Until are widened to midnight UTC. What else the query asks for is told apart in the names.
//
// https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-examples.html
func Export(ctx context.Context, from Source, to string, q Query, account, region string) (files []string, records uint64, err error) {
	const day = 24 * time.Hour
	q.Since = q.Since.UTC().Truncate(day)
	if !q.Until.IsZero() {
		q.Until = q.Until.UTC().Add(day - 1).Truncate(day)
	}
	x := exporter{to: to, account: account, region: region, files: map[string]*exported{}}
	if x.query, err = filters(q); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			x.discard()
		}
	}()
	if err = from.Search(ctx, Options{Query: q}, x.add); err != nil {
		return nil, 0, err
	}
	files, err = x.finish()
	return files, x.records, err
}

// exporter writes the files of an export.
type exporter struct {
	to, account, region string
	query               string               // see filters
	files               map[string]*exported // by their paths
	order               []*exported
	open                []*exported // the one that was used last is the last
	records             uint64
}

// exported is one file. Closed and opened again, it has another gzip member.
type exported struct {
	path    string
	fresh   string // its name while it is written
	file    *os.File
	gzip    *gzip.Writer // nil while it is closed
	records int
}

// filters tells the queries apart whose files have other records of the same day, "" for all records.
func filters(q Query) (string, error) {
	q.Since, q.Until = time.Time{}, time.Time{}
	text, err := json.Marshal(q)
	if err != nil {
		return "", err
	}
	if all, err := json.Marshal(Query{}); err != nil || bytes.Equal(text, all) {
		return "", err
	}
	return "/" + string(text), nil
}

// add writes a record to its file.
func (x *exporter) add(e *Event) error {
	text, err := x.record(e)
	if err != nil {
		return fmt.Errorf("record %d: %w", e.Sequence, err)
	}
	f, err := x.fileOf(e)
	if err != nil {
		return err
	}
	lead := []byte(",\n")
	if f.records == 0 {
		lead = []byte(`{"Records":[` + "\n")
	}
	f.records++
	x.records++
	if _, err = f.gzip.Write(lead); err == nil {
		_, err = f.gzip.Write(text)
	}
	return err
}

// record is the record in CloudTrail's form.
func (x *exporter) record(e *Event) ([]byte, error) {
	text := append(bytes.Clone(audit.LineBody(e.Line)), '}')
	if !bytes.HasPrefix(text, []byte("{")) || !jsontext.Value(text).IsValid() {
		return nil, audit.ErrFormat
	}
	var has map[string]jsontext.Value
	if err := json.Unmarshal(text, &has); err != nil {
		return nil, err
	}
	add := func(name, value string) {
		if string(has[name]) == `""` { // awsRegion of the trail's own
			text = bytes.Replace(text, []byte(`,"`+name+`":""`), nil, 1)
		}
		if v := has[name]; v == nil || string(v) == `""` {
			quoted, _ := jsontext.AppendQuote(nil, value)
			text = fmt.Appendf(text[:len(text)-1], `,"%s":%s}`, name, quoted)
		}
	}
	add("sourceIPAddress", "AWS Internal")
	add("awsRegion", x.regionOf(e))
	add("recipientAccountId", x.accountOf(e))
	add("eventCategory", "Management")
	return text, nil
}

func (x *exporter) accountOf(e *Event) string {
	if e.AccountID != "" {
		return e.AccountID
	}
	return x.account
}

func (x *exporter) regionOf(e *Event) string {
	if e.AWSRegion != "" {
		return e.AWSRegion
	}
	return x.region
}

// fileOf is the file that the record belongs to, open.
func (x *exporter) fileOf(e *Event) (*exported, error) {
	account, region, day := x.accountOf(e), x.regionOf(e), e.EventTime.UTC()
	for _, part := range []string{account, region} { // they become folders
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return nil, fmt.Errorf("record %d: %w: account %q, Region %q", e.Sequence, audit.ErrFormat, account, region)
		}
	}
	sum := sha256.Sum256([]byte(account + "/" + region + "/" + day.Format("2006-01-02") + x.query))
	unique := base32.StdEncoding.EncodeToString(sum[:])[:16]
	path := filepath.Join(x.to, "AWSLogs", account, "CloudTrail", region, day.Format("2006/01/02"),
		fmt.Sprintf("%s_CloudTrail_%s_%sT0000Z_%s.json.gz", account, region, day.Format("20060102"), unique))
	f := x.files[path]
	if f == nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f = &exported{path: path, fresh: path + ".new"}
		if err := os.Remove(f.fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		x.files[path] = f
		x.order = append(x.order, f)
	}
	return f, x.use(f)
}

// use opens the file, and closes another one if too many are open.
func (x *exporter) use(f *exported) (err error) {
	if f.gzip != nil {
		return nil
	}
	if len(x.open) == maxOpen {
		if err := x.open[0].close(); err != nil {
			return err
		}
		x.open = append(x.open[:0], x.open[1:]...)
	}
	flags := os.O_WRONLY | os.O_APPEND
	if f.records == 0 {
		flags |= os.O_CREATE | os.O_EXCL
	}
	if f.file, err = os.OpenFile(f.fresh, flags, 0o600); err != nil {
		return err
	}
	f.gzip = gzip.NewWriter(f.file)
	x.open = append(x.open, f)
	return nil
}

func (f *exported) close() error {
	if f.gzip == nil {
		return nil
	}
	err := errors.Join(f.gzip.Close(), f.file.Close())
	f.gzip, f.file = nil, nil
	return err
}

// finish ends every file and gives it its name.
func (x *exporter) finish() (paths []string, err error) {
	for _, f := range x.order {
		if err := x.use(f); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(f.gzip, "\n]}\n"); err != nil {
			return nil, err
		}
		if err := errors.Join(f.gzip.Close(), f.file.Sync(), f.file.Close()); err != nil {
			return nil, err
		}
		f.gzip, f.file = nil, nil
		x.open = slices.DeleteFunc(x.open, func(o *exported) bool { return o == f })
	}
	for _, f := range x.order {
		if err := os.Rename(f.fresh, f.path); err != nil {
			return nil, err
		}
		paths = append(paths, f.path)
	}
	return paths, nil
}

// discard removes what was not finished.
func (x *exporter) discard() {
	for _, f := range x.order {
		_ = f.close()          // it goes
		_ = os.Remove(f.fresh) // so does its name
	}
}
