/* wait.c: how a task waits, and the four ways in which a wait ends.
 *
 * Every blocking operation is one wait: the task joins the queues of whatever may wake it,
 * sets a deadline, and parks.  The wait then ends once, by whichever comes first:
 *
 *     woken       a waker took its link from a queue, perhaps handing over a value
 *     timed out   its deadline passed
 *     thrown      somebody raised an exception in it (a kill, a Timeout, Ctrl-C)
 *
 * Whoever ends it records the outcome and makes the task ready; what is still registered
 * elsewhere is taken out when the task resumes.  So a wait leaves nothing behind, and a
 * thing is never handed to a task whose wait is over.
 *
 * A native thread without a hub waits in the same queues, asleep on a lock of its own.
 */
#include "evergreen.h"

/* ---- queues ---------------------------------------------------------------- */
void
eg_queue_add(EgQueue *queue, EgLink *link, EgTask *task)
{
    EgLink *first = queue->first;
    link->task = task;
    link->queue = queue;
    link->next = NULL;
    if (first) {
        link->prev = first->prev; /* the last one */
        first->prev->next = link;
        first->prev = link;
    } else
        queue->first = link->prev = link;
}

void
eg_queue_add_bell(EgQueue *queue, EgBell *bell, void (*ring)(EgBell *))
{
    bell->ring = ring;
    eg_queue_add(queue, &bell->link, NULL);
}

void
eg_queue_remove(EgLink *link)
{
    EgQueue *queue = link->queue;
    if (!queue)
        return;
    if (link != queue->first)
        link->prev->next = link->next;
    if (link->next)
        link->next->prev = link->prev;
    else
        queue->first->prev = link->prev;
    if (link == queue->first)
        queue->first = link->next;
    link->queue = NULL;
}

EgTask *
eg_queue_peek(EgQueue *queue)
{
    EgLink *first;
    while ((first = queue->first)) {
        if (first->task && first->task->wait.outcome == EG_PENDING)
            return first->task;
        eg_queue_remove(first); /* a bell; or another queue has ended its task's wait */
        if (!first->task)
            EG_OWNER(first, EgBell, link)->ring(EG_OWNER(first, EgBell, link));
    }
    return NULL;
}

bool
eg_queue_wake(EgQueue *queue, PyObject *value)
{
    EgTask *task = eg_queue_peek(queue);
    if (!task)
        return false;
    eg_wait_wake(task, queue->first, value);
    return true;
}

Py_ssize_t
eg_queue_wake_all(EgQueue *queue)
{
    Py_ssize_t woken = 0;
    while (eg_queue_wake(queue, NULL))
        woken++;
    return woken;
}

/* ---- ending a wait ---------------------------------------------------------- */
static void
wait_finish(EgTask *task, EgOutcome outcome)
{
    task->wait.outcome = outcome;
    if (task->role == EG_THREAD)
        PyThread_release_lock(task->bell);
    else if (!task->queued) {
        task->queued = true;
        eg_hub_push(task->hub, &task->ready);
    }
}

void
eg_wait_visit_leave(EgTask *task)
{
    EgWait *wait = &task->wait;
    eg_queue_remove(&wait->link);
    for (int i = 0; i < wait->nlinks; i++)
        eg_queue_remove(&wait->links[i]);
}

bool
eg_wait_wake(EgTask *task, EgLink *by, PyObject *value)
{
    if (task->wait.outcome != EG_PENDING)
        return false;
    if (by)
        eg_queue_remove(by);
    task->wait.value = value;
    wait_finish(task, EG_WOKEN);
    return true;
}

static void
wait_on_deadline(EgTimer *timer)
{
    EgTask *task = EG_OWNER(timer, EgTask, wait.deadline);
    if (task->wait.outcome != EG_PENDING)
        return;
    eg_wait_visit_leave(task);
    wait_finish(task, EG_TIMED_OUT);
}

/* An exception takes the place of one that was still to be raised: say so. Steals before. */
static void
wait_chain(PyObject *exc, PyObject *before)
{
    PyObject *context = before && before != exc ? PyException_GetContext(exc) : before;
    if (before && !context)
        PyException_SetContext(exc, before);
    else {
        Py_XDECREF(before);
        if (context != before)
            Py_XDECREF(context);
    }
}

