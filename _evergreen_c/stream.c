/* stream.c: what tasks read from and write to: the common part of TCP, pipes and terminals.
 *
 * A read takes from what has come in (input.c) and parks the task only when that is not
 * enough.  One read at a time waits; others queue for their turn.  What a killed or timed-out
 * read had gathered stays in the stream, so no byte is lost.
 *
 * A write hands the kernel what it takes and queues the rest; the task parks when more than
 * `high_water` bytes are unsent.  It parks after queueing, so a task that is killed there has
 * written everything, and writes of different tasks never mix.  Other tasks' turn comes before
 * a read, which loses nothing if the task is killed then, and after a write, so that a peer
 * sees writes in the order in which they were called.
 *
 * Whatever may run Python (a buffer's __buffer__(), an error's class) comes before the wire is
 * looked up, or after it was used last.
 *
 * The methods of 0.2 (read_bytes, read_until, read_until_regex) close the stream when they
 * meet its end; the others only tell.
 */
#include "evergreen.h"

#include <errno.h>
#include <poll.h>
#include <structmember.h>

#define HIGH_WATER 65536
#define LIMIT (100 * 1024 * 1024) /* bytes that one read may gather, as in 0.2 */
#define LINE_LIMIT (1024 * 1024)

static const EgWaitKind stream_read_kind = {"stream read", NULL};
static const EgWaitKind stream_write_kind = {"stream write", NULL};

static void
stream_give_back_turn(EgTask *task)
{
    EgStream *self = (EgStream *)task->wait.object; /* held by the task's frame */
    if (!self->busy)
        eg_queue_wake(&self->turns, NULL);
}

static const EgWaitKind stream_turn_kind = {"stream read turn", stream_give_back_turn};

/* ---- errors ------------------------------------------------------------------------------ */
PyObject *
eg_stream_raise(EgStream *self, int status)
{
    return eg_error_raise_as((PyObject *)self, status, NULL);
}

EgWire *
eg_stream_wire(EgStream *self)
{
    EgWire *wire = self->wire;
    if (EG_UNLIKELY(!wire))
        eg_error_raise_as((PyObject *)self, self->closed ? UV_EBADF : UV_ENOTCONN,
                          self->closed ? "stream is closed" : "stream is not connected");
    else if (EG_UNLIKELY(wire->hub != eg_hub_here)) {
        PyErr_SetString(PyExc_RuntimeError, "this stream belongs to another thread's event loop");
        return NULL;
    }
    return wire;
}

/* ---- turns --------------------------------------------------------------------------------- */
int
eg_stream_turn(void)
{
    EgHub *hub = eg_hub_here;
    if (EG_LIKELY(!hub || eg_clock_ticks() < hub->slice_end) || hub->forbidden)
        return 0;
    if (!eg_hub_task(hub)) {
        PyErr_Clear(); /* a callback: it may not wait, and need not */
        return 0;
    }
    EgTask *me = eg_wait_begin();
    return me ? eg_wait_yield_first(me) : -1;
}

/* Begin a read: the stream's wire, and the right to wait for input; NULL: exception. */
static EgWire *
stream_begin(EgStream *self)
{
    if (eg_stream_turn() < 0)
        return NULL;
    while (EG_UNLIKELY(self->busy)) {
        EgTask *me = eg_wait_begin();
        if (!me)
            return NULL;
        eg_wait_join(me, &self->turns);
        if (eg_wait_park(me, &stream_turn_kind, (PyObject *)self, EG_FOREVER) < 0)
            return NULL;
    }
    EgWire *wire = eg_stream_wire(self);
    self->busy = wire != NULL;
    if (wire && EG_UNLIKELY(wire->nfresh)) /* whom it had come for was killed */
        eg_wire_settle(wire);
    return wire;
}

static void
stream_end(EgStream *self)
{
    self->busy = false;
    if (self->turns.first)
        eg_queue_wake(&self->turns, NULL);
}

/* ---- waiting -------------------------------------------------------------------------------- */
/* Receive there and then: 1: something, or the end; 0: there is nothing; -1: exception. */
static int
stream_pull(EgStream *self)
{
    if (eg_stream_turn() < 0 || !eg_stream_wire(self))
        return -1;
    bool met = eg_wire_pull(self->wire);
    eg_wire_settle(self->wire);
    return met;
}

/* Park until more has come in, or the end, or an error. wanted: 0, or how much would be taken of
 * whatever comes, and the caller receives by itself. */
static int
stream_wait(EgStream *self, size_t mark, size_t wanted)
{
    EgWire *wire = self->wire;
    if (wire->ready && !wanted) {
        int met = stream_pull(self);
        if (met)
            return met < 0 ? -1 : 0;
        wire = self->wire; /* others may have run, and forked */
    }
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    int status = eg_wire_read(wire);
    if (status < 0) {
        eg_stream_raise(self, status);
        return -1;
    }
    size_t before = wire->mark;
    if (mark > before)
        wire->mark = mark;
    wire->wanted = wanted;
    uv_ref(&wire->uv.handle); /* somebody waits for it: it keeps the loop alive */
    eg_wait_join(me, &self->readers);
    status = eg_wait_park(me, &stream_read_kind, (PyObject *)self, EG_FOREVER);
    if ((wire = self->wire)) {
        uv_unref(&wire->uv.handle);
        wire->mark = before;
        wire->wanted = 0;
    }
    if (status < 0 || !eg_stream_wire(self))
        return -1;
    return 0;
}

