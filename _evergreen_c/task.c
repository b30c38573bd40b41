/* task.c: a call that runs beside others, and what is left of it when it has ended.
 *
 * A Task is light: it has a greenlet only from its first step to its last, and park.c lends
 * it one.  Its life:
 *
 *     NEW --start()--> STARTED --> RUNNING <--> PARKED
 *                         |           |
 *                         +- kill() --+--> ENDED
 *
 * Ownership: a started task holds one reference to itself, from eg_task_start() until its
 * worker (or, if it never ran, the hub) drops it.  Since that keeps it and all it refers to
 * alive, the collector need not look at it meanwhile: neither it nor the context that is
 * copied for it is tracked until the end (half the cost of spawning many tasks at once).
 *
 * Tasks also stand for whoever else may park: the greenlet that was there before the hub,
 * greenlets that other libraries made, and native threads.
 */
#include "evergreen.h"

#include <structmember.h>

/* ---- making -------------------------------------------------------------------- */
static EgTask *
task_alloc(PyTypeObject *type, EgHub *hub, EgTaskRole role)
{
    static uint32_t numbers[EG_VISITOR + 1];
    EgTask *self = (EgTask *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->hub = (EgHub *)Py_XNewRef(hub);
    self->role = role;
    self->number = ++numbers[role];
    self->wait.outcome = EG_TIMED_OUT; /* it waits for nothing */
    return self;
}

static const char task_capsule[] = "evergreen.Task";

/* The greenlet ends, or forgets it. */
static void
task_unbind(PyObject *capsule)
{
    EgTask *self = PyCapsule_GetPointer(capsule, task_capsule);
    EgHub *hub = self->hub;
    if (self->state == EG_PARKED) {
        self->unbound = true; /* the capsule's reference is now the wait's: eg_task_rebind() */
        return;
    }
    self->greenlet = NULL;
    self->state = EG_ENDED;
    if (hub->current == self)
        hub->current =
            self->beneath && self->beneath->state == EG_RUNNING ? self->beneath : hub->main;
    Py_DECREF(self); /* what task_bind() gave to the capsule */
}

/* Whose stack it is on: its parent, if that has switched to it, else the task that ran last. */
static EgTask *
task_beneath(EgHub *hub, PyObject *greenlet)
{
    EgTask *task = hub->current;
    PyObject *parent = eg_park_parent_greenlet(greenlet);
    if (!task || task->greenlet == parent)
        return task;
    EgTask *found = hub->main->greenlet == parent ? hub->main : hub->tasks;
    while (found && found->greenlet != parent)
        found = found->next;
    return found && found->state == EG_RUNNING ? found : task;
}

/* A greenlet that somebody else made is of the task on whose stack it runs now. */
static EgTask *
task_rehouse(EgTask *self)
{
    EgTask *beneath = task_beneath(self->hub, self->greenlet);
    if (beneath && beneath != self)
        Py_XSETREF(self->owner, (EgTask *)Py_NewRef(eg_task_owner(beneath)));
    return self;
}

/* Have a greenlet's dict keep its task; steals self. -1: exception, and the reference is gone. */
static int
task_bind(EgTask *self, PyObject *dict)
{
    PyObject *capsule = PyCapsule_New(self, task_capsule, task_unbind);
    if (!capsule) {
        Py_DECREF(self);
        return -1;
    }
    int status = PyDict_SetItem(dict, eg_state->str_task_key, capsule);
    Py_DECREF(capsule);
    return status;
}

/* The task of a greenlet that somebody else made; borrowed from the greenlet's __dict__, where
 * a capsule keeps it. */
static EgTask *
task_for_foreign(EgHub *hub, PyObject *greenlet)
{
    PyObject **dict = &((PyGreenlet *)greenlet)->dict;
    if (!*dict && !(*dict = PyDict_New()))
        return NULL;
    PyObject *capsule = PyDict_GetItemWithError(*dict, eg_state->str_task_key); /* borrowed */
    EgTask *known = capsule ? PyCapsule_GetPointer(capsule, task_capsule) : NULL;
    if (known && known->hub == hub) /* else it was in a loop before this one */
        return task_rehouse(known);
    EgTask *self = PyErr_Occurred() ? NULL : task_alloc(eg_state->task_type, hub, EG_FOREIGN);
    if (!self)
        return NULL;
    self->state = EG_RUNNING;
    self->greenlet = greenlet;
    self->beneath = (EgTask *)Py_XNewRef(task_beneath(hub, greenlet));
    task_rehouse(self);
    return task_bind(self, *dict) < 0 ? NULL : self;
}

void
eg_task_rebind(EgTask *self)
{
    PyObject *type, *value, *traceback, **dict = &((PyGreenlet *)self->greenlet)->dict;
    PyErr_Fetch(&type, &value, &traceback); /* what ended the wait */
    self->hub->forbidden++;                 /* the collector may run here, amid the wait's end */
    self->unbound = false;
    Py_INCREF(self); /* task_bind() drops one if it fails */
    if ((!*dict && !(*dict = PyDict_New())) || task_bind(self, *dict) < 0) {
        PyErr_Clear(); /* out of memory: it stays alive for good, and is of no greenlet */
        self->greenlet = NULL;
    } else
        Py_DECREF(self);
    self->hub->forbidden--;
    PyErr_Restore(type, value, traceback);
}

EgTask *
eg_task_for(EgHub *hub, EgTaskRole role, PyObject *greenlet)
{
    if (role == EG_FOREIGN)
        return task_for_foreign(hub, greenlet);
    EgTask *self = task_alloc(eg_state->task_type, hub, role);
    if (self) {
        self->state = EG_RUNNING;
        self->greenlet = Py_XNewRef(greenlet);
    }
    return self;
}

static PyObject *
task_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    EgHub *hub = eg_hub_get();
    return hub ? (PyObject *)task_alloc(type, hub, EG_TASK) : NULL;
}

