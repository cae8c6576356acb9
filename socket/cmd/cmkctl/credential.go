package main

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// credential is an access key that a bridge takes.
type credential struct {
	id     string
	secret string
}

// newCredential makes a credential of the lengths that AWS's have: 20
// characters of which 16 are random, and 40 of 240 random bits. The ID does not
// begin with AKIA: it opens nothing of AWS's, and those who search for leaked
// keys shall not find it.
func newCredential() credential {
	id, secret := make([]byte, 10), make([]byte, 30)
	rand.Read(id)
	rand.Read(secret)
	return credential{
		id:     "CMKD" + base32.StdEncoding.EncodeToString(id),
		secret: base64.StdEncoding.EncodeToString(secret),
	}
}

var accessKeyPattern = regexp.MustCompile(`^\w{1,128}$`)

// chosenCredential returns the credential that flags name, a new one if they
// name none.
func chosenCredential(id, secret string) (credential, error) {
	switch {
	case id == "" && secret == "":
		return newCredential(), nil
	case id == "" || secret == "":
		return credential{}, errors.New("--access-key and --secret-key belong together")
	case !accessKeyPattern.MatchString(id):
		return credential{}, fmt.Errorf("access key ID %q: want up to 128 letters, digits and underscores", id)
	}
	return credential{id: id, secret: secret}, nil
}

// variable is one of the environment.
type variable struct{ name, value string }

// awsVariables point a stock AWS client at a bridge.
func awsVariables(endpoint, region string, cred credential) []variable {
	return []variable{
		{"AWS_ENDPOINT_URL_KMS", endpoint},
		{"AWS_ACCESS_KEY_ID", cred.id},
		{"AWS_SECRET_ACCESS_KEY", cred.secret},
		{"AWS_REGION", region},
		{"AWS_DEFAULT_REGION", region},
	}
}

// contrary are variables that would turn a client away from the bridge or its
// credential.
var contrary = []string{
	"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
}

// bridged returns environ with vars set, without what is contrary to them, and
// with the loopback excepted from any proxy.
func bridged(environ []string, vars []variable) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(contrary, name) || slices.ContainsFunc(vars, func(v variable) bool { return v.name == name })
	})
	for _, v := range vars {
		env = append(env, v.name+"="+v.value)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		i := slices.IndexFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		switch {
		case i < 0:
			env = append(env, name+"="+loopback)
		case !strings.Contains(env[i], loopback):
			env[i] = strings.TrimSuffix(env[i], ",") + "," + loopback
		}
	}
	return env
}

// writeExports writes vars as lines for a POSIX shell.
func writeExports(w io.Writer, vars []variable) error {
	for _, v := range vars {
		if _, err := fmt.Fprintf(w, "export %s=%s\n", v.name, shellQuote(v.value)); err != nil {
			return err
		}
	}
	return nil
}

var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellQuote quotes s for a POSIX shell if it needs that.
func shellQuote(s string) string {
	if shellSafe.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// writeFileAtomically makes path appear with all its content, readable by its
// owner.
func writeFileAtomically(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
