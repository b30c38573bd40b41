/* group.c: TaskGroup, tasks that end before a block of code does.
 *
 * The tasks of a group are linked; task.c says when one ends (eg_group_leave).  The first that
 * fails has the others killed, and the owner is called out of the block by an exception that
 * the block's end takes back.  The end waits for all, whatever hits the owner meanwhile, and
 * raises what the tasks failed with.
 */
#include "evergreen.h"

#include <structmember.h>

typedef enum { EG_FRESH, EG_OPEN, EG_CLOSING, EG_CLOSED } EgGroupState;

typedef struct {
    PyObject_HEAD
    EgTask *tasks; /* those that have not ended; each holds the group */
    Py_ssize_t ntasks;
    EgTask *owner;           /* strong while the block runs */
    EgQueue waiting;         /* the owner, at the end */
    PyObject *failures;      /* strong: list of exceptions; NULL: none */
    PyObject *unlisted;      /* strong: one that found no memory in the list; NULL: none */
    PyObject *call_out;      /* strong: what calls the owner out of the block; NULL: nothing */
    EgLater later;           /* that brings it there */
    const PyObject *handled; /* when the block began; only ever compared */
    PyObject *weakrefs;
    uint8_t state; /* EgGroupState */
    bool aborted;
} EgGroup;

/* ---- ending the tasks ----------------------------------------------------------------- */
/* Kill every task of the group, the calling one last. -1: exception. */
static int
group_kill(EgGroup *self, PyObject *reason)
{
    EgTask *me = eg_hub_here ? eg_hub_task(eg_hub_here) : NULL;
    EgTask *next;
    for (EgTask *task = self->tasks; task; task = next) {
        next = task->group_next;
        if (task == me)
            continue;
        Py_XINCREF(next);
        Py_INCREF(task); /* its end may run code */
        int status = eg_task_kill(task, reason);
        Py_DECREF(task);
        EgTask *held = next;
        if (next && next->group != (PyObject *)self)
            next = self->tasks; /* it has ended: once more, a second kill changes nothing */
        Py_XDECREF(held);
        if (status < 0)
            return -1;
    }
    return me && me->group == (PyObject *)self ? eg_task_kill(me, reason) : 0;
}