/* A dict of its own; new. */
static PyObject *
task_keywords(PyObject *mapping)
{
    PyObject *dict = NULL;
    if (!PyObject_HasAttrString(mapping, "keys"))
        PyErr_Format(PyExc_TypeError, "kwargs must be a mapping, not %.100s",
                     Py_TYPE(mapping)->tp_name);
    else if ((dict = PyDict_New()) && PyDict_Update(dict, mapping) < 0)
        Py_CLEAR(dict);
    return dict;
}

static int
task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"target", "name", "args", "kwargs", NULL};
    EgTask *self = (EgTask *)op;
    PyObject *target = Py_None, *name = Py_None, *call = NULL, *keywords = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOO:Task", names, &target, &name, &call,
                                     &keywords))
        return -1;
    if (target != Py_None && !PyCallable_Check(target)) {
        PyErr_Format(PyExc_TypeError, "target must be callable, not %.100s",
                     Py_TYPE(target)->tp_name);
        return -1;
    }
    PyObject *dict = NULL, *text = NULL;
    call = call && call != Py_None ? PySequence_Tuple(call) : Py_NewRef(eg_state->empty_tuple);
    if (!call || (keywords != Py_None && !(dict = task_keywords(keywords)))
        || (name != Py_None && !(text = PyObject_Str(name))))
        goto failed;
    if (self->state != EG_NEW || self->role != EG_TASK) { /* now: the above runs Python */
        PyErr_SetString(PyExc_RuntimeError, "a task that was started cannot be made anew");
        goto failed;
    }
    Py_XSETREF(self->target, target == Py_None ? NULL : Py_NewRef(target));
    Py_XSETREF(self->args, call);
    Py_XSETREF(self->kwargs, dict);
    Py_XSETREF(self->name, text);
    return 0;
failed:
    Py_XDECREF(call);
    Py_XDECREF(dict);
    Py_XDECREF(text);
    return -1;
}

int
eg_task_start(EgTask *self)
{
    EgHub *hub = self->hub;
    PyObject *context = PyContext_CopyCurrent(); /* first: the collector runs Python */
    if (!context)
        return -1;
    if (EG_UNLIKELY(hub->destroyed || self->state != EG_NEW)) {
        PyErr_SetString(PyExc_RuntimeError, self->state == EG_NEW
                                                ? "the event loop of this task was destroyed"
                                                : "tasks can only be started once");
        Py_DECREF(context);
        return -1;
    }
    self->context = context;
    PyObject_GC_UnTrack(self->context); /* until eg_task_run() lets go of it */
    PyObject_GC_UnTrack(self);          /* until task_end() */
    self->state = EG_STARTED;
    self->prev = NULL;
    if ((self->next = hub->tasks))
        self->next->prev = self;
    hub->tasks = self;
    hub->ntasks++;
    Py_INCREF(self); /* its own; given back by worker_main() or task_release() */
    self->queued = true;
    eg_hub_push(hub, &self->ready);
    return 0;
}

