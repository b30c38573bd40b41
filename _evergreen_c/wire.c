/* wire.c: libuv's side of a stream: what comes in, what goes out, how it ends.
 *
 * Receiving goes on from the first read until too much waits to be read, so a message costs
 * one receive and no change to the kernel's set.  For a task that waits for whatever comes, a
 * little is received onto the hub's slab, all connections' one after the other, which is kinder
 * to the processor's caches than to go back and forth between receiving, Python and sending;
 * the task copies it from there before the next poll, or it becomes part of the input.  If much
 * came last time, the task is only woken, and receives into the bytes object that it returns.
 * Sending tries at once; what the kernel does not take becomes a request of libuv's.
 *
 * Ownership: the loop uses a wire until wire_on_closed().  Its stream object lets go of it
 * when it is closed or goes away; the wire then stays until what was written is sent, or
 * LINGER_NS have passed, drops what comes in meanwhile, and frees itself.  The callbacks record in the wire and have
 * wire_tell() called after the poll; they never look at the stream object.
 *
 * A wire keeps the loop alive only while a task waits for it, or while it sends.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MARK 262144                    /* bytes received and not read: then receiving stops */
#define SLAB 131072                    /* bytes that may be fresh; one receive goes beyond them */
#define FRESH_MAX 256                  /* wires that may have something fresh */
#define LINGER_NS (60 * 1000000000ull) /* how long a closed stream may go on sending */

struct EgWrite {
    uv_write_t uv;
    EgWrite *next;
    EgWire *wire;    /* borrowed: it is closed after its writes */
    PyObject *bytes; /* strong: what is sent; let go by wire_tell() */
};

/* Ends a wire that cannot get rid of what was written. */
struct EgLinger {
    EgTimer timer;
    EgWire *wire; /* borrowed: it owns this */
};

struct EgWires {
    EgWire *first;
    Py_ssize_t open;
    EgSpares spares;
    size_t nfresh, used;      /* wires that have something on the slab; bytes of it */
    EgWire *fresh[FRESH_MAX]; /* borrowed: none is freed before the next poll */
    char slab[SLAB + EG_SPARE_SIZE];
};

static void wire_tell(EgNode *node);
static void wire_leave(EgNode *node);

/* ---- libuv's side: no PyObject touched ------------------------------------------------- */
static void
wire_note(EgWire *wire)
{
    if (!wire->noted)
        eg_hub_happened(wire->hub, &wire->happened);
    wire->noted = true;
}

/* Whether a task waits for whatever comes, and can be given it without libuv's help. */
static bool
wire_meets(const EgWire *wire)
{
    return wire->wanted && !wire->in.size && wire->kind <= EG_PIPE;
}

static ssize_t
wire_recv(EgWire *wire, char *to, size_t size)
{
    ssize_t got;
    do /* without a way through the VFS, if it can be */
        got = wire->kind == EG_TCP ? recv(wire->fd, to, size, MSG_DONTWAIT)
                                   : read(wire->fd, to, size);
    while (got < 0 && errno == EINTR);
    return got > 0 ? got : got == 0 ? UV_EOF : -errno;
}

/* What an end really was: libuv takes a hang-up after a short read for one without asking, and it may
 * be a reset. The kernel reports a reset once; if a write received it, readers receive it from here. */
