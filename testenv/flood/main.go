// Command flood makes calls as a user, from many connections at once, and
// counts the answers. It reads the request from standard input, prints a line
// "flooding" when every connection has been answered once, and what came of it
// as JSON at the end, which is after -for or at SIGTERM.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cmkd/testenv/callers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "flood:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o := callers.Options{Answered: func() error { _, err := fmt.Println("flooding"); return err }}
	flag.StringVar(&o.Socket, "socket", "", "`path` of the socket")
	flag.IntVar(&o.Callers, "callers", 500, "`number` of connections")
	flag.BoolVar(&o.Any, "any", false, "count any answer, and connect again after the end of a connection")
	uid := flag.Int("uid", -1, "`user` and group to become")
	length := flag.Duration("for", time.Hour, "`duration` of the calls")
	flag.Parse()
	if *uid >= 0 {
		if err := become(*uid); err != nil {
			return err
		}
	}
	var err error
	if o.Request, err = io.ReadAll(os.Stdin); err != nil {
		return err
	}
	result, err := callers.Run(ctx, o, *length)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// become gives up root.
func become(uid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	return nil
}
