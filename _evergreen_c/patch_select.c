/* patch_select.c: select.select(), poll objects and epoll objects let other tasks run.
 *
 * Each first calls the original with a timeout of zero, which checks the arguments and often
 * has the answer.  If it has none the task parks on the descriptors and asks again:
 *
 *     select, poll   on all their descriptors at once
 *     epoll          on the epoll descriptor itself
 *
 * The hub tells of more than was asked for, and once only; so they ask again each time.
 */
#include "evergreen.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

static const EgWaitKind select_kind = {"select", NULL};
static const EgWaitKind poll_kind = {"poll", NULL};

#define POLL_READ (POLLIN | POLLRDNORM | POLLRDBAND)
#define POLL_WRITE (POLLOUT | POLLWRNORM | POLLWRBAND)

/* ---- waiting for descriptors ---------------------------------------------------- */
/* What wakes one who asks poll(2) for these events: a hang-up and errors, whatever is asked. */
static int
select_events(short asked)
{
    int events = EG_POLLED | (asked & POLL_WRITE ? EG_WRITE : 0);
    events |= asked & ~(POLL_READ | POLL_WRITE) ? EG_READ | EG_URGENT : 0;
    return events | (asked & POLL_READ || !asked ? EG_READ : 0);
}

int
eg_select_wait(const EgWaitKind *kind, const struct pollfd *fds, nfds_t n, uint64_t deadline)
{
    EgTask *me;
    int status = -1;
    if (n == 0)
        return (me = eg_wait_begin()) ? eg_wait_park(me, kind, NULL, deadline) : -1;
    int *numbers = PyMem_New(int, 2 * n), *asked = numbers + n;
    if (!numbers) {
        PyErr_NoMemory();
        return -1;
    }
    for (nfds_t i = 0; i < n; i++) {
        numbers[i] = fds[i].fd;
        asked[i] = select_events(fds[i].events);
    }
    if ((me = eg_wait_begin()))
        status = eg_fd_wait_many(me, (Py_ssize_t)n, numbers, asked, kind, deadline);
    PyMem_Free(numbers);
    return status;
}

/* Whoever always finds something ready must not starve the others, who would make it unready. */
static int
select_turn(void)
{
    static int turns;
    static uint64_t slice; /* of whichever hub it was; the loop has been looked at since: */
    if (slice != eg_hub_here->slice_end) {
        slice = eg_hub_here->slice_end;
        turns = 0;
    }
    return ++turns % 16 ? 0 : eg_os_give_way();
}

/* ---- select.select ------------------------------------------------------------------ */
enum { READS, WRITES, EXCEPTS };
static const short select_asks[] = {POLL_READ, POLL_WRITE, POLLPRI};
static const short select_means[] = {POLL_READ | POLLHUP | POLLERR, POLL_WRITE | POLLERR, POLLPRI};

/* The program's lists as they were when it called. */
typedef struct {
    struct pollfd *fds; /* those of the three lists, one after the other */
    PyObject **objects; /* strong */
    nfds_t n, size;
    nfds_t end[3]; /* where each list ends */
} Selection;

static void
selection_clear(Selection *selection)
{
    for (nfds_t i = 0; i < selection->n; i++)
        Py_DECREF(selection->objects[i]);
    PyMem_Free(selection->objects);
    PyMem_Free(selection->fds);
}

static int
selection_add(Selection *selection, PyObject *object, short events)
{
    if (selection->n == selection->size) {
        nfds_t size = selection->size ? 2 * selection->size : 16;
        struct pollfd *fds = PyMem_Realloc(selection->fds, size * sizeof *fds);
        selection->fds = fds ? fds : selection->fds;
        PyObject **objects = PyMem_Realloc(selection->objects, size * sizeof *objects);
        selection->objects = objects ? objects : selection->objects;
        if (!fds || !objects)
            return PyErr_NoMemory(), -1;
        selection->size = size;
    }
    Py_INCREF(object); /* given back by selection_clear(), or below */
    int fd = PyObject_AsFileDescriptor(object);
    if (fd < 0) {
        Py_DECREF(object);
        return -1;
    }
    selection->fds[selection->n] = (struct pollfd){.fd = fd, .events = events};
    selection->objects[selection->n++] = object;
    return 0;
}

static int
selection_fill(Selection *selection, PyObject *const *lists)
{
    for (int which = READS; which <= EXCEPTS; which++) {
        PyObject *list = lists[which];
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++)
            if (selection_add(selection, PySequence_Fast_GET_ITEM(list, i), select_asks[which]) < 0)
                return -1;
        selection->end[which] = selection->n;
    }
    return 0;
}

