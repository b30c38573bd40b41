/* patch_os.c: reading and writing descriptors, and waiting for children.
 *
 * A descriptor belongs to whoever shares it, other processes too, so its O_NONBLOCK is never
 * touched.  What it is decides how a call is kept from blocking:
 *
 *     regular files, disks                the original: they are always ready; or fs.c, if
 *                                         patch(files=True) is on
 *     directories                         the original
 *     sockets                             MSG_DONTWAIT
 *     pipes                               RWF_NOWAIT where the kernel has it (Linux 6.4)
 *     pipes elsewhere, terminals, ...     poll() first, then no more than cannot block
 *
 * A descriptor that the program has made non-blocking is left to the original.  Children are
 * waited for by a pidfd; where none can say it, waitid(WNOWAIT) in a native thread tells when to
 * look, and takes nothing.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define TURNS 64      /* operations that do not park before others get their turn */
#define TTY_PIECE 128 /* bytes that a terminal takes when it says that it takes any */

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/* ---- descriptors --------------------------------------------------------------- */
EgFdKind
eg_os_kind(int fd)
{
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0)
        return EG_FD_NATIVE; /* its call says what is wrong */
    switch (status.st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFBLK:
        return eg_file_on() && eg_os_may_wait() ? EG_FD_FILE : EG_FD_NATIVE;
    case S_IFDIR:
    case S_IFLNK:
        return EG_FD_NATIVE;
    case S_IFIFO:
        return EG_FD_PIPE;
    case S_IFSOCK:
        return EG_FD_SOCKET;
    default:
        return EG_FD_DEVICE; /* a terminal, or one of the kernel's: eventfd, inotify ... */
    }
}

static bool
fd_is_ready(int fd, int events)
{
    struct pollfd entry = {.fd = fd, .events = events == EG_READ ? POLLIN : POLLOUT};
    return poll(&entry, 1, 0) != 0;
}

bool
eg_os_may_wait(void)
{
    if (!eg_hub_cooperates() || eg_hub_here->forbidden)
        return false;
    if (eg_hub_task(eg_hub_here))
        return true;
    PyErr_Clear();
    return false;
}

/* Park until it may be ready: 1; 0: its call does not wait: the program has made it non-blocking, or
 * has opened it for the other direction; -1: exception, EAGAIN: in vain for as long as a socket's
 * option says. *deadline: 0 before the first wait of a call. */
static int
fd_wait(int fd, EgFdKind kind, int events, uint64_t *deadline)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if ((flags & O_NONBLOCK) || (flags & O_ACCMODE) == (events == EG_READ ? O_WRONLY : O_RDONLY))
        return 0;
    if (!*deadline)
        *deadline = kind == EG_FD_SOCKET ? eg_socket_limit(fd, events, false) : EG_FOREVER;
    EgTask *me = eg_wait_begin();
    int status = me ? eg_fd_wait(me, fd, events, *deadline, NULL) : -1;
    if (status == 0) {
        errno = EAGAIN;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return status > 0 ? 1 : -1;
}

/* The same, for a call that has not tried: 1: it is ready now. */
static int
fd_wait_until(int fd, EgFdKind kind, int events)
{
    uint64_t deadline = 0;
    while (!fd_is_ready(fd, events)) {
        int status = fd_wait(fd, kind, events, &deadline);
        if (status <= 0)
            return status;
    }
    return 1;
}

static int os_turns; /* operations since somebody last parked */

int
eg_os_give_way(void)
{
    os_turns = 0;
    EgTask *me = eg_os_may_wait() ? eg_wait_begin() : NULL;
    return me ? eg_wait_yield_first(me) : PyErr_Occurred() ? -1 : 0;
}

/* A task whose descriptors are always ready must not starve the others. */
int
eg_os_turn(void)
{
    if (EG_LIKELY(++os_turns < TURNS && eg_clock_ticks() < eg_hub_here->slice_end))
        return 0;
    return eg_os_give_way();
}

int
eg_os_turn_after(void)
{
    if (EG_LIKELY(++os_turns < TURNS && !eg_hub_slice_is_over(eg_hub_here)))
        return 0;
    os_turns = 0;
    return eg_wait_give_way();
}

/* Whether the kernel has no RWF_NOWAIT for this file. */
static bool
nowait_is_unknown(void)
{
    return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL;
}

