/* patch_queue.c: _queue.SimpleQueue.  What concurrent.futures feeds its workers by.
 *
 * get() tries the native one without blocking and, while the queue is empty, waits for put();
 * put() wakes the longest waiter, which tries again.  Native threads get natively; what they
 * put wakes a task at once.
 */
#include "evergreen.h"

EG_PATCH(queue_get, "_queue.SimpleQueue", "get", "thread");
EG_PATCH(queue_get_nowait, "_queue.SimpleQueue", "get_nowait", "thread");
EG_PATCH(queue_empty, "_queue.SimpleQueue", "empty", "thread");
EG_PATCH(queue_qsize, "_queue.SimpleQueue", "qsize", "thread");
EG_PATCH_WAKER(queue_put, "_queue.SimpleQueue", "put", "thread");
EG_PATCH_WAKER(queue_put_nowait, "_queue.SimpleQueue", "put_nowait", "thread");

static void
queue_wake(PyObject *self)
{
    EgQueue *waiters = eg_waiters_of(self);
    if (waiters)
        eg_queue_wake(waiters, NULL);
}

/* A task was woken for an item, and is killed before it took it. */
static void
queue_give_back(EgTask *task)
{
    queue_wake(task->wait.object);
}

static const EgWaitKind queue_kind = {"queue", queue_give_back};

/* ---- getting --------------------------------------------------------------- */
/* get(block=True, timeout=None), where it may wait. 0: it may not, or the arguments are wrong:
 * the native function deals with it; -1: exception. */
static int
queue_may_wait(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, uint64_t *deadline)
{
    PyObject *block = n > 0 ? args[0] : Py_True, *timeout = n > 1 ? args[1] : Py_None;
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *deadline = EG_FOREVER;
    if (n > 2)
        return 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (n < 1 && PyUnicode_CompareWithASCIIString(name, "block") == 0)
            block = args[n + i];
        else if (n < 2 && PyUnicode_CompareWithASCIIString(name, "timeout") == 0)
            timeout = args[n + i];
        else
            return 0;
    }
    if (timeout != Py_None) {
        if (!PyFloat_Check(timeout) && !PyLong_Check(timeout))
            return 0;
        double seconds = PyFloat_AsDouble(timeout);
        if (PyErr_Occurred())
            PyErr_Clear();
        else if (seconds > 0 && seconds < (double)PY_TIMEOUT_MAX / 1e6)
            *deadline = eg_clock_after(seconds);
        if (*deadline == EG_FOREVER)
            return 0;
    }
    return PyObject_IsTrue(block);
}

/* Whether the exception that is set is the Empty of the module that self's type comes from (who
 * imports _queue afresh has two). */
static bool
queue_is_empty_error(PyObject *self)
{
    PyObject *type, *value, *traceback, *module, *empty;
    PyTypeObject *from = Py_TYPE(self);
    while (from->tp_base && !from->tp_methods) /* subclasses made in Python have none */
        from = from->tp_base;
    PyErr_Fetch(&type, &value, &traceback);
    module = PyType_GetModule(from); /* borrowed from the type */
    empty = module ? PyObject_GetAttrString(module, "Empty") : NULL;
    if (!empty)
        PyErr_WriteUnraisable(self);
    bool is = empty && PyErr_GivenExceptionMatches(type, empty);
    Py_XDECREF(empty);
    PyErr_Restore(type, value, traceback);
    return is;
}

static PyObject *
queue_get(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *no = Py_False;
    uint64_t deadline;
    if (eg_patch_poll() < 0)
        return NULL;
    int waits = eg_hub_cooperates() ? queue_may_wait(args, n, kwnames, &deadline) : 0;
    if (waits <= 0)
        return waits < 0 ? NULL : eg_patch_call_original(&queue_get_patch, self, args, n, kwnames);
    for (;;) {
        PyObject *item = eg_patch_call_original(&queue_get_patch, self, &no, 1, NULL);
        if (item || !queue_is_empty_error(self))
            return item;
        PyObject *type, *value, *traceback; /* Empty: raised if the time is up */
        PyErr_Fetch(&type, &value, &traceback);
        EgTask *me = eg_wait_begin();
        int status = me && eg_waiters_join(me, self) == 0 ? 1 : -1;
        if (status > 0) {
            status = eg_wait_park(me, &queue_kind, self, deadline);
            eg_waiters_leave(self);
        }
        if (status == 0) {
            PyErr_Restore(type, value, traceback);
            return NULL;
        }
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        if (status < 0)
            return NULL;
    }
}

/* ---- asking: whoever does so again and again waits for somebody who puts ------------ */
static PyObject *
queue_ask(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
          PyObject *kwnames)
{
    return eg_patch_poll() < 0 ? NULL : eg_patch_call_original(patch, self, args, n, kwnames);
}

static PyObject *
queue_get_nowait(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return queue_ask(&queue_get_nowait_patch, self, args, n, kwnames);
}

static PyObject *
queue_empty(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return queue_ask(&queue_empty_patch, self, args, n, kwnames);
}

static PyObject *
queue_qsize(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return queue_ask(&queue_qsize_patch, self, args, n, kwnames);
}

/* ---- putting ---------------------------------------------------------------- */
static PyObject *
queue_after_put(PyObject *self, PyObject *result)
{
    if (result)
        queue_wake(self);
    return result;
}

static PyObject *
queue_put(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return queue_after_put(self, eg_patch_call_original(&queue_put_patch, self, args, n, kwnames));
}

static PyObject *
queue_put_nowait(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return queue_after_put(self,
                           eg_patch_call_original(&queue_put_nowait_patch, self, args, n, kwnames));
}

EgPatch *const eg_patch_queue[] = {&queue_get_patch,
                                   &queue_get_nowait_patch,
                                   &queue_empty_patch,
                                   &queue_qsize_patch,
                                   &queue_put_patch,
                                   &queue_put_nowait_patch,
                                   NULL};
