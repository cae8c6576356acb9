package sandbox

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// forbidden are the system calls that fail with EPERM: those that start
// programs, reach into other processes, or change the system. What an
// architecture does not have is left out.
var forbidden = []string{
	// Programs and other processes.
	"execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
	"pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp", "tkill", "rt_sigqueueinfo", "setns", "unshare",
	// The kernel and its keys.
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key", "keyctl",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog", "lookup_dcookie", "personality",
	"iopl", "ioperm", "modify_ldt", "vhangup", "acct", "quotactl", "quotactl_fd", "swapon", "swapoff", "nfsservctl", "fanotify_init",
	// The system's files, clock and names.
	"mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr",
	"open_by_handle_at", "name_to_handle_at", "mknod", "mknodat", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime",
	"sethostname", "setdomainname",
	// Whom a file belongs to and who may read it: Landlock does not look at these
	// (landlock(7), "Current limitations"), and the database and other PINs belong
	// to the same user. What is open can be changed by fchmod(2) and its like.
	"chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat",
	"setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr", "removexattrat",
}

// networkCalls fail too where the token needs no network. socketcall(2) is all of
// them in one, on architectures that have it.
var networkCalls = []string{"socket", "connect", "bind", "listen", "accept", "accept4", "socketcall"}

// whose has the argument that says which process a call is about: limits, the
// share of the processors and where memory lies, which any process may change for
// all of its user's, the daemon among them. 0 is the thread itself; another thread
// of the process has a number that a filter cannot know, and is refused too.
var whose = map[string]uint32{
	"prlimit64": 0, "sched_setaffinity": 0, "sched_setscheduler": 0, "sched_setparam": 0, "sched_setattr": 0,
	"migrate_pages": 0, "move_pages": 0, "setpriority": 1, "ioprio_set": 1,
}

// ofOneProcess are those whose first argument says whether a process is meant, by
// that value: the others are all processes of a group or a user.
var ofOneProcess = map[string]uint64{"setpriority": 0 /* PRIO_PROCESS */, "ioprio_set": 1 /* IOPRIO_WHO_PROCESS */}

// cloneThread is CLONE_THREAD of clone(2): without it clone makes a process.
const cloneThread = 0x10000

// restrictCalls installs the filter on all threads. The list says what is
// forbidden and not what is allowed, since nobody knows what a vendor's library
// calls; Landlock, which allows by name, is the other half.
func restrictCalls(network bool) error {
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	names := forbidden
	if !network {
		names = append(append([]string{}, forbidden...), networkCalls...)
	}
	refuse := seccomp.SyscallGroup{Action: seccomp.ActionErrno, Names: known(info, names)} // EPERM
	self := uint64(os.Getpid())
	for _, call := range known(info, []string{"kill", "tgkill"}) {
		refuse.NamesWithCondtions = append(refuse.NamesWithCondtions, seccomp.NameWithConditions{
			Name: call, Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: self}},
		})
	}
	for call, argument := range whose {
		for _, call := range known(info, []string{call}) {
			refuse.NamesWithCondtions = append(refuse.NamesWithCondtions, seccomp.NameWithConditions{
				Name: call, Conditions: seccomp.ArgumentConditions{
					{Argument: argument, Operation: seccomp.NotEqual, Value: 0}, {Argument: argument, Operation: seccomp.NotEqual, Value: self},
				},
			})
		}
	}
	for call, process := range ofOneProcess {
		for _, call := range known(info, []string{call}) {
			refuse.NamesWithCondtions = append(refuse.NamesWithCondtions, seccomp.NameWithConditions{
				Name: call, Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: process}},
			})
		}
	}
	refuse.NamesWithCondtions = append(refuse.NamesWithCondtions, seccomp.NameWithConditions{
		Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsNotSet, Value: cloneThread}},
	})
	// A filter does not see the flags of clone3. With this error the C library
	// falls back to clone.
	absent := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: known(info, []string{"clone3"})}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{refuse, absent}}
	program, err := policy.Assemble()
	if err != nil {
		return err
	}
	checks := append(nativeOnly(info), knownOnly(info)...)
	checks = append(checks, refuseValues(info, "fcntl", 1, ^uint32(0), unix.F_SETOWN, setOwnerEx, setSignal)...)
	checks = append(checks, refuseValues(info, "ioctl", 1, ^uint32(0), fioSetOwner, siocSetGroup)...)
	if !network {
		checks = append(checks, refuseOthers(info, "socketpair", 0, unix.AF_UNIX)...)
		checks = append(checks, refuseValues(info, "socketpair", 1, socketTypes, unix.SOCK_DGRAM, unix.SOCK_RAW)...)
	}
	return load(append(checks, program...))
}

// What has the kernel send signals to another process when a descriptor is
// ready: F_SETOWN_EX and F_SETSIG of fcntl(2), FIOSETOWN and SIOCSPGRP of
// ioctl(2).
const (
	setOwnerEx   = 15
	setSignal    = 10
	fioSetOwner  = 0x8901
	siocSetGroup = 0x8902
)

// socketTypes are the bits of a socket's type besides its flags. The ends of a
// pair of datagram sockets, of which SOCK_RAW is another name, send to every
// address without connect(2). So do those of other families that have pairs
// (tipc(7)), whatever their type.
const socketTypes = 0xf

func known(info *arch.Info, names []string) []string {
	var out []string
	for _, n := range names {
		if _, ok := info.SyscallNames[n]; ok {
			out = append(out, n)
		}
	}
	return out
}

// nativeOnly ends a process that calls the kernel by the numbers of another
// architecture, such as 32-bit x86, to which the list does not apply.
func nativeOnly(info *arch.Info) []bpf.Instruction {
	const archOffset = 4 // of struct seccomp_data
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
	}
}

// knownOnly refuses, as a kernel that lacks them does, system calls that are
// newer than the tables in which the names are looked up.
func knownOnly(info *arch.Info) []bpf.Instruction {
	newest := 0
	for number := range info.SyscallNumbers {
		newest = max(newest, number)
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(newest), SkipFalse: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	}
}

// refuseValues refuses a call if an argument has, under a mask, one of the
// values. It looks at the lower half of the argument, as the kernel does where
// it is an int: with the upper half set, it would not equal the value.
func refuseValues(info *arch.Info, call string, argument, mask uint32, values ...uint32) []bpf.Instruction {
	number, ok := info.SyscallNames[call]
	if !ok {
		return nil
	}
	out := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(2 + 2*len(values))},
		bpf.LoadAbsolute{Off: lowerHalf(argument), Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask},
	}
	for _, v := range values {
		out = append(out,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	return out
}

// refuseOthers refuses a call unless an argument, an int, has the value.
func refuseOthers(info *arch.Info, call string, argument, value uint32) []bpf.Instruction {
	number, ok := info.SyscallNames[call]
	if !ok {
		return nil
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: 3},
		bpf.LoadAbsolute{Off: lowerHalf(argument), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
	}
}

// lowerHalf is where struct seccomp_data has the lower half of an argument.
func lowerHalf(argument uint32) uint32 {
	offset := 16 + 8*argument
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		offset += 4
	}
	return offset
}

// load gives all threads of the process the filter, for good.
func load(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// no_new_privs is of a thread, and TSYNC hands it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case r != 0:
		return fmt.Errorf("seccomp: thread %d does not take the filter", r)
	}
	return nil
}
