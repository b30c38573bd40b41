/* listener.c: accepting connections, and what making them stands on.
 *
 * A listening socket is a plain descriptor that a task waits for (fd.c), not a libuv handle:
 * when descriptors run out, libuv drops the connections that wait in the backlog, and a task
 * can wait; and the socket survives fork(), so servers can be forked before they serve.
 */
#include "evergreen.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

PyDoc_STRVAR(accept_fd_doc,
"accept_fd($module, fd, /)\n"
"--\n"
"\n"
"Wait for a connection to a listening, non-blocking socket; return its descriptor.");

static PyObject *
listener_accept_fd(PyObject *module, PyObject *arg)
{
    (void)module;
    int fd = (int)PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (eg_stream_turn() < 0)
        return NULL;
    for (;;) {
        int accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (accepted >= 0)
            return PyLong_FromLong(accepted);
        switch (errno) {
        case EAGAIN: {
            EgTask *me = eg_wait_begin();
            if (!me || eg_fd_wait(me, fd, EG_READ, EG_FOREVER, NULL) < 0)
                return NULL;
            continue;
        }
        case EINTR:
            if (PyErr_CheckSignals() < 0)
                return NULL;
            continue;
        /* accept(2): errors of the connection, which is gone; the next one may be well. */
        case ECONNABORTED:
        case ENETDOWN:
        case EPROTO:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case ENETUNREACH:
            continue;
        default:
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
}

PyDoc_STRVAR(forget_fd_doc,
"forget_fd($module, fd, close=False, /)\n"
"--\n"
"\n"
"Wake who waits for the descriptor with EBADF, wait for it no more, and close it if told to.");

static PyObject *
listener_forget_fd(PyObject *module, PyObject *args)
{
    int fd, shut = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "i|p:forget_fd", &fd, &shut))
        return NULL;
    eg_fd_closing(fd);
    if (shut && close(fd) < 0 && errno != EINTR)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wait_fds_doc,
"wait_fds($module, fds, events, timeout=None, /)\n"
"--\n"
"\n"
"Wait until one of several descriptors is ready, as wait_fd() does for one.");

static const EgWaitKind listener_connect_kind = {"connect", NULL};

static PyObject *
listener_wait_fds(PyObject *module, PyObject *args)
{
    PyObject *given, *list, *timeout = Py_None, *result = NULL;
    int event;
    uint64_t deadline;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!i|O:wait_fds", &PyList_Type, &given, &event, &timeout)
        || eg_clock_deadline(timeout, &deadline) < 0
        || !(list = PyList_AsTuple(given))) /* which could change meanwhile */
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(list);
    int *fds = PyMem_New(int, n + 1), *events = PyMem_New(int, n + 1);
    if (!fds || !events) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        fds[i] = (int)PyLong_AsLong(PyTuple_GET_ITEM(list, i));
        events[i] = event;
        if (PyErr_Occurred())
            goto done;
    }
    EgTask *me = eg_wait_begin();
    int status = me ? eg_fd_wait_many(me, n, fds, events, &listener_connect_kind, deadline) : -1;
    if (status >= 0)
        result = PyBool_FromLong(status);
done:
    PyMem_Free(fds);
    PyMem_Free(events);
    Py_DECREF(list);
    return result;
}

PyMethodDef eg_listener_functions[] = {
    {"accept_fd", listener_accept_fd, METH_O, accept_fd_doc},
    {"forget_fd", listener_forget_fd, METH_VARARGS, forget_fd_doc},
    {"wait_fds", listener_wait_fds, METH_VARARGS, wait_fds_doc},
    {"uv_raise", eg_error_raise_status, METH_O,
     PyDoc_STR("uv_raise($module, status, /)\n--\n\nRaise the exception of a libuv status.")},
    {"uv_errors", eg_error_list, METH_NOARGS,
     PyDoc_STR("uv_errors($module, /)\n--\n\n"
               "Return [(name, number, text)] of all errors that libuv knows.")},
    {NULL, NULL, 0, NULL},
};
