/* park.c: the switch.
 *
 * A greenlet that parks takes the next entry of the ring itself and switches straight to
 * it; when the ring is empty it runs the libuv poll on its own stack, and if what comes
 * ready is itself it just returns.  Three kinds of greenlets take part:
 *
 *     the thread's first one, and greenlets that others made: they park and resume
 *     workers: each runs one task after the other, so a spawn costs no greenlet
 *     the hub's own: it starts workers, from a stack base that is fixed and shallow, and
 *     it runs callbacks
 *
 * hub->handoff says what the greenlet that is switched to has to do, and whoever resumes
 * finds its own node there.  PyGreenlet_Switch() is called in park_switch() and nowhere
 * else.
 */
#include "evergreen.h"

#include <alloca.h>

#define IDLE_MAX 1024
#define STEP 2304 /* bytes: more than the stack of a task that waits in one Python function */
#define FEW 64

static void **greenlet_api;

int
eg_park_import(void)
{
    greenlet_api = PyCapsule_Import("greenlet._C_API", 0);
    return greenlet_api ? 0 : -1;
}

static inline PyGreenlet *
greenlet_current(void)
{
    return ((PyGreenlet * (*)(void)) greenlet_api[PyGreenlet_GetCurrent_NUM])();
}

PyObject *
eg_park_current_greenlet(void)
{
    PyObject *greenlet = (PyObject *)greenlet_current();
    Py_XDECREF(greenlet); /* it runs, so it lives */
    return greenlet;
}

PyObject *
eg_park_root_greenlet(void)
{
    PyGreenlet *greenlet = greenlet_current(), *parent;
    while ((parent = ((PyGreenlet * (*)(PyGreenlet *))
                          greenlet_api[PyGreenlet_GET_PARENT_NUM])(greenlet))) {
        Py_DECREF(greenlet);
        greenlet = parent;
    }
    Py_DECREF(greenlet); /* it lives as long as the thread */
    return (PyObject *)greenlet;
}

static PyObject *
greenlet_new(PyObject *run, PyObject *parent)
{
    return (PyObject *)((PyGreenlet * (*)(PyObject *, PyGreenlet *))
                            greenlet_api[PyGreenlet_New_NUM])(run, (PyGreenlet *)parent);
}

/* ---- the one switch -------------------------------------------------------- */
/* Go to *greenlet* with *node* as its errand. No reference is held on it meanwhile: whoever
 * owns it may end it before this stack goes on, and a reference here would make every worker
 * look as if somebody had kept it. greenlet does not look at it again (but in assertions).
 * 0 when somebody comes back here in the scheduler's way; -1 with an exception when thrown at by greenlet.throw(). */
static int
park_switch(EgHub *hub, PyObject *greenlet, EgNode *node)
{
    hub->handoff = node;
    hub->switches++;
    PyObject *result = ((PyObject * (*)(PyGreenlet *, PyObject *, PyObject *))
                            greenlet_api[PyGreenlet_Switch_NUM])((PyGreenlet *)greenlet,
                                                                 eg_state->empty_tuple, NULL);
    if (!result)
        return -1;
    Py_DECREF(result);
    return 0;
}

/* Whether it needs a worker. */
static inline bool
node_is_new_task(EgNode *node)
{
    EgTask *task = node->run ? NULL : EG_OWNER(node, EgTask, ready);
    return task && !task->greenlet && task->role != EG_VISITOR;
}

/* The greenlet that can deal with a node that is not the caller's own. */
static PyObject *
park_target(EgHub *hub, EgNode *node)
{
    if (!node->run) {
        EgTask *task = EG_OWNER(node, EgTask, ready);
        if (task->greenlet)
            return task->greenlet;
        if (EG_UNLIKELY(task->role == EG_VISITOR))
            return eg_interrupt_target(hub);
        if (hub->nidle) /* a new task, and a worker that waits for one */
            return task->greenlet = hub->idle[--hub->nidle]; /* its reference moves along */
    }
    return hub->greenlet;
}

/* Somebody switched to, or threw into, a parked greenlet behind the scheduler's back. One who
 * switched is told that this is wrong, where it did so, and the greenlet stays parked. One who
 * threw goes on when its turn comes. 0: made ready after all; -1: exception. */