PyObject *
eg_task_spawn(EgHub *hub, PyObject *target, PyObject *args, PyObject *kwargs)
{
    EgTask *self = task_alloc(eg_state->task_type, hub, EG_TASK);
    if (!self)
        return NULL;
    self->target = Py_NewRef(target);
    self->args = Py_NewRef(args ? args : eg_state->empty_tuple);
    self->kwargs = Py_XNewRef(kwargs);
    if (eg_task_start(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* ---- ending --------------------------------------------------------------------- */
static bool
exception_is_for_main(PyObject *exc)
{
    return PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt)
           || PyErr_GivenExceptionMatches(exc, PyExc_SystemExit);
}

/* Steals result. */
static void
task_end(EgTask *self, PyObject *result, bool failed)
{
    EgHub *hub = self->hub;
    self->state = EG_ENDED;
    self->result = result;
    self->failed = failed;
    if (PyObject_IS_GC(result) || self->dict || !Py_IS_TYPE(self, eg_state->task_type))
        PyObject_GC_Track(self);
    if (failed) {
        if (PyErr_GivenExceptionMatches(result, eg_state->task_exit))
            self->observed = true;
        else if (self->signals || exception_is_for_main(result)) {
            self->observed = true;
            if (EG_UNLIKELY(hub->orphan))
                eg_fork_leave_child(self);
            eg_hub_to_main(hub, result);
        } else
            eg_state->unobserved++;
    }
    if (self->group)
        eg_group_leave(self);
    if (self->prev)
        self->prev->next = self->next;
    else
        hub->tasks = self->next;
    if (self->next)
        self->next->prev = self->prev;
    self->prev = self->next = NULL;
    hub->ntasks--;
    eg_queue_wake_all(&self->joiners);
    if (EG_UNLIKELY(hub->orphan && hub->ntasks == 0))
        eg_fork_leave_child(self);
}

static void
task_release(EgNode *node)
{
    EgTask *self = EG_OWNER(node, EgTask, ready);
    Py_CLEAR(self->target); /* of the call that it did not make */
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    Py_DECREF(self); /* what eg_task_start() took */
}

PyObject *
eg_task_take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

void
eg_task_end_unrun(EgTask *self, PyObject *exc)
{
    bool started = self->state == EG_STARTED;
    PyObject *result = exc ? Py_NewRef(exc) : eg_task_take_exception();
    if (!started) {
        self->state = EG_ENDED;
        self->result = result;
        self->failed = self->observed = self->killed_early = true;
        eg_queue_wake_all(&self->joiners);
        return;
    }
    task_end(self, result, true);
    self->ready.run = task_release; /* the hub drops it: finalisers must not run here */
    if (!self->queued)
        eg_hub_push(self->hub, &self->ready);
    self->queued = true;
}

/* Let go of what the call needed. Finalisers run in the task, and may block. */
static void
task_drop_call(EgTask *self)
{
    Py_CLEAR(self->target);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    PyGreenlet *greenlet = (PyGreenlet *)self->greenlet;
    while (greenlet->dict)
        Py_CLEAR(greenlet->dict); /* greenlet-local storage: a finaliser may put new things in */
    if (self->identified || self->tstate_lock || EG_UNLIKELY(eg_follow))
        eg_thread_end(self);
}

/* Steals context. Somebody may keep it, and its own end expects that it is tracked. */
static void
task_drop_context(PyObject *context)
{
    if (context && !PyObject_GC_IsTracked(context))
        PyObject_GC_Track(context);
    Py_XDECREF(context);
}

static PyObject *
task_call(EgTask *self)
{
    if (!Py_IS_TYPE(self, eg_state->task_type))
        return PyObject_CallMethodNoArgs((PyObject *)self, eg_state->str_run);
    if (!self->target)
        Py_RETURN_NONE;
    if (self->kwargs)
        return PyObject_Call(self->target, self->args, self->kwargs);
    return PyObject_Vectorcall(self->target, &PyTuple_GET_ITEM(self->args, 0),
                               (size_t)PyTuple_GET_SIZE(self->args), NULL);
}

void
eg_task_run(EgTask *self)
{
    PyObject *context = self->context; /* ours now */
    self->context = NULL;
    self->state = EG_RUNNING;
    PyObject *result = NULL;
    if (PyContext_Enter(context) == 0) {
        if (eg_trace_wanted() && !self->is_thread) /* else module threading does it */
            eg_trace_start();
        result = task_call(self);
    }
    bool failed = !result;
    if (failed) {
        eg_native_meet(self);
        result = eg_task_take_exception();
    }
    task_drop_call(self);
    if (PyContext_Exit(context) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
    task_drop_context(context);
    Py_CLEAR(self->thrown); /* it came too late */
    Py_CLEAR(self->held);
    eg_later_end(self);
    self->shields = 0;
    task_end(self, result, failed);
}

void
eg_task_report(EgTask *self)
{
    if (!self->failed || self->observed)
        return;
    self->observed = true;
    eg_state->unobserved--;
    PyErr_SetObject((PyObject *)Py_TYPE(self->result), self->result);
    eg_hub_report(self->hub, "Exception in task", (PyObject *)self);
}

/* ---- waiting for a task ------------------------------------------------------------ */
static const EgWaitKind task_join_kind = {"task", NULL};

/* 1: it has ended; 0: not in time; -1: exception. */
static int
task_wait_end(EgTask *self, PyObject *timeout)
{
    uint64_t deadline;
    if (eg_clock_deadline(timeout, &deadline) < 0)
        return -1;
    if (self->state == EG_ENDED)
        return 1;
    if (self->role != EG_TASK) {
        PyErr_SetString(PyExc_RuntimeError, "cannot wait for a greenlet that is not a task");
        return -1;
    }
    if (self->state == EG_NEW) {
        PyErr_SetString(PyExc_RuntimeError, "cannot join task before it is started");
        return -1;
    }
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    if (me == self) {
        PyErr_SetString(PyExc_RuntimeError, "a task cannot wait for its own end");
        return -1;
    }
    eg_wait_join(me, &self->joiners);
    return eg_wait_park(me, &task_join_kind, (PyObject *)self, deadline);
}

/* A call of the loop's when a task has ended; from the heap, in the task's joiners. */
typedef struct {
    EgBell bell;
    PyObject *handler; /* strong */
} EgDone;

static void
task_on_end(EgBell *bell)
{
    EgDone *done = EG_OWNER(bell, EgDone, bell);
    eg_handler_schedule(done->handler);
    Py_DECREF(done->handler); /* on the ring, it holds itself */
    PyMem_Free(done);
}

/* The first of these from link on. */
static EgDone *
task_next_done(EgLink *link)
{
    while (link && (link->task || EG_OWNER(link, EgBell, link)->ring != task_on_end))
        link = link->next;
    return link ? EG_OWNER(EG_OWNER(link, EgBell, link), EgDone, bell) : NULL;
}

PyDoc_STRVAR(task_add_done_callback_doc,
"add_done_callback($self, callback, /)\n"
"--\n"
"\n"
"Have the event loop call callback(task) when the task has ended, or soon if it has.\n"
"\n"
"The call may not block. Raise RuntimeError for what is no task.");

static PyObject *
task_add_done_callback(PyObject *op, PyObject *callback)
{
    EgTask *self = (EgTask *)op;
    if (self->role != EG_TASK) {
        PyErr_SetString(PyExc_RuntimeError, "this greenlet is not a task: it has no end");
        return NULL;
    }
    PyObject *handler = eg_handler_lasting(self->hub, callback, &op, 1, NULL);
    EgDone *done = handler ? PyMem_Calloc(1, sizeof *done) : NULL;
    if (!done) {
        Py_XDECREF(handler);
        return handler ? PyErr_NoMemory() : NULL;
    }
    done->handler = handler;
    if (self->state == EG_ENDED)
        task_on_end(&done->bell);
    else
        eg_queue_add_bell(&self->joiners, &done->bell, task_on_end);
    Py_RETURN_NONE;
}

EgQueue *
eg_task_waitable(PyObject *op, bool *ready)
{
    EgTask *self = (EgTask *)op;
    *ready = self->state == EG_ENDED;
    if (self->role == EG_TASK && self->state != EG_NEW)
        return &self->joiners;
    PyErr_SetString(PyExc_RuntimeError, self->role == EG_TASK
                                            ? "cannot wait for a task before it is started"
                                            : "cannot wait for a greenlet that is not a task");
    return NULL;
}

PyDoc_STRVAR(task_join_doc,
"join($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait until the task has ended, timeout seconds at most; return whether it has.\n"
"\n"
"The task's exception, if it ended with one, stays where it is: see result().\n"
"Raise RuntimeError if the task was not started, or is the caller.");

static const char *const timeout_name[] = {"timeout"};

static PyObject *
task_join(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *timeout = NULL;
    if (eg_parse("join", timeout_name, 1, 0, args, n, kwnames, &timeout) < 0)
        return NULL;
    int ended = task_wait_end((EgTask *)op, timeout);
    return ended < 0 ? NULL : PyBool_FromLong(ended);
}

PyDoc_STRVAR(task_result_doc,
"result($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait until the task has ended; return what it returned or raise what it raised.\n"
"\n"
"An exception that was taken here is not reported to the excepthook. A task that\n"
"was killed raises its TaskExit. Raise TimeoutError if the task has not ended in\n"
"timeout seconds, RuntimeError if it was not started or is the caller.");

static PyObject *
task_result(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgTask *self = (EgTask *)op;
    PyObject *timeout = NULL;
    if (eg_parse("result", timeout_name, 1, 0, args, n, kwnames, &timeout) < 0)
        return NULL;
    int ended = task_wait_end(self, timeout);
    if (ended < 0)
        return NULL;
    if (!ended) {
        PyObject *name = eg_task_name(self);
        if (name)
            PyErr_Format(PyExc_TimeoutError, "task %R has not ended in time", name);
        Py_XDECREF(name);
        return NULL;
    }
    if (!self->failed)
        return Py_NewRef(self->result);
    if (!self->observed) {
        self->observed = true;
        eg_state->unobserved--;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(self->result), self->result);
    return NULL;
}

/* ---- methods ------------------------------------------------------------------------ */
PyDoc_STRVAR(task_start_doc,
"start($self, /)\n"
"--\n"
"\n"
"Have the task run, after what is ready already, in a copy of the current context.\n"
"\n"
"Raise RuntimeError the second time. A task that was killed before does not run.");

static PyObject *
task_start(PyObject *op, PyObject *unused)
{
    EgTask *self = (EgTask *)op;
    (void)unused;
    if (self->killed_early) {
        self->killed_early = false;
        Py_RETURN_NONE;
    }
    if (self->state != EG_NEW || self->role != EG_TASK) {
        PyErr_SetString(PyExc_RuntimeError, "tasks can only be started once");
        return NULL;
    }
    if (eg_task_start(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(task_run_doc,
"run($self, /)\n"
"--\n"
"\n"
"What the task does: call target(*args, **kwargs). Subclasses may override it.");

static PyObject *
task_run(PyObject *op, PyObject *unused)
{
    EgTask *self = (EgTask *)op;
    (void)unused;
    if (!self->target)
        Py_RETURN_NONE;
    PyObject *target = Py_NewRef(self->target); /* which may call __init__() */
    PyObject *arguments = Py_NewRef(self->args ? self->args : eg_state->empty_tuple);
    PyObject *keywords = Py_XNewRef(self->kwargs);
    PyObject *result = PyObject_Call(target, arguments, keywords);
    Py_DECREF(target);
    Py_DECREF(arguments);
    Py_XDECREF(keywords);
    return result;
}

/* The exception instance of (typ, value, tb) as throw() and kill() take them; new. */
PyObject *
eg_task_make_exception(PyObject *type, PyObject *value, PyObject *traceback)
{
    PyObject *exc = NULL;
    if (PyExceptionInstance_Check(type))
        exc = Py_NewRef(type);
    else if (!PyExceptionClass_Check(type))
        return PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, not %R",
                            type);
    else if (value && value != Py_None && PyExceptionInstance_Check(value))
        exc = Py_NewRef(value);
    else if (value && value != Py_None)
        exc = PyObject_CallOneArg(type, value);
    else
        exc = PyObject_CallNoArgs(type);
    if (exc && !PyExceptionInstance_Check(exc)) {
        PyErr_Format(PyExc_TypeError, "calling %R gave no exception", type);
        Py_CLEAR(exc);
    }
    if (exc && traceback && traceback != Py_None && PyException_SetTraceback(exc, traceback) < 0)
        Py_CLEAR(exc);
    return exc;
}

/* -1: exception; the task itself gets exc that way. throw: how another one gets it. */
static int
task_kill_with(EgTask *self, PyObject *exc, bool (*throw)(EgTask *, PyObject *))
{
    EgTask *on_its_stack = self->shields ? NULL : eg_park_foreign_on(self);
    if (on_its_stack) /* its code waits there; what is raised there comes back to it */
        self = on_its_stack;
    if (self->state == EG_NEW || self->state == EG_STARTED)
        eg_task_end_unrun(self, exc);
    else if (self->state == EG_RUNNING && self->hub == eg_hub_here && eg_hub_here
             && eg_hub_task(self->hub) == self) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        return -1;
    } else
        throw(self, exc);
    return 0;
}

PyObject *
eg_task_make_exit(PyObject *reason)
{
    PyObject *exc = reason ? PyObject_CallOneArg(eg_state->task_exit, reason)
                           : PyObject_CallNoArgs(eg_state->task_exit);
    return exc ? exc : eg_task_take_exception(); /* a MemoryError ends a task as well */
}

int
eg_task_kill(EgTask *self, PyObject *reason)
{
    if (self->state == EG_ENDED)
        return 0;
    PyObject *exc = eg_task_make_exit(reason);
    int status = task_kill_with(self, exc, eg_wait_throw);
    Py_DECREF(exc);
    return status;
}

PyDoc_STRVAR(task_kill_doc,
"kill($self, /, typ=None, value=None, tb=None, *, reason=None)\n"
"--\n"
"\n"
"Raise an exception, TaskExit(reason) if none is given, in the task where it waits, or at\n"
"its next wait; do not wait for it.\n"
"\n"
"A task that has not run yet never will, and one that has ended stays as it is. Called by\n"
"the task itself, it raises at once. May be called from any thread.");

static PyObject *
task_kill(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"typ", "value", "tb", "reason", NULL};
    EgTask *self = (EgTask *)op;
    PyObject *type = Py_None, *value = NULL, *traceback = NULL, *reason = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO$O:kill", names, &type, &value, &traceback,
                                     &reason))
        return NULL;
    if (reason != Py_None && type != Py_None) {
        PyErr_SetString(PyExc_TypeError,
                        "a reason goes into a TaskExit, not into another exception");
        return NULL;
    }
    int status = 0;
    if (self->state != EG_ENDED) {
        PyObject *exit = eg_state->task_exit;
        PyObject *exc = type != Py_None     ? eg_task_make_exception(type, value, traceback)
                        : reason != Py_None ? PyObject_CallOneArg(exit, reason)
                                            : PyObject_CallNoArgs(exit);
        status = exc ? task_kill_with(self, exc, eg_wait_kill) : -1;
        Py_XDECREF(exc);
    }
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(task_is_alive_doc,
"is_alive($self, /)\n"
"--\n"
"\n"
"Return whether the task was started and has not ended.");

static PyObject *
task_is_alive(PyObject *op, PyObject *unused)
{
    (void)unused;
    EgTask *self = (EgTask *)op;
    return PyBool_FromLong(self->state != EG_NEW && self->state != EG_ENDED);
}

uint64_t
eg_task_identity(void)
{
    EgHub *hub = eg_hub_here;
    EgTask *task = hub ? eg_hub_task(hub) : NULL;
    if (EG_LIKELY(task && (task = eg_task_owner(task))->role != EG_MAIN))
        return (uint64_t)task->number << 3 | (uint64_t)(task->role + 1);
    /* A thread's main greenlet is who it was before the thread had a loop, and after. */
    return PyThreadState_GetID(PyThreadState_Get()) << 3 | (hub && !task ? 6 : 7);
}

PyDoc_STRVAR(task_current_doc,
"current()\n"
"--\n"
"\n"
"Return the task that runs. The greenlet that was there before the loop has one, too.\n"
"\n"
"Raise RuntimeError in a thread without an event loop, and in a callback of the loop.");

static PyObject *
task_current(PyObject *type, PyObject *unused)
{
    (void)type;
    (void)unused;
    EgHub *hub = eg_hub_get();
    EgTask *task = hub ? eg_hub_task(hub) : NULL;
    if (hub && !task && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "no task is running: this is a callback of the loop");
    if (task && task->role == EG_VISITOR)
        task = eg_task_owner(task);
    return Py_XNewRef((PyObject *)task);
}

static const EgWaitKind task_switch_kind = {"switch", NULL};

PyDoc_STRVAR(task_switch_doc,
"switch($self, /, *args)\n"
"--\n"
"\n"
"From a callback of the loop: let the task return from EventLoop.switch(), with args.\n"
"\n"
"Raise RuntimeError elsewhere: tasks do not switch to each other.");

static int
task_check_callback(EgTask *self, const char *what)
{
    EgHub *hub = eg_hub_here;
    if (hub && hub == self->hub && !eg_hub_task(hub) && !PyErr_Occurred())
        return 0;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_RuntimeError, "%s() may only be called by a callback of the loop", what);
    return -1;
}

static PyObject *
task_switch(PyObject *op, PyObject *args)
{
    EgTask *self = (EgTask *)op;
    if (task_check_callback(self, "switch") < 0)
        return NULL;
    if (self->state != EG_PARKED || self->wait.kind != &task_switch_kind) {
        PyErr_SetString(PyExc_RuntimeError, "the task does not wait in EventLoop.switch()");
        return NULL;
    }
    PyObject *value = PyTuple_GET_SIZE(args) == 1 ? PyTuple_GET_ITEM(args, 0)
                      : PyTuple_GET_SIZE(args)    ? args
                                                  : Py_None;
    if (self->wait.outcome == EG_PENDING)
        eg_wait_wake(self, NULL, Py_NewRef(value));
    Py_RETURN_NONE;
}

PyObject *
eg_task_switch_away(void)
{
    EgTask *me = eg_wait_begin();
    if (!me || eg_wait_park(me, &task_switch_kind, NULL, EG_FOREVER) < 0)
        return NULL;
    PyObject *value = me->wait.value; /* ours now */
    me->wait.value = NULL;
    return value;
}

PyDoc_STRVAR(task_throw_doc,
"throw($self, /, typ=None, value=None, tb=None)\n"
"--\n"
"\n"
"From a callback of the loop: raise an exception in the task where it waits.\n"
"\n"
"Raise RuntimeError elsewhere: see kill().");

static PyObject *
task_throw(PyObject *op, PyObject *args, PyObject *kwargs)
{
    if (task_check_callback((EgTask *)op, "throw") < 0)
        return NULL;
    return task_kill(op, args, kwargs);
}

/* ---- attributes ----------------------------------------------------------------------- */
PyObject *
eg_task_name(EgTask *self)
{
    if (self->name)
        return Py_NewRef(self->name);
    if (self->role == EG_MAIN)
        return PyUnicode_FromString("main");
    return PyUnicode_FromFormat("%s-%llu",
                                self->role == EG_FOREIGN  ? "greenlet"
                                : self->role == EG_THREAD ? "thread"
                                                          : "Task",
                                (unsigned long long)self->number);
}

static PyObject *
task_get_name(PyObject *op, void *unused)
{
    (void)unused;
    return eg_task_name((EgTask *)op);
}

static int
task_set_name(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    PyObject *name = value ? PyObject_Str(value) : NULL;
    if (!name && !PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "a task has a name");
    if (!name)
        return -1;
    Py_XSETREF(((EgTask *)op)->name, name);
    return 0;
}

static PyObject *
task_get_greenlet(PyObject *op, void *unused)
{
    (void)unused;
    EgTask *self = (EgTask *)op;
    return Py_NewRef(self->greenlet ? self->greenlet : Py_None);
}

static PyObject *
task_get_loop(PyObject *op, void *unused)
{
    (void)unused;
    EgTask *self = (EgTask *)op;
    return Py_NewRef(self->hub ? (PyObject *)self->hub : Py_None);
}

/* None, or (kind, object, deadline or None, since), times in seconds of EventLoop.time() */
static PyObject *
task_get_waiting(PyObject *op, void *unused)
{
    (void)unused;
    EgTask *self = (EgTask *)op;
    EgWait *wait = &self->wait;
    if (self->state != EG_PARKED || wait->outcome != EG_PENDING)
        Py_RETURN_NONE;
    uint64_t since = self->hub ? eg_hub_since(self->hub, wait->since) : wait->since;
    PyObject *deadline = wait->deadline_ns == EG_FOREVER
                             ? Py_NewRef(Py_None)
                             : PyFloat_FromDouble((double)wait->deadline_ns / 1e9);
    PyObject *object = Py_NewRef(wait->object ? wait->object : Py_None); /* a tuple is made first */
    return Py_BuildValue("(sNNd)", wait->kind->name, object, deadline, (double)since / 1e9);
}

static PyObject *
task_repr(PyObject *op)
{
    static const char *const states[] = {"initial", "started", "running", "waiting", "ended"};
    EgTask *self = (EgTask *)op;
    PyObject *name = eg_task_name(self), *type = name ? PyType_GetName(Py_TYPE(op)) : NULL;
    PyObject *repr = NULL;
    if (type)
        repr = PyUnicode_FromFormat("<%U(%U, %s)>", type, name, states[self->state]);
    Py_XDECREF(type);
    Py_XDECREF(name);
    return repr;
}

/* ---- the type --------------------------------------------------------------------------- */
static int
task_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgTask *self = (EgTask *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->hub);
    if (self->role != EG_FOREIGN)
        Py_VISIT(self->greenlet);
    if (self->role == EG_FOREIGN) {
        Py_VISIT(self->beneath);
        Py_VISIT(self->owner);
    } else if (self->role == EG_VISITOR)
        Py_VISIT(self->owner);
    Py_VISIT(self->target);
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    Py_VISIT(self->name);
    Py_VISIT(self->context);
    Py_VISIT(self->result);
    Py_VISIT(self->thrown);
    Py_VISIT(self->held);
    Py_VISIT(self->group);
    Py_VISIT(self->wait.value);
    Py_VISIT(self->tstate_lock);
    Py_VISIT(self->dict);
    for (EgDone *done = task_next_done(self->joiners.first); done;
         done = task_next_done(done->bell.link.next))
        Py_VISIT(done->handler);
    return eg_follow_visit(&self->kept, visit, arg);
}

