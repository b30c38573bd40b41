/* preload.c: libc's blocking calls park the task that makes them.
 *
 * A C extension that waits in poll(), recv() or connect() stops its thread, and all tasks with
 * it.  This library, put in front of the C library by LD_PRELOAD, has functions of the same
 * names.  Each asks whether a task of Evergreen makes the call; if not, it is the C library's:
 *
 *     threads without an event loop, the loop itself, forked children, signal handlers,
 *     CPython and its standard library (what waits there is patched, or means to block),
 *     non-blocking descriptors, MSG_DONTWAIT, and whatever need not wait
 *
 * Else it tries without blocking, has the core park the task (see preload.h and ../native.c), and
 * tries again.  The kernel never works on the caller's memory while the task is parked: greenlet
 * copies the C stack away, and the memory may be on it.  errno after a call that succeeded is
 * what it was before.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#define TURNS 64 /* calls, whether they wait or not, after which others get their turn */
#define FOREVER UINT64_MAX
#define SECOND UINT64_C(1000000000)
#define MILLISECOND UINT64_C(1000000)

/* ---- the C library -------------------------------------------------------------- */
#define LIBC_FUNCTIONS(X)                                                                          \
    X(poll, int, (struct pollfd *, nfds_t, int))                                                   \
    X(ppoll, int, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))            \
    X(select, int, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                          \
    X(pselect, int,                                                                                \
      (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))              \
    X(epoll_wait, int, (int, struct epoll_event *, int, int))                                      \
    X(recv, ssize_t, (int, void *, size_t, int))                                                   \
    X(recvfrom, ssize_t, (int, void *, size_t, int, struct sockaddr *, socklen_t *))               \
    X(recvmsg, ssize_t, (int, struct msghdr *, int))                                               \
    X(send, ssize_t, (int, const void *, size_t, int))                                             \
    X(sendto, ssize_t, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))       \
    X(sendmsg, ssize_t, (int, const struct msghdr *, int))                                         \
    X(read, ssize_t, (int, void *, size_t))                                                        \
    X(readv, ssize_t, (int, const struct iovec *, int))                                            \
    X(write, ssize_t, (int, const void *, size_t))                                                 \
    X(writev, ssize_t, (int, const struct iovec *, int))                                           \
    X(connect, int, (int, const struct sockaddr *, socklen_t))                                     \
    X(setsockopt, int, (int, int, int, const void *, socklen_t))                                   \
    X(accept, int, (int, struct sockaddr *, socklen_t *))                                          \
    X(accept4, int, (int, struct sockaddr *, socklen_t *, int))                                    \
    X(sleep, unsigned, (unsigned))                                                                 \
    X(usleep, int, (useconds_t))                                                                   \
    X(nanosleep, int, (const struct timespec *, struct timespec *))                                \
    X(clock_nanosleep, int, (clockid_t, int, const struct timespec *, struct timespec *))          \
    X(flock, int, (int, int))                                                                      \
    X(getaddrinfo, int, (const char *, const char *, const struct addrinfo *, struct addrinfo **)) \
    X(sigaction, int, (int, const struct sigaction *, struct sigaction *))                         \
    X(pthread_mutex_lock, int, (pthread_mutex_t *))

/* The next function of each name after ours; found when first needed, which may be before
 * libc_find() runs. */
static struct {
#define LIBC_MEMBER(name, type, arguments) type(*name) arguments;
    LIBC_FUNCTIONS(LIBC_MEMBER)
#undef LIBC_MEMBER
} libc_known;

static void *
libc_next(void **known, const char *name)
{
    void *found = __atomic_load_n(known, __ATOMIC_RELAXED);
    if (__builtin_expect(!found, 0)) {
        if (!(found = dlsym(RTLD_NEXT, name)))
            abort(); /* there is no C library without it */
        __atomic_store_n(known, found, __ATOMIC_RELAXED);
    }
    return found;
}

#define LIBC(name) ((__typeof__(libc_known.name))libc_next((void **)&libc_known.name, #name))

static void core_leave(void);

__attribute__((constructor)) static void
libc_find(void)
{
    pthread_atfork(NULL, NULL, core_leave);
#define LIBC_FIND(name, type, arguments) (void)LIBC(name);
    LIBC_FUNCTIONS(LIBC_FIND)
#undef LIBC_FIND
}

/* ---- who calls -------------------------------------------------------------------- */
static const EgNativeCore *core; /* NULL: nobody has registered */
static const void *excluded_bases[4];
static THREAD_LOCAL int handlers; /* signal handlers that run in this thread */

#define TABLE_LEAST 64 /* descriptors that the kernel's table of a process has room for, at least */
static int table_known = TABLE_LEAST; /* it never shrinks, but in a forked child */

static const void *
base_of(const void *address)
{
    Dl_info info;
    return dladdr(address, &info) ? info.dli_fbase : NULL;
}

/* Whether an address is in code whose calls we take on: a library, but not CPython, its standard
 * library, the core, or libuv. ctypes calls what others have written. */
static bool
is_driver(const void *address)
{
    Dl_info info;
    if (!dladdr(address, &info) || !info.dli_fname)
        return true; /* code made at run time */
    for (int i = 0; i < 4; i++)
        if (excluded_bases[i] && info.dli_fbase == excluded_bases[i])
            return false;
    const char *module = strstr(info.dli_fname, "/lib-dynload/");
    return !module || strncmp(module, "/lib-dynload/_ctypes", 20) == 0;
}

/* The same, remembered by the place of the call: address and answer in one word. */
static bool
is_driver_known(const void *address)
{
    static uintptr_t known[1024];
    uintptr_t place = (uintptr_t)address, *slot = &known[(place ^ place >> 10) % 1024];
    uintptr_t entry = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (entry >> 1 != (place & (UINTPTR_MAX >> 1))) {
        entry = place << 1 | is_driver(address);
        __atomic_store_n(slot, entry, __ATOMIC_RELAXED);
    }
    return entry & 1;
}

static void
take_turns(void)
{
    static THREAD_LOCAL unsigned turns;
    const EgNativeCore *known = __atomic_load_n(&core, __ATOMIC_ACQUIRE);
    if (!known || ++turns % TURNS)
        return;
    int saved = errno;
    known->yield();
    errno = saved;
}

static bool
caught_out(const void *caller)
{
    const EgNativeCore *known = __atomic_load_n(&core, __ATOMIC_ACQUIRE);
    return known && !handlers && known->cooperates() && is_driver_known(caller);
}

static bool
caught(const void *caller)
{
    if (!caught_out(caller))
        return false;
    take_turns();
    return true;
}

/* After a call that CAUGHT_OUT(): its result. */
static ssize_t
handed_over(ssize_t result)
{
    take_turns();
    return result;
}

