/* scope.c: deadlines of blocks of code, and blocks that deadlines and kills leave alone.
 *
 * A scope throws an exception at its task, at its wait, when the time is up, unless the task is
 * quicker.  The exception is the scope itself, so that of several nested ones each knows its
 * own; only Timeout may have another raised.  One that was thrown but that the task has not met
 * when it leaves the block is taken back: nothing hits the code after it.
 */
#include "evergreen.h"

#include <math.h>
#include <structmember.h>

typedef struct {
    PyBaseExceptionObject base;
    EgTimer timer;
    EgLater later;           /* that brings it to the task */
    EgNode spent;            /* the hub drops the armed scope's reference */
    EgTask *task;            /* strong; NULL: not entered */
    PyObject *seconds;       /* strong; None: for ever */
    double number;           /* the same as a number, infinite for None */
    PyObject *exception;     /* strong; Timeout's second argument, else NULL */
    PyObject *thrown;        /* strong: what it throws; NULL: itself */
    const PyObject *handled; /* when it was entered; only ever compared */
    uint64_t deadline;       /* ns */
    bool fired;
} EgScope;

/* ---- the hub's side ----------------------------------------------------------------------- */
static void
scope_release(EgNode *node)
{
    Py_DECREF(EG_OWNER(node, EgScope, spent)); /* what scope_arm() took */
}

static PyObject *
scope_thrown(EgScope *self)
{
    return self->thrown ? self->thrown : (PyObject *)self;
}

static void
scope_on_time(EgTimer *timer)
{
    EgScope *self = EG_OWNER(timer, EgScope, timer);
    self->fired = true;
    eg_later_throw(self->task, &self->later, scope_thrown(self));
}

/* The task has met it, or will not any more. */
static void
scope_on_met(EgLater *later, EgTask *task)
{
    eg_hub_push(task->hub, &EG_OWNER(later, EgScope, later)->spent);
}

/* ---- the task's side ----------------------------------------------------------------------- */
static int
scope_arm(EgScope *self, uint64_t deadline)
{
    self->deadline = deadline;
    if (deadline == EG_FOREVER)
        return 0;
    if (eg_timer_start(&self->task->hub->timers, &self->timer, deadline) < 0)
        return -1;
    Py_INCREF(self); /* given back by scope_disarm() or scope_release() */
    return 0;
}

static void
scope_disarm(EgScope *self)
{
    EgTask *task = self->task;
    if (!task)
        return;
    if (eg_timer_armed(&self->timer)) {
        eg_timer_stop(&task->hub->timers, &self->timer);
        Py_DECREF(self); /* scope_arm()'s; the caller holds one, too */
    } else if (self->fired && eg_later_forget(task, &self->later, scope_thrown(self)))
        self->fired = false;
}

/* In the current task. */
static int
scope_start(EgScope *self, uint64_t deadline)
{
    EgHub *hub = eg_hub_get(); /* first: to make one may run Python */
    EgTask *task = hub ? eg_hub_task(hub) : NULL;
    if (!task) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "no task is running: nothing here can time out");
        return -1;
    }
    if (eg_timer_armed(&self->timer) || self->later.pending) {
        PyErr_Format(PyExc_RuntimeError, "%R is already started; to restart it, cancel it first",
                     self);
        return -1;
    }
    EgTask *before = self->task; /* ours now */
    self->task = (EgTask *)Py_NewRef(task);
    self->later.shields = task->shields;
    self->fired = false;
    PyObject *handled = PyErr_GetHandledException();
    self->handled = handled;
    Py_XDECREF(handled); /* whoever handles it holds it */
    int status = scope_arm(self, deadline);
    Py_XDECREF(before);
    return status;
}

/* Whether value came of C code that what this scope threw has ended: native.c. */
static bool
scope_refused(EgScope *self, PyObject *value)
{
    EgTask *task = self->task;
    return value && value != Py_None && task && self->fired && task->thrown == scope_thrown(self)
           && eg_native_refused(task);
}

/* Leave. 1: value is what this scope threw; 0: not; -1: it is, but it had hit the task on its way
 * farther out, and that goes on: exception set. */
static int
scope_leave(EgScope *self, PyObject *value)
{
    bool refused = scope_refused(self, value);
    scope_disarm(self);
    if (EG_UNLIKELY(refused)) { /* as if it had been met there */
        self->fired = true;
        value = scope_thrown(self);
    }
    EgTask *task = self->task; /* ours now */
    self->task = NULL;
    int caught = self->fired && value == scope_thrown(self);
    PyObject *beneath = caught && task ? eg_later_beneath(task, value, self->handled) : NULL;
    if (beneath) {
        PyErr_SetObject((PyObject *)Py_TYPE(beneath), beneath);
        caught = -1;
    }
    Py_XDECREF(task);
    Py_CLEAR(self->thrown);
    return caught;
}