/* As read(2), but EAGAIN where it would block. */
static ssize_t
fd_read(int fd, EgFdKind kind, void *into, size_t size)
{
    ssize_t got;
    if (kind == EG_FD_SOCKET)
        return recv(fd, into, size, MSG_DONTWAIT);
    if (kind == EG_FD_PIPE) {
        struct iovec part = {into, size};
        got = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
        if (got >= 0 || !nowait_is_unknown())
            return got;
    }
    if (!fd_is_ready(fd, EG_READ)) {
        errno = EAGAIN;
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    got = read(fd, into, size);
    Py_END_ALLOW_THREADS
    return got;
}

/* As write(2), but perhaps of less than all, and EAGAIN where it would block. */
static ssize_t
fd_write(int fd, EgFdKind kind, const void *from, size_t size)
{
    ssize_t sent;
    if (kind == EG_FD_SOCKET)
        return send(fd, from, size, MSG_DONTWAIT);
    if (kind == EG_FD_PIPE) {
        struct iovec part = {(void *)from, size};
        sent = pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
        if (sent >= 0 || !nowait_is_unknown())
            return sent;
    }
    if (!fd_is_ready(fd, EG_WRITE)) {
        errno = EAGAIN;
        return -1;
    }
    size_t most = kind == EG_FD_PIPE ? PIPE_BUF : isatty(fd) ? TTY_PIECE : size;
    Py_BEGIN_ALLOW_THREADS
    sent = write(fd, from, size < most ? size : most);
    Py_END_ALLOW_THREADS
    return sent;
}

ssize_t
eg_os_read(int fd, EgFdKind kind, void *into, size_t size)
{
    uint64_t deadline = 0;
    if (kind == EG_FD_FILE)
        return eg_fs_read(fd, into, size, -1);
    for (;;) {
        ssize_t got = fd_read(fd, kind, into, size);
        if (got >= 0)
            return got;
        int code = errno, status = 1;
        if (code == EINTR)
            status = PyErr_CheckSignals() < 0 ? -1 : 1;
        else if (code != EAGAIN)
            status = 0;
        else if ((status = fd_wait(fd, kind, EG_READ, &deadline)) == 0)
            return EG_OS_NONBLOCKING;
        if (status == 0) {
            errno = code;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        if (status <= 0)
            return -1;
    }
}

ssize_t
eg_os_write(int fd, EgFdKind kind, const void *from, size_t size)
{
    size_t sent = 0;
    uint64_t deadline = 0;
    if (kind == EG_FD_FILE)
        return eg_fs_write(fd, from, size, -1);
    do {
        ssize_t some = fd_write(fd, kind, (const char *)from + sent, size - sent);
        if (some == 0) /* a device that takes nothing, and says so */
            break;
        if (some > 0) {
            sent += (size_t)some;
            continue;
        }
        int code = errno, status = 1;
        if (code == EINTR)
            status = PyErr_CheckSignals() < 0 ? -1 : 1;
        else if (code != EAGAIN)
            status = 0;
        else if ((status = fd_wait(fd, kind, EG_WRITE, &deadline)) == 0)
            return sent ? (ssize_t)sent : EG_OS_NONBLOCKING;
        else if (status < 0 && sent && eg_patch_errno() == EAGAIN) {
            PyErr_Clear();
            break;
        }
        if (status == 0) {
            if (sent)
                break; /* as the kernel: the error comes next time */
            errno = code;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        if (status <= 0)
            return -1;
    } while (sent < size);
    return (ssize_t)sent;
}

/* ---- arguments -------------------------------------------------------------------- */
/* False, without an exception, leaves it to the original to complain. */
bool
eg_os_int(PyObject *object, int *value)
{
    long number = PyLong_Check(object) ? PyLong_AsLong(object) : -1;
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    *value = (int)number;
    return PyLong_Check(object) && number == *value;
}

bool
eg_os_arrange(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, const char *const *names,
              Py_ssize_t count, PyObject **full)
{
    if (n > count)
        return false;
    for (Py_ssize_t i = 0; i < count; i++)
        full[i] = i < n ? args[i] : NULL;
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        Py_ssize_t i = 0;
        while (i < count
               && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), names[i]))
            i++;
        if (i == count || full[i])
            return false;
        full[i] = args[n + k];
    }
    return true;
}

