/* patch_multiprocessing.c: the semaphores between processes.
 *
 * multiprocessing's locks are POSIX semaphores; connections and processes need nothing here,
 * since they stand on os.read(), os.write() and pidfds.  A task tries without blocking; if that
 * fails a native thread waits for the semaphore, and gives it back if the task has gone.
 *
 * A recursive one belongs to a task, as an RLock does.
 */
#include "evergreen.h"

#include <errno.h>
#include <semaphore.h>
#include <time.h>

EG_PATCH(semaphore_acquire, "_multiprocessing.SemLock", "acquire", "multiprocessing");
EG_PATCH(semaphore_enter, "_multiprocessing.SemLock", "__enter__", "multiprocessing");
EG_PATCH(semaphore_release, "_multiprocessing.SemLock", "release", "multiprocessing");
EG_PATCH(semaphore_exit, "_multiprocessing.SemLock", "__exit__", "multiprocessing");
EG_PATCH(semaphore_is_zero, "_multiprocessing.SemLock", "_is_zero", "multiprocessing");
EG_PATCH(semaphore_value, "_multiprocessing.SemLock", "_get_value", "multiprocessing");
EG_PATCH(semaphore_is_mine, "_multiprocessing.SemLock", "_is_mine", "multiprocessing");

/* ---- the object ------------------------------------------------------------------- */
enum { RECURSIVE, COUNTING };

/* How a SemLock looks, up to Python 3.15; semaphore_layout_check() compares. */
typedef struct {
    PyObject_HEAD
    sem_t *handle;
    unsigned long owner; /* the last that acquired it */
    int count;           /* how often this process has */
    int most, kind;
} SemaphoreObject;

static long long
semaphore_ask(PyObject *self, const char *name, bool call)
{
    PyObject *answer =
        call ? PyObject_CallMethod(self, name, NULL) : PyObject_GetAttrString(self, name);
    long long value = answer ? PyLong_AsLongLong(answer) : -1;
    Py_XDECREF(answer);
    return value;
}

static bool
semaphore_looks_so(PyObject *self)
{
    const SemaphoreObject *view = (SemaphoreObject *)self;
    bool same = Py_TYPE(self)->tp_basicsize >= (Py_ssize_t)sizeof *view
                && (uintptr_t)view->handle == (uintptr_t)semaphore_ask(self, "handle", false)
                && view->kind == semaphore_ask(self, "kind", false)
                && view->most == semaphore_ask(self, "maxvalue", false)
                && view->count == semaphore_ask(self, "_count", true);
    PyErr_Clear();
    return same;
}

/* The semaphore, if a task runs and it looks as expected. */
static SemaphoreObject *
semaphore_look(PyObject *self)
{
    static enum { UNCHECKED, KNOWN, UNKNOWN } layout;
    if (!eg_hub_cooperates())
        return NULL;
    if (EG_UNLIKELY(layout == UNCHECKED))
        layout = semaphore_looks_so(self) ? KNOWN : UNKNOWN;
    return layout == KNOWN ? (SemaphoreObject *)self : NULL;
}

static bool
semaphore_belongs_here(const SemaphoreObject *self)
{
    return self->count > 0 && self->owner == eg_thread_ident();
}

/* ---- acquiring ----------------------------------------------------------------------- */
/* acquire(block=True, timeout=None): false: the original refuses the arguments. */
static bool
semaphore_arguments(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, bool *block,
                    PyObject **timeout)
{
    PyObject *given[2] = {n > 0 ? args[0] : Py_True, n > 1 ? args[1] : Py_None};
    static const char *const names[] = {"block", "timeout"};
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        int i = 0;
        while (i < 2 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), names[i]))
            i++;
        if (i == 2 || i < n)
            return false;
        given[i] = args[n + k];
    }
    double seconds = 0;
    int truth = n <= 2 ? PyObject_IsTrue(given[0]) : -1;
    if (truth >= 0 && given[1] != Py_None)
        seconds = PyFloat_AsDouble(given[1]);
    if (truth < 0 || PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    *block = truth && seconds >= 0;
    *timeout = given[1];
    return true;
}

