/* condition.c: Condition and Barrier, with the interfaces of module threading.
 *
 * A waiter of a condition gives up the lock, and has it again whatever ends its wait: an
 * exception that hits it while it waits for the lock is raised once it has it.  A notification
 * that was given to a task which is then killed goes to the next one.
 *
 * A barrier needs no generations: its last party wakes the others, each with the place it had
 * come to, and whoever comes next belongs to the next round.
 */
#include "evergreen.h"

#include <structmember.h>

/* ---- Condition: the lock ------------------------------------------------------------ */
typedef struct {
    PyObject_HEAD
    EgQueue waiters;
    PyObject *lock; /* strong: ours, or anything with acquire() and release() */
    PyObject *weakrefs;
} EgCondition;

/* The lock, new: __init__() may give the condition another meanwhile. NULL: exception, the
 * collector has taken it. */
static PyObject *
condition_lock(PyObject *op)
{
    PyObject *lock = ((EgCondition *)op)->lock;
    if (!lock)
        PyErr_SetString(PyExc_RuntimeError, "this Condition has no lock any more");
    return Py_XNewRef(lock);
}

static PyObject *
condition_call(PyObject *lock, const char *method, PyObject *arg)
{
    return PyObject_CallMethod(lock, method, arg ? "(O)" : NULL, arg);
}