/* What select() answers; NULL without an exception: nothing is ready. */
static PyObject *
selection_ask(Selection *selection, bool even_if_empty)
{
    int found = poll(selection->fds, selection->n, 0);
    if (found < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *answer = PyTuple_New(3);
    nfds_t i = 0, ready = 0;
    for (int which = READS; answer && which <= EXCEPTS; which++) {
        PyObject *list = PyList_New(0);
        if (!list)
            goto error;
        PyTuple_SET_ITEM(answer, which, list);
        for (; i < selection->end[which]; i++) {
            if (selection->fds[i].revents & POLLNVAL) {
                errno = EBADF;
                PyErr_SetFromErrno(PyExc_OSError);
                goto error;
            }
            if (!(selection->fds[i].revents & select_means[which]))
                continue;
            if (PyList_Append(list, selection->objects[i]) < 0)
                goto error;
            ready++;
        }
    }
    if (ready || even_if_empty)
        return answer;
error:
    Py_XDECREF(answer);
    return NULL;
}

static bool
select_found_nothing(PyObject *answer)
{
    for (int which = READS; which <= EXCEPTS; which++)
        if (PyList_GET_SIZE(PyTuple_GET_ITEM(answer, which)))
            return false;
    return true;
}

/* The lists are lists or tuples; the original found nothing ready in them. */
static PyObject *
select_wait(PyObject *const *lists, uint64_t deadline)
{
    PyObject *answer = NULL;
    Selection selection = {0};
    if (selection_fill(&selection, lists) < 0)
        goto done;
    for (;;) {
        int status = eg_select_wait(&select_kind, selection.fds, selection.n, deadline);
        if (status < 0)
            break;
        answer = selection_ask(&selection, status == 0);
        if (answer || PyErr_Occurred())
            break;
    }
done:
    selection_clear(&selection);
    return answer;
}

EG_PATCH(select_select, "select", "select", "select");

static PyObject *
select_select(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *timeout = n == 4 ? args[3] : Py_None;
    double seconds = INFINITY;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || n < 3 || n > 4 || kwnames
        || (timeout != Py_None && (!eg_patch_seconds(timeout, &seconds) || seconds <= 0)))
        return eg_patch_call_original(&select_select_patch, self, args, n, kwnames);
    if (select_turn() < 0)
        return NULL;
    uint64_t deadline = timeout == Py_None ? EG_FOREVER : eg_clock_after(seconds);
    PyObject *answer = NULL, *full[4] = {NULL, NULL, NULL, PyLong_FromLong(0)};
    for (int which = READS; which <= EXCEPTS; which++)
        if (!(full[which] = PySequence_Fast(args[which], "arguments 1-3 must be sequences")))
            goto done;
    answer = eg_patch_call_original(&select_select_patch, self, full, 4, NULL);
    if (answer && select_found_nothing(answer))
        Py_SETREF(answer, select_wait(full, deadline));
done:
    for (int i = 0; i < 4; i++)
        Py_XDECREF(full[i]);
    return answer;
}

/* ---- poll objects --------------------------------------------------------------------- */
/* How a poll object looks, up to Python 3.15; poll_layout_check() compares. */
typedef struct {
    PyObject_HEAD
    PyObject *dict;
    int uptodate, n;
    struct pollfd *fds; /* as of the last poll() */
    int running;        /* a second poll() at the same time is refused */
} PollObject;

EG_PATCH(select_poll, "select.poll()", "poll", "select");

static PyObject *
poll_at_once(PyObject *self)
{
    PyObject *zero = PyLong_FromLong(0);
    PyObject *list = eg_patch_call_original(&select_poll_patch, self, &zero, 1, NULL);
    Py_DECREF(zero);
    return list;
}

/* Whether a poll object of this Python looks as PollObject says. */
static bool
poll_layout_check(PyTypeObject *type)
{
    bool same = false;
    PyObject *module = NULL, *sample = NULL, *done = NULL;
    if (type->tp_basicsize != sizeof(PollObject) || !(module = PyImport_ImportModule("select"))
        || !(sample = PyObject_CallMethod(module, "poll", NULL))
        || !(done = PyObject_CallMethod(sample, "register", "ii", 0, POLLPRI)))
        goto done;
    PollObject *view = (PollObject *)sample;
    bool before = view->uptodate == 0 && !view->fds && !view->running;
    Py_SETREF(done, poll_at_once(sample));
    same = done && before && view->uptodate == 1 && view->n == 1 && view->fds
           && view->fds[0].fd == 0 && view->fds[0].events == POLLPRI && !view->running;
done:
    PyErr_Clear();
    Py_XDECREF(done);
    Py_XDECREF(sample);
    Py_XDECREF(module);
    return same;
}

/* Whether the original would wait for so many milliseconds, and not raise OverflowError. */
static bool
poll_takes(double ms)
{
#if PY_VERSION_HEX >= 0x030F0000
    return fabs(ms * 1e6) < 9223372036854775808.0; /* what int64 nanoseconds hold */
#else
    return ms >= INT_MIN && ms <= INT_MAX;
#endif
}