/* Whether the call that this stands in is a task's. */
#define CAUGHT() __builtin_expect(caught(__builtin_return_address(0)), 0)
/* The same of a call that hands something over: others get their turn after it, so that a peer
 * sees calls in the order in which they were made. */
#define CAUGHT_OUT() __builtin_expect(caught_out(__builtin_return_address(0)), 0)

EXPORT int
evergreen_native_register(const EgNativeCore *given)
{
    if (given->abi != EG_NATIVE_ABI)
        return -1;
    for (int i = 0; i < 4; i++)
        excluded_bases[i] = given->excluded[i] ? base_of(given->excluded[i]) : NULL;
    __atomic_store_n(&core, given, __ATOMIC_RELEASE);
    return 0;
}

/* In a child that fork() made: the loops are the parent's until the core registers again. */
static void
core_leave(void)
{
    __atomic_store_n(&core, NULL, __ATOMIC_RELEASE);
    table_known = TABLE_LEAST;
}

/* ---- the caller's memory ----------------------------------------------------------------- */
/* Read it as the kernel does. False: it cannot be read, which the kernel says best. */
static bool
copy_in(void *to, const void *from, size_t n)
{
    struct iovec here = {to, n}, there = {(void *)from, n};
    int saved = errno;
    ssize_t got = process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    if (got < 0 && errno != EFAULT) { /* not permitted here */
        memcpy(to, from, n);
        got = (ssize_t)n;
    }
    errno = saved;
    return got == (ssize_t)n;
}

/* ---- waiting -------------------------------------------------------------------------- */
static uint64_t
now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static uint64_t
after(uint64_t ns)
{
    uint64_t start = now(CLOCK_MONOTONIC);
    return ns < FOREVER - start ? start + ns : FOREVER;
}

static uint64_t
left_until(uint64_t deadline)
{
    uint64_t start = now(CLOCK_MONOTONIC);
    return deadline > start ? deadline - start : 0;
}

/* Seconds as ns; those that do not fit are for ever. */
static uint64_t
ns_of(time_t seconds, uint64_t ns)
{
    return (uint64_t)seconds < FOREVER / SECOND - 1 ? (uint64_t)seconds * SECOND + ns : FOREVER;
}

static struct timespec
timespec_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / SECOND), (long)(ns % SECOND)};
}

static EgNativeOutcome
wait_fd(EgNativeCall call, int fd, short events, uint64_t deadline)
{
    struct pollfd one = {fd, events, 0};
    return core->wait(call, &one, 1, deadline);
}

static EgNativeOutcome
wait_time(EgNativeCall call, uint64_t deadline)
{
    return core->wait(call, NULL, 0, deadline);
}

static short
poll_now(int fd, short events)
{
    struct pollfd one = {fd, events, 0};
    return LIBC(poll)(&one, 1, 0) > 0 ? one.revents : 0;
}

static bool
is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || (flags & O_NONBLOCK);
}

/* When a blocking call on a socket gives up. */
static uint64_t
socket_deadline(int fd, int option)
{
    struct timeval limit = {0, 0};
    socklen_t size = sizeof limit;
    if (getsockopt(fd, SOL_SOCKET, option, &limit, &size) < 0 || (!limit.tv_sec && !limit.tv_usec))
        return FOREVER;
    return after(ns_of(limit.tv_sec, (uint64_t)limit.tv_usec * 1000));
}

static int
socket_option(int fd, int option)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -1 : value;
}

static int
socket_type(int fd)
{
    return socket_option(fd, SO_TYPE);
}

/* ---- poll, select, epoll ---------------------------------------------------------------- */
static int
poll_until(EgNativeCall call, struct pollfd *fds, nfds_t n, uint64_t deadline, const sigset_t *mask)
{
    static const struct timespec zero;
    int saved = errno, found;
    for (bool last = false;;) {
        found = mask ? LIBC(ppoll)(fds, n, &zero, mask) : LIBC(poll)(fds, n, 0);
        if (found || last)
            break;
        /* What the mask lets through meanwhile is seen with a small delay. */
        uint64_t slice = mask ? after(20 * MILLISECOND) : FOREVER;
        EgNativeOutcome outcome = core->wait(call, fds, n, slice < deadline ? slice : deadline);
        if (outcome == EG_NATIVE_PASS) {
            struct timespec rest = timespec_of(deadline == FOREVER ? 0 : left_until(deadline));
            found = LIBC(ppoll)(fds, n, deadline == FOREVER ? NULL : &rest, mask);
            break;
        }
        if (outcome == EG_NATIVE_REFUSED) {
            found = -1;
            break;
        }
        last = outcome == EG_NATIVE_TIMED_OUT && deadline <= slice;
    }
    int failure = found < 0 ? errno : saved;
    errno = failure;
    return found;
}

static int
co_poll(struct pollfd *fds, nfds_t n, int timeout)
{
    uint64_t deadline = timeout < 0 ? FOREVER : after((uint64_t)timeout * MILLISECOND);
    return poll_until(EG_NATIVE_poll, fds, n, deadline, NULL);
}

EXPORT int
poll(struct pollfd *fds, nfds_t n, int timeout)
{
    return timeout && CAUGHT() ? co_poll(fds, n, timeout) : LIBC(poll)(fds, n, timeout);
}

static bool
is_time(const struct timespec *time)
{
    return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < (long)SECOND;
}

/* Whether a call with this timeout may wait, and is not refused. */
static bool
may_last(const struct timespec *timeout)
{
    return !timeout || (is_time(timeout) && (timeout->tv_sec || timeout->tv_nsec));
}

static uint64_t
timespec_deadline(const struct timespec *timeout)
{
    return timeout ? after(ns_of(timeout->tv_sec, (uint64_t)timeout->tv_nsec)) : FOREVER;
}

EXPORT int
ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    if (!may_last(timeout) || !CAUGHT())
        return LIBC(ppoll)(fds, n, timeout, mask);
    return poll_until(EG_NATIVE_ppoll, fds, n, timespec_deadline(timeout), mask);
}

