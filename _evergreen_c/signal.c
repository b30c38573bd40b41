/* signal.c: Python's signal handlers run promptly, also while the hub sleeps.
 *
 * CPython's C handler writes a byte to the wake-up fd; ours is a pipe that the main
 * thread's loop watches, so a signal ends the poll.  The Python handlers then run in a task
 * of their own, because a handler may block and a parked greenlet parks on one thing at a
 * time; what they raise goes to the main greenlet, where it would have gone without us.
 *
 * Somebody else's wake-up fd (asyncio sets one) is chained: signal.set_wakeup_fd() is swapped
 * while the main thread has a hub; it notes what it is given, and the bytes are passed on.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

struct EgSignals {
    uv_poll_t uv;
    int read_fd, write_fd;
    int chained;   /* the fd that was set before ours, or -1 */
    bool happened; /* set by signal_on_byte() */
    bool queued;   /* node is on the ring */
    EgNode node;
    EgQueue handled; /* who waits for any handler to have run */
    EgHub *hub;      /* borrowed: the hub owns this */
};

/* ---- libuv's side: no PyObject touched ----------------------------------------- */
static void
signal_on_byte(uv_poll_t *uv, int status, int events)
{
    EgSignals *self = EG_OWNER(uv, EgSignals, uv);
    char bytes[64];
    ssize_t n;
    (void)status;
    (void)events;
    while ((n = read(self->read_fd, bytes, sizeof bytes)) > 0)
        if (self->chained >= 0 && write(self->chained, bytes, (size_t)n) < 0)
            self->chained = -1; /* it was closed without being taken out */
    self->happened = true;
}

/* ---- the hub's side: GIL held ------------------------------------------------------ */
static PyObject *
signal_handle(PyObject *unused, PyObject *args)
{
    (void)unused;
    (void)args;
    int status = PyErr_CheckSignals();
    EgQueue *handled = eg_signal_handled(eg_hub_here);
    if (handled)
        eg_queue_wake_all(handled);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

EgQueue *
eg_signal_handled(EgHub *hub)
{
    return hub->signals ? &hub->signals->handled : NULL;
}

static PyMethodDef signal_handle_def = {"handle_signals", signal_handle, METH_NOARGS, NULL};

static void
signal_run(EgNode *node)
{
    EgSignals *self = EG_OWNER(node, EgSignals, node);
    self->queued = false;
    PyObject *function = PyCFunction_New(&signal_handle_def, NULL);
    PyObject *task = function ? eg_task_spawn(self->hub, function, NULL, NULL) : NULL;
    if (task)
        ((EgTask *)task)->signals = true;
    else
        eg_hub_report(self->hub, "Exception while handling a signal", NULL);
    Py_XDECREF(task);
    Py_XDECREF(function);
}

void
eg_signal_after_poll(EgHub *hub)
{
    EgSignals *self = hub->signals;
    if (!self || !self->happened)
        return;
    self->happened = false;
    if (!self->queued)
        eg_ring_push(&hub->ready, &self->node);
    self->queued = true;
}

/* ---- signal.set_wakeup_fd() ----------------------------------------------------------- */
EG_PATCH(signal_set_wakeup_fd, "_signal", "set_wakeup_fd", "signal");

/* Call the native one; the fd that was set before, or -2 with an exception. */
static long
signal_set_native(PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *before = eg_patch_call_original(&signal_set_wakeup_fd_patch, NULL, args, n, kwnames);
    long fd = before ? PyLong_AsLong(before) : -2;
    Py_XDECREF(before);
    return fd;
}

/* Set one of ours, or put the one of before back; the same result. */
static long
signal_set_fd(int fd)
{
    PyObject *arg = PyLong_FromLong(fd);
    long before = arg ? signal_set_native(&arg, 1, NULL) : -2;
    Py_XDECREF(arg);
    return before;
}

static PyObject *
signal_set_wakeup_fd(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgHub *hub = eg_hub_here;
    if (eg_thread_refuses("set_wakeup_fd"))
        return NULL;
    if (!hub || !hub->signals)
        return eg_patch_call_original(&signal_set_wakeup_fd_patch, module, args, n, kwnames);
    EgSignals *self = hub->signals;
    if (signal_set_native(args, n, kwnames) == -2) /* it checks the descriptor */
        return NULL;
    int before = self->chained;
    self->chained = PyLong_AsLong(args[0]) == self->write_fd ? -1 : (int)PyLong_AsLong(args[0]);
    if (signal_set_fd(self->write_fd) == -2)
        return NULL;
    return PyLong_FromLong(before);
}

/* ---- making and ending ------------------------------------------------------------- */
int
eg_signal_open(EgHub *hub)
{
    int fds[2], status;
    EgSignals *self = PyMem_RawCalloc(1, sizeof *self);
    if (!self) {
        PyErr_NoMemory();
        return -1;
    }
    if ((status = uv_pipe(fds, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE)) < 0)
        goto fail;
    self->read_fd = fds[0];
    self->write_fd = fds[1];
    self->chained = -1;
    self->hub = hub;
    self->node.run = signal_run;
    status = uv_poll_init(eg_hub_uv(hub), &self->uv, self->read_fd);
    if (status < 0) {
        close(fds[0]);
        close(fds[1]);
        goto fail;
    }
    uv_poll_start(&self->uv, UV_READABLE, signal_on_byte);
    uv_unref((uv_handle_t *)&self->uv);
    hub->signals = self;
    if (eg_patch_apply(&signal_set_wakeup_fd_patch, true) < 0)
        return -1;
    self->chained = (int)signal_set_fd(self->write_fd);
    return self->chained == -2 ? -1 : 0;
fail:
    PyMem_RawFree(self);
    eg_error_raise(status);
    return -1;
}

/* After the loop has closed the handle, or, in a forked child, has been left behind. */
void
eg_signal_close(EgHub *hub)
{
    EgSignals *self = hub->signals;
    if (!self)
        return;
    if (signal_set_fd(self->chained) == -2) {
        PyErr_Clear(); /* the chained one was closed meanwhile */
        if (signal_set_fd(-1) == -2)
            PyErr_WriteUnraisable(NULL);
    }
    if (eg_patch_apply(&signal_set_wakeup_fd_patch, false) < 0)
        PyErr_WriteUnraisable(NULL);
    close(self->read_fd);
    close(self->write_fd);
    hub->signals = NULL;
    PyMem_RawFree(self);
}