/* Whether the exception that is set says that a descriptor was closed. */
static bool
poll_was_closed(void)
{
    return PyErr_ExceptionMatches(PyExc_OSError) && eg_patch_errno() == EBADF;
}

/* The original has just found nothing ready. */
static PyObject *
poll_wait(PyObject *self, uint64_t deadline)
{
    PollObject *object = (PollObject *)self;
    for (;;) {
        object->running = 1;
        int status = eg_select_wait(&poll_kind, object->fds, (nfds_t)object->n, deadline);
        object->running = 0;
        if (status < 0 && !poll_was_closed())
            return NULL;
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback); /* EBADF, which is an answer here: POLLNVAL */
        PyObject *list = poll_at_once(self);
        bool done = !list || PyList_GET_SIZE(list) || status == 0;
        if (!done && type) {
            PyErr_Restore(type, value, traceback); /* unless the number means another file by now */
            Py_DECREF(list);
            return NULL;
        }
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        if (done)
            return list;
        Py_DECREF(list);
    }
}

static PyObject *
select_poll(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static enum { UNCHECKED, DIRECT, UNKNOWN } layout;
    PyObject *timeout = n == 1 ? args[0] : Py_None;
    double ms = INFINITY;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!eg_hub_cooperates() || n > 1 || kwnames
        || (timeout != Py_None && (!eg_patch_number(timeout, &ms) || ms == 0 || !poll_takes(ms))))
        return eg_patch_call_original(&select_poll_patch, self, args, n, kwnames);
    if (select_turn() < 0)
        return NULL;
    uint64_t deadline = ms < 0 || isinf(ms) ? EG_FOREVER : eg_clock_after(ms / 1e3);
    PyObject *list = poll_at_once(self);
    if (!list || PyList_GET_SIZE(list))
        return list;
    Py_DECREF(list);
    if (layout == UNCHECKED)
        layout = poll_layout_check(Py_TYPE(self)) ? DIRECT : UNKNOWN;
    if (layout == UNKNOWN)
        return eg_patch_offload("offload", &select_poll_patch, self, args, n, NULL);
    return poll_wait(self, deadline);
}

/* ---- epoll objects ------------------------------------------------------------------------ */
EG_PATCH(select_epoll_poll, "select.epoll", "poll", "select");

static PyObject *
select_epoll_poll(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"timeout", "maxevents"};
    PyObject *full[2] = {n > 0 ? args[0] : NULL, n > 1 ? args[1] : NULL};
    bool plain = eg_hub_cooperates() && n <= 2;
    for (Py_ssize_t k = 0; plain && kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        int i = 0;
        while (i < 2 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), names[i]))
            i++;
        if ((plain = i < 2 && !full[i]))
            full[i] = args[n + k];
    }
    PyObject *timeout = full[0] ? full[0] : Py_None;
    double seconds = INFINITY;
    if (eg_patch_poll() < 0)
        return NULL;
    if (!plain
        || (timeout != Py_None
            && (!eg_patch_seconds(timeout, &seconds) || seconds == 0 || seconds * 1e3 < INT_MIN
                || seconds * 1e3 > INT_MAX)))
        return eg_patch_call_original(&select_epoll_poll_patch, self, args, n, kwnames);
    if (select_turn() < 0)
        return NULL;
    uint64_t deadline = seconds < 0 || isinf(seconds) ? EG_FOREVER : eg_clock_after(seconds);
    PyObject *zero = PyLong_FromLong(0);
    PyObject *given[2] = {zero, full[1]};
    PyObject *list = NULL;
    for (int status = 1;;) {
        list = eg_patch_call_original(&select_epoll_poll_patch, self, given, full[1] ? 2 : 1, NULL);
        if (!list || PyList_GET_SIZE(list) || status == 0)
            break;
        Py_CLEAR(list);
        int fd = PyObject_AsFileDescriptor(self);
        EgTask *me = fd < 0 ? NULL : eg_wait_begin();
        if (!me || (status = eg_fd_wait(me, fd, EG_READ, deadline, NULL)) < 0)
            break;
    }
    Py_DECREF(zero);
    return list;
}

EG_PATCH(select_epoll_close, "select.epoll", "close", "select");

static PyObject *
select_epoll_close(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd = PyObject_AsFileDescriptor(self);
    if (fd >= 0)
        eg_fd_closing(fd);
    else
        PyErr_Clear(); /* closed already */
    return eg_patch_call_original(&select_epoll_close_patch, self, args, n, kwnames);
}

/* ---- the table -------------------------------------------------------------------------------- */
EgPatch *const eg_patch_select[] = {&select_select_patch, &select_poll_patch,
                                    &select_epoll_poll_patch, &select_epoll_close_patch, NULL};
