/* hub.c: one hub per thread: what can run, when to look at the outside, when to stop.
 *
 * eg_hub_next() is called on the stack of whichever greenlet parks.  With entries on the
 * ring it looks at libuv now and then, without sleeping, so that a busy ring delays no
 * timer and no socket; with the ring empty it sleeps in libuv with the GIL released.
 *
 *      ring --- empty ---> poll: fds, timers, signals, inbox ---> ring
 *        |
 *        +--> a parked task, a new one, or a callback: park.c takes it from there
 *
 * It never runs Python itself, because the greenlet under it is half parked: what needs
 * Python (callbacks, a Deadlock report) is a node that the hub's own greenlet runs.
 */
#include "evergreen.h"

#include <poll.h>

#define TURNS 64         /* entries run before a busy ring looks at the loop */
#define SLICE_NS 200000u /* and nanoseconds */
#define IDLE_NS 1000000000u
#define DOUBT_NS 1000000000u
#define IDLE_KEPT 16 /* workers that an idle hub keeps */

EG_THREAD_LOCAL EgHub *eg_hub_here;

/* ---- libuv's side: no PyObject touched --------------------------------------- */
static void
hub_on_clock(uv_timer_t *uv)
{
    (void)uv; /* it ended the poll: the deadlines that passed are looked at then */
}

/* ---- pushing ------------------------------------------------------------------- */
void
eg_hub_wake(EgHub *hub)
{
    if (hub != eg_hub_here && hub->port && (hub->sleeping || hub->embedded))
        eg_port_ring(&hub->port->bell);
}

void
eg_hub_push(EgHub *hub, EgNode *node)
{
    if (EG_LIKELY(hub == eg_hub_here)) {
        eg_ring_push(&hub->ready, node);
        return;
    }
    eg_ring_push(&hub->inbox, node);
    eg_hub_wake(hub);
}

/* ---- polling ------------------------------------------------------------------- */
/* How many ticks a slice lasts, by what the counter did since the hub was made. */
static void
hub_calibrate(EgHub *hub, uint64_t now)
{
    uint64_t ns = now - hub->now0;
    if (ns > 1000000)
        hub->slice_ticks = (uint64_t)((double)(eg_clock_ticks() - hub->ticks0) * SLICE_NS / ns);
}

uint64_t
eg_hub_since(EgHub *hub, uint64_t ticks)
{
    double ns = ((double)ticks - (double)hub->ticks0) * SLICE_NS / (double)hub->slice_ticks;
    return hub->now0 + (ns > 0 ? (uint64_t)ns : 0);
}

static bool
hub_uv_active(EgHub *hub)
{
    if (!hub->port)
        return false;
    uv_handle_t *bell = (uv_handle_t *)&hub->port->bell;
    uv_unref(bell);
    int active = uv_loop_alive(&hub->port->uv);
    uv_ref(bell);
    return active;
}

/* Who waited for a time goes ahead of who was ready before: each in turn with one of those, so
 * that a busy hub keeps its hours and nobody starves. */
static void
hub_fire_timers(EgHub *hub, uint64_t now)
{
    EgRing before = hub->ready;
    hub->ready.first = hub->ready.last = NULL;
    eg_timers_fire(&hub->timers, now);
    eg_ring_append(&hub->due, &hub->ready);
    hub->ready = before;
}

static inline EgNode *
hub_pop(EgHub *hub)
{
    if (EG_UNLIKELY(hub->due.first) && ((hub->due_turn = !hub->due_turn) || !hub->ready.first))
        return eg_ring_pop(&hub->due);
    return eg_ring_pop(&hub->ready);
}

/* Look at libuv without sleeping, for what cannot wait for it to have something. */
static void
hub_look(EgHub *hub)
{
    bool outer = eg_fd_is_outer(hub);
    if ((!outer && !eg_fd_active(hub) && !hub->embedded && !hub_uv_active(hub))
        || !eg_port_ready(hub, 0))
        return;
    uv_loop_t *uv = &hub->port->uv;
    if (!outer || eg_fd_poll(hub, 0, false) || uv_backend_timeout(uv) == 0)
        uv_run(uv, UV_RUN_NOWAIT);
}

/* Whether a deadline is one that clock.c has not rounded, since it was near. */
static inline bool
hub_is_fine(uint64_t next)
{
    return next % 1000000 != 0 && next != EG_FOREVER;
}

/* How long to sleep; *bound is libuv's own, in ms: 0 if it has work to do before it can be waited for,
 * such as telling the kernel of a handle, negative for ever. */
