/* Counts the calls by which a process changes files below one directory, opens them, or talks to a server, and lets one
 * of them fail. Preloaded (LD_PRELOAD), so that it reaches torch's, safetensors' and SQLite's own calls as well as
 * Python's. Does nothing before fault_begin() is called.
 *
 * A point is named by the kind of the call, the path, in which the random part of a temporary name is left out, and how
 * many such calls came before it: this name is the same in every run, where a running number is not, since how often
 * progress is reported depends on the clock. Mapped files that are written by the kernel are not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE, CREATE, OPEN, RENAME, FSYNC, MKDIR, UNLINK, TRUNCATE, CONNECT, SEND, RECEIVE };
static const char *const NAMES[] = {"write", "create", "open",    "rename", "fsync",  "mkdir",
                                    "unlink", "truncate", "connect", "send", "receive"};
enum action { NOTHING, FAIL, KILL, TEAR, FILL };
/* FAIL: the call fails. KILL: the process is killed in place of it. TEAR: half of it is written, and the process is
 * killed. FILL: half of it is written, and from then on the disk is full. */

static struct {
  int is_active, log, action, error, is_reached;
  unsigned later; /* kinds that fail as well from the point on, a bit each */
  int nth;        /* calls of this name that are let through before */
  char root[PATH_MAX], name[PATH_MAX + 16];
} plan;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fault_begin(const char *root, int log, const char *name, int nth, int action, int error, unsigned later) {
  snprintf(plan.root, sizeof plan.root, "%s/", root);
  snprintf(plan.name, sizeof plan.name, "%s", name);
  plan.nth = nth, plan.action = action, plan.error = error, plan.later = later;
  plan.log = log, plan.is_reached = 0, plan.is_active = 1;
}

int fault_reached(void) { return plan.is_reached; }

/* Writes the point's name, such as "write artifacts/x/manifest.json.tmp"; returns 0 where the path is none of ours. */
static int named(char *name, enum kind kind, const char *path) {
  size_t root = strlen(plan.root);
  if (strncmp(path, plan.root, root) != 0 || strstr(path, "/../")) return 0;
  int length = snprintf(name, PATH_MAX + 16, "%s %s", NAMES[kind], path + root);
  if (length > 13 && strcmp(name + length - 4, ".tmp") == 0 && name[length - 13] == '.' &&
      strspn(name + length - 12, "0123456789abcdef") == 8)
    strcpy(name + length - 13, ".tmp");
  return 1;
}

/* Returns what is to happen at a call: NOTHING, FAIL, with errno set, TEAR or FILL. */
static enum action at(enum kind kind, const char *path) {
  static _Thread_local char name[PATH_MAX + 16];
  if (!plan.is_active) return NOTHING;
  if (kind >= CONNECT) snprintf(name, sizeof name, "%s server", NAMES[kind]);
  else if (!named(name, kind, path)) return NOTHING;
  enum action found = NOTHING;
  pthread_mutex_lock(&lock);
  if (plan.log >= 0) {
    size_t length = strlen(name);
    name[length] = '\n';
    syscall(SYS_write, plan.log, name, length + 1);
    name[length] = 0;
  }
  if (plan.is_reached) {
    if (plan.later & (1u << kind)) found = FAIL;
  } else if (plan.action != NOTHING && strcmp(name, plan.name) == 0 && plan.nth-- == 0) {
    plan.is_reached = 1;
    found = plan.action;
  }
  pthread_mutex_unlock(&lock);
  if (found == KILL) syscall(SYS_kill, getpid(), SIGKILL);
  if (found == FAIL) errno = plan.error;
  return found;
}

static const char *absolute(char *buffer, int folder, const char *path) {
  if (path[0] == '/') return path;
  char link[40];
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
  if (length < 0) return "";
  snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  return buffer;
}

static const char *open_path(char *buffer, int descriptor) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
  buffer[length < 0 ? 0 : length] = 0;
  return buffer;
}

#define REAL(type, symbol, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, symbol))
#define PATH_OF(folder, path) (plan.is_active ? absolute((char[PATH_MAX]){0}, folder, path) : "")
#define PATH_AT(descriptor) (plan.is_active ? open_path((char[PATH_MAX]){0}, descriptor) : "")

/* --- writing --------------------------------------------------------------------------------------------------- */

static ssize_t part(enum action action, int descriptor, const void *bytes, size_t size, off_t offset) {
  size_t half = size / 2;
  ssize_t done = offset < 0 ? syscall(SYS_write, descriptor, bytes, half)
                            : syscall(SYS_pwrite64, descriptor, bytes, half, offset);
  if (action == TEAR) syscall(SYS_kill, getpid(), SIGKILL);
  if (half == 0) errno = plan.error, done = -1; /* a call that writes nothing would be repeated for ever */
  return done;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
  enum action action = at(WRITE, PATH_AT(descriptor));
  if (action == FAIL) return -1;
  if (action != NOTHING) return part(action, descriptor, bytes, size, -1);
  return REAL(ssize_t, "write", int, const void *, size_t)(descriptor, bytes, size);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off_t offset) {
  enum action action = at(WRITE, PATH_AT(descriptor));
  if (action == FAIL) return -1;
  if (action != NOTHING) return part(action, descriptor, bytes, size, offset);
  return REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(descriptor, bytes, size, offset);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
  return pwrite64(descriptor, bytes, size, offset);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  enum action action = at(WRITE, PATH_AT(descriptor));
  if (action == FAIL) return -1;
  if (action != NOTHING) return part(action, descriptor, parts->iov_base, parts->iov_len, -1);
  return REAL(ssize_t, "writev", int, const struct iovec *, int)(descriptor, parts, count);
}