bool
eg_wait_interrupt(EgTask *task, PyObject *exc)
{
    if (task->state == EG_ENDED)
        return false;
    PyObject *before = task->thrown; /* ours now */
    task->thrown = Py_NewRef(exc);   /* given up by whoever raises it */
    wait_chain(exc, before);
    if (task->state != EG_PARKED)
        return true; /* at its next wait */
    EgWait *wait = &task->wait;
    switch (wait->outcome) {
    case EG_PENDING:
        eg_wait_visit_leave(task);
        wait_finish(task, EG_THROWN);
        break;
    case EG_WOKEN:
        wait->outcome = EG_THROWN;
        if (wait->kind->give_back)
            wait->kind->give_back(task);
        break;
    default:
        wait->outcome = EG_THROWN;
    }
    return true;
}

bool
eg_wait_throw(EgTask *task, PyObject *exc)
{
    if (EG_LIKELY(!task->shields) || task->state == EG_ENDED)
        return eg_wait_interrupt(task, exc);
    if ((!task->held && !(task->held = PyList_New(0))) || PyList_Append(task->held, exc) < 0)
        PyErr_WriteUnraisable(exc); /* out of memory */
    return true;
}

/* The exception that somebody threw at the task. */
static void
wait_raise(EgTask *me)
{
    PyObject *exc = me->thrown; /* now ours */
    me->thrown = NULL;
    if (me->role == EG_MAIN)
        eg_hub_main_next(me->hub);
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(exc);
}

/* ---- shields: clean-up that must finish ----------------------------------------- */
int
eg_shield_enter(EgTask *me)
{
    PyObject *exc = me->thrown; /* borrowed from the task */
    if (exc && me->role == EG_MAIN) {
        wait_raise(me); /* Ctrl-C, most likely: now, rather than after the clean-up */
        return -1;
    }
    me->shields++;
    if (exc) {
        me->thrown = NULL;
        eg_wait_throw(me, exc); /* later */
        Py_DECREF(exc);
    }
    return 0;
}

void
eg_shield_leave(EgTask *me)
{
    if (--me->shields || !me->held)
        return;
    PyObject *held = me->held; /* ours now */
    me->held = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(held); i++)
        eg_wait_throw(me, PyList_GET_ITEM(held, i));
    Py_DECREF(held);
}

void
eg_shield_forget(EgTask *me, PyObject *exc)
{
    PyObject *held = me->held; /* borrowed from the task */
    for (Py_ssize_t i = held ? PyList_GET_SIZE(held) : 0; i-- > 0;)
        if (PyList_GET_ITEM(held, i) == exc && PyList_SetSlice(held, i, i + 1, NULL) < 0)
            PyErr_WriteUnraisable(exc); /* out of memory */
}

/* ---- waiting ------------------------------------------------------------------ */
/* The task that stands for a thread without a hub; it lives as long as the thread. */
static EgTask *
wait_thread_task(void)
{
    PyObject *dict = PyThreadState_GetDict(); /* borrowed */
    EgTask *here = dict ? (EgTask *)PyDict_GetItemWithError(dict, eg_state->str_task_key) : NULL;
    if (here || PyErr_Occurred())
        return here;
    if (!(here = eg_task_for(NULL, EG_THREAD, NULL)))
        return NULL;
    if (!(here->bell = PyThread_allocate_lock()))
        PyErr_NoMemory();
    else {
        PyThread_acquire_lock(here->bell, 1);
        if (dict && PyDict_SetItem(dict, eg_state->str_task_key, (PyObject *)here) == 0) {
            Py_DECREF(here); /* the thread's dictionary owns it */
            return here;
        }
    }
    Py_DECREF(here);
    return NULL;
}

EgTask *
eg_wait_begin(void)
{
    EgHub *hub = eg_hub_here;
    if (EG_UNLIKELY(!hub)) {
        if (PyThread_get_thread_ident() != eg_state->main_thread) {
            EgTask *thread = wait_thread_task();
            if (thread)
                thread->wait.outcome = EG_PENDING;
            return thread;
        }
        if (!(hub = eg_hub_get()))
            return NULL;
    }
    EgTask *me = eg_hub_task(hub);
    if (EG_UNLIKELY(!me || hub->forbidden || me->state != EG_RUNNING)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError,
                            "this would block the event loop: callbacks, excepthooks and "
                            "finalisers may not wait; spawn a task that does");
        return NULL;
    }
    if (EG_UNLIKELY(me->thrown != NULL)) {
        wait_raise(me);
        return NULL;
    }
    me->wait.outcome = EG_PENDING;
    return me;
}

void
eg_wait_join(EgTask *me, EgQueue *queue)
{
    eg_queue_add(queue, &me->wait.link, me);
}

