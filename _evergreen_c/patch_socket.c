/* patch_socket.c: the methods of _socket.socket, and the resolver's functions.
 *
 * A method tries its system call without blocking (MSG_DONTWAIT), parks the task when the
 * kernel says EAGAIN, and tries again.  The program's own O_NONBLOCK is never changed, but
 * for the moment of one accept() or connect(), which take no flag.
 *
 *     recv, recv_into, send, sendall    make the system call themselves
 *     recvfrom, recvmsg, sendto, ...    call the original with MSG_DONTWAIT added
 *     accept, connect                   call the original on a non-blocking descriptor
 *     getaddrinfo, ...                  call the original in a native thread
 *
 * Arguments that the original would refuse are handed to the original, as is everything on
 * a socket that the program has made non-blocking.
 */
#include "evergreen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#define SCRATCH 65536 /* bytes: what is received before a bytes object is made for it */
#define BIG 16384     /* from here on a copy costs more than a bytes object made in vain */
#define TURNS 64      /* operations that do not park before others get their turn */

#ifdef AF_ALG
#define IS_ALG(family) ((family) == AF_ALG) /* computes in the calls and cannot be polled */
#else
#define IS_ALG(family) 0
#endif

/* ---- the socket object -------------------------------------------------------- */
/* How _socket.socket begins, from Python 3.5 to 3.15; socket_layout_check() compares. */
typedef struct {
    PyObject_HEAD
    int fd, family, type, proto;
    PyObject *(*error)(void);
    int64_t timeout; /* ns; 0: non-blocking, negative: for ever */
} SocketObject;

typedef enum { UNCHECKED, DIRECT, BY_METHODS } SocketLayout;
static SocketLayout socket_layout;
static PyTypeObject *socket_type;   /* _socket.socket; strong, for as long as the process */
static destructor socket_finalizer; /* its own */

static long
socket_ask(PyObject *self, const char *name, bool call)
{
    PyObject *answer = call ? PyObject_CallMethod((PyObject *)socket_type, name, "O", self)
                            : PyObject_GetAttrString(self, name);
    long value = answer ? PyLong_AsLong(answer) : -1;
    Py_XDECREF(answer);
    return value;
}

static int64_t
socket_ask_timeout(PyObject *self)
{
    PyObject *answer = PyObject_CallMethod((PyObject *)socket_type, "gettimeout", "O", self);
    double seconds = !answer || answer == Py_None ? -1.0 : PyFloat_AsDouble(answer);
    Py_XDECREF(answer);
    return (int64_t)(seconds * 1e9);
}

/* DIRECT if a socket object of this Python looks as SocketObject says. */
static SocketLayout
socket_layout_check(void)
{
    PyObject *sample = PyObject_CallFunction((PyObject *)socket_type, "ii", AF_UNIX, SOCK_DGRAM);
    if (!sample) {
        PyErr_Clear(); /* out of descriptors: next time, then */
        return UNCHECKED;
    }
    SocketObject *view = (SocketObject *)sample;
    PyObject *done = NULL;
    bool same = socket_type->tp_basicsize >= (Py_ssize_t)sizeof *view && view->timeout < 0
                && view->fd == socket_ask(sample, "fileno", true) && view->family == AF_UNIX
                && view->type == SOCK_DGRAM && view->proto == 0
                && (done = PyObject_CallMethod(sample, "settimeout", "d", 12.5))
                && view->timeout == 12500000000;
    Py_XDECREF(done);
    done = PyObject_CallMethod(sample, "close", NULL);
    same = same && done && view->fd == -1;
    PyErr_Clear(); /* whatever it was, it was not the same */
    Py_XDECREF(done);
    Py_DECREF(sample);
    return same ? DIRECT : BY_METHODS;
}

static int
socket_setup(void)
{
    PyTypeObject **api = PyCapsule_Import("_socket.CAPI", 0); /* begins with the type */
    if (!api)
        return -1;
    if (!socket_type) {
        socket_type = (PyTypeObject *)Py_NewRef(api[0]);
        socket_finalizer = socket_type->tp_finalize;
    }
    socket_layout = BY_METHODS; /* while the check runs */
    socket_layout = socket_layout_check();
    return 0;
}

bool
eg_socket_check(PyObject *object)
{
    if (EG_UNLIKELY(socket_layout == UNCHECKED) && socket_setup() < 0)
        PyErr_Clear(); /* no socket module, no sockets */
    return socket_type && PyObject_TypeCheck(object, socket_type);
}

/* Look at a socket; false: exception. */
bool
eg_socket_look(PyObject *self, EgSocketView *view)
{
    if (EG_UNLIKELY(socket_layout == UNCHECKED) && socket_setup() < 0)
        return false;
    if (EG_LIKELY(socket_layout == DIRECT)) {
        const SocketObject *object = (SocketObject *)self;
        view->fd = object->fd;
        view->family = object->family;
        view->type = object->type;
        view->proto = object->proto;
        view->timeout = object->timeout;
        return true;
    }
    view->fd = (int)socket_ask(self, "fileno", true);
    view->family = (int)socket_ask(self, "family", false);
    view->type = (int)socket_ask(self, "type", false);
    view->proto = (int)socket_ask(self, "proto", false);
    view->timeout = socket_ask_timeout(self);
    return !PyErr_Occurred();
}