/* ---- reading ------------------------------------------------------------------------ */
EG_PATCH(os_read, "posix", "read", "os");

static PyObject *
os_read(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    EgFdKind kind = EG_FD_NATIVE;
    Py_ssize_t size = 0;
    if (eg_hub_cooperates() && n == 2 && !kwnames && eg_os_int(args[0], &fd)
        && PyLong_Check(args[1])) {
        size = PyLong_AsSsize_t(args[1]);
        kind = size > 0 ? eg_os_kind(fd) : EG_FD_NATIVE;
        PyErr_Clear();
    }
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&os_read_patch, self, args, n, kwnames);
    if (eg_os_turn() < 0)
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return NULL;
    ssize_t got = eg_os_read(fd, kind, PyBytes_AS_STRING(bytes), (size_t)size);
    if (got < 0) {
        Py_DECREF(bytes);
        return got == EG_OS_NONBLOCKING
                   ? eg_patch_call_original(&os_read_patch, self, args, n, NULL)
                   : NULL;
    }
    if (got != size)
        _PyBytes_Resize(&bytes, got);
    return bytes;
}

EG_PATCH(os_readv, "posix", "readv", "os");

static PyObject *
os_readv(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    EgFdKind kind = EG_FD_NATIVE;
    if (eg_hub_cooperates() && n == 2 && !kwnames && eg_os_int(args[0], &fd))
        kind = eg_os_kind(fd);
    if (kind == EG_FD_FILE)
        return eg_patch_offload("offload_file", &os_readv_patch, self, args, n, kwnames);
    if (kind != EG_FD_NATIVE && (eg_os_turn() < 0 || fd_wait_until(fd, kind, EG_READ) < 0))
        return NULL;
    return eg_patch_call_original(&os_readv_patch, self, args, n, kwnames);
}

/* ---- writing -------------------------------------------------------------------------- */
EG_PATCH(os_write, "posix", "write", "os");

static PyObject *
os_write(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    Py_buffer buffer;
    EgFdKind kind = EG_FD_NATIVE;
    if (n == 2 && !kwnames && eg_os_int(args[0], &fd) && eg_os_may_wait())
        kind = eg_os_kind(fd);
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&os_write_patch, self, args, n, kwnames);
    if (eg_wait_check() < 0)
        return NULL;
    if (PyUnicode_Check(args[1]) || PyObject_GetBuffer(args[1], &buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return eg_patch_call_original(&os_write_patch, self, args, n, NULL);
    }
    ssize_t sent = eg_os_write(fd, kind, buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    if (sent == EG_OS_NONBLOCKING)
        return eg_patch_call_original(&os_write_patch, self, args, n, NULL);
    return sent < 0 || eg_os_turn_after() < 0 ? NULL : PyLong_FromSsize_t(sent);
}

EG_PATCH(os_writev, "posix", "writev", "os");

static PyObject *
os_writev(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    EgFdKind kind = EG_FD_NATIVE;
    if (n == 2 && !kwnames && eg_os_int(args[0], &fd) && PySequence_Check(args[1])
        && eg_os_may_wait())
        kind = eg_os_kind(fd);
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&os_writev_patch, self, args, n, kwnames);
    if (eg_wait_check() < 0)
        return NULL;
    PyObject *nothing = PyBytes_FromStringAndSize(NULL, 0);
    PyObject *whole = nothing ? PyObject_CallMethod(nothing, "join", "(O)", args[1]) : NULL;
    Py_XDECREF(nothing);
    if (!whole) { /* what is no bytes-like object, the original calls by its name */
        PyErr_Clear();
        return eg_patch_call_original(&os_writev_patch, self, args, n, NULL);
    }
    ssize_t sent = eg_os_write(fd, kind, PyBytes_AS_STRING(whole), (size_t)PyBytes_GET_SIZE(whole));
    Py_DECREF(whole);
    if (sent == EG_OS_NONBLOCKING)
        return eg_patch_call_original(&os_writev_patch, self, args, n, NULL);
    return sent < 0 || eg_os_turn_after() < 0 ? NULL : PyLong_FromSsize_t(sent);
}

