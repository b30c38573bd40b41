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
    link->task = task;
    link->queue = queue;
    link->next = NULL;
    link->prev = queue->last;
    if (queue->last)
        queue->last->next = link;
    else
        queue->first = link;
    queue->last = link;
}

void
eg_queue_remove(EgLink *link)
{
    EgQueue *queue = link->queue;
    if (!queue)
        return;
    if (link->prev)
        link->prev->next = link->next;
    else
        queue->first = link->next;
    if (link->next)
        link->next->prev = link->prev;
    else
        queue->last = link->prev;
    link->queue = NULL;
}

EgTask *
eg_queue_peek(EgQueue *queue)
{
    /* A link may still be here although another queue has ended its task's wait. */
    while (queue->first && queue->first->task->wait.outcome != EG_PENDING)
        eg_queue_remove(queue->first);
    return queue->first ? queue->first->task : NULL;
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
eg_wait_throw(EgTask *task, PyObject *exc)
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
    eg_wait_wake(me, NULL, NULL); /* ready at once, behind all that is ready now */
    return eg_wait_park(me, &wait_yield_kind, NULL, EG_FOREVER) < 0 ? -1 : 0;
}
