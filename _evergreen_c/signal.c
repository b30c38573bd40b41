/* signal.c: Python's signal handlers run promptly, also while the hub sleeps.
 *
 * CPython's C handler writes a byte to the wake-up fd; ours is a pipe that the main
 * thread's loop watches, so a signal ends the poll.  The Python handlers then run in a task
 * of their own, because a handler may block and a parked greenlet parks on one thing at a
 * time; what they raise goes to the main greenlet, where it would have gone without us.
 *
 * Somebody else's wake-up fd (asyncio sets one) is theirs while their code runs, which may wait
 * for it without the hub's knowing.  Ours takes its place while the hub sleeps, and passes the
 * bytes on; signal.set_wakeup_fd() is swapped while the main thread has a hub, to know of it.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct EgSignals {
    uv_poll_t uv;
    int read_fd, write_fd; /* -1: the pipe is to be made, before the hub sleeps */
    ino_t pipe;            /* of both, as long as nobody else closes them */
    int chained;           /* somebody else's fd, or -1 */
    bool warns;            /* what that was set with: whether CPython warns when it is full */
    bool given;            /* CPython has that one, not ours */
    bool happened;         /* set by signal_on_byte() */
    bool ended;            /* one of the two was closed untold */
    bool came;             /* as well, until the handlers have run */
    int failed;            /* errno of a write to the chained one; 0: none, or reported */
    EgQueue handled;       /* who waits for any handler to have run */
    EgHub *hub;            /* borrowed: the hub owns this */
};

/* ---- libuv's side: no PyObject touched ----------------------------------------- */
/* As CPython's C handler: a write that fails leaves the fd in place. A full one is full of what its
 * reader needs to wake up. */
static void
signal_pass_on(EgSignals *self, const char *bytes, size_t n)
{
    for (size_t i = 0; self->chained >= 0 && i < n; i++)
        if (write(self->chained, bytes + i, 1) < 0) {
            self->failed = errno;
            if (errno == EBADF)
                self->chained = -1; /* it was closed without being taken out */
        }
}