ssize_t sendfile64(int target, int source, off_t *offset, size_t size) {
  if (at(WRITE, PATH_AT(target)) != NOTHING) {
    errno = plan.error;
    return -1;
  }
  return REAL(ssize_t, "sendfile64", int, int, off_t *, size_t)(target, source, offset, size);
}

ssize_t sendfile(int target, int source, off_t *offset, size_t size) {
  return sendfile64(target, source, offset, size);
}

ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t size, unsigned flags) {
  if (at(WRITE, PATH_AT(target)) != NOTHING) {
    errno = plan.error;
    return -1;
  }
  return REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned)(source, from, target, to,
                                                                                             size, flags);
}

/* Nothing here outlives the machine, so a sync that is to succeed costs nothing. */
int fsync(int descriptor) {
  const char *path = PATH_AT(descriptor);
  if (at(FSYNC, path) != NOTHING) return -1;
  return plan.is_active && strncmp(path, plan.root, strlen(plan.root)) == 0 ? 0 : (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) { return fsync(descriptor); }

int ftruncate64(int descriptor, off_t size) {
  if (at(TRUNCATE, PATH_AT(descriptor)) != NOTHING) return -1;
  return (int)syscall(SYS_ftruncate, descriptor, size);
}

int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }

int truncate64(const char *path, off_t size) {
  if (at(TRUNCATE, PATH_OF(AT_FDCWD, path)) != NOTHING) return -1;
  return (int)syscall(SYS_truncate, path, size);
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

/* --- names ----------------------------------------------------------------------------------------------------- */

static int opened(int folder, const char *path, int flags, mode_t mode) {
  enum kind kind = (flags & O_ACCMODE) == O_RDONLY ? OPEN : CREATE;
  if (!(flags & O_DIRECTORY) && at(kind, PATH_OF(folder, path)) != NOTHING) return -1;
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags)                          \
  mode_t mode = 0;                           \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {   \
    va_list more;                            \
    va_start(more, flags);                   \
    mode = va_arg(more, mode_t);             \
    va_end(more);                            \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  MODE(flags)
  return opened(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
  MODE(flags)
  return opened(folder, path, flags, mode);
}

FILE *fopen64(const char *path, const char *mode) {
  if (at(strpbrk(mode, "wa+") ? CREATE : OPEN, PATH_OF(AT_FDCWD, path)) != NOTHING) return NULL;
  return REAL(FILE *, "fopen64", const char *, const char *)(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

int rename(const char *from, const char *to) {
  if (at(RENAME, PATH_OF(AT_FDCWD, to)) != NOTHING) return -1;
  return (int)syscall(SYS_rename, from, to);
}

int renameat(int source, const char *from, int target, const char *to) {
  if (at(RENAME, PATH_OF(target, to)) != NOTHING) return -1;
  return (int)syscall(SYS_renameat2, source, from, target, to, 0);
}

int renameat2(int source, const char *from, int target, const char *to, unsigned flags) {
  if (at(RENAME, PATH_OF(target, to)) != NOTHING) return -1;
  return (int)syscall(SYS_renameat2, source, from, target, to, flags);
}

int mkdir(const char *path, mode_t mode) {
  if (at(MKDIR, PATH_OF(AT_FDCWD, path)) != NOTHING) return -1;
  return (int)syscall(SYS_mkdir, path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  if (at(MKDIR, PATH_OF(folder, path)) != NOTHING) return -1;
  return (int)syscall(SYS_mkdirat, folder, path, mode);
}

int unlink(const char *path) {
  if (at(UNLINK, PATH_OF(AT_FDCWD, path)) != NOTHING) return -1;
  return (int)syscall(SYS_unlink, path);
}

int unlinkat(int folder, const char *path, int flags) {
  if (at(UNLINK, PATH_OF(folder, path)) != NOTHING) return -1;
  return (int)syscall(SYS_unlinkat, folder, path, flags);
}

int rmdir(const char *path) {
  if (at(UNLINK, PATH_OF(AT_FDCWD, path)) != NOTHING) return -1;
  return (int)syscall(SYS_rmdir, path);
}

/* --- the network ----------------------------------------------------------------------------------------------- */

static int is_of_network(int descriptor) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (!plan.is_active || syscall(SYS_getsockname, descriptor, &address, &size) != 0) return 0;
  return address.ss_family == AF_INET || address.ss_family == AF_INET6;
}

int connect(int descriptor, const struct sockaddr *address, socklen_t size) {
  if (is_of_network(descriptor) && at(CONNECT, "") != NOTHING) return -1;
  return (int)syscall(SYS_connect, descriptor, address, size);
}

ssize_t sendto(int descriptor, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
  enum action action = is_of_network(descriptor) ? at(SEND, "") : NOTHING;
  if (action == FAIL) return -1;
  if (action == TEAR) {
    syscall(SYS_sendto, descriptor, bytes, size / 2, flags, to, length);
    syscall(SYS_kill, getpid(), SIGKILL);
  }
  return syscall(SYS_sendto, descriptor, bytes, size, flags, to, length);
}

ssize_t send(int descriptor, const void *bytes, size_t size, int flags) {
  return sendto(descriptor, bytes, size, flags, NULL, 0);
}

ssize_t recvfrom(int descriptor, void *bytes, size_t size, int flags, struct sockaddr *from, socklen_t *length) {
  if (is_of_network(descriptor) && at(RECEIVE, "") != NOTHING) return errno == ENODATA ? 0 : -1; /* ENODATA: hung up */
  return syscall(SYS_recvfrom, descriptor, bytes, size, flags, from, length);
}

ssize_t recv(int descriptor, void *bytes, size_t size, int flags) {
  return recvfrom(descriptor, bytes, size, flags, NULL, NULL);
}