/* Park until at most *target* bytes are unsent and, if it is 0, no request is under way. */
static int
stream_wait_sent(EgStream *self, size_t target)
{
    for (;;) {
        EgWire *wire = eg_stream_wire(self);
        if (!wire)
            return -1;
        if (wire->write_status) {
            eg_stream_raise(self, wire->write_status);
            return -1;
        }
        if (target ? eg_wire_unsent(wire) <= target
                   : wire->nwrites == 0 && wire->shutdown_status != UV_EAGAIN)
            return 0;
        EgTask *me = eg_wait_begin();
        if (!me)
            return -1;
        eg_wait_join(me, &self->writers);
        if (eg_wait_park(me, &stream_write_kind, (PyObject *)self, EG_FOREVER) < 0)
            return -1;
    }
}

int
eg_stream_flush(EgStream *self)
{
    return stream_wait_sent(self, 0);
}

/* After the poll. */
void
eg_stream_happened(EgStream *self, EgWire *wire)
{
    if (self->readers.first
        && (wire->in.size || wire->nfresh || wire->filled || wire->read_status || wire->nfds
            || (wire->ready && wire->wanted)))
        eg_queue_wake(&self->readers, NULL);
    if (self->writers.first
        && (wire->nwrites == 0 || wire->write_status || wire->shutdown_status <= 0
            || eg_wire_unsent(wire) <= (size_t)self->high / 4))
        eg_queue_wake_all(&self->writers);
}

static void
stream_wake_everyone(EgStream *self)
{
    eg_queue_wake_all(&self->readers);
    eg_queue_wake_all(&self->turns);
    eg_queue_wake_all(&self->writers);
}

void
eg_stream_lost(EgStream *self)
{
    self->wire = NULL;
    self->closed = true;
    stream_wake_everyone(self);
}

void
eg_stream_forked(EgStream *self, EgWire *wire, bool keep)
{
    self->wire = wire;
    if (!keep) { /* those who waited are the parent's */
        memset(&self->readers, 0, sizeof self->readers);
        memset(&self->turns, 0, sizeof self->turns);
        memset(&self->writers, 0, sizeof self->writers);
        self->busy = false;
        return;
    }
    if (eg_queue_peek(&self->readers)) {
        uv_ref(&wire->uv.handle);
        if (wire->in.size || wire->filled || eg_wire_read(wire) < 0)
            eg_queue_wake(&self->readers, NULL);
    }
    eg_queue_wake_all(&self->writers); /* what was unsent is sent by the parent */
}

/* ---- closing ------------------------------------------------------------------------------------ */
static EgPeerState
stream_peer_state(const EgWire *wire)
{
    if (wire->write_status || (wire->read_status && wire->read_status != UV_EOF))
        return EG_PEER_BROKE;
    return wire->read_status ? EG_PEER_ENDED : EG_PEER_THERE;
}

PyDoc_STRVAR(stream_peer_state_doc,
"_peer_state($self, /)\n"
"--\n"
"\n"
"Return what the peer has done: 0: nothing, 1: it has ended its side, 2: the connection is broken.");

static PyObject *
stream_peer_state_method(PyObject *op, PyObject *unused)
{
    EgStream *self = (EgStream *)op;
    (void)unused;
    if (!self->wire)
        return PyLong_FromLong(self->peer);
    struct pollfd entry = {.fd = self->wire->fd, .events = 0};
    EgPeerState state = stream_peer_state(self->wire);
    if (state < EG_PEER_BROKE && poll(&entry, 1, 0) > 0) /* nobody has read or written since */
        state = EG_PEER_BROKE;
    return PyLong_FromLong(state);
}

static void
stream_close(EgStream *self, bool abort)
{
    EgWire *wire = self->wire;
    if (wire)
        self->peer = stream_peer_state(wire);
    self->wire = NULL;
    self->closed = true;
    eg_input_clear(&self->early);
    if (wire)
        eg_wire_let_go(wire, abort);
    stream_wake_everyone(self);
}

/* Call the method close(), which subclasses override. An exception that is set stays so. */
static int
stream_call_close(EgStream *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *done = PyObject_CallMethod((PyObject *)self, "close", NULL);
    if (!done && type) {
        PyErr_WriteUnraisable((PyObject *)self);
        done = Py_NewRef(Py_None);
    }
    Py_XDECREF(done);
    if (type)
        PyErr_Restore(type, value, traceback);
    return done ? 0 : -1;
}

/* A read has met the end, or an error: b"" or the exception. */
static PyObject *
stream_ended(EgStream *self, bool close)
{
    int status = self->wire->read_status;
    if (close) {
        EgInput rest = self->wire->in; /* moved: read() still gives it */
        memset(&self->wire->in, 0, sizeof self->wire->in);
        int closed = stream_call_close(self);
        self->rest = rest;
        if (closed < 0)
            return NULL;
    }
    if (status != UV_EOF)
        return eg_stream_raise(self, status);
    return PyBytes_FromStringAndSize(NULL, 0);
}

/* The end of a read as 0.2 had them: closed here while it waited, it has read nothing. */
static PyObject *
stream_end_close(EgStream *self, PyObject *result)
{
    if (!result && !PyErr_Occurred())
        result = stream_ended(self, true);
    else if (!result && self->closed && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        result = PyBytes_FromStringAndSize(NULL, 0);
    }
    stream_end(self);
    return result;
}

PyDoc_STRVAR(stream_close_doc,
"close($self, /)\n"
"--\n"
"\n"
"Close the stream, at once; harmless if it is closed.\n"
"\n"
"What was written and is not sent yet is still sent in the background, for a minute at most.\n"
"Tasks that wait for the stream get an OSError EBADF.");