/* How many descriptors the process's table has room for: select() looks at no more. */
static int
table_size(void)
{
    char text[4096], *line;
    int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : LIBC(read)(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[n < 0 ? 0 : n] = 0;
    long size = (line = strstr(text, "\nFDSize:")) ? atol(line + 8) : sysconf(_SC_OPEN_MAX);
    return size < TABLE_LEAST ? TABLE_LEAST : size < INT_MAX ? (int)size : INT_MAX;
}

static int
table_bound(int nfds)
{
    if (nfds > __atomic_load_n(&table_known, __ATOMIC_RELAXED)) {
        int saved = errno;
        __atomic_store_n(&table_known, table_size(), __ATOMIC_RELAXED);
        errno = saved;
    }
    return nfds < table_known ? nfds : table_known;
}

/* The three sets of a select(), as they were when it was called, and as poll() wants them. */
typedef struct {
    fd_set *sets[3];
    size_t words;         /* of each that counts */
    unsigned long *saved; /* three times so many */
    struct pollfd *fds;
    nfds_t n;
} Selection;

#define WORD_BITS (8 * (int)sizeof(unsigned long))

static bool
selection_has(const Selection *selection, int which, int fd)
{
    const unsigned long *words = selection->saved + selection->words * (size_t)which;
    return selection->sets[which] && (words[fd / WORD_BITS] >> (fd % WORD_BITS) & 1);
}

/* 1: done; 0: there is a fault in the sets, which is the kernel's to report; -1: no memory. */
static int
selection_save(Selection *selection, int nfds)
{
    static const short asks[] = {POLLIN, POLLOUT, POLLPRI};
    nfds = table_bound(nfds);
    selection->words = ((size_t)nfds + WORD_BITS - 1) / WORD_BITS;
    selection->saved = calloc(3 * selection->words + 1, sizeof *selection->saved);
    selection->fds = malloc((size_t)nfds * sizeof *selection->fds + 1);
    if (!selection->saved || !selection->fds)
        return -1;
    for (int which = 0; which < 3; which++)
        if (selection->sets[which]
            && !copy_in(selection->saved + selection->words * (size_t)which, selection->sets[which],
                        selection->words * sizeof *selection->saved))
            return 0;
    for (int fd = 0; fd < nfds; fd++) {
        short events = 0;
        for (int which = 0; which < 3; which++)
            if (selection_has(selection, which, fd))
                events |= asks[which];
        if (events)
            selection->fds[selection->n++] = (struct pollfd){fd, events, 0};
    }
    return 1;
}

/* Undo what a select() that found nothing has written, and write nothing else. */
static void
selection_restore(const Selection *selection)
{
    for (int which = 0; which < 3; which++) {
        unsigned long *set = (unsigned long *)(void *)selection->sets[which];
        const unsigned long *saved = selection->saved + selection->words * (size_t)which;
        for (size_t i = 0; set && i < selection->words; i++)
            if (set[i] != saved[i])
                set[i] = saved[i];
    }
}

/* As select(), with the mask of pselect() or NULL. */
static int
select_until(EgNativeCall call, int nfds, fd_set *const *sets, uint64_t deadline,
             const sigset_t *mask)
{
    static const struct timespec zero;
    int saved = errno, found = -1;
    Selection selection = {.sets = {sets[0], sets[1], sets[2]}};
    int status = selection_save(&selection, nfds);
    if (status < 0) {
        errno = ENOMEM;
        goto done;
    }
    for (bool last = status == 0;;) {
        found = LIBC(pselect)(nfds, sets[0], sets[1], sets[2], &zero, mask);
        if (found || last)
            break;
        selection_restore(&selection);
        uint64_t slice = mask ? after(20 * MILLISECOND) : FOREVER;
        EgNativeOutcome outcome =
            core->wait(call, selection.fds, selection.n, slice < deadline ? slice : deadline);
        if (outcome == EG_NATIVE_PASS) {
            struct timespec rest = timespec_of(deadline == FOREVER ? 0 : left_until(deadline));
            found = LIBC(pselect)(nfds, sets[0], sets[1], sets[2],
                                  deadline == FOREVER ? NULL : &rest, mask);
            break;
        }
        if (outcome == EG_NATIVE_REFUSED) {
            found = -1;
            break;
        }
        last = outcome == EG_NATIVE_TIMED_OUT && deadline <= slice;
    }
done:;
    int failure = found < 0 ? errno : saved;
    free(selection.saved);
    free(selection.fds);
    errno = failure;
    return found;
}

static int
co_select(int nfds, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout)
{
    uint64_t deadline = FOREVER;
    if (timeout)
        deadline = after(ns_of(timeout->tv_sec + timeout->tv_usec / 1000000,
                               (uint64_t)(timeout->tv_usec % 1000000) * 1000));
    int found = select_until(EG_NATIVE_select, nfds, (fd_set *const[]){reads, writes, excepts},
                             deadline, NULL);
    if (deadline != FOREVER) { /* as Linux does */
        struct timespec rest = timespec_of(left_until(deadline));
        *timeout = (struct timeval){rest.tv_sec, rest.tv_nsec / 1000};
    }
    return found;
}

EXPORT int
select(int nfds, fd_set *reads, fd_set *writes, fd_set *excepts, struct timeval *timeout)
{
    bool waits = nfds >= 0
                 && (!timeout
                     || (timeout->tv_sec >= 0 && timeout->tv_usec >= 0
                         && (timeout->tv_sec || timeout->tv_usec)));
    return waits && CAUGHT() ? co_select(nfds, reads, writes, excepts, timeout)
                             : LIBC(select)(nfds, reads, writes, excepts, timeout);
}

EXPORT int
pselect(int nfds, fd_set *reads, fd_set *writes, fd_set *excepts, const struct timespec *timeout,
        const sigset_t *mask)
{
    if (nfds < 0 || !may_last(timeout) || !CAUGHT())
        return LIBC(pselect)(nfds, reads, writes, excepts, timeout, mask);
    return select_until(EG_NATIVE_pselect, nfds, (fd_set *const[]){reads, writes, excepts},
                        timespec_deadline(timeout), mask);
}

static int
co_epoll_wait(int epoll, struct epoll_event *events, int size, int timeout)
{
    int saved = errno, found;
    uint64_t deadline = timeout < 0 ? FOREVER : after((uint64_t)timeout * MILLISECOND);
    for (bool last = false;;) {
        found = LIBC(epoll_wait)(epoll, events, size, 0);
        if (found || last)
            break;
        EgNativeOutcome outcome = wait_fd(EG_NATIVE_epoll_wait, epoll, POLLIN, deadline);
        if (outcome == EG_NATIVE_PASS) {
            uint64_t ms = left_until(deadline) / MILLISECOND;
            return LIBC(epoll_wait)(epoll, events, size,
                                    deadline == FOREVER ? -1
                                    : ms > INT_MAX      ? INT_MAX
                                                        : (int)ms);
        }
        if (outcome == EG_NATIVE_REFUSED)
            return -1;
        last = outcome == EG_NATIVE_TIMED_OUT;
    }
    if (found >= 0)
        errno = saved;
    return found;
}

EXPORT int
epoll_wait(int epoll, struct epoll_event *events, int size, int timeout)
{
    return timeout && CAUGHT() ? co_epoll_wait(epoll, events, size, timeout)
                               : LIBC(epoll_wait)(epoll, events, size, timeout);
}

/* ---- sockets: receiving and sending ------------------------------------------------------ */
#define NEVER_WAITS (MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE)

static size_t
iov_bytes(const struct msghdr *msg)
{
    size_t bytes = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        bytes += msg->msg_iov[i].iov_len;
    return bytes;
}

/* What is left of a message after so many bytes; *copy (NULL at first) is the caller's to free. */
static bool
msg_rest(struct msghdr *rest, struct iovec **copy, const struct msghdr *whole, size_t done)
{
    size_t n = whole->msg_iovlen, i = 0;
    if (!*copy && !(*copy = malloc(n * sizeof **copy)))
        return false;
    memcpy(*copy, whole->msg_iov, n * sizeof **copy);
    for (; i < n && (*copy)[i].iov_len <= done; i++)
        done -= (*copy)[i].iov_len;
    if (i < n) {
        (*copy)[i].iov_base = (char *)(*copy)[i].iov_base + done;
        (*copy)[i].iov_len -= done;
    }
    *rest = (struct msghdr){.msg_iov = *copy + i, .msg_iovlen = n - i}; /* all else is done */
    return true;
}

/* What a call moves between a socket and memory. The kernel is given what the caller gave, and
 * reads it first: what it has taken without complaint may be read here. */
typedef struct {
    EgNativeCall call;
    int fd, flags;
    bool out;
    struct msghdr *msg; /* of recvmsg() and sendmsg(); NULL: the others, which have a buffer */
    void *buffer;
    size_t n;
    struct sockaddr *address; /* or NULL, as the next two */
    socklen_t *length;        /* of recvfrom() */
    socklen_t size;           /* of sendto() */
} Transfer;

static ssize_t
transfer_try(const Transfer *self, int flags)
{
    if (self->msg)
        return self->out ? LIBC(sendmsg)(self->fd, self->msg, flags)
                         : LIBC(recvmsg)(self->fd, self->msg, flags);
    return self->out
               ? LIBC(sendto)(self->fd, self->buffer, self->n, flags, self->address, self->size)
               : LIBC(recvfrom)(self->fd, self->buffer, self->n, flags, self->address,
                                self->length);
}

/* The same for what is left after so many bytes. */
static ssize_t
transfer_rest(const Transfer *self, struct iovec **copy, size_t done, int flags)
{
    struct msghdr rest;
    if (!self->msg) {
        struct iovec part = {(char *)self->buffer + done, self->n - done};
        rest = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
        return self->out ? LIBC(sendmsg)(self->fd, &rest, flags)
                         : LIBC(recvmsg)(self->fd, &rest, flags);
    }
    if (!msg_rest(&rest, copy, self->msg, done)) {
        errno = ENOMEM;
        return -1;
    }
    return self->out ? LIBC(sendmsg)(self->fd, &rest, flags)
                     : LIBC(recvmsg)(self->fd, &rest, flags);
}

static bool low_mark_used; /* somebody has set SO_RCVLOWAT, of whatever socket */

/* How much a blocking call moves at least, of which *got* bytes have been. */
static size_t
transfer_least(const Transfer *self, size_t got)
{
    bool all = self->out || (self->flags & MSG_WAITALL);
    if (!all && !__atomic_load_n(&low_mark_used, __ATOMIC_RELAXED))
        return got;
    size_t bytes = self->msg ? iov_bytes(self->msg) : self->n;
    if (got == 0 || got >= bytes || socket_type(self->fd) != SOCK_STREAM)
        return got;
    int family = socket_option(self->fd, SO_DOMAIN);
    if ((self->flags & MSG_PEEK) && family != AF_INET && family != AF_INET6)
        return got; /* only TCP looks for more than there is */
    if (all)
        return bytes;
    size_t mark = (size_t)socket_option(self->fd, SO_RCVLOWAT);
    return mark < bytes ? mark : bytes;
}

/* Park until a transfer may go on. *tried: it has been, since a poll() said so. */
static EgNativeOutcome
transfer_wait(const Transfer *self, uint64_t deadline, bool *tried)
{
    short ready = self->out ? poll_now(self->fd, POLLOUT) : 0;
    *tried = ready && !*tried;
    if (!ready)
        return wait_fd(self->call, self->fd, self->out ? POLLOUT : POLLIN, deadline);
    if (*tried)
        return EG_NATIVE_AGAIN; /* it came just now */
    /* A datagram that its receiver has no room for: no event tells when. */
    uint64_t until = after(2 * MILLISECOND);
    EgNativeOutcome outcome = wait_time(self->call, until < deadline ? until : deadline);
    return outcome == EG_NATIVE_TIMED_OUT && until < deadline ? EG_NATIVE_AGAIN : outcome;
}

/* A transfer that parks. */
static ssize_t
transfer(const Transfer *self)
{
    int saved = errno, error = 0;
    size_t done = 0;
    struct iovec *copy = NULL;
    uint64_t deadline = 0; /* not asked yet */
    bool peeks = self->flags & MSG_PEEK, tried = false;
    for (EgNativeOutcome outcome = EG_NATIVE_AGAIN;;) {
        bool native = outcome == EG_NATIVE_PASS;
        int how = self->flags | (native ? 0 : MSG_DONTWAIT);
        ssize_t got = done && !peeks ? transfer_rest(self, &copy, done, how | MSG_NOSIGNAL)
                                     : transfer_try(self, how);
        error = errno;
        if (got >= 0) {
            done = peeks ? (size_t)got : done + (size_t)got;
            error = 0;
            if (got == 0 || native || done >= transfer_least(self, done))
                break;
            if (!peeks)
                continue;
            if (poll_now(self->fd, POLLRDHUP))
                break; /* no more will come */
        } else if ((error != EAGAIN && error != EWOULDBLOCK) || native)
            break;
        if (outcome == EG_NATIVE_TIMED_OUT)
            break;
        if (!deadline) {
            if (is_nonblocking(self->fd))
                break;
            deadline = socket_deadline(self->fd, self->out ? SO_SNDTIMEO : SO_RCVTIMEO);
        }
        if (done && (poll_now(self->fd, 0) & POLLERR))
            break; /* the error is for the next call */
        outcome = transfer_wait(self, deadline, &tried);
        error = errno;
        if (outcome == EG_NATIVE_REFUSED)
            break;
    }
    free(copy);
    errno = done || !error ? saved : error;
    return done || !error ? (ssize_t)done : -1;
}

EXPORT ssize_t
recv(int fd, void *buffer, size_t n, int flags)
{
    Transfer self = {EG_NATIVE_recv, fd, flags, .buffer = buffer, .n = n};
    return !(flags & NEVER_WAITS) && CAUGHT() ? transfer(&self) : LIBC(recv)(fd, buffer, n, flags);
}

EXPORT ssize_t
recvfrom(int fd, void *buffer, size_t n, int flags, struct sockaddr *restrict address,
         socklen_t *restrict length)
{
    Transfer self = {EG_NATIVE_recvfrom, fd, flags, .buffer = buffer, .n = n, .address = address,
                     .length = length};
    return !(flags & NEVER_WAITS) && CAUGHT()
               ? transfer(&self)
               : LIBC(recvfrom)(fd, buffer, n, flags, address, length);
}

EXPORT ssize_t
recvmsg(int fd, struct msghdr *msg, int flags)
{
    Transfer self = {EG_NATIVE_recvmsg, fd, flags, .msg = msg};
    return !(flags & NEVER_WAITS) && msg && CAUGHT() ? transfer(&self)
                                                     : LIBC(recvmsg)(fd, msg, flags);
}

EXPORT ssize_t
send(int fd, const void *buffer, size_t n, int flags)
{
    Transfer self = {EG_NATIVE_send, fd, flags, .out = true, .buffer = (void *)buffer, .n = n};
    return !(flags & NEVER_WAITS) && CAUGHT_OUT() ? handed_over(transfer(&self))
                                                  : LIBC(send)(fd, buffer, n, flags);
}

EXPORT ssize_t
sendto(int fd, const void *buffer, size_t n, int flags, const struct sockaddr *address,
       socklen_t length)
{
    Transfer self = {EG_NATIVE_sendto,
                     fd,
                     flags,
                     .out = true,
                     .buffer = (void *)buffer,
                     .n = n,
                     .address = (void *)address,
                     .size = length};
    return !(flags & NEVER_WAITS) && CAUGHT_OUT()
               ? handed_over(transfer(&self))
               : LIBC(sendto)(fd, buffer, n, flags, address, length);
}

EXPORT ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    Transfer self = {EG_NATIVE_sendmsg, fd, flags, .out = true, .msg = (void *)msg};
    return !(flags & NEVER_WAITS) && msg && CAUGHT_OUT() ? handed_over(transfer(&self))
                                                         : LIBC(sendmsg)(fd, msg, flags);
}

