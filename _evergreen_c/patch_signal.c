/* patch_signal.c: waiting for signals lets other tasks run.
 *
 * sigwait() and its kin take what is pending without waiting, and park on a signalfd until
 * there is something.  pause() parks until Python's handlers have run (signal.c).
 */
#include "evergreen.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

EG_PATCH(signal_sigwait, "_signal", "sigwait", "os");
EG_PATCH(signal_sigwaitinfo, "_signal", "sigwaitinfo", "os");
EG_PATCH(signal_sigtimedwait, "_signal", "sigtimedwait", "os");
EG_PATCH(signal_pause, "_signal", "pause", "os");

static const EgWaitKind signal_kind = {"signal", NULL};

/* A descriptor that is readable while one of these numbers is pending; -1: exception. */
static int
signal_open(PyObject *numbers)
{
    sigset_t set;
    sigemptyset(&set);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(numbers); i++) {
        long number = PyLong_AsLong(PyTuple_GET_ITEM(numbers, i));
        if (number == -1 && PyErr_Occurred())
            return -1;
        sigaddset(&set, (int)number);
    }
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return fd;
}

/* What sigtimedwait() gives for one of *numbers*; None: not in time. */
static PyObject *
signal_take(PyObject *module, PyObject *numbers, uint64_t deadline)
{
    int fd = -1, events = EG_READ, status = 1;
    PyObject *info = NULL, *zero = PyLong_FromLong(0), *args[2] = {numbers, zero};
    while (zero) {
        info = eg_patch_call_original(&signal_sigtimedwait_patch, module, args, 2, NULL);
        if (!info || info != Py_None || status == 0)
            break;
        Py_CLEAR(info);
        if (fd < 0 && (fd = signal_open(numbers)) < 0)
            break;
        EgTask *me = eg_wait_begin();
        if (!me || (status = eg_fd_wait_many(me, 1, &fd, &events, &signal_kind, deadline)) < 0)
            break;
    }
    if (fd >= 0) {
        eg_fd_closing(fd);
        close(fd);
    }
    Py_XDECREF(zero);
    return info;
}

static PyObject *
signal_wait_by(const EgPatch *patch, PyObject *module, PyObject *const *args, Py_ssize_t n,
               PyObject *kwnames)
{
    double seconds = INFINITY;
    bool timed = patch == &signal_sigtimedwait_patch;
    if (!eg_os_may_wait() || !signal_sigtimedwait_patch.def || kwnames || n != 1 + timed
        || (timed && (!eg_patch_seconds(args[1], &seconds) || seconds <= 0)))
        return eg_patch_call_original(patch, module, args, n, kwnames);
    PyObject *numbers = PySequence_Tuple(args[0]); /* it is read more than once */
    if (!numbers)
        return NULL;
    uint64_t deadline = isinf(seconds) ? EG_FOREVER : eg_clock_after(seconds);
    PyObject *info = signal_take(module, numbers, deadline);
    Py_DECREF(numbers);
    if (info && patch == &signal_sigwait_patch)
        Py_SETREF(info, PyObject_GetAttrString(info, "si_signo"));
    return info;
}

static PyObject *
signal_sigwait(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return signal_wait_by(&signal_sigwait_patch, module, args, n, kwnames);
}

static PyObject *
signal_sigwaitinfo(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return signal_wait_by(&signal_sigwaitinfo_patch, module, args, n, kwnames);
}

static PyObject *
signal_sigtimedwait(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return signal_wait_by(&signal_sigtimedwait_patch, module, args, n, kwnames);
}

static PyObject *
signal_pause(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgHub *hub = eg_hub_here;
    EgQueue *handled = eg_os_may_wait() && !n && !kwnames ? eg_signal_handled(hub) : NULL;
    if (!handled)
        return eg_patch_call_original(&signal_pause_patch, module, args, n, kwnames);
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    eg_wait_join(me, handled);
    hub->pins++; /* a signal may come at any time: no deadlock */
    int status = eg_wait_park(me, &signal_kind, NULL, EG_FOREVER);
    hub->pins--;
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

EgPatch *const eg_patch_signal[] = {&signal_sigwait_patch, &signal_sigwaitinfo_patch,
                                    &signal_sigtimedwait_patch, &signal_pause_patch, NULL};