/* 1: the lock has such a method; 0: not; -1: exception. */
static int
condition_lock_has(PyObject *lock, const char *method)
{
    PyObject *found = PyObject_GetAttrString(lock, method);
    if (!found && !PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    Py_XDECREF(found);
    return found != NULL;
}

/* 1: the caller holds the lock; 0: not; -1: exception. */
static int
condition_held(PyObject *lock)
{
    if (eg_lock_is_ours(lock))
        return eg_lock_held(lock);
    int asks = condition_lock_has(lock, "_is_owned");
    if (asks < 0)
        return -1;
    PyObject *answer =
        asks ? condition_call(lock, "_is_owned", NULL) : condition_call(lock, "acquire", Py_False);
    int status = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (status < 0 || asks)
        return status;
    if (status) { /* it was free: we have it now */
        PyObject *result = condition_call(lock, "release", NULL);
        if (!result)
            return -1;
        Py_DECREF(result);
    }
    return !status;
}

static int
condition_check(PyObject *lock, const char *text)
{
    int held = condition_held(lock);
    if (held == 0)
        PyErr_SetString(PyExc_RuntimeError, text);
    return held > 0 ? 0 : -1;
}

/* What eg_lock_retake() and friends do for our own locks; new: what condition_retake() needs. */
static PyObject *
condition_let_go(PyObject *lock)
{
    if (eg_lock_is_ours(lock)) {
        Py_ssize_t count = eg_lock_let_go(lock);
        PyObject *state = PyLong_FromSsize_t(count);
        if (!state)
            eg_lock_retake(lock, count);
        return state;
    }
    int saves = condition_lock_has(lock, "_release_save");
    return saves < 0 ? NULL : condition_call(lock, saves ? "_release_save" : "release", NULL);
}

/* Take a lock of somebody else's, which may be anything. What is thrown at the task meanwhile
 * waits; what gets through nevertheless (Ctrl-C) is raised once we have the lock. */
static int
condition_retake_foreign(PyObject *lock, PyObject *state)
{
    const char *method =
        condition_lock_has(lock, "_acquire_restore") ? "_acquire_restore" : "acquire";
    EgTask *me = eg_hub_here ? eg_hub_task(eg_hub_here) : NULL;
    PyObject *hit = NULL, *result;
    PyErr_Clear();
    if (me)
        eg_shield_begin(me);
    while (!(result = condition_call(lock, method, *method == '_' ? state : NULL))
           && !PyErr_ExceptionMatches(PyExc_Exception))
        eg_wait_collect(&hit, eg_task_take_exception());
    if (me)
        eg_shield_leave(me);
    if (result && hit)
        PyErr_SetObject((PyObject *)Py_TYPE(hit), hit);
    int status = result && !hit ? 0 : -1;
    Py_XDECREF(result);
    Py_XDECREF(hit);
    return status;
}

/* With or without an exception set: that becomes the context of another. Steals state. */
static int
condition_retake(PyObject *lock, PyObject *state)
{
    PyObject *before = PyErr_Occurred() ? eg_task_take_exception() : NULL;
    int status = eg_lock_is_ours(lock) ? eg_lock_retake(lock, PyLong_AsSsize_t(state))
                                       : condition_retake_foreign(lock, state);
    Py_DECREF(state);
    if (!before)
        return status;
    if (status == 0)
        PyErr_SetObject((PyObject *)Py_TYPE(before), before);
    else {
        PyObject *exc = eg_task_take_exception();
        if (exc != before)
            PyException_SetContext(exc, Py_NewRef(before));
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    Py_DECREF(before);
    return -1;
}

/* ---- Condition: methods ------------------------------------------------------------------- */
static void
condition_give_back(EgTask *task)
{
    eg_queue_wake(&((EgCondition *)task->wait.object)->waiters, NULL);
}

static const EgWaitKind condition_kind = {"condition", condition_give_back};

static int
condition_check_held(EgCondition *self)
{
    PyObject *lock = condition_lock((PyObject *)self);
    int status = lock ? condition_check(lock, "cannot notify on un-acquired lock") : -1;
    Py_XDECREF(lock);
    return status;
}

/* 1: notified; 0: not in time; -1: exception. The lock is held, before and after. */
static int
condition_park(EgCondition *self, uint64_t deadline)
{
    PyObject *lock = condition_lock((PyObject *)self), *state = NULL;
    EgTask *me;
    int status = -1;
    if (!lock || condition_check(lock, "cannot wait on un-acquired lock") < 0 || !eg_wait_begin()
        || !(state = condition_let_go(lock)))
        goto done;
    if ((me = eg_wait_begin())) { /* anew: a lock of somebody else's may have waited */
        eg_wait_join(me, &self->waiters);
        status = eg_wait_park(me, &condition_kind, (PyObject *)self, deadline);
    }
    if (condition_retake(lock, state) < 0)
        status = -1;
done:
    Py_XDECREF(lock);
    return status;
}

PyDoc_STRVAR(condition_wait_doc,
"wait($self, /, timeout=None)\n"
"--\n"
"\n"
"Give up the lock, wait for a notification, timeout seconds at most, and take the lock\n"
"again; return whether there was one.\n"
"\n"
"Raise RuntimeError if the caller does not hold the lock.");

static PyObject *
condition_wait(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    PyObject *timeout = NULL;
    uint64_t deadline;
    if (eg_parse("wait", names, 1, 0, args, n, kwnames, &timeout) < 0
        || eg_clock_deadline(timeout, &deadline) < 0)
        return NULL;
    int status = condition_park((EgCondition *)op, deadline);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

PyDoc_STRVAR(condition_wait_for_doc,
"wait_for($self, /, predicate, timeout=None)\n"
"--\n"
"\n"
"Wait until predicate() is true, timeout seconds at most; return what it returned last.");

static PyObject *
condition_wait_for(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"predicate", "timeout"};
    PyObject *values[2] = {NULL, NULL};
    uint64_t deadline;
    if (eg_parse("wait_for", names, 2, 1, args, n, kwnames, values) < 0
        || eg_clock_deadline(values[1], &deadline) < 0)
        return NULL;
    for (int waited = 1;;) {
        PyObject *answer = PyObject_CallNoArgs(values[0]);
        int truth = answer ? PyObject_IsTrue(answer) : -1;
        if (truth == 0 && waited > 0)
            waited = condition_park((EgCondition *)op, deadline);
        else if (truth >= 0)
            return answer;
        else
            waited = -1;
        Py_XDECREF(answer);
        if (waited < 0)
            return NULL;
    }
}

PyDoc_STRVAR(condition_notify_doc,
"notify($self, /, n=1)\n"
"--\n"
"\n"
"Wake the n longest waiters; they go on when they have the lock.\n"
"\n"
"Raise RuntimeError if the caller does not hold the lock.");

static PyObject *
condition_notify(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"n"};
    EgCondition *self = (EgCondition *)op;
    PyObject *number = NULL;
    if (eg_parse("notify", names, 1, 0, args, nargs, kwnames, &number) < 0)
        return NULL;
    Py_ssize_t n = number ? PyNumber_AsSsize_t(number, PyExc_OverflowError) : 1;
    if ((n == -1 && PyErr_Occurred()) || condition_check_held(self) < 0)
        return NULL;
    while (n-- > 0 && eg_queue_wake(&self->waiters, NULL))
        continue;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(condition_notify_all_doc,
"notify_all($self, /)\n"
"--\n"
"\n"
"Wake all waiters; they go on one after the other, as each gets the lock.\n"
"\n"
"Raise RuntimeError if the caller does not hold the lock.");

static PyObject *
condition_notify_all(PyObject *op, PyObject *unused)
{
    EgCondition *self = (EgCondition *)op;
    (void)unused;
    if (condition_check_held(self) < 0)
        return NULL;
    eg_queue_wake_all(&self->waiters);
    Py_RETURN_NONE;
}

static PyObject *
condition_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    PyObject *lock = condition_lock(op);
    PyObject *result = lock ? condition_call(lock, "__enter__", NULL) : NULL;
    Py_XDECREF(lock);
    return result;
}

/* It takes no memory: else the lock would stay taken for want of it. */
static PyObject *
condition_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    PyObject *lock = condition_lock(op), *result = NULL;
    if (lock && eg_lock_is_ours(lock))
        result = eg_lock_release(lock);
    else if (lock) {
        PyObject *stack[] = {lock, n > 0 ? args[0] : Py_None, n > 1 ? args[1] : Py_None,
                             n > 2 ? args[2] : Py_None};
        result = PyObject_VectorcallMethod(eg_state->str_exit, stack, 4, NULL);
    }
    Py_XDECREF(lock);
    return result;
}