static void
signal_on_byte(uv_poll_t *uv, int status, int events)
{
    EgSignals *self = EG_OWNER(uv, EgSignals, uv);
    char bytes[64];
    ssize_t n;
    (void)status;
    (void)events;
    while ((n = read(self->read_fd, bytes, sizeof bytes)) > 0)
        signal_pass_on(self, bytes, (size_t)n);
    self->ended |= n == 0;
    self->happened = self->came = true;
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

static long
signal_set_fd(int fd, bool warns)
{
    PyObject *args[] = {PyLong_FromLong(fd), warns ? Py_True : Py_False};
    PyObject *name = Py_BuildValue("(s)", "warn_on_full_buffer");
    long before = args[0] && name ? signal_set_native(args, 1, name) : -2;
    Py_XDECREF(args[0]);
    Py_XDECREF(name);
    return before;
}

/* Signals write to ours from now on. */
static void
signal_take(EgSignals *self)
{
    self->given = false;
    if (signal_set_fd(self->write_fd, true) == -2)
        PyErr_WriteUnraisable(NULL);
    eg_interrupt_ask(self->hub); /* for what came before */
}

/* Others run: they may wait for theirs. Not while a task waits for any handler to have run. */
static void
signal_give(EgSignals *self)
{
    PyObject *type, *value, *traceback;
    if (self->chained < 0 || self->given || eg_queue_peek(&self->handled))
        return;
    PyErr_Fetch(&type, &value, &traceback);
    self->given = signal_set_fd(self->chained, self->warns) != -2;
    if (!self->given) {
        PyErr_Clear();
        self->chained = -1; /* it was closed without being taken out */
    }
    PyErr_Restore(type, value, traceback);
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
    self->warns = !kwnames || !PyTuple_GET_SIZE(kwnames) || PyObject_IsTrue(args[1]) == 1;
    self->given = self->chained >= 0 && !eg_queue_peek(&self->handled);
    if (!self->given && signal_set_fd(self->write_fd, true) == -2)
        return NULL;
    return PyLong_FromLong(before);
}

/* ---- the hub's side: GIL held ------------------------------------------------------ */
/* Report the write that failed as CPython does: never EAGAIN if set_wakeup_fd() was told so. */
static void
signal_report_failed(EgSignals *self)
{
    int failed = self->failed;
    self->failed = 0;
    if (!failed || failed == EBADF || (failed == EAGAIN && !self->warns))
        return;
    errno = failed;
    PyErr_SetFromErrno(PyExc_OSError);
    PySys_WriteStderr("Exception ignored when trying to write to the signal wakeup fd:\n");
    PyErr_WriteUnraisable(NULL);
}

bool
eg_signal_begin(EgHub *hub)
{
    EgSignals *self = hub->signals;
    bool came = self->came;
    self->came = false;
    signal_report_failed(self);
    return came;
}

void
eg_signal_end(EgHub *hub, bool came)
{
    EgSignals *self = hub->signals;
    if (!self)
        return;
    if (came)
        eg_queue_wake_all(&self->handled);
    if (eg_hub_ready(hub))
        signal_give(self);
}

EgQueue *
eg_signal_handled(EgHub *hub)
{
    EgSignals *self = hub->signals;
    if (!self || !eg_port_uv(hub) || !eg_signal_repair(hub)) {
        PyErr_Clear();
        return NULL;
    }
    if (self->given)
        signal_take(self);
    return &self->handled;
}

void
eg_signal_after_poll(EgHub *hub)
{
    EgSignals *self = hub->signals;
    if (!self)
        return;
    if (self->happened)
        eg_interrupt_ask(hub);
    self->happened = false;
    EgNode *asked = eg_interrupt_asked();
    bool alone = asked && hub->ready.first == asked && !asked->next && !hub->due.first;
    if (EG_UNLIKELY(self->chained >= 0) && !alone)
        signal_give(self);
}

/* ---- the pipe ------------------------------------------------------------------------ */
/* A pipe that is none of the standard streams; -1: errno. */
static int
signal_make_pipe(int *fds, ino_t *pipe)
{
    struct stat status;
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        fds[i] = eg_port_apart(fds[i]);
    if (fds[0] >= 0 && fds[1] >= 0 && fstat(fds[0], &status) == 0) {
        *pipe = status.st_ino;
        return 0;
    }
    int code = errno;
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    errno = code;
    return -1;
}

/* Whether a number still means an end of the pipe. */
static bool
signal_is_pipe(const EgSignals *self, int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && status.st_ino == self->pipe;
}

static void
signal_close_pipe(EgSignals *self)
{
    if (signal_is_pipe(self, self->read_fd))
        close(self->read_fd);
    if (signal_is_pipe(self, self->write_fd))
        close(self->write_fd);
    self->read_fd = self->write_fd = -1;
}

/* Have the hub's loop watch the reading end: 0, or a libuv status. */
static int
signal_watch(EgSignals *self, int fd)
{
    if (self->read_fd >= 0) /* in the place of the one that it was */
        return eg_port_move(self->hub, &self->uv.io_watcher, fd);
    int status = eg_port_reserve(self->hub, fd);
    if (status == 0)
        status = uv_poll_init(&self->hub->port->uv, &self->uv, fd);
    if (status < 0)
        return status;
    uv_poll_start(&self->uv, UV_READABLE, signal_on_byte);
    uv_unref((uv_handle_t *)&self->uv);
    return 0;
}

/* Make a pipe, or another in the place of the one that it was; false: errno. Signals may have come
 * meanwhile, which no byte tells of. */
static bool
signal_renew(EgSignals *self)
{
    int fds[2], status;
    ino_t pipe;
    PyObject *type, *value, *traceback;
    if (signal_make_pipe(fds, &pipe) < 0)
        return false;
    if ((status = signal_watch(self, fds[0])) < 0) {
        close(fds[0]);
        close(fds[1]);
        errno = -status;
        return false;
    }
    self->came |= self->read_fd >= 0;
    signal_close_pipe(self);
    self->pipe = pipe;
    self->read_fd = fds[0];
    self->write_fd = fds[1];
    PyErr_Fetch(&type, &value, &traceback);
    if (!self->given && signal_set_fd(self->write_fd, true) == -2)
        PyErr_WriteUnraisable(NULL);
    PyErr_Restore(type, value, traceback);
    self->happened = true;
    self->ended = false;
    return true;
}

void
eg_signal_before_sleep(EgHub *hub)
{
    if (hub->signals && EG_UNLIKELY(hub->signals->ended))
        signal_renew(hub->signals);
    if (hub->signals && EG_UNLIKELY(hub->signals->given))
        signal_take(hub->signals);
}

bool
eg_signal_lacks_pipe(const EgHub *hub)
{
    return hub->signals && hub->signals->read_fd < 0;
}

bool
eg_signal_is_well(const EgHub *hub)
{
    const EgSignals *self = hub->signals;
    return !self || (signal_is_pipe(self, self->read_fd) && signal_is_pipe(self, self->write_fd));
}

bool
eg_signal_repair(EgHub *hub)
{
    return eg_signal_is_well(hub) || signal_renew(hub->signals);
}

bool
eg_signal_owns(const EgHub *hub, int fd)
{
    const EgSignals *self = hub->signals;
    return self && (fd == self->read_fd || fd == self->write_fd) && signal_is_pipe(self, fd);
}

int
eg_signal_pipe(const EgHub *hub)
{
    return hub->signals ? hub->signals->read_fd : -1;
}

void
eg_signal_lose(EgHub *hub)
{
    hub->signals->ended = true;
}

int
eg_signal_highest(const EgHub *hub)
{
    return hub->signals ? Py_MAX(hub->signals->read_fd, hub->signals->write_fd) : -1;
}

void
eg_signal_vacate(EgHub *hub)
{
    signal_renew(hub->signals);
}

void
eg_signal_doubt(EgHub *hub)
{
    if (hub->signals)
        hub->signals->happened = hub->signals->came = true;
}

void
eg_signal_forget(EgHub *hub)
{
    if (hub->signals)
        hub->signals->happened = hub->signals->came = false;
}

bool
eg_signal_happened(const EgHub *hub)
{
    return hub->signals && hub->signals->happened;
}

/* ---- making and ending ------------------------------------------------------------- */
int
eg_signal_open(EgHub *hub)
{
    EgSignals *self = PyMem_RawCalloc(1, sizeof *self);
    if (!self) {
        PyErr_NoMemory();
        return -1;
    }
    self->read_fd = self->write_fd = -1;
    self->hub = hub;
    if (eg_patch_apply(&signal_set_wakeup_fd_patch, true) < 0)
        goto fail;
    self->chained = (int)signal_set_fd(-1, true);
    if (self->chained == -2) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (eg_patch_apply(&signal_set_wakeup_fd_patch, false) < 0)
            PyErr_WriteUnraisable(NULL);
        PyErr_Restore(type, value, traceback);
        goto fail;
    }
    hub->signals = self;
    signal_give(self);
    return 0;
fail:
    PyMem_RawFree(self);
    return -1;
}

/* Have CPython write to what it wrote to before, or what was set since. */
static void
signal_restore(EgSignals *self)
{
    if (!self->given && signal_set_fd(self->chained, self->warns) == -2) {
        PyErr_Clear(); /* the chained one was closed meanwhile */
        if (signal_set_fd(-1, true) == -2)
            PyErr_WriteUnraisable(NULL);
    }
    if (eg_patch_apply(&signal_set_wakeup_fd_patch, false) < 0)
        PyErr_WriteUnraisable(NULL);
}

/* After the loop has closed the handle. */
void
eg_signal_close(EgHub *hub)
{
    EgSignals *self = hub->signals;
    if (!self)
        return;
    signal_restore(self);
    signal_close_pipe(self);
    hub->signals = NULL;
    PyMem_RawFree(self);
}

int
eg_signal_after_fork(EgHub *hub)
{
    EgSignals *self = hub->signals;
    signal_close_pipe(self);
    eg_signal_forget(hub);
    self->failed = 0;
    return self->given || signal_set_fd(-1, true) != -2 ? 0 : -1;
}

void
eg_signal_leave(EgHub *hub)
{
    if (hub->signals) {
        signal_restore(hub->signals);
        signal_close_pipe(hub->signals);
    }
}
