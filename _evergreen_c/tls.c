/* tls.c: a message of TLS, in and out: what evergreen.io.tls.TLSStream does for each of them.
 *
 * Handshakes, ends, errors and messages that are read in other ways than read(n) are the
 * business of that class, in Python; here is what has to be quick.  TLS is the standard
 * library's, between memory buffers (ssl.MemoryBIO): this calls its methods and those of the
 * stream beneath, which may be any object that is one.
 *
 * It decrypts only when something is there to be decrypted: to be told by an exception that
 * nothing was costs more than the message.
 */
#include "evergreen.h"

#include <structmember.h>

#define RECORD 16384     /* bytes: the most that is encrypted at once (RFC 8446, 5.1) */
#define CIPHERTEXT 65536 /* bytes that are received at a time */

typedef struct {
    PyObject_HEAD
    PyObject *stream;                      /* strong, as all of these; beneath */
    PyObject *incoming, *outgoing;         /* ssl.MemoryBIO */
    PyObject *decrypt, *encrypt, *pending; /* methods of the standard library's TLS object */
    PyObject *reading, *receiving;         /* locks: of a read, and of receiving for anybody */
    PyObject *plain;                       /* bytearray: decrypted, and not read yet */
    bool ready;                            /* the handshake is done */
    bool ended;                            /* nothing more can be read */
    bool shut;                             /* our close_notify was sent */
    bool drained; /* of the record that was decrypted last nothing is left */
} EgTls;

enum {
    ACQUIRE,
    RELEASE,
    READ,
    WRITE,
    WRITE_EOF,
    PENDING,
    CLOSED,
    MET,
    SLOW_READ,
    READ_IN_TURN,
    SLOW_WRITE,
    NAMES
};
static PyObject *tls_names[NAMES]; /* strong, for good */
static PyObject *tls_ciphertext;   /* likewise: CIPHERTEXT */

#define CALL(object, name) tls_call(object, tls_names[name], NULL)
#define CALL1(object, name, arg) tls_call(object, tls_names[name], arg)

/* ---- the parts -------------------------------------------------------------------------- */
/* A member, new: what is called may replace or delete it. NULL: exception, it was never set. */
static PyObject *
tls_hold(PyObject *member)
{
    if (!member)
        PyErr_SetString(PyExc_AttributeError, "this TLS stream has not been initialized");
    return Py_XNewRef(member);
}

/* object.name(arg), or without arg: NULL. */
static PyObject *
tls_call(PyObject *object, PyObject *name, PyObject *arg)
{
    if (!(object = tls_hold(object)))
        return NULL;
    PyObject *result = arg ? PyObject_CallMethodOneArg(object, name, arg)
                           : PyObject_CallMethodNoArgs(object, name);
    Py_DECREF(object);
    return result;
}

/* function(arg), as tls_call(). */
static PyObject *
tls_call_function(PyObject *function, PyObject *arg)
{
    if (!(function = tls_hold(function)))
        return NULL;
    PyObject *result = arg ? PyObject_CallOneArg(function, arg) : PyObject_CallNoArgs(function);
    Py_DECREF(function);
    return result;
}

/* A call whose result is not looked at. */
static int
tls_done(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* The number that is in result, which is stolen; -1: exception. */
static Py_ssize_t
tls_number(PyObject *result)
{
    Py_ssize_t n = result ? PyLong_AsSsize_t(result) : -1;
    Py_XDECREF(result);
    return n;
}

static Py_ssize_t
tls_waiting(PyObject *bio)
{
    if (!(bio = tls_hold(bio)))
        return -1;
    Py_ssize_t n = tls_number(PyObject_GetAttr(bio, tls_names[PENDING]));
    Py_DECREF(bio);
    return n;
}

/* Release a lock; an exception that is set stays so. */
static int
tls_release(PyObject *lock)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int status = tls_done(CALL(lock, RELEASE));
    if (type)
        PyErr_Restore(type, value, traceback);
    return status;
}

