package bridge

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// bridgeFlags are the flags of bridge.
type bridgeFlags struct {
	port       uint16
	region     string
	accessKey  string
	secretFile string
	secretKey  string
	output     cli.Choice
	tls        tlsFlags
}

func NewCommand(socket func() string) *cobra.Command {
	var f bridgeFlags
	cmd := &cobra.Command{
		Use:   "bridge [flags] [-- COMMAND [ARGUMENT...]]",
		Short: "Let a stock AWS client use the daemon through a loopback port",
		Long: `Bridge listens on 127.0.0.1 with a credential created for this run, checks the
signature of each request (Signature Version 4) and forwards it to the daemon's socket as
a request of yours.

With a COMMAND, bridge runs it with AWS_ENDPOINT_URL_KMS, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_DEFAULT_REGION set, without variables that would
direct it elsewhere, and exits with its status. Without one, it prints shell lines that
set them, and runs until it gets a signal.

With --access-key it accepts that access key instead of a new one. Its secret, of
32 characters or more, is in --secret-file or in ` + secretVariable + `; it is not
printed.

With --tls the port speaks TLS, for clients that take nothing else: bridge creates a
certificate for 127.0.0.1 and localhost, and an authority that can issue no other. The
variables AWS_CA_BUNDLE (with what the client trusts otherwise) and NODE_EXTRA_CA_CERTS
name files with it, and --ca-file puts it where other clients find it. --tls-cert and
--tls-key give a certificate of your own.

AWS CLI before 2.13 (1.29), as in Debian 12, and boto3 before 1.28 do not know
AWS_ENDPOINT_URL_KMS. Tell them the endpoint with --endpoint-url or endpoint_url,
or they will send your call to AWS.`,
		Example: `  cmkctl bridge -- sh -c 'aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" kms list-keys'
  cmkctl bridge -- bash
  cmkctl bridge --port 4599 --access-key app --secret-file secret
  cmkctl bridge --tls --ca-file ca.pem -- mongosh --file app.js`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args, socket()) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Var((*cli.PortFlag)(&f.port), "port", "loopback `port` to listen on, 0 for any")
	flags.StringVar(&f.region, "region", cmp.Or(cli.EnvironmentRegion(), cli.FirstRegion), "Region for the client")
	flags.StringVar(&f.accessKey, "access-key", "", "access key `ID` to accept (default a new one)")
	flags.StringVar(&f.secretFile, "secret-file", "", "`file` with its secret, or name of a systemd credential (default $"+secretVariable+")")
	flags.StringVar(&f.secretKey, "secret-key", "", "")
	RegisterOutput(cmd, &f.output)
	f.tls.register(cmd)
	_ = flags.MarkHidden("secret-key") // fails only for a flag that is not there
	return cmd
}

func (f *bridgeFlags) run(cmd *cobra.Command, args []string, socket string) error {
	if f.secretKey != "" {
		return cli.Usagef("--secret-key would show the secret to every user, in the process list: put it in a file for --secret-file, or in %s", secretVariable)
	}
	if len(args) > 0 && cmd.Flags().Changed("output") {
		return cli.Usagef("-o is for the variables, which COMMAND gets instead: leave one of them out")
	}
	if err := withoutSignals(); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "cmkctl: signals leave registers in memory:", err)
	}
	cred, err := bridgeCredential(f.accessKey, f.secretFile)
	if err != nil {
		return err
	}
	secured, err := f.tls.load()
	if err != nil {
		return err
	}
	b, err := Start(cmd.Context(), socket, f.port, secured, cred)
	if err != nil {
		return err
	}
	defer b.Stop()
	vars := AWSVariables(b.Endpoint, f.region, cred)
	if secured != nil && secured.ca != nil {
		trust, remove, err := secured.trust(f.tls.caFile)
		if err != nil {
			return fmt.Errorf("writing the certificate of the bridge's authority: %w", err)
		}
		defer remove()
		vars = append(vars, trust...)
	}
	if len(args) > 0 {
		return runChild(cmd, args, bridged(restored(os.Environ()), vars))
	}
	ctx, stop := cli.UntilSignal(cmd.Context())
	defer stop()
	return f.stay(ctx, cmd.OutOrStdout(), b, vars)
}

// stay prints the variables and waits for the end. It leaves out a secret that the
// user chose: they know it, and it must not get into the journal of a service.
func (f *bridgeFlags) stay(ctx context.Context, out io.Writer, b *Server, vars []Variable) error {
	if f.accessKey != "" {
		vars = slices.DeleteFunc(vars, func(v Variable) bool { return v.Name == "AWS_SECRET_ACCESS_KEY" })
	}
	if err := WriteVariables(out, vars, f.output.Value); err != nil {
		return fmt.Errorf("printing the variables: %w", err)
	}
	// Without systemd nobody is told.
	if _, err := systemd.SdNotify(false, systemd.SdNotifyReady); err != nil {
		return fmt.Errorf("telling systemd that the bridge serves: %w", err)
	}
	return b.Wait(ctx)
}
