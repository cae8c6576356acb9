package envelopes

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/client"
	"cmkd/socket/client/envelope"
	"cmkd/testenv/rig"
)

// world is a daemon with keys in two Regions, and what uses it.
type world struct {
	*rig.Rig
	keys   []string // ARNs
	client *client.EnvelopeClient
}

const otherRegion = "eu-west-1"

func newWorld(t *testing.T, cfg rig.Config) *world {
	t.Helper()
	cfg.Regions = []string{otherRegion}
	w := &world{Rig: rig.New(t, cfg)}
	for _, region := range []string{"", "", otherRegion} {
		out, err := w.Client(region).CreateKey(t.Context(), &kms.CreateKeyInput{})
		must(t, err)
		w.keys = append(w.keys, aws.ToString(out.KeyMetadata.Arn))
	}
	var err error
	w.client, err = client.NewEnvelopeClient(w.Socket)
	must(t, err)
	return w
}

// cmkctl is a command for the daemon.
func (w *world) cmkctl(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), filepath.Join(rig.Binaries(t), "cmkctl"), append([]string{"--socket", w.Socket}, args...)...)
}

// ok runs cmkctl, which must succeed.
func (w *world) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.cmkctl(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("cmkctl %q: %s, %v", args, out, err)
	}
	return string(out)
}

// seal seals the file in to the file out.
func (w *world) seal(t *testing.T, in, out string, keys []string, o envelope.Options) {
	t.Helper()
	src, err := os.Open(in)
	must(t, err)
	defer src.Close()
	dst, err := os.Create(out)
	must(t, err)
	sealed, err := w.client.SealWriter(t.Context(), dst, keys, o)
	must(t, err)
	_, err = io.Copy(sealed, src)
	must(t, err)
	must(t, sealed.Close())
	must(t, dst.Close())
}

// open compares what the sealed file in holds with the file want.
func (w *world) open(ctx context.Context, in, key, want string, o envelope.Options) error {
	src, err := os.Open(in)
	if err != nil {
		return err
	}
	defer src.Close()
	r, err := w.client.OpenReader(ctx, src, key, o)
	if err != nil {
		return err
	}
	defer r.Close()
	return same(r, want)
}

// job is what the programs in javascript and golang do.
type job struct {
	Op          string            `json:"op"`
	In          string            `json:"in"`
	Out         string            `json:"out"`
	Keys        []string          `json:"keys"`
	Suite       int               `json:"suite,omitempty"`
	FrameLength int               `json:"frameLength,omitempty"`
	Context     map[string]string `json:"context,omitempty"`
}

// sdk is a program of the AWS Encryption SDK that does jobs.
type sdk struct {
	name    string
	command func(t *testing.T) []string
}

var javascript = sdk{"JavaScript", func(t *testing.T) []string {
	t.Helper()
	// The program finds the packages in a folder beside it.
	dir := t.TempDir()
	source, err := os.ReadFile(filepath.Join(rig.Root(), "testenv/envelopes/javascript/esdk.mjs"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "esdk.mjs"), source, 0o600))
	must(t, os.Symlink(filepath.Join(rig.Root(), ".cache/javascript/node_modules"), filepath.Join(dir, "node_modules")))
	return []string{"node", filepath.Join(dir, "esdk.mjs")}
}}

var golang = sdk{"Go", func(t *testing.T) []string {
	t.Helper()
	path, err := golangProgram()
	must(t, err)
	return []string{path}
}}

// golangProgram builds golang.
var golangProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(rig.Root(), ".cache", "envelopes-golang")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join(rig.Root(), "testenv/envelopes/golang")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

// do has a program do jobs, through a bridge.
func (w *world) do(t *testing.T, s sdk, jobs []job) {
	t.Helper()
	text, err := json.Marshal(jobs)
	must(t, err)
	path := filepath.Join(t.TempDir(), "jobs")
	must(t, os.WriteFile(path, text, 0o600))
	cmd := w.cmkctl(t, append(append([]string{"bridge", "--"}, s.command(t)...), path)...)
	cmd.Env = append(os.Environ(), "AWS_REGION="+rig.Region)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %s, %v", s.name, out, err)
	}
}

// long is what an environment variable says, and short without it.
func long(name string, short int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return short
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares what r has to its end with the file at path.
func same(r io.Reader, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		n, errA := io.ReadFull(r, a)
		m, errB := io.ReadFull(f, b)
		if errA != nil && errA != io.EOF && errA != io.ErrUnexpectedEOF {
			return errA
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return &differs{path, at}
		}
		if errA != nil || errB != nil {
			return nil
		}
		at += int64(n)
	}
}

type differs struct {
	path string
	at   int64
}

func (d *differs) Error() string {
	return "it differs from " + d.path + " after " + strconv.FormatInt(d.at, 10) + " bytes"
}