PyDoc_STRVAR(tls_send_doc,
"_send($self, method='write', /)\n"
"--\n"
"\n"
"Hand what TLS has to say to this method of the stream beneath; return what that returns, or True\n"
"if there is nothing.");

/* A peer takes records in their order alone: no other task runs between taking them out and
 * writing them, so no bytecode does, nor an object is made that the collector tracks. */
static PyObject *
tls_send(EgTls *self, PyObject *method)
{
    Py_ssize_t n = tls_waiting(self->outgoing);
    if (n <= 0)
        return n < 0 ? NULL : Py_NewRef(Py_True);
    PyObject *records = CALL(self->outgoing, READ);
    PyObject *sent = records ? tls_call(self->stream, method, records) : NULL;
    Py_XDECREF(records);
    return sent;
}

static PyObject *
tls_send_method(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    return tls_send((EgTls *)op, n ? args[0] : tls_names[WRITE]);
}

/* Give TLS more of what the peer sent, or its end, as TLSStream._receive() does; how much there
 * is then, or -1. */
static Py_ssize_t
tls_receive(EgTls *self)
{
    PyObject *lock = tls_hold(self->receiving);
    if (!lock || tls_done(CALL(lock, ACQUIRE)) < 0) {
        Py_XDECREF(lock);
        return -1;
    }
    Py_ssize_t n = tls_waiting(self->incoming); /* another task did it meanwhile */
    PyObject *data = n == 0 ? CALL1(self->stream, READ, tls_ciphertext) : NULL;
    if (n == 0)
        n = data ? PyObject_Size(data) : -1;
    if (data && n >= 0
        && tls_done(n ? CALL1(self->incoming, WRITE, data) : CALL(self->incoming, WRITE_EOF)) < 0)
        n = -1;
    Py_XDECREF(data);
    if (tls_release(lock) < 0)
        n = -1;
    Py_DECREF(lock);
    return n;
}

/* How much there may be to decrypt; 0: nothing. */
static Py_ssize_t
tls_held(EgTls *self)
{
    Py_ssize_t n = tls_waiting(self->incoming);
    return n || self->drained ? n : tls_number(tls_call_function(self->pending, NULL));
}

