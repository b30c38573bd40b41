/* udp.c: sockets for datagrams.
 *
 * A datagram is sent or received by one system call, tried at once; the task parks (fd.c) when
 * the kernel says EAGAIN.  So nothing is queued here: what is not received waits in the
 * kernel, which drops what it has no room for, as is UDP's way.
 */
#include "evergreen.h"

#include <errno.h>
#include <structmember.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATAGRAM_MAX 65536
#define BATCH 16  /* datagrams in one recvmmsg(2) */
#define PEERS 256 /* that are remembered: one for each rest of a port number */

/* Somebody who has sent something: most do so again, or are answered. */
typedef struct {
    struct sockaddr_in6 address; /* or a sockaddr_in */
    PyObject *name;              /* strong: the tuple that Python has for it */
} EgPeer;

typedef struct {
    PyObject_HEAD
    int fd; /* -1: not opened yet, or closed */
    bool closed;
    EgPeer **peers;     /* from the heap, as they are; NULL: none was heard yet */
    const EgPeer *last; /* borrowed from these: who sent last */
    PyObject *weakrefs;
} EgUdp;

/* Received into under the GIL, by calls that do not block, for all endpoints: nothing but bytes
 * objects is made before all of it is copied, since the collector may run Python. */
static char udp_scratch[BATCH][DATAGRAM_MAX];

/* ---- errors and waiting ---------------------------------------------------------------- */
static void
udp_raise(EgUdp *self, int error)
{
    eg_error_raise_as((PyObject *)self, -error, NULL);
}

static int
udp_check(EgUdp *self)
{
    if (!self->closed)
        return 0;
    eg_error_raise_as((PyObject *)self, UV_EBADF, "endpoint is closed");
    return -1;
}

/* A system call has failed with errno: 0: try again; -1: exception. */
static int
udp_retry(EgUdp *self, int event)
{
    if (errno == EINTR)
        return PyErr_CheckSignals();
    if (errno != EAGAIN) {
        udp_raise(self, errno);
        return -1;
    }
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    if (eg_fd_wait(me, self->fd, event, EG_FOREVER, self) < 0) {
        if (self->closed && PyErr_ExceptionMatches(PyExc_OSError)) {
            PyErr_Clear(); /* EBADF, in our words */
            udp_check(self);
        }
        return -1;
    }
    return udp_check(self);
}

/* ---- opening ---------------------------------------------------------------------------------- */
PyDoc_STRVAR(udp_open_doc,
"_open($self, family, /)\n"
"--\n"
"\n"
"Make its socket, unless it has one; return the descriptor.");

static int
udp_make(EgUdp *self, int family)
{
    if (udp_check(self) < 0)
        return -1;
    if (self->fd < 0
        && (self->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) {
        udp_raise(self, errno);
        return -1;
    }
    return 0;
}

static PyObject *
udp_open(PyObject *op, PyObject *arg)
{
    long family = PyLong_AsLong(arg);
    if ((family == -1 && PyErr_Occurred()) || udp_make((EgUdp *)op, (int)family) < 0)
        return NULL;
    return PyLong_FromLong(((EgUdp *)op)->fd);
}

/* A numeric address, or a name that the subclass's _resolve() turns into one. */
static int
udp_address(EgUdp *self, PyObject *arg, struct sockaddr_storage *address)
{
    if (eg_address_parse(arg, address) == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_TypeError))
        return -1;
    PyErr_Clear(); /* a name, or a service's; else _resolve() says what is wrong */
    PyObject *numeric = PyObject_CallMethod((PyObject *)self, "_resolve", "(O)", arg);
    int status = numeric ? eg_address_parse(numeric, address) : -1;
    Py_XDECREF(numeric);
    return status;
}

static socklen_t
udp_size(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(struct sockaddr_in);
}

/* The tuple for the address of a sender; new. */
static PyObject *
udp_peer(EgUdp *self, const struct sockaddr_storage *address)
{
    const struct sockaddr_in *in =
        (const struct sockaddr_in *)address; /* the port's place is one */
    if (!self->peers && !(self->peers = PyMem_Calloc(PEERS, sizeof *self->peers)))
        return PyErr_NoMemory();
    EgPeer **slot = &self->peers[ntohs(in->sin_port) % PEERS];
    if (!*slot || memcmp(&(*slot)->address, address, udp_size(address)) != 0) {
        PyObject *name = eg_address_make((const struct sockaddr *)address);
        if (!name || (!*slot && !(*slot = PyMem_Calloc(1, sizeof **slot)))) {
            Py_XDECREF(name);
            return name ? PyErr_NoMemory() : NULL;
        }
        memcpy(&(*slot)->address, address, sizeof(*slot)->address);
        Py_XSETREF((*slot)->name, name);
    }
    self->last = *slot;
    return Py_NewRef((*slot)->name);
}

