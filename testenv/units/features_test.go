package units_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/socket/client"
	"cmkd/testenv/nitro"
	"cmkd/testenv/rig"
)

const (
	configuration = "/etc/cmkd/config.toml"
	cluster       = "cluster-a2b3c4d5e6f"
	trailFolder   = "/var/lib/cmkd/audit"
)

// features uses, as root in the booted container, whatever cmkd can do, with the unit
// as it is shipped.
func features(t *testing.T) {
	authority := nitro.NewAuthority(t, time.Now())
	configure(t, authority)
	c := client.New("")
	for _, f := range []struct {
		name string
		run  func(t *testing.T, c *kms.Client)
	}{
		{"symmetric", symmetric},
		{"rotation", rotation},
		{"rsa", signRSA},
		{"elliptic", elliptic},
		{"hmac", macs},
		{"import", importing},
		{"recipient", func(t *testing.T, c *kms.Client) { recipients(t, c, authority) }},
		{"store", customStore},
		{"bridge", bridge},
		{"operators", operators},
		{"newcomer", newcomer},
		{"plugin", pluginDies},
		{"disk", fullDisk},
	} {
		t.Run(f.name, func(t *testing.T) { f.run(t, c) })
	}
}

// configure adds what cmkctl init does not write: a module with more RSA before SoftHSM2, a root
// of attestation documents, a second token.
func configure(t *testing.T, authority *nitro.Authority) {
	t.Helper()
	text := string(read(t, configuration))
	env := regexp.MustCompile(`SOFTHSM2_CONF *= *"[^"]*"`).FindString(text)
	module := regexp.MustCompile(`(?m)^module *= *"(.*)"`).FindStringSubmatch(text)
	if env == "" || module == nil {
		t.Fatalf("%s has no token of SoftHSM2:\n%s", configuration, text)
	}
	text = strings.ReplaceAll(text, module[0], `module = "/opt/units/rsahsm.so"`)
	text = strings.Replace(text, env, env+fmt.Sprintf("\nCMKD_RSAHSM_MODULE = %q", module[1]), 1)
	text = "attestation_roots = [\"/etc/cmkd/nitro-root.pem\"]\n" + text + fmt.Sprintf(`
[audit]
disk_reserve = 1

[[token]]
name = "second"
cluster_id = %q
module = %q
label = "second"
pin_file = "/etc/cmkd/pin-second"
env = { %s }
`, cluster, module[1], env)
	write(t, configuration, []byte(text), 0o600)
	write(t, "/etc/cmkd/nitro-root.pem", authority.PEM(), 0o644)
	write(t, "/etc/cmkd/pin-second", []byte("1234"), 0o400)
	conf := strings.Trim(strings.SplitN(env, "=", 2)[1], ` "`)
	command(t, "setpriv", "--reuid", "cmkd", "--regid", "cmkd", "--init-groups", "env", "SOFTHSM2_CONF="+conf,
		"softhsm2-util", "--init-token", "--free", "--label", "second", "--so-pin", "12345678", "--pin", "1234")
	// A small file system for the trail, which is to become full.
	moved := trailFolder + ".was"
	command(t, "systemctl", "stop", "cmkd.service", "cmkd.socket")
	command(t, "mv", trailFolder, moved)
	command(t, "install", "-d", "-o", "cmkd", "-g", "cmkd", "-m", "0700", trailFolder)
	used, _ := strconv.Atoi(strings.Fields(command(t, "du", "-sm", moved))[0])
	command(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0700,uid=cmkd,gid=cmkd", used+24), "tmpfs", trailFolder)
	command(t, "sh", "-c", fmt.Sprintf("cp -a %s/. %s/", moved, trailFolder))
	command(t, "systemctl", "start", "cmkd.socket", "cmkd.service")
	command(t, "cmkctl", "status")
}

func symmetric(t *testing.T, c *kms.Client) {
	id, message := rig.NewKey(t, c, &kms.CreateKeyInput{}), []byte("secret")
	sealed := must(c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: message}))(t)
	other := rig.NewKey(t, c, &kms.CreateKeyInput{})
	moved := must(c.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: sealed.CiphertextBlob, DestinationKeyId: &other}))(t)
	opened := must(c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob}))(t)
	if !bytes.Equal(opened.Plaintext, message) {
		t.Error("Decrypt gives something else")
	}
	must(c.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &id, KeySpec: types.DataKeySpecAes256}))(t)
	must(c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &other}))(t)
	must(c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &other}))(t)
}

func rotation(t *testing.T, c *kms.Client) {
	id, message := rig.NewKey(t, c, &kms.CreateKeyInput{}), []byte("secret")
	sealed := must(c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: message}))(t)
	must(c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}))(t)
	eventually(t, "the rotation", func(ctx context.Context) error {
		list, err := c.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: &id})
		if err == nil && len(list.Rotations) == 0 {
			err = fmt.Errorf("none is listed")
		}
		return err
	})
	opened := must(c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}))(t)
	if !bytes.Equal(opened.Plaintext, message) {
		t.Error("Decrypt gives something else")
	}
}

