package kmsapi_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"cmkd/socket/kmsapi"
)

// The SDK's module ships what it expects on the wire for each operation and error, with every member set:
// request_snapshot/<Operation>.request.snap, response_snapshot/<Operation>.response.snap and
// response_snapshot/<Exception>.error.snap. They are the oracle for both directions of this codec.

// sdkDir is the folder of the SDK's module.
var sdkDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/kms").Output()
	return strings.TrimSpace(string(out)), err
})

type snapshot struct {
	name   string // of the operation or exception
	target string // operation in X-Amz-Target
	body   []byte
}

// snapshots reads the files of folder that end in suffix. There must be want of them.
func snapshots(t *testing.T, folder, suffix string, want int) (all []snapshot) {
	t.Helper()
	dir, err := sdkDir()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, folder, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < want {
		t.Fatalf("%d files in %s of the SDK, want at least %d", len(files), folder, want)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := snapshot{name: strings.TrimSuffix(filepath.Base(file), suffix)}
		// The head of a request has an empty line of its own, for its query.
		text := string(b)
		s.target = target(text)
		if i := strings.Index(text, "\n{"); i >= 0 {
			s.body = []byte(text[i+1:])
		}
		all = append(all, s)
	}
	return all
}

func TestRequestSnapshots(t *testing.T) {
	t.Parallel()
	for _, s := range snapshots(t, "request_snapshot", ".request.snap", 56) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			in := operation(t, s.target).NewInput()
			// Values like "__KeyMaterialId__" break patterns and lengths; they are decoded all the same.
			if code, message := refusal(t, in.Decode(s.body)); code != "" && code != kmsapi.CodeValidationException {
				t.Fatalf("%s: %s", code, message)
			}
			got, want := toWire(reflect.ValueOf(in)), parse(t, s.body)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decoded %v\nwant    %v", got, want)
			}
		})
	}
}

func TestResponseSnapshots(t *testing.T) {
	t.Parallel()
	for _, s := range snapshots(t, "response_snapshot", ".response.snap", 56) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			want := parse(t, s.body)
			out := operation(t, s.target).NewOutput()
			fromWire(t, want, reflect.ValueOf(out).Elem())
			body := out.AppendJSON(nil)
			// An operation without output answers with an empty body, as the API reference says.
			if len(body) != 0 || reflect.TypeOf(out).Elem().NumField() != 0 {
				if got := parse(t, body); !reflect.DeepEqual(got, want) {
					t.Errorf("encoded %v\nwant    %v", got, want)
				}
			}

			answer := &kmsapi.Answer{Status: 200}
			c := client(t, dispatcher(func(r *kmsapi.Request) *kmsapi.Answer {
				if r.Operation != s.name {
					t.Errorf("operation %q, want %q", r.Operation, s.name)
				}
				return answer
			}))
			answer.Body = s.body
			wantOut, err := call(t, c, s.target)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body = body
			gotOut, err := call(t, c, s.target)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(gotOut, wantOut) {
				t.Errorf("the SDK reads %+v\nwant          %+v", gotOut, wantOut)
			}
		})
	}
}

func TestErrorSnapshots(t *testing.T) {
	t.Parallel()
	for _, s := range snapshots(t, "response_snapshot", ".error.snap", 48) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if !slices.Contains(operation(t, s.target).Errors, s.name) {
				t.Errorf("%s does not list %s", s.target, s.name)
			}
			e := kmsapi.Errorf(s.name, "%s", "__Message__")
			got, want := parse(t, e.AppendJSON(nil)), parse(t, s.body)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("encoded %v\nwant    %v", got, want)
			}

			answer := kmsapi.AnswerError(e)
			c := client(t, dispatcher(func(*kmsapi.Request) *kmsapi.Answer { return answer }))
			_, gotErr := call(t, c, s.target)
			answer = &kmsapi.Answer{Status: e.Status(), Body: s.body}
			_, wantErr := call(t, c, s.target)
			if got, want := typed(gotErr), typed(wantErr); got == nil || !reflect.DeepEqual(got, want) {
				t.Errorf("the SDK reads %#v\nwant          %#v", got, want)
			}
		})
	}
}

// typed is the modelled error at the end of an SDK's chain of errors.
func typed(err error) (last error) {
	for err != nil {
		last = err
		u, wraps := err.(interface{ Unwrap() error })
		if !wraps {
			break
		}
		err = u.Unwrap()
	}
	return last
}

// TestOperationsOfTheSDK compares the table of operations with the operations that the SDK has.
func TestOperationsOfTheSDK(t *testing.T) {
	t.Parallel()
	var want []string
	for _, s := range snapshots(t, "snapshot", ".go.snap", 56) {
		want = append(want, strings.TrimPrefix(s.name, "api_op_"))
	}
	var got []string
	for _, op := range kmsapi.Operations {
		got = append(got, op.Name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("operations %v\nwant       %v", got, want)
	}
}
