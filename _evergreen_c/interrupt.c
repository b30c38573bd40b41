/* interrupt.c: Python's signal handlers run as main, whatever runs when a signal comes.
 *
 * CPython calls a handler in the main thread, wherever that is: with tasks, on the stack of any of
 * them.  So signal.signal() sets a catcher in the place of each handler while the main thread has a
 * hub.  Called in main, it calls the handler; called elsewhere, it notes the signal, and the task
 * that runs stands aside for main:
 *
 *     a task computes              main is parked
 *     catcher_call() --- ask ----> eg_interrupt_visit(): the handlers run here, on main's stack
 *          pause                       | they return, or wait
 *     goes on  <-----------------------+
 *
 * Main has joined the queues of what it waits for and stays there, so its greenlet runs the handlers
 * as a task of its own, a visitor, which has its own wait.  Main does not go on before they have
 * returned; what they raise is raised in main, before the task that was interrupted goes on.  So
 * a handler finds main's identity, thread-local data, locks, context and frame.
 *
 * A signal that comes while a handler waits is handled on top of that, as in a thread; one of the
 * same number when that handler has returned.
 */
#include "evergreen.h"

#include <signal.h>
#include <structmember.h>

#define NUMBERS 65
#define AT_ONCE 8 /* handlers of one signal that asks the program to end */

EG_PATCH(interrupt_signal, "_signal", "signal", "signal");
EG_PATCH(interrupt_getsignal, "_signal", "getsignal", "signal");

/* The main thread's: there is one in a process. */
static struct {
    EgTask *main;    /* strong: the task that is the main thread; NULL: there is no hub */
    EgTask *next;    /* strong: the visitor for signals to come; NULL: no memory */
    EgTask *top;     /* borrowed: the visitor that came last; NULL: nobody visits */
    bool asked;      /* next is on the ring */
    uint64_t noted;  /* signals whose handlers have to run; bit n - 1 stands for signal n */
    uint64_t again;  /* these, too, when the handler that waits has returned */
    unsigned raised; /* how often handlers have raised something in main */
    bool by_user;    /* the last of that was KeyboardInterrupt */
    struct {
        unsigned running; /* handlers that have not returned */
        uint64_t began;   /* moment() when the last of them began */
    } of[NUMBERS];        /* by signal */
} interrupt;

static PyTypeObject *catcher_type; /* strong, for good */
static PyObject *signal_module;    /* strong, for good: _signal */

static inline uint64_t
bit_of(long number)
{
    return UINT64_C(1) << (number - 1);
}

/* ---- visitors ----------------------------------------------------------------------- */
EgTask *
eg_interrupt_main(EgHub *hub)
{
    return hub->signals && interrupt.main ? interrupt.main : hub->main;
}

EgTask *
eg_interrupt_top(EgHub *hub)
{
    return hub->signals ? interrupt.top : NULL;
}

/* A greenlet that is parked on main's stack; NULL: there is none. */
static EgTask *
interrupt_host(void)
{
    EgTask *host = interrupt.top ? interrupt.top : interrupt.main;
    if (host && host->state != EG_PARKED)
        host = eg_park_foreign_on(interrupt.main);
    return host && host->state == EG_PARKED ? host : NULL;
}

EgNode *
eg_interrupt_asked(void)
{
    return interrupt.asked ? &interrupt.next->ready : NULL;
}

void
eg_interrupt_ask(EgHub *hub)
{
    EgTask *visitor = interrupt.next, *main = interrupt.main;
    if (interrupt.asked || !visitor)
        return;
    interrupt.asked = visitor->queued = true;
    visitor->state = EG_PARKED;
    visitor->wait.outcome = EG_WOKEN;
    if (hub->ready.first && hub->ready.first == &main->ready) /* it has its step in between */
        eg_ring_insert(&hub->ready, &main->ready, &visitor->ready);
    else
        eg_ring_insert(&hub->ready, NULL, &visitor->ready);
}

bool
eg_interrupt_is(const EgNode *node)
{
    return node && interrupt.asked && node == &interrupt.next->ready;
}

PyObject *
eg_interrupt_target(EgHub *hub)
{
    EgTask *host = interrupt_host();
    return host ? host->greenlet : hub->greenlet;
}

static PyObject *
interrupt_handler_of(int number)
{
    PyObject *arg = PyLong_FromLong(number);
    PyObject *handler =
        arg ? eg_patch_call_original(&interrupt_getsignal_patch, signal_module, &arg, 1, NULL)
            : NULL;
    Py_XDECREF(arg);
    return handler;
}

