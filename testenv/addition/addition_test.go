package addition

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestAddOperation adds an operation to a copy of the daemon (by go's -overlay): the API
// model gets its shapes, the table of actions one row, and daemon/kms one method. The test
// that is laid over with them calls it, and finds it in everything that reads the table.
func TestAddOperation(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	lay := func(path string, text []byte) {
		t.Helper()
		file := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, path)] = file
	}

	model := filepath.Join(dir, "model")
	if err := os.MkdirAll(filepath.Join(model, "out"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(model, "model.json"), addToModel(t, read(t, root, "socket/kmsapi/model.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	generator := filepath.Join(dir, "gen")
	run(t, root, "go", "build", "-o", generator, "./socket/kmsapi/internal/gen")
	run(t, model, generator, "-out", "out")
	generated, err := filepath.Glob(filepath.Join(model, "out", "*.go"))
	if err != nil || len(generated) == 0 {
		t.Fatalf("nothing is generated: %v", err)
	}
	for _, file := range generated {
		replace[filepath.Join(root, "socket/kmsapi", filepath.Base(file))] = file
	}

	lay("daemon/keys/actions.go", after(t, read(t, root, "daemon/keys/actions.go"), "var Actions = []Action{\n", read(t, "testdata", "row.txt")))
	lay("daemon/kms/measure.go", read(t, "testdata", "method.txt"))
	lay("daemon/kms/measure_test.go", read(t, "testdata", "test.txt"))

	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, root, "go", "test", "-overlay", file, "-count=1", "-v", "-run", "TestMeasureKey$", "./daemon/kms"); !bytes.Contains(out, []byte("--- PASS: TestMeasureKey")) {
		t.Errorf("the operation was not called:\n%s", out)
	}
}

// addToModel adds the operation and its shapes, and lets grants name it.
func addToModel(t *testing.T, model []byte) []byte {
	t.Helper()
	var add struct{ Operation, Request, Response json.RawMessage }
	if err := json.Unmarshal(read(t, "testdata", "model.json"), &add); err != nil {
		t.Fatal(err)
	}
	model = after(t, model, "\"operations\": {\n", member("MeasureKey", add.Operation))
	model = after(t, model, "\"shapes\": {\n", append(member("MeasureKeyRequest", add.Request), member("MeasureKeyResponse", add.Response)...))
	return after(t, model, "\"GrantOperation\": {\n   \"type\": \"string\",\n   \"enum\": [\n", []byte("\"MeasureKey\",\n"))
}

func member(name string, value []byte) []byte {
	return append([]byte(`"`+name+`": `), append(value, ",\n"...)...)
}

// after inserts more behind the only place of mark.
func after(t *testing.T, text []byte, mark string, more []byte) []byte {
	t.Helper()
	before, rest, ok := bytes.Cut(text, []byte(mark))
	if !ok || bytes.Contains(rest, []byte(mark)) {
		t.Fatalf("%q is not there once", mark)
	}
	return bytes.Join([][]byte{before, []byte(mark), more, rest}, nil)
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}
