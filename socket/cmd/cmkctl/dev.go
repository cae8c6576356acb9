package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"cmkd/socket/client"
	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
)

// devFlags are the flags of dev.
type devFlags struct {
	socket        string
	port          uint16
	dir           string
	account       string
	regions       []string
	accessKey     string
	secretKey     string
	plaintextKeys bool
	principals    []string
	policies      string
	envFile       string
	module        string
	verbose       bool
	output        cli.Choice
	// changed reports whether a flag was given.
	changed func(name string) bool
}

// newDev makes the command; socket is the value of the common --socket flag.
func newDev(socket *string) *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a throwaway daemon on a SoftHSM2 token, with a bridge",
		Long: `Dev creates a SoftHSM2 token in a temporary folder, starts cmkd and a bridge on it,
prints export lines for AWS clients, and removes everything on Ctrl-C or
SIGTERM. It is for trying cmkd out and for tests: a SoftHSM2 token is a file.

With --dir the token and its keys stay in that folder, for the next run.

Calls are made as the account's root. --principal adds others, to try policies with: each
gets an access key, and a profile named after it. Their identity policies are in the
folder --identity-policies (see docs/authorisation.md); without one, they have access only
through key policies and grants that name them.

Data keys leave the daemon only wrapped, so GenerateDataKey is refused. With
--plaintext-data-keys it works as in AWS KMS.

AWS CLI before 2.13 (1.29), as in Debian 12, does not know AWS_ENDPOINT_URL_KMS,
and would send your call to AWS: use --endpoint-url "$AWS_ENDPOINT_URL_KMS".`,
		Example: `  cmkctl dev --env-file env &
  . ./env; aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" kms create-key
  cmkctl dev --principal role/app --principal user/alice --identity-policies policies
  aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" --profile app kms list-keys
  cmkctl dev --port 4599 --access-key test --secret-key test --plaintext-data-keys`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			f.socket = *socket
			f.changed = cmd.Flags().Changed
			return f.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.Var((*cli.PortFlag)(&f.port), "port", "loopback `port` of the bridge, 0 for any")
	flags.StringVar(&f.dir, "dir", "", "`folder` to keep the state in (default a temporary one)")
	flags.StringVar(&f.account, "account", cli.DefaultAccount, "account `number` in ARNs, 12 digits")
	flags.StringSliceVar(&f.regions, "region", []string{cli.FirstRegion}, "`Region` to serve, the first by default; repeatable")
	flags.StringVar(&f.accessKey, "access-key", "", "access key `ID` to accept (default random)")
	flags.StringVar(&f.secretKey, "secret-key", "", "its `secret` (default random)")
	flags.BoolVar(&f.plaintextKeys, "plaintext-data-keys", false, "let data keys leave in the clear, as AWS KMS does")
	flags.StringSliceVar(&f.principals, "principal", nil, "`ARN` of another user or role to call as, or role/NAME or user/NAME; repeatable")
	flags.StringVar(&f.policies, "identity-policies", "", "`folder` of identity policies")
	flags.StringVar(&f.envFile, "env-file", "", "`file` to write the export lines to once all is ready; removed at the end")
	flags.StringVar(&f.module, "module", "", "`path` of the SoftHSM2 library (default where distributions put it)")
	bridge.RegisterOutput(cmd, &f.output)
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show the daemon's log (default only in cmkd.log of the folder)")
	return cmd
}

// run makes everything, says so on out, and undoes it when ctx ends.
func (f *devFlags) run(ctx context.Context, out, errOut io.Writer) (err error) {
	cred, err := bridge.DevCredential(f.accessKey, f.secretKey)
	if err != nil {
		return err
	}
	l, remove, err := f.folder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	cfg, err := f.prepare(ctx, l, errOut)
	if err != nil {
		return err
	}
	others, err := f.identities(l, cfg)
	if err != nil {
		return err
	}
	log, closeLog, err := f.log(l, errOut)
	if err != nil {
		return err
	}
	defer closeLog()
	path, err := findDaemon()
	if err != nil {
		return err
	}
	d, err := startDaemon(path, l.config(), log)
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := d.stop(); err == nil {
			err = stopErr
		}
	}()
	if err := d.ready(ctx, cfg.Socket.Path); err != nil {
		if !f.verbose {
			showTail(l.log(), errOut)
		}
		return err
	}
	credentials := []bridge.Credential{cred}
	for _, p := range others {
		credentials = append(credentials, p.Credential)
	}
	b, err := bridge.Start(ctx, cfg.Socket.Path, f.port, nil, credentials...)
	if err != nil {
		return err
	}
	defer b.Stop()
	vars := append([]bridge.Variable{{Name: client.PathVariable, Value: cfg.Socket.Path}}, bridge.AWSVariables(b.Endpoint, cfg.Region, cred)...)
	if len(others) > 0 {
		if err := writeProfiles(l.profiles(), others); err != nil {
			return fmt.Errorf("writing the profiles: %w", err)
		}
		vars = append(vars, bridge.Variable{Name: "AWS_SHARED_CREDENTIALS_FILE", Value: l.profiles()})
	}
	f.welcome(ctx, errOut, cfg, b)
	explainProfiles(errOut, others)
	unwrite, err := f.writeVariables(out, vars)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unwrite()) }()
	return f.wait(ctx, d, b)
}

