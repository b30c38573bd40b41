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
 * hub->handoff says what the greenlet that is switched to has to do; it takes it from there.
 * Switches of ours are made in park_switch() and nowhere else.
 *
 * Programs switch greenlets by hand, too, and a greenlet that ends goes on in its parent, so
 * control may come to a parked greenlet with nothing for it in hub->handoff.  Then it stays
 * parked and sends control back: park_refuse().
 */
#include "evergreen.h"

#include <alloca.h>

#define IDLE_MAX 1024
#define STEP 2304 /* bytes: more than the stack of a task that waits in one Python function */
#define FEW 64

static void **greenlet_api;
static EgNode park_end; /* in hub->handoff: the greenlet that is switched to has to end */

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

static PyGreenlet *
greenlet_parent(PyObject *greenlet) /* new; NULL: it is a thread's first one */
{
    return ((PyGreenlet * (*)(PyGreenlet *))
                greenlet_api[PyGreenlet_GET_PARENT_NUM])((PyGreenlet *)greenlet);
}

PyObject *
eg_park_parent_greenlet(PyObject *greenlet)
{
    PyGreenlet *parent = greenlet_parent(greenlet);
    Py_XDECREF(parent); /* greenlet holds it */
    return (PyObject *)parent;
}

/* Programs may have given it another parent. */
static void
greenlet_restore_parent(PyObject *greenlet, PyObject *parent)
{
    PyGreenlet *now = greenlet_parent(greenlet);
    Py_XDECREF(now); /* compared only */
    if ((PyObject *)now != parent
        && ((int (*)(PyGreenlet *, PyGreenlet *))greenlet_api[PyGreenlet_SetParent_NUM])(
               (PyGreenlet *)greenlet, (PyGreenlet *)parent)
               < 0)
        PyErr_WriteUnraisable(greenlet);
}

static bool
greenlet_active(PyObject *greenlet) /* begun, and not ended */
{
    return ((int (*)(PyGreenlet *))greenlet_api[PyGreenlet_ACTIVE_NUM])((PyGreenlet *)greenlet);
}

static EG_INLINE int
greenlet_switch(PyObject *greenlet)
{
    PyObject *result = ((PyObject * (*)(PyGreenlet *, PyObject *, PyObject *))
                            greenlet_api[PyGreenlet_Switch_NUM])((PyGreenlet *)greenlet,
                                                                 eg_state->empty_tuple, NULL);
    if (!result)
        return -1;
    Py_DECREF(result);
    return 0;
}

static int
greenlet_throw(PyObject *greenlet, PyObject *type, PyObject *value)
{
    PyObject *result =
        ((PyObject * (*)(PyGreenlet *, PyObject *, PyObject *, PyObject *))
             greenlet_api[PyGreenlet_Throw_NUM])((PyGreenlet *)greenlet, type, value, NULL);
    if (!result)
        return -1;
    Py_DECREF(result);
    return 0;
}

/* ---- the one switch -------------------------------------------------------- */
/* Something came between a switch of ours and the greenlet that it was for: the node has its turn
 * again. */
static EG_COLD void
park_reclaim(EgHub *hub)
{
    EgNode *node = hub->handoff;
    hub->handoff = NULL;
    if (node == &park_end)
        return;
    if (!node->run) {
        EgTask *task = EG_OWNER(node, EgTask, ready);
        if (task->queued)
            return;
        task->queued = true;
    }
    eg_ring_push(&hub->ready, node);
}

/* Go to *greenlet* with *node* as its errand. No reference is held on it meanwhile: whoever
 * owns it may end it before this stack goes on, and a reference here would make every worker
 * look as if somebody had kept it. greenlet does not look at it again (but in assertions).
 * 0 when somebody comes back here by a switch; -1 with an exception when thrown at. Either may be
 * the program's doing: only hub->handoff says that it is this greenlet's turn. */