/* How much a socket takes for certain, now that it is writable. */
static Py_ssize_t
socket_room(int fd)
{
    uint32_t memory[SK_MEMINFO_VARS];
    socklen_t length = sizeof memory;
    int family = AF_UNIX;
    socklen_t size = sizeof family;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) < 0
        || getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) < 0)
        return 1024;
    uint32_t limit = memory[SK_MEMINFO_SNDBUF];
    uint32_t used = memory[family == AF_UNIX ? SK_MEMINFO_WMEM_ALLOC : SK_MEMINFO_WMEM_QUEUED];
    /* Half of what is left: each packet has a header that counts, too. */
    return limit > used + 2048 ? (Py_ssize_t)(limit - used) / 2 : 1024;
}

EG_PATCH(os_sendfile, "posix", "sendfile", "os");

/* sendfile() may send less than it is asked to: here no more than does not block. */
static PyObject *
os_sendfile(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"out_fd", "in_fd", "offset", "count"};
    PyObject *full[4];
    int fd, from;
    EgFdKind kind = EG_FD_NATIVE;
    Py_ssize_t count = 0;
    if (eg_os_may_wait() && eg_os_arrange(args, n, kwnames, names, 4, full) && full[3]
        && eg_os_int(full[0], &fd) && eg_os_int(full[1], &from) && PyLong_Check(full[3])) {
        count = PyLong_AsSsize_t(full[3]);
        kind = count > 0 ? eg_os_kind(fd) : EG_FD_NATIVE;
        PyErr_Clear();
    }
    if (kind == EG_FD_FILE)
        return eg_patch_offload("offload_file", &os_sendfile_patch, self, args, n, kwnames);
    if (kind != EG_FD_SOCKET && kind != EG_FD_PIPE)
        return eg_patch_call_original(&os_sendfile_patch, self, args, n, kwnames);
    int status = eg_wait_check() < 0 ? -1 : fd_wait_until(fd, kind, EG_WRITE);
    if (status < 0)
        return NULL;
    if (status > 0) {
        off_t at = full[2] != Py_None && PyLong_Check(full[2]) ? (off_t)PyLong_AsLongLong(full[2])
                                                               : lseek(from, 0, SEEK_CUR);
        PyErr_Clear();
        Py_ssize_t room = kind == EG_FD_SOCKET ? socket_room(fd)
                          : at < 0             ? 1
                                               : PIPE_BUF - (Py_ssize_t)(at % PIPE_BUF);
        count = count < room ? count : room; /* of a pipe one page, which takes one slot */
    }
    PyObject *number = PyLong_FromSsize_t(count);
    if (!number)
        return NULL;
    full[3] = number;
    PyObject *result = eg_patch_call_original(&os_sendfile_patch, self, full, 4, NULL);
    Py_DECREF(number);
    if (result && eg_os_turn_after() < 0)
        Py_CLEAR(result);
    return result;
}

EG_PATCH(os_eventfd_read, "posix", "eventfd_read", "os");
EG_PATCH(os_eventfd_write, "posix", "eventfd_write", "os");

static PyObject *
eventfd_call(const EgPatch *patch, int events, PyObject *self, PyObject *const *args, Py_ssize_t n,
             PyObject *kwnames)
{
    static const char *const names[] = {"fd", "value"};
    PyObject *full[2];
    int fd;
    if (eg_os_may_wait() && eg_os_arrange(args, n, kwnames, names, 2, full) && full[0]
        && eg_os_int(full[0], &fd) && eg_os_kind(fd) == EG_FD_DEVICE
        && (eg_os_turn() < 0 || fd_wait_until(fd, EG_FD_DEVICE, events) < 0))
        return NULL;
    return eg_patch_call_original(patch, self, args, n, kwnames);
}

static PyObject *
os_eventfd_read(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return eventfd_call(&os_eventfd_read_patch, EG_READ, self, args, n, kwnames);
}

static PyObject *
os_eventfd_write(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return eventfd_call(&os_eventfd_write_patch, EG_WRITE, self, args, n, kwnames);
}

/* Park until both ends of a splice() are ready: 1; 0: the program has made one non-blocking; -1. */
static int
splice_wait(int from, int to)
{
    EgFdKind source = eg_os_kind(from), target = eg_os_kind(to);
    bool reads = source == EG_FD_PIPE || source == EG_FD_SOCKET || source == EG_FD_DEVICE;
    bool writes = target == EG_FD_PIPE || target == EG_FD_SOCKET || target == EG_FD_DEVICE;
    do {
        int status = reads ? fd_wait_until(from, source, EG_READ) : 1;
        if (status > 0 && writes)
            status = fd_wait_until(to, target, EG_WRITE);
        if (status <= 0)
            return status;
    } while (reads && !fd_is_ready(from, EG_READ)); /* others have run meanwhile */
    return 1;
}

