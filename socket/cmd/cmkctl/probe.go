package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cmkd/daemon/scratch"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// probe has cmkd probe the token, by way of a configuration that goes with it. What
// cmkd says is shown if it fails.
func (s *setup) probe(ctx context.Context, log io.Writer) (_ []findings, err error) {
	daemon, err := findDaemon()
	if err != nil {
		return nil, err
	}
	dir, remove, err := scratch.New("cmkctl-probe-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	s.account, s.regions, s.mode = cli.DefaultAccount, []string{cli.FirstRegion}, "0600"
	cfg, err := s.config(layout{dir})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.toml")
	if err := cfg.create(path); err != nil {
		return nil, fmt.Errorf("writing a configuration for the probe: %w", err)
	}
	if err := os.Mkdir(cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	var said, found bytes.Buffer
	if err := runDaemon(ctx, daemon, path, "--probe", &found, &said, log); err != nil {
		return nil, err
	}
	var list []findings
	if err := json.Unmarshal(found.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("cmkd --probe: %w", err)
	}
	return list, nil
}