static int
park_intruded(EgHub *hub, EgTask *me, int status)
{
    while (status == 0 && hub->handoff != &me->ready) {
        EgTask *by = hub->current;
        PyObject *greenlet = by && by != me ? by->greenlet : hub->greenlet;
        PyObject *result = ((PyObject * (*)(PyGreenlet *, PyObject *, PyObject *, PyObject *))
                                greenlet_api[PyGreenlet_Throw_NUM])(
            (PyGreenlet *)greenlet, PyExc_RuntimeError, eg_state->str_intruder, NULL);
        status = result ? 0 : -1;
        Py_XDECREF(result);
    }
    EgTask *by = hub->current;
    if (status < 0 && by && by != me && by->state == EG_RUNNING && by->greenlet) {
        by->state = EG_PARKED;
        by->wait.outcome = EG_WOKEN;
        by->queued = true;
        eg_hub_push(hub, &by->ready);
    }
    return status;
}

/* Control has come to a parked greenlet to run signal handlers on its stack; then it is parked again.
 * As park_switch(). */
static int
park_visited(EgHub *hub, EgTask *me, int status)
{
    while (status == 0 && eg_interrupt_is(hub->handoff)) {
        eg_interrupt_visit(hub, me);
        EgNode *node = eg_hub_next(hub, eg_clock_ticks());
        hub->handoff = node;
        if (node != &me->ready)
            status = park_switch(hub, park_target(hub, node), node);
    }
    return status;
}

int
eg_park_switch_away(EgHub *hub, EgTask *me)
{
    int status = 0;
    PyObject *foreign = NULL;
    me->state = EG_PARKED;
    if (eg_thread_follows)
        eg_thread_leave(eg_task_owner(me));
    if (EG_UNLIKELY(eg_asyncio_used)) /* unless so already: the hub is new, or no loop had run */
        hub->asyncio_owner = eg_task_owner(me);
    if (EG_UNLIKELY(me->role == EG_FOREIGN))
        foreign = Py_NewRef((hub->foreign = me)->greenlet);
    EgNode *node = eg_hub_next(hub, me->wait.since);
    if (node != &me->ready) {
        status = park_switch(hub, park_target(hub, node), node);
        if (EG_UNLIKELY(hub->handoff != &me->ready))
            status = park_visited(hub, me, status);
        if (EG_UNLIKELY(hub->handoff != &me->ready))
            status = park_intruded(hub, me, status);
    }
    if (EG_UNLIKELY(foreign != NULL)) {
        if (me->unbound)
            me->greenlet = NULL; /* it has forgotten me: it will be given another task */
        Py_DECREF(foreign);      /* it runs, so this does not end it */
    }
    hub->current = me;
    me->state = EG_RUNNING;
    if (eg_thread_follows)
        eg_thread_enter(eg_task_owner(me));
    if (EG_UNLIKELY(eg_asyncio_used))
        eg_asyncio_enter(hub, eg_task_owner(me));
    return status;
}

/* ---- workers ------------------------------------------------------------------ */
/* Whether a worker may serve another task without anyone being able to tell: only the
 * running thread and its owner hold the greenlet, nothing refers to it weakly, and what
 * the task kept in its __dict__ is gone. */
static bool
worker_is_anonymous(PyObject *self)
{
    PyGreenlet *greenlet = (PyGreenlet *)self;
    return Py_REFCNT(self) <= 2 && !greenlet->weakreflist && !greenlet->dict;
}