static PyObject *
stream_close_method(PyObject *op, PyObject *unused)
{
    EgStream *self = (EgStream *)op;
    (void)unused;
    if (self->wire && !eg_stream_wire(self))
        return NULL;
    stream_close(self, false);
    eg_input_clear(&self->rest);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stream_abort_doc,
"abort($self, /)\n"
"--\n"
"\n"
"Close the stream and drop what is unsent; a TCP peer gets a reset (RST).");

static PyObject *
stream_abort(PyObject *op, PyObject *unused)
{
    EgStream *self = (EgStream *)op;
    (void)unused;
    if (self->wire && !eg_stream_wire(self))
        return NULL;
    stream_close(self, true);
    eg_input_clear(&self->rest);
    Py_RETURN_NONE;
}

/* ---- reading: helpers ------------------------------------------------------------------------------ */
/* The optional argument i, a number of bytes; None or none: *value as it was. */
static int
stream_arg_size(PyObject *const *args, Py_ssize_t n, Py_ssize_t i, Py_ssize_t *value)
{
    if (i >= n || args[i] == Py_None)
        return 0;
    *value = PyNumber_AsSsize_t(args[i], PyExc_OverflowError);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The same for read_until() and the like, whose last argument may be named. */
static int
stream_arg_limit(const char *name, PyObject *const *args, Py_ssize_t n, PyObject *kwnames,
                 Py_ssize_t before, Py_ssize_t *limit)
{
    Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (n < before || n + named > before + 1
        || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "limit"))) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments and an optional limit", name,
                     before);
        return -1;
    }
    if (stream_arg_size(args, n + named, before, limit) < 0)
        return -1;
    if (*limit <= 0) {
        PyErr_Format(PyExc_ValueError, "limit must be positive, not %zd", *limit);
        return -1;
    }
    return 0;
}

/* Not inlined: its text would lie on the stack of every task that waits in a read. */
static PyObject *__attribute__((noinline))
stream_over_limit(EgStream *self, Py_ssize_t limit)
{
    char text[80];
    PyOS_snprintf(text, sizeof text, "no end of the message in the first %lld bytes",
                  (long long)limit);
    eg_error_raise_as((PyObject *)self, UV_EMSGSIZE, text);
    return NULL;
}

/* Receive n bytes into memory of the reader's: 1; 0: the end or an error comes before; -1:
 * exception. *got of them are there in any case. */
static int
stream_fill(EgStream *self, char *to, size_t n, size_t *got)
{
    for (;;) {
        EgWire *wire = self->wire;
        size_t part = Py_MIN(n - *got, wire->in.size);
        eg_input_take(&wire->in, to + *got, part);
        *got += part;
        if (*got == n)
            return 1;
        if (wire->read_status)
            return 0;
        wire->target = to + *got;
        wire->target_size = n - *got;
        wire->filled = 0;
        int status = stream_wait(self, 0, 0);
        if ((wire = self->wire)) {
            *got += wire->filled;
            wire->target = NULL;
            wire->filled = 0;
        }
        if (status < 0)
            return -1;
    }
}

/* Wait until n bytes have come in: 1; 0: the end or an error comes before; -1: exception. */
static int
stream_gather(EgStream *self, size_t n)
{
    while (self->wire->in.size < n) {
        if (self->wire->read_status)
            return 0;
        if (stream_wait(self, n, 0) < 0)
            return -1;
    }
    return 1;
}

/* Exactly n bytes; NULL without an exception: the end or an error comes before. */
static PyObject *
stream_exactly(EgStream *self, size_t n)
{
    /* A bytes object of its size is made only once something has come in. */
    int status = stream_gather(self, n < 2 * EG_BIG ? n : 1);
    if (status <= 0)
        return NULL;
    if (self->wire->in.size >= n)
        return eg_input_bytes(&self->wire->in, n);
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (!result)
        return NULL;
    size_t got = 0;
    status = stream_fill(self, PyBytes_AS_STRING(result), n, &got);
    if (status > 0)
        return result;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int status_kept = self->wire && got ? eg_wire_unread(self->wire, result, NULL, got) : 0;
    if (type && status_kept == 0)
        PyErr_Restore(type, value, traceback);
    Py_DECREF(result);
    return NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------ */
PyDoc_STRVAR(stream_read_doc,
"read($self, n=-1, /)\n"
"--\n"
"\n"
"Return up to n bytes: what has come in, waiting only while that is nothing.\n"
"\n"
"b\"\" means that the peer has ended its side. Without n, or if it is negative, return all that\n"
"comes until then; OSError EMSGSIZE if that is more than 100 MiB, ConnectionResetError if the peer\n"
"reset the connection: what came before stays in the stream.");

static PyObject *
stream_read_all(EgStream *self)
{
    while (!self->wire->read_status) {
        if (self->wire->in.size > (size_t)LIMIT)
            return stream_over_limit(self, LIMIT);
        if (stream_wait(self, LIMIT + 1, 0) < 0)
            return NULL;
    }
    if (self->wire->read_status != UV_EOF)
        return stream_ended(self, false); /* what came stays: read(n) still returns it */
    return eg_input_bytes(&self->wire->in, self->wire->in.size);
}

static PyObject *
stream_read_some(EgStream *self, size_t n)
{
    EgWire *wire = self->wire;
    while (!wire->in.size) {
        if (wire->nfresh)
            return eg_wire_take_fresh(wire, n);
        if (wire->read_status)
            return stream_ended(self, false);
        if (wire->ready) {
            PyObject *bytes = eg_wire_receive(wire, n);
            if (bytes || PyErr_Occurred())
                return bytes;
            continue;
        }
        if (stream_wait(self, 0, n) < 0)
            return NULL;
        wire = self->wire;
    }
    EgInput *in = &wire->in;
    size_t front = eg_input_front(in);
    if (front < EG_BIG)
        front = in->size;
    return eg_input_bytes(in, Py_MIN(n, front));
}

static PyObject *
stream_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t n = -1;
    if (nargs > 1)
        return PyErr_Format(PyExc_TypeError, "read() takes at most 1 argument (%zd given)", nargs);
    if (stream_arg_size(args, nargs, 0, &n) < 0)
        return NULL;
    if (self->rest.size) { /* closed by a read that met its end, with this before it */
        size_t size = n < 0 || (size_t)n > self->rest.size ? self->rest.size : (size_t)n;
        return eg_input_bytes(&self->rest, size);
    }
    if (!stream_begin(self))
        return NULL;
    PyObject *result = n < 0    ? stream_read_all(self)
                       : n == 0 ? PyBytes_FromStringAndSize(NULL, 0)
                                : stream_read_some(self, (size_t)n);
    stream_end(self);
    return result;
}

