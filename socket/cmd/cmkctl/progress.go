package main

import (
	"cmp"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// worthABar is the size in bytes from which on a file takes long enough.
const worthABar = 64 << 20

// progress returns a bar on standard error, nil if nobody would see it, or if it
// would be drawn over what they type.
func progress(in *cli.Input, what string) *progressbar.ProgressBar {
	size := in.Size
	if (size >= 0 && size < worthABar) || in.Typed || !term.IsTerminal(int(os.Stderr.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	bar := progressbar.DefaultBytes(size, what)
	if !utf8Locale() {
		progressbar.OptionSetTheme(progressbar.ThemeASCII)(bar)
		progressbar.OptionSpinnerType(asciiSpinner)(bar)
	}
	return bar
}

// asciiSpinner is the number of | / - \ among the spinners of the bar.
const asciiSpinner = 9

// utf8Locale reports whether the terminal is told to take UTF-8, as locale(7)
// reads the environment.
func utf8Locale() bool {
	locale := strings.ToUpper(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(locale, "UTF-8") || strings.Contains(locale, "UTF8")
}
