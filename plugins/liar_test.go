package plugins

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"cmkd/backends"
	"cmkd/plugins/internal/control"
	"cmkd/plugins/internal/stream"
)

// A liar is a plugin that was taken over: it does the handshake, or lies in it, and
// answers calls with what its lie is. TestMain starts it.

// Lie is its main.
var Lie = lie

func lie(how string) {
	if line, ok := handshakes()[how]; ok {
		fmt.Print(line)
		if how == "handshake: an endless line" {
			for {
				if _, err := os.Stdout.WriteString(strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		}
		select {}
	}
	stream, ok := startedByHost()
	if !ok {
		os.Exit(1)
	}
	l := &liar{how: how, stream: stream}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         plugin.PluginSet{pluginName: &liarPlugin{l: l}},
		GRPCServer:      plugin.DefaultGRPCServer,
	})
}

// handshakes are lines of the handshake; see the documentation of go-plugin.
func handshakes() map[string]string {
	dir := os.Getenv("PLUGIN_UNIX_SOCKET_DIR")
	out := map[string]string{
		"handshake: nothing":            "",
		"handshake: no line":            "1|2",
		"handshake: noise":              "\x00\xff\n",
		"handshake: an endless line":    "1|2|unix|",
		"handshake: another core":       "2|2|unix|" + dir + "/s|grpc|\n",
		"handshake: another protocol":   "1|99|unix|" + dir + "/s|grpc|\n",
		"handshake: net/rpc":            "1|2|unix|" + dir + "/s|netrpc|\n",
		"handshake: a network":          "1|2|tcp|127.0.0.1:1|grpc|\n",
		"handshake: no socket":          "1|2|unix|" + dir + "/s|grpc|\n",
		"handshake: another's socket":   "1|2|unix|" + os.Getenv("CMKD_TEST_VICTIM") + "|grpc|\n",
		"handshake: a negative version": "1|-2|unix|" + dir + "/s|grpc|\n",
	}
	if os.Getenv("CMKD_TEST_LIE") == "handshake: no certificate" {
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err == nil {
			go func() { _ = grpc.NewServer().Serve(l) }()
		}
		out["handshake: no certificate"] = "1|2|unix|" + dir + "/s|grpc|\n"
	}
	return out
}

type liar struct {
	control.UnimplementedControlServer
	how    string
	stream *os.File
}

type liarPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	l *liar
}

func (p *liarPlugin) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	control.RegisterControlServer(g, p.l)
	return nil
}

func (p *liarPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, os.ErrInvalid
}

// Open implements the control service.
func (l *liar) Open(context.Context, *control.OpenRequest) (*control.OpenAnswer, error) {
	switch l.how {
	case "open: a long answer":
		return &control.OpenAnswer{Code: "x", Message: strings.Repeat("x", 8<<20)}, nil
	case "open: a long code":
		return &control.OpenAnswer{Code: strings.Repeat("x", 10<<10), Message: strings.Repeat("y", 10<<10)}, nil
	case "open: noise":
		return nil, fmt.Errorf("%s", strings.Repeat("noise", 1000))
	}
	go l.serve()
	return &control.OpenAnswer{}, nil
}

// Health implements the control service.
func (l *liar) Health(context.Context, *control.HealthRequest) (*control.HealthAnswer, error) {
	switch l.how {
	case "health: a long answer":
		return &control.HealthAnswer{Overdue: strings.Repeat("x", 8<<20)}, nil
	case "health: an overdue call that is not there":
		return &control.HealthAnswer{Overdue: strings.Repeat("x", 10<<10), OverdueId: 1 << 60}, nil
	case "health: an error":
		return nil, os.ErrClosed
	}
	return &control.HealthAnswer{}, nil
}

// serve answers one call after the other.
func (l *liar) serve() {
	if l.how == "never reads" {
		select {}
	}
	r := stream.NewFrameReader(l.stream)
	for {
		f, err := r.Next()
		if err != nil {
			return
		}
		for _, b := range l.answer(f) {
			if _, err := l.stream.Write(b); err != nil {
				return
			}
		}
		l.after(f)
	}
}

// truth is the right answer to Encrypt.
func truth(f stream.Frame) []byte {
	var in backends.EncryptRequest
	if err := stream.Decoding.Unmarshal(f.Body, &in); err != nil {
		panic(err)
	}
	body, err := stream.Encoding.Marshal(&backends.EncryptAnswer{Sealed: backends.Sealed{Ciphertext: in.Plaintext}})
	if err != nil {
		panic(err)
	}
	return body
}

