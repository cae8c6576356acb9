package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// softHSMModules is where distributions put the SoftHSM2 library.
var softHSMModules = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/usr/lib/libsofthsm2.so",
}

// softHSMConf is the variable by which the library finds its configuration.
const softHSMConf = "SOFTHSM2_CONF"

func findSoftHSM() (string, error) {
	for _, pattern := range softHSMModules {
		if found, _ := filepath.Glob(pattern); len(found) > 0 { // the patterns are good
			return found[0], nil
		}
	}
	return "", errors.New("SoftHSM2 is not installed (Debian: apt install softhsm2), or name its library with --module")
}

// makeSoftHSMToken initialises a token of its own in l, which has none, and
// returns how the daemon finds it.
func makeSoftHSMToken(ctx context.Context, l layout, module, label string) (_ tokenConfig, err error) {
	if module == "" {
		if module, err = findSoftHSM(); err != nil {
			return tokenConfig{}, err
		}
	}
	tool, err := exec.LookPath("softhsm2-util")
	if err != nil {
		return tokenConfig{}, fmt.Errorf("initialising a token: %w (Debian: apt install softhsm2)", err)
	}
	if err := os.Mkdir(l.tokens(), 0o700); err != nil {
		return tokenConfig{}, fmt.Errorf("making a place for the token: %w", err)
	}
	defer func() {
		if err != nil {
			for _, path := range l.softHSMFiles() {
				err = errors.Join(err, os.RemoveAll(path))
			}
		}
	}()
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", l.tokens())
	pin, soPIN := rand.Text(), rand.Text()
	for _, f := range []struct {
		path, content string
		mode          os.FileMode
	}{{l.softhsm(), conf, 0o600}, {l.pin(), pin + "\n", 0o400}, {l.soPIN(), soPIN + "\n", 0o400}} {
		if err := createFile(f.path, f.content, f.mode); err != nil {
			return tokenConfig{}, err
		}
	}
	// softhsm2-util takes PINs from its arguments or a terminal only. Who reads
	// them off the process list meanwhile cannot reach the token, whose folder
	// is closed to others.
	cmd := exec.CommandContext(ctx, tool, "--init-token", "--free", "--label", label, "--so-pin", soPIN, "--pin", pin, "--module", module)
	cmd.Env = append(os.Environ(), softHSMConf+"="+l.softhsm())
	if out, err := cmd.CombinedOutput(); err != nil {
		return tokenConfig{}, fmt.Errorf("initialising a token: softhsm2-util: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return tokenConfig{
		Name: "main", Module: module, Label: label, PINFile: l.pin(),
		Env: map[string]string{softHSMConf: l.softhsm()},
	}, nil
}

func createFile(path, content string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