/* Not caught: it is only noted. Accepted sockets have what their listener had. */
EXPORT int
setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    if (level == SOL_SOCKET && name == SO_RCVLOWAT)
        __atomic_store_n(&low_mark_used, true, __ATOMIC_RELAXED);
    return LIBC(setsockopt)(fd, level, name, value, size);
}

/* ---- sockets: connections ------------------------------------------------------------------ */
/* Have a blocking descriptor not block for the moment of one call; what to give to nonblock_end(). */
static int
nonblock_begin(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || (flags & O_NONBLOCK) || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1
                                                                                           : flags;
}

static void
nonblock_end(int fd, int flags)
{
    int error = errno;
    if (flags >= 0)
        fcntl(fd, F_SETFL, flags);
    errno = error;
}

/* One connect() that does not wait. */
static int
connect_try(int fd, const struct sockaddr *address, socklen_t length)
{
    int flags = nonblock_begin(fd);
    int status = LIBC(connect)(fd, address, length);
    nonblock_end(fd, flags);
    return status;
}

static int
co_connect(int fd, const struct sockaddr *address, socklen_t length)
{
    int saved = errno;
    if (is_nonblocking(fd))
        return LIBC(connect)(fd, address, length);
    uint64_t deadline = 0;
    for (bool timed_out = false;;) {
        int status = connect_try(fd, address, length);
        /* EAGAIN: the backlog of a local listener is full. */
        if (status == 0 || (errno != EINPROGRESS && errno != EALREADY && errno != EAGAIN)) {
            if (status == 0)
                errno = saved;
            return status;
        }
        bool backlog = errno == EAGAIN;
        if (backlog && address->sa_family != AF_UNIX)
            return -1;
        if (!deadline)
            deadline = socket_deadline(fd, SO_SNDTIMEO);
        if (timed_out) {
            errno = backlog ? EAGAIN : EINPROGRESS;
            return -1;
        }
        uint64_t until = after(2 * MILLISECOND);
        EgNativeOutcome outcome =
            backlog ? wait_time(EG_NATIVE_connect, until < deadline ? until : deadline)
                    : wait_fd(EG_NATIVE_connect, fd, POLLOUT, deadline);
        if (outcome == EG_NATIVE_REFUSED)
            return -1;
        if (outcome == EG_NATIVE_PASS)
            return LIBC(connect)(fd, address, length);
        timed_out = outcome == EG_NATIVE_TIMED_OUT && (!backlog || deadline <= until);
    }
}