int
eg_socket_set_timeout(PyObject *self, int64_t ns)
{
    if (EG_LIKELY(socket_layout == DIRECT)) {
        ((SocketObject *)self)->timeout = ns;
        return 0;
    }
    PyObject *done =
        PyObject_CallMethod((PyObject *)socket_type, "settimeout", "Od", self, (double)ns / 1e9);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* ---- descriptors ---------------------------------------------------------------- */
/* What is known of a descriptor's socket until it is closed. */
enum { HINT_BIG = 1, HINT_BLOCKING = 2, HINT_NO_LIMIT = 4, HINT_NO_MARK = 16 };
static uint8_t socket_hints[EG_HINTS];

static inline bool
hint_get(int fd, int hint)
{
    return (unsigned)fd < EG_HINTS && (socket_hints[fd] & hint);
}

static inline void
hint_set(int fd, int hint, bool on)
{
    if ((unsigned)fd < EG_HINTS)
        socket_hints[fd] = (uint8_t)(on ? socket_hints[fd] | hint : socket_hints[fd] & ~hint);
}

/* The number is about to mean something else, whoever closes it. */
void
eg_socket_forget(int fd)
{
    if (fd < 0)
        return;
    if (fd < EG_HINTS)
        socket_hints[fd] = 0;
    if (eg_state && eg_state->hubs)
        eg_fd_closing(fd);
}

uint64_t
eg_socket_limit(int fd, int events, bool known)
{
    int option = events == EG_READ ? SO_RCVTIMEO : SO_SNDTIMEO, hint = HINT_NO_LIMIT * events;
    struct timeval limit = {0, 0};
    socklen_t size = sizeof limit;
    if (known && hint_get(fd, hint))
        return EG_FOREVER;
    if (getsockopt(fd, SOL_SOCKET, option, &limit, &size) == 0 && (limit.tv_sec || limit.tv_usec))
        return limit.tv_sec > 1000000000 ? EG_FOREVER
                                         : eg_clock_in((uint64_t)limit.tv_sec * 1000000000
                                                       + (uint64_t)limit.tv_usec * 1000);
    hint_set(fd, hint, known);
    return EG_FOREVER;
}

/* How many bytes a blocking read of a stream waits for, as the program has set it. */
static size_t
fd_low_mark(int fd)
{
    int mark = 1;
    socklen_t size = sizeof mark;
    if (EG_LIKELY(hint_get(fd, HINT_NO_MARK)))
        return 1;
    if (getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &mark, &size) == 0 && mark > 1)
        return (size_t)mark;
    hint_set(fd, HINT_NO_MARK, true);
    return 1;
}

/* A socket that nobody closed closes its descriptor here. */
static void
socket_finalize(PyObject *self)
{
    eg_socket_forget(((SocketObject *)self)->fd);
    socket_finalizer(self);
}

static EgPatch socket_close_patch;

/* Whether we are told before this socket's descriptor is closed.  The finaliser is a slot
 * that types have copied from their base when they were made, so it is replaced in each
 * type when it first waits; a type with a __del__ of its own stays as it is. */
bool
eg_socket_is_owned(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (EG_UNLIKELY(type->tp_finalize != socket_finalize)) {
        if (socket_layout != DIRECT || type->tp_finalize != socket_finalizer)
            return false;
        type->tp_finalize = socket_finalize;
    }
    /* With evergreen.lib, or patch(socket=True), native calls may close it, too. */
    return socket_close_patch.applied && eg_os_tells_of_closing();
}

static bool
fd_is_ready(int fd, int events)
{
    struct pollfd entry = {.fd = fd, .events = events == EG_READ ? POLLIN : POLLOUT};
    return fd < 0 || poll(&entry, 1, 0) != 0; /* a bad descriptor: its call says so */
}

/* ---- waiting -------------------------------------------------------------------- */
/* One blocking operation. */
typedef struct {
    PyObject *self; /* borrowed from the caller */
    int events;
    EgSocketView view; /* as it was when the operation began, but for the descriptor */
    uint64_t deadline; /* 0: not known before the first wait */
    bool late;         /* it passed, and was that of SO_RCVTIMEO or SO_SNDTIMEO */
} SocketCall;

/* Others have run, and may have closed the socket. */
static int
call_look_again(SocketCall *call)
{
    EgSocketView now;
    if (!eg_socket_look(call->self, &now))
        return -1;
    call->view.fd = now.fd;
    return 0;
}

static int socket_turns; /* operations since somebody last parked */

static int
call_give_way(SocketCall *call)
{
    socket_turns = 0;
    if (eg_hub_here->forbidden || !eg_hub_task(eg_hub_here)) {
        PyErr_Clear();
        return 0; /* a callback, which may not; its call may still not block */
    }
    EgTask *me = eg_wait_begin();
    return me && eg_wait_yield_first(me) == 0 ? call_look_again(call) : -1;
}

/* A task whose sockets are always ready must not starve the others. See eg_wait_yield(). */
static inline bool
turn_is_over(void)
{
    return EG_UNLIKELY(++socket_turns >= TURNS || eg_hub_slice_is_over(eg_hub_here));
}

/* Before an operation that takes, when its arguments, which may run Python, are known. */
static inline int
call_turn(SocketCall *call)
{
    return turn_is_over() ? call_give_way(call) : call_look_again(call);
}

/* Likewise, before one that hands over. */
static inline int
call_check(SocketCall *call)
{
    return eg_wait_check() < 0 ? -1 : call_look_again(call);
}

/* After that. */
static inline int
turn_after(void)
{
    if (!turn_is_over())
        return 0;
    socket_turns = 0;
    return eg_wait_give_way();
}

/* Park until the socket may be ready: 1; 0: the socket's timeout passed; -1: exception. */
static int
call_wait(SocketCall *call)
{
    int fd = call->view.fd;
    if (call->view.timeout < 0 && !hint_get(fd, HINT_BLOCKING)) {
        /* Non-blocking by other means than settimeout(): the original raises here. */
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || (flags & O_NONBLOCK)) {
            errno = flags < 0 ? errno : EAGAIN;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        hint_set(fd, HINT_BLOCKING, true);
    }
    const void *owner = eg_socket_is_owned(call->self) ? call->self : NULL;
    if (!call->deadline)
        call->deadline = call->view.timeout < 0 ? eg_socket_limit(fd, call->events, true)
                                                : eg_clock_in((uint64_t)call->view.timeout);
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    socket_turns = 0;
    int status = eg_fd_wait(me, fd, call->events, call->deadline, owner);
    return status <= 0 ? status : call_look_again(call) < 0 ? -1 : 1;
}

