/* patch_ssl.c: TLS on sockets lets other tasks run.
 *
 * The original is called on a descriptor that is non-blocking for the moment of the call; it
 * then says what it waits for, and the task parks.  Nothing else is touched: contexts, socket
 * classes and objects over memory BIOs are the standard library's own.
 *
 * Loading the authorities of a context is parsing, not waiting: a native thread does that.
 *
 * A write that has been begun must be repeated with the same data, so a second task that
 * writes to the same connection waits until the first one is done.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>

EG_PATCH(ssl_do_handshake, "_ssl._SSLSocket", "do_handshake", "ssl");
EG_PATCH(ssl_read, "_ssl._SSLSocket", "read", "ssl");
EG_PATCH(ssl_write, "_ssl._SSLSocket", "write", "ssl");
EG_PATCH(ssl_shutdown, "_ssl._SSLSocket", "shutdown", "ssl");

static PyObject *ssl_want_read, *ssl_want_write; /* the exceptions; strong once known */

/* ---- one operation --------------------------------------------------------------- */
typedef struct {
    const EgPatch *patch;
    PyObject *self;   /* borrowed from the caller */
    PyObject *socket; /* strong: the socket object over it */
    EgSocketView view;
    const char *late; /* what the TimeoutError says */
} SslCall;

static int
ssl_find_exceptions(void)
{
    if (ssl_want_write)
        return 0;
    PyObject *module = PyImport_ImportModule("_ssl");
    if (module && !ssl_want_read)
        ssl_want_read = PyObject_GetAttrString(module, "SSLWantReadError");
    if (module && ssl_want_read)
        ssl_want_write = PyObject_GetAttrString(module, "SSLWantWriteError");
    Py_XDECREF(module);
    return ssl_want_write ? 0 : -1;
}

/* 1: go on; 0: call the original, for it does not wait; -1: exception. */
static int
ssl_begin(SslCall *call)
{
    if (!eg_hub_cooperates())
        return 0;
    if (ssl_find_exceptions() < 0)
        return -1;
    call->socket = PyObject_GetAttrString(call->self, "owner");
    if (!call->socket)
        return -1;
    if (!eg_socket_check(call->socket)) /* over a memory BIO */
        return 0;
    if (!eg_socket_look(call->socket, &call->view))
        return -1;
    return call->view.timeout != 0 && call->view.fd >= 0;
}

/* Call the original so that it does not wait. */
static PyObject *
ssl_try(SslCall *call, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgSocketView now;
    int fd = call->view.fd, flags = fcntl(fd, F_GETFL);
    bool changed =
        flags >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
    if (eg_socket_set_timeout(call->socket, 0) < 0)
        return NULL;
    PyObject *result = eg_patch_call_original(call->patch, call->self, args, n, kwnames);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (!eg_socket_look(call->socket, &now) || now.fd != fd)
        PyErr_Clear(); /* a callback has closed it */
    else {
        if (changed)
            fcntl(fd, F_SETFL, flags);
        if (now.timeout == 0 && eg_socket_set_timeout(call->socket, call->view.timeout) < 0)
            PyErr_Clear();
    }
    PyErr_Restore(type, value, traceback);
    return result;
}

/* What the exception that is set waits for, which is taken; 0: it is something else. */
static int
ssl_wants(void)
{
    int events = PyErr_ExceptionMatches(ssl_want_read)    ? EG_READ
                 : PyErr_ExceptionMatches(ssl_want_write) ? EG_WRITE
                                                          : 0;
    if (events)
        PyErr_Clear();
    return events;
}