EXPORT int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return CAUGHT() ? co_connect(fd, address, length) : LIBC(connect)(fd, address, length);
}

/* Whether a call on it may wait: for a poll() that says no, and not for another end of a pipe. */
static bool
may_wait(int fd, short events)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK)
           && (flags & O_ACCMODE) != (events == POLLIN ? O_WRONLY : O_RDONLY);
}

/* Wait until a call on a blocking descriptor need not: true, also where it is for the call to
 * fail; false: errno is set. */
static bool
wait_until_ready(EgNativeCall call, int fd, short events, uint64_t deadline)
{
    int saved = errno;
    for (bool timed_out = false; !poll_now(fd, events) && may_wait(fd, events);) {
        if (timed_out) {
            errno = EAGAIN;
            return false;
        }
        EgNativeOutcome outcome = wait_fd(call, fd, events, deadline);
        if (outcome == EG_NATIVE_REFUSED)
            return false;
        if (outcome == EG_NATIVE_PASS)
            break;
        timed_out = outcome == EG_NATIVE_TIMED_OUT;
    }
    errno = saved;
    return true;
}

/* flags: of accept4(), 0 for accept(). What does not listen says so at once. */
static int
co_accept(EgNativeCall call, int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    int saved = errno;
    uint64_t deadline = 0; /* not asked yet */
    for (bool timed_out = false;;) {
        errno = EAGAIN;
        int accepted = -1;
        /* Its mode changes only if there is something to accept; others may be faster. */
        if (poll_now(fd, POLLIN) || socket_option(fd, SO_ACCEPTCONN) <= 0) {
            int mode = nonblock_begin(fd);
            errno = saved;
            accepted = LIBC(accept4)(fd, address, length, flags);
            nonblock_end(fd, mode);
            if (mode < 0) /* it was non-blocking before */
                return accepted;
        }
        if (accepted >= 0 || timed_out || (errno != EAGAIN && errno != EWOULDBLOCK))
            return accepted;
        if (is_nonblocking(fd))
            return LIBC(accept4)(fd, address, length, flags);
        if (!deadline)
            deadline = socket_deadline(fd, SO_RCVTIMEO);
        EgNativeOutcome outcome = wait_fd(call, fd, POLLIN, deadline);
        if (outcome == EG_NATIVE_REFUSED)
            return -1;
        if (outcome == EG_NATIVE_PASS)
            return LIBC(accept4)(fd, address, length, flags);
        timed_out = outcome == EG_NATIVE_TIMED_OUT;
        if (timed_out)
            errno = EAGAIN;
    }
}