static PyObject *
condition_at_fork_reinit(PyObject *op, PyObject *unused)
{
    EgCondition *self = (EgCondition *)op;
    (void)unused;
    while (self->waiters.first)
        eg_queue_remove(self->waiters.first);
    PyObject *lock = condition_lock(op);
    PyObject *result = lock ? condition_call(lock, "_at_fork_reinit", NULL) : NULL;
    Py_XDECREF(lock);
    return result;
}

/* ---- Condition: the type --------------------------------------------------------------------- */
/* An attribute of the lock, which may be a condition itself, and even this one. */
static PyObject *
condition_pass_on(EgCondition *self, PyObject *name)
{
    if (Py_EnterRecursiveCall(" while looking for the lock of a Condition"))
        return NULL;
    PyObject *lock = condition_lock((PyObject *)self);
    PyObject *found = lock ? PyObject_GetAttr(lock, name) : NULL;
    Py_XDECREF(lock);
    Py_LeaveRecursiveCall();
    return found;
}

/* acquire(), release(), and what else one wants of the lock. */
static PyObject *
condition_getattro(PyObject *op, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(op, name);
    EgCondition *self = (EgCondition *)op;
    if (found || !self->lock || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    static const char *const passed_on[] = {"acquire",         "release",       "locked",
                                            "_is_owned",       "_release_save", "_acquire_restore",
                                            "_recursion_count"};
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
        if (PyUnicode_CompareWithASCIIString(name, passed_on[i]) == 0) {
            PyErr_Clear();
            return condition_pass_on(self, name);
        }
    return NULL;
}

static int
condition_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"lock", NULL};
    EgCondition *self = (EgCondition *)op;
    PyObject *lock = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Condition", names, &lock))
        return -1;
    lock =
        lock == Py_None ? PyObject_CallNoArgs((PyObject *)eg_state->rlock_type) : Py_NewRef(lock);
    if (lock && Py_IS_TYPE(lock, eg_state->condition_type)) /* its lock: chains have one link */
        Py_SETREF(lock, condition_lock(lock));
    PyObject *acquire = lock ? PyObject_GetAttrString(lock, "acquire") : NULL;
    PyObject *release = acquire ? PyObject_GetAttrString(lock, "release") : NULL;
    Py_XDECREF(acquire);
    if (!release) { /* AttributeError, as that of the standard library */
        Py_XDECREF(lock);
        return -1;
    }
    Py_DECREF(release);
    Py_XSETREF(self->lock, lock);
    return 0;
}