/* The same, where the timeout is an exception: 0: try again; -1: exception. */
static int
call_wait_or_raise(SocketCall *call)
{
    int status = call_wait(call);
    if (status > 0)
        return 0;
    if (status == 0 && call->view.timeout >= 0)
        PyErr_SetString(PyExc_TimeoutError, "timed out");
    else if (status == 0) {
        call->late = true;
        errno = EAGAIN;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return -1;
}

/* A system call has failed with errno: 0: try again; -1: exception. */
static int
call_retry(SocketCall *call)
{
    if (errno == EINTR)
        return PyErr_CheckSignals();
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return call_wait_or_raise(call);
}

/* What a method does first.  1: go on; 0: call the original; -1: exception. */
static inline int
call_begin(SocketCall *call, PyObject *self, int events)
{
    if (!eg_hub_cooperates())
        return 0;
    if (!eg_socket_look(self, &call->view))
        return -1;
    if (call->view.timeout == 0 || IS_ALG(call->view.family))
        return eg_patch_poll();
    call->self = self;
    call->events = events;
    call->deadline = 0;
    call->late = false;
    return 1;
}

/* Whether the program's own flags keep the original from waiting; on a socket with a timeout it
 * waits nevertheless, for that is done in front of the system call. */
static inline bool
call_never_waits(const SocketCall *call, int flags)
{
    return (flags & MSG_DONTWAIT) && call->view.timeout < 0;
}

/* ---- arguments -------------------------------------------------------------------- */
/* False, without an exception, leaves it to the original to complain. */
static bool
arg_size(PyObject *object, Py_ssize_t *value)
{
    *value = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (*value == -1 && PyErr_Occurred())
        PyErr_Clear();
    return *value >= 0;
}

static bool
arg_int(PyObject *object, int *value)
{
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    *value = (int)number;
    return number == *value;
}

static bool
arg_buffer(PyObject *object, int flags, Py_buffer *buffer)
{
    if (PyUnicode_Check(object) || PyObject_GetBuffer(object, buffer, flags) < 0) {
        PyErr_Clear();
        return false;
    }
    if (PyBuffer_IsContiguous(buffer, 'C'))
        return true;
    PyBuffer_Release(buffer);
    return false;
}

/* ---- receiving ------------------------------------------------------------------------ */
/* Flags with which the kernel has rules of its own for what blocks. */
#define ODD_RECEIVE (MSG_OOB | MSG_ERRQUEUE)

static PyObject *
receive_oddly(const EgPatch *patch, const EgSocketView *view, PyObject *self, PyObject *const *args,
              Py_ssize_t n, PyObject *kwnames)
{
    if (view->timeout < 0) /* never blocks, whatever the descriptor's mode */
        return eg_patch_call_original(patch, self, args, n, kwnames);
    return eg_patch_offload("offload", patch, self, args, n, kwnames);
}

/* Whether a read that gets less than it asked for has got all: of TCP that is so, of other streams
 * only between records, or what came with a descriptor. */
static inline bool
receives_all(const EgSocketView *view, int flags)
{
    return view->type == SOCK_STREAM && flags == 0
           && (view->family == AF_INET || view->family == AF_INET6)
           && (view->proto == 0 || view->proto == IPPROTO_TCP);
}

/* Before the first try: there is nothing. 0: try; -1: exception. */
static inline int
call_wait_if_drained(SocketCall *call, bool all)
{
    return all && eg_fd_is_drained(call->view.fd) ? call_wait_or_raise(call) : 0;
}

/* How much is to be received at least, of so much: with MSG_WAITALL, or a mark of the program's. */
static inline size_t
call_least(const SocketCall *call, size_t room, int flags)
{
    if (call->view.type != SOCK_STREAM || flags & MSG_DONTWAIT)
        return 1;
    if (EG_UNLIKELY(flags & MSG_WAITALL) && call->view.timeout < 0)
        return room;
    size_t mark = fd_low_mark(call->view.fd);
    return mark < room ? mark : room;
}

/* Whether no more will come. */
static bool
fd_has_ended(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLRDHUP};
    return poll(&entry, 1, 0) != 0;
}

/* Wait until there is so much to be received, or the end, and leave it there: TCP alone can say. 0: as
 * much as there will be; -1: exception. */
static int
call_wait_for_least(SocketCall *call, char *into, size_t least, int flags)
{
    for (;;) {
        ssize_t got = recv(call->view.fd, into, least, flags | MSG_PEEK | MSG_DONTWAIT);
        if (got == 0 || got >= (ssize_t)least || (got > 0 && fd_has_ended(call->view.fd))
            || (got < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
            return 0;
        if (got > 0)
            errno = EAGAIN;
        if (call_retry(call) == 0)
            continue;
        if (!call->late || got <= 0)
            return -1;
        PyErr_Clear();
        return 0;
    }
}

/* Receive into memory that stays where it is, so much at least. */
static ssize_t
call_receive(SocketCall *call, char *into, size_t room, int flags, size_t least)
{
    size_t filled = 0;
    bool tcp = receives_all(&call->view, 0), all = receives_all(&call->view, flags);
    if (call_wait_if_drained(call, all) < 0)
        return -1;
    if (EG_UNLIKELY(least > 1) && tcp && (call->view.timeout >= 0 || flags & MSG_PEEK)
        && call_wait_for_least(call, into, least, flags) < 0)
        return -1;
    bool whole = least > 1 && !(flags & MSG_PEEK) && call->view.timeout < 0;
    for (;;) {
        ssize_t got = recv(call->view.fd, into + filled, room - filled, flags | MSG_DONTWAIT);
        if (got >= 0) {
            filled += (size_t)got;
            if (all && got > 0 && filled < room)
                eg_fd_drained(call->view.fd);
            if (!whole || got == 0 || filled >= least)
                return (ssize_t)filled;
        } else if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK && filled)
            return (ssize_t)filled; /* as the kernel: the error comes next time */
        else if (call_retry(call) < 0) {
            if (!filled || !call->late)
                return -1;
            PyErr_Clear();
            return (ssize_t)filled;
        }
    }
}

EG_PATCH_ON_HUB(socket_recv, "_socket.socket", "recv", "socket");

static PyObject *
socket_recv(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static char scratch[SCRATCH]; /* the GIL is kept from filling it to copying it */
    SocketCall call;
    Py_ssize_t size;
    int flags = 0, go = call_begin(&call, self, EG_READ);
    if (go < 0)
        return NULL;
    if (!go || kwnames || n < 1 || n > 2 || !arg_size(args[0], &size) || size == 0
        || (n == 2 && !arg_int(args[1], &flags)))
        return eg_patch_call_original(&socket_recv_patch, self, args, n, kwnames);
    if (flags & ODD_RECEIVE)
        return receive_oddly(&socket_recv_patch, &call.view, self, args, n, NULL);
    if (call_turn(&call) < 0)
        return NULL;
    if (call_never_waits(&call, flags))
        return eg_patch_call_original(&socket_recv_patch, self, args, n, NULL);
    bool stream = call.view.type == SOCK_STREAM && flags == 0;
    bool all = receives_all(&call.view, flags);
    size_t least = call_least(&call, (size_t)size, flags);
    if (call_wait_if_drained(&call, all) < 0)
        return NULL;
    for (;;) {
        ssize_t got;
        if (EG_UNLIKELY(least > 1) ? false
            : stream               ? !hint_get(call.view.fd, HINT_BIG)
                                   : flags == 0 && size <= SCRATCH) {
            Py_ssize_t room = size < SCRATCH ? size : SCRATCH;
            got = recv(call.view.fd, scratch, (size_t)room, MSG_DONTWAIT);
            if (EG_LIKELY(got >= 0)) {
                if (all && got > 0 && got < room)
                    eg_fd_drained(call.view.fd);
                hint_set(call.view.fd, HINT_BIG, got >= BIG);
                return PyBytes_FromStringAndSize(scratch, got);
            }
        } else {
            PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
            if (!bytes)
                return NULL;
            char *into = PyBytes_AS_STRING(bytes);
            if (least > 1) {
                if ((got = call_receive(&call, into, (size_t)size, flags, least)) < 0) {
                    Py_DECREF(bytes);
                    return NULL;
                }
            } else
                got = recv(call.view.fd, into, (size_t)size, flags | MSG_DONTWAIT);
            if (got >= 0) {
                if (all && got > 0 && got < size)
                    eg_fd_drained(call.view.fd);
                hint_set(call.view.fd, HINT_BIG, got >= BIG);
                if (got != size)
                    _PyBytes_Resize(&bytes, got);
                return bytes;
            }
            int code = errno;
            Py_DECREF(bytes); /* nothing is kept while parked */
            errno = code;
        }
        if (call_retry(&call) < 0)
            return NULL;
    }
}

/* Positional and keyword arguments of (buffer, nbytes=0, flags=0) in their places. */
static bool
arrange_into(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, PyObject *full[3])
{
    static const char *const names[] = {"buffer", "nbytes", "flags"};
    if (n > 3)
        return false;
    for (Py_ssize_t i = 0; i < 3; i++)
        full[i] = i < n ? args[i] : NULL;
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        int i = 0;
        while (i < 3 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), names[i]))
            i++;
        if (i == 3 || full[i])
            return false;
        full[i] = args[n + k];
    }
    return full[0] != NULL;
}