static PyObject *
worker_main(PyObject *unused, PyObject *none)
{
    (void)unused;
    (void)none;
    EgHub *hub = eg_hub_here;
    EgNode *node = hub->handoff;
    eg_stack_install();
    while (node) {
        EgTask *task = EG_OWNER(node, EgTask, ready);
        hub->current = task;
        if (eg_thread_follows)
            eg_thread_enter(task);
        if (EG_UNLIKELY(eg_asyncio_used))
            eg_asyncio_enter(hub, task);
        eg_task_run(task);
        PyObject *self = task->greenlet; /* its reference is now ours */
        task->greenlet = NULL;
        hub->current = NULL;
        hub->forbidden++; /* its finalisers run in no task */
        Py_DECREF(task);  /* what eg_task_start() took */
        hub->forbidden--;
        bool anonymous = worker_is_anonymous(self);
        node = eg_hub_next(hub, eg_clock_ticks());
        if (anonymous && node_is_new_task(node)) {
            EG_OWNER(node, EgTask, ready)->greenlet = self;
            continue;
        }
        if (!anonymous || hub->nidle >= IDLE_MAX || hub->destroyed) {
            hub->handoff = node;
            Py_DECREF(self); /* the thread still holds it while it runs */
            break;           /* into its parent, the hub's greenlet */
        }
        hub->idle[hub->nidle++] = self;
        if (hub->nidle > 64)
            hub->trim_wanted = true;
        if (park_switch(hub, park_target(hub, node), node) < 0)
            break; /* the greenlet is being ended from outside */
        node = hub->handoff;
    }
    eg_stack_remove();
    PyObject *self = eg_park_current_greenlet();
    if (!PyObject_GC_IsTracked(self))
        PyObject_GC_Track(self); /* somebody may keep it */
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* ---- the hub's greenlet --------------------------------------------------------- */
static PyMethodDef worker_def = {"worker", worker_main, METH_NOARGS, NULL};

static void
hub_start(EgHub *hub, EgTask *task, EgNode *node)
{
    PyObject *run = PyCFunction_New(&worker_def, NULL);
    PyObject *worker = run ? greenlet_new(run, hub->greenlet) : NULL;
    Py_XDECREF(run);
    if (!worker) {
        eg_task_end_unrun(task, NULL); /* out of memory */
        return;
    }
    PyObject_GC_UnTrack(worker); /* it is alive until worker_main() ends: no cycle is garbage */
    task->greenlet = worker;     /* moved */
    /* While there are few tasks every other worker begins a step deeper: two that take turns do not
     * lie in the same place, so greenlet copies the stack of one of them, not of both. Among many
     * there is nothing to gain, and the step is copied with this stack. */
    bool steps = hub->ntasks < FEW && hub->started % 2;
    volatile char *step = steps ? alloca(STEP) : NULL;
    hub->started++;
    if (step)
        *step = 0;
    if (park_switch(hub, worker, node) < 0)
        eg_hub_report(hub, "Exception in the event loop", NULL);
}

static PyObject *
hub_main(PyObject *unused, PyObject *none)
{
    (void)unused;
    (void)none;
    EgHub *hub = eg_hub_here;
    for (;;) {
        EgNode *node = hub->handoff;
        hub->current = NULL;
        if (EG_UNLIKELY(eg_asyncio_used) && node && node->run)
            eg_asyncio_enter(hub, NULL);
        while (node && node->run) {
            node->run(node);
            node = eg_hub_next(hub, eg_clock_ticks());
        }
        if (!node) { /* from eg_park_hub_end() */
            eg_park_workers_trim(hub, 0);
            break;
        }
        EgTask *task = EG_OWNER(node, EgTask, ready);
        PyObject *greenlet = park_target(hub, node);
        if (greenlet == hub->greenlet && EG_UNLIKELY(task->role == EG_VISITOR)) {
            eg_interrupt_elsewhere(hub);
            hub->handoff = eg_hub_next(hub, eg_clock_ticks());
        } else if (greenlet == hub->greenlet)
            hub_start(hub, task, node);
        else if (park_switch(hub, greenlet, node) < 0)
            eg_hub_report(hub, "Exception in the event loop", NULL);
    }
    Py_RETURN_NONE;
}

static PyMethodDef hub_def = {"hub", hub_main, METH_NOARGS, NULL};

int
eg_park_hub_create(EgHub *hub)
{
    PyObject *run = PyCFunction_New(&hub_def, NULL);
    if (!run)
        return -1;
    hub->greenlet = greenlet_new(run, hub->main->greenlet);
    Py_DECREF(run);
    if (hub->greenlet && !hub->idle)
        hub->idle = PyMem_New(PyObject *, IDLE_MAX);
    if (hub->greenlet && !hub->idle) {
        Py_CLEAR(hub->greenlet);
        PyErr_NoMemory();
    }
    return hub->greenlet ? 0 : -1;
}

void
eg_park_workers_trim(EgHub *hub, int keep)
{
    while (hub->nidle > keep) {
        PyObject *worker = hub->idle[--hub->nidle];
        if (park_switch(hub, worker, NULL) < 0)
            PyErr_WriteUnraisable(worker);
        Py_DECREF(worker);
    }
}

/* From the main greenlet, with no task left: end the workers, then the hub's greenlet. */
void
eg_park_hub_end(EgHub *hub)
{
    if (!hub->greenlet)
        return;
    if (park_switch(hub, hub->greenlet, NULL) < 0)
        PyErr_WriteUnraisable(hub->greenlet);
    hub->current = hub->main;
    Py_CLEAR(hub->greenlet);
    PyMem_Free(hub->idle);
    hub->idle = NULL;
}