/* Sleep as a native thread does. */
static int
wait_park_thread(EgTask *me, uint64_t deadline)
{
    EgWait *wait = &me->wait;
    int signalled = 0;
    me->state = EG_PARKED;
    while (wait->outcome == EG_PENDING && !signalled) {
        PY_TIMEOUT_T us = -1;
        if (deadline != EG_FOREVER) {
            uint64_t now = eg_clock_now();
            us = now < deadline ? (PY_TIMEOUT_T)((deadline - now + 999) / 1000) : 0;
        }
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(me->bell, us, 1);
        Py_END_ALLOW_THREADS
        if (wait->outcome != EG_PENDING)
            break;
        if (status == PY_LOCK_INTR)
            signalled = PyErr_CheckSignals();
        else if (deadline != EG_FOREVER && eg_clock_now() >= deadline)
            wait->outcome = EG_TIMED_OUT;
    }
    me->state = EG_RUNNING;
    if (wait->outcome == EG_PENDING || wait->outcome == EG_TIMED_OUT)
        eg_wait_visit_leave(me);
    else
        PyThread_acquire_lock(me->bell, 0); /* rung after the sleep ended otherwise */
    if (wait->outcome == EG_THROWN)
        wait_raise(me);
    if (wait->outcome == EG_THROWN || signalled)
        return -1;
    return wait->outcome == EG_WOKEN;
}

int
eg_wait_park(EgTask *me, const EgWaitKind *kind, PyObject *object, uint64_t deadline)
{
    EgWait *wait = &me->wait;
    wait->kind = kind;
    wait->object = object;
    wait->deadline_ns = deadline;
    if (EG_UNLIKELY(me->role == EG_THREAD)) {
        wait->since = eg_clock_now();
        return wait_park_thread(me, deadline);
    }
    EgHub *hub = me->hub;
    wait->since = eg_clock_ticks(); /* made nanoseconds by whoever reads it */
    if (deadline != EG_FOREVER) {
        wait->deadline.fire = wait_on_deadline;
        if (eg_timer_start(&hub->timers, &wait->deadline, deadline) < 0) {
            eg_wait_visit_leave(me);
            return -1;
        }
    }
    int status = eg_park_switch_away(hub, me);
    if (eg_timer_armed(&wait->deadline))
        eg_timer_stop(&hub->timers, &wait->deadline);
    if (wait->link.queue || wait->nlinks)
        eg_wait_visit_leave(me);
    if (EG_LIKELY(status == 0)) {
        if (EG_LIKELY(wait->outcome != EG_THROWN))
            return wait->outcome == EG_WOKEN;
        wait_raise(me);
    } else if (wait->outcome == EG_WOKEN && kind->give_back)
        kind->give_back(me); /* greenlet.throw() hit a task that had been woken */
    Py_CLEAR(wait->value);
    return -1;
}

static const EgWaitKind wait_yield_kind = {"yield", NULL};

int
eg_wait_yield(EgTask *me)
{
    EgHub *hub = me->hub;
    if (hub && !hub->ready.first && hub->budget > 1 && eg_clock_ticks() < hub->slice_end) {
        hub->budget--; /* nobody else is ready, and the loop had its turn lately */
        return 0;
    }
    eg_wait_wake(me, NULL, NULL); /* ready at once, behind all that is ready now */
    return eg_wait_park(me, &wait_yield_kind, NULL, EG_FOREVER) < 0 ? -1 : 0;
}

/* ---- what was handed over, and comes back -------------------------------------------- */
void
eg_returned_add(PyObject **list, EgTask *task, PyObject *value)
{
    /* Waiters queue in the order in which they came, so that is the order of their values. */
    PyObject *entry = Py_BuildValue("(KN)", (unsigned long long)task->wait.since, value);
    if (!entry || (!*list && !(*list = PyList_New(0))))
        goto lost;
    Py_ssize_t i = PyList_GET_SIZE(*list);
    while (i > 0) {
        PyObject *before = PyTuple_GET_ITEM(PyList_GET_ITEM(*list, i - 1), 0);
        if (PyLong_AsUnsignedLongLong(before) <= task->wait.since)
            break;
        i--;
    }
    if (PyList_Insert(*list, i, entry) == 0) {
        Py_DECREF(entry);
        return;
    }
lost:
    Py_XDECREF(entry);
    PyErr_WriteUnraisable(NULL); /* out of memory */
}

PyObject *
eg_returned_take(PyObject **list)
{
    PyObject *value = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(*list, 0), 1));
    if (PyList_SetSlice(*list, 0, 1, NULL) < 0)
        Py_CLEAR(value);
    return value;
}
