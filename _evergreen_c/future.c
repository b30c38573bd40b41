/* future.c: the result of a call that somebody else makes.
 *
 * This is what evergreen.futures.Future adds to concurrent.futures.Future, which is its other
 * base: the states of the standard library (PEP 3148), changed under the GIL instead of a
 * condition variable, and a queue of waiters that are tasks of any loop and native threads.
 *
 * The standard library's wait() and as_completed() take hold of a future's `_condition` while
 * they look at its state and join its `_waiters`.  The condition is made when somebody asks for
 * it; from then on a change of state takes hold of it, too.
 */
#include "evergreen.h"

/* ---- the object -------------------------------------------------------------------- */
enum { PENDING, RUNNING, CANCELLED, NOTIFIED, FINISHED };

static const char *const state_names[] = {"PENDING", "RUNNING", "CANCELLED",
                                          "CANCELLED_AND_NOTIFIED", "FINISHED"};

typedef struct {
    PyObject_HEAD
    EgQueue joiners;     /* those in result() and exception() */
    PyObject *result;    /* strong; NULL: None */
    PyObject *exception; /* strong; NULL: none */
    PyObject *callbacks; /* strong: a list; NULL: nobody has asked */
    PyObject *waiters;   /* strong: a list, of the standard library's and our wait(); or NULL */
    PyObject *condition; /* strong; NULL: nobody has asked */
    PyObject *pool;      /* strong: whose workers lend their places while they wait; or NULL */
    EgHub *pinned;       /* strong: the loop that waits for the outside; NULL: none */
    unsigned forks;      /* of that loop, when it was pinned */
    uint8_t state;
    bool outside; /* something that is no task completes it */
} EgFuture;

static inline bool
future_is_done(const EgFuture *self)
{
    return self->state >= CANCELLED;
}

static inline bool
future_is_cancelled(const EgFuture *self)
{
    return self->state == CANCELLED || self->state == NOTIFIED;
}

/* Raise an exception type of concurrent.futures; always NULL. */
static PyObject *
future_raise(const char *name, PyObject *message)
{
    PyObject *module = PyImport_ImportModule("concurrent.futures");
    PyObject *type = module ? PyObject_GetAttrString(module, name) : NULL;
    if (type && message)
        PyErr_SetObject(type, message);
    else if (type)
        PyErr_SetNone(type);
    Py_XDECREF(type);
    Py_XDECREF(module);
    return NULL;
}

/* ---- changes of state ---------------------------------------------------------------- */
/* Take hold of the condition, if there is one; *held is then strong. Other threads and tasks
 * run meanwhile, so the state is looked at afterwards. */
