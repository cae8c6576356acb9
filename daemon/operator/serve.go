package operator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"cmkd/daemon/journal"
	"cmkd/socket"
	"cmkd/socket/kmsapi"
)

// handler serves an endpoint.
func (s *Service) handler(row *Row) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch row.Recorded {
		case Never:
			s.answer(w, r, row, &Caller{})
			return
		case Refusals:
			ids := s.Identities()
			if c, err := ids.Caller(r.Context()); err == nil && row.Who.includes(c) {
				s.answer(w, r, row, &Caller{Caller: c, ids: ids})
				return
			}
		case Always:
		}
		out, err := s.operate(w, r, row)
		if err != nil {
			if c, ok := out.(content); ok {
				c.drop()
			}
			s.refuse(w, r, row, err)
			return
		}
		write(w, row, out)
	})
}

// answer answers a call that has no record.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, row *Row, c *Caller) {
	if row.page != nil {
		row.page.ServeHTTP(w, r)
		return
	}
	in, err := row.parse(nil)
	var out any
	if err == nil {
		out, err = row.do(r.Context(), c, in)
	}
	if err != nil {
		s.refuse(w, r, row, err)
		return
	}
	write(w, row, out)
}

// requestIDHeader has the requestID of the call's record.
const requestIDHeader = "X-Amzn-Requestid"

// operate makes the answer to a call of the endpoint, and sees to its record.
func (s *Service) operate(w http.ResponseWriter, r *http.Request, row *Row) (out any, err error) {
	ids := s.Identities()
	caller, stranger := ids.Caller(r.Context())
	if _, refused := errors.AsType[*failure](stranger); stranger != nil && !refused {
		return nil, failed("the caller is not known", stranger)
	}
	id := uuid.NewString()
	w.Header().Set(requestIDHeader, id)
	var call *journal.Call
	err = s.KMS.Operate(r.Context(), caller, &kmsapi.Request{Operation: row.Name, UserAgent: r.UserAgent(), RequestID: id}, func(c *journal.Call) (err error) {
		call = c
		if stranger != nil {
			return stranger
		}
		if !row.Who.includes(caller) || row.Recorded != Always {
			return Forbidden("only root and the configuration's " + row.Who.String() + " may do this")
		}
		out, err = s.ask(w, r, row, &Caller{caller, c, ids})
		return err
	})
	if call != nil && call.Excess() {
		socket.Throttled(r.Context())
	}
	return out, err
}

// ask reads the request, notes in the record what is asked for, and has it answered.
func (s *Service) ask(w http.ResponseWriter, r *http.Request, row *Row, c *Caller) (any, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, row.MaxBody))
	var in any
	if err == nil {
		in, err = row.parse(raw)
	}
	if err != nil {
		return nil, invalid(http.StatusBadRequest, "the body is not what cmkctl sends: "+err.Error())
	}
	looks := row.Looks
	if says, ok := in.(interface{ ReadOnly() bool }); ok {
		looks = says.ReadOnly()
	}
	parameters, _ := json.Marshal(in) // it came from JSON
	s.KMS.Describe(c.call, looks, parameters)
	if row.Long {
		s.noDeadline(r.Context(), w)
	}
	out, err := row.do(r.Context(), c, in)
	if row.Rows && s.KMS.Mismatch() == nil {
		if stale := s.KMS.Store.Fresh(); stale != nil { // now that it has its view; if it failed, this is why
			err = Unavailable(s.KMS.APIError(c.call, stale).Message, stale)
		}
	}
	return out, err
}

// noDeadline lets an answer take longer than a call may.
func (s *Service) noDeadline(ctx context.Context, w http.ResponseWriter) {
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the deadline of an answer to an operator cannot be removed", slog.Any("error", err))
	}
}

// content is an answer that is not JSON.
type content interface {
	// send sends it.
	send(w http.ResponseWriter)
	// drop is called in place of send if it does not leave.
	drop()
}

// whole is content that is there before it is sent. It implements [content].
type whole struct {
	from interface {
		io.WriterTo
		Size() int64 // in bytes
	}
}

func (c *whole) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(c.from.Size(), 10))
	_, _ = c.from.WriteTo(w) // the client may be gone, and sees that it is not whole
}

func (c *whole) drop() {}

// write writes an answer. One with a method HTTPStatus says its own.
func write(w http.ResponseWriter, row *Row, out any) {
	if c, ok := out.(content); ok {
		c.send(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if says, ok := out.(interface{ HTTPStatus() int }); ok {
		w.WriteHeader(says.HTTPStatus())
	}
	enc := json.NewEncoder(w)
	if !row.compact {
		enc.SetIndent("", "  ")
	}
	_ = enc.Encode(out) // the client may be gone
}
