// Command probe tries what the unit of cmkd should refuse to a daemon that has been
// taken over, and what it must leave to it and its plugins. It prints a line for each:
// a name, and "ok" or the error's name. It runs in the container of units.sh, as a user.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var attempts = []struct {
	name string
	try  func() error
}{
	// Address families.
	{"unix", func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM) }},
	{"inet", func() error { return socket(unix.AF_INET, unix.SOCK_STREAM) }},
	{"inet6", func() error { return socket(unix.AF_INET6, unix.SOCK_STREAM) }},
	{"netlink", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) }},
	{"packet", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW) }},
	{"alg", func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET) }},

	// Devices.
	{"null", func() error { return open("/dev/null", unix.O_RDWR) }},
	{"urandom", func() error { return open("/dev/urandom", unix.O_RDONLY) }},
	{"device", func() error { return open("/dev/its-device", unix.O_RDWR) }},
	{"node", func() error { return unix.Mknod("/tmp/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))) }},

	// Files.
	{"state", func() error { return write("/var/lib/cmkd/probe") }},
	{"temporary", func() error { return write("/tmp/probe") }},
	{"configuration", func() error { return write("/etc/cmkd/probe") }},
	{"elsewhere", func() error { return write("/var/tmp/open/probe") }}, // everybody may
	{"home", func() error { return open("/home/alice/readable", unix.O_RDONLY) }},
	{"setuid-file", setUserID},

	// What cmkd itself does: it looks at the units of callers, starts plugins, and
	// keeps PINs in locked memory; a module may ask whether FIPS mode is on.
	{"peer", func() error { return open("/proc/1/cgroup", unix.O_RDONLY) }},
	{"fips", func() error { return open("/proc/sys/kernel/random/boot_id", unix.O_RDONLY) }},
	{"start", func() error { return start("/proc/self/exe") }},
	{"sealed", startSealed},
	{"lock", lock},
	{"landlock", func() error {
		return call(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	}},
	{"seccomp", seccomp},

	// System calls.
	{"executable", func() error { return mapped(unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC) }},
	{"later-executable", laterExecutable},
	{"namespace", func() error { return call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0) }},
	{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
	{"trace", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_CONT, uintptr(os.Getpid()), 0) }},
	{"memory", func() error { return call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), 0, 0) }},
	{"keyring", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); return err }},
	{"ring", func() error { return call(unix.SYS_IO_URING_SETUP, 0, 0, 0) }},
	{"user", func() error { return call(unix.SYS_SETUID, uintptr(os.Getuid()), 0, 0) }},
	{"owner", func() error { return unix.Chown("/var/lib/cmkd/probe", os.Getuid(), os.Getgid()) }},
	{"personality", func() error { return call(unix.SYS_PERSONALITY, 0x0400000, 0, 0) }}, // READ_IMPLIES_EXEC
	{"cpu", func() error { return call(unix.SYS_SCHED_SETAFFINITY, 0, 0, 0) }},
	{"core", core},
}

func main() {
	if len(os.Args) > 1 {
		return // started by an attempt
	}
	if os.Getuid() == 0 {
		fmt.Fprintln(os.Stderr, "probe: as root it would do what it tries")
		os.Exit(1)
	}
	runtime.LockOSThread()
	for _, a := range attempts {
		fmt.Printf("%s %s\n", a.name, result(a.try()))
	}
}

func result(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	default:
		return err.Error()
	}
}

func call(number, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func write(path string) error { return open(path, unix.O_CREAT|unix.O_WRONLY) }

func mapped(protection int) error {
	m, err := unix.Mmap(-1, 0, os.Getpagesize(), protection, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Munmap(m)
}

func laterExecutable() error {
	m, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return errors.Join(unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC), unix.Munmap(m))
}

func start(path string) error {
	return exec.CommandContext(context.Background(), path, "nothing").Run()
}

// startSealed starts this program from memory.
func startSealed() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("probe", unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "probe")
	defer func() { _ = f.Close() }()
	if _, err := f.Write(self); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return err
	}
	return start(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func lock() error {
	m := make([]byte, 64<<10)
	return errors.Join(unix.Mlock(m), unix.Munlock(m))
}

func seccomp() error {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	return call(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
}

// core is an error if the process may leave its memory behind in a file.
func core() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return err
	}
	if limit.Max != 0 {
		return errors.New("unlimited")
	}
	return nil
}

// setUserID makes a file that others would run as this user.
func setUserID() error {
	if err := write("/tmp/set"); err != nil {
		return err
	}
	return unix.Chmod("/tmp/set", 0o4755)
}