static int
wire_end_status(const EgWire *wire)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (wire->write_status == UV_ECONNRESET)
        return UV_ECONNRESET;
    if (wire->kind == EG_TTY || getsockopt(wire->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return UV_EOF; /* no socket */
    return error ? -error : UV_EOF;
}

static void
wire_end_reading(EgWire *wire, int status)
{
    wire->read_status = status == UV_EOF ? wire_end_status(wire) : status;
    wire->reading = false;
    uv_read_stop(&wire->uv.stream);
}

/* May run without the GIL: nothing is in *in* while something is fresh. */
void
eg_wire_settle(EgWire *wire)
{
    unsigned n = wire->nfresh;
    wire->nfresh = 0;
    if (n && eg_input_copy(&wire->in, wire->fresh, n) < 0)
        wire_end_reading(wire, UV_ENOMEM);
}

/* Something came, or the end. */
static void
wire_meet(EgWire *wire)
{
    EgWires *wires = wire->hub->wires;
    if (wire->large && wire->wanted >= EG_BIG) {
        wire->ready = true;
        wire_note(wire);
        return;
    }
    char *to = wires->slab + wires->used;
    ssize_t got = wire_recv(wire, to, EG_SPARE_SIZE);
    if (got == UV_EAGAIN)
        return;
    wire_note(wire);
    if (got < 0) {
        wire_end_reading(wire, (int)got);
        return;
    }
    wire->large = got >= EG_BIG;
    wire->fresh = to;
    wire->nfresh = (unsigned)got;
    if (wires->nfresh < FRESH_MAX && wires->used + (size_t)got <= SLAB) {
        wires->fresh[wires->nfresh++] = wire;
        wires->used += (size_t)got;
    } else
        eg_wire_settle(wire);
}

static void
wire_on_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buf)
{
    EgWire *wire = EG_OWNER(uv, EgWire, uv.handle);
    (void)suggested;
    if (wire->nfresh)
        eg_wire_settle(wire);
    if (wire_meets(wire))
        *buf = uv_buf_init(NULL, 0); /* the read callback is told ENOBUFS */
    else if (wire->target && !wire->in.size && wire->target_size - wire->filled >= EG_BIG)
        *buf = uv_buf_init(wire->target + wire->filled,
                           (unsigned)Py_MIN(wire->target_size - wire->filled, 1u << 30));
    else
        eg_input_offer(&wire->hub->wires->spares, wire->roomy ? 0 : wire->wanted, buf);
}

static void
wire_free_taken(uv_handle_t *uv)
{
    PyMem_RawFree(uv);
}