bool
eg_scope_is_of(EgTimer *timer, const void *task)
{
    EgTask *in = timer->fire == scope_on_time ? EG_OWNER(timer, EgScope, timer)->task : NULL;
    return in && eg_task_owner(in) == task;
}

bool
eg_scope_is_leaving(EgTask *task, PyObject *exc)
{
    if (!PyObject_TypeCheck(exc, eg_state->scope_type))
        return false;
    EgScope *self = (EgScope *)exc;
    return self->fired && self->task == task;
}

static PyObject *
scope_enter(PyObject *op, PyObject *unused)
{
    EgScope *self = (EgScope *)op;
    (void)unused;
    if (self->task) {
        PyErr_Format(PyExc_RuntimeError, "%R was entered already", op);
        return NULL;
    }
    return scope_start(self, eg_clock_after(self->number)) < 0 ? NULL : Py_NewRef(op);
}

/* ---- what all have in common ------------------------------------------------------------------ */
PyDoc_STRVAR(scope_expire_doc,
"expire($self, /)\n"
"--\n"
"\n"
"Have its deadline be now.\n"
"\n"
"Raise RuntimeError outside its block, or in a thread other than its own.");

static int
scope_check_entered(EgScope *self)
{
    if (self->task && self->task->hub == eg_hub_here)
        return 0;
    PyErr_SetString(PyExc_RuntimeError,
                    self->task ? "the scope is another thread's" : "the scope is not entered");
    return -1;
}

static int
scope_move(EgScope *self, uint64_t deadline)
{
    if (scope_check_entered(self) < 0)
        return -1;
    if (self->fired)
        return 0; /* too late */
    scope_disarm(self);
    return scope_arm(self, deadline);
}

static PyObject *
scope_expire(PyObject *op, PyObject *unused)
{
    (void)unused;
    return scope_move((EgScope *)op, eg_clock_now()) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
scope_get_expired(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgScope *)op)->fired);
}

static PyObject *
scope_get_deadline(PyObject *op, void *unused)
{
    EgScope *self = (EgScope *)op;
    (void)unused;
    return PyFloat_FromDouble(self->deadline == EG_FOREVER ? Py_HUGE_VAL
                                                           : (double)self->deadline / 1e9);
}

static int
scope_set_deadline(PyObject *op, PyObject *value, void *unused)
{
    double seconds;
    (void)unused;
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a scope has a deadline");
        return -1;
    }
    if (eg_clock_seconds(value, &seconds) < 0)
        return -1;
    uint64_t deadline = seconds >= 9e9 ? EG_FOREVER
                        : seconds <= 0 ? eg_clock_now()
                                       : eg_clock_settle((uint64_t)ceil(seconds * 1e9));
    return scope_move((EgScope *)op, deadline);
}

static int
scope_set_up(EgScope *self, PyObject *seconds)
{
    double number = Py_HUGE_VAL; /* converted before anything is looked at: it runs Python */
    if (seconds != Py_None && eg_clock_seconds(seconds, &number) < 0)
        return -1;
    if (self->task || eg_timer_armed(&self->timer)) {
        PyErr_SetString(PyExc_RuntimeError, "a scope that is entered cannot be made anew");
        return -1;
    }
    self->deadline = EG_FOREVER;
    self->number = number;
    Py_XSETREF(self->seconds, Py_NewRef(seconds));
    return 0;
}

/* A subclass need not call our __init__(). */
static PyObject *
scope_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    EgScope *self = (EgScope *)((PyTypeObject *)PyExc_BaseException)->tp_new(type, args, kwargs);
    if (!self)
        return NULL;
    self->timer.fire = scope_on_time;
    self->later.release = scope_on_met;
    self->spent.run = scope_release;
    self->deadline = EG_FOREVER;
    self->number = Py_HUGE_VAL;
    self->seconds = Py_NewRef(Py_None);
    return (PyObject *)self;
}

static int
scope_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", NULL};
    PyObject *seconds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &seconds))
        return -1;
    return scope_set_up((EgScope *)op, seconds);
}

