/* lock.c: Semaphore, BoundedSemaphore, Lock and RLock, with the interfaces of module threading.
 *
 * A permit goes from whoever releases it to the longest waiter, without being free in between,
 * so nobody overtakes.  A task that is killed before it could use the permit it was handed
 * releases it.
 *
 * A Lock is a semaphore with one permit.  An RLock belongs to a task, or to a native thread.
 */
#include "evergreen.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    EgQueue waiters;
    Py_ssize_t value; /* permits that are free; 0 while somebody waits */
    Py_ssize_t bound; /* permits there can be; EG_UNBOUNDED */
    PyObject *weakrefs;
} EgSemaphore;

#define EG_UNBOUNDED PY_SSIZE_T_MAX

typedef struct {
    PyObject_HEAD
    EgQueue waiters;
    uint64_t owner; /* as eg_task_identity() has it; 0: nobody */
    Py_ssize_t count;
    PyObject *weakrefs;
} EgRLock;

/* ---- arguments -------------------------------------------------------------------- */
/* acquire(blocking=True, timeout=None). 1: may wait until deadline; 0: may not; -1: exception. */
static int
lock_parse(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, bool strict, uint64_t *deadline)
{
    static const char *const names[] = {"blocking", "timeout"};
    PyObject *values[2] = {NULL, NULL};
    *deadline = EG_FOREVER;
    if (EG_LIKELY(n == 0 && !kwnames))
        return 1;
    if (eg_parse("acquire", names, 2, 0, args, n, kwnames, values) < 0)
        return -1;
    int blocking = values[0] ? PyObject_IsTrue(values[0]) : 1;
    if (blocking < 0 || !values[1] || values[1] == Py_None)
        return blocking;
    double seconds;
    if (eg_clock_seconds(values[1], &seconds) < 0)
        return -1;
    if (strict && seconds == -1)
        return blocking; /* what threading.Lock takes for "for ever" */
    if (!blocking) {
        PyErr_SetString(PyExc_ValueError, strict
                                              ? "can't specify a timeout for a non-blocking call"
                                              : "can't specify timeout for non-blocking acquire");
        return -1;
    }
    if (strict && seconds < 0) {
        PyErr_SetString(PyExc_ValueError, "timeout value must be a non-negative number");
        return -1;
    }
    if (strict && seconds > (double)PY_TIMEOUT_MAX / 1e6) {
        PyErr_SetString(PyExc_OverflowError, "timeout value is too large");
        return -1;
    }
    *deadline = eg_clock_after(seconds);
    return 1;
}

/* ---- permits ------------------------------------------------------------------------ */
static void
semaphore_put(EgSemaphore *self)
{
    if (!eg_queue_wake(&self->waiters, NULL))
        self->value++;
}

static void
semaphore_give_back(EgTask *task)
{
    semaphore_put((EgSemaphore *)task->wait.object); /* held by the waiter's frame */
}

static const EgWaitKind semaphore_kind = {"semaphore", semaphore_give_back};
static const EgWaitKind lock_kind = {"lock", semaphore_give_back};

/* 1: has a permit; 0: not in time; -1: exception. */
static int
semaphore_wait(EgSemaphore *self, const EgWaitKind *kind, uint64_t deadline)
{
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    eg_wait_join(me, &self->waiters);
    return eg_wait_park(me, kind, (PyObject *)self, deadline);
}

static PyObject *
semaphore_take(EgSemaphore *self, const EgWaitKind *kind, PyObject *const *args, Py_ssize_t n,
               PyObject *kwnames)
{
    uint64_t deadline;
    int blocking = lock_parse(args, n, kwnames, kind == &lock_kind, &deadline);
    if (blocking < 0)
        return NULL;
    if (EG_LIKELY(self->value > 0)) {
        self->value--;
        Py_RETURN_TRUE;
    }
    if (!blocking)
        Py_RETURN_FALSE;
    int status = semaphore_wait(self, kind, deadline);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

EgQueue *
eg_lock_waitable(PyObject *op, bool *ready)
{
    if (PyObject_TypeCheck(op, eg_state->semaphore_type)) {
        *ready = ((EgSemaphore *)op)->value > 0;
        return &((EgSemaphore *)op)->waiters;
    }
    *ready = ((EgRLock *)op)->count == 0;
    return &((EgRLock *)op)->waiters;
}

/* ---- Semaphore, BoundedSemaphore -------------------------------------------------------- */
PyDoc_STRVAR(semaphore_acquire_doc,
"acquire($self, /, blocking=True, timeout=None)\n"
"--\n"
"\n"
"Take a permit, waiting for one timeout seconds at most; return whether there was one.\n"
"\n"
"Waiters are served in the order in which they came. Raise ValueError for a timeout\n"
"without blocking.");

static PyObject *
semaphore_acquire(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_take((EgSemaphore *)op, &semaphore_kind, args, n, kwnames);
}

static PyObject *
semaphore_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return semaphore_take((EgSemaphore *)op, &semaphore_kind, NULL, 0, NULL);
}