static int
future_hold(EgFuture *self, PyObject **held)
{
    *held = Py_XNewRef(self->condition);
    if (!*held)
        return 0;
    PyObject *result = PyObject_CallMethod(*held, "acquire", NULL);
    if (!result)
        Py_CLEAR(*held);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Notify who waits on the condition itself, and let go of it; keeps an exception that is set. */
static void
future_let_go(EgFuture *self, PyObject *held)
{
    static const char *const calls[] = {"notify_all", "release"};
    PyObject *type, *value, *traceback;
    if (!held)
        return;
    PyErr_Fetch(&type, &value, &traceback);
    for (int i = 0; i < 2; i++) {
        PyObject *result = PyObject_CallMethod(held, calls[i], NULL);
        if (!result)
            PyErr_WriteUnraisable((PyObject *)self);
        Py_XDECREF(result);
    }
    Py_DECREF(held);
    PyErr_Restore(type, value, traceback);
}

static void
future_unpin(EgFuture *self)
{
    EgHub *hub = self->pinned; /* ours now */
    if (!hub)
        return;
    self->pinned = NULL;
    if (self->forks == hub->forks) {
        hub->pins--;
        eg_hub_wake(hub);
    }
    Py_DECREF(hub);
}

/* Tell wait() and as_completed(); method: what this means to them. */
static void
future_tell_waiters(EgFuture *self, const char *method)
{
    PyObject *waiters = self->waiters ? PyList_AsTuple(self->waiters) : NULL;
    if (!waiters) {
        if (self->waiters)
            PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(waiters); i++) {
        PyObject *waiter = PyTuple_GET_ITEM(waiters, i);
        PyObject *result = PyObject_CallMethod(waiter, method, "O", self);
        if (!result)
            PyErr_WriteUnraisable(waiter);
        Py_XDECREF(result);
    }
    Py_DECREF(waiters);
}

/* Call one callback; an Exception is reported, anything else is left set. */
static int
future_call(EgFuture *self, PyObject *callback)
{
    PyObject *result = PyObject_CallOneArg(callback, (PyObject *)self);
    if (!result && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback)
            PyException_SetTraceback(value, traceback);
        result = PyObject_CallMethod((PyObject *)self, "_callback_failed", "O", value);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    }
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Call each callback once; the first exception that is no Exception comes out at the end. */
static int
future_run_callbacks(EgFuture *self)
{
    PyObject *type = NULL, *value = NULL, *traceback = NULL;
    PyObject *callbacks = self->callbacks; /* ours now */
    self->callbacks = NULL;
    for (Py_ssize_t i = 0; callbacks && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *callback = Py_NewRef(PyList_GET_ITEM(callbacks, i));
        if (future_call(self, callback) < 0) {
            if (type)
                PyErr_WriteUnraisable(callback);
            else
                PyErr_Fetch(&type, &value, &traceback);
        }
        Py_DECREF(callback);
    }
    Py_XDECREF(callbacks);
    PyErr_Restore(type, value, traceback);
    return type ? -1 : 0;
}

/* It is done: wake whoever waits for that. */
static void
future_done(EgFuture *self)
{
    eg_queue_wake_all(&self->joiners);
    future_unpin(self);
    Py_CLEAR(self->pool);
}

static int
future_finish(EgFuture *self, PyObject *result, PyObject *exception)
{
    PyObject *held;
    if (future_hold(self, &held) < 0)
        return -1;
    if (future_is_done(self)) {
        future_let_go(self, held);
        PyObject *message = PyUnicode_FromFormat("%s: %R", state_names[self->state], self);
        if (message)
            future_raise("InvalidStateError", message);
        Py_XDECREF(message);
        return -1;
    }
    PyObject *before = self->result, *before_exc = self->exception;
    self->result = Py_XNewRef(result);
    self->exception = Py_XNewRef(exception);
    self->state = FINISHED;
    if (self->waiters)
        future_tell_waiters(self, exception ? "add_exception" : "add_result");
    future_let_go(self, held);
    future_done(self);
    Py_XDECREF(before);
    Py_XDECREF(before_exc);
    return self->callbacks ? future_run_callbacks(self) : 0;
}

PyDoc_STRVAR(future_set_result_doc,
"set_result($self, result, /)\n"
"--\n"
"\n"
"Complete the future with a result. InvalidStateError: it is done already.");

static PyObject *
future_set_result(PyObject *op, PyObject *result)
{
    if (future_finish((EgFuture *)op, result, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(future_set_exception_doc,
"set_exception($self, exception, /)\n"
"--\n"
"\n"
"Complete the future with an exception, or with the result None if it is None.\n"
"\n"
"InvalidStateError: it is done already. TypeError: it is no exception.");

static PyObject *
future_set_exception(PyObject *op, PyObject *exception)
{
    if (exception != Py_None && !PyExceptionInstance_Check(exception))
        return PyErr_Format(PyExc_TypeError, "set_exception() takes an exception, not %R",
                            exception);
    if (future_finish((EgFuture *)op, NULL, exception == Py_None ? NULL : exception) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(future_cancel_doc,
"cancel($self, /)\n"
"--\n"
"\n"
"Have the call not be made; return whether it will not be: False if it runs or has ended.");

static PyObject *
future_cancel(PyObject *op, PyObject *unused)
{
    EgFuture *self = (EgFuture *)op;
    PyObject *held;
    (void)unused;
    if (future_hold(self, &held) < 0)
        return NULL;
    bool changed = self->state == PENDING;
    if (changed)
        self->state = CANCELLED;
    future_let_go(self, held);
    if (changed) {
        future_done(self);
        if (future_run_callbacks(self) < 0)
            return NULL;
    }
    return PyBool_FromLong(future_is_cancelled(self));
}

/* 1: it runs now; 0: it was cancelled; -1: exception. */
static int
future_begin(EgFuture *self)
{
    PyObject *held;
    if (EG_LIKELY(self->state == PENDING && !self->condition)) {
        self->state = RUNNING;
        return 1;
    }
    if (future_hold(self, &held) < 0)
        return -1;
    int status = 1;
    if (self->state == CANCELLED) {
        self->state = NOTIFIED;
        future_tell_waiters(self, "add_cancelled");
        status = 0;
    } else if (self->state == PENDING)
        self->state = RUNNING;
    else {
        PyErr_Format(PyExc_RuntimeError, "Future in unexpected state: %s",
                     state_names[self->state]);
        status = -1;
    }
    future_let_go(self, held);
    return status;
}

PyDoc_STRVAR(future_set_running_doc,
"set_running_or_notify_cancel($self, /)\n"
"--\n"
"\n"
"Say that the call begins, before making it: False means that it was cancelled.\n"
"\n"
"RuntimeError: this was said before, or the future is done.");

static PyObject *
future_set_running(PyObject *op, PyObject *unused)
{
    (void)unused;
    int status = future_begin((EgFuture *)op);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

PyDoc_STRVAR(future_make_call_doc,
"_make_call($self, function, args, kwargs, /)\n"
"--\n"
"\n"
"Make the call in its place, unless the future was cancelled, and complete the future.");

static PyObject *
future_make_call(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgFuture *self = (EgFuture *)op;
    if (n != 3 || !PyTuple_Check(args[1]) || !PyDict_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "_make_call() takes a function, a tuple and a dict");
        return NULL;
    }
    int status = future_begin(self);
    if (status <= 0)
        return status < 0 ? NULL : Py_NewRef(Py_None);
    PyObject *value = PyObject_Call(args[0], args[1], args[2]);
    if (value) {
        status = future_finish(self, value, NULL);
        Py_DECREF(value);
    } else {
        PyObject *type, *exc, *traceback;
        PyErr_Fetch(&type, &exc, &traceback);
        PyErr_NormalizeException(&type, &exc, &traceback);
        if (traceback)
            PyException_SetTraceback(exc, traceback);
        status = future_finish(self, NULL, exc);
        Py_XDECREF(type);
        Py_XDECREF(exc);
        Py_XDECREF(traceback);
    }
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- waiting -------------------------------------------------------------------------- */
static const EgWaitKind future_kind = {"future", NULL};

/* Tell the pool that a worker of its own begins or ends to wait; 1: it is one; 0: not. */
static int
future_ask_pool(PyObject *pool, const char *method)
{
    PyObject *answer = PyObject_CallMethod(pool, method, NULL);
    int is = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return is;
}

/* 1: done; 0: the deadline passed; -1: exception. */
static int
future_park(EgFuture *self, uint64_t deadline)
{
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    EgHub *hub = self->outside ? me->hub : NULL; /* the task's; NULL: a native thread */
    if (hub)
        hub->pins++;
    eg_wait_join(me, &self->joiners);
    int status = eg_wait_park(me, &future_kind, (PyObject *)self, deadline);
    if (hub)
        hub->pins--;
    return status;
}

static int
future_wait(EgFuture *self, PyObject *timeout)
{
    uint64_t deadline;
    if (future_is_done(self))
        return 1;
    if (eg_clock_deadline(timeout, &deadline) < 0)
        return -1;
    PyObject *pool = Py_XNewRef(self->pool);
    int lent = pool ? future_ask_pool(pool, "lend") : 0, status = lent < 0 ? -1 : 1;
    if (status > 0 && !future_is_done(self)) /* Python ran */
        status = future_park(self, deadline);
    if (lent > 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (future_ask_pool(pool, "take_back") < 0)
            PyErr_WriteUnraisable(pool);
        PyErr_Restore(type, value, traceback);
    }
    Py_XDECREF(pool);
    return status;
}

/* Wait and return whether there is an outcome to look at; false: exception set. */
static bool
future_outcome(EgFuture *self, PyObject *timeout)
{
    int status = future_wait(self, timeout);
    if (status < 0)
        return false;
    if (future_is_cancelled(self))
        future_raise("CancelledError", NULL);
    else if (self->state != FINISHED)
        PyErr_SetNone(PyExc_TimeoutError);
    else
        return true;
    return false;
}

static PyObject *
future_open(EgFuture *self)
{
    if (!self->exception)
        return Py_NewRef(self->result ? self->result : Py_None);
    PyErr_SetObject((PyObject *)Py_TYPE(self->exception), self->exception);
    return NULL;
}

/* The argument timeout=None alone; -1: exception. */
static int
future_parse_timeout(const char *method, PyObject *const *args, Py_ssize_t n, PyObject *kwnames,
                     PyObject **timeout)
{
    Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *timeout = n || named ? args[0] : Py_None;
    if (n + named > 1)
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method,
                     n + named);
    else if (named
             && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") != 0)
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", method,
                     PyTuple_GET_ITEM(kwnames, 0));
    else
        return 0;
    return -1;
}

PyDoc_STRVAR(future_result_doc,
"result($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait for the call; return what it returned, or raise what it raised.\n"
"\n"
"A task waits while others run, a native thread sleeps. TimeoutError: it has not ended in\n"
"timeout seconds. CancelledError: it will not be made.");

static PyObject *
future_result(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgFuture *self = (EgFuture *)op;
    PyObject *timeout;
    if (future_parse_timeout("result", args, n, kwnames, &timeout) < 0
        || !future_outcome(self, timeout))
        return NULL;
    return future_open(self);
}

PyDoc_STRVAR(future_exception_doc,
"exception($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait for the call; return the exception that it raised, or None.\n"
"\n"
"TimeoutError: it has not ended in timeout seconds. CancelledError: it will not be made.");

static PyObject *
future_exception(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgFuture *self = (EgFuture *)op;
    PyObject *timeout;
    if (future_parse_timeout("exception", args, n, kwnames, &timeout) < 0
        || !future_outcome(self, timeout))
        return NULL;
    return Py_NewRef(self->exception ? self->exception : Py_None);
}

PyDoc_STRVAR(future_get_doc,
"get($self, /, timeout=None, return_exception=False)\n"
"--\n"
"\n"
"Wait for the call; return what it returned, or raise what it raised.\n"
"\n"
"With return_exception, return what it raised. TimeoutError and CancelledError are raised, as\n"
"by result().");

static PyObject *
future_get(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", "return_exception", NULL};
    EgFuture *self = (EgFuture *)op;
    PyObject *timeout = Py_None;
    int return_exception = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|Op:get", names, &timeout, &return_exception)
        || !future_outcome(self, timeout))
        return NULL;
    if (self->exception && return_exception)
        return Py_NewRef(self->exception);
    return future_open(self);
}

/* ---- asking, and being told -------------------------------------------------------------- */
PyDoc_STRVAR(future_running_doc,
"running($self, /)\n"
"--\n"
"\n"
"Return whether the call is being made.");

static PyObject *
future_running(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgFuture *)op)->state == RUNNING);
}

static PyObject *
future_get_done(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef(future_is_done((EgFuture *)op) ? eg_state->answer_yes : eg_state->answer_no);
}

static PyObject *
future_get_cancelled(PyObject *op, void *unused)
{
    bool is = future_is_cancelled((EgFuture *)op);
    (void)unused;
    return Py_NewRef(is ? eg_state->answer_yes : eg_state->answer_no);
}

PyDoc_STRVAR(future_add_done_callback_doc,
"add_done_callback($self, function, /)\n"
"--\n"
"\n"
"Have function(future) be called when the future is done, or now if it is.\n"
"\n"
"It is called where the future is completed or cancelled: in that task, or native thread.\n"
"An Exception that it raises is logged by the logger concurrent.futures.");

static PyObject *
future_add_done_callback(PyObject *op, PyObject *callback)
{
    EgFuture *self = (EgFuture *)op;
    if (future_is_done(self))
        return future_call(self, callback) < 0 ? NULL : Py_NewRef(Py_None);
    if (!self->callbacks) {
        PyObject *callbacks = PyList_New(0); /* may run a finaliser, and that anything */
        if (!callbacks)
            return NULL;
        if (self->callbacks)
            Py_DECREF(callbacks);
        else
            self->callbacks = callbacks;
        if (future_is_done(self))
            return future_add_done_callback(op, callback);
    }
    return PyList_Append(self->callbacks, callback) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
future_invoke_callbacks(PyObject *op, PyObject *unused)
{
    (void)unused;
    return future_run_callbacks((EgFuture *)op) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The list at *where, made when it is first asked for; borrowed. */
static PyObject *
future_list(PyObject **where)
{
    if (!*where) {
        PyObject *list = PyList_New(0);
        if (*where)
            Py_XDECREF(list);
        else
            *where = list;
    }
    return *where;
}

PyDoc_STRVAR(future_enlist_doc,
"_enlist($self, waiter, /)\n"
"--\n"
"\n"
"Have the waiter be told of the outcome; False: it is there already.");

static PyObject *
future_enlist(PyObject *op, PyObject *waiter)
{
    EgFuture *self = (EgFuture *)op;
    PyObject *waiters = future_list(&self->waiters);
    if (!waiters)
        return NULL;
    if (self->state >= NOTIFIED)
        Py_RETURN_FALSE;
    return PyList_Append(waiters, waiter) < 0 ? NULL : Py_NewRef(Py_True);
}

PyDoc_STRVAR(future_discharge_doc,
"_discharge($self, waiter, /)\n"
"--\n"
"\n"
"Have the waiter not be told any more. Harmless if it would not be.");

static PyObject *
future_discharge(PyObject *op, PyObject *waiter)
{
    PyObject *waiters = ((EgFuture *)op)->waiters; /* no Python runs below */
    for (Py_ssize_t i = 0; waiters && i < PyList_GET_SIZE(waiters); i++)
        if (PyList_GET_ITEM(waiters, i) == waiter)
            return PyList_SetSlice(waiters, i, i + 1, NULL) < 0 ? NULL : Py_NewRef(Py_None);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(future_from_outside_doc,
"_from_outside($self, /)\n"
"--\n"
"\n"
"Say that no task completes it: until it is done, this thread's loop, and those of the tasks\n"
"that wait for it, have something to wait for.");

static PyObject *
future_from_outside(PyObject *op, PyObject *unused)
{
    EgFuture *self = (EgFuture *)op;
    (void)unused;
    self->outside = true;
    if (eg_hub_here && !self->pinned && !future_is_done(self)) {
        self->pinned = (EgHub *)Py_NewRef(eg_hub_here);
        self->forks = eg_hub_here->forks;
        self->pinned->pins++;
    }
    Py_RETURN_NONE;
}

/* ---- what the standard library looks into -------------------------------------------------- */
static PyObject *
future_get_state(PyObject *op, void *unused)
{
    (void)unused;
    return PyUnicode_InternFromString(state_names[((EgFuture *)op)->state]);
}

static int
future_set_state(PyObject *op, PyObject *value, void *unused)
{
    EgFuture *self = (EgFuture *)op;
    (void)unused;
    for (int state = PENDING; value && PyUnicode_Check(value) && state <= FINISHED; state++)
        if (PyUnicode_CompareWithASCIIString(value, state_names[state]) == 0) {
            self->state = (uint8_t)state;
            if (future_is_done(self))
                future_done(self);
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "_state cannot be %R", value ? value : Py_None);
    return -1;
}

static PyObject *
future_get_result(PyObject *op, void *unused)
{
    PyObject *result = ((EgFuture *)op)->result;
    (void)unused;
    return Py_NewRef(result ? result : Py_None);
}

static PyObject *
future_get_exception(PyObject *op, void *unused)
{
    PyObject *exception = ((EgFuture *)op)->exception;
    (void)unused;
    return Py_NewRef(exception ? exception : Py_None);
}

static int
future_set_attribute(PyObject **where, PyObject *value)
{
    PyObject *before = *where;
    *where = value == Py_None ? NULL : Py_XNewRef(value);
    Py_XDECREF(before);
    return 0;
}

static int
future_set_result_attribute(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    return future_set_attribute(&((EgFuture *)op)->result, value);
}

static int
future_set_exception_attribute(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    if (value && value != Py_None && !PyExceptionInstance_Check(value)) {
        PyErr_Format(PyExc_TypeError, "_exception cannot be %R", value);
        return -1;
    }
    return future_set_attribute(&((EgFuture *)op)->exception, value);
}

static PyObject *
future_get_waiters(PyObject *op, void *unused)
{
    (void)unused;
    return Py_XNewRef(future_list(&((EgFuture *)op)->waiters));
}

static PyObject *
future_get_callbacks(PyObject *op, void *unused)
{
    (void)unused;
    return Py_XNewRef(future_list(&((EgFuture *)op)->callbacks));
}

static PyObject *
future_get_condition(PyObject *op, void *unused)
{
    EgFuture *self = (EgFuture *)op;
    (void)unused;
    if (!self->condition) {
        PyObject *made = PyObject_CallMethod(op, "_make_condition", NULL);
        if (!made)
            return NULL;
        if (self->condition)
            Py_DECREF(made); /* another thread was first */
        else
            self->condition = made;
    }
    return Py_NewRef(self->condition);
}

static PyObject *
future_get_pool(PyObject *op, void *unused)
{
    PyObject *pool = ((EgFuture *)op)->pool;
    (void)unused;
    return Py_NewRef(pool ? pool : Py_None);
}

static int
future_set_pool(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    return future_set_attribute(&((EgFuture *)op)->pool, value);
}

static PyObject *
future_get_outside(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgFuture *)op)->outside);
}

/* ---- the type ---------------------------------------------------------------------------------- */
static int
future_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgFuture *self = (EgFuture *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->result);
    Py_VISIT(self->exception);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->waiters);
    Py_VISIT(self->condition);
    Py_VISIT(self->pool);
    return 0; /* a hub that is pinned is alive */
}

