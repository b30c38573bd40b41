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

bool
eg_queue_hand_on(EgQueue *queue, EgTask *from, PyObject *value)
{
    EgTask *task = eg_queue_peek(queue);
    if (!task)
        return false;
    /* Whoever was woken waits no more: this is now the order of what was handed over. */
    task->wait.since = from->wait.since;
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

void
eg_wait_drop(EgTask *task)
{
    task->wait.outcome = EG_TIMED_OUT;
    eg_wait_visit_leave(task);
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

/* It is to be raised in the task: steals exc. */
static void
wait_hit(EgTask *task, PyObject *exc)
{
    task->thrown = exc; /* given up by whoever raises it */
    if (task->state != EG_PARKED)
        return; /* at its next wait */
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
}

void
eg_wait_settle(EgTask *task)
{
    if (task->thrown && task->wait.outcome != EG_THROWN)
        wait_hit(task, task->thrown);
}

static const EgWaitKind wait_yield_kind = {"yield", NULL};

static bool
wait_throw(EgTask *task, PyObject *exc, bool overtakes)
{
    if (task->state == EG_ENDED)
        return false;
    PyObject *before = task->thrown; /* ours now */
    EgLater *coming = task->coming;
    Py_INCREF(exc); /* wait_hit() takes it */
    if (coming) {   /* it has its turn afterwards */
        task->coming = NULL;
        coming->next = task->later;
        task->later = coming;
        Py_XDECREF(before);
    } else
        wait_chain(exc, before);
    if (overtakes)
        wait_hit(task, exc);
    else
        task->thrown = exc; /* at its next wait */
    return true;
}

bool
eg_wait_interrupt(EgTask *task, PyObject *exc)
{
    return wait_throw(task, exc, true);
}

bool
eg_wait_kill(EgTask *task, PyObject *exc)
{
    bool yields = task->state == EG_PARKED && task->wait.kind == &wait_yield_kind;
    return yields && !task->shields ? wait_throw(task, exc, false) : eg_wait_throw(task, exc);
}

bool
eg_wait_throw(EgTask *task, PyObject *exc)
{
    if (EG_LIKELY(!task->shields) || task->state == EG_ENDED)
        return eg_wait_interrupt(task, exc);
    PyObject *held = task->held ? NULL : PyList_New(0); /* a finaliser may throw, too */
    if (task->held)
        Py_XDECREF(held);
    else
        task->held = held;
    if (!task->held || PyList_Append(task->held, exc) < 0)
        PyErr_WriteUnraisable(exc); /* out of memory */
    return true;
}

/* ---- what blocks of code throw ------------------------------------------------------- */
/* Nothing is on its way to the task any more: the next that may. */
static void
later_next(EgTask *task)
{
    EgLater **link = &task->later, *self;
    if (task->thrown)
        return;
    while ((self = *link) && self->shields < task->shields)
        link = &self->next;
    if (self) {
        *link = self->next;
        task->coming = self;
        wait_hit(task, Py_NewRef(self->exc));
    }
}

static void
later_release(EgLater *self, EgTask *task)
{
    self->pending = false;
    if (self->release)
        self->release(self, task);
}

void
eg_later_throw(EgTask *task, EgLater *self, PyObject *exc)
{
    EgLater **link = &task->later;
    while (*link)
        link = &(*link)->next;
    *link = self;
    self->next = NULL;
    self->exc = exc;
    self->pending = true;
    if (task->state == EG_ENDED)
        eg_later_end(task);
    else
        later_next(task);
}

bool
eg_later_forget(EgTask *task, EgLater *self, PyObject *exc)
{
    EgLater **link = &task->later;
    while (*link && *link != self)
        link = &(*link)->next;
    if (*link) {
        *link = self->next;
        later_release(self, task);
        return true;
    }
    if (!exc || task->thrown != exc || task->state != EG_RUNNING)
        return false; /* raised, or just about to be */
    Py_CLEAR(task->thrown);
    if (task->coming == self) {
        task->coming = NULL;
        later_release(self, task);
    }
    if (task->role == EG_MAIN)
        eg_hub_main_next(task->hub);
    later_next(task);
    return true;
}

void
eg_later_end(EgTask *task)
{
    EgLater *self;
    if (task->coming) {
        self = task->coming;
        task->coming = NULL;
        later_release(self, task);
    }
    while ((self = task->later)) {
        task->later = self->next;
        later_release(self, task);
    }
}

PyObject *
eg_later_beneath(EgTask *task, PyObject *exc, const PyObject *before)
{
    PyObject *beneath = NULL, *next;
    for (int n = 0; n < 1000 && exc && exc != before; n++, exc = next) {
        if (n && exc == task->killed_by)
            return exc; /* nothing is farther out */
        if (n && !beneath && eg_scope_is_leaving(task, exc))
            beneath = exc;
        if ((next = PyException_GetContext(exc)))
            Py_DECREF(next); /* exc holds it */
    }
    return beneath;
}

/* The exception that somebody threw at the task. */
static void
wait_raise(EgTask *me)
{
    PyObject *exc = me->thrown; /* now ours */
    EgLater *from = me->coming;
    me->thrown = NULL;
    me->coming = NULL;
    if (from)
        later_release(from, me);
    else if (!PyObject_TypeCheck(exc, eg_state->scope_type))
        me->killed_by = exc;
    if (me->role == EG_MAIN)
        eg_hub_main_next(me->hub);
    if (EG_UNLIKELY(me->later != NULL))
        later_next(me);
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(exc);
}

/* ---- shields: clean-up that must finish ----------------------------------------- */
void
eg_shield_begin(EgTask *me)
{
    PyObject *exc = me->thrown; /* ours now */
    EgLater *coming = me->coming;
    me->shields++;
    if (!exc)
        return;
    me->thrown = NULL;
    me->coming = NULL;
    if (coming) {
        coming->next = me->later;
        me->later = coming;
    } else
        eg_wait_throw(me, exc); /* later */
    Py_DECREF(exc);
}

int
eg_shield_enter(EgTask *me)
{
    if (me->thrown && !me->coming && me->role == EG_MAIN) {
        wait_raise(me); /* Ctrl-C, most likely: now, rather than after the clean-up */
        return -1;
    }
    eg_shield_begin(me);
    return 0;
}

void
eg_shield_leave(EgTask *me)
{
    if (--me->shields == 0 && me->held) {
        PyObject *held = me->held; /* ours now */
        me->held = NULL;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(held); i++)
            eg_wait_throw(me, PyList_GET_ITEM(held, i));
        Py_DECREF(held);
    }
    if (me->later)
        later_next(me);
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

/* Who would wait; NULL: nobody may here, exception set. */
static inline EgTask *
wait_whose(void)
{
    EgHub *hub = eg_hub_here;
    if (EG_UNLIKELY(!hub)) {
        if (PyThread_get_thread_ident() != eg_state->main_thread || eg_exit_ended())
            return wait_thread_task();
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
    return me;
}

EgTask *
eg_wait_begin(void)
{
    EgTask *me = wait_whose();
    if (EG_UNLIKELY(!me))
        return NULL;
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
            Py_CLEAR(wait->value);
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

int
eg_wait_through(EgQueue *queue, const EgWaitKind *kind, PyObject *object, PyObject **exc)
{
    EgTask *me = wait_whose();
    if (!me)
        return -1;
    if (me->thrown)
        wait_raise(me);
    else {
        me->wait.outcome = EG_PENDING;
        eg_wait_join(me, queue);
        if (eg_wait_park(me, kind, object, EG_FOREVER) > 0)
            return 1;
    }
    *exc = eg_task_take_exception();
    return 0;
}

void
eg_wait_collect(PyObject **hit, PyObject *exc)
{
    PyObject *before = *hit, *at, *next; /* before: ours now */
    *hit = exc;
    for (at = before; at && at != exc; at = next)
        if ((next = PyException_GetContext(at)))
            Py_DECREF(next); /* at holds it */
    if (before && !at)
        PyException_SetContext(exc, before);
    else
        Py_XDECREF(before); /* it had hit before */
}

int
eg_wait_yield(EgTask *me)
{
    EgHub *hub = me->hub;
    if (hub && !eg_hub_ready(hub) && hub->budget > 1 && eg_clock_ticks() < hub->slice_end) {
        hub->budget--; /* nobody else is ready, and the loop had its turn lately */
        return 0;
    }
    eg_wait_wake(me, NULL, NULL); /* ready at once, behind all that is ready now */
    return eg_wait_park(me, &wait_yield_kind, NULL, EG_FOREVER) < 0 ? -1 : 0;
}

/* The task that runs, if it may wait here; no exception. */
static EgTask *
wait_who_may(void)
{
    EgHub *hub = eg_hub_here;
    EgTask *me = hub && !hub->forbidden ? eg_hub_task(hub) : NULL;
    if (me && me->state == EG_RUNNING)
        return me;
    PyErr_Clear();
    return NULL;
}

int
eg_wait_meet(void)
{
    EgTask *me = wait_who_may();
    if (!me || !me->thrown)
        return 0;
    wait_raise(me);
    return -1;
}

int
eg_wait_give_way(void)
{
    EgTask *me = wait_who_may();
    if (!me)
        return 0;
    eg_shield_begin(me);
    int status = eg_wait_begin() ? eg_wait_yield(me) : -1;
    eg_shield_leave(me);
    return status;
}

/* ---- what was handed over, and comes back -------------------------------------------- */
struct EgReturned {
    size_t head, count, size;
    struct {
        uint64_t since;  /* of the wait in which it was handed over first */
        PyObject *value; /* strong */
    } at[];
};

void
eg_returned_add(EgReturned **list, EgTask *task, PyObject *value)
{
    EgReturned *self = *list;
    if (!self || self->head + self->count == self->size) {
        size_t size = self ? self->count * 2 : 4;
        EgReturned *more = PyMem_Malloc(sizeof *more + size * sizeof *more->at);
        if (!more) {
            Py_DECREF(value); /* out of memory */
            return;
        }
        more->head = 0;
        more->size = size;
        more->count = self ? self->count : 0;
        if (self)
            memcpy(more->at, self->at + self->head, self->count * sizeof *self->at);
        PyMem_Free(self);
        *list = self = more;
    }
    /* Waiters queue in the order in which they came, so that is the order of their values. */
    size_t i = self->head + self->count++;
    for (; i > self->head && self->at[i - 1].since > task->wait.since; i--)
        self->at[i] = self->at[i - 1];
    self->at[i].since = task->wait.since;
    self->at[i].value = value;
}

PyObject *
eg_returned_take(EgReturned **list, bool newest)
{
    EgReturned *self = *list;
    self->count--;
    PyObject *value = self->at[newest ? self->head + self->count : self->head].value;
    self->head += !newest;
    if (self->count == 0) {
        PyMem_Free(self);
        *list = NULL;
    }
    return value;
}

PyObject *
eg_returned_first(EgReturned *self)
{
    return self->at[self->head].value;
}

Py_ssize_t
eg_returned_count(const EgReturned *self)
{
    return self ? (Py_ssize_t)self->count : 0;
}

int
eg_returned_visit(EgReturned *self, visitproc visit, void *arg)
{
    for (size_t i = 0; self && i < self->count; i++)
        Py_VISIT(self->at[self->head + i].value);
    return 0;
}

void
eg_returned_clear(EgReturned **list)
{
    while (*list)
        Py_DECREF(eg_returned_take(list, false));
}