EG_PATCH_ON_HUB(socket_recv_into, "_socket.socket", "recv_into", "socket");

static PyObject *
socket_recv_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    SocketCall call;
    PyObject *full[3];
    Py_buffer buffer;
    Py_ssize_t size = 0;
    int flags = 0, go = call_begin(&call, self, EG_READ);
    if (go < 0)
        return NULL;
    if (!go || !arrange_into(args, n, kwnames, full) || (full[1] && !arg_size(full[1], &size))
        || (full[2] && !arg_int(full[2], &flags)) || !arg_buffer(full[0], PyBUF_WRITABLE, &buffer))
        return eg_patch_call_original(&socket_recv_into_patch, self, args, n, kwnames);
    PyObject *result = NULL;
    if (size == 0)
        size = buffer.len;
    if (size == 0 || size > buffer.len)
        result = eg_patch_call_original(&socket_recv_into_patch, self, args, n, kwnames);
    else if (flags & ODD_RECEIVE)
        result = receive_oddly(&socket_recv_into_patch, &call.view, self, args, n, kwnames);
    else if (call_turn(&call) < 0)
        result = NULL;
    else if (call_never_waits(&call, flags))
        result = eg_patch_call_original(&socket_recv_into_patch, self, args, n, kwnames);
    else {
        size_t least = call_least(&call, (size_t)size, flags);
        ssize_t got = call_receive(&call, buffer.buf, (size_t)size, flags, least);
        result = got < 0 ? NULL : PyLong_FromSsize_t(got);
    }
    PyBuffer_Release(&buffer);
    return result;
}

