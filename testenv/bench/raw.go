package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// raw is a running rawtoken, on a token of its own.
type raw struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRaw(ctx context.Context, path, dir string, s *server) (*raw, error) {
	const label, pin = "bare", "1234-bench"
	conf, pinFile, tokens := filepath.Join(dir, "bare.conf"), filepath.Join(dir, "bare.pin"), filepath.Join(dir, "bare")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := errors.Join(
		os.Mkdir(tokens, 0o700),
		os.WriteFile(conf, []byte(text), 0o600),
		os.WriteFile(pinFile, []byte(pin), 0o600),
	); err != nil {
		return nil, err
	}
	env := append(os.Environ(), "SOFTHSM2_CONF="+conf)
	setup := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", label,
		"--pin", pin, "--so-pin", pin, "--module", s.module)
	setup.Env = env
	if out, err := setup.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("softhsm2-util: %w\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, path, s.module, label, pinFile)
	cmd.Env, cmd.Stderr = env, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &raw{cmd: cmd, in: in, out: bufio.NewReader(out)}, cmd.Start()
}

// measure runs an operation in a number of threads for about d.
func (r *raw) measure(operation string, threads int, d time.Duration) (rawSample, error) {
	if _, err := fmt.Fprintf(r.in, "%s %d %s\n", operation, threads, d); err != nil {
		return rawSample{}, err
	}
	line, err := r.out.ReadString('\n')
	if err != nil {
		return rawSample{}, fmt.Errorf("rawtoken ended: %w", err)
	}
	var s rawSample
	_, err = fmt.Sscan(line, &s.rate, &s.cpu)
	return s, err
}

func (r *raw) stop() error { return errors.Join(r.in.Close(), r.cmd.Wait()) }
