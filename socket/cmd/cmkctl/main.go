// Command cmkctl is the command-line client of cmkd: it sets the daemon up,
// bridges stock AWS clients to its socket, and calls it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cmkd/socket/client"
	"cmkd/socket/cmd/cmkctl/internal/audit"
	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/crypt"
	"cmkd/socket/cmd/cmkctl/internal/keys"
	"cmkd/socket/cmd/cmkctl/internal/operate"
	"cmkd/version"
)

func main() {
	bridge.Harden()
	status := run(context.Background(), os.Args[1:])
	if s, ok := cli.Interrupted(); ok && status == 128+int(s) {
		cli.EndBy(s)
	}
	os.Exit(status)
}

// run does what the arguments say and returns the exit status. What a signal has
// interrupted has that of a shell, 128 and the signal.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	out, errs := &cli.TerminalWriter{To: os.Stdout}, &cli.TerminalWriter{To: os.Stderr}
	root.SetOut(out)
	root.SetErr(errs)
	// What a command returns has a status: see withStatuses. Cobra's own errors are
	// of the command line.
	err := cli.WithStatus(cli.ExitUsage, root.ExecuteContext(ctx))
	defer errs.Close() //nolint:errcheck // there is nowhere to say it
	_ = out.Close()    // what failed before is err
	if err == nil {
		return 0
	}
	exit, _ := errors.AsType[*cli.ExitError](err)
	if exit.Err != nil {
		fmt.Fprintln(errs, "cmkctl:", cli.ErrorText(err))
		if s, ok := cli.Interrupted(); ok {
			return 128 + int(s)
		}
	}
	return exit.Status
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		PersistentPreRunE: func(*cobra.Command, []string) error { return cli.WithStatus(cli.ExitFailed, checkUmask()) },

		Use:     "cmkctl",
		Version: version.Release(),
		Short:   "Set up and use cmkd, the AWS KMS API on a PKCS#11 token",
		Long: `Set up and use cmkd, the AWS KMS API on a PKCS#11 token.

Commands look for keys in the Region given by --region, AWS_REGION or AWS_DEFAULT_REGION,
in this order, or in the daemon's own. A sealed file is opened in the Region that it
names. Other AWS variables are ignored.

KEY is a key ID, a key ARN, alias/NAME or the ARN of an alias. Where the KMS API takes no
alias, cmkctl describes the key first, which requires the permission kms:DescribeKey. Commands
that destroy take no alias.

FILE may be - for standard input or output. Output has no colours, with or without
NO_COLOR.

` + cli.ExitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	s := &cli.Service{}
	root.PersistentFlags().StringVar(&s.Socket, "socket", "",
		fmt.Sprintf("`path` of the daemon's socket (default $%s or %s)", client.PathVariable, client.DefaultPath))
	root.PersistentFlags().DurationVar(&s.Timeout, "timeout", cli.DefaultTimeout, "how much `time` to wait for the answer to a call, 0 for no limit")
	root.SetFlagErrorFunc(cli.FlagError)
	root.SetHelpCommand(cli.NewHelp())
	root.AddCommand(
		bridge.NewCommand(s.Path),
		newCall(s),
		operate.NewAcceptState(s),
		keys.NewAlias(s),
		audit.NewCommand(s),
		operate.NewBackup(s),
		operate.NewRecover(s),
		operate.NewReload(s),
		newRestore(),
		newRewrap(s),
		operate.NewMetrics(s),
		operate.NewConfirmClock(s),
		crypt.NewDataKey(s),
		crypt.NewDecrypt(s),
		crypt.NewDerive(s),
		newDev(&s.Socket),
		newDoctor(s),
		crypt.NewEncrypt(s),
		keys.NewGrant(s),
		newInit(&s.Socket),
		newInspect(s),
		keys.NewKey(s),
		crypt.NewMAC(s),
		newOpen(s),
		keys.NewPolicy(s),
		crypt.NewPubkey(s),
		crypt.NewRandom(s),
		crypt.NewReencrypt(s),
		newSeal(s),
		crypt.NewSign(s),
		operate.NewStatus(s),
		keys.NewStore(s, newStoreCopy()),
		crypt.NewVerify(s),
		crypt.NewVerifyMAC(s),
		newVersion(),
		newMan(),
	)
	root.InitDefaultCompletionCmd()
	completions(root, s)
	cli.Strict(root)
	cli.WithStatuses(root)
	return root
}

// checkUmask refuses a umask that leaves the user without rights to their own
// files: what is made then fails later, and elsewhere.
func checkUmask() error {
	mask := unix.Umask(0o077)
	unix.Umask(mask)
	if mask&0o700 != 0 {
		return fmt.Errorf("umask %04o takes from the owner the rights to what cmkctl makes: use umask 077", mask)
	}
	return nil
}
