/*
 * A PKCS#11 module for tests that has been taken over: when it is loaded, it
 * tries what a thief would, and writes to SPY_REPORT what came of each attempt,
 * a line each: name, a space, and "done" or the errno. Then it is the module in
 * SPY_MODULE.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CK_PTR *
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#include "pkcs11.h"

static void report(FILE *out, const char *name, int failed)
{
	if (failed)
		fprintf(out, "%s %s\n", name, strerrorname_np(errno));
	else
		fprintf(out, "%s done\n", name);
}

static int reads(const char *path)
{
	int fd = path ? open(path, O_RDONLY) : -1;
	if (fd >= 0)
		close(fd);
	return fd;
}

static int writes(const char *path)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT, 0600) : -1;
	if (fd >= 0)
		close(fd);
	return fd;
}

/* forks makes a process that ends: as a copy of the plugin it would read the plugin's requests. */
static int forks(void)
{
	pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	if (child > 0)
		waitpid(child, NULL, 0);
	return child < 0 ? -1 : 0;
}

static int runs(void)
{
	char *argv[] = {"true", NULL};
	pid_t child;
	int rc = posix_spawn(&child, "/bin/true", NULL, NULL, argv, NULL);
	if (rc != 0) {
		errno = rc;
		return -1;
	}
	waitpid(child, NULL, 0);
	return 0;
}

static int execs(void)
{
	char *argv[] = {"true", NULL};
	pid_t child = fork(); /* where that fails, this process itself has to try */
	if (child <= 0)
		return execv("/bin/true", argv);
	waitpid(child, NULL, 0);
	return 0;
}

static int connects(int family, int port)
{
	int s = socket(family, SOCK_STREAM, 0);
	if (s < 0)
		return -1;
	int rc = 0;
	if (family == AF_INET) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		rc = connect(s, (struct sockaddr *)&a, sizeof a);
	}
	int saved = errno;
	close(s);
	errno = saved;
	return rc;
}

/* traces lets go again: who is traced stops at each signal, and a Go program has many. */
static int traces(pid_t whom)
{
	if (ptrace(PTRACE_SEIZE, whom, 0, 0) < 0)
		return -1;
	ptrace(PTRACE_INTERRUPT, whom, 0, 0);
	waitpid(whom, NULL, __WALL);
	ptrace(PTRACE_DETACH, whom, 0, 0);
	return 0;
}

static int copies(pid_t from)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/mem", (int)from);
	return reads(path);
}

