package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

var operationPattern = regexp.MustCompile(`^[A-Za-z]+$`)

func newCall(s *cli.Service) *cobra.Command {
	var region string
	output := cli.Choice{Value: cli.AsJSON, Of: []string{cli.AsJSON, cli.AsYAML}}
	cmd := &cobra.Command{
		Use:   "call OPERATION [JSON | -]",
		Short: "Call an operation of the KMS API with raw JSON",
		Long: `Call sends JSON (- reads it from standard input) as the request of an operation
and prints the answer. Blobs are base64, as on the wire. An error is printed on standard
error, with its code and message; the exit status is that of every command (cmkctl --help).`,
		Example: `  cmkctl call CreateKey '{"Description":"first"}'
  cmkctl call Encrypt "{\"KeyId\":\"alias/app\",\"Plaintext\":\"$(printf hello | base64)\"}" | jq -r .CiphertextBlob`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !operationPattern.MatchString(args[0]) {
				return cli.Usagef("%q is not the name of an operation", args[0])
			}
			body := "{}"
			if len(args) > 1 {
				body = args[1]
			}
			if body == "-" {
				in, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), bridge.MaxBody+1))
				if err != nil {
					return fmt.Errorf("reading the request: %w", err)
				}
				body = string(in)
			}
			if err := cli.CheckJSON(body); err != nil {
				return cli.Inputf("the request is not JSON: %w", err)
			}
			answer, err := call(cmd.Context(), s, region, args[0], body)
			if err != nil && err.Error() == "UnknownOperationException" {
				return fmt.Errorf("%w: unknown operation %q; operations are named as in CreateKey", err, args[0])
			}
			if err != nil {
				return err
			}
			if output.Value == cli.AsYAML {
				return cli.PrintYAML(cmd.OutOrStdout(), answer)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", answer)
			return err
		},
	}
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), strings.Replace(cli.RegionUsage, "key", "call", 1))
	cmd.Flags().VarP(&output, "output", "o", "`format`: json, as the daemon answers, or yaml")
	return cmd
}

// call makes one call and returns the body of the answer.
func call(ctx context.Context, s *cli.Service, region, operation, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	if region != "" {
		// The signature is there for the Region in it: who calls is known to
		// the daemon from the kernel.
		sum := sha256.Sum256([]byte(body))
		cred := aws.Credentials{AccessKeyID: "cmkd", SecretAccessKey: "cmkd"}
		if err := v4.NewSigner().SignHTTP(ctx, cred, req, hex.EncodeToString(sum[:]), "kms", region, time.Now()); err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
	}
	status, answer, err := s.Do(req, 16<<20)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, callError(status, answer)
	}
	return answer, nil
}

// callError words an answer that is an error.
func callError(status int, body []byte) error {
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"` // also matches AccessDenied's "Message"
	}
	if err := json.Unmarshal(body, &e); err != nil || e.Type == "" {
		return cli.Refused(status, fmt.Sprintf("answer with HTTP status %d %s", status, http.StatusText(status)))
	}
	return cli.WordError(e.Type, e.Message)
}