/* ---- sending ----------------------------------------------------------------------------- */
/* Send what the original would: how much that was, or -1 with an exception. */
static Py_ssize_t
call_send(SocketCall *call, const char *from, Py_ssize_t size, int flags, bool all)
{
    Py_ssize_t sent = 0, before = 0;
    /* The kernel takes all that a blocking stream is given, also without sendall(). */
    bool whole = all || (call->view.timeout < 0 && call->view.type == SOCK_STREAM);
    do {
        ssize_t some =
            send(call->view.fd, from + sent, (size_t)(size - sent), flags | MSG_DONTWAIT);
        if (some >= 0)
            sent += some;
        else if (!all && sent && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
            break; /* as the kernel: the error comes next time */
        else if (call_retry(call) < 0) {
            if (!call->late || sent == before)
                return -1;
            PyErr_Clear();
            if (!all)
                break;
            before = sent; /* the limit is that of one send(2), which has sent some */
            call->deadline = 0;
            call->late = false;
        }
    } while (sent < size && (whole || sent == 0));
    return sent;
}

static PyObject *
socket_send_with(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames, bool all)
{
    SocketCall call;
    Py_buffer buffer;
    PyObject *result = NULL;
    int flags = 0, go = call_begin(&call, self, EG_WRITE);
    if (go < 0)
        return NULL;
    if (!go || kwnames || n < 1 || n > 2 || (n == 2 && !arg_int(args[1], &flags))
        || !arg_buffer(args[0], PyBUF_SIMPLE, &buffer))
        return eg_patch_call_original(patch, self, args, n, kwnames);
    if (call_check(&call) < 0)
        result = NULL;
    else if (call_never_waits(&call, flags))
        result = eg_patch_call_original(patch, self, args, n, NULL);
    else {
        Py_ssize_t sent = call_send(&call, buffer.buf, buffer.len, flags, all);
        if (sent >= 0)
            result = all ? Py_NewRef(Py_None) : PyLong_FromSsize_t(sent);
    }
    PyBuffer_Release(&buffer);
    if (result && turn_after() < 0)
        Py_CLEAR(result);
    return result;
}

EG_PATCH_ON_HUB(socket_send, "_socket.socket", "send", "socket");

static PyObject *
socket_send(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_send_with(&socket_send_patch, self, args, n, kwnames, false);
}

EG_PATCH_ON_HUB(socket_sendall, "_socket.socket", "sendall", "socket");

static PyObject *
socket_sendall(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_send_with(&socket_sendall_patch, self, args, n, kwnames, true);
}

/* ---- through the original -------------------------------------------------------------------- */
/* Call an original that must neither wait nor loop when the kernel says EAGAIN. */
static PyObject *
call_original(SocketCall *call, const EgPatch *patch, PyObject *const *args, Py_ssize_t n)
{
    /* With a timeout it would poll; without one it does as the flags and the fd say. */
    if (call->view.timeout > 0 && eg_socket_set_timeout(call->self, 0) < 0)
        return NULL;
    PyObject *result = eg_patch_call_original(patch, call->self, args, n, NULL);
    if (call->view.timeout > 0) {
        PyObject *type, *value, *traceback;
        EgSocketView now;
        PyErr_Fetch(&type, &value, &traceback);
        if (!eg_socket_look(call->self, &now) /* nobody has set it meanwhile: */
            || (now.timeout == 0 && eg_socket_set_timeout(call->self, call->view.timeout) < 0))
            PyErr_Clear(); /* it was closed, so what the original says counts */
        PyErr_Restore(type, value, traceback);
    }
    return result;
}

/* Whether there is nothing to receive and nothing wrong with trying. */
static bool
call_would_block(const SocketCall *call)
{
    char byte;
    return !fd_is_ready(call->view.fd, EG_READ)
           && recv(call->view.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0
           && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Call the original with MSG_DONTWAIT in full[at] until it need not wait. */
static PyObject *
call_with_flags(SocketCall *call, const EgPatch *patch, PyObject **full, Py_ssize_t n,
                Py_ssize_t at)
{
    PyObject *result = NULL, *given = full[at], *dontwait;
    int flags = 0;
    if (given && !arg_int(given, &flags))
        return eg_patch_call_original(patch, call->self, full, n, NULL);
    if (call->events == EG_READ && (flags & ODD_RECEIVE))
        return receive_oddly(patch, &call->view, call->self, full, n, NULL);
    if (call->events == EG_READ ? flags & MSG_WAITALL : flags & MSG_FASTOPEN)
        return eg_patch_offload("offload", patch, call->self, full, n, NULL);
    if ((call->events == EG_READ ? call_turn(call) : call_check(call)) < 0)
        return NULL;
    if (call_never_waits(call, flags))
        return eg_patch_call_original(patch, call->self, full, n, NULL);
    if (!(dontwait = PyLong_FromLong(flags | MSG_DONTWAIT)))
        return NULL;
    full[at] = dontwait;
    for (;;) {
        if (call->events == EG_WRITE || !call_would_block(call)) {
            result = call_original(call, patch, full, n);
            if (result || !PyErr_ExceptionMatches(PyExc_BlockingIOError))
                break;
            PyErr_Clear();
            if (call->events == EG_WRITE && call->view.family == AF_UNIX
                && call->view.type != SOCK_STREAM) {
                /* It is the peer's queue that is full, and nothing tells when it is not. */
                full[at] = given;
                result = eg_patch_offload("offload", patch, call->self, full, n, NULL);
                break;
            }
        }
        if (call_wait_or_raise(call) < 0)
            break;
    }
    full[at] = given;
    Py_DECREF(dontwait);
    return result;
}

/* recvfrom(size[, flags]), recvmsg(size[, space[, flags]]): flags stand at *at*. */
static PyObject *
socket_receive(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
               PyObject *kwnames, Py_ssize_t at)
{
    SocketCall call;
    int go = call_begin(&call, self, EG_READ);
    if (go < 0)
        return NULL;
    if (!go || kwnames || n < 1 || n > at + 1)
        return eg_patch_call_original(patch, self, args, n, kwnames);
    PyObject *zero = PyLong_FromLong(0);
    PyObject *full[3] = {zero, zero, zero};
    for (Py_ssize_t i = 0; i < n; i++)
        full[i] = args[i];
    PyObject *result = call_with_flags(&call, patch, full, at + 1, at);
    Py_DECREF(zero);
    return result;
}

EG_PATCH_ON_HUB(socket_recvfrom, "_socket.socket", "recvfrom", "socket");

static PyObject *
socket_recvfrom(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_receive(&socket_recvfrom_patch, self, args, n, kwnames, 1);
}

EG_PATCH_ON_HUB(socket_recvmsg, "_socket.socket", "recvmsg", "socket");

static PyObject *
socket_recvmsg(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_receive(&socket_recvmsg_patch, self, args, n, kwnames, 2);
}

EG_PATCH_ON_HUB(socket_recvfrom_into, "_socket.socket", "recvfrom_into", "socket");

static PyObject *
socket_recvfrom_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *full[3];
    if (!eg_hub_cooperates() || !arrange_into(args, n, kwnames, full))
        return eg_patch_call_original(&socket_recvfrom_into_patch, self, args, n, kwnames);
    PyObject *zero = PyLong_FromLong(0);
    for (int i = 1; i < 3; i++)
        full[i] = full[i] ? full[i] : zero;
    PyObject *result = socket_receive(&socket_recvfrom_into_patch, self, full, 3, NULL, 2);
    Py_DECREF(zero);
    return result;
}

EG_PATCH(socket_recvmsg_into, "_socket.socket", "recvmsg_into", "socket");

static PyObject *
socket_recvmsg_into(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || kwnames || n < 1 || n > 3)
        return eg_patch_call_original(&socket_recvmsg_into_patch, self, args, n, kwnames);
    /* It is read again at each try, so it must be more than an iterator. */
    PyObject *buffers = eg_parse_tuple(args[0], "recvmsg_into() argument 1 must be an iterable");
    if (!buffers)
        return NULL;
    PyObject *full[3] = {buffers, n > 1 ? args[1] : NULL, n > 2 ? args[2] : NULL};
    PyObject *result = socket_receive(&socket_recvmsg_into_patch, self, full, n, NULL, 2);
    Py_DECREF(buffers);
    return result;
}

/* A blocking stream takes all that it is given, but MSG_DONTWAIT let the kernel take less:
 * send the rest of *parts*, of which *result* bytes are gone.  Steals result. */
static PyObject *
call_send_rest(SocketCall *call, PyObject *parts, PyObject *flags, PyObject *result)
{
    Py_ssize_t sent = result ? PyLong_AsSsize_t(result) : -1;
    int number = 0;
    if (sent < 0 || call->view.timeout >= 0 || call->view.type != SOCK_STREAM
        || (flags && !arg_int(flags, &number)) || call_never_waits(call, number))
        return result;
    PyObject *nothing = PyBytes_FromStringAndSize(NULL, 0);
    PyObject *whole = nothing ? PyObject_CallMethod(nothing, "join", "(O)", parts) : NULL;
    Py_XDECREF(nothing);
    Py_DECREF(result);
    if (!whole)
        return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(whole), rest = 0;
    if (sent < size)
        rest = call_send(call, PyBytes_AS_STRING(whole) + sent, size - sent, number, false);
    Py_DECREF(whole);
    if (rest < 0 && call->late && sent) {
        PyErr_Clear();
        rest = 0;
    }
    return rest < 0 ? NULL : PyLong_FromSsize_t(sent + rest);
}

static Py_ssize_t
parts_size(PyObject *parts)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        Py_buffer buffer;
        if (!arg_buffer(PyTuple_GET_ITEM(parts, i), PyBUF_SIMPLE, &buffer))
            return -1;
        size += buffer.len;
        PyBuffer_Release(&buffer);
    }
    return size;
}