static uint64_t
hub_span(EgHub *hub, uint64_t next, int *bound)
{
    uint64_t now = eg_clock_now(), ns = next > now ? next - now : 0;
    *bound = uv_backend_timeout(&hub->port->uv);
    if (next == EG_FOREVER)
        ns = EG_FOREVER;
    return *bound > 0 && ns / 1000000 > (uint64_t)*bound ? (uint64_t)*bound * 1000000 : ns;
}

/* Sleep before libuv is asked, whose timers count in milliseconds. */
static void
hub_sleep_finely(EgHub *hub, uint64_t next)
{
    uv_loop_t *uv = &hub->port->uv;
    struct pollfd set = {.fd = uv_backend_fd(uv), .events = POLLIN};
    uv_update_time(uv);
    int bound, ready = 1;
    uint64_t ns = hub_span(hub, next, &bound);
    struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    if (bound) {
        Py_BEGIN_ALLOW_THREADS
        ready = ppoll(&set, 1, &time, NULL);
        Py_END_ALLOW_THREADS
    }
    if (ready || bound > 0)
        uv_run(uv, UV_RUN_NOWAIT);
}

/* Sleep in libuv. */
static void
hub_sleep_inside(EgHub *hub, uint64_t next)
{
    EgPort *port = hub->port;
    if (next != EG_FOREVER) {
        uv_update_time(&port->uv);
        uint64_t tick = next / 1000000, now = uv_now(&port->uv);
        /* It repeats because libuv before 1.45 runs timers before it polls: one that came due
         * just then would not bound the poll. */
        uv_timer_start(&port->clock, hub_on_clock, tick > now ? tick - now : 0, 1);
    }
    Py_BEGIN_ALLOW_THREADS
    uv_run(&port->uv, UV_RUN_ONCE);
    Py_END_ALLOW_THREADS
    uv_timer_stop(&port->clock);
}

/* Sleep in our own set, which holds libuv's. */
static void
hub_sleep_outside(EgHub *hub, uint64_t next)
{
    int bound;
    uint64_t ns = hub_span(hub, next, &bound);
    if (bound == 0 || eg_fd_poll(hub, ns, hub_is_fine(next)))
        uv_run(&hub->port->uv, UV_RUN_NOWAIT);
}

/* Whether Python knows other threads than this. */
static bool
hub_has_company(void)
{
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    return thread && PyThreadState_Next(thread);
}

static void
hub_sleep(EgHub *hub)
{
    uint64_t next = eg_timers_next(&hub->timers);
    if (next == EG_FOREVER && !hub->forever && !eg_hub_busy(hub))
        next = eg_clock_in(DOUBT_NS); /* a native thread may end without waking anyone */
    if (hub->trim_wanted && !eg_timer_armed(&hub->trim)) {
        if (eg_timer_start(&hub->timers, &hub->trim, eg_clock_in(IDLE_NS)) < 0)
            PyErr_Clear(); /* later, then */
        hub->trim_wanted = false;
        next = eg_timers_next(&hub->timers);
    }
    uint64_t now = eg_clock_now();
    if (next > now && next - now > DOUBT_NS && hub_has_company())
        next = now + DOUBT_NS; /* or have its own C code close what would wake this one */
    if (!eg_port_ready(hub, next > now ? next - now : 0) || eg_signal_happened(hub))
        return;
    hub->sleeping = true;
    if (eg_fd_is_outer(hub))
        hub_sleep_outside(hub, next);
    else if (hub_is_fine(next))
        hub_sleep_finely(hub, next);
    else
        hub_sleep_inside(hub, next);
    hub->sleeping = false;
}

void
eg_hub_after_poll(EgHub *hub)
{
    EgNode *node;
    if (!hub->happened.first)
        return;
    while ((node = eg_ring_pop(&hub->happened)))
        node->run(node);
    eg_wires_after_poll(hub);
}

void
eg_hub_poll(EgHub *hub, bool block)
{
    eg_ring_append(&hub->ready, &hub->inbox);
    eg_wires_before_poll(hub);
    if (block)
        eg_signal_before_sleep(hub);
    if (block && !eg_hub_ready(hub))
        hub_sleep(hub);
    else
        hub_look(hub);
    eg_fd_after_poll(hub);
    eg_hub_after_poll(hub);
    eg_ring_append(&hub->ready, &hub->inbox);
    uint64_t now = eg_clock_now();
    hub_fire_timers(hub, now);
    eg_signal_after_poll(hub);
    hub_calibrate(hub, now);
    hub->polls++;
    hub->budget = TURNS;
    hub->slice_end = eg_clock_ticks() + hub->slice_ticks;
    eg_patch_polls = 0;
}

