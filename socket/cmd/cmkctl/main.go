// Command cmkctl is the command-line client of cmkd: it sets the daemon up,
// bridges stock AWS clients to its socket, and calls it.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cmkd/socket/client"
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
	out, errs := &terminalWriter{to: os.Stdout}, &terminalWriter{to: os.Stderr}
	root.SetOut(out)
	root.SetErr(errs)
	// What a command returns has a status: see withStatuses. Cobra's own errors are
	// of the command line.
	err := withStatus(exitUsage, root.ExecuteContext(ctx))
	defer errs.Close() //nolint:errcheck // there is nowhere to say it
	_ = out.Close()    // what failed before is err
	if err == nil {
		return 0
	}
	exit, _ := errors.AsType[*exitError](err)
	if exit.err != nil {
		fmt.Fprintln(errs, "cmkctl:", errorText(err))
	}
	return exit.status
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		PersistentPreRunE: func(*cobra.Command, []string) error { return withStatus(exitFailed, checkUmask()) },

		Use:     "cmkctl",
		Version: version.Release(),
		Short:   "Set up and use cmkd, the AWS KMS API on a PKCS#11 token",
		Long: `Set up and use cmkd, the AWS KMS API on a PKCS#11 token.

Commands look for keys in the Region given by --region, AWS_REGION or AWS_DEFAULT_REGION,
in this order, or in the daemon's own. A sealed file is opened in the Region that it
names. Other AWS variables are ignored.

FILE may be - for standard input or output. Output has no colours, with or without
NO_COLOR.

` + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	s := &service{}
	root.PersistentFlags().StringVar(&s.socket, "socket", "",
		fmt.Sprintf("`path` of the daemon's socket (default $%s or %s)", client.PathVariable, client.DefaultPath))
	root.PersistentFlags().DurationVar(&s.timeout, "timeout", defaultTimeout, "how much `time` to wait for the answer to a call, 0 for no limit")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.AddCommand(
		newBridge(s.path),
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
		newDev(&s.socket),
		newDoctor(s),
		newEncrypt(s),
		newGrant(s),
		newInit(&s.socket),
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
	strict(root)
	withStatuses(root)
	return root
}

// untilSignal returns a context that ends when somebody wants cmkctl to. More
// signals change nothing: what has been made must be undone, and timeout(1)
// sends two. Writing where nobody reads becomes an error instead of the end.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
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

// environmentRegion is the Region of the environment, as the SDKs see it, empty
// if there is none: the daemon then takes its own.
func environmentRegion() string {
	return cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
}

// firstRegion is the Region of new configurations, and of stock clients, which
// must have one.
const firstRegion = "us-east-1"

// regionUsage says which Region commands that name one call.
const regionUsage = "Region of the key (default $AWS_REGION, $AWS_DEFAULT_REGION or the daemon's own)"