/* A step of TLS has raised: 1: try again; 0: it is the end; -1: exception. */
static int
tls_met(EgTls *self)
{
    PyObject *exc = eg_task_take_exception();
    PyObject *again = exc ? CALL1((PyObject *)self, MET, exc) : NULL;
    int status = again ? PyObject_IsTrue(again) : -1;
    Py_XDECREF(again);
    Py_XDECREF(exc);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------ */
/* A bytes object of up to that many bytes. */
static PyObject *
tls_decrypt(EgTls *self, PyObject *number)
{
    PyObject *data = tls_call_function(self->decrypt, number);
    if (data && !PyBytes_Check(data)) {
        PyErr_Format(PyExc_TypeError, "TLS gave %.100s, not bytes", Py_TYPE(data)->tp_name);
        Py_CLEAR(data);
    }
    return data;
}

/* 1: nothing was decrypted that has not been read; 0: something; -1: exception. */
static int
tls_plain_is_empty(EgTls *self)
{
    PyObject *plain = tls_hold(self->plain);
    Py_ssize_t n = plain ? PyObject_Size(plain) : -1;
    Py_XDECREF(plain);
    return n < 0 ? -1 : n == 0;
}

/* What there is of the next record, up to n bytes; b"" at the end. */
static PyObject *
tls_read_some(EgTls *self, Py_ssize_t n)
{
    PyObject *data = NULL;
    int again = 1;
    while (!data && again > 0) {
        Py_ssize_t held = tls_held(self);
        if (held == 0)
            held = tls_receive(self);
        if (held < 0)
            return NULL;
        /* Its bytes object is made as large as is asked for: no larger than what can come. */
        Py_ssize_t size = Py_MIN(Py_MIN(n, RECORD), Py_MAX(held, 64));
        PyObject *number = PyLong_FromSsize_t(size);
        if (!number)
            return NULL;
        data = tls_decrypt(self, number);
        Py_DECREF(number);
        again = data ? 1 : tls_met(self);
        if (data && PyBytes_GET_SIZE(data) == 0 && !self->ended) { /* 3.11.2 says so of any end */
            PyObject *done = PyObject_CallMethod((PyObject *)self, "_check_end", NULL);
            if (!done)
                Py_CLEAR(data);
            again = done ? 1 : -1;
            Py_XDECREF(done);
        }
        self->drained = data && PyBytes_GET_SIZE(data) < size; /* there was no more of the record */
    }
    if (again < 0 || (!data && !(data = PyBytes_FromStringAndSize(NULL, 0))))
        return NULL;
    if (PyBytes_GET_SIZE(data) == 0)
        self->ended = true;
    if (tls_done(tls_send(self, tls_names[WRITE]))
        < 0) /* an answer to the peer, such as a key update's */
        Py_CLEAR(data);
    return data;
}

/* The Python method's part of a read. */
static PyObject *
tls_read_slowly(EgTls *self, int name, Py_ssize_t n)
{
    PyObject *number = PyLong_FromSsize_t(n);
    PyObject *result = number ? CALL1((PyObject *)self, name, number) : NULL;
    Py_XDECREF(number);
    return result;
}

PyDoc_STRVAR(tls_read_doc,
"read($self, n=-1, /)\n"
"--\n"
"\n"
"Return up to n bytes: what has come in, waiting only while that is nothing.\n"
"\n"
"b\"\" means that the peer has ended its side. Without n, or if it is negative, return all that\n"
"comes until then; OSError EMSGSIZE if that is more than 100 MiB.");

static PyObject *
tls_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    EgTls *self = (EgTls *)op;
    Py_ssize_t n = -1;
    if (nargs > 1)
        return PyErr_Format(PyExc_TypeError, "read() takes at most 1 argument (%zd given)", nargs);
    if (nargs && args[0] != Py_None) {
        n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
        if (n == -1 && PyErr_Occurred())
            return NULL;
    }
    if (!self->ready || self->ended || n <= 0)
        return tls_read_slowly(self, SLOW_READ, n);
    int empty = tls_plain_is_empty(self);
    if (empty <= 0)
        return empty < 0 ? NULL : tls_read_slowly(self, SLOW_READ, n);
    PyObject *result = NULL, *lock = tls_hold(self->reading);
    if (!lock || tls_done(CALL(lock, ACQUIRE)) < 0)
        goto done;
    /* The read that this one may have waited for can have left something, or met the end. */
    empty = self->ended ? 0 : tls_plain_is_empty(self);
    if (empty >= 0)
        result = empty ? tls_read_some(self, n) : tls_read_slowly(self, READ_IN_TURN, n);
    if (tls_release(lock) < 0)
        Py_CLEAR(result);
done:
    Py_XDECREF(lock);
    return result;
}

/* ---- writing ------------------------------------------------------------------------------- */
PyDoc_STRVAR(tls_write_doc,
"write($self, data, /)\n"
"--\n"
"\n"
"Encrypt and write bytes, waiting while too much is unsent.\n"
"\n"
"Return True if the kernel has taken everything, False if some is still to be sent.");

