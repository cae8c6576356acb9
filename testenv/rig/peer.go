package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sys/unix"

	"cmkd/socket/client"
)

// User is a Unix user as the kernel knows one: it needs no entry in the user
// database. cmkd calls a user without an entry uid-N and a group gid-N.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// ARN is the user's, if it has no entry in the user database.
func (u User) ARN() string { return fmt.Sprintf("arn:aws:iam::%s:user/uid-%d", Account, u.UID) }

// As is the AWS SDK's client of another user, in Region. The rig must be one for
// the World, and the test must run as root.
func (r *Rig) As(t testing.TB, u User, options ...func(*kms.Options)) *kms.Client {
	t.Helper()
	return kms.New(kms.Options{
		BaseEndpoint: aws.String("http://localhost"), Region: Region, HTTPClient: r.HTTPAs(t, u),
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
		Retryer:     aws.NopRetryer{},
		APIOptions:  []func(*middleware.Stack) error{client.PlainBody},
	}, options...)
}

// HTTPAs is an HTTP client whose connections are the user's.
func (r *Rig) HTTPAs(t testing.TB, u User) *http.Client {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test acts as other users, so it must run as root")
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 256,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return r.DialAs(u)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// DialAs connects to the daemon as the user. Linux keeps credentials for each thread, and
// SO_PEERCRED tells those of the thread that called connect(2): so a thread
// becomes the user, connects, and ends with its goroutine, which never unlocks it.
func (r *Rig) DialAs(u User) (net.Conn, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := connectAs(r.Socket, u)
		done <- result{fd, err}
	}()
	got := <-done
	if got.err != nil {
		return nil, got.err
	}
	f := os.NewFile(uintptr(got.fd), r.Socket)
	conn, err := net.FileConn(f)
	return conn, errors.Join(err, f.Close())
}

// connectAs changes the credentials of this thread alone: package syscall's
// Setuid and its like would change those of the whole process.
func connectAs(path string, u User) (fd int, err error) {
	groups := append([]uint32{}, u.Groups...)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
		return -1, fmt.Errorf("setgroups: %w", errno)
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return -1, fmt.Errorf("setresgid: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return -1, fmt.Errorf("setresuid: %w", errno)
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
