// Package image makes the container image of `make image`, and runs it.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// TestImage makes the image twice, checks that each part is what the other says, and runs it.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := rig.Dir(t)
	first, second := filepath.Join(dir, "first.tar"), filepath.Join(dir, "second.tar")
	build(t, first)
	build(t, second)
	a, err := os.ReadFile(first)
	must(t, err)
	b, err := os.ReadFile(second)
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("two runs do not give the same bytes")
	}
	layer := layerOf(t, a)

	root := filepath.Join(dir, "root")
	must(t, os.Mkdir(root, 0o755))
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-p", "--numeric-owner", "-C", root)
	if os.Geteuid() != 0 {
		unpack = exec.CommandContext(t.Context(), "sudo", "-n", "tar", "-x", "-p", "--numeric-owner", "-C", root)
		t.Cleanup(func() { _ = exec.Command("sudo", "-n", "rm", "-rf", root).Run() })
	}
	unpack.Stdin = bytes.NewReader(layer)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	for _, name := range []string{"proc", "dev"} { // as whoever runs containers makes them
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := testenv.InNamespace(t, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, filepath.Join(rig.Root(), "testenv/image/image.sh"), root)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if want := "hello\nverified\nverified\n"; err != nil || !strings.HasSuffix(string(out), want) || !strings.Contains(string(out), "cmkd") {
		t.Errorf("%s\n%s, %v", out, said.String(), err)
	}
}

// build makes the image of the programs, stripped as those of a release.
func build(t *testing.T, out string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list")
	must(t, os.WriteFile(list, []byte("{}"), 0o600))
	cmd := exec.CommandContext(t.Context(), filepath.Join(rig.Root(), "packaging/image/build.sh"), rig.Binaries(t), out)
	cmd.Env = append(os.Environ(), "VERSION=v0.0.0-test", "SOURCE_DATE_EPOCH=1700000000", "SBOM="+list)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
}

// descriptor names a part of an image.
type descriptor struct {
	MediaType, Digest string
	Size              int64
}

// layerOf follows the image from its index to its one layer, and returns that as a tar file.
func layerOf(t *testing.T, image []byte) []byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(image)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		files[h.Name], err = io.ReadAll(r)
		must(t, err)
	}
	part := func(d descriptor) []byte {
		content := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); got != d.Digest || int64(len(content)) != d.Size {
			t.Fatalf("%s, %s of %d bytes: there are %d with %s", d.MediaType, d.Digest, d.Size, len(content), got)
		}
		return content
	}
	var layout struct{ ImageLayoutVersion string }
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct {
		OS, Architecture string
		Config           struct {
			User       string
			Entrypoint []string
			Labels     map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	parse(t, files["oci-layout"], &layout)
	parse(t, files["index.json"], &index)
	if layout.ImageLayoutVersion != "1.0.0" || len(index.Manifests) != 1 {
		t.Fatalf("layout %+v, index %+v", layout, index)
	}
	parse(t, part(index.Manifests[0]), &manifest)
	parse(t, part(manifest.Config), &config)
	if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
		t.Fatalf("%+v, %+v", manifest, config)
	}
	r, err := gzip.NewReader(bytes.NewReader(part(manifest.Layers[0])))
	must(t, err)
	layer, err := io.ReadAll(r)
	must(t, err)
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(layer)); got != config.RootFS.DiffIDs[0] {
		t.Errorf("the layer is %s, the configuration says %s", got, config.RootFS.DiffIDs[0])
	}
	if config.OS != "linux" || config.Config.User != "65532:65532" || config.Config.Labels["org.opencontainers.image.version"] != "v0.0.0-test" {
		t.Errorf("%+v", config)
	}
	// docker load reads a file of its own.
	var docker []struct {
		Config string
		Layers []string
	}
	parse(t, files["manifest.json"], &docker)
	if len(docker) != 1 || files[docker[0].Config] == nil || len(docker[0].Layers) != 1 || files[docker[0].Layers[0]] == nil {
		t.Errorf("for docker: %+v", docker)
	}
	return layer
}

func parse(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