static int
task_clear(PyObject *op)
{
    EgTask *self = (EgTask *)op;
    if (self->role == EG_FOREIGN) {
        Py_CLEAR(self->beneath);
        Py_CLEAR(self->owner);
    } else if (self->role == EG_VISITOR)
        Py_CLEAR(self->owner);
    Py_CLEAR(self->target);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    PyObject *context = self->context; /* ours now */
    self->context = NULL;
    task_drop_context(context);
    Py_CLEAR(self->result);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->held);
    Py_CLEAR(self->group);
    Py_CLEAR(self->wait.value);
    Py_CLEAR(self->tstate_lock);
    EgDone *done;
    while ((done = task_next_done(self->joiners.first))) { /* it was never started */
        eg_queue_remove(&done->bell.link);
        Py_DECREF(done->handler);
        PyMem_Free(done);
    }
    eg_follow_clear(&self->kept);
    Py_CLEAR(self->dict);
    return 0;
}

static void
task_finalize(PyObject *op)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    eg_task_report((EgTask *)op);
    PyErr_Restore(type, value, traceback);
}

static void
task_free(EgTask *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->role
        == EG_THREAD) /* the thread may wait, and not be here: a forked child, or the end */
        eg_wait_visit_leave(self);
    if (self->weakrefs)
        PyObject_ClearWeakRefs((PyObject *)self);
    task_clear((PyObject *)self);
    Py_CLEAR(self->name);
    if (self->role != EG_FOREIGN)
        Py_CLEAR(self->greenlet);
    Py_CLEAR(self->hub);
    if (self->role == EG_THREAD && self->bell && self->state != EG_PARKED)
        PyThread_free_lock(self->bell); /* else the interpreter ends, and its thread sleeps on */
    type->tp_free(self);
    Py_DECREF(type);
}