/* Descriptors that came along; libuv keeps them until they are taken. */
static void
wire_take_fds(EgWire *wire)
{
    int n = uv_pipe_pending_count(&wire->uv.pipe);
    int *fds = n ? PyMem_RawRealloc(wire->fds, sizeof *fds * (size_t)(wire->nfds + n)) : NULL;
    if (!fds)
        return; /* out of memory: libuv closes them in the end */
    wire->fds = fds;
    while (n--) {
        /* Whatever it is, as a pipe handle libuv leaves it as it is. */
        uv_pipe_t *taken = PyMem_RawMalloc(sizeof *taken);
        uv_os_fd_t fd;
        if (!taken)
            return;
        uv_pipe_init(wire->uv.handle.loop, taken, 0);
        if (uv_accept(&wire->uv.stream, (uv_stream_t *)taken) == 0
            && uv_fileno((uv_handle_t *)taken, &fd) == 0
            && (fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0)
            fds[wire->nfds++] = fd;
        uv_close((uv_handle_t *)taken, wire_free_taken);
    }
}

static void
wire_on_read(uv_stream_t *uv, ssize_t n, const uv_buf_t *buf)
{
    EgWire *wire = EG_OWNER(uv, EgWire, uv.stream);
    int status = n < 0 ? (int)n : 0;
    if (n == UV_ENOBUFS && wire_meets(wire)) {
        wire_meet(wire);
        return;
    }
    if (wire->target && buf->base == wire->target + wire->filled)
        wire->filled += n > 0 ? (size_t)n : 0;
    else if (buf->base) {
        int stored = eg_input_accept(&wire->in, &wire->hub->wires->spares, n > 0 ? (size_t)n : 0);
        status = stored ? stored : status;
    }
    if (n == 0 && !status) {
        wire->roomy = true; /* a full read was followed by nothing */
        return;
    }
    if (wire->wanted && n > (ssize_t)wire->wanted)
        wire->roomy = false;
    if (status == UV_ENOBUFS) { /* no spare is left: its turn is in the next poll */
        if (!wire->hub->wires->spares.failed)
            return;
        status = UV_ENOMEM;
    }
    if (wire->kind == EG_IPC)
        wire_take_fds(wire);
    if (status || wire->in.size >= wire->mark)
        wire_end_reading(wire, status);
    wire_note(wire);
}

/* What a peer sends to a wire that only sends: a peer that writes would read no more otherwise. */
static void
wire_on_alloc_waste(uv_handle_t *uv, size_t suggested, uv_buf_t *buf)
{
    EgWires *wires = EG_OWNER(uv, EgWire, uv.handle)->hub->wires;
    (void)suggested;
    *buf = uv_buf_init(wires->slab + wires->used, EG_SPARE_SIZE);
}

static void
wire_drop_fds(EgWire *wire)
{
    while (wire->nfds)
        close(wire->fds[--wire->nfds]);
}

static void
wire_on_waste(uv_stream_t *uv, ssize_t n, const uv_buf_t *buf)
{
    EgWire *wire = EG_OWNER(uv, EgWire, uv.stream);
    (void)buf;
    if (wire->kind == EG_IPC) {
        wire_take_fds(wire);
        wire_drop_fds(wire);
    }
    if (n < 0)
        uv_read_stop(uv); /* an error is one of sending, too */
}

static void
wire_on_written(uv_write_t *uv, int status)
{
    EgWrite *write = EG_OWNER(uv, EgWrite, uv);
    EgWire *wire = write->wire;
    if (status < 0 && !wire->write_status)
        wire->write_status = status;
    write->next = wire->written;
    wire->written = write;
    wire->nwrites--;
    wire_note(wire);
}

static void
wire_on_shutdown(uv_shutdown_t *uv, int status)
{
    EgWire *wire = EG_OWNER(uv->handle, EgWire, uv.stream);
    wire->shutdown_status = status;
    PyMem_RawFree(uv);
    wire_note(wire);
}

static void
wire_on_closed(uv_handle_t *uv)
{
    EgWire *wire = EG_OWNER(uv, EgWire, uv.handle);
    wire->closed = true;
    wire_note(wire);
}

/* ---- ending: GIL held ---------------------------------------------------------------------- */
static void
wire_close(EgWire *wire)
{
    if (wire->linger && eg_timer_armed(&wire->linger->timer))
        eg_timer_stop(&wire->hub->timers, &wire->linger->timer);
    if (uv_is_closing(&wire->uv.handle))
        return;
    if (wire->kind == EG_TTY)
        uv_tty_set_mode(&wire->uv.tty, UV_TTY_MODE_NORMAL); /* nothing, unless it was changed */
    uv_close(&wire->uv.handle, wire_on_closed);
}

static void
wire_on_linger(EgTimer *timer)
{
    wire_close(EG_OWNER(timer, EgLinger, timer)->wire);
}

static void
wire_drop_written(EgWire *wire)
{
    EgWrite *write;
    while ((write = wire->written)) {
        wire->written = write->next;
        Py_DECREF(write->bytes);
        PyMem_RawFree(write);
    }
}

static void
wire_free(EgWire *wire)
{
    EgWires *wires = wire->hub->wires;
    if (wire->prev)
        wire->prev->next = wire->next;
    else
        wires->first = wire->next;
    if (wire->next)
        wire->next->prev = wire->prev;
    wires->open--;
    eg_input_clear(&wire->in);
    wire_drop_fds(wire);
    PyMem_RawFree(wire->fds);
    PyMem_RawFree(wire->linger);
    PyMem_RawFree(wire);
}

/* After the poll in which something was noted. */
static void
wire_tell(EgNode *node)
{
    EgWire *wire = EG_OWNER(node, EgWire, happened);
    wire->noted = false;
    wire_drop_written(wire);
    if (wire->closed)
        wire_free(wire);
    else if (wire->owner)
        eg_stream_happened(wire->owner, wire);
    else if (wire->linger && (wire->nwrites == 0 || wire->write_status))
        wire_close(wire);
}

static int
wire_linger(EgWire *wire)
{
    if (!(wire->linger = PyMem_RawCalloc(1, sizeof *wire->linger)))
        return -1;
    wire->linger->wire = wire;
    wire->linger->timer.fire = wire_on_linger;
    wire->linger->timer.background = true;
    int status = eg_timer_start(&wire->hub->timers, &wire->linger->timer, eg_clock_in(LINGER_NS));
    if (status < 0)
        PyErr_Clear(); /* out of memory: it will not linger, then */
    return status;
}

void
eg_wire_waste(EgWire *wire)
{
    eg_input_clear(&wire->in);
    wire->nfresh = 0;
    uv_read_stop(&wire->uv.stream);
    wire->reading = false;
    /* What comes in at a terminal is for its next reader. */
    if (wire->nwrites && !wire->read_status && wire->kind != EG_TTY)
        uv_read_start(&wire->uv.stream, wire_on_alloc_waste, wire_on_waste);
}

static void
wire_leave(EgNode *node)
{
    EgWire *wire = EG_OWNER(node, EgWire, leave);
    if (uv_is_closing(&wire->uv.handle)) /* its hub has been destroyed meanwhile */
        return;
    eg_wire_waste(wire);
    if (wire->nwrites && !wire->write_status && wire_linger(wire) == 0)
        return;
    wire_close(wire);
}

/* Let go by another thread, and its hub has forked: it is the parent's. */
static void
wire_leave_to_parent(EgNode *node)
{
    (void)node;
}

void
eg_wire_let_go(EgWire *wire, bool abort)
{
    wire->owner = NULL;
    wire->target = NULL;
    if (wire->hub != eg_hub_here) { /* collected in another thread */
        eg_hub_push(wire->hub, &wire->leave);
        return;
    }
    if (!abort) {
        wire_leave(&wire->leave);
        return;
    }
    if (wire->kind == EG_TCP && uv_tcp_close_reset(&wire->uv.tcp, wire_on_closed) == 0)
        return;
    wire_close(wire);
}

/* ---- making ------------------------------------------------------------------------------------ */
/* libuv ends the process when it finds out too late that a descriptor cannot be waited for. */
static int
wire_check(uv_loop_t *loop, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = uv_backend_fd(loop);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return errno == EPERM ? UV_EINVAL : -errno; /* EPERM: a regular file, /dev/null, ... */
    return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event) < 0 ? -errno : 0;
}