PyDoc_STRVAR(semaphore_release_doc,
"release($self, /, n=1)\n"
"--\n"
"\n"
"Give back n permits; they go to the longest waiters.\n"
"\n"
"Raise ValueError if n is less than one, or if a BoundedSemaphore would then have more\n"
"permits than it began with.");

static PyObject *
semaphore_release(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"n"};
    EgSemaphore *self = (EgSemaphore *)op;
    PyObject *number = NULL;
    Py_ssize_t n = 1;
    if (EG_UNLIKELY(nargs || kwnames)) {
        if (eg_parse("release", names, 1, 0, args, nargs, kwnames, &number) < 0)
            return NULL;
        n = number ? PyNumber_AsSsize_t(number, PyExc_OverflowError) : 1;
        if (n == -1 && PyErr_Occurred())
            return NULL;
    }
    if (n < 1) {
        PyErr_SetString(PyExc_ValueError, "n must be one or more");
        return NULL;
    }
    if (n > self->bound - self->value) {
        PyErr_SetString(PyExc_ValueError, "Semaphore released too many times");
        return NULL;
    }
    while (n > 0 && eg_queue_wake(&self->waiters, NULL))
        n--;
    self->value += n;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    (void)n;
    return semaphore_release(op, NULL, 0, NULL);
}

PyDoc_STRVAR(semaphore_locked_doc,
"locked($self, /)\n"
"--\n"
"\n"
"Return whether acquire() would wait.");

static PyObject *
semaphore_locked(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgSemaphore *)op)->value == 0);
}

static PyObject *
semaphore_get_value(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((EgSemaphore *)op)->value);
}

static int
semaphore_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    EgSemaphore *self = (EgSemaphore *)op;
    Py_ssize_t value = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:Semaphore", names, &value))
        return -1;
    if (value < 0) {
        PyErr_SetString(PyExc_ValueError, "semaphore initial value must be >= 0");
        return -1;
    }
    bool bounded = PyObject_TypeCheck(op, eg_state->bounded_semaphore_type);
    self->bound = bounded ? value : EG_UNBOUNDED;
    while (value > 0 && eg_queue_wake(&self->waiters, NULL)) /* it was in use */
        value--;
    self->value = value;
    return 0;
}

static PyObject *
semaphore_repr(PyObject *op)
{
    EgSemaphore *self = (EgSemaphore *)op;
    PyObject *repr = NULL, *name = PyType_GetName(Py_TYPE(op));
    if (name && self->bound == EG_UNBOUNDED)
        repr = PyUnicode_FromFormat("<evergreen.%U at %p: value=%zd>", name, op, self->value);
    else if (name)
        repr = PyUnicode_FromFormat("<evergreen.%U at %p: value=%zd/%zd>", name, op, self->value,
                                    self->bound);
    Py_XDECREF(name);
    return repr;
}