PyDoc_STRVAR(stream_readinto_doc,
"readinto($self, buffer, /)\n"
"--\n"
"\n"
"Read into a writable buffer what has come in, waiting only while that is nothing.\n"
"\n"
"Return the number of bytes, 0 at the end.");

/* -1: exception; else how many bytes. */
static Py_ssize_t
stream_read_into(EgStream *self, char *to, size_t n)
{
    EgWire *wire = self->wire;
    size_t got = 0;
    while (n && !wire->in.size && !got) {
        if (wire->read_status) {
            PyObject *none = stream_ended(self, false);
            Py_XDECREF(none);
            return none ? 0 : -1;
        }
        wire->target = to;
        wire->target_size = n;
        wire->filled = 0;
        int status = stream_wait(self, 0, 0);
        if ((wire = self->wire)) {
            got = wire->filled;
            wire->target = NULL;
            wire->filled = 0;
        }
        if (status < 0) {
            if (wire && got) {
                PyObject *type, *value, *traceback;
                PyErr_Fetch(&type, &value, &traceback);
                eg_wire_unread(wire, NULL, to, got);
                PyErr_Restore(type, value, traceback);
            }
            return -1;
        }
    }
    size_t part = Py_MIN(n - got, wire->in.size);
    eg_input_take(&wire->in, to + got, part);
    return (Py_ssize_t)(got + part);
}

static PyObject *
stream_readinto(PyObject *op, PyObject *buffer)
{
    EgStream *self = (EgStream *)op;
    Py_buffer view; /* what it points to is the buffer's memory */
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t n = -1;
    if (stream_begin(self)) {
        n = stream_read_into(self, view.buf, (size_t)view.len);
        stream_end(self);
    }
    PyBuffer_Release(&view);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

PyDoc_STRVAR(stream_unread_doc,
"unread($self, data, /)\n"
"--\n"
"\n"
"Put bytes back: the next read begins with them.");

static PyObject *
stream_unread(PyObject *op, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    int status = wire ? 0 : -1;
    if (wire && view.len) {
        eg_wire_settle(wire);
        status = eg_input_unread(&wire->in, NULL, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(stream_read_exactly_doc,
"read_exactly($self, n, /)\n"
"--\n"
"\n"
"Return exactly n bytes.\n"
"\n"
"Raise EOFError if the stream ends before; what there was of them is its attribute partial.");

static PyObject *
stream_raise_incomplete(EgStream *self, Py_ssize_t expected)
{
    EgInput *in = &self->wire->in;
    if (self->wire->read_status != UV_EOF)
        return stream_ended(self, false);
    PyObject *partial = eg_input_bytes(in, in->size);
    PyObject *module = partial ? PyImport_ImportModule("evergreen.io.stream") : NULL;
    PyObject *exc =
        module ? PyObject_CallMethod(module, "_incomplete_read", "OOn", self, partial, expected)
               : NULL;
    if (exc)
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_XDECREF(exc);
    Py_XDECREF(module);
    Py_XDECREF(partial);
    return NULL;
}

static PyObject *
stream_read_exactly(PyObject *op, PyObject *arg)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (n < 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "n must not be negative: %zd", n);
        return NULL;
    }
    if (!stream_begin(self))
        return NULL;
    PyObject *result = stream_exactly(self, (size_t)n);
    if (!result && !PyErr_Occurred())
        stream_raise_incomplete(self, n);
    stream_end(self);
    return result;
}

PyDoc_STRVAR(stream_read_bytes_doc,
"read_bytes($self, n, /)\n"
"--\n"
"\n"
"Return exactly n bytes; if the stream ends before, close it and return b\"\".\n"
"\n"
"What there was of them is then still given by read().");

static PyObject *
stream_read_bytes(PyObject *op, PyObject *arg)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (n <= 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "n must be positive, not %zd", n);
        return NULL;
    }
    if (!stream_begin(self))
        return NULL;
    return stream_end_close(self, stream_exactly(self, (size_t)n));
}

/* Up to and with the first *delimiter*; NULL without an exception: the end comes before. */
static PyObject *
stream_until(EgStream *self, const char *delimiter, size_t size, size_t limit)
{
    size_t searched = 0;
    for (;;) {
        EgInput *in = &self->wire->in;
        if (in->size > searched) {
            const char *data = eg_input_join(in);
            if (!data)
                return NULL;
            size_t from = searched >= size ? searched - size + 1 : 0;
            const char *found = size == 1 ? memchr(data + from, *delimiter, in->size - from)
                                          : memmem(data + from, in->size - from, delimiter, size);
            if (found && (size_t)(found - data) + size <= limit)
                return eg_input_bytes(in, (size_t)(found - data) + size);
            if (found || in->size >= limit)
                return stream_over_limit(self, (Py_ssize_t)limit);
            searched = in->size;
        }
        if (self->wire->read_status)
            return NULL;
        if (stream_wait(self, limit, 0) < 0)
            return NULL;
    }
}

