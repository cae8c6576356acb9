package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// strict makes a command that only groups others refuse what it does not know:
// cobra would print its help, and succeed.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	if !cmd.HasParent() || !cmd.HasSubCommands() || cmd.Runnable() {
		return
	}
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		known := fmt.Sprintf("want one of: %s", strings.Join(names, ", "))
		if len(args) == 0 {
			return usagef("%s: %s", cmd.CommandPath(), known)
		}
		return usagef("unknown command %q for %q: %s", args[0], cmd.CommandPath(), known)
	}
}

// withStatuses gives what commands return a status, so that what has none is cobra's.
func withStatuses(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		withStatuses(sub)
	}
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return withStatus(exitFailed, work(cmd, args))
		}
	}
}

// noArgs is cobra's NoArgs, which takes an argument for the name of a command.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: %s takes none", args[0], cmd.CommandPath())
	}
	return nil
}

// newHelp is cobra's help command, except that an unknown command is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return withStatus(exitUsage, err)
			}
			if len(rest) > 0 {
				return usagef("unknown command %q for %q", rest[0], found.CommandPath())
			}
			return found.Help()
		},
	}
}

// flagError says of a flag's value what is wanted, where the parser names the Go
// function that failed.
func flagError(_ *cobra.Command, err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	var want string
	switch invalid.GetFlag().Value.Type() {
	case "int":
		want = "want a whole number"
	case "bool":
		want = "want true or false"
	case "duration":
		want = "want a time like 30s, 5m or 1h30m"
	default:
		want = errors.Unwrap(invalid).Error()
	}
	if errors.Is(err, strconv.ErrRange) {
		want = "the number is too large"
	}
	return fmt.Errorf("--%s %q: %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}

// number is a count of what the noun names.
func number[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// portFlag is a flag of a TCP port. It implements [pflag.Value].
type portFlag uint16

// Set implements [pflag.Value].
func (p *portFlag) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return errors.New("want a port of 0 to 65535")
	}
	*p = portFlag(n)
	return nil
}

// String implements [pflag.Value].
func (p *portFlag) String() string { return strconv.Itoa(int(*p)) }

// Type implements [pflag.Value].
func (p *portFlag) Type() string { return "port" }