static int
wire_init(EgWire *wire, uv_loop_t *loop, EgWireKind kind, int fd)
{
    int status = kind == EG_TCP ? 0 : wire_check(loop, fd);
    if (status)
        return status;
    switch (kind) {
    case EG_TCP:
        status = uv_tcp_init(loop, &wire->uv.tcp);
        return status ? status : uv_tcp_open(&wire->uv.tcp, fd);
    case EG_TTY:
        return uv_tty_init(loop, &wire->uv.tty, fd, 0);
    default:
        status = uv_pipe_init(loop, &wire->uv.pipe, kind == EG_IPC);
        return status ? status : uv_pipe_open(&wire->uv.pipe, fd);
    }
}

/* libuv has opened a terminal anew, so as not to change how others use it: what we were given is
 * not needed any more. Standard streams stay, as libuv itself leaves them. */
static void
wire_settle_tty(EgWire *wire)
{
    uv_os_fd_t own;
    if (wire->fd > STDERR_FILENO && uv_fileno(&wire->uv.handle, &own) == 0 && own != wire->fd) {
        close(wire->fd);
        wire->fd = own;
    }
}

static size_t
wire_size(EgWireKind kind)
{
    return offsetof(EgWire, uv)
           + (kind == EG_TCP   ? sizeof(uv_tcp_t)
              : kind == EG_TTY ? sizeof(uv_tty_t)
                               : sizeof(uv_pipe_t));
}

/* NULL: *status says why, and fd is still the caller's. */
static EgWire *
wire_make(EgHub *hub, EgWireKind kind, int fd, int *status)
{
    EgWires *wires = hub->wires;
    uv_loop_t *uv = eg_port_uv(hub);
    EgWire *wire = PyMem_RawCalloc(1, wire_size(kind));
    if (!uv || !wire) {
        PyErr_Clear(); /* the status says it */
        *status = wire ? UV_EMFILE : UV_ENOMEM;
        PyMem_RawFree(wire);
        return NULL;
    }
    *status = eg_port_reserve(hub, fd);
    if (*status == 0)
        *status = wire_init(wire, uv, kind, fd);
    eg_port_settle(hub);
    if (*status < 0 && !wire->uv.handle.loop) { /* never known to the loop */
        PyMem_RawFree(wire);
        return NULL;
    }
    wire->hub = hub;
    wire->kind = kind;
    wire->fd = fd;
    wire->ready = kind <= EG_PIPE; /* it may have come already: then nothing need be waited for */
    wire->mark = MARK;
    wire->shutdown_status = 1;
    wire->happened.run = wire_tell;
    wire->leave.run = wire_leave;
    if ((wire->next = wires->first))
        wires->first->prev = wire;
    wires->first = wire;
    wires->open++;
    if (*status < 0) {
        wire_close(wire);
        return NULL;
    }
    if (kind == EG_TTY)
        wire_settle_tty(wire);
    uv_unref(&wire->uv.handle);
    return wire;
}