/* ---- nothing left to run --------------------------------------------------------- */
bool
eg_hub_busy(EgHub *hub)
{
    return hub->timers.armed || hub->pins || eg_fd_active(hub) || hub_uv_active(hub);
}

/* Main, unless it is beneath a greenlet that somebody else made, or switched away by hand. */
static EgTask *
hub_victim(EgHub *hub)
{
    EgTask *top = eg_interrupt_top(hub), *victim = top ? top : hub->main;
    if (victim->state != EG_PARKED)
        victim = hub->foreign ? hub->foreign : hub->tasks;
    while (victim && victim->state != EG_PARKED)
        victim = victim->next;
    return victim ? victim : hub->main;
}

static void
hub_deadlock(EgNode *node)
{
    EgHub *hub = EG_OWNER(node, EgHub, deadlock);
    EgTask *victim = hub_victim(hub);
    PyObject *args[] = {(PyObject *)hub};
    hub->forbidden++;
    PyObject *exc = eg_policy_call("deadlock", args, 1); /* None: a signal may still come */
    hub->forbidden--;
    if (!exc)
        exc = eg_task_take_exception(); /* out of memory: it ends the wait as well */
    if (exc != Py_None) {
        hub->deadlocked = false;
        if (victim->state == EG_PARKED)
            eg_wait_throw(victim, exc);
        else
            eg_park_raise(victim, exc);
    }
    Py_XDECREF(exc);
}

/* The ring is empty: sleep until something happens, unless nothing ever can. */
static void
hub_idle(EgHub *hub)
{
    if (!hub->inbox.first && !eg_hub_busy(hub) && !hub->forever) {
        if (eg_queue_peek(&hub->runner) && hub->ntasks == 0) {
            eg_queue_wake(&hub->runner, NULL);
            return;
        }
        if (!hub->deadlocked && !eg_native_thread_others()) {
            hub->deadlocked = true; /* asked once a sleep: the answer may be no */
            eg_ring_push(&hub->ready, &hub->deadlock);
            return;
        }
    }
    hub->deadlocked = false;
    eg_hub_poll(hub, true);
}

EgNode *
eg_hub_next(EgHub *hub, uint64_t ticks)
{
    if (--hub->budget <= 0 || ticks >= hub->slice_end)
        eg_hub_poll(hub, false);
    for (;;) {
        EgNode *node;
        while ((node = hub_pop(hub))) {
            if (node->run)
                return node;
            EgTask *task = EG_OWNER(node, EgTask, ready);
            task->queued = false;
            if (task->state == EG_PARKED ? task->wait.outcome != EG_PENDING
                                         : task->state == EG_STARTED)
                return node;
            /* else it was resumed by greenlet.throw() meanwhile */
        }
        hub_idle(hub);
    }
}

/* ---- who runs ---------------------------------------------------------------------- */
/* The greenlet that runs is not that of the task that the scheduler let run: somebody switched by
 * hand, or it is a greenlet that somebody else made, or the one beneath such a one that has ended. */
static EG_COLD EgTask *
hub_find_task(EgHub *hub, PyObject *greenlet)
{
    EgTask *task = hub->current;
    if (greenlet == hub->greenlet || !greenlet)
        return NULL;
    while (task && task->role == EG_FOREIGN && task->greenlet != greenlet)
        task = task->beneath;
    if ((!task || task->greenlet != greenlet) && (task = eg_interrupt_top(hub))
        && task->greenlet != greenlet)
        task = NULL;
    if (!task)
        task = hub->main->greenlet == greenlet ? hub->main : hub->tasks;
    while (task && task->greenlet != greenlet)
        task = task->next;
    if (task && task->state != EG_RUNNING)
        return NULL; /* a trace function of greenlet's: the task is about to go on */
    if (task) {
        hub->current = task;
        if (EG_UNLIKELY(eg_follow))
            eg_follow_move(hub, task);
        return task;
    }
    for (int i = 0; i < hub->nidle; i++)
        if (hub->idle[i] == greenlet)
            return NULL;
    if (!hub->current) /* a worker between two tasks */
        return NULL;
    return hub->current = eg_task_for(hub, EG_FOREIGN, greenlet);
}