static PyObject *
scope_repr(PyObject *op)
{
    EgScope *self = (EgScope *)op;
    PyObject *name = PyType_GetName(Py_TYPE(op)), *repr = NULL;
    PyObject *seconds = Py_NewRef(self->seconds ? self->seconds : Py_None);
    PyObject *exception = Py_NewRef(self->exception ? self->exception : Py_None);
    if (name && exception != Py_None)
        repr = PyUnicode_FromFormat("<%U at %p seconds=%S exception=%R>", name, op, seconds,
                                    exception);
    else if (name)
        repr = PyUnicode_FromFormat("<%U at %p seconds=%S>", name, op, seconds);
    Py_DECREF(seconds);
    Py_DECREF(exception);
    Py_XDECREF(name);
    return repr;
}

static int
scope_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgScope *self = (EgScope *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->task);
    Py_VISIT(self->seconds);
    Py_VISIT(self->exception);
    Py_VISIT(self->thrown);
    return ((PyTypeObject *)PyExc_BaseException)->tp_traverse(op, visit, arg);
}

static int
scope_clear(PyObject *op)
{
    EgScope *self = (EgScope *)op; /* not armed: an armed one holds itself */
    Py_CLEAR(self->task);
    Py_CLEAR(self->seconds);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->thrown);
    return ((PyTypeObject *)PyExc_BaseException)->tp_clear(op);
}