static EG_INLINE int
park_switch(EgHub *hub, PyObject *greenlet, EgNode *node)
{
    if (EG_UNLIKELY(hub->handoff != NULL))
        park_reclaim(hub);
    hub->handoff = node;
    hub->switches++;
    return greenlet_switch(greenlet);
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

/* ---- switches that are not ours ------------------------------------------------ */
/* From which greenlet control came to *here*, a parked one; borrowed, NULL: it cannot be told, or
 * has ended. */
static PyObject *
park_intruder(EgHub *hub, PyObject *here)
{
    PyObject *found = NULL;
    EgNode *node = hub->handoff;
    EgTask *task = hub->current;
    if (node && node != &park_end) { /* the last switch of ours led there */
        if (!node->run)
            found = EG_OWNER(node, EgTask, ready)->greenlet;
        if (eg_interrupt_is(node))
            found = eg_interrupt_target(hub);
        if (!found)
            found = hub->greenlet;
    } else if (!task)
        found = hub->finishing ? hub->finishing : hub->greenlet;
    else {
        /* One of others that ended, or never met the hub: whoever ran before it. */
        while (task->role == EG_FOREIGN && task->beneath
               && !(task->greenlet && greenlet_active(task->greenlet)))
            task = task->beneath;
        if (task->state == EG_RUNNING)
            found = task->greenlet;
    }
    return found && found != here && greenlet_active(found) ? found : NULL;
}

/* It is not the turn of *here*: back to where control came from, with an error (or without one: it
 * threw, and that is dealt with); if that is nowhere, on to what is next. As park_switch(). */
static EG_COLD int
park_refuse(EgHub *hub, PyObject *here, EgNode *own, bool thrown)
{
    PyObject *intruder = park_intruder(hub, here);
    if (intruder && thrown)
        return greenlet_switch(intruder);
    if (intruder)
        return greenlet_throw(intruder, PyExc_RuntimeError, eg_state->str_intruder);
    if (hub->handoff)
        park_reclaim(hub);
    EgNode *node = eg_hub_next(hub, eg_clock_ticks());
    if (node != own)
        return park_switch(hub, park_target(hub, node), node);
    hub->handoff = node;
    return 0;
}

/* Whether control has come to run signal handlers on this stack. */
static bool
park_is_visit(EgHub *hub, EgTask *me)
{
    return eg_interrupt_is(hub->handoff) && eg_interrupt_target(hub) == me->greenlet;
}

/* Run them; then it is parked again. As park_switch(). */
static int
park_visited(EgHub *hub, EgTask *me)
{
    hub->handoff = NULL;
    eg_interrupt_visit(hub, me);
    if (hub->destroyed)
        return 0;
    EgNode *node = eg_hub_next(hub, eg_clock_ticks());
    if (node != &me->ready)
        return park_switch(hub, park_target(hub, node), node);
    hub->handoff = node;
    return 0;
}

/* Control has come to a parked task. It goes on when the scheduler says so: what was thrown into it
 * is raised then. 0: it was made ready; -1: exception. */
static EG_COLD int
park_arrive(EgHub *hub, EgTask *me, int status)
{
    for (;;) {
        bool thrown = status < 0;
        if (hub->handoff == &me->ready) {
            hub->handoff = NULL;
            return status; /* -1: a trace function of greenlet's raised it */
        }
        if (!thrown && park_is_visit(hub, me)) {
            status = park_visited(hub, me);
            continue;
        }
        if (hub->destroyed) {
            if (!thrown)
                PyErr_SetString(PyExc_RuntimeError,
                                "the event loop of this greenlet was destroyed");
            return -1;
        }
        if (thrown) {
            PyObject *exc = eg_task_take_exception();
            eg_wait_throw(me, exc);
            Py_DECREF(exc);
        } else if (me->wait.outcome != EG_PENDING && !me->queued)
            return 0; /* its turn had come before control went astray */
        status = park_refuse(hub, me->greenlet, &me->ready, thrown);
    }
}

/* ---- greenlets that others made: those that are parked ---------------------------- */
static EG_COLD void
foreign_park(EgHub *hub, EgTask *me)
{
    Py_INCREF(me->greenlet); /* given back by foreign_resume() */
    me->group_prev = NULL;
    if ((me->group_next = hub->foreign))
        me->group_next->group_prev = me;
    hub->foreign = me;
}

static void
foreign_leave(EgHub *hub, EgTask *me)
{
    if (me->group_prev)
        me->group_prev->group_next = me->group_next;
    else if (hub->foreign == me) /* else it was dropped */
        hub->foreign = me->group_next;
    if (me->group_next)
        me->group_next->group_prev = me->group_prev;
    me->group_prev = me->group_next = NULL;
}

static EG_COLD void
foreign_resume(EgHub *hub, EgTask *me)
{
    PyObject *greenlet = me->greenlet; /* ours now */
    foreign_leave(hub, me);
    if (me->unbound)
        eg_task_rebind(me);
    Py_DECREF(greenlet); /* it runs, so this does not end it */
}

EgTask *
eg_park_foreign_on(EgTask *owner)
{
    EgTask *task = owner->hub ? owner->hub->foreign : NULL;
    while (task && eg_task_owner(task) != owner)
        task = task->group_next;
    return task;
}

/* As greenlet ends one that nobody refers to; -1: exception. */
int
eg_park_end_foreign(EgHub *hub)
{
    PyObject *exc =
        hub->foreign ? PyObject_CallNoArgs((PyObject *)greenlet_api[PyExc_GreenletExit_NUM]) : NULL;
    if (!exc)
        return hub->foreign ? -1 : 0;
    for (EgTask *task = hub->foreign; task; task = task->group_next)
        eg_wait_throw(task, exc);
    Py_DECREF(exc);
    return 0;
}

void
eg_park_drop_foreign(EgHub *hub)
{
    EgTask *task;
    while ((task = hub->foreign)) {
        foreign_leave(hub, task);
        eg_wait_drop(task);
    }
}

int
eg_park_switch_away(EgHub *hub, EgTask *me)
{
    int status = 0;
    me->state = EG_PARKED;
    if (EG_UNLIKELY(eg_follow))
        eg_follow_leave(hub, me);
    if (EG_UNLIKELY(me->role == EG_FOREIGN))
        foreign_park(hub, me);
    EgNode *node = eg_hub_next(hub, me->wait.since);
    if (node != &me->ready) {
        status = park_switch(hub, park_target(hub, node), node);
        if (EG_LIKELY(hub->handoff == &me->ready))
            hub->handoff = NULL;
        else
            status = park_arrive(hub, me, status);
    }
    if (EG_UNLIKELY(me->role == EG_FOREIGN))
        foreign_resume(hub, me);
    me->state = EG_RUNNING;
    if (EG_UNLIKELY(status < 0) && hub->destroyed)
        return status; /* the thread has another hub, or none */
    hub->current = me;
    if (EG_UNLIKELY(eg_follow))
        eg_follow_enter(hub, me);
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

/* Whether the scheduler may want it yet. */
static bool
worker_is_wanted(EgHub *hub, PyObject *self)
{
    for (int i = 0; i < hub->nidle; i++)
        if (hub->idle[i] == self)
            return true;
    EgTask *task = hub->tasks;
    while (task && task->greenlet != self)
        task = task->next;
    return task != NULL;
}

/* Control has come to a greenlet of ours in which no task runs, and it is not its turn. */
static int
park_refuse_errand(EgHub *hub, PyObject *self, int status)
{
    if (status < 0)
        eg_hub_report(hub, "Exception in the event loop", NULL);
    return park_refuse(hub, self, NULL, false);
}

/* Control has come to an idle worker. The node of its next task; NULL: it ends. */
static EgNode *
worker_arrive(EgHub *hub, PyObject *self, int status)
{
    for (;;) {
        EgNode *node = hub->handoff;
        bool ends = node == &park_end && hub->ending == self;
        if (ends
            || (node && node != &park_end && !node->run
                && EG_OWNER(node, EgTask, ready)->greenlet == self)) {
            hub->handoff = NULL;
            if (status < 0) /* a trace function of greenlet's */
                eg_hub_report(hub, "Exception in the event loop", NULL);
            return ends ? NULL : node;
        }
        if (hub->destroyed || !worker_is_wanted(hub, self))
            return NULL;
        status = park_refuse_errand(hub, self, status);
    }
}

/* It ends, and goes on in its parent. */
static EG_COLD PyObject *
worker_end(EgHub *hub, PyObject *self, EgNode *next)
{
    eg_stack_remove();
    if (!PyObject_GC_IsTracked(self))
        PyObject_GC_Track(self); /* somebody may keep it */
    if (!hub->destroyed) {
        greenlet_restore_parent(hub->greenlet, hub->main->greenlet);
        greenlet_restore_parent(self, hub->greenlet);
    }
    if (next)
        hub->handoff = next;
    Py_DECREF(hub); /* worker_main()'s */
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Run one task; its greenlet, whose reference the caller gets. */
static EG_INLINE PyObject *
worker_run(EgHub *hub, EgTask *task)
{
    hub->current = task;
    if (EG_UNLIKELY(eg_follow))
        eg_follow_enter(hub, task);
    eg_task_run(task);
    PyObject *self = task->greenlet;
    task->greenlet = NULL;
    hub->current = NULL;
    hub->finishing = self;
    hub->forbidden++; /* its finalisers run in no task */
    Py_DECREF(task);  /* what eg_task_start() took */
    hub->forbidden--;
    hub->finishing = NULL;
    return self;
}

static PyObject *
worker_main(PyObject *unused, PyObject *none)
{
    (void)unused;
    (void)none;
    EgHub *hub = (EgHub *)Py_NewRef(eg_hub_here); /* given back by worker_end() */
    EgNode *node = hub->handoff;
    PyObject *self = NULL;
    hub->handoff = NULL;
    eg_stack_install();
    while (node) {
        self = worker_run(hub, EG_OWNER(node, EgTask, ready));
        bool anonymous = worker_is_anonymous(self);
        node = hub->destroyed ? NULL : eg_hub_next(hub, eg_clock_ticks());
        if (anonymous && node && node_is_new_task(node)) {
            EG_OWNER(node, EgTask, ready)->greenlet = self;
            continue;
        }
        if (!anonymous || hub->nidle >= IDLE_MAX || !node) {
            Py_DECREF(self); /* the thread still holds it while it runs */
            break;
        }
        hub->idle[hub->nidle++] = self;
        if (hub->nidle > 64)
            hub->trim_wanted = true;
        node = worker_arrive(hub, self, park_switch(hub, park_target(hub, node), node));
    }
    return worker_end(hub, self, node);
}

/* ---- the hub's greenlet --------------------------------------------------------- */
static PyMethodDef worker_def = {"worker", worker_main, METH_NOARGS, NULL};

/* It is the hub's turn: what to do. */
static EgNode *
hub_arrive(EgHub *hub, int status)
{
    while (!hub->handoff || (hub->handoff == &park_end && hub->ending != hub->greenlet)) {
        if (hub->destroyed)
            return &park_end;
        status = park_refuse_errand(hub, hub->greenlet, status);
    }
    if (status < 0)
        eg_hub_report(hub, "Exception in the event loop", NULL);
    EgNode *node = hub->handoff;
    hub->handoff = NULL;
    hub->current = NULL;
    return node;
}

/* A trace function of greenlet's ended the worker before it began. */
static void
hub_forget_worker(EgTask *task)
{
    PyObject *worker = task->greenlet; /* ours now */
    task->greenlet = NULL;
    PyObject_GC_Track(worker);
    Py_DECREF(worker);
}

static int
hub_start(EgHub *hub, EgTask *task, EgNode *node)
{
    PyObject *run = PyCFunction_New(&worker_def, NULL);
    PyObject *worker = run ? greenlet_new(run, hub->greenlet) : NULL;
    Py_XDECREF(run);
    if (!worker) {
        eg_task_end_unrun(task, NULL); /* out of memory */
        hub->handoff = eg_hub_next(hub, eg_clock_ticks());
        return 0;
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
    int status = park_switch(hub, worker, node);
    if (status < 0 && hub->handoff == node && !greenlet_active(worker))
        hub_forget_worker(task);
    return status;
}

/* Run callbacks, up to the node of a task, or of the end. */
static EgNode *
hub_run(EgHub *hub, EgNode *node)
{
    if (EG_UNLIKELY(eg_follow) && node->run)
        eg_follow_enter(hub, NULL);
    while (node->run) {
        node->run(node);
        if (EG_UNLIKELY(hub->handoff || hub->destroyed)) /* it switched by hand, and others ran */
            node = hub_arrive(hub, 0);
        else
            node = eg_hub_next(hub, eg_clock_ticks());
    }
    return node;
}

static PyObject *
hub_main(PyObject *op, PyObject *none)
{
    (void)none;
    EgHub *hub = (EgHub *)op;
    PyGreenlet *creator = greenlet_parent(hub->greenlet);
    hub->handoff = NULL;
    Py_XDECREF(creator); /* it waits in eg_park_hub_create() */
    EgNode *node = hub_arrive(hub, greenlet_switch((PyObject *)creator));
    while ((node = hub_run(hub, node)) != &park_end) {
        PyObject *greenlet = park_target(hub, node);
        EgTask *task = EG_OWNER(node, EgTask, ready);
        if (greenlet == hub->greenlet && EG_UNLIKELY(task->role == EG_VISITOR)) {
            eg_interrupt_elsewhere(hub);
            node = eg_hub_next(hub, eg_clock_ticks());
        } else if (greenlet == hub->greenlet)
            node = hub_arrive(hub, hub_start(hub, task, node));
        else
            node = hub_arrive(hub, park_switch(hub, greenlet, node));
    }
    Py_RETURN_NONE;
}

static PyMethodDef hub_def = {"hub", hub_main, METH_NOARGS, NULL};

/* It is begun at once: before that, anybody could end it or give it something else to run. */
int
eg_park_hub_create(EgHub *hub)
{
    PyObject *run = PyCFunction_New(&hub_def, (PyObject *)hub);
    if (!run)
        return -1;
    hub->greenlet = greenlet_new(run, NULL);
    Py_DECREF(run);
    if (!hub->greenlet)
        return -1;
    hub->idle = PyMem_New(PyObject *, IDLE_MAX);
    if (!hub->idle)
        PyErr_NoMemory();
    else if (park_switch(hub, hub->greenlet, &park_end) == 0) {
        greenlet_restore_parent(hub->greenlet, hub->main->greenlet);
        return 0;
    }
    hub->handoff = NULL;
    PyMem_Free(hub->idle);
    hub->idle = NULL;
    Py_CLEAR(hub->greenlet);
    return -1;
}

/* Control is back once it has ended, or by a switch of the program's. */
static void
park_end_greenlet(EgHub *hub, PyObject *greenlet)
{
    for (int i = 0; i < 10 && greenlet_active(greenlet); i++) {
        hub->ending = greenlet;
        if (park_switch(hub, greenlet, &park_end) < 0)
            PyErr_WriteUnraisable(greenlet);
        hub->ending = NULL;
    }
}

void
eg_park_workers_trim(EgHub *hub, int keep)
{
    while (hub->nidle > keep) {
        PyObject *worker = hub->idle[--hub->nidle];
        if (hub->destroyed)
            greenlet_restore_parent(worker, eg_park_current_greenlet());
        park_end_greenlet(hub, worker);
        Py_DECREF(worker);
    }
}

/* From the main greenlet, with no task left: end the hub's greenlet, then the workers. */
void
eg_park_hub_end(EgHub *hub)
{
    if (!hub->greenlet)
        return;
    greenlet_restore_parent(hub->greenlet, eg_park_current_greenlet());
    park_end_greenlet(hub, hub->greenlet);
    hub->current = hub->main;
    eg_park_workers_trim(hub, 0);
    hub->handoff = NULL;
    Py_CLEAR(hub->greenlet);
    PyMem_Free(hub->idle);
    hub->idle = NULL;
}

/* Raise exc in a task that waits for somebody to switch to it by hand; from the hub's greenlet. */
void
eg_park_raise(EgTask *task, PyObject *exc)
{
    if (task->greenlet && greenlet_active(task->greenlet)
        && greenlet_throw(task->greenlet, (PyObject *)Py_TYPE(exc), exc) < 0)
        eg_hub_report(task->hub, "Exception in the event loop", NULL);
}