EG_PATCH(os_splice, "posix", "splice", "os");

/* It may move less than it is asked to: here no more than does not block. */
static PyObject *
os_splice(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"src", "dst", "count", "offset_src", "offset_dst", "flags"};
    PyObject *full[6], *result = NULL;
    int from, to, flags = 0, status = 1;
    if (!eg_os_may_wait() || !eg_os_arrange(args, n, kwnames, names, 6, full) || !full[2]
        || !eg_os_int(full[0], &from) || !eg_os_int(full[1], &to) || !PyLong_Check(full[2])
        || (full[5] && !eg_os_int(full[5], &flags)) || (flags & SPLICE_F_NONBLOCK))
        return eg_patch_call_original(&os_splice_patch, self, args, n, kwnames);
    full[3] = full[3] ? full[3] : Py_None;
    full[4] = full[4] ? full[4] : Py_None;
    PyObject *given = full[2], *modes = PyLong_FromLong(flags | SPLICE_F_NONBLOCK);
    while (modes && !result && eg_os_turn() == 0 && (status = splice_wait(from, to)) > 0) {
        Py_ssize_t count = PyLong_AsSsize_t(given), room = count;
        PyErr_Clear(); /* too much: the original says so */
        if (eg_os_kind(to) == EG_FD_SOCKET)
            room = socket_room(to);
        full[2] = count > room ? PyLong_FromSsize_t(room) : Py_NewRef(given);
        full[5] = modes;
        if (full[2])
            result = eg_patch_call_original(&os_splice_patch, self, full, 6, NULL);
        Py_XDECREF(full[2]);
        if (result || eg_patch_errno() != EAGAIN)
            break;
        PyErr_Clear();
    }
    Py_XDECREF(modes);
    return status ? result : eg_patch_call_original(&os_splice_patch, self, args, n, kwnames);
}

/* ---- closing: also where no hub runs, for another thread's hub may wait ------------------ */
EG_PATCH(os_close, "posix", "close", "os");

static PyObject *
os_close(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"fd"};
    PyObject *full[1];
    int fd;
    if (eg_os_arrange(args, n, kwnames, names, 1, full) && full[0] && eg_os_int(full[0], &fd)) {
        if (eg_port_owns(fd)) { /* whoever closes all there are means those of the program */
            errno = EBADF;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        eg_socket_forget(fd);
    }
    return eg_patch_call_original(&os_close_patch, self, args, n, kwnames);
}

EG_PATCH(os_closerange, "posix", "closerange", "os");

static int
close_range_native(PyObject *self, int low, int high)
{
    PyObject *args[] = {PyLong_FromLong(low), PyLong_FromLong(high)}, *done = NULL;
    if (args[0] && args[1])
        done = eg_patch_call_original(&os_closerange_patch, self, args, 2, NULL);
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static PyObject *
os_closerange(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int low, high, most = eg_fd_known_below();
    if (n != 2 || kwnames || !eg_os_int(args[0], &low) || !eg_os_int(args[1], &high))
        return eg_patch_call_original(&os_closerange_patch, self, args, n, kwnames);
    for (int fd = low < 0 ? 0 : low; fd < high && fd < most; fd++) {
        if (!eg_port_owns(fd)) {
            eg_socket_forget(fd);
            continue;
        }
        if (close_range_native(self, low, fd) < 0)
            return NULL;
        low = fd + 1;
    }
    return close_range_native(self, low, high) < 0 ? NULL : Py_NewRef(Py_None);
}

EG_PATCH(os_dup2, "posix", "dup2", "os");

static PyObject *
os_dup2(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"fd", "fd2", "inheritable"};
    PyObject *full[3];
    int fd, onto;
    if (eg_os_arrange(args, n, kwnames, names, 3, full) && full[0] && full[1]
        && eg_os_int(full[0], &fd) && eg_os_int(full[1], &onto) && fd != onto
        && fcntl(fd, F_GETFD) >= 0) {
        eg_socket_forget(onto);
        if (eg_port_owns(onto))
            eg_port_vacate(onto);
    }
    return eg_patch_call_original(&os_dup2_patch, self, args, n, kwnames);
}