// writeVariables prints the variables, and writes them to the file of --env-file,
// which undo removes.
func (f *devFlags) writeVariables(out io.Writer, vars []bridge.Variable) (undo func() error, err error) {
	if err := bridge.WriteVariables(out, vars, f.output.Value); err != nil {
		return nil, fmt.Errorf("printing the variables: %w", err)
	}
	if f.envFile == "" {
		return func() error { return nil }, nil
	}
	if err := cli.WriteFile(f.envFile, func(w io.Writer) error { return bridge.WriteExports(w, vars) }); err != nil {
		return nil, fmt.Errorf("writing the variables: %w", err)
	}
	return func() error { return cli.RemoveFile(f.envFile) }, nil
}

// welcome says what is there.
func (f *devFlags) welcome(ctx context.Context, w io.Writer, cfg *daemonConfig, b *bridge.Server) {
	fmt.Fprintf(w, "cmkd is ready on %s and %s, Region %s, account %s. Ctrl-C ends it%s.\n",
		cfg.Socket.Path, b.Endpoint, cfg.Region, cfg.Account, f.fate())
	if !cfg.PlaintextDataKeys {
		fmt.Fprintln(w, "Data keys leave it only wrapped: GenerateDataKey needs --plaintext-data-keys.")
	}
	if h, err := operate.ReadHealth(ctx, &cli.Service{Socket: cfg.Socket.Path, Timeout: pollTimeout}); err == nil && h.StateMismatch != "" {
		fmt.Fprintf(w, "Its database does not verify: %s. See cmkctl accept-state.\n", h.StateMismatch)
	}
}

// Wait returns nil when ctx ends, and an error when something breaks before.
func (f *devFlags) wait(ctx context.Context, d *daemon, b *bridge.Server) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-d.ended:
			cancel(fmt.Errorf("cmkd ended: %w", d.cause()))
		case <-ctx.Done():
		}
	}()
	if err := b.Wait(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// fate says what the end means for the state.
func (f *devFlags) fate() string {
	if f.dir == "" {
		return " and removes everything"
	}
	return "; the keys stay in " + f.dir
}

// folder makes the folder and says how to remove it.
func (f *devFlags) folder() (l layout, remove func() error, err error) {
	if f.dir != "" {
		l, err = makeLayout(f.dir)
		return l, func() error { return nil }, err
	}
	dir, err := os.MkdirTemp("", "cmkd-dev-") // mode 0700
	if err != nil {
		return layout{}, nil, err
	}
	return layout{dir: dir}, func() error { return os.RemoveAll(dir) }, nil
}

// prepare sets up a daemon in l, or takes the one that is there with what
// flags change.
func (f *devFlags) prepare(ctx context.Context, l layout, errOut io.Writer) (*daemonConfig, error) {
	cfg, err := readConfig(l.config())
	if err != nil {
		return nil, err
	}
	if cfg == nil {
		s := &setup{
			account: f.account, regions: f.regions, socket: f.socket, mode: "0600", label: cli.DefaultLabel,
			module: f.module, softHSM: true, plaintextKeys: f.plaintextKeys,
		}
		if err := s.run(ctx, l, errOut); err != nil {
			return nil, err
		}
		return readConfig(l.config())
	}
	if f.changed("account") && f.account != cfg.Account {
		return nil, fmt.Errorf("the keys in %s belong to account %s", l.dir, cfg.Account)
	}
	if f.changed("socket") {
		return nil, fmt.Errorf("the daemon in %s has its socket at %s", l.dir, cfg.Socket.Path)
	}
	before := *cfg
	if f.changed("region") {
		cfg.Region, cfg.Regions = f.regions[0], f.regions
	}
	if f.changed("plaintext-data-keys") {
		cfg.PlaintextDataKeys = f.plaintextKeys
	}
	if cfg.Region != before.Region || !slices.Equal(cfg.Regions, before.Regions) || cfg.PlaintextDataKeys != before.PlaintextDataKeys {
		if err := cfg.check(); err != nil {
			return nil, err
		}
		if err := cli.WriteFile(l.config(), cfg.write); err != nil {
			return nil, fmt.Errorf("writing the configuration: %w", err)
		}
	}
	return cfg, nil
}

// log opens where the daemon's log goes.
func (f *devFlags) log(l layout, errOut io.Writer) (io.Writer, func(), error) {
	if f.verbose {
		return errOut, func() {}, nil
	}
	file, err := os.OpenFile(l.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return file, func() { _ = file.Close() }, nil
}

// showTail copies the end of a log.
func showTail(path string, out io.Writer) {
	const enough = 4096
	content, err := os.ReadFile(path)
	if err != nil {
		return // the error that made us look is told anyway
	}
	_, _ = out.Write(content[max(0, len(content)-enough):])
}