PyDoc_STRVAR(stream_read_until_doc,
"read_until($self, delimiter, /, limit=None)\n"
"--\n"
"\n"
"Return everything up to the delimiter, and the delimiter; if the stream ends before, close it\n"
"and return b\"\".\n"
"\n"
"Raise OSError EMSGSIZE if the delimiter is not in the first limit bytes (by default 100 MiB);\n"
"they stay in the stream. What was left at its end is still given by read().");

static PyObject *
stream_read_until(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t limit = LIMIT;
    Py_buffer delimiter;
    if (stream_arg_limit("read_until", args, n, kwnames, 1, &limit) < 0
        || PyObject_GetBuffer(args[0], &delimiter, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    if (delimiter.len == 0)
        PyErr_SetString(PyExc_ValueError, "the delimiter must not be empty");
    else if (stream_begin(self)) {
        result = stream_until(self, delimiter.buf, (size_t)delimiter.len, (size_t)limit);
        result = stream_end_close(self, result);
    }
    PyBuffer_Release(&delimiter);
    return result;
}

PyDoc_STRVAR(stream_readline_doc,
"readline($self, /, limit=None)\n"
"--\n"
"\n"
"Return the next line with its b\"\\n\"; the last one may have none; b\"\" at the end.\n"
"\n"
"Raise OSError EMSGSIZE if it is longer than limit bytes (by default 1 MiB).");

static PyObject *
stream_next_line(EgStream *self, Py_ssize_t limit)
{
    if (!stream_begin(self))
        return NULL;
    PyObject *result = stream_until(self, "\n", 1, (size_t)limit);
    if (!result && !PyErr_Occurred()) {
        EgInput *in = &self->wire->in;
        result = in->size ? eg_input_bytes(in, in->size) : stream_ended(self, false);
    }
    stream_end(self);
    return result;
}

static PyObject *
stream_readline(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    Py_ssize_t limit = LINE_LIMIT;
    if (stream_arg_limit("readline", args, n, kwnames, 0, &limit) < 0)
        return NULL;
    return stream_next_line((EgStream *)op, limit);
}

static PyObject *
stream_iternext(PyObject *op)
{
    PyObject *line = stream_next_line((EgStream *)op, LINE_LIMIT);
    if (line && PyBytes_GET_SIZE(line) == 0)
        Py_CLEAR(line);
    return line;
}

PyDoc_STRVAR(stream_read_until_regex_doc,
"read_until_regex($self, regex, /, limit=None)\n"
"--\n"
"\n"
"Return everything up to the end of the first match of a bytes pattern (or a compiled one); if\n"
"the stream ends before, close it and return b\"\". The limit is that of read_until().");

/* Where the first match ends: -1: none; -2: exception. */
static Py_ssize_t
stream_match(EgInput *in, PyObject *pattern)
{
    PyObject *data = eg_input_look(in);
    PyObject *match = data ? PyObject_CallMethod(pattern, "search", "O", data) : NULL;
    PyObject *end = match && match != Py_None ? PyObject_CallMethod(match, "end", NULL) : NULL;
    Py_ssize_t result = !match || (match != Py_None && !end) ? -2
                        : end                                ? PyLong_AsSsize_t(end)
                                                             : -1;
    Py_XDECREF(end);
    Py_XDECREF(match);
    Py_XDECREF(data);
    return result;
}

static PyObject *
stream_until_match(EgStream *self, PyObject *pattern, size_t limit)
{
    size_t searched = 0;
    for (;;) {
        EgInput *in = &self->wire->in;
        if (in->size > searched) {
            size_t size = in->size;
            Py_ssize_t end = stream_match(in, pattern);
            if (end == -2 || !eg_stream_wire(self))
                return NULL;
            in = &self->wire->in;
            if (end >= 0 && (size_t)end <= Py_MIN(limit, in->size))
                return eg_input_bytes(in, (size_t)end);
            if (end >= 0 || size >= limit)
                return stream_over_limit(self, (Py_ssize_t)limit);
            searched = size;
        }
        if (self->wire->read_status)
            return NULL;
        if (stream_wait(self, limit, 0) < 0)
            return NULL;
    }
}

static PyObject *
stream_read_until_regex(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t limit = LIMIT;
    if (stream_arg_limit("read_until_regex", args, n, kwnames, 1, &limit) < 0)
        return NULL;
    PyObject *re = PyImport_ImportModule("re");
    PyObject *pattern = re ? PyObject_CallMethod(re, "compile", "(O)", args[0]) : NULL;
    PyObject *result = NULL;
    Py_XDECREF(re);
    if (!pattern)
        return NULL;
    if (stream_begin(self)) {
        result = stream_until_match(self, pattern, (size_t)limit);
        result = stream_end_close(self, result);
    }
    Py_DECREF(pattern);
    return result;
}

PyObject *
eg_stream_receive(EgStream *self, size_t n, bool fds)
{
    if (!stream_begin(self))
        return NULL;
    PyObject *result = NULL;
    while (fds && !self->wire->nfds && !self->wire->in.size && !self->wire->read_status)
        if (stream_wait(self, 0, 0) < 0)
            goto done;
    if (fds && self->wire->nfds && !self->wire->in.size)
        result = PyBytes_FromStringAndSize(NULL, 0);
    else
        result = stream_read_some(self, n);
done:
    stream_end(self);
    return result;
}

/* ---- writing ------------------------------------------------------------------------------------------- */
/* Before a write: its wire; NULL: exception. */
static EgWire *
stream_begin_write(EgStream *self)
{
    if (eg_wait_check() < 0)
        return NULL;
    EgWire *wire = eg_stream_wire(self);
    if (wire && EG_UNLIKELY(wire->write_status || wire->shutdown_status <= 0)) {
        eg_stream_raise(self, wire->write_status ? wire->write_status : UV_EPIPE);
        return NULL;
    }
    return wire;
}

/* Have the kernel take what it will: how much, or a libuv status. */
static Py_ssize_t
stream_try(EgWire *wire, uv_buf_t *bufs, unsigned n)
{
    if (wire->nwrites)
        return 0;
    ssize_t sent = eg_wire_try(wire, bufs, n);
    if (sent < 0 && sent != UV_EAGAIN)
        return wire->write_status = (int)sent;
    return sent < 0 ? 0 : sent;
}

/* What a write returns: whether nothing is left to send. It waits if that is too much, and else
 * only when others have to have their turn. */
static PyObject *
stream_written(EgStream *self)
{
    EgWire *wire = self->wire;
    if (EG_UNLIKELY(!wire)) /* closed by who gave the buffer back */
        Py_RETURN_FALSE;
    bool sent = wire->nwrites == 0;
    if (sent || eg_wire_unsent(wire) <= (size_t)self->high) {
        if (eg_hub_slice_is_over(wire->hub) && eg_wait_give_way() < 0)
            return NULL;
        return PyBool_FromLong(sent);
    }
    if (stream_wait_sent(self, Py_MAX((size_t)self->high / 4, 1)) < 0)
        return NULL;
    return PyBool_FromLong(self->wire->nwrites == 0);
}

/* Queue what a buffer has from offset on. */
static int
stream_queue(EgStream *self, PyObject *source, const char *data, size_t size, size_t offset)
{
    PyObject *bytes;
    if (PyBytes_CheckExact(source))
        bytes = Py_NewRef(source);
    else { /* its owner may change it while it waits */
        bytes = PyBytes_FromStringAndSize(data + offset, (Py_ssize_t)(size - offset));
        offset = 0;
    }
    if (!bytes)
        return -1;
    int status = eg_wire_write(self->wire, bytes, offset);
    Py_DECREF(bytes);
    if (status < 0)
        eg_stream_raise(self, self->wire->write_status = status);
    return status < 0 ? -1 : 0;
}

static inline bool
stream_is_early(const EgStream *self)
{
    return !self->wire && !self->closed;
}

/* Written before it is connected: sent then. 1; -1: exception. */
static int
stream_write_early(EgStream *self, const Py_buffer *views, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (views[i].len && eg_input_copy(&self->early, views[i].buf, (size_t)views[i].len) < 0)
            goto fail;
    return 1;
fail:
    PyErr_NoMemory();
    return -1;
}

PyDoc_STRVAR(stream_write_doc,
"write($self, data, /)\n"
"--\n"
"\n"
"Write bytes, waiting if more than high_water bytes are unsent.\n"
"\n"
"Return True if the kernel has taken everything, False if some is still to be sent. An error\n"
"that sending meets later is raised by the next write() or flush(). A task that is killed\n"
"while it waits here has written everything.");

/* Write, and do not wait. 0; 1: it is not connected yet; -1: exception. */
static int
stream_put(EgStream *self, PyObject *data)
{
    Py_buffer view;
    uv_buf_t buf;
    if (EG_LIKELY(PyBytes_CheckExact(data))) {
        view.obj = NULL;
        view.buf = PyBytes_AS_STRING(data);
        view.len = PyBytes_GET_SIZE(data);
    } else if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    EgWire *wire = NULL;
    int status = -1;
    if (EG_UNLIKELY(stream_is_early(self)))
        status = stream_write_early(self, &view, 1);
    else if ((wire = stream_begin_write(self))) {
        buf.base = view.buf;
        buf.len = (size_t)view.len;
        Py_ssize_t n = view.len ? stream_try(wire, &buf, 1) : 0;
        if (n < 0)
            eg_stream_raise(self, (int)n);
        else
            status =
                n == view.len ? 0 : stream_queue(self, data, view.buf, (size_t)view.len, (size_t)n);
    }
    if (view.obj)
        PyBuffer_Release(&view);
    return status;
}

static PyObject *
stream_write(PyObject *op, PyObject *data)
{
    int status = stream_put((EgStream *)op, data);
    return status == 0 ? stream_written((EgStream *)op) : status > 0 ? Py_NewRef(Py_False) : NULL;
}

PyDoc_STRVAR(stream_queue_doc,
"_queue($self, data, /)\n"
"--\n"
"\n"
"Write bytes without waiting, however much is unsent.");

static PyObject *
stream_queue_method(PyObject *op, PyObject *data)
{
    return stream_put((EgStream *)op, data) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(stream_writelines_doc,
"writelines($self, buffers, /)\n"
"--\n"
"\n"
"Write several buffers, with one system call where the kernel takes them; as write() otherwise.");

/* Send what the kernel takes of all of them, queue the rest of each. */
static int
stream_write_views(EgStream *self, EgWire *wire, Py_buffer *views, uv_buf_t *bufs, Py_ssize_t n)
{
    Py_ssize_t filled = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if (views[i].len) {
            bufs[filled].base = views[i].buf;
            bufs[filled++].len = (size_t)views[i].len;
        }
    Py_ssize_t sent = filled ? stream_try(wire, bufs, (unsigned)filled) : 0;
    if (sent < 0) {
        eg_stream_raise(self, (int)sent);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t part = Py_MIN(sent, views[i].len);
        sent -= part;
        if (part < views[i].len
            && stream_queue(self, views[i].obj, views[i].buf, (size_t)views[i].len, (size_t)part)
                   < 0)
            return -1;
    }
    return 0;
}

static PyObject *
stream_writelines(PyObject *op, PyObject *buffers)
{
    EgStream *self = (EgStream *)op;
    PyObject *list = eg_parse_tuple(buffers, "writelines() takes an iterable of buffers");
    if (!list)
        return NULL;
    int status = -1;
    Py_ssize_t n = PyTuple_GET_SIZE(list), got = 0;
    Py_buffer *views = PyMem_New(Py_buffer, n + 1);
    uv_buf_t *bufs = PyMem_New(uv_buf_t, n + 1);
    if (!views || !bufs) {
        PyErr_NoMemory();
        goto done;
    }
    for (; got < n; got++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(list, got), &views[got], PyBUF_SIMPLE) < 0)
            goto done;
    if (stream_is_early(self)) {
        status = stream_write_early(self, views, n);
        goto done;
    }
    EgWire *wire = stream_begin_write(self);
    status = wire ? stream_write_views(self, wire, views, bufs, n) : -1;
done:
    while (got > 0)
        PyBuffer_Release(&views[--got]);
    PyMem_Free(views);
    PyMem_Free(bufs);
    Py_DECREF(list);
    return status == 0 ? stream_written(self) : status > 0 ? Py_NewRef(Py_False) : NULL;
}

PyDoc_STRVAR(stream_flush_doc,
"flush($self, /)\n"
"--\n"
"\n"
"Wait until the kernel has taken everything that was written.");

static PyObject *
stream_flush(PyObject *op, PyObject *unused)
{
    (void)unused;
    if (stream_wait_sent((EgStream *)op, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stream_shutdown_doc,
"shutdown($self, /)\n"
"--\n"
"\n"
"End the writing side, when everything is sent: the peer reads an end. Reading goes on.\n"
"\n"
"It waits until then, but not for a peer that has sent more than 256 KiB which nobody reads: such\n"
"a peer may itself wait to be read from. The end is then sent in the background.");

/* Whether a peer may wait to be read from before it reads. Receives what there is room for. */
static bool
stream_is_stuffed(EgWire *wire)
{
    if (wire->kind != EG_TTY)
        eg_wire_read(wire); /* it fails where there is nothing to read */
    return wire->in.size >= wire->mark;
}

static PyObject *
stream_shutdown(PyObject *op, PyObject *unused)
{
    EgStream *self = (EgStream *)op;
    (void)unused;
    EgWire *wire = eg_stream_wire(self);
    if (!wire)
        return NULL;
    if (wire->shutdown_status > 0) {
        int status = wire->write_status ? wire->write_status : eg_wire_shutdown(wire);
        if (status < 0)
            return eg_stream_raise(self, status);
    }
    while (wire->shutdown_status == UV_EAGAIN && !stream_is_stuffed(wire)) {
        EgTask *me = eg_wait_begin();
        if (!me)
            return NULL;
        eg_wait_join(me, &self->writers);
        if (eg_wait_park(me, &stream_write_kind, op, EG_FOREVER) < 0
            || !(wire = eg_stream_wire(self)))
            return NULL;
    }
    if (wire->shutdown_status < 0 && wire->shutdown_status != UV_EAGAIN)
        return eg_stream_raise(self, wire->shutdown_status);
    Py_RETURN_NONE;
}

/* ---- making ------------------------------------------------------------------------------------------------ */
int
eg_stream_attach(EgStream *self, EgWireKind kind, int fd)
{
    EgHub *hub = eg_hub_get();
    if (!hub)
        return -1;
    if (self->wire || self->closed) {
        eg_error_raise_as((PyObject *)self, self->closed ? UV_EBADF : UV_EISCONN,
                          self->closed ? "stream is closed" : "stream is already connected");
        return -1;
    }
    int status = 0;
    size_t size = self->early.size;
    PyObject *early = size ? eg_input_bytes(&self->early, size) : NULL;
    if (size && !early)
        return -1;
    EgWire *wire = self->wire = eg_wire_open(hub, kind, fd, &status);
    if (wire) {
        wire->owner = self;
        if (early)
            wire->write_status = eg_wire_write(wire, early, 0); /* the next write tells */
    } else if (!early || eg_input_unread(&self->early, early, NULL, size) == 0)
        eg_stream_raise(self, status);
    Py_XDECREF(early);
    return wire ? 0 : -1;
}

static PyObject *
stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args; /* a subclass's __init__() takes them */
    (void)kwargs;
    EgStream *self = (EgStream *)type->tp_alloc(type, 0);
    if (self)
        self->high = HIGH_WATER;
    return (PyObject *)self;
}

static void
stream_finalize(PyObject *op)
{
    EgStream *self = (EgStream *)op;
    if (!self->wire)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyErr_ResourceWarning(op, 1, "unclosed %R", op) < 0)
        if (PyErr_ExceptionMatches(PyExc_Warning)) /* warnings are errors: as socket does */
            PyErr_WriteUnraisable(op);
    PyErr_Restore(type, value, traceback);
}

static int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgStream *)op)->server);
    return 0;
}

