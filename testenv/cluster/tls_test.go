package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon"
	"cmkd/testenv/etcd"
	"cmkd/testenv/rig"
)

// certificates are the lines of the store that name what the daemon takes and shows.
func certificates(ca *etcd.Authority, own etcd.Pair) string {
	return fmt.Sprintf("%sca_file = %q\ncert_file = %q\nkey_file = %q\n", staleness, ca.File, own.Cert, own.Key)
}

// restrict has etcd know users by their certificates, and lets that of the daemon reach its prefix only.
func restrict(ctx context.Context, c *clientv3.Client) error {
	const prefix = "/cmkd/"
	for _, do := range []func() error{
		func() error { return rig.ErrOf(c.RoleAdd(ctx, "cmkd")) },
		func() error {
			return rig.ErrOf(c.RoleGrantPermission(ctx, "cmkd", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
		},
		func() error {
			return rig.ErrOf(c.UserAddWithOptions(ctx, "cmkd", "", &clientv3.UserAddOptions{NoPassword: true}))
		},
		func() error { return rig.ErrOf(c.UserGrantRole(ctx, "cmkd", "cmkd")) },
		func() error {
			return rig.ErrOf(c.UserAddWithOptions(ctx, "root", "", &clientv3.UserAddOptions{NoPassword: true}))
		},
		func() error { return rig.ErrOf(c.UserGrantRole(ctx, "root", "root")) },
		func() error { return rig.ErrOf(c.AuthEnable(ctx)) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// TestCertificates: daemon and etcd know each other by their certificates, and one that is wrong is named. The
// daemon's role reaches its prefix only. A certificate that is renewed counts without a restart.
func TestCertificates(t *testing.T) {
	t.Parallel()
	right, other, later := etcd.NewAuthority(t, "right"), etcd.NewAuthority(t, "other"), time.Now().Add(time.Hour)
	past := time.Now().Add(-time.Hour)
	good := right.Issue(t, "etcd", later, etcd.Host())
	server := etcd.StartSecure(t, &etcd.Security{Clients: right, Servers: right, Server: good, Admin: right.Issue(t, "root", later)})
	admin := server.Client(t)
	defer admin.Close()
	if err := restrict(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	own := right.Issue(t, "cmkd", later)
	r := rig.New(t, rig.Config{Etcd: server, StoreExtra: certificates(right, own)})
	key := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	if s := r.Status(t); s.State != "ok" {
		t.Errorf("with certificates and a role: %+v", s)
	}

	another := func(store string) *rig.Rig {
		t.Helper()
		return rig.Prepare(t, rig.Config{Etcd: server, StoreExtra: store, Token: r.Token})
	}
	refused := func(name, want string, r *rig.Rig) {
		t.Helper()
		if err := r.TryInitialise(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	refused("another authority", "certificate signed by unknown authority", another(certificates(other, own)))
	refused("a certificate of another authority", "remote error: tls: ", another(certificates(right, other.Issue(t, "cmkd", later))))
	refused("a user without a role", "permission denied", another(certificates(right, right.Issue(t, "etcd", later))))
	refused("another prefix", "permission denied", another("prefix = \"/other/\"\n"+certificates(right, own)))
	expired := another(certificates(right, right.Issue(t, "cmkd", past)))
	refused("a certificate that has expired", "remote error: tls: ", expired)
	if _, err := daemon.Check(expired.Path); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("cmkd -check with a certificate that has expired: %v", err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	again := func(pair etcd.Pair) {
		t.Helper()
		server.Kill()
		server.Security.Server = pair
		server.Run(t)
	}
	again(right.Issue(t, "etcd", past, etcd.Host()))
	refused("a server's certificate that has expired", "certificate has expired", r)
	again(right.Issue(t, "etcd", later, "etcd.example.com"))
	refused("a server of another name", "doesn't contain any IP SANs", r)
	again(good)
	server.Await(t)

	r.Start(t)
	renewed := other.Issue(t, "cmkd", later)
	for from, to := range map[string]string{renewed.Cert: own.Cert, renewed.Key: own.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	server.Kill()
	server.Security.Clients, server.Security.Admin = other, other.Issue(t, "root", later)
	server.Run(t)
	server.Await(t)
	eventually(t, "a change with a certificate that was renewed", func() bool {
		_, err := r.Client("").UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String("renewed")})
		return err == nil
	})
	eventually(t, "healthy", func() bool { return r.Status(t).State == "ok" })
}