/* ---- children ------------------------------------------------------------------------------ */
static const EgWaitKind child_kind = {"child process", NULL};

/* Park until one child may have ended: 1; 0: the kernel has no pidfd for it; -1: exception. */
static int
child_wait_pidfd(int fd)
{
    int events = EG_READ;
    EgTask *me = eg_wait_begin();
    return me && eg_fd_wait_many(me, 1, &fd, &events, &child_kind, EG_FOREVER) >= 0 ? 1 : -1;
}

static int
child_wait_pid(pid_t pid)
{
#ifdef SYS_pidfd_open
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH; /* somebody else has just taken it */
    int status = child_wait_pidfd(fd);
    eg_fd_closing(fd);
    close(fd);
    return status;
#else
    (void)pid;
    return 0;
#endif
}

/* Park until the original may find something: 0; -1: exception. */
static int
child_wait(idtype_t type, long id, int options)
{
    int status = 0;
    if (!(options & (WSTOPPED | WCONTINUED))) {
        if (type == P_PID)
            status = child_wait_pid((pid_t)id);
#ifdef P_PIDFD
        else if (type == P_PIDFD)
            status = child_wait_pidfd((int)id);
#endif
    }
    if (status)
        return status < 0 ? -1 : 0;
    PyObject *args[3] = {PyLong_FromLong(type), PyLong_FromLong(id), PyLong_FromLong(options)};
    PyObject *done =
        args[0] && args[1] && args[2] ? eg_policy_call("wait_for_child", args, 3) : NULL;
    for (int i = 0; i < 3; i++)
        Py_XDECREF(args[i]);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Whether a call with WNOHANG has found nothing. */
static bool
child_is_none(PyObject *result)
{
    if (!PyTuple_Check(result))
        return result == Py_None; /* waitid() */
    PyObject *pid = PyTuple_GET_SIZE(result) ? PyTuple_GET_ITEM(result, 0) : NULL;
    return pid && PyLong_Check(pid) && PyLong_AsLong(pid) == 0;
}

/* Call the original, with WNOHANG in full[at], until it finds something. */
static PyObject *
child_poll(const EgPatch *patch, PyObject *self, PyObject **full, Py_ssize_t n, Py_ssize_t at,
           idtype_t type, long id, int options)
{
    PyObject *result, *given = full[at], *nohang = PyLong_FromLong(options | WNOHANG);
    if (!nohang)
        return NULL;
    full[at] = nohang;
    while ((result = eg_patch_call_original(patch, self, full, n, NULL)) && child_is_none(result)) {
        Py_CLEAR(result);
        if (child_wait(type, id, options & ~WNOWAIT) < 0)
            break;
    }
    full[at] = given;
    Py_DECREF(nohang);
    return result;
}

/* The waitid() of a waitpid(). */
static void
child_which(int pid, idtype_t *type, long *id)
{
    *type = pid > 0 ? P_PID : pid == -1 ? P_ALL : P_PGID;
    *id = pid > 0 ? pid : pid == -1 ? 0 : pid == 0 ? getpgrp() : -(long)pid;
}

static PyObject *
child_waitpid(const EgPatch *patch, PyObject *self, PyObject **full, Py_ssize_t n, int pid,
              int options)
{
    idtype_t type;
    long id;
    child_which(pid, &type, &id);
    return child_poll(patch, self, full, n, n - 1, type, id, options);
}

EG_PATCH(os_waitpid, "posix", "waitpid", "os");

static PyObject *
os_waitpid(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int pid, options;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || n != 2 || kwnames || !eg_os_int(args[0], &pid)
        || !eg_os_int(args[1], &options) || (options & WNOHANG))
        return eg_patch_call_original(&os_waitpid_patch, self, args, n, kwnames);
    PyObject *full[2] = {args[0], args[1]};
    return child_waitpid(&os_waitpid_patch, self, full, 2, pid, options);
}

EG_PATCH(os_wait, "posix", "wait", "os");