static int
future_clear(PyObject *op)
{
    EgFuture *self = (EgFuture *)op;
    Py_CLEAR(self->result);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->condition);
    Py_CLEAR(self->pool);
    return 0;
}

static int
future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs))) {
        PyErr_Format(PyExc_TypeError, "%s() takes no arguments", Py_TYPE(op)->tp_name);
        return -1;
    }
    return 0;
}

static void
future_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, future_dealloc);
    future_unpin((EgFuture *)op);
    future_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef future_methods[] = {
    {"cancel", future_cancel, METH_NOARGS, future_cancel_doc},
    {"running", future_running, METH_NOARGS, future_running_doc},
    {"result", EG_METHOD(future_result), METH_FASTCALL | METH_KEYWORDS, future_result_doc},
    {"exception", EG_METHOD(future_exception), METH_FASTCALL | METH_KEYWORDS, future_exception_doc},
    {"get", EG_METHOD(future_get), METH_VARARGS | METH_KEYWORDS, future_get_doc},
    {"add_done_callback", future_add_done_callback, METH_O, future_add_done_callback_doc},
    {"set_running_or_notify_cancel", future_set_running, METH_NOARGS, future_set_running_doc},
    {"set_result", future_set_result, METH_O, future_set_result_doc},
    {"set_exception", future_set_exception, METH_O, future_set_exception_doc},
    {"_make_call", EG_METHOD(future_make_call), METH_FASTCALL, future_make_call_doc},
    {"_invoke_callbacks", future_invoke_callbacks, METH_NOARGS, NULL},
    {"_enlist", future_enlist, METH_O, future_enlist_doc},
    {"_discharge", future_discharge, METH_O, future_discharge_doc},
    {"_from_outside", future_from_outside, METH_NOARGS, future_from_outside_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("A future of a result of some type.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef future_getset[] = {
    {"done", future_get_done, NULL,
     PyDoc_STR("Whether it has a result or an exception, or was cancelled: done or done()."), NULL},
    {"cancelled", future_get_cancelled, NULL,
     PyDoc_STR("Whether it was cancelled: cancelled or cancelled()."), NULL},
    {"_state", future_get_state, future_set_state, NULL, NULL},
    {"_result", future_get_result, future_set_result_attribute, NULL, NULL},
    {"_exception", future_get_exception, future_set_exception_attribute, NULL, NULL},
    {"_waiters", future_get_waiters, NULL, NULL, NULL},
    {"_done_callbacks", future_get_callbacks, NULL, NULL, NULL},
    {"_condition", future_get_condition, NULL, NULL, NULL},
    {"_pool", future_get_pool, future_set_pool, NULL, NULL},
    {"_outside", future_get_outside, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(future_doc,
"FutureCore()\n"
"--\n"
"\n"
"What evergreen.futures.Future adds to concurrent.futures.Future.");

static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)future_doc},   {Py_tp_init, future_init},
    {Py_tp_traverse, future_traverse}, {Py_tp_clear, future_clear},
    {Py_tp_dealloc, future_dealloc},   {Py_tp_methods, future_methods},
    {Py_tp_getset, future_getset},     {0, NULL},
};

PyType_Spec eg_future_spec = {
    .name = "evergreen._evergreen_c.FutureCore",
    .basicsize = sizeof(EgFuture),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = future_slots,
};

/* ---- yes and no, which are called or not ----------------------------------------------------------- */
static PyObject *
answer_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "done() and cancelled() take no arguments");
        return NULL;
    }
    return PyBool_FromLong(op == eg_state->answer_yes);
}

static PyObject *
answer_repr(PyObject *op)
{
    return PyUnicode_FromString(op == eg_state->answer_yes ? "True" : "False");
}

static PyObject *
answer_reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return Py_BuildValue("(O(i))", &PyBool_Type, op == eg_state->answer_yes);
}

static PyMethodDef answer_methods[] = {
    {"__reduce__", answer_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot answer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Whether it is so; calling it says the same.")},
    {Py_tp_call, answer_call},
    {Py_tp_repr, answer_repr},
    {Py_tp_str, answer_repr},
    {Py_tp_methods, answer_methods},
    {0, NULL},
};

PyType_Spec eg_answer_spec = {
    .name = "evergreen.futures.Answer",
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = answer_slots,
};

int
eg_future_setup(EgState *state)
{
    PyObject *type = (PyObject *)state->answer_type;
    state->answer_yes = PyObject_CallFunction(type, "i", 1);
    state->answer_no = PyObject_CallFunction(type, "i", 0);
    return state->answer_yes && state->answer_no ? 0 : -1;
}