// answer is what the lie makes of the answer.
func (l *liar) answer(f stream.Frame) [][]byte {
	say := func(id uint64, kind byte, body []byte) []byte {
		return stream.AppendFrame(nil, stream.Frame{ID: id, Kind: kind, Body: body})
	}
	right := func() []byte { return say(f.ID, stream.KindDone, truth(f)) }
	length := func(n uint32) [][]byte { return [][]byte{binary.BigEndian.AppendUint32(nil, n), make([]byte, 64)} }
	switch l.how {
	case "truth":
		return [][]byte{right()}
	case "frames: ids of nobody":
		var flood []byte
		for i := range uint64(5000) {
			flood = append(flood, say(f.ID+1+i<<32, stream.KindDone, []byte{0xa0})...)
			flood = append(flood, say(1<<63+i, byte(i%3), make([]byte, 100))...)
		}
		return [][]byte{flood, say(0, stream.KindDone, nil), right()}
	case "frames: an answer twice":
		return [][]byte{right(), say(f.ID, stream.KindDone, []byte{0xf6}), right()}
	case "frames: answers of before":
		return [][]byte{say(f.ID-1, stream.KindDone, []byte{0xf6}), right()}
	case "frames: length 0":
		return length(0)
	case "frames: a short length":
		return length(stream.FrameHeader - 5)
	case "frames: a huge length":
		return length(stream.MaxFrame + 1)
	case "frames: a negative length":
		return length(1<<32 - 1)
	case "frames: another kind":
		return [][]byte{say(f.ID, 3, nil)}
	case "frames: the kind of a lost process":
		return [][]byte{say(f.ID, stream.KindGone, nil)}
	case "frames: late":
		return [][]byte{say(f.ID, stream.KindLate, make([]byte, 100))}
	case "frames: half of one":
		return [][]byte{right()[:30]}
	case "frames: half of a long one":
		return [][]byte{append(binary.BigEndian.AppendUint32(nil, stream.MaxFrame), make([]byte, 1<<20)...)}
	case "bodies: a long one":
		return [][]byte{say(f.ID, stream.KindDone, make([]byte, stream.MaxAnswer+1))}
	case "bodies: no CBOR":
		return [][]byte{say(f.ID, stream.KindDone, []byte("no CBOR"))}
	case "bodies: none":
		return [][]byte{say(f.ID, stream.KindDone, nil)}
	case "bodies: deep":
		return [][]byte{say(f.ID, stream.KindDone, []byte(strings.Repeat("\x81", 100_000)))}
	case "bodies: a text as long as the world":
		return [][]byte{say(f.ID, stream.KindDone, []byte{0xa1, 0x01, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})}
	case "bodies: an array as long as the world":
		return [][]byte{say(f.ID, stream.KindDone, []byte{0xa1, 0x01, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})}
	case "errors: a long one":
		body, _ := stream.Encoding.Marshal(stream.WireError{Code: backends.Code(strings.Repeat("c", 50_000)), Message: strings.Repeat("m", 50_000), RV: 1<<64 - 1})
		return [][]byte{say(f.ID, stream.KindFailed, body)}
	case "errors: no code":
		body, _ := stream.Encoding.Marshal(stream.WireError{})
		return [][]byte{say(f.ID, stream.KindFailed, body)}
	case "errors: lost", "errors: timeout":
		code := map[string]backends.Code{"errors: lost": backends.Lost, "errors: timeout": backends.Timeout}[l.how]
		body, _ := stream.Encoding.Marshal(stream.WireError{Code: code})
		return [][]byte{say(f.ID, stream.KindFailed, body)}
	case "logs without end":
		go func() {
			for {
				fmt.Fprintln(os.Stderr, `{"@level":"error","@message":"`+strings.Repeat("x", 1000)+`"}`)
			}
		}()
		return [][]byte{right()}
	case "frames: without end":
		go func() {
			for {
				if _, err := l.stream.Write(say(1<<50, stream.KindDone, make([]byte, 1<<20))); err != nil {
					return
				}
			}
		}()
	}
	return nil
}

// after is what it does when it has answered.
func (l *liar) after(stream.Frame) {
	switch l.how {
	case "frames: half of one":
		os.Exit(0)
	case "closes the stream":
		_ = l.stream.Close()
	case "stops":
		time.Sleep(time.Hour)
	}
}