static int
stream_clear(PyObject *op)
{
    Py_CLEAR(((EgStream *)op)->server);
    return 0;
}

static void
stream_dealloc(PyObject *op)
{
    EgStream *self = (EgStream *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0)
        return; /* it lives on */
    PyObject_GC_UnTrack(op);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(op);
    stream_clear(op);
    eg_input_clear(&self->early);
    eg_input_clear(&self->rest);
    if (self->wire)
        eg_wire_let_go(self->wire, false);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- attributes ---------------------------------------------------------------------------------------------- */
static PyObject *
stream_repr(PyObject *op)
{
    EgStream *self = (EgStream *)op;
    uv_os_fd_t fd = -1;
    if (self->wire && uv_fileno(&self->wire->uv.handle, &fd) == 0)
        return PyUnicode_FromFormat("<%s fd=%d at %p>", Py_TYPE(op)->tp_name, fd, op);
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(op)->tp_name,
                                self->closed ? "closed" : "not connected", op);
}

PyDoc_STRVAR(stream_fileno_doc,
"fileno($self, /)\n"
"--\n"
"\n"
"Return the descriptor. Reading from it takes bytes away from the stream.");

static PyObject *
stream_fileno(PyObject *op, PyObject *unused)
{
    (void)unused;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    uv_os_fd_t fd;
    if (!wire)
        return NULL;
    int status = uv_fileno(&wire->uv.handle, &fd);
    return status < 0 ? eg_stream_raise((EgStream *)op, status) : PyLong_FromLong(fd);
}