static PyObject *
os_wait(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || n || kwnames || !os_waitpid_patch.def)
        return eg_patch_call_original(&os_wait_patch, self, args, n, kwnames);
    PyObject *any = PyLong_FromLong(-1), *full[2] = {any, any}, *result = NULL;
    if (any)
        result = child_waitpid(&os_waitpid_patch, self, full, 2, -1, 0);
    Py_XDECREF(any);
    return result;
}

EG_PATCH(os_sched_yield, "posix", "sched_yield", "os");

static PyObject *
os_sched_yield(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (n == 0 && !kwnames && eg_os_may_wait() && eg_os_give_way() < 0)
        return NULL;
    return eg_patch_call_original(&os_sched_yield_patch, self, args, n, kwnames);
}

EG_PATCH(os_wait3, "posix", "wait3", "os");

static PyObject *
os_wait3(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"options"};
    PyObject *full[1];
    int options;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || !eg_os_arrange(args, n, kwnames, names, 1, full) || !full[0]
        || !eg_os_int(full[0], &options) || (options & WNOHANG))
        return eg_patch_call_original(&os_wait3_patch, self, args, n, kwnames);
    return child_waitpid(&os_wait3_patch, self, full, 1, -1, options);
}

EG_PATCH(os_wait4, "posix", "wait4", "os");

static PyObject *
os_wait4(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"pid", "options"};
    PyObject *full[2];
    int pid, options;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || !eg_os_arrange(args, n, kwnames, names, 2, full) || !full[0]
        || !full[1] || !eg_os_int(full[0], &pid) || !eg_os_int(full[1], &options)
        || (options & WNOHANG))
        return eg_patch_call_original(&os_wait4_patch, self, args, n, kwnames);
    return child_waitpid(&os_wait4_patch, self, full, 2, pid, options);
}

EG_PATCH(os_waitid, "posix", "waitid", "os");

static PyObject *
os_waitid(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int type, id, options;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || n != 3 || kwnames || !eg_os_int(args[0], &type)
        || !eg_os_int(args[1], &id) || !eg_os_int(args[2], &options) || (options & WNOHANG))
        return eg_patch_call_original(&os_waitid_patch, self, args, n, kwnames);
    PyObject *full[3] = {args[0], args[1], args[2]};
    return child_poll(&os_waitid_patch, self, full, 3, 2, (idtype_t)type, id, options);
}

/* ---- in native threads ------------------------------------------------------------------------ */
EG_PATCH(os_system, "posix", "system", "os");

static PyObject *
os_system(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_os_may_wait())
        return eg_patch_call_original(&os_system_patch, self, args, n, kwnames);
    return eg_patch_offload("offload", &os_system_patch, self, args, n, kwnames);
}

/* Both may connect to the daemon, and wait for it to take a message. */
EG_PATCH(os_syslog, "syslog", "syslog", "os");
EG_PATCH(os_openlog, "syslog", "openlog", "os");

static PyObject *
os_syslog(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_os_may_wait())
        return eg_patch_call_original(&os_syslog_patch, self, args, n, kwnames);
    return eg_patch_offload("offload", &os_syslog_patch, self, args, n, kwnames);
}

static PyObject *
os_openlog(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_os_may_wait())
        return eg_patch_call_original(&os_openlog_patch, self, args, n, kwnames);
    return eg_patch_offload("offload", &os_openlog_patch, self, args, n, kwnames);
}

