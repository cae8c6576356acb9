package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Input is what seal and open read.
type Input struct {
	Src     io.Reader
	Size    int64       // in bytes, -1 if it is not known
	regular bool        // a file, which has all of its content from the start
	info    os.FileInfo // when it was opened, nil if it is not a file
	Typed   bool        // by somebody at a terminal
	Close   func()
}

// OpenInput opens the file that args name, or takes standard input.
func OpenInput(cmd *cobra.Command, args []string) (*Input, error) {
	in := &Input{Src: cmd.InOrStdin(), Size: -1, Close: func() {}}
	file, ok := in.Src.(*os.File)
	if len(args) > 0 && args[0] != "-" {
		var err error
		if file, err = os.Open(args[0]); err != nil {
			return nil, WithStatus(ExitInput, err)
		}
		in.Src, in.Close = file, func() { _ = file.Close() }
	} else if !ok {
		return in, nil
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", file.Name())
	}
	if err != nil {
		in.Close()
		return nil, WithStatus(ExitInput, err)
	}
	in.Typed = term.IsTerminal(int(file.Fd()))
	in.info = info
	if in.regular = info.Mode().IsRegular(); in.regular && len(args) > 0 {
		in.Size = info.Size()
	}
	return in, nil
}

// settleTime is how long the end of a pipe is doubted. A signal to a whole group
// of processes ends the producer too, which closes the pipe, and cmkctl may see
// that before its own signal: the kernel, and systemd, tell one process after
// the other.
const settleTime = 200 * time.Millisecond

// Until returns a reader of the input that fails as soon as ctx ends, even while
// nothing comes. With doubt the end of what is not a regular file counts only
// once no signal has followed it.
func (in *Input) Until(ctx context.Context, doubt bool) io.Reader {
	if in.regular {
		return untilDone{ctx, in.Src}
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{in.Src}, make([]byte, 256<<10))
		if err == nil && doubt {
			select {
			case <-ctx.Done():
			case <-time.After(settleTime):
			}
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		w.CloseWithError(err) // nil is io.EOF
	}()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	return r
}

// untilDone is a reader of what does not block.
type untilDone struct {
	ctx context.Context
	src io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.src.Read(p)
}

// CheckJSON reports where text is not a JSON object.
func CheckJSON(text string) error {
	var object map[string]json.RawMessage
	err := json.Unmarshal([]byte(text), &object)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w, after %d bytes of %d", err, syntax.Offset, len(text))
	}
	if err != nil || object == nil {
		return errors.New("want an object, {...}")
	}
	return nil
}
