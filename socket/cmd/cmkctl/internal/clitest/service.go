package clitest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"cmkd/socket"
)

// StartService serves an answer to each call that tells what arrived.
func StartService(path, status string) (stop func() error, err error) {
	srv, err := socket.Listen(context.Background(), socket.Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		if !strings.HasPrefix(status, "{") {
			http.Error(w, status, http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if !strings.Contains(status, `"state": "ok"`) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, status)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "only admins may", http.StatusForbidden)
	})
	mux.HandleFunc("POST /", answerCall)
	mux.HandleFunc("POST /accept-state", answerAcceptState)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, mux) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-served
	}), nil
}

// answerAcceptState has a database to accept, with the root abcd.
func answerAcceptState(w http.ResponseWriter, r *http.Request) {
	var in struct{ Root string }
	_ = json.NewDecoder(r.Body).Decode(&in)
	switch in.Root {
	case "":
		_, _ = io.WriteString(w, `{"mismatch": {"reason": "rows were changed", "root": "abcd", "sequence": 7, "time": "2026-01-02T03:04:05Z",
			"epoch": 3, "headVerified": true, "laterRecords": 2, "exact": true,
			"differences": [{"table": "keys", "row": "[\"us-east-1\",\"k\"]", "change": "changed"}]}}`)
	case "abcd":
		_, _ = io.WriteString(w, `{"accepted": true}`)
	default:
		http.Error(w, "the database is not the one that was looked at: look again", http.StatusConflict)
	}
}

// answerCall answers ListAliases with what arrived, dressed as an alias, and
// everything else with an error.
func answerCall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "00000000-0000-4000-8000-000000000000")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	peer, _ := socket.PeerFrom(r.Context())
	region := strings.Split(r.Header.Get("Authorization")+"////", "/")[2]
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "TrentService.ListAliases":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"Aliases": []map[string]string{{
				"AliasName":   "alias/" + region,
				"TargetKeyId": fmt.Sprintf("uid %d host %s", peer.UID, r.Host),
				"AliasArn":    string(body),
			}},
			"Truncated": false,
		})
	case "TrentService.Decrypt":
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"__type":"InvalidCiphertextException"}`)
	default:
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": "AccessDeniedException", "Message": "You may not call " + target})
	}
}