static PyObject *socket_resolve(PyObject *self, PyObject *address);

/* Send *parts*, which full[] has too, through the original. */
static PyObject *
socket_send_parts(const EgPatch *patch, PyObject *self, PyObject **full, Py_ssize_t n,
                  Py_ssize_t at, PyObject *parts)
{
    SocketCall call;
    int go = call_begin(&call, self, EG_WRITE);
    if (go < 0)
        return NULL;
    if (!go)
        return eg_patch_call_original(patch, self, full, n, NULL);
    Py_ssize_t size = parts_size(parts);
    PyObject *result = call_with_flags(&call, patch, full, n, at);
    if (result && PyLong_AsSsize_t(result) < size)
        result = call_send_rest(&call, parts, full[at], result);
    if (result && turn_after() < 0)
        Py_CLEAR(result);
    return result;
}

EG_PATCH_ON_HUB(socket_sendto, "_socket.socket", "sendto", "socket");

static PyObject *
socket_sendto(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || kwnames || n < 2 || n > 3)
        return eg_patch_call_original(&socket_sendto_patch, self, args, n, kwnames);
    PyObject *result = NULL, *zero = PyLong_FromLong(0);
    PyObject *address = socket_resolve(self, args[n - 1]);
    PyObject *parts = address ? PyTuple_Pack(1, args[0]) : NULL;
    if (parts) {
        PyObject *full[3] = {args[0], n == 3 ? args[1] : zero, address};
        result = socket_send_parts(&socket_sendto_patch, self, full, 3, 1, parts);
    }
    Py_XDECREF(parts);
    Py_XDECREF(address);
    Py_DECREF(zero);
    return result;
}

EG_PATCH_ON_HUB(socket_sendmsg, "_socket.socket", "sendmsg", "socket");

static PyObject *
socket_sendmsg(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || kwnames || n < 1 || n > 4)
        return eg_patch_call_original(&socket_sendmsg_patch, self, args, n, kwnames);
    PyObject *result = NULL, *address = NULL, *ancillary = NULL, *zero = PyLong_FromLong(0);
    PyObject *parts = eg_parse_tuple(args[0], "sendmsg() argument 1 must be an iterable");
    if (parts)
        ancillary = n > 1 ? eg_parse_tuple(args[1], "sendmsg() argument 2 must be an iterable")
                          : PyTuple_New(0);
    if (ancillary)
        address = n > 3 ? socket_resolve(self, args[3]) : Py_NewRef(Py_None);
    if (address) {
        PyObject *full[4] = {parts, ancillary, n > 2 ? args[2] : zero, address};
        result = socket_send_parts(&socket_sendmsg_patch, self, full, 4, 2, parts);
    }
    Py_XDECREF(address);
    Py_XDECREF(ancillary);
    Py_XDECREF(parts);
    Py_DECREF(zero);
    return result;
}

/* ---- accept and connect ---------------------------------------------------------------------- */
/* Call the original with O_NONBLOCK on for that moment, if the program has it off. */
static PyObject *
call_original_nonblocking(SocketCall *call, const EgPatch *patch, PyObject *const *args,
                          Py_ssize_t n)
{
    int fd = call->view.fd, flags = call->view.timeout < 0 ? fcntl(fd, F_GETFL) : -1;
    bool changed =
        flags >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
    PyObject *result = call_original(call, patch, args, n);
    if (changed)
        fcntl(fd, F_SETFL, flags);
    return result;
}

static bool
fd_listens(int fd)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens;
}

/* What accept() gave: it has its listener's options, and nobody may have told who had its number. */
static void
socket_is_new(PyObject *accepted)
{
    int fd;
    if (PyTuple_Check(accepted) && PyTuple_GET_SIZE(accepted) > 0
        && arg_int(PyTuple_GET_ITEM(accepted, 0), &fd) && (unsigned)fd < EG_HINTS)
        socket_hints[fd] = 0;
}

EG_PATCH(socket_accept, "_socket.socket", "_accept", "socket");

static PyObject *
socket_accept(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    SocketCall call;
    int go = call_begin(&call, self, EG_READ);
    if (go < 0)
        return NULL;
    if (!go || kwnames || n)
        return eg_patch_call_original(&socket_accept_patch, self, args, n, kwnames);
    if (call_turn(&call) < 0)
        return NULL;
    for (;;) {
        /* Looked at first, so that the mode changes only when there is something to accept;
         * still another process may be faster. */
        if (fd_is_ready(call.view.fd, EG_READ) || !fd_listens(call.view.fd)) {
            PyObject *result = call_original_nonblocking(&call, &socket_accept_patch, args, n);
            if (result)
                socket_is_new(result);
            if (result || !PyErr_ExceptionMatches(PyExc_BlockingIOError))
                return result;
            PyErr_Clear();
        }
        if (call_wait_or_raise(&call) < 0)
            return NULL;
    }
}

/* How a connection attempt ended: 0 or an errno; EINPROGRESS: it has not. */
static int
fd_connected(int fd)
{
    int code = 0;
    socklen_t size = sizeof code;
    if (!fd_is_ready(fd, EG_WRITE))
        return EINPROGRESS;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
        code = errno;
    return code == EISCONN ? 0 : code;
}

/* An attempt that went on in the background has ended.  The kernel takes note of that in the
 * next connect(), which must not be the program's: after a success it would succeed again,
 * after a failure it would fail whatever its address. */
