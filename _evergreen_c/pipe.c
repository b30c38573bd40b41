/* pipe.c: streams over Unix sockets and pipes; over sockets, descriptors travel along. */
#include "evergreen.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define FDS_MAX 64 /* in one message: what libuv has room for */

/* ---- names -------------------------------------------------------------------------- */
static PyObject *
pipe_name(PyObject *op, int (*ask)(const uv_pipe_t *, char *, size_t *))
{
    char name[512];
    size_t size = sizeof name;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = ask(&wire->uv.pipe, name, &size);
    if (status < 0)
        return eg_stream_raise((EgStream *)op, status);
    if (size && name[0] == '\0') /* Linux's abstract names: bytes, as in the socket module */
        return PyBytes_FromStringAndSize(name, (Py_ssize_t)size);
    return PyUnicode_DecodeFSDefaultAndSize(name, (Py_ssize_t)size);
}

static PyObject *
pipe_get_sockname(PyObject *op, void *unused)
{
    (void)unused;
    return pipe_name(op, uv_pipe_getsockname);
}

static PyObject *
pipe_get_peername(PyObject *op, void *unused)
{
    (void)unused;
    return pipe_name(op, uv_pipe_getpeername);
}

/* ---- descriptors --------------------------------------------------------------------------- */
/* One sendmsg(2) with descriptors: the bytes that went with them; -1: exception. */
static ssize_t
pipe_send_message(EgStream *self, struct msghdr *message)
{
    for (;;) {
        EgWire *wire = eg_stream_wire(self);
        uv_os_fd_t fd;
        if (!wire)
            return -1;
        int known = uv_fileno(&wire->uv.handle, &fd);
        if (known < 0) {
            eg_stream_raise(self, known);
            return -1;
        }
        ssize_t n = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0)
            return n;
        if (errno == EINTR) {
            if (PyErr_CheckSignals() < 0)
                return -1;
            continue;
        }
        if (errno != EAGAIN) {
            eg_stream_raise(self, -errno);
            return -1;
        }
        EgTask *me = eg_wait_begin();
        if (!me)
            return -1;
        int status = eg_fd_wait(me, fd, EG_WRITE, EG_FOREVER, NULL);
        if (self->wire)
            eg_fd_closing(fd); /* libuv watches it; once is enough */
        if (status < 0)
            return -1;
    }
}

PyDoc_STRVAR(pipe_send_fds_doc,
"send_fds($self, data, fds, /)\n"
"--\n"
"\n"
"Send data, at least a byte, and copies of up to 64 descriptors with its first byte (unix(7),\n"
"SCM_RIGHTS), after everything that was written before.");

static PyObject *
pipe_send_fds(PyObject *op, PyObject *args)
{
    EgStream *self = (EgStream *)op;
    PyObject *data, *list, *fds = NULL, *result = NULL;
    Py_buffer view;
    struct msghdr *message = NULL;
    if (!PyArg_ParseTuple(args, "OO:send_fds", &data, &list)
        || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (!(fds = eg_parse_tuple(list, "fds must be a sequence of descriptors")))
        goto done;
    Py_ssize_t n = PyTuple_GET_SIZE(fds);
    if (n < 1 || n > FDS_MAX || view.len == 0) {
        PyErr_SetString(PyExc_ValueError, view.len ? "send_fds() takes 1 to 64 descriptors"
                                                   : "descriptors need at least a byte of data");
        goto done;
    }
    /* On the heap: a wait copies this stack away. */
    size_t space = CMSG_SPACE(sizeof(int) * (size_t)n);
    if (!(message = PyMem_Calloc(1, sizeof *message + sizeof(struct iovec) + space))) {
        PyErr_NoMemory();
        goto done;
    }
    message->msg_iov = (struct iovec *)(message + 1);
    message->msg_iov->iov_base = view.buf;
    message->msg_iov->iov_len = (size_t)view.len;
    message->msg_iovlen = 1;
    message->msg_control = message->msg_iov + 1;
    message->msg_controllen = space;
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n);
    for (Py_ssize_t i = 0; i < n; i++) {
        int fd = PyObject_AsFileDescriptor(PyTuple_GET_ITEM(fds, i));
        if (fd < 0)
            goto done;
        memcpy(CMSG_DATA(header) + sizeof fd * (size_t)i, &fd, sizeof fd);
    }
    if (eg_stream_flush(self) < 0)
        goto done;
    ssize_t sent = pipe_send_message(self, message);
    if (sent < 0)
        goto done;
    PyObject *rest = PyBytes_FromStringAndSize((char *)view.buf + sent, view.len - sent);
    result = rest ? PyObject_CallMethod(op, "write", "O", rest) : NULL;
    Py_XDECREF(rest);
done:
    PyMem_Free(message);
    Py_XDECREF(fds);
    PyBuffer_Release(&view);
    return result;
}