/* Park until the original may go on: 0; -1: exception. */
static int
ssl_wait(SslCall *call, int events, uint64_t deadline)
{
    const void *owner = eg_socket_is_owned(call->socket) ? call->socket : NULL;
    EgTask *me = eg_wait_begin();
    int status = me ? eg_fd_wait(me, call->view.fd, events, deadline, owner) : -1;
    if (status == 0 && call->view.timeout < 0) /* as from a socket that says EAGAIN */
        PyErr_SetString(events == EG_READ ? ssl_want_read : ssl_want_write,
                        "The operation did not complete");
    else if (status == 0)
        PyErr_SetString(PyExc_TimeoutError, call->late);
    if (status <= 0)
        return -1;
    int64_t timeout = call->view.timeout;
    if (!eg_socket_look(call->socket, &call->view)) /* others have run */
        return -1;
    call->view.timeout = timeout;
    return 0;
}

static PyObject *
ssl_run(SslCall *call, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    uint64_t deadline =
        call->view.timeout < 0 ? EG_FOREVER : eg_clock_in((uint64_t)call->view.timeout);
    for (;;) {
        PyObject *result = ssl_try(call, args, n, kwnames);
        int events = result ? 0 : ssl_wants();
        if (result || !events)
            return result;
        if (deadline == EG_FOREVER)
            deadline = eg_socket_limit(call->view.fd, events, true);
        if (ssl_wait(call, events, deadline) < 0)
            return NULL;
    }
}

static PyObject *
ssl_call(const EgPatch *patch, const char *late, PyObject *self, PyObject *const *args,
         Py_ssize_t n, PyObject *kwnames)
{
    SslCall call = {.patch = patch, .self = self, .late = late};
    PyObject *result = NULL;
    int go = ssl_begin(&call);
    if (go == 0)
        result = eg_patch_call_original(patch, self, args, n, kwnames);
    else if (go > 0 && patch != &ssl_write_patch)
        result = eg_os_turn() < 0 ? NULL : ssl_run(&call, args, n, kwnames);
    else if (go > 0) {
        EgVisit *visit = eg_wait_check() < 0 ? NULL : eg_visit_begin(self);
        if (visit) {
            result = ssl_run(&call, args, n, kwnames);
            eg_visit_end(visit, self);
        }
        if (result && eg_os_turn_after() < 0)
            Py_CLEAR(result);
    }
    Py_XDECREF(call.socket);
    return result;
}

/* ---- the methods -------------------------------------------------------------------- */
static PyObject *
ssl_do_handshake(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_call(&ssl_do_handshake_patch, "_ssl.c: The handshake operation timed out", self,
                    args, n, kwnames);
}

static PyObject *
ssl_read(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_call(&ssl_read_patch, "The read operation timed out", self, args, n, kwnames);
}

static PyObject *
ssl_write(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_call(&ssl_write_patch, "The write operation timed out", self, args, n, kwnames);
}

static PyObject *
ssl_shutdown(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_call(&ssl_shutdown_patch, "The read operation timed out", self, args, n, kwnames);
}

/* ---- the authorities of a context ------------------------------------------------ */
/* Parsing a system's bundle takes OpenSSL 20 to 60 ms, without the GIL, and libraries do it for
 * each client object, or each connection. Twenty at once held the loop up for 30 to 80 ms. */
EG_PATCH(ssl_default_authorities, "_ssl._SSLContext", "set_default_verify_paths", "ssl");
EG_PATCH(ssl_load_authorities, "_ssl._SSLContext", "load_verify_locations", "ssl");

static PyObject *
ssl_in_a_thread(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                PyObject *kwnames)
{
    if (!eg_hub_cooperates())
        return eg_patch_call_original(patch, self, args, n, kwnames);
    return eg_patch_offload("offload_computation", patch, self, args, n, kwnames);
}

static PyObject *
ssl_default_authorities(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_in_a_thread(&ssl_default_authorities_patch, self, args, n, kwnames);
}

static PyObject *
ssl_load_authorities(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return ssl_in_a_thread(&ssl_load_authorities_patch, self, args, n, kwnames);
}

EgPatch *const eg_patch_ssl[] = {&ssl_do_handshake_patch,
                                 &ssl_read_patch,
                                 &ssl_write_patch,
                                 &ssl_shutdown_patch,
                                 &ssl_default_authorities_patch,
                                 &ssl_load_authorities_patch,
                                 NULL};
