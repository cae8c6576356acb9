package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Strict makes a command that only groups others refuse what it does not know:
// cobra would print its help, and succeed.
func Strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		Strict(sub)
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
			return Usagef("%s: %s", cmd.CommandPath(), known)
		}
		return Usagef("unknown command %q for %q: %s", args[0], cmd.CommandPath(), known)
	}
}

// WithStatuses gives what commands return a status, so that what has none is cobra's.
func WithStatuses(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		WithStatuses(sub)
	}
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return WithStatus(ExitFailed, work(cmd, args))
		}
	}
}

// NoArgs is cobra's NoArgs, which takes an argument for the name of a command.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: %s takes none", args[0], cmd.CommandPath())
	}
	return nil
}

// Arguments are the arguments in the usage of a command, without its flags and
// what belongs to those.
func Arguments(use string) []string {
	var words []string
	flag := false
	for word := range strings.FieldsSeq(use) {
		word = strings.Trim(word, "[]()|")
		switch {
		case word == "--" || word == "":
			flag = false
		case strings.HasPrefix(word, "-"):
			flag = true
		case flag || word == "flags" || strings.ToUpper(word) != word:
			flag = false
		default:
			words = append(words, word)
		}
	}
	return words
}

// NewHelp is cobra's help command, except that an unknown command is an error.
func NewHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return WithStatus(ExitUsage, err)
			}
			if len(rest) > 0 {
				return Usagef("unknown command %q for %q", rest[0], found.CommandPath())
			}
			return found.Help()
		},
	}
}

// FlagError says of a flag's value what is wanted, where the parser names the Go
// function that failed.
func FlagError(_ *cobra.Command, err error) error {
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

// Number is a count of what the noun names.
func Number[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// PortFlag is a flag of a TCP port. It implements [pflag.Value].
type PortFlag uint16

// Set implements [pflag.Value].
func (p *PortFlag) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return errors.New("want a port of 0 to 65535")
	}
	*p = PortFlag(n)
	return nil
}

// String implements [pflag.Value].
func (p *PortFlag) String() string { return strconv.Itoa(int(*p)) }

// Type implements [pflag.Value].
func (p *PortFlag) Type() string { return "port" }
