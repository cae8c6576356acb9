// Package sandbox locks a plugin's process in before it loads the vendor's
// PKCS#11 module: Landlock (landlock(7)) for files, seccomp (seccomp(2)) for
// what else a library has no business with. Nothing lifts either again.
//
// What is left to a module that has been taken over is the token itself, to
// which it is logged in, and what the configuration of the token opens.
package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Policy is what a process may still reach. Paths are absolute; those that do
// not exist are left out, folders count with all that is in them.
type Policy struct {
	Readable []string // besides the system's libraries and their configuration
	Writable []string // and readable
	// Network allows sockets of every kind, Unix sockets included.
	Network bool
}

// systemFolders hold libraries, vendors' software and what the C library asks
// of a system. /etc and /var as a whole are not among them: PINs and databases
// are there.
var systemFolders = []string{
	"/usr", "/lib", "/lib32", "/lib64", "/opt", "/sys/devices/system/cpu", "/sys/devices/system/node",
	"/etc/alternatives", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/crypto-policies", "/etc/pkcs11", "/etc/ld.so.conf.d",
}

var systemFiles = []string{
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.preload", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/gcrypt",
	"/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf",
	"/etc/services", "/etc/protocols", "/etc/gai.conf", "/etc/machine-id",
	"/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/crypto", "/proc/sys/kernel/ngroups_max",
	"/proc/sys/kernel/random", "/proc/sys/vm/overcommit_memory", "/dev/random", "/dev/urandom",
}

var deviceFiles = []string{"/dev/null", "/dev/zero", "/dev/full"}

// Enter locks the process in, all of its threads. It fails rather than leave
// the process outside, except that a kernel may lack Landlock (before Linux 5.13,
// or switched off): then files stay open to the module, and the log says so.
func Enter(p Policy, log *slog.Logger) error {
	readable, err := existing(append(append([]string{}, systemFolders...), p.Readable...), systemFiles)
	if err != nil {
		return err
	}
	writable, err := existing(p.Writable, deviceFiles)
	if err != nil {
		return err
	}
	// Its own memory map and limits: /proc/self is resolved now, for this
	// process.
	own := fmt.Sprintf("/proc/%d", os.Getpid())
	rules := []landlock.Rule{
		landlock.RODirs(readable.folders...), landlock.ROFiles(readable.files...), landlock.RODirs(own),
		// Sockets, FIFOs and devices are a vendor's to make in its folder; ioctl
		// is how a driver of a PCI card is called.
		landlock.RWDirs(writable.folders...).WithIoctlDev(), landlock.RWFiles(writable.files...).WithIoctlDev(),
	}
	if version, err := ll.LandlockGetABIVersion(); err != nil || version < 1 {
		log.Warn("the kernel has no Landlock: the PKCS#11 module can read every file that the daemon's user can")
	} else if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("restricting files: %w", err)
	}
	if err := restrictCalls(p.Network); err != nil {
		return fmt.Errorf("restricting system calls: %w", err)
	}
	return nil
}

// paths are folders, and what are not.
type paths struct{ folders, files []string }

// existing sorts out what is there.
func existing(lists ...[]string) (paths, error) {
	var out paths
	for _, list := range lists {
		for _, path := range list {
			if !filepath.IsAbs(path) {
				return out, fmt.Errorf("the path %q is not absolute", path)
			}
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
			case err != nil:
				return out, err
			case info.IsDir():
				out.folders = append(out.folders, path)
			default:
				out.files = append(out.files, path)
			}
		}
	}
	return out, nil
}