static void
scope_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, scope_dealloc);
    scope_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef scope_methods[] = {
    {"__enter__", scope_enter, METH_NOARGS, NULL},
    {"expire", scope_expire, METH_NOARGS, scope_expire_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scope_getset[] = {
    {"expired", scope_get_expired, NULL,
     PyDoc_STR("Whether the deadline passed while the task was in the block."), NULL},
    {"deadline", scope_get_deadline, scope_set_deadline,
     PyDoc_STR("On the clock of EventLoop.time(), in seconds; may be set in the block."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef scope_members[] = {
    {"seconds", T_OBJECT, offsetof(EgScope, seconds), READONLY, PyDoc_STR("As it was made.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(scope_doc,
"What fail_after, move_on_after and Timeout have in common.");

static PyType_Slot scope_slots[] = {
    {Py_tp_doc, (void *)scope_doc},
    {Py_tp_new, scope_new},
    {Py_tp_init, scope_init},
    {Py_tp_repr, scope_repr},
    {Py_tp_traverse, scope_traverse},
    {Py_tp_clear, scope_clear},
    {Py_tp_dealloc, scope_dealloc},
    {Py_tp_methods, scope_methods},
    {Py_tp_getset, scope_getset},
    {Py_tp_members, scope_members},
    {0, NULL},
};

PyType_Spec eg_scope_spec = {
    .name = "evergreen.timeout.Scope",
    .basicsize = sizeof(EgScope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = scope_slots,
};

/* The second argument of __exit__(type, value, traceback), borrowed; NULL: exception. */
static PyObject *
exit_value(PyObject *const *args, Py_ssize_t n)
{
    if (n == 3)
        return args[1];
    return PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", n);
}

/* ---- move_on_after --------------------------------------------------------------------------- */
static PyObject *
move_on_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    PyObject *value = exit_value(args, n);
    if (!value)
        return NULL;
    int caught = scope_leave((EgScope *)op, value);
    if (caught <= 0)
        return caught ? NULL : Py_NewRef(Py_False);
    PyException_SetTraceback(op, Py_None); /* else it keeps the frames that hold it */
    PyException_SetContext(op, NULL);
    Py_RETURN_TRUE;
}

static PyMethodDef move_on_methods[] = {
    {"__exit__", EG_METHOD(move_on_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(move_on_after_doc,
"move_on_after(seconds)\n"
"--\n"
"\n"
"Leave a block when seconds have passed, and go on behind it; None: never.\n"
"\n"
"The block is left at whatever it waits for. `expired` says afterwards whether it was::\n"
"\n"
"    with move_on_after(5) as scope:\n"
"        answer = channel.receive()\n"
"    if scope.expired:\n"
"        answer = None");

static PyType_Slot move_on_slots[] = {
    {Py_tp_doc, (void *)move_on_after_doc},
    {Py_tp_methods, move_on_methods},
    {0, NULL},
};

PyType_Spec eg_move_on_after_spec = {
    .name = "evergreen.timeout.move_on_after",
    .basicsize = sizeof(EgScope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = move_on_slots,
};

/* ---- fail_after ---------------------------------------------------------------------------------- */
static PyObject *
fail_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    PyObject *value = exit_value(args, n);
    if (!value)
        return NULL;
    int caught = scope_leave((EgScope *)op, value);
    if (caught <= 0)
        return caught ? NULL : Py_NewRef(Py_False);
    PyObject *seconds = Py_XNewRef(((EgScope *)op)->seconds); /* its __str__() may replace it */
    PyObject *text = PyUnicode_FromFormat("not done in %S seconds", seconds ? seconds : Py_None);
    Py_XDECREF(seconds);
    PyObject *error = text ? PyObject_CallOneArg(PyExc_TimeoutError, text) : NULL;
    Py_XDECREF(text);
    if (!error)
        return NULL;
    PyException_SetCause(error, Py_NewRef(op));
    PyErr_SetObject(PyExc_TimeoutError, error);
    Py_DECREF(error);
    return NULL;
}

static PyMethodDef fail_methods[] = {
    {"__exit__", EG_METHOD(fail_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(fail_after_doc,
"fail_after(seconds)\n"
"--\n"
"\n"
"Leave a block with TimeoutError when seconds have passed; None: never.\n"
"\n"
"The block is left at whatever it waits for; it sees an exception that is no Exception,\n"
"which becomes the TimeoutError at its end.");

static PyType_Slot fail_slots[] = {
    {Py_tp_doc, (void *)fail_after_doc},
    {Py_tp_methods, fail_methods},
    {0, NULL},
};

PyType_Spec eg_fail_after_spec = {
    .name = "evergreen.timeout.fail_after",
    .basicsize = sizeof(EgScope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = fail_slots,
};

/* ---- Timeout ---------------------------------------------------------------------------------------- */
static int
timeout_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", "exception", NULL};
    PyObject *seconds = Py_None, *exception = Py_None;
    if (EG_LIKELY(!kwargs && PyTuple_GET_SIZE(args) == 1)) /* as nearly always: worth 0.02 us */
        seconds = PyTuple_GET_ITEM(args, 0);
    else if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:Timeout", names, &seconds, &exception))
        return -1;
    if (scope_set_up((EgScope *)op, seconds) < 0)
        return -1;
    Py_XSETREF(((EgScope *)op)->exception, Py_NewRef(exception));
    return 0;
}

/* 1: begun; 0: it never expires; -1: exception. */
static int
timeout_begin(EgScope *self)
{
    double seconds = 0;
    PyObject *thrown = NULL;
    if (!self->seconds || self->seconds == Py_None)
        return 0;
    PyObject *object = Py_NewRef(self->seconds); /* its __float__() may replace it */
    int status = eg_clock_seconds(object, &seconds);
    Py_DECREF(object);
    if (status < 0 || seconds < 0)
        return status;
    object = Py_XNewRef(self->exception);
    if (object && object != Py_None && !PyBool_Check(object)
        && !(thrown = eg_task_make_exception(object, NULL, NULL)))
        status = -1;
    Py_XDECREF(object);
    if (status < 0 || scope_start(self, eg_clock_after(seconds)) < 0) {
        Py_XDECREF(thrown);
        return -1;
    }
    Py_XSETREF(self->thrown, thrown);
    return 1;
}

PyDoc_STRVAR(timeout_start_doc,
"start($self, /)\n"
"--\n"
"\n"
"Begin to count, in the current task. RuntimeError if it counts already.");

static PyObject *
timeout_start(PyObject *op, PyObject *unused)
{
    (void)unused;
    return timeout_begin((EgScope *)op) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(timeout_cancel_doc,
"cancel($self, /)\n"
"--\n"
"\n"
"Raise nothing any more. Harmless if it does not count.");

static PyObject *
timeout_cancel(PyObject *op, PyObject *unused)
{
    (void)unused;
    scope_leave((EgScope *)op, NULL);
    Py_RETURN_NONE;
}

static PyObject *
timeout_enter(PyObject *op, PyObject *unused)
{
    EgScope *self = (EgScope *)op;
    (void)unused;
    if (!self->task && timeout_begin(self) < 0)
        return NULL;
    return Py_NewRef(op);
}

static PyObject *
timeout_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    PyObject *value = exit_value(args, n);
    if (!value)
        return NULL;
    EgScope *self = (EgScope *)op;
    PyObject *refused = scope_refused(self, value) ? Py_NewRef(scope_thrown(self)) : NULL;
    int caught = scope_leave(self, value);
    bool silent = self->exception == Py_False && (refused || value == op);
    if (caught >= 0 && refused && !silent) {
        PyErr_SetObject((PyObject *)Py_TYPE(refused), refused);
        caught = -1;
    }
    Py_XDECREF(refused);
    return caught < 0 ? NULL : PyBool_FromLong(silent);
}

static PyObject *
timeout_str(PyObject *op)
{
    EgScope *self = (EgScope *)op;
    if (!self->seconds || self->seconds == Py_None)
        return PyUnicode_FromString("");
    PyObject *seconds = Py_NewRef(self->seconds); /* their methods may replace both */
    PyObject *exception = Py_NewRef(self->exception ? self->exception : Py_None);
    int one = PyObject_RichCompareBool(seconds, Py_True, Py_EQ);
    const char *format = exception == Py_None || exception == Py_True ? "%S second%s"
                         : exception == Py_False                      ? "%S second%s (silent)"
                                                                      : "%S second%s (%S)";
    PyObject *text =
        one < 0 ? NULL : PyUnicode_FromFormat(format, seconds, one ? "" : "s", exception);
    Py_DECREF(seconds);
    Py_DECREF(exception);
    return text;
}

static PyObject *
timeout_get_pending(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(eg_timer_armed(&((EgScope *)op)->timer));
}

static PyMethodDef timeout_methods[] = {
    {"start", timeout_start, METH_NOARGS, timeout_start_doc},
    {"cancel", timeout_cancel, METH_NOARGS, timeout_cancel_doc},
    {"__enter__", timeout_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(timeout_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef timeout_getset[] = {
    {"pending", timeout_get_pending, NULL, PyDoc_STR("Whether it is still to go off."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef timeout_members[] = {
    {"seconds", T_OBJECT, offsetof(EgScope, seconds), 0, PyDoc_STR("None: it never expires.")},
    {"exception", T_OBJECT, offsetof(EgScope, exception), 0, PyDoc_STR("What it raises.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(timeout_doc,
"Timeout(seconds=None, exception=None)\n"
"--\n"
"\n"
"Raise exception in the current task, at its wait, after seconds.\n"
"\n"
"Without exception, the Timeout itself is raised. With exception=False the context manager\n"
"suppresses it, and the code after the block goes on. seconds=None, or negative, never\n"
"expires. A timeout that is left in time, or cancelled, raises nothing, even if it went off\n"
"just before; nested ones act each on its own block::\n"
"\n"
"    with Timeout(5, LookupError(\"no answer\")):\n"
"        answer = channel.receive()");

static PyType_Slot timeout_slots[] = {
    {Py_tp_doc, (void *)timeout_doc},
    {Py_tp_init, timeout_init},
    {Py_tp_str, timeout_str},
    {Py_tp_methods, timeout_methods},
    {Py_tp_getset, timeout_getset},
    {Py_tp_members, timeout_members},
    {0, NULL},
};

PyType_Spec eg_timeout_spec = {
    .name = "evergreen.timeout.Timeout",
    .basicsize = sizeof(EgScope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = timeout_slots,
};

/* ---- shield -------------------------------------------------------------------------------------- */
typedef struct {
    PyObject_HEAD
    EgTask *task; /* strong; NULL: not entered */
} EgShield;

static PyObject *
shield_enter(PyObject *op, PyObject *unused)
{
    EgShield *self = (EgShield *)op;
    (void)unused;
    EgHub *hub = eg_hub_get();
    EgTask *task = hub ? eg_hub_task(hub) : NULL;
    if (!task || self->task) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, task ? "this shield was entered already"
                                                     : "no task is running that could be shielded");
        return NULL;
    }
    if (eg_shield_enter(task) < 0)
        return NULL;
    self->task = (EgTask *)Py_NewRef(task);
    return Py_NewRef(op);
}

static PyObject *
shield_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgShield *self = (EgShield *)op;
    if (!exit_value(args, n))
        return NULL;
    if (self->task)
        eg_shield_leave(self->task);
    Py_CLEAR(self->task);
    Py_RETURN_NONE;
}

static int
shield_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgShield *)op)->task);
    return 0;
}

static int
shield_clear(PyObject *op)
{
    Py_CLEAR(((EgShield *)op)->task);
    return 0;
}

static void
shield_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    shield_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef shield_methods[] = {
    {"__enter__", shield_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(shield_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(shield_doc,
"shield()\n"
"--\n"
"\n"
"Keep kills and the deadlines of outer scopes away from a block: clean-up that must finish.\n"
"\n"
"They are not lost: the task meets them at its first wait after the block. Scopes inside\n"
"the block work as ever, and bound it::\n"
"\n"
"    finally:\n"
"        with shield(), move_on_after(2):\n"
"            connection.send(b\"QUIT\")\n"
"\n"
"KeyboardInterrupt gets through.");

static PyType_Slot shield_slots[] = {
    {Py_tp_doc, (void *)shield_doc}, {Py_tp_traverse, shield_traverse}, {Py_tp_clear, shield_clear},
    {Py_tp_dealloc, shield_dealloc}, {Py_tp_methods, shield_methods},   {0, NULL},
};

PyType_Spec eg_shield_spec = {
    .name = "evergreen.timeout.shield",
    .basicsize = sizeof(EgShield),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = shield_slots,
};