/* datagram sends without socket(2): the ends of a pair take addresses too. */
static int datagram(const char *to)
{
	int pair[2];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (!to || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	strncpy(a.sun_path, to, sizeof a.sun_path - 1);
	return sendto(pair[0], "secret", 6, 0, (struct sockaddr *)&a, sizeof a) < 0 ? -1 : 0;
}

/* asks asks the daemon on its socket for its status, as the daemon's own user may. */
static int asks(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	static const char request[] = "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
	char answer;
	int s = path ? socket(AF_UNIX, SOCK_STREAM, 0) : -1;
	if (s < 0)
		return -1;
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	if (connect(s, (struct sockaddr *)&a, sizeof a) < 0)
		return -1;
	if (send(s, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
		return -1;
	ssize_t n = recv(s, &answer, 1, 0);
	if (n == 0)
		errno = ECONNRESET;
	return n == 1 ? 0 : -1;
}

/*
 * pairs asks for a pair of sockets of another family than AF_UNIX: of TIPC they send to every
 * address. Few kernels have that, but any says itself that AF_INET has no pairs, if it is let.
 */
static int pairs(void)
{
	int pair[2];
	return socketpair(AF_INET, SOCK_STREAM, 0, pair) < 0 && errno != EOPNOTSUPP ? -1 : 0;
}

/* limits sets the limit of another process to what it is. */
static int limits(pid_t of)
{
	struct rlimit l;
	if (prlimit(0, RLIMIT_NOFILE, NULL, &l) < 0)
		return -1;
	return prlimit(of, RLIMIT_NOFILE, &l, NULL);
}

/*
 * owns has the kernel send another process a signal when something can be read.
 * The kernel looks at the lower half of the command only.
 */
static int owns(long command, pid_t whom)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -1;
	return syscall(SYS_fcntl, pair[0], command, whom) < 0 ? -1 : 0;
}

static int owns_by_ioctl(long command, pid_t whom)
{
	int pair[2], owner = whom;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -1;
	return syscall(SYS_ioctl, pair[0], command, &owner) < 0 ? -1 : 0;
}

__attribute__((constructor)) static void spy(void)
{
	const char *path = getenv("SPY_REPORT");
	FILE *out = path ? fopen(path, "w") : NULL;
	if (!out)
		return;
	report(out, "own-report", 0);
	report(out, "read-database", reads(getenv("SPY_DATABASE")) < 0);
	report(out, "write-database", writes(getenv("SPY_DATABASE")) < 0);
	report(out, "read-other-pin", reads(getenv("SPY_OTHER_PIN")) < 0);
	report(out, "read-shadow", reads("/etc/shadow") < 0);
	report(out, "write-tmp", writes("/tmp/cmkd-spy") < 0);
	report(out, "write-module", writes(getenv("SPY_MODULE")) < 0);
	report(out, "spawn", runs() < 0);
	report(out, "exec", execs() < 0);
	report(out, "fork", forks() < 0);
	report(out, "tcp", connects(AF_INET, atoi(getenv("SPY_PORT") ? getenv("SPY_PORT") : "0")) < 0);
	report(out, "unix-socket", connects(AF_UNIX, 0) < 0);
	report(out, "ptrace-parent", traces(getppid()) < 0);
	report(out, "parent-memory", copies(getppid()) < 0);
	report(out, "signal-parent", kill(getppid(), 0) < 0);
	report(out, "io_uring", syscall(425, 1, (void *)0) < 0);
	const char *database = getenv("SPY_DATABASE");
	report(out, "chmod-database", !database || chmod(database, 0666) < 0);
	report(out, "chown-database", !database || chown(database, getuid(), getgid()) < 0);
	report(out, "label-database", !database || setxattr(database, "user.spy", "1", 1, 0) < 0);
	report(out, "datagram", datagram(getenv("SPY_DATAGRAM")) < 0);
	if (getenv("SPY_SOCKET"))
		report(out, "ask-daemon", asks(getenv("SPY_SOCKET")) < 0);
	report(out, "pair-of-another-family", pairs() < 0);
	report(out, "limit-parent", limits(getppid()) < 0);
	report(out, "owner-parent", owns(F_SETOWN, getppid()) < 0);
	report(out, "owner-parent-high", owns(0x100000000L | F_SETOWN, getppid()) < 0);
	report(out, "owner-parent-ioctl", owns_by_ioctl(0x8901, getppid()) < 0); /* FIOSETOWN */
	report(out, "owner-parent-ioctl-high", owns_by_ioctl(0x100008902L, getppid()) < 0); /* SIOCSPGRP */
	report(out, "new-call", syscall(469, -1, "", NULL, 0, 0) < 0); /* file_setattr(2), newer than the list */
	const int parent = getppid(), nobody = 1999999999; /* a user without processes: without walls ESRCH */
	cpu_set_t processors;
	struct sched_param batch = {0};
	report(out, "nice-parent", setpriority(PRIO_PROCESS, parent, getpriority(PRIO_PROCESS, parent)) < 0);
	report(out, "nice-user", setpriority(PRIO_USER, nobody, 0) < 0);
	report(out, "nice-group", setpriority(PRIO_PGRP, 0, getpriority(PRIO_PROCESS, 0)) < 0);
	report(out, "processors-of-parent", sched_getaffinity(parent, sizeof processors, &processors) < 0 ||
		sched_setaffinity(parent, sizeof processors, &processors) < 0);
	report(out, "scheduler-of-parent", sched_setscheduler(parent, sched_getscheduler(parent), &batch) < 0);
	report(out, "parameters-of-parent", sched_setparam(parent, &batch) < 0);
	report(out, "disk-of-parent", syscall(SYS_ioprio_set, 1, parent, 2 << 13 | 4) < 0);
	report(out, "disk-of-user", syscall(SYS_ioprio_set, 3, nobody, 2 << 13 | 4) < 0);
	report(out, "keyring", syscall(250, 0, -3, 0) < 0);
	fclose(out);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	void *behind = dlopen(getenv("SPY_MODULE"), RTLD_NOW);
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = behind ? (CK_RV(*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(behind, "C_GetFunctionList") : NULL;
	return get ? get(list) : CKR_GENERAL_ERROR;
}
