package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/socket/client/envelope"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// wordOpening says what an error of opening means for who opens, and gives it its status:
// the service does not tell (AWS KMS neither), for who tries might learn from it.
func wordOpening(s *cli.Service, err error) error {
	if failed, ok := errors.AsType[envelope.KeyErrors](err); ok {
		return wordKeys(s, failed)
	}
	var invalid *types.InvalidCiphertextException
	var path *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid): // of the earlier format
		return wordKey(s, err)
	case errors.Is(err, envelope.ErrContext):
		return cli.Inputf("%w (--context)", err)
	case errors.Is(err, envelope.ErrUncommitted):
		return cli.Inputf("%w: if you trust whoever sealed it, use --allow-uncommitted", err)
	case errors.Is(err, envelope.ErrNoKey):
		return cli.Inputf("%w: it names no KMS key", err)
	case errors.Is(err, envelope.ErrInvalid):
		return cli.Inputf("%w: not a file sealed by cmkctl seal, or it was altered or truncated", err)
	case errors.As(err, &path) && path.Op == "read":
		return cli.WithStatus(cli.ExitInput, err)
	default:
		return err
	}
}

// byHope are the statuses of keys that fail, the one first that most likely passes, or
// that somebody can do something about.
var byHope = []int{cli.ExitUnavailable, cli.ExitRefused, cli.ExitState, cli.ExitNotFound, cli.ExitInput, cli.ExitFailed}

// wordKeys has a line for each key, and the status of the most hopeful.
func wordKeys(s *cli.Service, failed envelope.KeyErrors) error {
	if len(failed) == 1 {
		return wordKey(s, failed[0].Err)
	}
	text := []string{fmt.Sprintf("none of the file's %d KMS keys opens it:", len(failed))}
	best := len(byHope) - 1
	for _, f := range failed {
		err := cli.WithStatus(cli.ExitFailed, wordKey(s, f.Err))
		text = append(text, fmt.Sprintf("key %s: %v", cli.Quote(f.Key), err))
		if exit, ok := errors.AsType[*cli.ExitError](err); ok {
			if hope := slices.Index(byHope, exit.Status); hope >= 0 {
				best = min(best, hope)
			}
		}
	}
	return cli.Exit(byHope[best], errors.New(strings.Join(text, "\n")))
}

// wordKey says why one key does not open the file.
func wordKey(s *cli.Service, err error) error {
	var invalid *types.InvalidCiphertextException
	switch {
	case errors.As(err, &invalid):
		return cli.Inputf("InvalidCiphertextException: it was sealed with another encryption context (--context), or the file was altered")
	case errors.Is(err, envelope.ErrInvalid):
		return cli.Inputf("%w", err)
	default:
		return s.Explain(err)
	}
}