EgTask *
eg_hub_task(EgHub *hub)
{
    PyObject *greenlet = eg_park_current_greenlet();
    EgTask *task = hub->current;
    return EG_LIKELY(task && task->greenlet == greenlet) ? task : hub_find_task(hub, greenlet);
}

EgHub *
eg_hub_get(void)
{
    if (EG_LIKELY(eg_hub_here != NULL))
        return eg_hub_here;
    if (eg_exit_ended()) {
        PyErr_SetString(PyExc_RuntimeError, "there is no event loop: the interpreter ends");
        return NULL;
    }
    if (PyThread_get_thread_ident() != eg_state->main_thread) {
        PyErr_SetString(PyExc_RuntimeError,
                        "there is no event loop in the current thread: make one with EventLoop()");
        return NULL;
    }
    return eg_hub_new(eg_state->loop_type);
}

/* ---- reporting ---------------------------------------------------------------------- */
void
eg_hub_to_main(EgHub *hub, PyObject *exc)
{
    EgTask *top = eg_interrupt_top(hub), *main = top ? top : eg_interrupt_main(hub);
    EgTask *on_its_stack = top ? NULL : eg_park_foreign_on(main);
    if (on_its_stack)
        main = on_its_stack; /* that is where its code waits */
    if (main != hub->main || !main->thrown || main->coming) {
        eg_wait_interrupt(main, exc); /* shielded or not */
        return;
    }
    if ((!hub->for_main && !(hub->for_main = PyList_New(0)))
        || PyList_Append(hub->for_main, exc) < 0)
        PyErr_WriteUnraisable(exc);
}

void
eg_hub_main_next(EgHub *hub)
{
    if (!hub->for_main || PyList_GET_SIZE(hub->for_main) == 0)
        return;
    hub->main->thrown = Py_NewRef(PyList_GET_ITEM(hub->for_main, 0));
    if (PyList_SetSlice(hub->for_main, 0, 1, NULL) < 0)
        PyErr_WriteUnraisable(hub->for_main);
}

void
eg_hub_report(EgHub *hub, const char *what, PyObject *object)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    if (hub
        && (PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt)
            || PyErr_GivenExceptionMatches(type, PyExc_SystemExit))) {
        eg_hub_to_main(hub, value);
        goto done;
    }
    PyObject *text = PyUnicode_FromString(what);
    PyObject *args[] = {hub ? (PyObject *)hub : Py_None, text, object ? object : Py_None, value};
    if (hub)
        hub->forbidden++;
    PyObject *result = text ? eg_policy_call("report", args, 4) : NULL;
    if (hub)
        hub->forbidden--;
    if (!result)
        PyErr_WriteUnraisable(object);
    Py_XDECREF(result);
    Py_XDECREF(text);
done:
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* ---- giving memory back ---------------------------------------------------------------- */
static void
hub_trim(EgNode *node)
{
    EgHub *hub = EG_OWNER(node, EgHub, trim_node);
    eg_park_workers_trim(hub, IDLE_KEPT);
    eg_arena_trim();
}

static void
hub_on_trim(EgTimer *timer)
{
    EgHub *hub = EG_OWNER(timer, EgHub, trim);
    eg_ring_push(&hub->ready, &hub->trim_node); /* ends greenlets: for the hub's own */
}

/* ---- making and ending ------------------------------------------------------------------ */
/* End the tasks that switched away by hand, and to which nobody has switched back. */
static void
hub_end_astray(EgNode *node)
{
    EgHub *hub = EG_OWNER(node, EgHub, astray);
    for (EgTask *task = hub->tasks; task; task = task->next)
        if (task->state == EG_RUNNING) {
            PyObject *exc = PyObject_CallNoArgs(eg_state->task_exit);
            if (exc)
                eg_park_raise(task, exc);
            else
                PyErr_WriteUnraisable((PyObject *)task);
            Py_XDECREF(exc);
            return; /* one a turn: the list has changed */
        }
}

void
eg_hub_prepare(EgHub *hub)
{
    hub->budget = TURNS;
    hub->deadlock.run = hub_deadlock;
    hub->astray.run = hub_end_astray;
    hub->trim.fire = hub_on_trim;
    hub->trim.background = true;
    hub->trim_node.run = hub_trim;
}