/* Run all handlers that have to; -1: exception. */
static int
interrupt_handle(void)
{
    int status = PyErr_CheckSignals();
    while (status == 0 && interrupt.noted) {
        int number = __builtin_ctzll(interrupt.noted) + 1;
        interrupt.noted &= interrupt.noted - 1;
        PyObject *handler = interrupt_handler_of(number), *frame = (PyObject *)PyEval_GetFrame();
        PyObject *args = Py_BuildValue("(iO)", number, frame ? frame : Py_None), *result = NULL;
        if (handler && args && Py_IS_TYPE(handler, catcher_type)) /* else it is ignored by now */
            result = PyObject_Call(handler, args, NULL);
        status = PyErr_Occurred() ? -1 : 0;
        Py_XDECREF(result);
        Py_XDECREF(args);
        Py_XDECREF(handler);
    }
    return status;
}

static EgTask *
visitor_begin(EgHub *hub, EgTask *host)
{
    EgTask *visitor = interrupt.next; /* ours now */
    interrupt.next = NULL;
    interrupt.asked = false;
    interrupt.top = visitor;
    visitor->owner = (EgTask *)Py_NewRef(host);
    visitor->greenlet = Py_NewRef(host->greenlet);
    host->state = EG_RUNNING; /* nothing makes it ready */
    hub->current = visitor;
    visitor->state = EG_RUNNING;
    if (EG_UNLIKELY(eg_follow))
        eg_follow_enter(hub, visitor);
    return visitor;
}

static void
visitor_end(EgHub *hub, EgTask *visitor)
{
    visitor->state = EG_ENDED;
    Py_CLEAR(visitor->thrown); /* it came too late */
    Py_CLEAR(visitor->held);
    eg_later_end(visitor);
    if (EG_UNLIKELY(eg_follow))
        eg_follow_leave(hub, visitor);
    hub->current = NULL;
    Py_DECREF(visitor); /* visitor_begin()'s */
}

/* The host waits again, or no more: exc was raised, NULL: nothing was. */
static void
host_release(EgHub *hub, EgTask *host, PyObject *exc)
{
    bool queued = host->queued;
    host->state = EG_PARKED;
    host->queued = true; /* it has another place on the ring than others who are made ready */
    if (exc) {
        interrupt.raised++;
        interrupt.by_user = PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt);
        if (host == hub->main)
            eg_hub_to_main(hub, exc);
        else
            eg_wait_interrupt(host, exc);
    }
    eg_wait_settle(host);
    if (host->wait.outcome == EG_PENDING)
        host->queued = queued;
    else if (!queued || eg_ring_remove(&hub->ready, &host->ready))
        eg_ring_insert(&hub->ready, NULL, &host->ready);
}

void
eg_interrupt_visit(EgHub *hub, EgTask *host)
{
    PyObject *type, *value, *traceback, *exc = NULL;
    EgTask *top = interrupt.top, *visitor;
    PyErr_Fetch(&type, &value, &traceback);
    visitor = visitor_begin(hub, host);
    interrupt.next = eg_task_for(hub, EG_VISITOR, NULL);
    bool came = eg_signal_begin(hub);
    if (!interrupt.next || interrupt_handle() < 0)
        exc = eg_task_take_exception();
    visitor_end(hub, visitor);
    interrupt.top = top;
    PyErr_Restore(type, value, traceback);
    host_release(hub, host, exc);
    Py_XDECREF(exc);
    eg_signal_end(hub, came);
    if (interrupt.noted)
        eg_interrupt_ask(hub);
}

/* Nothing is parked on main's stack: it is in a greenlet that somebody else has switched away from,
 * or gone. A task of their own runs the handlers, and what they raise goes to main. */