// customStore is a store on the second token, connected, left and connected again.
func customStore(t *testing.T, c *kms.Client) {
	made := must(c.CreateCustomKeyStore(t.Context(), &kms.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("second"), CloudHsmClusterId: aws.String(cluster),
		TrustAnchorCertificate: aws.String("-----BEGIN CERTIFICATE-----"), KeyStorePassword: aws.String("kmsPswd1"),
	}))(t)
	store := made.CustomKeyStoreId
	must(c.ConnectCustomKeyStore(t.Context(), &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: store}))(t)
	id := rig.NewKey(t, c, &kms.CreateKeyInput{CustomKeyStoreId: store, Origin: types.OriginTypeAwsCloudhsm})
	sealed := must(c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("secret")}))(t)
	must(c.DisconnectCustomKeyStore(t.Context(), &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: store}))(t)
	if _, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err == nil {
		t.Error("a store that is not connected decrypts")
	}
	must(c.ConnectCustomKeyStore(t.Context(), &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: store}))(t)
	must(c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}))(t)
}

// bridge is a client that knows access keys and an address only.
func bridge(t *testing.T, _ *kms.Client) {
	out := command(t, "cmkctl", "bridge", "--", "env")
	if !strings.Contains(out, "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:") {
		t.Fatalf("the bridge gives a command no address:\n%s", out)
	}
	cmd := exec.CommandContext(t.Context(), "cmkctl", "bridge", "--", os.Args[0], "-test.run=^TestUnits$")
	cmd.Env = append(os.Environ(), stage+"=bridged")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("through the bridge: %v\n%s", err, out)
	}
}

// bridged is the command that the bridge runs.
func bridged(t *testing.T) {
	c := kms.New(kms.Options{
		BaseEndpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL_KMS")), Region: os.Getenv("AWS_REGION"),
		Credentials: credentials.NewStaticCredentialsProvider(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	must(c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("alias/first")}))(t)
}

// operators are the commands of who runs the machine.
func operators(t *testing.T, _ *kms.Client) {
	for _, row := range []struct {
		command string
		output  string
	}{
		{"metrics", `(?m)^cmkd_token_up\{.*\} 1$`},
		{"doctor", `main`},
		{"recover", `.`},
		{"reload", ``},
		{"audit verify", `signed through record`},
		{"audit prune --keep 1 --yes", ``},
		{"policy who --action kms:CreateKey", `root`},
		{"audit verify", `signed through record`},
	} {
		out := command(t, "cmkctl", strings.Fields(row.command)...)
		if !regexp.MustCompile(row.output).MatchString(out) {
			t.Errorf("cmkctl %s answers %q, without %s", row.command, out, row.output)
		}
	}
}

// newcomer is a user who was added while the daemon ran: it knows the name.
func newcomer(t *testing.T, _ *kms.Client) {
	command(t, "useradd", "--groups", "cmkd", "newcomer")
	cmd := exec.CommandContext(t.Context(), "setpriv", "--reuid", "newcomer", "--regid", "newcomer", "--init-groups",
		"cmkctl", "call", "CreateKey", "{}")
	out, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("user/newcomer is not authorized")) {
		t.Errorf("CreateKey of a user without permissions: %v, %s", err, out)
	}
}

// pluginDies kills every process of the service but the daemon, which replaces them.
func pluginDies(t *testing.T, c *kms.Client) {
	daemon := strings.TrimSpace(command(t, "systemctl", "show", "-P", "MainPID", "cmkd.service"))
	killed := 0
	for _, pid := range strings.Fields(processes(t, "cmkd.service")) {
		if pid == daemon {
			continue
		}
		killed++
		if number, _ := strconv.Atoi(pid); number > 1 {
			command(t, "kill", "-KILL", pid)
		}
	}
	if killed != 6 {
		t.Errorf("%d plugins were there, want three for each token", killed)
	}
	eventually(t, "a call", func(ctx context.Context) error {
		_, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		return err
	})
	eventually(t, "the status", func(ctx context.Context) error { return exec.CommandContext(ctx, "cmkctl", "status").Run() })
	if now := strings.TrimSpace(command(t, "systemctl", "show", "-P", "MainPID", "cmkd.service")); now != daemon {
		t.Error("the daemon was replaced too")
	}
}

// fullDisk fills the trail's file system: nothing is answered without a record, and
// all is well when there is room again.
func fullDisk(t *testing.T, c *kms.Client) {
	ballast := filepath.Join(trailFolder, "ballast")
	_ = exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+ballast, "bs=64k").Run() // ends when it is full
	t.Cleanup(func() { _ = os.Remove(ballast) })
	eventually(t, "a refusal", func(ctx context.Context) error {
		if _, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)}); err == nil {
			return fmt.Errorf("a call is answered")
		}
		return nil
	})
	eventually(t, "the status", func(ctx context.Context) error {
		if out, err := exec.CommandContext(ctx, "cmkctl", "status").CombinedOutput(); err == nil {
			return fmt.Errorf("it is well:\n%s", out)
		}
		return nil
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer", func(ctx context.Context) error {
		_, err := c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)})
		return err
	})
	eventually(t, "the status", func(ctx context.Context) error { return exec.CommandContext(ctx, "cmkctl", "status").Run() })
	command(t, "cmkctl", "audit", "verify")
}