EgHub *
eg_hub_new(PyTypeObject *type)
{
    if (eg_hub_here) {
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot make more than one event loop per thread: this one has its own");
        return NULL;
    }
    EgHub *hub = (EgHub *)type->tp_alloc(type, 0);
    if (!hub)
        return NULL;
    hub->thread = PyThread_get_thread_ident();
    hub->state = PyThreadState_Get();
    hub->now0 = eg_clock_now();
    hub->ticks0 = eg_clock_ticks();
    hub->slice_ticks = SLICE_NS; /* a counter of 1 GHz, until it is measured */
    hub->slice_end = hub->ticks0 + hub->slice_ticks;
    eg_hub_prepare(hub);
    hub->main = eg_task_for(hub, EG_MAIN, eg_park_root_greenlet());
    if (!hub->main || eg_port_open(hub) < 0 || eg_park_hub_create(hub) < 0)
        goto fail;
    hub->current = hub->resident = hub->main;
    if (hub->thread == eg_state->main_thread && eg_signal_open(hub) < 0)
        goto fail;
    if (!eg_signal_repair(hub)) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto fail;
    }
    eg_signal_forget(hub);
    hub->next_hub = eg_state->hubs;
    eg_state->hubs = hub;
    eg_hub_here = hub; /* owns the reference until eg_hub_destroy() */
    eg_asyncio_adopt(hub);
    if (hub->signals && eg_interrupt_open(hub) < 0) {
        eg_hub_destroy(hub);
        return NULL;
    }
    return hub;
fail:
    hub->destroyed = true;
    eg_park_hub_end(hub);
    eg_port_close(hub);
    eg_signal_close(hub);
    Py_DECREF(hub);
    return NULL;
}

/* End every task: they see TaskExit and may clean up, in a bounded number of turns. */
static int
hub_end_tasks(EgHub *hub)
{
    for (int turn = 0; turn < 100 && (hub->ntasks || hub->foreign || eg_hub_ready(hub)); turn++) {
        if (turn % 10 == 0) {
            PyObject *exc = PyObject_CallNoArgs(eg_state->task_exit);
            if (!exc)
                return -1;
            for (EgTask *task = hub->tasks, *next; task; task = next) {
                next = task->next;
                if (task->role == EG_TASK && task->state == EG_STARTED)
                    eg_task_end_unrun(task, exc);
                else
                    eg_wait_throw(task, exc);
            }
            Py_DECREF(exc);
            if (eg_park_end_foreign(hub) < 0)
                return -1;
        }
        if (turn % 10 > 5)
            eg_ring_push(&hub->ready, &hub->astray);
        EgTask *me = eg_wait_begin();
        if (!me || eg_wait_yield(me) < 0)
            return -1;
    }
    if (hub->ntasks)
        return PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                                "%zd tasks would not end with their event loop", hub->ntasks);
    return 0;
}

/* Callbacks that will not be called any more: they only give their references back. */
static void
hub_drop_callbacks(EgHub *hub)
{
    EgNode *node;
    hub->forbidden++;
    eg_timers_fire(&hub->timers, EG_FOREVER);
    eg_ring_append(&hub->ready, &hub->inbox);
    while ((node = hub_pop(hub)))
        if (node->run && node != &hub->trim_node && node != &hub->deadlock && node != &hub->astray)
            node->run(node);
    hub->forbidden--;
}

int
eg_hub_destroy(EgHub *hub)
{
    PyObject *type, *value, *traceback;
    int status = hub_end_tasks(hub);
    PyErr_Fetch(&type, &value, &traceback); /* all of it is done all the same */
    hub->destroyed = true;
    for (EgTask *task = hub->tasks; task; task = task->next)
        eg_wait_drop(task); /* what would not end */
    eg_park_drop_foreign(hub);
    eg_park_hub_end(hub);
    eg_work_close(hub);
    eg_wires_close(hub);
    eg_fd_leave(hub);
    hub_drop_callbacks(hub);
    eg_port_close(hub);
    eg_wires_destroy(hub);
    eg_work_destroy(hub);
    if (hub->signals)
        eg_interrupt_close();
    eg_signal_close(hub);
    eg_fd_destroy(hub);
    eg_timers_clear(&hub->timers);
    eg_hub_here = NULL;
    for (EgHub **link = &eg_state->hubs; *link; link = &(*link)->next_hub)
        if (*link == hub) {
            *link = hub->next_hub;
            break;
        }
    /* A thread's own greenlet is greenlet's again: when the thread ends while the collector runs, greenlet
     * sees no referrer of it, takes a last reference for one that was leaked, and drops it. */
    Py_CLEAR(hub->main->greenlet);
    PyErr_Restore(type, value, traceback);
    Py_DECREF(hub); /* eg_hub_here's */
    return status;
}