static void
group_abort(EgGroup *self)
{
    PyObject *type, *value, *traceback;
    if (self->aborted)
        return;
    self->aborted = true;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *reason = PyUnicode_FromString("its task group failed");
    if (!reason)
        PyErr_Clear(); /* out of memory: without a reason, then */
    if (group_kill(self, reason) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
    PyObject *call_out = eg_task_make_exit(reason);
    if (self->state == EG_OPEN) { /* now: the above may run Python */
        self->call_out = Py_NewRef(call_out);
        eg_later_throw(self->owner, &self->later, call_out);
    }
    Py_DECREF(call_out);
    Py_XDECREF(reason);
    PyErr_Restore(type, value, traceback);
}

static void
group_note_failure(EgGroup *self, PyObject *exc)
{
    Py_ssize_t n = self->failures ? PyList_GET_SIZE(self->failures) : 0;
    while (n-- > 0)
        if (PyList_GET_ITEM(self->failures, n) == exc)
            return; /* a task's, which the block asked for */
    if (exc == self->unlisted
        || ((self->failures || (self->failures = PyList_New(0)))
            && PyList_Append(self->failures, exc) == 0))
        return;
    PyErr_Clear(); /* out of memory */
    if (!self->unlisted)
        self->unlisted = Py_NewRef(exc);
    else {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* Takes the task's reference to the group. */
void
eg_group_leave(EgTask *task)
{
    EgGroup *self = (EgGroup *)task->group; /* ours now */
    task->group = NULL;
    if (task->group_prev)
        task->group_prev->group_next = task->group_next;
    else
        self->tasks = task->group_next;
    if (task->group_next)
        task->group_next->group_prev = task->group_prev;
    task->group_prev = task->group_next = NULL;
    self->ntasks--;
    bool owned = self->owner && self->owner->state != EG_ENDED; /* else this is a forked child */
    if (owned && task->failed && !task->observed) {             /* not a kill, nor for main */
        task->observed = true;
        eg_state->unobserved--;
        group_note_failure(self, task->result);
        group_abort(self);
    }
    if (self->ntasks == 0)
        eg_queue_wake_all(&self->waiting);
    Py_DECREF(self);
}

/* ---- the end of the block ---------------------------------------------------------------- */
/* An exception that ends the block without being a failure of it: it is for somebody outside. */
static bool
group_passes_on(PyObject *exc)
{
    return !PyErr_GivenExceptionMatches(exc, PyExc_Exception)
           && !PyErr_GivenExceptionMatches(exc, PyExc_BaseExceptionGroup);
}

static const EgWaitKind group_kind = {"task group", NULL};

/* Wait for all tasks; new: what hit the owner meanwhile from outside, or NULL. */
static PyObject *
group_wait(EgGroup *self)
{
    PyObject *hit = NULL, *exc;
    while (self->ntasks) {
        int status = eg_wait_through(&self->waiting, &group_kind, (PyObject *)self, &exc);
        if (status > 0)
            continue;
        if (status < 0) /* a callback or finaliser may not wait */
            exc = eg_task_take_exception();
        if (!self->aborted)
            group_abort(self);
        else if (group_kill(self, NULL) < 0) /* they are slow: once more */
            PyErr_WriteUnraisable((PyObject *)self);
        if (group_passes_on(exc))
            eg_wait_collect(&hit, exc);
        else {
            group_note_failure(self, exc);
            Py_DECREF(exc);
        }
        if (status < 0)
            break;
    }
    return hit;
}

/* There is no memory to unite the failures: make the first the context of the exception that is set,
 * and report the others. */
static void
group_raise_beside(EgGroup *self, PyObject *failures)
{
    PyObject *exc = eg_task_take_exception();
    Py_ssize_t n = failures ? PyList_GET_SIZE(failures) : 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *failure = PyList_GET_ITEM(failures, i);
        if (!self->unlisted)
            self->unlisted = Py_NewRef(failure);
        else {
            PyErr_SetObject((PyObject *)Py_TYPE(failure), failure);
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    if (exc != self->unlisted)
        PyException_SetContext(exc, Py_NewRef(self->unlisted));
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(exc);
}

/* All failures in one; new, NULL: exception. */
static PyObject *
group_unite(EgGroup *self)
{
    PyObject *failures = self->failures; /* ours now */
    self->failures = NULL;
    PyObject *united = self->unlisted
                           ? PyErr_NoMemory()
                           : PyObject_CallFunction(PyExc_BaseExceptionGroup, "sO",
                                                   "unhandled errors in a TaskGroup", failures);
    if (!united)
        group_raise_beside(self, failures);
    Py_CLEAR(self->unlisted);
    Py_XDECREF(failures);
    return united;
}

/* Raise what the tasks failed with; outside (borrowed, may be NULL): what came from there. */
static void
group_raise(EgGroup *self, PyObject *outside)
{
    PyObject *united = group_unite(self);
    if (!united)
        return;
    bool ends = outside
                && (PyErr_GivenExceptionMatches(outside, PyExc_KeyboardInterrupt)
                    || PyErr_GivenExceptionMatches(outside, PyExc_SystemExit));
    PyObject *first = ends ? outside : united, *second = ends ? united : outside;
    if (second)
        PyException_SetContext(first, Py_NewRef(second));
    /* A kill, or a deadline, is still to be met: by the next wait. */
    if (outside && !ends && !PyErr_GivenExceptionMatches(outside, PyExc_GeneratorExit)) {
        EgTask *me = eg_hub_here ? eg_hub_task(eg_hub_here) : NULL;
        if (me && me == self->owner)
            eg_wait_interrupt(me, outside);
    }
    PyErr_SetObject((PyObject *)Py_TYPE(first), first);
    Py_DECREF(united);
}

static PyObject *
group_exit(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgGroup *self = (EgGroup *)op;
    if (n != 3)
        return PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", n);
    if (self->state != EG_OPEN) {
        PyErr_SetString(PyExc_RuntimeError, "this TaskGroup was not entered");
        return NULL;
    }
    PyObject *value = args[1] == Py_None ? NULL : args[1]; /* borrowed */
    if (value && !PyExceptionInstance_Check(value))
        return PyErr_Format(PyExc_TypeError, "__exit__() takes an exception, not %.100s",
                            Py_TYPE(value)->tp_name);
    EgTask *owner = self->owner; /* ours now, at the end */
    self->state = EG_CLOSING;
    eg_later_forget(owner, &self->later, self->call_out);
    bool called_out = value && value == self->call_out;
    /* What is to come out: a kill that the call out hit in its clean-up goes on. */
    PyObject *outside =
        called_out ? Py_XNewRef(eg_later_beneath(owner, value, self->handled)) : NULL;
    if (value && !called_out) {
        if (group_passes_on(value))
            outside = Py_NewRef(value);
        else
            group_note_failure(self, value);
    }
    if (value)
        group_abort(self);
    PyObject *hit = group_wait(self);
    if (hit) {
        PyObject *beneath = eg_later_beneath(owner, hit, self->handled);
        if (beneath && beneath == owner->killed_by)
            Py_SETREF(hit, Py_NewRef(beneath)); /* a deadline in a kill's wake is part of it */
        Py_XSETREF(outside, hit);
    }
    PyObject *result = NULL;
    if (self->failures || self->unlisted)
        group_raise(self, outside);
    else if (outside && outside != value)
        PyErr_SetObject((PyObject *)Py_TYPE(outside), outside);
    else
        result = PyBool_FromLong(called_out && !outside);
    self->state = EG_CLOSED;
    self->owner = NULL;
    Py_DECREF(owner);
    Py_CLEAR(self->call_out);
    Py_XDECREF(outside);
    return result;
}

/* ---- methods ------------------------------------------------------------------------------- */
static PyObject *
group_enter(PyObject *op, PyObject *unused)
{
    EgGroup *self = (EgGroup *)op;
    (void)unused;
    EgHub *hub = eg_hub_get();
    EgTask *owner = hub ? eg_hub_task(hub) : NULL;
    if (!owner || self->state != EG_FRESH) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, owner ? "a TaskGroup can be entered only once"
                                                      : "no task is running that could own it");
        return NULL;
    }
    PyObject *handled = PyErr_GetHandledException();
    self->handled = handled;
    Py_XDECREF(handled); /* whoever handles it holds it */
    self->owner = (EgTask *)Py_NewRef(owner);
    self->later.shields = owner->shields;
    self->state = EG_OPEN;
    return Py_NewRef(op);
}

static int
group_check_takes_tasks(EgGroup *self)
{
    if (self->state == EG_FRESH || self->state == EG_CLOSED || self->aborted) {
        PyErr_SetString(PyExc_RuntimeError,
                        self->state == EG_FRESH ? "this TaskGroup was not entered"
                        : self->aborted         ? "this TaskGroup failed: it takes no more tasks"
                                                : "this TaskGroup has ended");
        return -1;
    }
    if (!self->owner || self->owner->hub != eg_hub_here) {
        PyErr_SetString(PyExc_RuntimeError, "this TaskGroup is another thread's");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(group_spawn_doc,
"spawn($self, function, /, *args, **kwargs)\n"
"--\n"
"\n"
"Spawn function(*args, **kwargs) as a task of the group; return the Task.\n"
"\n"
"Tasks of the group may do so, too. Raise RuntimeError before the block, after it, in\n"
"another thread, and once a task has failed.");

static PyObject *
group_spawn(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgGroup *self = (EgGroup *)op;
    EgTask *task = eg_task_make(args, n, kwnames); /* first: that may run Python */
    if (!task || group_check_takes_tasks(self) < 0) {
        Py_XDECREF(task);
        return NULL;
    }
    task->group = Py_NewRef(op); /* given back by eg_group_leave() */
    if ((task->group_next = self->tasks))
        self->tasks->group_prev = task;
    self->tasks = task;
    self->ntasks++;
    if (eg_task_start(task) < 0) {
        eg_group_leave(task);
        Py_CLEAR(task);
    }
    return (PyObject *)task;
}

PyDoc_STRVAR(group_kill_doc,
"kill($self, /, reason=None)\n"
"--\n"
"\n"
"Kill every task of the group, and let the block go on; see Task.kill().");

static PyObject *
group_kill_method(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"reason"};
    PyObject *reason = NULL;
    if (eg_parse("kill", names, 1, 0, args, n, kwnames, &reason) < 0)
        return NULL;
    if (reason == Py_None)
        reason = NULL;
    return group_kill((EgGroup *)op, reason) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
group_get_tasks(PyObject *op, void *unused)
{
    EgGroup *self = (EgGroup *)op;
    (void)unused;
    PyObject *tasks = PyList_New(0);
    for (EgTask *task = self->tasks; tasks && task; task = task->group_next)
        if (PyList_Append(tasks, (PyObject *)task) < 0)
            Py_CLEAR(tasks);
    if (tasks && PyList_Reverse(tasks) < 0)
        Py_CLEAR(tasks);
    return tasks;
}

/* ---- the type --------------------------------------------------------------------------------- */
static PyObject *
group_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* A subclass may have an __init__() that takes some. */
    if (type == eg_state->group_type
        && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
        PyErr_SetString(PyExc_TypeError, "TaskGroup() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static PyObject *
group_repr(PyObject *op)
{
    static const char *const states[] = {"not entered", "open", "ending", "ended"};
    EgGroup *self = (EgGroup *)op;
    return PyUnicode_FromFormat("<evergreen.TaskGroup at %p: %zd tasks, %s>", op, self->ntasks,
                                states[self->state]);
}

static int
group_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgGroup *self = (EgGroup *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->failures);
    Py_VISIT(self->unlisted);
    Py_VISIT(self->call_out);
    return 0;
}

static int
group_clear(PyObject *op)
{
    EgGroup *self = (EgGroup *)op;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->failures);
    Py_CLEAR(self->unlisted);
    Py_CLEAR(self->call_out);
    return 0;
}

static void
group_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, group_dealloc);
    if (((EgGroup *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    group_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef group_methods[] = {
    {"spawn", EG_METHOD(group_spawn), METH_FASTCALL | METH_KEYWORDS, group_spawn_doc},
    {"kill", EG_METHOD(group_kill_method), METH_FASTCALL | METH_KEYWORDS, group_kill_doc},
    {"__enter__", group_enter, METH_NOARGS, NULL},
    {"__exit__", EG_METHOD(group_exit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef group_getset[] = {
    {"tasks", group_get_tasks, NULL,
     PyDoc_STR("The tasks that have not ended, in the order in which they were spawned."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef group_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgGroup, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(group_doc,
"TaskGroup()\n"
"--\n"
"\n"
"Tasks that have all ended when the block has::\n"
"\n"
"    with TaskGroup() as group:\n"
"        pages = [group.spawn(fetch, url) for url in urls]\n"
"    print([page.result() for page in pages])\n"
"\n"
"The first exception, of a task or of the block, kills the other tasks; an ExceptionGroup\n"
"with all of them comes out of the block. What ends the block from outside (a kill, a\n"
"deadline, Ctrl-C) kills the tasks and goes on as it is. A task that was killed is no\n"
"failure. The shape is that of asyncio.TaskGroup and Trio's nurseries.");

static PyType_Slot group_slots[] = {
    {Py_tp_doc, (void *)group_doc}, {Py_tp_new, group_new},
    {Py_tp_repr, group_repr},       {Py_tp_traverse, group_traverse},
    {Py_tp_clear, group_clear},     {Py_tp_dealloc, group_dealloc},
    {Py_tp_methods, group_methods}, {Py_tp_getset, group_getset},
    {Py_tp_members, group_members}, {0, NULL},
};

PyType_Spec eg_group_spec = {
    .name = "evergreen.TaskGroup",
    .basicsize = sizeof(EgGroup),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = group_slots,
};
