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

	"cmkd/socket/client"
)

func main() { os.Exit(run(context.Background(), os.Args[1:])) }

// run does what the arguments say and returns the exit status.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(root.ErrOrStderr(), "cmkctl:", exit.err)
		}
		return exit.status
	default:
		fmt.Fprintln(root.ErrOrStderr(), "cmkctl:", err)
		return 1
	}
}

// exitError ends cmkctl with a status of its own, in silence if err is nil.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d: %v", e.status, e.err) }

func (e *exitError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "cmkctl",
		Short:         "Set up and use cmkd, the AWS KMS API on a PKCS#11 token",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var socket string
	root.PersistentFlags().StringVar(&socket, "socket", "",
		fmt.Sprintf("`path` of the daemon's socket (default $%s or %s)", client.PathVariable, client.DefaultPath))
	path := func() string { return client.Path(socket) }
	root.AddCommand(
		newBridge(path),
		newCall(path),
		newAcceptState(path),
		newRecover(path),
		newMetrics(path),
		newConfirmClock(path),
		newDev(&socket),
		newDoctor(path),
		newInit(&socket),
		newKey(path),
		newOpen(path),
		newPolicy(path),
		newSeal(path),
		newStatus(path),
	)
	return root
}

// untilSignal returns a context that ends when somebody wants cmkctl to. More
// signals change nothing: what has been made must be undone, and timeout(1)
// sends two. Writing where nobody reads becomes an error instead of the end.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

// environmentRegion is the Region of the environment, as the SDKs see it, empty
// if there is none: the daemon then takes its own.
func environmentRegion() string {
	return cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
}

// firstRegion is the Region of new configurations, and of stock clients, which
// must have one.
const firstRegion = "us-east-1"