static void
semaphore_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((EgSemaphore *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef semaphore_methods[] = {
    {"acquire", EG_METHOD(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS, semaphore_acquire_doc},
    {"release", EG_METHOD(semaphore_release), METH_FASTCALL | METH_KEYWORDS, semaphore_release_doc},
    {"locked", semaphore_locked, METH_NOARGS, semaphore_locked_doc},
    {"__enter__", semaphore_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(semaphore_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef semaphore_getset[] = {
    {"value", semaphore_get_value, NULL, PyDoc_STR("Permits that are free."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef semaphore_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgSemaphore, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(semaphore_doc,
"Semaphore(value=1)\n"
"--\n"
"\n"
"A number of permits that tasks and threads take and give back.");

static PyType_Slot semaphore_slots[] = {
    {Py_tp_doc, (void *)semaphore_doc}, {Py_tp_init, semaphore_init},
    {Py_tp_dealloc, semaphore_dealloc}, {Py_tp_repr, semaphore_repr},
    {Py_tp_methods, semaphore_methods}, {Py_tp_getset, semaphore_getset},
    {Py_tp_members, semaphore_members}, {0, NULL},
};

PyType_Spec eg_semaphore_spec = {
    .name = "evergreen.locks.Semaphore",
    .basicsize = sizeof(EgSemaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = semaphore_slots,
};

PyDoc_STRVAR(bounded_semaphore_doc,
"BoundedSemaphore(value=1)\n"
"--\n"
"\n"
"A Semaphore that refuses to have more permits than it began with.");

static PyType_Slot bounded_semaphore_slots[] = {
    {Py_tp_doc, (void *)bounded_semaphore_doc},
    {0, NULL},
};

PyType_Spec eg_bounded_semaphore_spec = {
    .name = "evergreen.locks.BoundedSemaphore",
    .basicsize = sizeof(EgSemaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = bounded_semaphore_slots,
};

/* ---- Lock -------------------------------------------------------------------------------- */
PyDoc_STRVAR(lock_acquire_doc,
"acquire($self, /, blocking=True, timeout=-1)\n"
"--\n"
"\n"
"Take the lock, waiting timeout seconds at most; return whether it was taken.\n"
"\n"
"A timeout of None or -1 waits for ever. Waiters are served in the order in which they\n"
"came. Raise ValueError for a timeout without blocking, or another negative one.");

static PyObject *
lock_acquire(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return semaphore_take((EgSemaphore *)op, &lock_kind, args, n, kwnames);
}

static PyObject *
lock_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return semaphore_take((EgSemaphore *)op, &lock_kind, NULL, 0, NULL);
}

PyDoc_STRVAR(lock_release_doc,
"release($self, /)\n"
"--\n"
"\n"
"Give the lock to the longest waiter, or free it. Any task or thread may do so.\n"
"\n"
"Raise RuntimeError if it is not locked.");

static PyObject *
lock_release(PyObject *op, PyObject *unused)
{
    EgSemaphore *self = (EgSemaphore *)op;
    (void)unused;
    if (self->value) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return NULL;
    }
    semaphore_put(self);
    Py_RETURN_NONE;
}

static PyObject *
lock_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    (void)n;
    return lock_release(op, NULL);
}

PyDoc_STRVAR(lock_at_fork_reinit_doc,
"_at_fork_reinit($self, /)\n"
"--\n"
"\n"
"In a forked child: free it, whoever had it.");

static PyObject *
lock_at_fork_reinit(PyObject *op, PyObject *unused)
{
    EgSemaphore *self = (EgSemaphore *)op;
    (void)unused;
    if (!self->value)
        semaphore_put(self);
    Py_RETURN_NONE;
}

static PyObject *
lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* A subclass may have an __init__() that takes some. */
    if (type == eg_state->lock_type
        && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
        PyErr_SetString(PyExc_TypeError, "Lock() takes no arguments");
        return NULL;
    }
    EgSemaphore *self = (EgSemaphore *)type->tp_alloc(type, 0);
    if (self)
        self->value = self->bound = 1;
    return (PyObject *)self;
}

static int
lock_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    (void)op;
    (void)args;
    (void)kwargs;
    return 0;
}

static PyObject *
lock_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<%s evergreen.Lock object at %p>",
                                ((EgSemaphore *)op)->value ? "unlocked" : "locked", op);
}

static PyMethodDef lock_methods[] = {
    {"acquire", EG_METHOD(lock_acquire), METH_FASTCALL | METH_KEYWORDS, lock_acquire_doc},
    {"release", lock_release, METH_NOARGS, lock_release_doc},
    {"__enter__", lock_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(lock_exit), METH_FASTCALL, NULL},
    {"_at_fork_reinit", lock_at_fork_reinit, METH_NOARGS, lock_at_fork_reinit_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(lock_doc,
"Lock()\n"
"--\n"
"\n"
"Mutual exclusion among tasks and threads; whoever holds it cannot take it twice.");

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, (void *)lock_doc}, {Py_tp_new, lock_new},         {Py_tp_init, lock_init},
    {Py_tp_repr, lock_repr},       {Py_tp_methods, lock_methods}, {0, NULL},
};

PyType_Spec eg_lock_spec = {
    .name = "evergreen.locks.Lock",
    .basicsize = sizeof(EgSemaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = lock_slots,
};

/* ---- RLock: ownership ---------------------------------------------------------------------- */
/* The lock passes to the longest waiter, who writes its name on it when it runs. */
static void
rlock_pass_on(EgRLock *self)
{
    self->owner = 0;
    self->count = eg_queue_wake(&self->waiters, NULL) ? 1 : 0;
}

static void
rlock_give_back(EgTask *task)
{
    rlock_pass_on((EgRLock *)task->wait.object);
}

static const EgWaitKind rlock_kind = {"rlock", rlock_give_back};

/* 1: it is ours; 0: not in time; -1: exception. */
static int
rlock_wait(EgRLock *self, uint64_t me, uint64_t deadline)
{
    EgTask *task = eg_wait_begin();
    if (!task)
        return -1;
    eg_wait_join(task, &self->waiters);
    int status = eg_wait_park(task, &rlock_kind, (PyObject *)self, deadline);
    if (status > 0)
        self->owner = me; /* count is 1 already */
    return status;
}

static PyObject *
rlock_acquire(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgRLock *self = (EgRLock *)op;
    uint64_t deadline, me = eg_task_identity();
    int blocking = lock_parse(args, n, kwnames, true, &deadline);
    if (blocking < 0)
        return NULL;
    if (self->count == 0 || self->owner == me) {
        self->owner = me;
        self->count++;
        Py_RETURN_TRUE;
    }
    if (!blocking)
        Py_RETURN_FALSE;
    int status = rlock_wait(self, me, deadline);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

PyDoc_STRVAR(rlock_acquire_doc,
"acquire($self, /, blocking=True, timeout=-1)\n"
"--\n"
"\n"
"Take the lock, or take it once more, waiting timeout seconds at most; return whether it\n"
"was taken. See Lock.acquire().");

static PyObject *
rlock_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return rlock_acquire(op, NULL, 0, NULL);
}

static bool
rlock_is_mine(EgRLock *self)
{
    return self->count && self->owner == eg_task_identity();
}

static int
rlock_check_owned(EgRLock *self)
{
    if (rlock_is_mine(self))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
    return -1;
}

PyDoc_STRVAR(rlock_release_doc,
"release($self, /)\n"
"--\n"
"\n"
"Undo one acquire(); the last one gives the lock to the longest waiter, or frees it.\n"
"\n"
"Raise RuntimeError if the caller does not own it.");

static PyObject *
rlock_release(PyObject *op, PyObject *unused)
{
    EgRLock *self = (EgRLock *)op;
    (void)unused;
    if (rlock_check_owned(self) < 0)
        return NULL;
    if (self->count > 1)
        self->count--;
    else
        rlock_pass_on(self);
    Py_RETURN_NONE;
}

static PyObject *
rlock_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    (void)args;
    (void)n;
    return rlock_release(op, NULL);
}

PyDoc_STRVAR(rlock_locked_doc,
"locked($self, /)\n"
"--\n"
"\n"
"Return whether somebody owns it.");

static PyObject *
rlock_locked(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgRLock *)op)->count != 0);
}

static PyObject *
rlock_is_owned(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(rlock_is_mine((EgRLock *)op));
}

static PyObject *
rlock_recursion_count(PyObject *op, PyObject *unused)
{
    EgRLock *self = (EgRLock *)op;
    (void)unused;
    return PyLong_FromSsize_t(rlock_is_mine(self) ? self->count : 0);
}

static PyObject *
rlock_release_save(PyObject *op, PyObject *unused)
{
    EgRLock *self = (EgRLock *)op;
    (void)unused;
    if (rlock_check_owned(self) < 0)
        return NULL;
    Py_ssize_t count = self->count;
    rlock_pass_on(self);
    return PyLong_FromSsize_t(count);
}

static PyObject *
rlock_acquire_restore(PyObject *op, PyObject *state)
{
    Py_ssize_t count = PyLong_AsSsize_t(state);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (rlock_is_mine((EgRLock *)op) || count < 1) {
        PyErr_SetString(PyExc_RuntimeError, "only what _release_save() gave can be restored");
        return NULL;
    }
    return eg_lock_retake(op, count) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
rlock_at_fork_reinit(PyObject *op, PyObject *unused)
{
    (void)unused;
    rlock_pass_on((EgRLock *)op);
    Py_RETURN_NONE;
}

/* ---- for Condition --------------------------------------------------------------------------- */
bool
eg_lock_is_ours(PyObject *lock)
{
    return Py_IS_TYPE(lock, eg_state->rlock_type) || Py_IS_TYPE(lock, eg_state->lock_type);
}

PyObject *
eg_lock_release(PyObject *lock)
{
    return Py_IS_TYPE(lock, eg_state->rlock_type) ? rlock_release(lock, NULL)
                                                  : lock_release(lock, NULL);
}

bool
eg_lock_held(PyObject *lock)
{
    if (Py_IS_TYPE(lock, eg_state->rlock_type))
        return rlock_is_mine((EgRLock *)lock);
    return ((EgSemaphore *)lock)->value == 0;
}

Py_ssize_t
eg_lock_let_go(PyObject *lock)
{
    Py_ssize_t count = 1;
    if (Py_IS_TYPE(lock, eg_state->rlock_type)) {
        count = ((EgRLock *)lock)->count;
        rlock_pass_on((EgRLock *)lock);
    } else
        semaphore_put((EgSemaphore *)lock);
    return count;
}

/* Take it, if it is free. */
static bool
lock_retake_free(PyObject *lock)
{
    if (Py_IS_TYPE(lock, eg_state->lock_type)) {
        if (((EgSemaphore *)lock)->value == 0)
            return false;
        ((EgSemaphore *)lock)->value--;
        return true;
    }
    return ((EgRLock *)lock)->count == 0;
}

int
eg_lock_retake(PyObject *lock, Py_ssize_t count)
{
    bool plain = Py_IS_TYPE(lock, eg_state->lock_type);
    EgQueue *waiters = plain ? &((EgSemaphore *)lock)->waiters : &((EgRLock *)lock)->waiters;
    PyObject *hit = NULL, *exc; /* what hit the caller meanwhile */
    int status = 0;
    while (status == 0 && !lock_retake_free(lock)) {
        status = eg_wait_through(waiters, plain ? &lock_kind : &rlock_kind, lock, &exc);
        if (status == 0)
            eg_wait_collect(&hit, exc);
    }
    if (status < 0) { /* it may not wait here at all */
        Py_XDECREF(hit);
        return -1;
    }
    if (!plain) {
        ((EgRLock *)lock)->owner = eg_task_identity();
        ((EgRLock *)lock)->count = count;
    }
    if (!hit)
        return 0;
    PyErr_SetObject((PyObject *)Py_TYPE(hit), hit);
    Py_DECREF(hit);
    return -1;
}

/* ---- RLock: the type ------------------------------------------------------------------------- */
static PyObject *
rlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (type == eg_state->rlock_type
        && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
        PyErr_SetString(PyExc_TypeError, "RLock() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static PyObject *
rlock_repr(PyObject *op)
{
    EgRLock *self = (EgRLock *)op;
    return PyUnicode_FromFormat("<%s evergreen.RLock object count=%zd at %p>",
                                self->count ? "locked" : "unlocked", self->count, op);
}

static void
rlock_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((EgRLock *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef rlock_methods[] = {
    {"acquire", EG_METHOD(rlock_acquire), METH_FASTCALL | METH_KEYWORDS, rlock_acquire_doc},
    {"release", rlock_release, METH_NOARGS, rlock_release_doc},
    {"locked", rlock_locked, METH_NOARGS, rlock_locked_doc},
    {"__enter__", rlock_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(rlock_exit), METH_FASTCALL, NULL},
    {"_is_owned", rlock_is_owned, METH_NOARGS, NULL},
    {"_recursion_count", rlock_recursion_count, METH_NOARGS, NULL},
    {"_release_save", rlock_release_save, METH_NOARGS, NULL},
    {"_acquire_restore", rlock_acquire_restore, METH_O, NULL},
    {"_at_fork_reinit", rlock_at_fork_reinit, METH_NOARGS, lock_at_fork_reinit_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef rlock_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgRLock, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(rlock_doc,
"RLock()\n"
"--\n"
"\n"
"A lock that its owner, a task or thread, may take more than once.");

static PyType_Slot rlock_slots[] = {
    {Py_tp_doc, (void *)rlock_doc},
    {Py_tp_new, rlock_new},
    {Py_tp_dealloc, rlock_dealloc},
    {Py_tp_repr, rlock_repr},
    {Py_tp_methods, rlock_methods},
    {Py_tp_members, rlock_members},
    {0, NULL},
};

PyType_Spec eg_rlock_spec = {
    .name = "evergreen.locks.RLock",
    .basicsize = sizeof(EgRLock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = rlock_slots,
};