static int
fd_conclude(const EgSocketView *view, int code)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC}; /* to forget the attempt */
    socklen_t size = sizeof address;
    if (view->timeout > 0 || (view->family != AF_INET && view->family != AF_INET6))
        return code; /* the original leaves it at that */
    if (code == 0 && getpeername(view->fd, (struct sockaddr *)&address, &size) < 0)
        return 0; /* reset already: the first to use it will see */
    int status = connect(view->fd, (struct sockaddr *)&address, size);
    return code == 0 && status < 0 && errno != EISCONN ? errno : code;
}

/* Connect: 0 or an errno; -1: exception.  *in_time becomes false when it was the socket's own
 * timeout that ended the attempt. */
static int
call_connect(SocketCall *call, const EgPatch *patch, PyObject *address, bool *in_time)
{
    int code;
    PyObject *result = call_original_nonblocking(call, patch, &address, 1);
    if (!result) {
        code = PyErr_ExceptionMatches(PyExc_BlockingIOError) ? eg_patch_errno() : 0;
        if (!code)
            return -1;
        PyErr_Clear();
    } else {
        code = result == Py_None ? 0 : (int)PyLong_AsLong(result);
        Py_DECREF(result);
    }
    if (code == EAGAIN && call->view.timeout < 0) {
        /* A local listener's queue is full, and nothing tells when it is not. */
        if (!(result = eg_patch_offload("offload", patch, call->self, &address, 1, NULL)))
            return -1;
        code = result == Py_None ? 0 : (int)PyLong_AsLong(result);
        Py_DECREF(result);
    }
    if (code != EINPROGRESS && (code != EALREADY || call->view.timeout > 0))
        return code;
    do {
        int status = call_wait(call);
        if (status < 0)
            return -1;
        if (!status) {
            *in_time = call->view.timeout < 0;
            return *in_time ? EINPROGRESS : EWOULDBLOCK;
        }
    } while ((code = fd_connected(call->view.fd)) == EINPROGRESS);
    return fd_conclude(&call->view, code);
}

static PyObject *
socket_connect_with(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                    PyObject *kwnames, bool raises)
{
    SocketCall call;
    bool in_time = true;
    if (!eg_hub_cooperates() || n != 1 || kwnames)
        return eg_patch_call_original(patch, self, args, n, kwnames);
    PyObject *result = NULL, *address = socket_resolve(self, args[0]);
    int go = address ? call_begin(&call, self, EG_WRITE) : -1;
    if (go > 0 && call.view.type != SOCK_STREAM && call.view.type != SOCK_SEQPACKET)
        go = 0; /* it only sets the address */
    if (go == 0)
        result = eg_patch_call_original(patch, self, &address, 1, NULL);
    if (go <= 0 || call_turn(&call) < 0)
        goto done;
    int code = call_connect(&call, patch, address, &in_time);
    if (code < 0)
        goto done;
    if (!raises)
        result = PyLong_FromLong(code);
    else if (code == 0)
        result = Py_NewRef(Py_None);
    else if (!in_time)
        PyErr_SetString(PyExc_TimeoutError, "timed out");
    else {
        errno = code;
        PyErr_SetFromErrno(PyExc_OSError);
    }
done:
    Py_XDECREF(address);
    return result;
}

EG_PATCH(socket_connect, "_socket.socket", "connect", "socket");

static PyObject *
socket_connect(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_connect_with(&socket_connect_patch, self, args, n, kwnames, true);
}

EG_PATCH(socket_connect_ex, "_socket.socket", "connect_ex", "socket");

static PyObject *
socket_connect_ex(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_connect_with(&socket_connect_ex_patch, self, args, n, kwnames, false);
}

/* ---- closing: also where no hub runs, for another thread's hub may wait ------------------------- */
static PyObject *
socket_close_with(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                  PyObject *kwnames)
{
    EgSocketView view;
    if (eg_socket_look(self, &view))
        eg_socket_forget(view.fd);
    else
        PyErr_Clear(); /* no method could look at it either, so nobody waits for it */
    return eg_patch_call_original(patch, self, args, n, kwnames);
}

EG_PATCH(socket_close, "_socket.socket", "close", "socket");

static PyObject *
socket_close(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_close_with(&socket_close_patch, self, args, n, kwnames);
}

EG_PATCH(socket_detach, "_socket.socket", "detach", "socket");

static PyObject *
socket_detach(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_close_with(&socket_detach_patch, self, args, n, kwnames);
}

EG_PATCH(socket_close_fd, "_socket", "close", "socket");

static PyObject *
socket_close_fd(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    if (n == 1 && !kwnames && PyLong_Check(args[0]) && arg_int(args[0], &fd))
        eg_socket_forget(fd);
    return eg_patch_call_original(&socket_close_fd_patch, self, args, n, kwnames);
}

/* ---- options: some that a wait goes by ----------------------------------------------------------- */
EG_PATCH(socket_setsockopt, "_socket.socket", "setsockopt", "socket");

static PyObject *
socket_setsockopt(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgSocketView view;
    if (eg_socket_look(self, &view))
        hint_set(view.fd, HINT_NO_LIMIT * (EG_READ | EG_WRITE) | HINT_NO_MARK, false);
    else
        PyErr_Clear(); /* then nobody waits for it either */
    return eg_patch_call_original(&socket_setsockopt_patch, self, args, n, kwnames);
}

/* ---- names --------------------------------------------------------------------------------------- */
/* The text of a host that is str or bytes, NULL if it is neither; no exception. */
static const char *
host_text(PyObject *host, Py_ssize_t *size)
{
    const char *text = NULL;
    char *bytes = NULL;
    if (PyUnicode_Check(host))
        text = PyUnicode_AsUTF8AndSize(host, size);
    else if (PyBytes_Check(host) && PyBytes_AsStringAndSize(host, &bytes, size) == 0)
        text = bytes;
    if (!text)
        PyErr_Clear();
    return text;
}

/* Whether looking it up asks nobody. */
static bool
host_is_numeric(PyObject *host)
{
    struct in6_addr address;
    char copy[64];
    Py_ssize_t size = 0;
    const char *text = host_text(host, &size);
    if (!text || size >= (Py_ssize_t)sizeof copy)
        return !text; /* of another type: the original says what it thinks of it */
    memcpy(copy, text, (size_t)size + 1);
    if (strlen(copy) != (size_t)size || size == 0)
        return true;
    copy[strcspn(copy, "%")] = '\0'; /* an IPv6 scope */
    return inet_pton(AF_INET, copy, &address) == 1 || inet_pton(AF_INET6, copy, &address) == 1;
}