static PyObject *
stream_get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgStream *)op)->closed);
}

static PyObject *
stream_get_connected(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgStream *)op)->wire != NULL);
}

static PyObject *
stream_get_unsent(PyObject *op, void *unused)
{
    EgWire *wire = ((EgStream *)op)->wire;
    (void)unused;
    return PyLong_FromSize_t(wire ? eg_wire_unsent(wire) : 0);
}

static PyObject *
stream_get_high(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((EgStream *)op)->high);
}

static int
stream_set_high(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    Py_ssize_t high = value ? PyNumber_AsSsize_t(value, PyExc_OverflowError) : -1;
    if (high < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "high_water must be a number of bytes, 0 or more");
        return -1;
    }
    ((EgStream *)op)->high = high;
    return 0;
}

static PyObject *
stream_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(op);
}

static PyObject *
stream_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgStream *self = (EgStream *)op;
    int status = 0;
    if (self->wire && !eg_stream_wire(self))
        return NULL;
    if (self->wire && self->wire->nwrites && n > 0 && args[0] == Py_None) {
        if (!self->busy)
            eg_wire_waste(self->wire); /* else a peer that is stuck in a write reads no more */
        status = stream_wait_sent(self, 0);
    }
    if (stream_call_close(self) < 0)
        return NULL;
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the type ------------------------------------------------------------------------------------------------ */
#define WITH_KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef stream_methods[] = {
    {"read", EG_METHOD(stream_read), METH_FASTCALL, stream_read_doc},
    {"readinto", stream_readinto, METH_O, stream_readinto_doc},
    {"unread", stream_unread, METH_O, stream_unread_doc},
    {"read_exactly", stream_read_exactly, METH_O, stream_read_exactly_doc},
    {"read_bytes", stream_read_bytes, METH_O, stream_read_bytes_doc},
    {"read_until", EG_METHOD(stream_read_until), WITH_KEYWORDS, stream_read_until_doc},
    {"read_until_regex", EG_METHOD(stream_read_until_regex), WITH_KEYWORDS,
     stream_read_until_regex_doc},
    {"readline", EG_METHOD(stream_readline), WITH_KEYWORDS, stream_readline_doc},
    {"write", stream_write, METH_O, stream_write_doc},
    {"writelines", stream_writelines, METH_O, stream_writelines_doc},
    {"_queue", stream_queue_method, METH_O, stream_queue_doc},
    {"flush", stream_flush, METH_NOARGS, stream_flush_doc},
    {"shutdown", stream_shutdown, METH_NOARGS, stream_shutdown_doc},
    {"close", stream_close_method, METH_NOARGS, stream_close_doc},
    {"abort", stream_abort, METH_NOARGS, stream_abort_doc},
    {"_peer_state", stream_peer_state_method, METH_NOARGS, stream_peer_state_doc},
    {"fileno", stream_fileno, METH_NOARGS, stream_fileno_doc},
    {"__enter__", stream_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(stream_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef stream_getset[] = {
    {"closed", stream_get_closed, NULL, PyDoc_STR("Whether it was closed."), NULL},
    {"connected", stream_get_connected, NULL,
     PyDoc_STR("Whether it is open: connected, and not closed."), NULL},
    {"unsent", stream_get_unsent, NULL,
     PyDoc_STR("Bytes that were written and that the kernel has not taken yet."), NULL},
    {"high_water", stream_get_high, stream_set_high,
     PyDoc_STR("Bytes: a write() that leaves more than this unsent waits until a quarter is left."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgStream, weakrefs), READONLY, NULL},
    {"_server", T_OBJECT, offsetof(EgStream, server), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(stream_doc,
"What tasks read bytes from and write bytes to; iterating over it gives lines.\n"
"\n"
"A stream belongs to the event loop of the thread that opened it.");

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc},
    {Py_tp_new, stream_new},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_repr, stream_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, stream_iternext},
    {Py_tp_methods, stream_methods},
    {Py_tp_getset, stream_getset},
    {Py_tp_members, stream_members},
    {0, NULL},
};

PyType_Spec eg_stream_spec = {
    .name = "evergreen.io.stream.Stream",
    .basicsize = sizeof(EgStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = stream_slots,
};