EgWire *
eg_wire_open(EgHub *hub, EgWireKind kind, int fd, int *status)
{
    if (!hub->wires && !(hub->wires = PyMem_RawCalloc(1, sizeof *hub->wires))) {
        *status = UV_ENOMEM;
        return NULL;
    }
    eg_input_refill(&hub->wires->spares);
    return wire_make(hub, kind, fd, status);
}

/* ---- using ---------------------------------------------------------------------------------------- */
int
eg_wire_read(EgWire *wire)
{
    if (wire->reading || wire->read_status)
        return 0;
    uv_read_stop(&wire->uv.stream); /* eg_wire_waste() may have begun */
    int status = uv_read_start(&wire->uv.stream, wire_on_alloc, wire_on_read);
    wire->reading = status == 0;
    return status;
}

PyObject *
eg_wire_take_fresh(EgWire *wire, size_t n)
{
    size_t size = Py_MIN(n, wire->nfresh);
    PyObject *bytes = PyBytes_FromStringAndSize(wire->fresh, (Py_ssize_t)size);
    if (bytes) {
        wire->fresh += size;
        wire->nfresh -= (unsigned)size;
    }
    eg_wire_settle(wire); /* without memory, too: its place may be another wire's next */
    return bytes;
}

int
eg_wire_unread(EgWire *wire, PyObject *bytes, const char *data, size_t n)
{
    if (eg_input_unread(&wire->in, bytes, data, n) == 0)
        return 0;
    eg_input_clear(&wire->in); /* what follows a gap is not to be read */
    wire_end_reading(wire, UV_ENOMEM);
    return -1;
}