static PyObject *
condition_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    EgCondition *self = (EgCondition *)type->tp_alloc(type, 0);
    if (self && !(self->lock = PyObject_CallNoArgs((PyObject *)eg_state->rlock_type)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *
condition_repr(PyObject *op)
{
    int inside = Py_ReprEnter(op); /* it may be its own lock */
    if (inside)
        return inside < 0 ? NULL : PyUnicode_FromFormat("<evergreen.Condition(...) at %p>", op);
    Py_ssize_t waiting = 0;
    for (EgLink *link = ((EgCondition *)op)->waiters.first; link; link = link->next)
        waiting++;
    PyObject *lock = condition_lock(op);
    PyObject *repr =
        lock ? PyUnicode_FromFormat("<evergreen.Condition(%R, %zd)>", lock, waiting) : NULL;
    Py_XDECREF(lock);
    Py_ReprLeave(op);
    return repr;
}

static int
condition_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgCondition *)op)->lock);
    return 0;
}

static int
condition_clear(PyObject *op)
{
    Py_CLEAR(((EgCondition *)op)->lock);
    return 0;
}

static void
condition_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, condition_dealloc);
    if (((EgCondition *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    condition_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef condition_methods[] = {
    {"wait", EG_METHOD(condition_wait), METH_FASTCALL | METH_KEYWORDS, condition_wait_doc},
    {"wait_for", EG_METHOD(condition_wait_for), METH_FASTCALL | METH_KEYWORDS,
     condition_wait_for_doc},
    {"notify", EG_METHOD(condition_notify), METH_FASTCALL | METH_KEYWORDS, condition_notify_doc},
    {"notify_all", condition_notify_all, METH_NOARGS, condition_notify_all_doc},
    {"__enter__", condition_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(condition_exit), METH_FASTCALL, NULL},
    {"_at_fork_reinit", condition_at_fork_reinit, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef condition_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgCondition, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(condition_doc,
"Condition(lock=None)\n"
"--\n"
"\n"
"A lock, an RLock if none is given, and those who wait for what it guards to change.\n"
"\n"
"acquire() and release() are the lock's.");

static PyType_Slot condition_slots[] = {
    {Py_tp_doc, (void *)condition_doc},
    {Py_tp_new, condition_new},
    {Py_tp_init, condition_init},
    {Py_tp_traverse, condition_traverse},
    {Py_tp_clear, condition_clear},
    {Py_tp_dealloc, condition_dealloc},
    {Py_tp_repr, condition_repr},
    {Py_tp_getattro, condition_getattro},
    {Py_tp_methods, condition_methods},
    {Py_tp_members, condition_members},
    {0, NULL},
};

PyType_Spec eg_condition_spec = {
    .name = "evergreen.locks.Condition",
    .basicsize = sizeof(EgCondition),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = condition_slots,
};

/* ---- Barrier --------------------------------------------------------------------------------- */
typedef struct {
    PyObject_HEAD
    EgQueue waiters;
    EgQueue late; /* who came while the action ran: it is for the next round */
    Py_ssize_t parties;
    Py_ssize_t count;  /* those who have come in this round, some of whom may have left again */
    uint32_t round;    /* opened, broken or reset so often */
    PyObject *action;  /* strong; NULL: none */
    PyObject *timeout; /* strong; the default of wait(); NULL: none */
    PyObject *weakrefs;
    bool broken;
    bool opening; /* the action runs */
    bool doomed;  /* and the next round is broken already */
} EgBarrier;

/* A woken party finds its place in wait.value, or None if the barrier broke. */
static void
barrier_give_back(EgTask *task)
{
    Py_CLEAR(task->wait.value); /* an int or None: no finaliser runs */
}

static const EgWaitKind barrier_kind = {"barrier", barrier_give_back};
static const EgWaitKind barrier_late_kind = {"barrier", NULL};

static void
barrier_break(EgBarrier *self, bool broken)
{
    self->broken = broken;
    self->doomed = false;
    self->count = 0;
    self->round++;
    while (eg_queue_peek(&self->waiters))
        eg_queue_wake(&self->waiters, Py_NewRef(Py_None));
}

static PyObject *
barrier_raise_broken(void)
{
    PyErr_SetNone(eg_state->broken_barrier);
    return NULL;
}

/* How many wait. One who was killed, or whose time is up, does not any more, though it has yet
 * to run. */
static Py_ssize_t
barrier_waiting(const EgBarrier *self)
{
    Py_ssize_t n = 0;
    for (EgLink *link = self->waiters.first; link; link = link->next)
        n += link->task->wait.outcome == EG_PENDING;
    return n;
}

/* The last one has come: call the action. */
static int
barrier_act(EgBarrier *self)
{
    uint32_t round = self->round;
    PyObject *action = Py_NewRef(self->action); /* it may call __init__() */
    self->opening = true;
    PyObject *result = PyObject_CallNoArgs(action);
    self->opening = false;
    Py_DECREF(action);
    eg_queue_wake_all(&self->late);
    if (!result) {
        if (round == self->round)
            barrier_break(self, true);
        return -1;
    }
    Py_DECREF(result);
    if (round == self->round)
        return 0;
    barrier_raise_broken(); /* it was aborted or reset meanwhile */
    return -1;
}

static PyObject *
barrier_open(EgBarrier *self)
{
    if (self->action && barrier_act(self) < 0)
        return NULL;
    self->count = 0;
    self->round++;
    for (Py_ssize_t i = 0; i < self->parties - 1; i++) {
        PyObject *value = PyLong_FromSsize_t(i);
        if (!value || !eg_queue_wake(&self->waiters, value)) {
            Py_XDECREF(value); /* out of memory, or they left while the action ran */
            break;
        }
    }
    if (self->doomed)
        barrier_break(self, true);
    return PyLong_FromSsize_t(self->parties - 1);
}

PyDoc_STRVAR(barrier_wait_doc,
"wait($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait until all parties have come; return the caller's place among them, from 0.\n"
"\n"
"Raise BrokenBarrierError if the barrier is broken or reset meanwhile, or if it takes\n"
"longer than timeout seconds, which breaks it for all.");

static PyObject *
barrier_wait(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    EgBarrier *self = (EgBarrier *)op;
    PyObject *timeout = NULL;
    uint64_t deadline;
    if (eg_parse("wait", names, 1, 0, args, n, kwnames, &timeout) < 0)
        return NULL;
    timeout = Py_XNewRef(timeout && timeout != Py_None ? timeout : self->timeout);
    EgTask *me;
    int status = eg_clock_deadline(timeout, &deadline) < 0 ? -1 : 1;
    Py_XDECREF(timeout);
    if (status > 0 && self->parties < 1) {
        PyErr_SetString(PyExc_RuntimeError, "this Barrier has not been initialized");
        status = -1;
    }
    while (self->opening && status > 0) {
        if (!(me = eg_wait_begin()))
            return NULL;
        eg_wait_join(me, &self->late);
        status = eg_wait_park(me, &barrier_late_kind, op, deadline);
    }
    if (status < 0)
        return NULL;
    if (status == 0)
        self->doomed = self->opening;
    if (status == 0 || self->broken)
        return barrier_raise_broken();
    if (self->count == self->parties - 1
        && (self->count = barrier_waiting(self)) == self->parties - 1)
        return barrier_open(self);
    if (!(me = eg_wait_begin()))
        return NULL;
    uint32_t round = self->round;
    self->count++;
    eg_wait_join(me, &self->waiters);
    status = eg_wait_park(me, &barrier_kind, op, deadline);
    if (status > 0) {
        PyObject *place = me->wait.value; /* ours now */
        me->wait.value = NULL;
        if (place != Py_None)
            return place;
        Py_DECREF(place);
        return barrier_raise_broken();
    }
    if (status == 0) {
        if (round == self->round)
            barrier_break(self, true);
        barrier_raise_broken();
    }
    return NULL;
}

PyDoc_STRVAR(barrier_reset_doc,
"reset($self, /)\n"
"--\n"
"\n"
"Begin anew; whoever waits gets BrokenBarrierError.");

static PyObject *
barrier_reset(PyObject *op, PyObject *unused)
{
    (void)unused;
    barrier_break((EgBarrier *)op, false);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(barrier_abort_doc,
"abort($self, /)\n"
"--\n"
"\n"
"Break it: whoever waits, or comes before reset(), gets BrokenBarrierError.");

static PyObject *
barrier_abort(PyObject *op, PyObject *unused)
{
    (void)unused;
    barrier_break((EgBarrier *)op, true);
    Py_RETURN_NONE;
}

static int
barrier_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"parties", "action", "timeout", NULL};
    EgBarrier *self = (EgBarrier *)op;
    PyObject *action = Py_None, *timeout = Py_None;
    Py_ssize_t parties;
    uint64_t deadline;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|OO:Barrier", names, &parties, &action,
                                     &timeout)
        || eg_clock_deadline(timeout, &deadline) < 0)
        return -1;
    if (parties < 1) {
        PyErr_SetString(PyExc_ValueError, "parties must be > 0");
        return -1;
    }
    if (self->parties) /* not for the first time: as reset() does */
        barrier_break(self, false);
    self->parties = parties;
    Py_XSETREF(self->action, action == Py_None ? NULL : Py_NewRef(action));
    Py_XSETREF(self->timeout, timeout == Py_None ? NULL : Py_NewRef(timeout));
    return 0;
}

static PyObject *
barrier_get_parties(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((EgBarrier *)op)->parties);
}

static PyObject *
barrier_get_n_waiting(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(barrier_waiting((EgBarrier *)op) + ((EgBarrier *)op)->opening);
}

static PyObject *
barrier_get_broken(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgBarrier *)op)->broken);
}