static PyObject *
interrupt_run(PyObject *unused, PyObject *none)
{
    (void)unused;
    (void)none;
    bool came = eg_signal_begin(eg_hub_here);
    int status = interrupt_handle();
    eg_signal_end(eg_hub_here, came);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef interrupt_run_def = {"handle_signals", interrupt_run, METH_NOARGS, NULL};

void
eg_interrupt_elsewhere(EgHub *hub)
{
    interrupt.asked = false;
    PyObject *function = PyCFunction_New(&interrupt_run_def, NULL);
    PyObject *task = function ? eg_task_spawn(hub, function, NULL, NULL) : NULL;
    if (task)
        ((EgTask *)task)->signals = true;
    else
        eg_hub_report(hub, "Exception while handling a signal", NULL);
    Py_XDECREF(task);
    Py_XDECREF(function);
}

/* ---- catchers: what stands in the place of a handler ---------------------------------- */
typedef struct {
    PyObject_HEAD
    PyObject *handler; /* strong */
} EgCatcher;

static bool
asks_to_end(long number)
{
    return number == SIGINT || number == SIGTERM || number == SIGQUIT || number == SIGHUP;
}

/* It is another one once a task has waited. */
static uint64_t
moment(void)
{
    EgHub *hub = eg_hub_here; /* NULL: the handler has destroyed it */
    return hub ? hub->switches + hub->polls : 0;
}

/* In main. A handler that waits is not called again before it has returned, however often its signal
 * comes, unless that asks the program to end: who asks a second time does not want to wait for the
 * first. */
static PyObject *
catcher_handle(PyObject *handler, long number, PyObject *args, PyObject *kwargs)
{
    uint64_t bit = bit_of(number), began = interrupt.of[number].began;
    unsigned running = interrupt.of[number].running;
    if (running && moment() != began && (!asks_to_end(number) || running >= AT_ONCE)) {
        interrupt.again |= bit;
        Py_RETURN_NONE;
    }
    interrupt.of[number].began = moment();
    interrupt.of[number].running = running + 1;
    PyObject *result = PyObject_Call(handler, args, kwargs);
    interrupt.of[number].running = running; /* in a child, too, which may have begun with none */
    interrupt.of[number].began = began;
    if (!running && interrupt.again & bit) {
        interrupt.again &= ~bit;
        PyErr_SetInterruptEx((int)number); /* main has a step in between */
    }
    return result;
}

static const EgWaitKind interrupt_kind = {"signal", NULL};

/* The task that runs stands aside for main, and goes on when the handlers have returned, or wait. If
 * they have raised something, main goes on first, and may have killed the task; and Ctrl-C kills one
 * that was spawned (not a thread), since one that never waits meets nothing else. */
static PyObject *
interrupt_pause(EgHub *hub, EgTask *me)
{
    unsigned raised = interrupt.raised;
    eg_shield_begin(me);
    me->wait.outcome = EG_WOKEN;
    me->queued = true;
    eg_ring_insert(&hub->ready, &interrupt.next->ready, &me->ready);
    int status = eg_wait_park(me, &interrupt_kind, NULL, EG_FOREVER);
    eg_shield_leave(me);
    if (status < 0)
        return NULL;
    if (interrupt.raised != raised && me->role == EG_TASK) {
        if (me->thrown && !eg_wait_begin())
            return NULL;
        if (interrupt.by_user && !me->is_thread) {
            PyErr_SetNone(eg_state->task_exit);
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
catcher_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    EgHub *hub = eg_hub_here;
    PyObject *handler = ((EgCatcher *)op)->handler;
    PyObject *first = PyTuple_GET_SIZE(args) ? PyTuple_GET_ITEM(args, 0) : NULL;
    long number = first && PyLong_CheckExact(first) ? PyLong_AsLong(first) : 0;
    if (!hub || !hub->signals || !interrupt.main || hub->destroyed || number < 1
        || number >= NUMBERS)
        return PyObject_Call(handler, args, kwargs);
    EgTask *me = eg_hub_task(hub);
    if (!me && PyErr_Occurred())
        return NULL;
    bool callback = !me && !hub->forbidden && eg_park_current_greenlet() == hub->greenlet;
    bool by_user = PyCFunction_Check(handler) && number == SIGINT;
    if (me ? eg_task_owner(me) == interrupt.main
           : callback && by_user) /* nothing else ends a callback that computes */
        return catcher_handle(handler, number, args, kwargs);
    interrupt.noted |= bit_of(number);
    eg_interrupt_ask(hub);
    if (!me || hub->forbidden || me->state != EG_RUNNING || !interrupt.asked)
        Py_RETURN_NONE; /* soon */
    return interrupt_pause(hub, me);
}

static PyObject *
catcher_new(PyObject *handler)
{
    EgCatcher *self = (EgCatcher *)catcher_type->tp_alloc(catcher_type, 0);
    if (self)
        self->handler = Py_NewRef(handler); /* given back by catcher_clear() */
    return (PyObject *)self;
}

static int
catcher_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgCatcher *)op)->handler);
    return 0;
}

static int
catcher_clear(PyObject *op)
{
    Py_CLEAR(((EgCatcher *)op)->handler);
    return 0;
}

static void
catcher_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    catcher_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot catcher_slots[] = {
    {Py_tp_call, catcher_call},
    {Py_tp_traverse, catcher_traverse},
    {Py_tp_clear, catcher_clear},
    {Py_tp_dealloc, catcher_dealloc},
    {0, NULL},
};

