package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Confirmation is the flag --yes.
type Confirmation struct {
	cmd *cobra.Command
	Yes bool
}

func (c *Confirmation) Register(cmd *cobra.Command) {
	c.cmd = cmd
	cmd.Flags().BoolVar(&c.Yes, "yes", false, "do not ask for confirmation")
}

// Ask has somebody at the terminal say yes to what cannot be undone. Where nobody is,
// --yes must be given.
func (c *Confirmation) Ask(what string) error {
	if c.Yes {
		return nil
	}
	in, ok := c.cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return Usagef("%s: this cannot be undone, and standard input is not a terminal: use --yes to confirm", what)
	}
	c.cmd.PrintErrf("%s? This cannot be undone. [y/N] ", what)
	line, _ := bufio.NewReader(in).ReadString('\n') // what is not yes is no
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	default:
		return Exit(ExitFailed, fmt.Errorf("nothing was done"))
	}
}