static void
udp_forget_peers(EgUdp *self)
{
    self->last = NULL;
    for (int i = 0; self->peers && i < PEERS; i++)
        if (self->peers[i]) {
            Py_DECREF(self->peers[i]->name);
            PyMem_Free(self->peers[i]);
        }
    PyMem_Free(self->peers);
    self->peers = NULL;
}

/* ---- sending ---------------------------------------------------------------------------------- */
PyDoc_STRVAR(udp_send_doc,
"send($self, data, addr=None, /)\n"
"--\n"
"\n"
"Send a datagram to addr, (host, port), or to the connected peer; wait while the kernel has no\n"
"room for it. OSError EMSGSIZE: it is too large.");

static PyObject *
udp_send(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    EgUdp *self = (EgUdp *)op;
    struct sockaddr_storage address;
    Py_buffer view;
    if (nargs < 1 || nargs > 2)
        return PyErr_Format(PyExc_TypeError, "send() takes 1 or 2 arguments (%zd given)", nargs);
    PyObject *target = nargs > 1 ? args[1] : Py_None;
    if (udp_check(self) < 0 || eg_wait_check() < 0)
        return NULL;
    if (self->last && target == self->last->name)
        memcpy(&address, &self->last->address, sizeof self->last->address);
    else if (target != Py_None
             && (udp_address(self, target, &address) < 0 || udp_make(self, address.ss_family) < 0))
        return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    ssize_t n = -1;
    if (udp_check(self) < 0) /* a name was looked up, or Python was run for the buffer */
        goto done;
    if (self->fd < 0) {
        udp_raise(self, EDESTADDRREQ);
        goto done;
    }
    do {
        n = sendto(self->fd, view.buf, (size_t)view.len, MSG_DONTWAIT,
                   target == Py_None ? NULL : (struct sockaddr *)&address,
                   target == Py_None ? 0 : udp_size(&address));
    } while (n < 0 && udp_retry(self, EG_WRITE) == 0);
done:
    PyBuffer_Release(&view);
    if (n < 0 || (eg_hub_here && eg_hub_slice_is_over(eg_hub_here) && eg_wait_give_way() < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* ---- receiving -------------------------------------------------------------------------------- */
static int
udp_begin_receive(EgUdp *self)
{
    if (self->fd < 0) {
        struct sockaddr_in any = {.sin_family = AF_INET};
        if (udp_make(self, AF_INET) < 0)
            return -1;
        if (bind(self->fd, (struct sockaddr *)&any, sizeof any) < 0) {
            udp_raise(self, errno);
            return -1;
        }
    }
    return udp_check(self) < 0 || eg_stream_turn() < 0 ? -1 : 0;
}

/* Steals bytes, which may be NULL: exception. */
static PyObject *
udp_datagram(EgUdp *self, PyObject *bytes, const struct sockaddr_storage *address)
{
    PyObject *from = bytes ? udp_peer(self, address) : NULL;
    PyObject *pair = from ? PyTuple_New(2) : NULL;
    if (!pair) {
        Py_XDECREF(bytes);
        Py_XDECREF(from);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, bytes);
    PyTuple_SET_ITEM(pair, 1, from);
    return pair;
}

PyDoc_STRVAR(udp_receive_doc,
"receive($self, /)\n"
"--\n"
"\n"
"Wait for a datagram; return (data, address of the sender).\n"
"\n"
"A connected endpoint raises ConnectionRefusedError if the peer's host says that nobody is there.");

static PyObject *
udp_receive(PyObject *op, PyObject *unused)
{
    EgUdp *self = (EgUdp *)op;
    (void)unused;
    if (udp_begin_receive(self) < 0)
        return NULL;
    for (;;) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        ssize_t n = recvfrom(self->fd, udp_scratch[0], DATAGRAM_MAX, MSG_DONTWAIT,
                             (struct sockaddr *)&address, &size);
        if (n >= 0)
            return udp_datagram(self, PyBytes_FromStringAndSize(udp_scratch[0], n), &address);
        if (udp_retry(self, EG_READ) < 0)
            return NULL;
    }
}

/* What one recvmmsg(2) has received. */
typedef struct {
    struct sockaddr_storage from[BATCH];
    PyObject *bytes[BATCH]; /* strong; NULL: there was no memory */
} EgMail;

/* How many datagrams, or -1 with errno. */
static int
udp_receive_batch(int fd, EgMail *mail)
{
    struct iovec pieces[BATCH];
    struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){udp_scratch[i], DATAGRAM_MAX};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &mail->from[i],
                                              .msg_namelen = sizeof mail->from[i],
                                              .msg_iov = &pieces[i],
                                              .msg_iovlen = 1};
    }
    int n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++)
        mail->bytes[i] = PyBytes_FromStringAndSize(udp_scratch[i], messages[i].msg_len);
    return n;
}