static void
task_dealloc(PyObject *op)
{
    EgTask *self = (EgTask *)op;
    if (self->failed && PyObject_CallFinalizerFromDealloc(op) < 0)
        return; /* resurrected by the excepthook */
    if (self->hub && self->hub->resident == self)
        self->hub->resident = NULL;   /* it ended in another thread */
    if (!PyObject_GC_IsTracked(op)) { /* as after most calls: it holds nothing that may be nested */
        task_free(self);
        return;
    }
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, task_dealloc);
    task_free(self);
    Py_TRASHCAN_END;
}

static PyMethodDef task_methods[] = {
    {"start", task_start, METH_NOARGS, task_start_doc},
    {"run", task_run, METH_NOARGS, task_run_doc},
    {"join", EG_METHOD(task_join), METH_FASTCALL | METH_KEYWORDS, task_join_doc},
    {"result", EG_METHOD(task_result), METH_FASTCALL | METH_KEYWORDS, task_result_doc},
    {"add_done_callback", task_add_done_callback, METH_O, task_add_done_callback_doc},
    {"kill", EG_METHOD(task_kill), METH_VARARGS | METH_KEYWORDS, task_kill_doc},
    {"is_alive", task_is_alive, METH_NOARGS, task_is_alive_doc},
    {"switch", task_switch, METH_VARARGS, task_switch_doc},
    {"throw", EG_METHOD(task_throw), METH_VARARGS | METH_KEYWORDS, task_throw_doc},
    {"current", task_current, METH_NOARGS | METH_CLASS, task_current_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_getset[] = {
    {"name", task_get_name, task_set_name, PyDoc_STR("What reports call it."), NULL},
    {"greenlet", task_get_greenlet, NULL, PyDoc_STR("The greenlet that it runs on now, or None."),
     NULL},
    {"loop", task_get_loop, NULL, PyDoc_STR("Its EventLoop."), NULL},
    {"waiting", task_get_waiting, NULL,
     PyDoc_STR("None, or what it waits for: (kind, object, deadline or None, since), times in\n"
               "seconds of EventLoop.time()."),
     NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef task_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(EgTask, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgTask, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(task_doc,
"Task(target=None, name=None, args=(), kwargs=None)\n"
"--\n"
"\n"
"A call that runs beside others in one thread: the shape of threading.Thread.\n"
"\n"
"start() has the current thread's event loop call run(), which calls\n"
"target(*args, **kwargs). While it waits for something, other tasks run.");

static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)task_doc},   {Py_tp_new, task_new},         {Py_tp_init, task_init},
    {Py_tp_traverse, task_traverse}, {Py_tp_clear, task_clear},     {Py_tp_finalize, task_finalize},
    {Py_tp_dealloc, task_dealloc},   {Py_tp_repr, task_repr},       {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getset},     {Py_tp_members, task_members}, {0, NULL},
};

PyType_Spec eg_task_spec = {
    .name = "evergreen.Task",
    .basicsize = sizeof(EgTask),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = task_slots,
};

/* ---- functions of the module -------------------------------------------------------------- */
const char eg_task_spawn_doc[] =
    "spawn($module, function, /, *args, **kwargs)\n"
    "--\n"
    "\n"
    "Have function(*args, **kwargs) run as a task, after what is ready already; return it.\n"
    "\n"
    "The task runs in a copy of the current context (see contextvars). Raise RuntimeError\n"
    "in a thread without an event loop.";

EgTask *
eg_task_make(PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (n < 1 || !PyCallable_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "spawn() needs a callable to run");
        return NULL;
    }
    EgHub *hub = eg_hub_get();
    EgTask *self = hub ? task_alloc(eg_state->task_type, hub, EG_TASK) : NULL;
    if (!self)
        return NULL;
    self->target = Py_NewRef(args[0]);
    self->args = n > 1 ? PyTuple_New(n - 1) : Py_NewRef(eg_state->empty_tuple);
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (!self->args || (nkw && !(self->kwargs = PyDict_New()))) {
        Py_DECREF(self);
        return NULL;
    }
    for (Py_ssize_t i = 1; i < n; i++)
        PyTuple_SET_ITEM(self->args, i - 1, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; i < nkw; i++)
        if (PyDict_SetItem(self->kwargs, PyTuple_GET_ITEM(kwnames, i), args[n + i]) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    return self;
}

PyObject *
eg_task_spawn_method(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    (void)module;
    EgTask *task = eg_task_make(args, n, kwnames);
    if (task && eg_task_start(task) < 0)
        Py_CLEAR(task);
    return (PyObject *)task;
}

static const EgWaitKind task_sleep_kind = {"sleep", NULL};

const char eg_task_sleep_doc[] =
    "sleep($module, seconds=0, /)\n"
    "--\n"
    "\n"
    "Let others run for at least this many seconds; 0 lets what is ready run once.\n"
    "\n"
    "Raise ValueError for NaN, RuntimeError where nothing may block.";

PyObject *
eg_task_sleep_method(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    double seconds = 0;
    if (n > 1)
        return PyErr_Format(PyExc_TypeError, "sleep() takes at most 1 argument (%zd given)", n);
    if (n && eg_clock_seconds(args[0], &seconds) < 0)
        return NULL;
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    int status;
    if (seconds > 0 || me->role == EG_THREAD)
        status = eg_wait_park(me, &task_sleep_kind, NULL, eg_clock_after(seconds));
    else
        status = eg_wait_yield(me);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}