EXPORT int
accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length)
{
    return CAUGHT() ? co_accept(EG_NATIVE_accept, fd, address, length, 0)
                    : LIBC(accept)(fd, address, length);
}

EXPORT int
accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags)
{
    return CAUGHT() ? co_accept(EG_NATIVE_accept4, fd, address, length, flags)
                    : LIBC(accept4)(fd, address, length, flags);
}

/* ---- read and write: sockets and pipes -------------------------------------------------------- */
typedef enum { KIND_OTHER, KIND_SOCKET, KIND_PIPE } Kind;

static Kind
kind_of(int fd)
{
    struct stat status;
    int saved = errno;
    Kind kind = fstat(fd, &status) < 0     ? KIND_OTHER
                : S_ISSOCK(status.st_mode) ? KIND_SOCKET
                : S_ISFIFO(status.st_mode) ? KIND_PIPE
                                           : KIND_OTHER;
    errno = saved;
    return kind;
}

/* A write to a pipe waits for room for all of it; PIPE_BUF bytes fit when poll() says so. */
static ssize_t
pipe_write(EgNativeCall call, int fd, const struct iovec *parts, int n)
{
    struct msghdr whole = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)n};
    size_t bytes = iov_bytes(&whole), done = 0, before = 0;
    if (bytes <= PIPE_BUF || is_nonblocking(fd)) {
        if (!wait_until_ready(call, fd, POLLOUT, FOREVER))
            return -1;
        return LIBC(writev)(fd, parts, n);
    }
    for (int i = 0; i < n; before += parts[i++].iov_len)
        while (done < before + parts[i].iov_len) {
            size_t offset = done - before, size = parts[i].iov_len - offset;
            ssize_t wrote = -1;
            if (wait_until_ready(call, fd, POLLOUT, FOREVER))
                wrote = LIBC(write)(fd, (const char *)parts[i].iov_base + offset,
                                    size < PIPE_BUF ? size : PIPE_BUF);
            if (wrote < 0)
                return done ? (ssize_t)done : -1;
            done += (size_t)wrote;
        }
    return (ssize_t)done;
}

static ssize_t
co_read(int fd, void *buffer, size_t n)
{
    Kind kind = kind_of(fd);
    if (kind == KIND_SOCKET)
        return transfer(&(Transfer){EG_NATIVE_read, fd, 0, .buffer = buffer, .n = n});
    if (kind == KIND_PIPE && !wait_until_ready(EG_NATIVE_read, fd, POLLIN, FOREVER))
        return -1;
    return LIBC(read)(fd, buffer, n);
}

static ssize_t
co_write(int fd, const void *buffer, size_t n)
{
    Kind kind = kind_of(fd);
    struct iovec part = {(void *)buffer, n};
    if (kind == KIND_SOCKET)
        return transfer(
            &(Transfer){EG_NATIVE_write, fd, 0, .out = true, .buffer = (void *)buffer, .n = n});
    return kind == KIND_PIPE ? pipe_write(EG_NATIVE_write, fd, &part, 1)
                             : LIBC(write)(fd, buffer, n);
}

EXPORT ssize_t
read(int fd, void *buffer, size_t n)
{
    return n && n <= SSIZE_MAX && CAUGHT() ? co_read(fd, buffer, n) : LIBC(read)(fd, buffer, n);
}

EXPORT ssize_t
write(int fd, const void *buffer, size_t n)
{
    return n && n <= SSIZE_MAX && CAUGHT_OUT() ? handed_over(co_write(fd, buffer, n))
                                               : LIBC(write)(fd, buffer, n);
}

/* Whether readv() and writev() have anything to do with these parts. */
static bool
parts_count(const struct iovec *parts, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        if (parts[i].iov_len > SSIZE_MAX - bytes)
            return false;
        else
            bytes += parts[i].iov_len;
    return bytes > 0;
}

/* readv() of a socket or a pipe, writev() if out. */
static ssize_t
co_vector(EgNativeCall call, int fd, Kind kind, const struct iovec *parts, int n, bool out)
{
    struct iovec few[8], *copy = n <= 8 ? few : malloc((size_t)n * sizeof *copy);
    ssize_t moved = -1;
    bool native = !copy || !copy_in(copy, parts, (size_t)n * sizeof *copy) || !parts_count(copy, n);
    if (native)
        ;
    else if (kind == KIND_SOCKET) {
        struct msghdr msg = {.msg_iov = copy, .msg_iovlen = (size_t)n};
        moved = transfer(&(Transfer){call, fd, 0, .out = out, .msg = &msg});
    } else if (out)
        moved = pipe_write(call, fd, copy, n);
    else
        native = wait_until_ready(call, fd, POLLIN, FOREVER);
    if (copy != few)
        free(copy);
    if (native)
        moved = out ? LIBC(writev)(fd, parts, n) : LIBC(readv)(fd, parts, n);
    return moved;
}

EXPORT ssize_t
readv(int fd, const struct iovec *parts, int n)
{
    Kind kind = n > 0 && n <= IOV_MAX && CAUGHT() ? kind_of(fd) : KIND_OTHER;
    return kind == KIND_OTHER ? LIBC(readv)(fd, parts, n)
                              : co_vector(EG_NATIVE_readv, fd, kind, parts, n, false);
}

EXPORT ssize_t
writev(int fd, const struct iovec *parts, int n)
{
    Kind kind = n > 0 && n <= IOV_MAX && CAUGHT_OUT() ? kind_of(fd) : KIND_OTHER;
    return kind == KIND_OTHER ? LIBC(writev)(fd, parts, n)
                              : handed_over(co_vector(EG_NATIVE_writev, fd, kind, parts, n, true));
}

/* ---- sleeping -------------------------------------------------------------------------------------- */
/* Sleep until the deadline: 0, or the error number of an interrupted sleep, or -1: not here. */
static int
sleep_until(EgNativeCall call, uint64_t deadline)
{
    int saved = errno;
    EgNativeOutcome outcome = wait_time(call, deadline);
    errno = saved;
    return outcome == EG_NATIVE_PASS ? -1 : outcome == EG_NATIVE_REFUSED ? EINTR : 0;
}

/* The error number of a sleep of so many ns; if it was interrupted, *rest (may be NULL) is what
 * it lacked. */
static int
sleep_for(EgNativeCall call, uint64_t ns, struct timespec *rest)
{
    uint64_t deadline = after(ns);
    int error = sleep_until(call, deadline);
    if (error < 0) {
        struct timespec whole = timespec_of(ns);
        return LIBC(nanosleep)(&whole, rest) < 0 ? errno : 0;
    }
    if (error && rest)
        *rest = timespec_of(left_until(deadline));
    return error;
}