static bool
port_is_numeric(PyObject *port)
{
    Py_ssize_t size = 0;
    const char *text = host_text(port, &size);
    return !text || (Py_ssize_t)strspn(text, "0123456789") == size;
}

EG_PATCH(socket_getaddrinfo, "_socket", "getaddrinfo", "socket");

static PyObject *
socket_getaddrinfo(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *host = n > 0 ? args[0] : NULL, *port = n > 1 ? args[1] : NULL;
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "host") == 0)
            host = args[n + i];
        else if (PyUnicode_CompareWithASCIIString(name, "port") == 0)
            port = args[n + i];
    }
    if (!eg_hub_cooperates() || !host || !port || (host_is_numeric(host) && port_is_numeric(port)))
        return eg_patch_call_original(&socket_getaddrinfo_patch, self, args, n, kwnames);
    return eg_patch_offload("offload_name_lookup", &socket_getaddrinfo_patch, self, args, n,
                            kwnames);
}

/* The others take positional arguments only. */
static PyObject *
socket_look_up(const EgPatch *patch, bool at_once, PyObject *self, PyObject *const *args,
               Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || kwnames || at_once)
        return eg_patch_call_original(patch, self, args, n, kwnames);
    return eg_patch_offload("offload_name_lookup", patch, self, args, n, NULL);
}

EG_PATCH(socket_gethostbyname, "_socket", "gethostbyname", "socket");

static PyObject *
socket_gethostbyname(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    bool at_once = n != 1 || host_is_numeric(args[0]);
    return socket_look_up(&socket_gethostbyname_patch, at_once, self, args, n, kwnames);
}

EG_PATCH(socket_gethostbyname_ex, "_socket", "gethostbyname_ex", "socket");

static PyObject *
socket_gethostbyname_ex(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    bool at_once = n != 1 || host_is_numeric(args[0]);
    return socket_look_up(&socket_gethostbyname_ex_patch, at_once, self, args, n, kwnames);
}

EG_PATCH(socket_gethostbyaddr, "_socket", "gethostbyaddr", "socket");

static PyObject *
socket_gethostbyaddr(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return socket_look_up(&socket_gethostbyaddr_patch, n != 1, self, args, n, kwnames);
}

EG_PATCH(socket_getnameinfo, "_socket", "getnameinfo", "socket");

static PyObject *
socket_getnameinfo(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int flags, numeric = NI_NUMERICHOST | NI_NUMERICSERV;
    bool at_once = n != 2 || !PyTuple_Check(args[0]) || !arg_int(args[1], &flags)
                   || (flags & numeric) == numeric;
    return socket_look_up(&socket_getnameinfo_patch, at_once, self, args, n, kwnames);
}

/* The address as it is or, if its host is a name to be looked up, with that host's number in
 * its place: connect(), sendto() and bind() would look it up inside the call.  A new reference. */
static PyObject *
socket_resolve(PyObject *self, PyObject *address)
{
    EgSocketView view;
    Py_ssize_t size = 0;
    if (!PyTuple_Check(address) || PyTuple_GET_SIZE(address) < 2 || PyTuple_GET_SIZE(address) > 4)
        return Py_NewRef(address);
    PyObject *host = PyTuple_GET_ITEM(address, 0);
    if (host_is_numeric(host) || !PyIndex_Check(PyTuple_GET_ITEM(address, 1)))
        return Py_NewRef(address);
    if (!eg_socket_look(self, &view))
        return NULL;
    const char *text = host_text(host, &size);
    if ((view.family != AF_INET && view.family != AF_INET6) || strcmp(text, "<broadcast>") == 0)
        return Py_NewRef(address);
    PyObject *resolved = NULL, *found = NULL, *family = PyLong_FromLong(view.family);
    /* As bytes, for connect() does not hold ASCII names to the rules of IDNA. */
    PyObject *name = PyUnicode_Check(host) && PyUnicode_IS_ASCII(host)
                         ? PyBytes_FromStringAndSize(text, size)
                         : Py_NewRef(host);
    PyObject *module = PyImport_ImportModule("_socket");
    if (!module || !name || !family
        || !(found = socket_getaddrinfo(module, (PyObject *[]){name, Py_None, family}, 3, NULL))
        || !(resolved = PyTuple_New(PyTuple_GET_SIZE(address))))
        goto done;
    PyObject *first = PyTuple_GET_ITEM(PyList_GET_ITEM(found, 0), 4); /* borrowed from found */
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(address); i++)
        PyTuple_SET_ITEM(resolved, i, Py_NewRef(PyTuple_GET_ITEM(i ? address : first, i)));
done:
    Py_XDECREF(module);
    Py_XDECREF(found);
    Py_XDECREF(name);
    Py_XDECREF(family);
    return resolved;
}

EG_PATCH(socket_bind, "_socket.socket", "bind", "socket");

static PyObject *
socket_bind(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (n != 1 || kwnames || !eg_os_may_wait())
        return eg_patch_call_original(&socket_bind_patch, self, args, n, kwnames);
    PyObject *address = socket_resolve(self, args[0]), *result = NULL;
    if (address)
        result = eg_patch_call_original(&socket_bind_patch, self, &address, 1, NULL);
    Py_XDECREF(address);
    return result;
}

/* ---- the table ------------------------------------------------------------------------------------ */
EgPatch *const eg_patch_socket[] = {
    &socket_accept_patch,        &socket_connect_patch,       &socket_connect_ex_patch,
    &socket_bind_patch,          &socket_recv_patch,          &socket_recv_into_patch,
    &socket_recvfrom_patch,      &socket_recvfrom_into_patch, &socket_recvmsg_patch,
    &socket_recvmsg_into_patch,  &socket_send_patch,          &socket_sendall_patch,
    &socket_sendto_patch,        &socket_sendmsg_patch,       &socket_setsockopt_patch,
    &socket_close_patch,         &socket_detach_patch,        &socket_close_fd_patch,
    &socket_getaddrinfo_patch,   &socket_gethostbyname_patch, &socket_gethostbyname_ex_patch,
    &socket_gethostbyaddr_patch, &socket_getnameinfo_patch,   NULL};