static PyType_Spec catcher_spec = {
    .name = "evergreen._evergreen_c.SignalCatcher",
    .basicsize = sizeof(EgCatcher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = catcher_slots,
};

/* ---- signal.signal() and signal.getsignal() ----------------------------------------------- */
/* The handler that a catcher stands for; steals found. */
static PyObject *
handler_behind(PyObject *found)
{
    if (found && Py_IS_TYPE(found, catcher_type))
        Py_SETREF(found, Py_NewRef(((EgCatcher *)found)->handler));
    return found;
}

/* In a thread that is a task it is refused: trio and others find out by trying whether they are in the
 * main thread, and take signals over if they are. */
static PyObject *
interrupt_signal(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *given[2] = {NULL, NULL};
    if (eg_thread_refuses("signal"))
        return NULL;
    if (n != 2 || kwnames || !eg_hub_here || !eg_hub_here->signals || !PyCallable_Check(args[1]))
        return handler_behind(
            eg_patch_call_original(&interrupt_signal_patch, module, args, n, kwnames));
    given[0] = args[0];
    if (!(given[1] = catcher_new(args[1])))
        return NULL;
    PyObject *before = eg_patch_call_original(&interrupt_signal_patch, module, given, 2, NULL);
    Py_DECREF(given[1]);
    return handler_behind(before);
}

static PyObject *
interrupt_getsignal(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return handler_behind(
        eg_patch_call_original(&interrupt_getsignal_patch, module, args, n, kwnames));
}

/* Put a handler in place, and leave alone how the system delivers the signal. */
static void
interrupt_replace(int number, PyObject *handler)
{
    struct sigaction action;
    PyObject *args[2] = {PyLong_FromLong(number), handler}, *before = NULL;
    sigaction(number, NULL, &action);
    for (int tries = 0; args[0] && !before && tries < 2; tries++) {
        before = eg_patch_call_original(&interrupt_signal_patch, signal_module, args, 2, NULL);
        if (before)
            break;
        /* It has run handlers first. */
        if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            PyErr_Clear();
            PyErr_SetInterruptEx(SIGINT);
        } else
            PyErr_WriteUnraisable(handler);
    }
    sigaction(number, &action, NULL);
    Py_XDECREF(before);
    Py_XDECREF(args[0]);
}

/* Have catchers stand in the place of the handlers that are set, or not any more. */
static void
interrupt_replace_all(bool catch)
{
    for (int number = 1; number < NUMBERS && number < NSIG; number++) {
        PyObject *handler = interrupt_handler_of(number);
        bool caught = handler && Py_IS_TYPE(handler, catcher_type);
        if (!handler)
            PyErr_Clear(); /* no signal has this number */
        else if (PyCallable_Check(handler) && catch != caught) {
            PyObject *other = catch ? catcher_new(handler) : handler_behind(Py_NewRef(handler));
            if (other)
                interrupt_replace(number, other);
            else
                PyErr_WriteUnraisable(handler);
            Py_XDECREF(other);
        }
        Py_XDECREF(handler);
    }
}

/* ---- with the hub ------------------------------------------------------------------------ */
int
eg_interrupt_open(EgHub *hub)
{
    memset(&interrupt, 0, sizeof interrupt);
    interrupt.next = eg_task_for(hub, EG_VISITOR, NULL);
    if (!interrupt.next || eg_patch_apply(&interrupt_signal_patch, true) < 0
        || eg_patch_apply(&interrupt_getsignal_patch, true) < 0)
        return -1;
    interrupt.main = (EgTask *)Py_NewRef(hub->main);
    interrupt_replace_all(true);
    return 0;
}

void
eg_interrupt_close(void)
{
    if (!interrupt.main)
        return;
    interrupt_replace_all(false);
    if (eg_patch_apply(&interrupt_signal_patch, false) < 0
        || eg_patch_apply(&interrupt_getsignal_patch, false) < 0)
        PyErr_WriteUnraisable(NULL);
    interrupt.asked = false;
    Py_CLEAR(interrupt.main);
    Py_CLEAR(interrupt.next);
}

/* In a child that fork() made, of a hub that is here or (NULL) not: me goes on, as its main thread. */
void
eg_interrupt_after_fork(EgHub *hub, EgTask *me)
{
    EgTask *owner = me ? eg_task_owner(me) : NULL;
    interrupt.asked = false;
    interrupt.noted = interrupt.again = 0;
    if (!hub) { /* what was the parent's stays as it is */
        memset(&interrupt, 0, sizeof interrupt);
        return;
    }
    if (!interrupt.main || !owner)
        return;
    if (me->role != EG_VISITOR) {
        interrupt.top = NULL;
        memset(interrupt.of, 0, sizeof interrupt.of);
    }
    if (owner->role == EG_TASK)
        Py_SETREF(interrupt.main, (EgTask *)Py_NewRef(owner));
}

int
eg_interrupt_setup(PyObject *module)
{
    catcher_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &catcher_spec, NULL);
    signal_module = PyImport_ImportModule("_signal");
    return catcher_type && signal_module ? 0 : -1;
}