static PyObject *
barrier_repr(PyObject *op)
{
    EgBarrier *self = (EgBarrier *)op;
    if (self->broken)
        return PyUnicode_FromFormat("<evergreen.Barrier at %p: broken>", op);
    return PyUnicode_FromFormat("<evergreen.Barrier at %p: waiters=%zd/%zd>", op,
                                barrier_waiting(self), self->parties);
}

static int
barrier_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgBarrier *)op)->action);
    Py_VISIT(((EgBarrier *)op)->timeout);
    return 0;
}

static int
barrier_clear(PyObject *op)
{
    Py_CLEAR(((EgBarrier *)op)->action);
    Py_CLEAR(((EgBarrier *)op)->timeout);
    return 0;
}

static void
barrier_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, barrier_dealloc);
    if (((EgBarrier *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    barrier_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef barrier_methods[] = {
    {"wait", EG_METHOD(barrier_wait), METH_FASTCALL | METH_KEYWORDS, barrier_wait_doc},
    {"reset", barrier_reset, METH_NOARGS, barrier_reset_doc},
    {"abort", barrier_abort, METH_NOARGS, barrier_abort_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef barrier_getset[] = {
    {"parties", barrier_get_parties, NULL, PyDoc_STR("How many it takes to open it."), NULL},
    {"n_waiting", barrier_get_n_waiting, NULL, PyDoc_STR("How many have come."), NULL},
    {"broken", barrier_get_broken, NULL, PyDoc_STR("Whether it is broken."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef barrier_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgBarrier, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(barrier_doc,
"Barrier(parties, action=None, timeout=None)\n"
"--\n"
"\n"
"A place where a number of tasks or threads wait until all of them have come.\n"
"\n"
"The last one calls action() before any goes on; timeout, in seconds, is the default of\n"
"wait().");

static PyType_Slot barrier_slots[] = {
    {Py_tp_doc, (void *)barrier_doc},   {Py_tp_init, barrier_init},
    {Py_tp_traverse, barrier_traverse}, {Py_tp_clear, barrier_clear},
    {Py_tp_dealloc, barrier_dealloc},   {Py_tp_repr, barrier_repr},
    {Py_tp_methods, barrier_methods},   {Py_tp_getset, barrier_getset},
    {Py_tp_members, barrier_members},   {0, NULL},
};

PyType_Spec eg_barrier_spec = {
    .name = "evergreen.locks.Barrier",
    .basicsize = sizeof(EgBarrier),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = barrier_slots,
};
