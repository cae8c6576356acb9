package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/socket/client/envelope"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func TestStatusOfOpening(t *testing.T) {
	t.Parallel()
	s := &cli.Service{}
	key := func(err error) *envelope.KeyError { return &envelope.KeyError{Key: "arn\x1b", Err: err} }
	var (
		invalid  = key(&types.InvalidCiphertextException{})
		missing  = key(&types.NotFoundException{})
		disabled = key(&types.DisabledException{})
		late     = key(&types.KeyUnavailableException{})
		foreign  = key(fmt.Errorf("%w: it is not an ARN", envelope.ErrInvalid))
	)
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"garbage":                {envelope.ErrInvalid, cli.ExitInput},
		"another context":        {envelope.ErrContext, cli.ExitInput},
		"no commitment":          {envelope.ErrUncommitted, cli.ExitInput},
		"no KMS key":             {envelope.ErrNoKey, cli.ExitInput},
		"a file that breaks":     {&fs.PathError{Op: "read", Path: "f", Err: fs.ErrInvalid}, cli.ExitInput},
		"the earlier format":     {&types.InvalidCiphertextException{}, cli.ExitInput},
		"one key":                {envelope.KeyErrors{missing}, cli.ExitNotFound},
		"no ARN":                 {envelope.KeyErrors{foreign}, cli.ExitInput},
		"unavailable":            {envelope.KeyErrors{invalid, late, missing}, cli.ExitUnavailable},
		"disabled":               {envelope.KeyErrors{missing, disabled, invalid}, cli.ExitState},
		"not found":              {envelope.KeyErrors{invalid, missing}, cli.ExitNotFound},
		"bad input":              {envelope.KeyErrors{invalid, foreign}, cli.ExitInput},
		"an error of no service": {envelope.KeyErrors{key(errors.New("x")), key(errors.New("y"))}, cli.ExitFailed},
	} {
		got := cli.WithStatus(cli.ExitFailed, s.Explain(wordOpening(s, fmt.Errorf("opening: %w", tt.err))))
		if exit, _ := errors.AsType[*cli.ExitError](got); exit.Status != tt.want {
			t.Errorf("%s: status %d, want %d: %v", name, exit.Status, tt.want, got)
		}
		failed, _ := tt.err.(envelope.KeyErrors) //nolint:errorlint // as the table has it
		if n := strings.Count(got.Error(), "\nkey arn\\u001b: "); len(failed) > 1 && n != len(failed) {
			t.Errorf("%s: %d lines of keys:\n%v", name, n, got)
		}
	}
}