/* A bytes object has got some, of which n are wanted; the rest waits. */
static PyObject *
wire_cut(EgWire *wire, PyObject *bytes, size_t got, size_t n)
{
    if (got > n && eg_wire_unread(wire, NULL, PyBytes_AS_STRING(bytes) + n, got - n) < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    return eg_input_cut(bytes, Py_MIN(n, got));
}

/* What a receive that was made there and then means for the next one. */
static void
wire_note_receive(EgWire *wire, ssize_t got, size_t size)
{
    wire->ready = got == (ssize_t)size;
    if (got > 0)
        wire->large = got >= EG_BIG;
    else if (got != UV_EAGAIN)
        wire_end_reading(wire, (int)got);
}

PyObject *
eg_wire_receive(EgWire *wire, size_t n)
{
    if (!wire->large || n < EG_BIG) {
        eg_wire_pull(wire);
        return wire->nfresh ? eg_wire_take_fresh(wire, n) : NULL;
    }
    size_t size = wire->roomy ? EG_SPARE_SIZE : Py_MIN(n, EG_SPARE_SIZE);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    ssize_t got = wire_recv(wire, PyBytes_AS_STRING(bytes), size);
    wire_note_receive(wire, got, size);
    if (got == UV_EAGAIN)
        wire->roomy = true; /* a full one was followed by nothing */
    if (got > 0) {
        wire->roomy = wire->roomy && (size_t)got <= n;
        return wire_cut(wire, bytes, (size_t)got, n);
    }
    Py_DECREF(bytes);
    return NULL;
}

bool
eg_wire_pull(EgWire *wire)
{
    EgWires *wires = wire->hub->wires;
    wire->fresh = wires->slab + wires->used; /* for at most as long as no task runs */
    ssize_t got = wire_recv(wire, wire->fresh, EG_SPARE_SIZE);
    wire_note_receive(wire, got, EG_SPARE_SIZE);
    wire->nfresh = got > 0 ? (unsigned)got : 0;
    return got != UV_EAGAIN;
}

ssize_t
eg_wire_try(EgWire *wire, const uv_buf_t *bufs, unsigned n)
{
    if (n > 1 || wire->kind != EG_TCP)
        return uv_try_write(&wire->uv.stream, bufs, n);
    ssize_t sent;
    do
        sent = send(wire->fd, bufs->base, bufs->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

int
eg_wire_write(EgWire *wire, PyObject *bytes, size_t offset)
{
    EgWrite *write = PyMem_RawMalloc(sizeof *write);
    if (!write)
        return UV_ENOMEM;
    uv_buf_t buf = uv_buf_init(PyBytes_AS_STRING(bytes) + offset, 0);
    buf.len = (size_t)PyBytes_GET_SIZE(bytes) - offset; /* uv_buf_init() takes no size_t */
    write->wire = wire;
    int status = uv_write(&write->uv, &wire->uv.stream, &buf, 1, wire_on_written);
    if (status < 0) {
        PyMem_RawFree(write);
        return status;
    }
    write->bytes = Py_NewRef(bytes); /* given back by wire_drop_written() */
    wire->nwrites++;
    return 0;
}

int
eg_wire_shutdown(EgWire *wire)
{
    uv_shutdown_t *request = PyMem_RawMalloc(sizeof *request);
    if (!request)
        return UV_ENOMEM;
    int status = uv_shutdown(request, &wire->uv.stream, wire_on_shutdown);
    if (status < 0)
        PyMem_RawFree(request);
    else
        wire->shutdown_status = UV_EAGAIN;
    return status;
}

bool
eg_wires_lost(EgHub *hub, const uv__io_t *watcher, int status)
{
    EgWire *wire = hub->wires ? hub->wires->first : NULL;
    while (wire && &wire->uv.stream.io_watcher != watcher)
        wire = wire->next;
    if (!wire)
        return false;
    wire_end_reading(wire, status);
    wire->write_status = wire->write_status ? wire->write_status : status;
    wire_note(wire);
    return true;
}

/* ---- the hub's ---------------------------------------------------------------------------------------- */
Py_ssize_t
eg_wires_open(EgHub *hub)
{
    return hub->wires ? hub->wires->open : 0;
}

void
eg_wires_before_poll(EgHub *hub)
{
    EgWires *wires = hub->wires;
    if (!wires)
        return;
    while (wires->nfresh) {
        EgWire *wire = wires->fresh[--wires->nfresh];
        if (wire->nfresh) /* its reader has not run yet, or was killed */
            eg_wire_settle(wire);
    }
    wires->used = 0;
}

void
eg_wires_after_poll(EgHub *hub)
{
    if (hub->wires)
        eg_input_refill(&hub->wires->spares);
}

void
eg_wires_close(EgHub *hub)
{
    eg_wires_before_poll(hub);
    for (EgWire *wire = hub->wires ? hub->wires->first : NULL; wire; wire = wire->next) {
        EgStream *owner = wire->owner; /* borrowed */
        wire->owner = NULL;
        wire->target = NULL;
        if (owner)
            eg_stream_lost(owner);
        wire_close(wire);
    }
}

void
eg_wires_destroy(EgHub *hub)
{
    eg_hub_after_poll(hub); /* the wires that the loop has closed */
    if (!hub->wires)
        return;
    eg_input_drop_spares(&hub->wires->spares);
    PyMem_RawFree(hub->wires);
    hub->wires = NULL;
}

/* In a forked child the parent's loop is left as it is, and so are its handles; each stream gets
 * a new one for its descriptor.  It receives nothing until somebody here reads: what comes
 * in is for the parent otherwise.  What the parent was sending is the parent's, too. */
void
eg_wires_after_fork(EgHub *hub, bool keep)
{
    EgWires *wires = hub->wires;
    hub->happened.first = hub->happened.last = NULL;
    if (!wires)
        return;
    eg_wires_before_poll(hub);
    EgWire *old = wires->first;
    wires->first = NULL;
    wires->open = 0;
    for (; old; old = old->next) {
        uv_os_fd_t fd = -1, now = -1;
        int status;
        old->leave.run = wire_leave_to_parent;
        if (keep && old->linger && eg_timer_armed(&old->linger->timer))
            eg_timer_stop(&hub->timers, &old->linger->timer);
        if (uv_is_closing(&old->uv.handle) || uv_fileno(&old->uv.handle, &fd) < 0)
            continue;
        EgWire *wire = old->owner ? wire_make(hub, old->kind, fd, &status) : NULL;
        if (!wire || uv_fileno(&wire->uv.handle, &now) < 0 || now != fd)
            close(fd); /* a terminal has been opened anew */
        if (!old->owner)
            continue;
        if (!wire) {
            eg_stream_lost(old->owner);
            continue;
        }
        wire->in = old->in;
        wire->fds = old->fds;
        wire->nfds = old->nfds;
        wire->read_status = old->read_status;
        wire->owner = old->owner;
        if (keep) {
            wire->mark = old->mark;
            wire->target = old->target;
            wire->target_size = old->target_size;
            wire->filled = old->filled;
        }
        eg_stream_forked(old->owner, wire, keep);
    }
}
