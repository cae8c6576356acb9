package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"testing"
)

// TestGeneratedFilesAreCurrent regenerates the package and compares it, byte by byte, with what is committed.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := run("../../model.json", dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		want, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../..", f.name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate", f.name)
		}
	}
	present, err := filepath.Glob("../../zz_*.go")
	if err != nil {
		t.Fatal(err)
	}
	if len(present) != len(files) {
		t.Errorf("%d generated files, but the generator writes %d", len(present), len(files))
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		java    string
		matches []string
		refuses []string
	}{
		{`[\w]+`, []string{"default", "a_9"}, []string{"", "a b", "é", "a\n"}},
		{`^[a-f0-9]+$`, []string{"0a"}, []string{"", "0A", "0a\n", "\n0a"}},
		{`[\u0009\u000A\u000D\u0020-\u00FF]+`, []string{"{\n\t\"a\": \"ÿ\"\r\n}"}, []string{"", "\x00", "\u0100", "\x0b"}},
		{`[\u0020-\u00FF]*`, []string{"", " ÿ"}, []string{"\x1f", "\u0100", "€"}},
		{`^[a-zA-Z0-9:/_\s.-]+$`, []string{"a b.\t\n\x0b\f\r-"}, []string{"", "\u00a0", "a,b"}}, // Java's \s has \x0B
		{`^[a-zA-Z0-9-_.]+$`, []string{"a-_.9"}, []string{"", "/", "^"}},
		{`^([a-z]+-){2,3}\d+$`, []string{"us-east-1", "us-gov-west-1"}, []string{"us-1", "us-east-1\n", "xus-east-1x"}},
		{`^(/[a-z]+/v\d{1,2})$|^(/v\d{1,2})$`, []string{"/a/v1", "/v12"}, []string{"/v123", "/a/v1/v1", "/a/v1\n"}},
	} {
		re, err := regexp.Compile(translate(tt.java))
		if err != nil {
			t.Errorf("%s: %v", tt.java, err)
			continue
		}
		for _, s := range tt.matches {
			if !re.MatchString(s) {
				t.Errorf("%s does not match %q", tt.java, s)
			}
		}
		for _, s := range tt.refuses {
			if re.MatchString(s) {
				t.Errorf("%s matches %q", tt.java, s)
			}
		}
	}
}

// TestCharacters compares each pattern that became a set of characters with the expression it came from.
func TestCharacters(t *testing.T) {
	t.Parallel()
	m, err := readModel("../../model.json")
	if err != nil {
		t.Fatal(err)
	}
	sets := 0
	for _, name := range m.Shapes.names {
		java := m.Shapes.by[name].Pattern
		if java == "" {
			continue
		}
		parsed, err := syntax.Parse(translate(java), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		class, atLeast, simple := characters(parsed.Simplify())
		if !simple {
			continue
		}
		sets++
		re := regexp.MustCompile(translate(java))
		if re.MatchString("") != (atLeast == 0) {
			t.Errorf("%s: empty string", name)
		}
		for c := rune(0); c < 0x3000; c++ {
			in := false
			for i := 0; i < len(class); i += 2 {
				in = in || class[i] <= c && c <= class[i+1]
			}
			if re.MatchString(string(c)) != in || re.MatchString(string(c)+string(c)) != in {
				t.Errorf("%s: the set and the expression differ on %q", name, c)
			}
		}
	}
	if sets < 10 {
		t.Errorf("only %d patterns of the model became sets of characters", sets)
	}
}

func TestConstantNames(t *testing.T) {
	t.Parallel()
	for _, tt := range [][3]string{
		{"KeySpec", "RSA_2048", "KeySpecRSA2048"},
		{"KeySpec", "ECC_SECG_P256K1", "KeySpecECCSECGP256K1"},
		{"KeySpec", "SYMMETRIC_DEFAULT", "KeySpecSymmetricDefault"},
		{"KeyState", "PendingDeletion", "KeyStatePendingDeletion"},
		{"OriginType", "AWS_CLOUDHSM", "OriginTypeAWSCloudHSM"},
		{"SigningAlgorithmSpec", "RSASSA_PKCS1_V1_5_SHA_256", "SigningAlgorithmSpecRSASSAPKCS1V15SHA256"},
	} {
		if got := constant(tt[0], tt[1]); got != tt[2] {
			t.Errorf("constant(%q, %q) = %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

// TestModelCheck feeds models that the generator must refuse rather than generate wrong code for.
func TestModelCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []string{
		`{`,
		`{"shapes":{"I":{"type":"integer"}}}`,
		`{"shapes":{"I":{"type":"integer","min":1,"max":2},"L":{"type":"list","member":{"shape":"I"}}}}`,
		`{"shapes":{"S":{"type":"structure","members":{"A":{"shape":"Gone"}}}}}`,
		`{"shapes":{"D":{"type":"double"}}}`,
	} {
		file := filepath.Join(t.TempDir(), "model.json")
		if err := os.WriteFile(file, []byte(tt), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readModel(file); err == nil {
			t.Errorf("accepted %s", tt)
		}
	}
}
