package faults

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cmkd/testenv/rig"
)

// edit is one change of one row.
type edit struct {
	what      string
	statement string
	values    []any
}

// edits changes each column of the first row of each table, and in documents each
// member. What is not the daemon's own (the version of the schema) is left out, and
// so are the digests that only tell which row is another: nothing rests on them.
func (s *stage) edits() (list []edit) {
	s.Helper()
	db := s.open(s.T)
	defer db.Close()
	for _, table := range s.names(db, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%' AND name <> 'row_hashes'") {
		columns := s.names(db, fmt.Sprintf("SELECT name FROM pragma_table_info('%s')", table))
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		err := db.QueryRowContext(s.Context(), fmt.Sprintf("SELECT * FROM %q LIMIT 1", table)).Scan(into...)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			s.Fatal(err)
		}
		row := "\"" + strings.Join(columns, "\" IS ? AND \"") + "\" IS ?" // there may be no rowid
		for i, c := range columns {
			for what, v := range changed(values[i]) {
				list = append(list, edit{table + "." + c + what, fmt.Sprintf("UPDATE %q SET %q = ? WHERE %s", table, c, row), append([]any{v}, values...)})
			}
		}
	}
	return list
}

// names are the values of a query for one column.
func (s *stage) names(db *sql.DB, query string) (list []string) {
	s.Helper()
	rows, err := db.QueryContext(s.Context(), query)
	if err != nil {
		s.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			s.Fatal(err)
		}
		list = append(list, name)
	}
	if err := rows.Err(); err != nil {
		s.Fatal(err)
	}
	return list
}

// changed are other values for a column, by what is another in them.
func changed(v any) map[string]any {
	switch v := v.(type) {
	case int64:
		return map[string]any{"": v + 1}
	case string:
		return changedText(v, func(s string) any { return s })
	case []byte:
		if json.Valid(v) {
			return changedText(string(v), func(s string) any { return []byte(s) })
		}
		other := slices.Clone(v)
		if len(other) == 0 {
			return map[string]any{"": []byte{1}}
		}
		other[0] ^= 1
		return map[string]any{"": other, " cut": v[:len(v)-1]}
	}
	return nil
}

// changedText changes each member of a document, or a text.
func changedText(v string, back func(string) any) map[string]any {
	var document map[string]any
	if json.Unmarshal([]byte(v), &document) != nil {
		return map[string]any{"": back(v + "x")}
	}
	out := map[string]any{}
	for name, old := range document {
		other := maps.Clone(document)
		switch old := old.(type) {
		case string:
			other[name] = old + "x"
		case float64:
			other[name] = old + 1
		case bool:
			other[name] = !old
		default:
			delete(other, name)
		}
		text, _ := json.Marshal(other) // it was parsed
		out["."+name] = back(string(text))
	}
	return out
}

// columns edits the database, one change after the other. The daemon starts each
// time and serves nothing from such rows, or it does not start; it says why.
func columns(s *stage) {
	s.stop()
	files := s.copies()
	segment := segments(s.T, s.trail)[0]
	trail := read(s.T, segment)
	edits, n := s.edits(), 0
	for _, e := range edits {
		s.restore(files)
		write(s.T, segment, trail) // else the records since would be what is found
		db := s.open(s.T)
		_, err := db.ExecContext(s.Context(), e.statement, e.values...)
		if closing := db.Close(); closing != nil {
			s.Fatal(closing)
		}
		if err != nil && strings.Contains(err.Error(), "constraint failed") {
			continue // SQLite itself refuses it
		}
		if err != nil {
			s.Fatalf("%s: %v", e.what, err)
		}
		n++
		if said := s.look(); !strings.Contains(said, `"stateMismatch"`) && !strings.Contains(said, "cmkd: ") {
			s.Errorf("%s was edited, and the daemon says %.300q", e.what, said)
		} else if strings.Contains(said, "panic") {
			s.Errorf("%s was edited: %.2000s", e.what, said)
		}
	}
	if n < 60 {
		s.Errorf("only %d columns and members were edited", n)
	}
	s.note("%d columns and members edited, each found", n)
	s.restore(files)
	write(s.T, segment, trail)
	s.start()
}

// look starts the daemon, returns its status, or its log if it does not start, and
// ends it.
func (s *stage) look() string {
	s.Helper()
	args := append(slices.Clone(s.Wrap), filepath.Join(rig.Binaries(s.T), "cmkd"), "-config", s.rig.Path)
	cmd := exec.CommandContext(s.Context(), args[0], args[1:]...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	client := s.rig.HTTP()
	defer client.CloseIdleConnections()
	for {
		if status := get(ctx, client, "/status"); status != "" {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-ended
			return status
		}
		select {
		case <-ended:
			return log.String()
		case <-ctx.Done():
			return "nothing in a minute"
		case <-time.After(10 * time.Millisecond): // polls the socket
		}
	}
}