EXPORT int
nanosleep(const struct timespec *time, struct timespec *rest)
{
    struct timespec given;
    if (!CAUGHT() || !time || !copy_in(&given, time, sizeof given) || !may_last(&given))
        return LIBC(nanosleep)(time, rest);
    int error = sleep_for(EG_NATIVE_nanosleep, ns_of(given.tv_sec, (uint64_t)given.tv_nsec), rest);
    if (error)
        errno = error;
    return error ? -1 : 0;
}

static int
sleep_to(clockid_t clock, const struct timespec *time)
{
    uint64_t end = ns_of(time->tv_sec, (uint64_t)time->tv_nsec);
    for (;;) {
        uint64_t start = now(clock);
        if (start >= end)
            return 0;
        uint64_t ns = end - start;
        if (clock != CLOCK_MONOTONIC && ns > SECOND)
            ns = SECOND; /* somebody may set that clock meanwhile */
        int error = sleep_until(EG_NATIVE_clock_nanosleep, after(ns));
        if (error)
            return error < 0 ? LIBC(clock_nanosleep)(clock, TIMER_ABSTIME, time, NULL) : error;
    }
}

/* Those that go on while a thread sleeps; the others are counters of processor time. */
static bool
clock_is_known(clockid_t clock)
{
    return clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME
           || clock == CLOCK_TAI;
}

EXPORT int
clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *rest)
{
    struct timespec given;
    if (!clock_is_known(clock) || (flags & ~TIMER_ABSTIME) || !CAUGHT() || !time
        || !copy_in(&given, time, sizeof given) || !may_last(&given))
        return LIBC(clock_nanosleep)(clock, flags, time, rest);
    if (flags & TIMER_ABSTIME)
        return sleep_to(clock, &given);
    return sleep_for(EG_NATIVE_clock_nanosleep, ns_of(given.tv_sec, (uint64_t)given.tv_nsec), rest);
}

EXPORT int
usleep(useconds_t us)
{
    if (!us || !CAUGHT())
        return LIBC(usleep)(us);
    int error = sleep_for(EG_NATIVE_usleep, (uint64_t)us * 1000, NULL);
    if (error)
        errno = error;
    return error ? -1 : 0;
}

EXPORT unsigned
sleep(unsigned seconds)
{
    struct timespec rest;
    if (!seconds || !CAUGHT())
        return LIBC(sleep)(seconds);
    if (!sleep_for(EG_NATIVE_sleep, seconds * SECOND, &rest))
        return 0;
    return (unsigned)rest.tv_sec + (rest.tv_nsec >= (long)SECOND / 2); /* as glibc rounds */
}

/* ---- calls that a native thread makes ----------------------------------------------------------------- */
typedef struct {
    EgNativeJob job;
    int fd, operation;
    int error;    /* errno; 0: it has the lock */
    dev_t device; /* what fd was, */
    ino_t inode;  /* should it have to be unlocked */
} LockJob;

static void
lock_run(EgNativeJob *job)
{
    LockJob *self = (LockJob *)job;
    self->error = LIBC(flock)(self->fd, self->operation) < 0 ? errno : 0;
}

static void
lock_undo(EgNativeJob *job)
{
    LockJob *self = (LockJob *)job;
    struct stat status;
    if (!self->error && fstat(self->fd, &status) == 0 && status.st_dev == self->device
        && status.st_ino == self->inode)
        LIBC(flock)(self->fd, LOCK_UN);
}

static void
lock_free(EgNativeJob *job)
{
    free(job);
}

static int
co_flock(int fd, int operation)
{
    int saved = errno;
    int status = LIBC(flock)(fd, operation | LOCK_NB);
    if (status == 0 || errno != EWOULDBLOCK)
        return status;
    struct stat file;
    LockJob *lock = fstat(fd, &file) == 0 ? calloc(1, sizeof *lock) : NULL;
    if (!lock)
        return LIBC(flock)(fd, operation);
    lock->job = (EgNativeJob){.run = lock_run, .undo = lock_undo, .free = lock_free, .shares = 1};
    lock->fd = fd;
    lock->operation = operation;
    lock->device = file.st_dev;
    lock->inode = file.st_ino;
    EgNativeOutcome outcome = core->call(EG_NATIVE_flock, &lock->job);
    int error = outcome == EG_NATIVE_REFUSED ? EINTR : lock->error;
    eg_native_job_leave(&lock->job);
    if (outcome == EG_NATIVE_PASS)
        return LIBC(flock)(fd, operation);
    errno = error ? error : saved;
    return error ? -1 : 0;
}

EXPORT int
flock(int fd, int operation)
{
    return !(operation & (LOCK_NB | LOCK_UN)) && CAUGHT() ? co_flock(fd, operation)
                                                          : LIBC(flock)(fd, operation);
}

typedef struct {
    EgNativeJob job;
    char *node, *service; /* its own copies, as the hints; NULL: none */
    struct addrinfo hints;
    bool hinted;
    struct addrinfo *found; /* NULL once taken */
    int status, error;
} LookupJob;

static void
lookup_run(EgNativeJob *job)
{
    LookupJob *self = (LookupJob *)job;
    self->status = LIBC(getaddrinfo)(self->node, self->service, self->hinted ? &self->hints : NULL,
                                     &self->found);
    self->error = errno;
    if (self->status)
        self->found = NULL;
}

static void
lookup_free(EgNativeJob *job)
{
    LookupJob *self = (LookupJob *)job;
    if (self->found)
        freeaddrinfo(self->found);
    free(self->node);
    free(self->service);
    free(self);
}

/* Whether no name server is needed. */
static bool
is_numeric(const char *node)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found;
    if (LIBC(getaddrinfo)(node, NULL, &hints, &found) != 0)
        return false;
    freeaddrinfo(found);
    return true;
}

static int
co_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
               struct addrinfo **found)
{
    int saved = errno;
    LookupJob *lookup = is_numeric(node) ? NULL : calloc(1, sizeof *lookup);
    if (!lookup)
        return LIBC(getaddrinfo)(node, service, hints, found);
    lookup->job = (EgNativeJob){.run = lookup_run, .free = lookup_free, .shares = 1};
    lookup->node = strdup(node);
    lookup->service = service ? strdup(service) : NULL;
    lookup->hinted = hints != NULL;
    if (hints)
        lookup->hints = *hints;
    EgNativeOutcome outcome = EG_NATIVE_PASS;
    if (lookup->node && (lookup->service || !service))
        outcome = core->call(EG_NATIVE_getaddrinfo, &lookup->job);
    int status = EAI_SYSTEM, error = EINTR;
    if (outcome == EG_NATIVE_AGAIN) {
        status = lookup->status;
        error = status == EAI_SYSTEM ? lookup->error : saved;
        if (!status) {
            *found = lookup->found;
            lookup->found = NULL;
        }
    }
    eg_native_job_leave(&lookup->job);
    if (outcome == EG_NATIVE_PASS)
        return LIBC(getaddrinfo)(node, service, hints, found);
    errno = error;
    return status;
}