/* 1: have it; 0: not in time; -1: exception. */
static int
semaphore_take(SemaphoreObject *self, bool block, PyObject *timeout)
{
    if (sem_trywait(self->handle) == 0)
        return 1;
    if (errno != EAGAIN && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (!block)
        return 0;
    PyObject *args[3] = {(PyObject *)self, PyLong_FromVoidPtr(self->handle), timeout};
    PyObject *taken = args[1] ? eg_policy_call("wait_for_semaphore", args, 3) : NULL;
    int status = taken ? PyObject_IsTrue(taken) : -1;
    Py_XDECREF(taken);
    Py_XDECREF(args[1]);
    return status;
}

static PyObject *
semaphore_acquire_by(const EgPatch *patch, PyObject *op, PyObject *const *args, Py_ssize_t n,
                     PyObject *kwnames)
{
    bool block;
    PyObject *timeout;
    if (eg_patch_poll() < 0)
        return NULL;
    SemaphoreObject *self = semaphore_look(op);
    if (!self || !semaphore_arguments(args, n, kwnames, &block, &timeout))
        return eg_patch_call_original(patch, op, args, n, kwnames);
    if (self->kind != RECURSIVE || !semaphore_belongs_here(self)) {
        int status = semaphore_take(self, block, timeout);
        if (status <= 0)
            return status < 0 ? NULL : Py_NewRef(Py_False);
        self->owner = eg_thread_ident();
    }
    self->count++;
    Py_RETURN_TRUE;
}

static PyObject *
semaphore_acquire(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_acquire_by(&semaphore_acquire_patch, self, args, n, kwnames);
}

static PyObject *
semaphore_enter(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_acquire_by(&semaphore_enter_patch, self, args, n, kwnames);
}

/* ---- releasing -------------------------------------------------------------------------- */
/* The original compares the owner with the native thread. */
static PyObject *
semaphore_release_by(const EgPatch *patch, PyObject *op, PyObject *const *args, Py_ssize_t n,
                     PyObject *kwnames)
{
    SemaphoreObject *self = semaphore_look(op);
    if (!self || self->kind != RECURSIVE)
        return eg_patch_call_original(patch, op, args, n, kwnames);
    unsigned long owner = self->owner, here = PyThread_get_thread_ident();
    self->owner = semaphore_belongs_here(self) ? here : ~here;
    PyObject *result = eg_patch_call_original(patch, op, args, n, kwnames);
    self->owner = owner;
    return result;
}

static PyObject *
semaphore_release(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_release_by(&semaphore_release_patch, self, args, n, kwnames);
}

static PyObject *
semaphore_exit(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_release_by(&semaphore_exit_patch, self, args, n, kwnames);
}

static PyObject *
semaphore_is_mine(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    SemaphoreObject *self = semaphore_look(op);
    if (!self)
        return eg_patch_call_original(&semaphore_is_mine_patch, op, args, n, kwnames);
    return PyBool_FromLong(semaphore_belongs_here(self));
}

/* ---- asking, again and again: another process, or another task, is to change it ------------- */
static PyObject *
semaphore_ask_by(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames)
{
    return eg_patch_poll() < 0 ? NULL : eg_patch_call_original(patch, self, args, n, kwnames);
}

static PyObject *
semaphore_is_zero(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_ask_by(&semaphore_is_zero_patch, self, args, n, kwnames);
}

static PyObject *
semaphore_value(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_ask_by(&semaphore_value_patch, self, args, n, kwnames);
}

/* ---- for the policy's native threads ------------------------------------------------------- */
/* semaphore_wait(handle, seconds) -> bool */
PyObject *
eg_semaphore_wait(PyObject *module, PyObject *args)
{
    unsigned long long handle;
    double seconds;
    struct timespec until;
    int status;
    (void)module;
    if (!PyArg_ParseTuple(args, "Kd", &handle, &seconds))
        return NULL;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + (uint64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    Py_BEGIN_ALLOW_THREADS
    do
        status = sem_timedwait((sem_t *)(uintptr_t)handle, &until);
    while (status < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    if (status < 0 && errno != ETIMEDOUT)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBool_FromLong(status == 0);
}

/* semaphore_post(handle) */
PyObject *
eg_semaphore_post(PyObject *module, PyObject *handle)
{
    void *semaphore = PyLong_AsVoidPtr(handle);
    (void)module;
    if (!semaphore && PyErr_Occurred())
        return NULL;
    if (sem_post(semaphore) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

EgPatch *const eg_patch_multiprocessing[] = {&semaphore_acquire_patch, &semaphore_enter_patch,
                                             &semaphore_release_patch, &semaphore_exit_patch,
                                             &semaphore_is_mine_patch, &semaphore_is_zero_patch,
                                             &semaphore_value_patch,   NULL};