static PyObject *
udp_list(EgUdp *self, EgMail *mail, int n)
{
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    for (int i = 0; i < n; i++) {
        PyObject *datagram = list ? udp_datagram(self, mail->bytes[i], &mail->from[i]) : NULL;
        if (!list)
            Py_XDECREF(mail->bytes[i]);
        else if (!datagram || PyList_Append(list, datagram) < 0)
            Py_CLEAR(list);
        Py_XDECREF(datagram);
    }
    return list;
}

PyDoc_STRVAR(udp_receive_many_doc,
"receive_many($self, /)\n"
"--\n"
"\n"
"Wait for a datagram; return a list of it and of those that came with it, up to 16, received by\n"
"one system call (recvmmsg(2)): [(data, address), ...].");

static PyObject *
udp_receive_many(PyObject *op, PyObject *unused)
{
    EgUdp *self = (EgUdp *)op;
    (void)unused;
    if (udp_begin_receive(self) < 0)
        return NULL;
    int n;
    EgMail *mail = PyMem_Malloc(sizeof *mail); /* not on the stack, which a wait copies away */
    if (!mail)
        return PyErr_NoMemory();
    while ((n = udp_receive_batch(self->fd, mail)) < 0)
        if (udp_retry(self, EG_READ) < 0)
            break;
    PyObject *list = n < 0 ? NULL : udp_list(self, mail, n);
    PyMem_Free(mail);
    return list;
}

/* ---- closing -------------------------------------------------------------------------------------- */
static void
udp_shut(EgUdp *self)
{
    int fd = self->fd;
    self->closed = true;
    self->fd = -1;
    if (fd >= 0) {
        eg_fd_closing(fd);
        close(fd); /* on Linux it is closed whatever this returns */
    }
}

PyDoc_STRVAR(udp_close_doc,
"close($self, /)\n"
"--\n"
"\n"
"Close the endpoint; tasks that wait for it get an OSError EBADF. Harmless if it is closed.");

static PyObject *
udp_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    udp_shut((EgUdp *)op);
    Py_RETURN_NONE;
}

static PyObject *
udp_get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgUdp *)op)->closed);
}

static PyObject *
udp_fileno(PyObject *op, PyObject *unused)
{
    (void)unused;
    if (udp_check((EgUdp *)op) < 0)
        return NULL;
    return PyLong_FromLong(((EgUdp *)op)->fd);
}

static PyObject *
udp_repr(PyObject *op)
{
    EgUdp *self = (EgUdp *)op;
    if (self->fd >= 0)
        return PyUnicode_FromFormat("<%s fd=%d at %p>", Py_TYPE(op)->tp_name, self->fd, op);
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(op)->tp_name,
                                self->closed ? "closed" : "not open", op);
}

/* ---- the type --------------------------------------------------------------------------------------- */
static PyObject *
udp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args; /* a subclass's __init__() takes them */
    (void)kwargs;
    EgUdp *self = (EgUdp *)type->tp_alloc(type, 0);
    if (self)
        self->fd = -1;
    return (PyObject *)self;
}

static void
udp_finalize(PyObject *op)
{
    PyObject *type, *value, *traceback;
    if (((EgUdp *)op)->fd < 0)
        return;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyErr_ResourceWarning(op, 1, "unclosed %R", op) < 0
        && PyErr_ExceptionMatches(PyExc_Warning))
        PyErr_WriteUnraisable(op);
    PyErr_Restore(type, value, traceback);
}

static int
udp_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
udp_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0)
        return; /* it lives on */
    PyObject_GC_UnTrack(op);
    if (((EgUdp *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    udp_shut((EgUdp *)op);
    udp_forget_peers((EgUdp *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef udp_methods[] = {
    {"_open", udp_open, METH_O, udp_open_doc},
    {"send", EG_METHOD(udp_send), METH_FASTCALL, udp_send_doc},
    {"receive", udp_receive, METH_NOARGS, udp_receive_doc},
    {"receive_many", udp_receive_many, METH_NOARGS, udp_receive_many_doc},
    {"close", udp_close, METH_NOARGS, udp_close_doc},
    {"fileno", udp_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self, /)\n--\n\nReturn the descriptor; -1: there is none yet.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef udp_getset[] = {
    {"closed", udp_get_closed, NULL, PyDoc_STR("Whether it was closed."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef udp_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgUdp, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot udp_slots[] = {
    {Py_tp_doc, (void *)"A socket for datagrams."},
    {Py_tp_new, udp_new},
    {Py_tp_finalize, udp_finalize},
    {Py_tp_traverse, udp_traverse},
    {Py_tp_dealloc, udp_dealloc},
    {Py_tp_repr, udp_repr},
    {Py_tp_methods, udp_methods},
    {Py_tp_getset, udp_getset},
    {Py_tp_members, udp_members},
    {0, NULL},
};

PyType_Spec eg_udp_spec = {
    .name = "evergreen._evergreen_c.UDPSocket",
    .basicsize = sizeof(EgUdp),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = udp_slots,
};