#define IN_A_THREAD(fn, owner, name)                                                            \
    EG_PATCH(fn, owner, name, "os");                                                            \
    static PyObject *fn(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) \
    {                                                                                           \
        if (!eg_os_may_wait())                                                                  \
            return eg_patch_call_original(&fn##_patch, self, args, n, kwnames);                 \
        return eg_patch_offload("offload", &fn##_patch, self, args, n, kwnames);                \
    }                                                                                           \
    struct eg_swallow_semicolon

/* They wait until a terminal has taken what was written. */
IN_A_THREAD(os_tcdrain, "termios", "tcdrain");
IN_A_THREAD(os_tcsendbreak, "termios", "tcsendbreak");

EG_PATCH(os_tcsetattr, "termios", "tcsetattr", "os");

static PyObject *
os_tcsetattr(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int when;
    if (n != 3 || kwnames || !eg_os_int(args[1], &when) || when == TCSANOW || !eg_os_may_wait())
        return eg_patch_call_original(&os_tcsetattr_patch, self, args, n, kwnames);
    return eg_patch_offload("offload", &os_tcsetattr_patch, self, args, n, NULL);
}

/* A lock on a file: try without waiting, then leave it to the policy's *how*(args). */
static PyObject *
lock_file(const EgPatch *patch, const char *how, PyObject *self, PyObject *const *args,
          Py_ssize_t n, int nonblocking)
{
    PyObject *full[5];
    for (Py_ssize_t i = 0; i < n; i++)
        full[i] = args[i];
    PyObject *number = PyLong_FromLong(nonblocking);
    if (!number)
        return NULL;
    full[1] = number;
    PyObject *result = eg_patch_call_original(patch, self, full, n, NULL);
    Py_DECREF(number);
    int code = result ? 0 : eg_patch_errno();
    if (code != EAGAIN && code != EACCES)
        return result;
    PyErr_Clear();
    return eg_policy_call(how, args, (size_t)n);
}

EG_PATCH(os_flock, "fcntl", "flock", "os");

static PyObject *
os_flock(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int operation;
    if (eg_patch_poll() < 0)
        return NULL;
    if (n != 2 || kwnames || !eg_os_int(args[1], &operation) || (operation & LOCK_NB)
        || !(operation & (LOCK_SH | LOCK_EX)) || !eg_os_may_wait())
        return eg_patch_call_original(&os_flock_patch, self, args, n, kwnames);
    return lock_file(&os_flock_patch, "wait_for_flock", self, args, n, operation | LOCK_NB);
}

EG_PATCH(os_fcntl_lockf, "fcntl", "lockf", "os");

static PyObject *
os_fcntl_lockf(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int operation;
    if (eg_patch_poll() < 0)
        return NULL;
    if (n < 2 || n > 5 || kwnames || !eg_os_int(args[1], &operation) || (operation & LOCK_NB)
        || !(operation & (LOCK_SH | LOCK_EX)) || !eg_os_may_wait())
        return eg_patch_call_original(&os_fcntl_lockf_patch, self, args, n, kwnames);
    return lock_file(&os_fcntl_lockf_patch, "wait_for_fcntl_lockf", self, args, n,
                     operation | LOCK_NB);
}

EG_PATCH(os_lockf, "posix", "lockf", "os");

static PyObject *
os_lockf(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int command;
    if (eg_patch_poll() < 0)
        return NULL;
    if (n != 3 || kwnames || !eg_os_int(args[1], &command) || command != F_LOCK
        || !eg_os_may_wait())
        return eg_patch_call_original(&os_lockf_patch, self, args, n, kwnames);
    return lock_file(&os_lockf_patch, "wait_for_lockf", self, args, n, F_TLOCK);
}

EG_PATCH(os_fcntl, "fcntl", "fcntl", "os");

static PyObject *
os_fcntl(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int command;
    if (n != 3 || kwnames || !eg_os_int(args[1], &command)
        || (command != F_SETLKW && command != F_OFD_SETLKW) || !PyBytes_Check(args[2])
        || PyBytes_GET_SIZE(args[2]) != sizeof(struct flock) || !eg_os_may_wait())
        return eg_patch_call_original(&os_fcntl_patch, self, args, n, kwnames);
    return lock_file(&os_fcntl_patch, "wait_for_fcntl", self, args, n,
                     command == F_SETLKW ? F_SETLK : F_OFD_SETLK);
}

/* ---- the table ---------------------------------------------------------------------------------- */
bool
eg_os_tells_of_closing(void)
{
    return os_close_patch.applied;
}

EgPatch *const eg_patch_os[] = {
    &os_eventfd_read_patch, &os_eventfd_write_patch, &os_splice_patch,      &os_fcntl_patch,
    &os_tcdrain_patch,      &os_tcsendbreak_patch,   &os_tcsetattr_patch,   &os_read_patch,
    &os_readv_patch,        &os_write_patch,         &os_writev_patch,      &os_sendfile_patch,
    &os_close_patch,        &os_closerange_patch,    &os_dup2_patch,        &os_waitpid_patch,
    &os_wait_patch,         &os_wait3_patch,         &os_wait4_patch,       &os_waitid_patch,
    &os_system_patch,       &os_flock_patch,         &os_fcntl_lockf_patch, &os_sched_yield_patch,
    &os_lockf_patch,        &os_syslog_patch,        &os_openlog_patch,     NULL};
