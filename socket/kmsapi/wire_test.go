package kmsapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"cmkd/socket/kmsapi"
)

// dispatcher answers calls with a function.
type dispatcher func(r *kmsapi.Request) *kmsapi.Answer

func (d dispatcher) Dispatch(_ context.Context, r *kmsapi.Request) *kmsapi.Answer { return d(r) }

// serve runs the handler on a Unix socket and gives a transport that reaches it.
func serve(t testing.TB, d kmsapi.Dispatcher) *http.Transport {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmsapi") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: kmsapi.NewHandler(d), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return transport
}

// client is the stock SDK talking to d. Its own check of inputs is off: the server's is under test.
func client(t testing.TB, d kmsapi.Dispatcher) *kms.Client {
	t.Helper()
	return clientOver(serve(t, d))
}

// direct hands requests to the handler without a connection between them, which
// would outlive the context of one test beside the next.
type direct struct{ handler http.Handler }

// RoundTrip implements [http.RoundTripper].
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w.Result(), r.Body.Close()
}

// clientOver is client over any transport.
func clientOver(transport http.RoundTripper) *kms.Client {
	return kms.New(kms.Options{
		Region:           "eu-central-1",
		BaseEndpoint:     aws.String("http://localhost"),
		HTTPClient:       &http.Client{Transport: transport},
		RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "example"}, nil
		}),
		APIOptions: []func(*middleware.Stack) error{func(s *middleware.Stack) error {
			_, _ = s.Initialize.Remove("OperationInputValidation") // absent where nothing is required
			return nil
		}},
	})
}

// call calls an operation of the SDK by name with an empty input and gives its output without metadata.
func call(t *testing.T, c *kms.Client, operation string) (any, error) {
	t.Helper()
	method := reflect.ValueOf(c).MethodByName(operation)
	if !method.IsValid() {
		t.Fatalf("the SDK has no operation %s", operation)
	}
	in := reflect.New(method.Type().In(1).Elem())
	results := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), in})
	if err, failed := results[1].Interface().(error); failed {
		return nil, err
	}
	results[0].Elem().FieldByName("ResultMetadata").SetZero()
	return results[0].Interface(), nil
}

var timeType = reflect.TypeFor[time.Time]()

// toWire is a structure of the package as encoding/json would read its JSON form; zero values are left out.
func toWire(v reflect.Value) any {
	switch {
	case v.Type() == timeType:
		at, _ := v.Interface().(time.Time)
		return float64(at.UnixMilli()) / 1000
	case v.Kind() == reflect.Pointer:
		return toWire(v.Elem())
	case v.Kind() == reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				m[v.Type().Field(i).Name] = toWire(v.Field(i))
			}
		}
		return m
	case v.Type() == reflect.TypeFor[[]byte]():
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case v.Kind() == reflect.Slice:
		list := []any{}
		for i := range v.Len() {
			list = append(list, toWire(v.Index(i)))
		}
		return list
	case v.Kind() == reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[k.String()] = toWire(v.MapIndex(k))
		}
		return m
	case v.Kind() == reflect.Int32:
		return float64(v.Int())
	case v.Kind() == reflect.Bool:
		return v.Bool()
	default:
		return v.String()
	}
}

// fromWire is the opposite of toWire: it fills v.
func fromWire(t testing.TB, wire any, v reflect.Value) {
	t.Helper()
	switch w := wire.(type) {
	case string:
		if v.Kind() != reflect.Slice {
			v.SetString(w)
			return
		}
		blob, err := base64.StdEncoding.DecodeString(w)
		if err != nil {
			t.Fatal(err)
		}
		v.SetBytes(blob)
	case bool:
		v.SetBool(w)
	case float64:
		if v.Type() == timeType {
			v.Set(reflect.ValueOf(time.UnixMilli(int64(w * 1000))))
			return
		}
		v.SetInt(int64(w))
	case []any:
		v.Set(reflect.MakeSlice(v.Type(), len(w), len(w)))
		for i := range w {
			fromWire(t, w[i], v.Index(i))
		}
	case map[string]any:
		switch v.Kind() {
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			for k, e := range w {
				text, _ := e.(string)
				v.SetMapIndex(reflect.ValueOf(k), reflect.ValueOf(text))
			}
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fromWire(t, w, v.Elem())
		default:
			for name, e := range w {
				field := v.FieldByName(name)
				if !field.IsValid() {
					t.Fatalf("%s has no member %s", v.Type(), name)
				}
				fromWire(t, e, field)
			}
		}
	default:
		t.Fatalf("unexpected %T", wire)
	}
}

func parse(t testing.TB, body []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func operation(t testing.TB, name string) kmsapi.Operation {
	t.Helper()
	for _, op := range kmsapi.Operations {
		if op.Name == name {
			return op
		}
	}
	t.Fatalf("no operation %s", name)
	return kmsapi.Operation{}
}

// refusal is the code and message of a Decode's error; both empty for none.
func refusal(t testing.TB, err error) (code, message string) {
	t.Helper()
	if err == nil {
		return "", ""
	}
	var e *kmsapi.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T is no *kmsapi.Error: %v", err, err)
	}
	return e.Code, e.Message
}

// target is the operation in a snapshot's X-Amz-Target.
func target(header string) string {
	_, after, _ := strings.Cut(header, "TrentService.")
	name, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(name)
}