static PyObject *
tls_write(PyObject *op, PyObject *data)
{
    EgTls *self = (EgTls *)op;
    Py_ssize_t size = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) : 0;
    if (!self->ready || self->shut || size == 0 || size > RECORD)
        return CALL1(op, SLOW_WRITE, data);
    PyObject *stream = tls_hold(self->stream);
    PyObject *closed = stream ? PyObject_GetAttr(stream, tls_names[CLOSED]) : NULL;
    Py_XDECREF(stream);
    int is_closed = closed ? PyObject_IsTrue(closed) : -1;
    Py_XDECREF(closed);
    if (is_closed)
        return is_closed < 0 ? NULL : CALL1(op, SLOW_WRITE, data);
    PyObject *taken = NULL;
    for (int again = 1; !taken;) {
        if (again <= 0)
            return again < 0 ? NULL : CALL1(op, SLOW_WRITE, data);
        if (!(taken = tls_call_function(self->encrypt, data)))
            again = tls_met(self);
    }
    Py_ssize_t n = tls_number(taken);
    if (n < 0)
        return NULL;
    PyObject *rest = NULL, *result = tls_send(self, tls_names[WRITE]);
    if (result && n < size) {
        rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + n, size - n);
        Py_SETREF(result, rest ? CALL1(op, SLOW_WRITE, rest) : NULL); /* its records are smaller */
    }
    Py_XDECREF(rest);
    return result;
}

/* ---- the type ------------------------------------------------------------------------------- */
static int
tls_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgTls *self = (EgTls *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->stream);
    Py_VISIT(self->incoming);
    Py_VISIT(self->outgoing);
    Py_VISIT(self->decrypt);
    Py_VISIT(self->encrypt);
    Py_VISIT(self->pending);
    Py_VISIT(self->reading);
    Py_VISIT(self->receiving);
    Py_VISIT(self->plain);
    return 0;
}

static int
tls_clear(PyObject *op)
{
    EgTls *self = (EgTls *)op;
    Py_CLEAR(self->stream);
    Py_CLEAR(self->incoming);
    Py_CLEAR(self->outgoing);
    Py_CLEAR(self->decrypt);
    Py_CLEAR(self->encrypt);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->reading);
    Py_CLEAR(self->receiving);
    Py_CLEAR(self->plain);
    return 0;
}

static void
tls_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    tls_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef tls_methods[] = {
    {"read", EG_METHOD(tls_read), METH_FASTCALL, tls_read_doc},
    {"write", tls_write, METH_O, tls_write_doc},
    {"_send", EG_METHOD(tls_send_method), METH_FASTCALL, tls_send_doc},
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, kind) {"_" #name, kind, offsetof(EgTls, name), 0, NULL}

static PyMemberDef tls_members[] = {
    MEMBER(stream, T_OBJECT_EX),  MEMBER(incoming, T_OBJECT_EX),  MEMBER(outgoing, T_OBJECT_EX),
    MEMBER(decrypt, T_OBJECT_EX), MEMBER(encrypt, T_OBJECT_EX),   MEMBER(pending, T_OBJECT_EX),
    MEMBER(reading, T_OBJECT_EX), MEMBER(receiving, T_OBJECT_EX), MEMBER(plain, T_OBJECT_EX),
    MEMBER(ready, T_BOOL),        MEMBER(ended, T_BOOL),          MEMBER(shut, T_BOOL),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, (void *)"What is quick of a TLSStream, which sets all of its members."},
    {Py_tp_traverse, tls_traverse},
    {Py_tp_clear, tls_clear},
    {Py_tp_dealloc, tls_dealloc},
    {Py_tp_methods, tls_methods},
    {Py_tp_members, tls_members},
    {0, NULL},
};

PyType_Spec eg_tls_spec = {
    .name = "evergreen._evergreen_c._TLSMessages",
    .basicsize = sizeof(EgTls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = tls_slots,
};

int
eg_tls_setup(void)
{
    static const char *const names[NAMES] = {"acquire",   "release",       "read",   "write",
                                             "write_eof", "pending",       "closed", "_met",
                                             "_read",     "_read_in_turn", "_write"};
    for (int i = 0; i < NAMES; i++)
        if (!(tls_names[i] = PyUnicode_InternFromString(names[i])))
            return -1;
    return (tls_ciphertext = PyLong_FromLong(CIPHERTEXT)) ? 0 : -1;
}
