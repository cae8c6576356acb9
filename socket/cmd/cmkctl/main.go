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
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/version"
)

func main() {
	harden()
	os.Exit(run(context.Background(), os.Args[1:]))
}

// run does what the arguments say and returns the exit status.
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
		newBridge(s.Path),
		newCall(s),
		newAcceptState(s),
		newAlias(s),
		newAudit(s),
		newBackup(s),
		newRecover(s),
		newReload(s),
		newRestore(),
		newRewrap(s),
		newMetrics(s),
		newConfirmClock(s),
		newDatakey(s),
		newDecrypt(s),
		newDerive(s),
		newDev(&s.Socket),
		newDoctor(s),
		newEncrypt(s),
		newGrant(s),
		newInit(&s.Socket),
		newInspect(),
		newKey(s),
		newMac(s),
		newOpen(s),
		newPolicy(s),
		newPubkey(s),
		newRandom(s),
		newReencrypt(s),
		newSeal(s),
		newSign(s),
		newStatus(s),
		newStore(s),
		newVerify(s),
		newVerifyMac(s),
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