PyDoc_STRVAR(pipe_recv_fds_doc,
"recv_fds($self, n, maxfds, /)\n"
"--\n"
"\n"
"Return (data, fds): up to n bytes, and up to maxfds descriptors that have come, in order; wait\n"
"while there is neither. The stream must have been opened with ipc=True, and the descriptors\n"
"are the caller's to close. (b\"\", []) at the end.");

static PyObject *
pipe_recv_fds(PyObject *op, PyObject *args)
{
    EgStream *self = (EgStream *)op;
    Py_ssize_t n;
    int max;
    if (!PyArg_ParseTuple(args, "ni:recv_fds", &n, &max))
        return NULL;
    if (n < 1 || max < 1) {
        PyErr_SetString(PyExc_ValueError, "n and maxfds must be positive");
        return NULL;
    }
    EgWire *wire = eg_stream_wire(self);
    if (!wire)
        return NULL;
    if (wire->kind != EG_IPC) {
        PyErr_SetString(PyExc_ValueError, "the stream was not opened with ipc=True");
        return NULL;
    }
    PyObject *data = eg_stream_receive(self, (size_t)n, true);
    PyObject *fds = data ? PyList_New(0) : NULL; /* may run Python, which may close the stream */
    if (fds && !(wire = eg_stream_wire(self)))
        Py_CLEAR(fds);
    int taken = 0;
    for (; fds && taken < wire->nfds && taken < max; taken++) {
        PyObject *fd = PyLong_FromLong(wire->fds[taken]);
        if (!fd || PyList_Append(fds, fd) < 0)
            Py_CLEAR(fds);
        Py_XDECREF(fd);
    }
    if (!fds) {
        Py_XDECREF(data);
        return NULL;
    }
    wire->nfds -= taken;
    if (wire->nfds)
        memmove(wire->fds, wire->fds + taken, sizeof *wire->fds * (size_t)wire->nfds);
    return Py_BuildValue("(NN)", data, fds);
}

/* ---- the type --------------------------------------------------------------------------------- */
PyDoc_STRVAR(pipe_attach_doc,
"_attach($self, fd, ipc=False, /)\n"
"--\n"
"\n"
"Take over the descriptor of a connected Unix socket, or of a pipe.");

static PyObject *
pipe_attach(PyObject *op, PyObject *args)
{
    int fd, ipc = 0;
    if (!PyArg_ParseTuple(args, "i|p:_attach", &fd, &ipc)
        || eg_stream_attach((EgStream *)op, ipc ? EG_IPC : EG_PIPE, fd) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef pipe_methods[] = {
    {"send_fds", pipe_send_fds, METH_VARARGS, pipe_send_fds_doc},
    {"recv_fds", pipe_recv_fds, METH_VARARGS, pipe_recv_fds_doc},
    {"_attach", pipe_attach, METH_VARARGS, pipe_attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef pipe_getset[] = {
    {"sockname", pipe_get_sockname, NULL,
     PyDoc_STR("The path that its socket is bound to; \"\" for none."), NULL},
    {"peername", pipe_get_peername, NULL, PyDoc_STR("The path of the peer's socket."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot pipe_slots[] = {
    {Py_tp_doc, (void *)"A stream over a Unix socket or a pipe."},
    {Py_tp_methods, pipe_methods},
    {Py_tp_getset, pipe_getset},
    {0, NULL},
};

PyType_Spec eg_pipe_spec = {
    .name = "evergreen._evergreen_c._PipeStream",
    .basicsize = sizeof(EgStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pipe_slots,
};