EXPORT int
getaddrinfo(const char *restrict node, const char *restrict service,
            const struct addrinfo *restrict hints, struct addrinfo **restrict found)
{
    return node && found && CAUGHT() ? co_getaddrinfo(node, service, hints, found)
                                     : LIBC(getaddrinfo)(node, service, hints, found);
}

/* ---- mutexes that a parked task of this very thread holds ----------------------------------------------- */
#if defined(__GLIBC__) && defined(__linux__)
/* A driver that keeps a mutex while it waits (libpq's users do) would stop the thread for ever
 * when another task wants it: the C library sees one thread that locks it twice. */
static bool
mutex_is_ours(const pthread_mutex_t *mutex)
{
    static THREAD_LOCAL pid_t me;
    int owner = __atomic_load_n(&mutex->__data.__owner, __ATOMIC_RELAXED);
    if (__builtin_expect(owner == 0, 1) || mutex->__data.__kind != PTHREAD_MUTEX_TIMED_NP)
        return false;
    if (owner != me)
        me = (pid_t)syscall(SYS_gettid); /* not known yet, or another in a forked child */
    return owner == me;
}

EXPORT int
pthread_mutex_lock(pthread_mutex_t *mutex)
{
    uint64_t ns = MILLISECOND;
    while (__builtin_expect(mutex_is_ours(mutex), 0) && CAUGHT()) {
        int status = pthread_mutex_trylock(mutex);
        if (status != EBUSY)
            return status;
        if (wait_time(EG_NATIVE_pthread_mutex_lock, after(ns)) == EG_NATIVE_PASS)
            break;
        if (ns < 16 * MILLISECOND)
            ns *= 2; /* nothing tells when it is free */
    }
    return LIBC(pthread_mutex_lock)(mutex);
}
#endif

/* ---- signal handlers ---------------------------------------------------------------------------------------- */
/* A handler may run anywhere, also while its thread parks: nothing in it may wait for a task. So
 * each is called by handler_run(), and the program is shown its own. One that leaves by
 * siglongjmp() leaves its thread to the C library. */
#ifndef NSIG
#define NSIG 65
#endif

static struct {
    void (*handler)(int, siginfo_t *, void *);
    int siginfo; /* SA_SIGINFO, if the program set that */
} handlers_known[NSIG];

static void
handler_run(int signum, siginfo_t *info, void *context)
{
    handlers++;
    handlers_known[signum].handler(signum, info, context);
    handlers--;
}

EXPORT int
sigaction(int signum, const struct sigaction *restrict action, struct sigaction *restrict before)
{
    struct sigaction ours;
    if (signum <= 0 || signum >= NSIG)
        return LIBC(sigaction)(signum, action, before);
    __typeof__(handlers_known[0]) was = handlers_known[signum];
    if (action && action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN
        && action->sa_sigaction != handler_run) {
        ours = *action;
        ours.sa_sigaction = handler_run;
        ours.sa_flags |= SA_SIGINFO;
        /* The cast is what the kernel does: a handler of one argument is given three. */
        handlers_known[signum].handler = action->sa_sigaction;
        handlers_known[signum].siginfo = action->sa_flags & SA_SIGINFO;
        action = &ours;
    }
    struct sigaction old;
    int status = LIBC(sigaction)(signum, action, &old);
    if (status == 0 && before) {
        *before = old;
        if (old.sa_sigaction == handler_run) {
            before->sa_sigaction = was.handler;
            before->sa_flags = (old.sa_flags & ~SA_SIGINFO) | was.siginfo;
        }
    }
    return status;
}

EXPORT void (*signal(int signum, void (*handler)(int)))(int)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, signum);
    return sigaction(signum, &action, &before) < 0 ? SIG_ERR : before.sa_handler;
}

/* ---- glibc's other names of the same functions ---------------------------------------------------------------- */
#ifdef __GLIBC__
extern void __chk_fail(void) __attribute__((noreturn));

/* What _FORTIFY_SOURCE makes of a call whose buffer it knows the size of. */
EXPORT int
__poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size)
{
    if (size / sizeof *fds < n)
        __chk_fail();
    return timeout && CAUGHT() ? co_poll(fds, n, timeout) : LIBC(poll)(fds, n, timeout);
}

EXPORT int
__ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
            size_t size)
{
    if (size / sizeof *fds < n)
        __chk_fail();
    if (!may_last(timeout) || !CAUGHT())
        return LIBC(ppoll)(fds, n, timeout, mask);
    return poll_until(EG_NATIVE_ppoll, fds, n, timespec_deadline(timeout), mask);
}

EXPORT ssize_t
__read_chk(int fd, void *buffer, size_t n, size_t size)
{
    if (n > size)
        __chk_fail();
    return n && n <= SSIZE_MAX && CAUGHT() ? co_read(fd, buffer, n) : LIBC(read)(fd, buffer, n);
}

EXPORT ssize_t
__recv_chk(int fd, void *buffer, size_t n, size_t size, int flags)
{
    Transfer self = {EG_NATIVE_recv, fd, flags, .buffer = buffer, .n = n};
    if (n > size)
        __chk_fail();
    return !(flags & NEVER_WAITS) && CAUGHT() ? transfer(&self) : LIBC(recv)(fd, buffer, n, flags);
}

EXPORT ssize_t
__recvfrom_chk(int fd, void *restrict buffer, size_t n, size_t size, int flags,
               struct sockaddr *restrict address, socklen_t *restrict length)
{
    Transfer self = {EG_NATIVE_recvfrom, fd, flags, .buffer = buffer, .n = n, .address = address,
                     .length = length};
    if (n > size)
        __chk_fail();
    return !(flags & NEVER_WAITS) && CAUGHT()
               ? transfer(&self)
               : LIBC(recvfrom)(fd, buffer, n, flags, address, length);
}

#if __has_attribute(copy)
#define COPY(name) __attribute__((copy(name)))
#else
#define COPY(name)
#endif
#define ALIAS(type, name, arguments) \
    EXPORT type __##name arguments __attribute__((alias(#name))) COPY(name)
ALIAS(int, poll, (struct pollfd *, nfds_t, int));
ALIAS(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *));
ALIAS(ssize_t, read, (int, void *, size_t));
ALIAS(ssize_t, write, (int, const void *, size_t));
ALIAS(ssize_t, send, (int, const void *, size_t, int));
ALIAS(int, connect, (int, const struct sockaddr *, socklen_t));
ALIAS(int, nanosleep, (const struct timespec *, struct timespec *));
ALIAS(int, sigaction, (int, const struct sigaction *, struct sigaction *));
#endif
