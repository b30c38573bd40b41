/* fork.c: what goes on in a child that fork() made.
 *
 * As with threads: only the forking task does.  The parent's other tasks, its timers and its
 * waits are dropped, without their clean-up code being run; libuv's loop is left as it is
 * (the kernel's sets behind it are shared with the parent) and a new one is made.  With
 * keep_tasks everything goes on in both.
 *
 * If the fork was made in a task, the code that the main greenlet was in is the parent's
 * business: the child ends when the forking task and those it spawned have ended.
 */
#include "evergreen.h"

#include <unistd.h>

static void
fork_drop_joiners(EgTask *task)
{
    while (task->joiners.first)
        eg_queue_remove(task->joiners.first);
}

static void
fork_drop_task(EgTask *task)
{
    /* Its greenlet holds the stack of a call that goes on in the parent: it is kept, unended,
     * by the reference that the task holds, and the task by the one that it took at its start. */
    eg_wait_drop(task);
    fork_drop_joiners(task);
    task->state = EG_ENDED;
    task->result = Py_NewRef(Py_None);
    task->prev = task->next = NULL;
    if (task->group)
        eg_group_leave(task);
}

static void
fork_drop_others(EgHub *hub, EgTask *me)
{
    EgTask *next;
    for (EgTask *task = hub->tasks; task; task = next) {
        next = task->next;
        if (task != me)
            fork_drop_task(task);
    }
    eg_park_drop_foreign(hub);
    hub->tasks = NULL;
    hub->ntasks = 0;
    if (me && me->role == EG_TASK) {
        me->prev = me->next = NULL;
        fork_drop_joiners(me);
        me->is_thread = me->keeps_process = false; /* it is the main thread */
        hub->tasks = me;
        hub->ntasks = 1;
    }
    hub->orphan = me != hub->main;
    hub->ready.first = hub->ready.last = NULL;
    hub->due.first = hub->due.last = NULL;
    hub->inbox.first = hub->inbox.last = NULL;
    hub->runner.first = NULL;
    hub->pins = 0;
    hub->forks++;
    eg_timers_drop(&hub->timers, eg_scope_is_of, me); /* the deadlines that it is under go on */
}

/* The thread that forked is the child's main thread; signals are its hub's business. */
static int
fork_signals(EgHub *hub, EgTask *me)
{
    if (!hub->signals)
        return eg_signal_open(hub) < 0 ? -1 : eg_interrupt_open(hub);
    eg_interrupt_after_fork(hub, me);
    return eg_signal_after_fork(hub);
}

/* The libuv loop is made when something needs it: a child that closes all descriptors first, or has
 * none left, does so unharmed. */
static int
fork_hub(EgHub *hub, bool keep)
{
    EgTask *me = eg_hub_task(hub); /* NULL: a callback forked */
    hub->thread = PyThread_get_thread_ident();
    hub->sleeping = false;
    eg_fd_drop_set(hub);
    eg_port_leave(hub);
    if (!keep)
        fork_drop_others(hub, me ? eg_task_owner(me) : NULL);
    if (fork_signals(hub, me) < 0)
        return -1;
    if (eg_work_after_fork(hub, keep) < 0)
        return -1;
    eg_wires_after_fork(hub, keep);
    return eg_fd_after_fork(hub, keep);
}

/* A hub of another thread, which is not here: it has ended, and its tasks with it, as threads have. */
static void
fork_drop_hub(EgHub *hub)
{
    eg_fd_drop_set(hub);
    eg_port_leave(hub);
    eg_signal_leave(hub);
    for (EgTask *task = hub->tasks, *next; task; task = next) {
        next = task->next;
        fork_drop_task(task);
    }
    hub->tasks = NULL;
    hub->ntasks = 0;
    eg_wait_drop(hub->main);
    eg_park_drop_foreign(hub);
    hub->destroyed = true;
    hub->sleeping = hub->embedded = false; /* nobody rings the parent's bell */
}

static pid_t fork_process; /* in which eg_fork_after_in_child() was called last */

/* Whether this is a child in which it was not: other functions of os.register_at_fork() run before. */
bool
eg_fork_is_news(void)
{
    return getpid() != fork_process;
}

void
eg_fork_setup(void)
{
    fork_process = getpid();
}

/* after_fork_in_child(keep_tasks) */
PyObject *
eg_fork_after_in_child(PyObject *module, PyObject *keep_tasks)
{
    (void)module;
    eg_fork_setup(); /* this process */
    eg_state->main_thread = PyThread_get_thread_ident();
    eg_state->pool_threads = eg_pool_thread; /* this thread, if it is one of them */
    if (!eg_hub_here || !eg_hub_here->signals)
        eg_interrupt_after_fork(NULL, NULL);
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub)
        if (hub != eg_hub_here)
            fork_drop_hub(hub);
    eg_state->hubs = eg_hub_here; /* the other threads, and their hubs, are not here */
    eg_native_forked();
    if (eg_hub_here) {
        eg_hub_here->next_hub = NULL;
        if (fork_hub(eg_hub_here, PyObject_IsTrue(keep_tasks) == 1) < 0)
            return NULL;
    } else
        eg_work_after_fork(NULL, false);
    eg_io_after_fork();
    eg_input_after_fork();
    eg_thread_after_fork();
    Py_RETURN_NONE;
}

void
eg_fork_leave_child(EgTask *task)
{
    PyObject *exc = task->failed ? task->result : Py_None;
    eg_task_report(task);
    Py_XDECREF(eg_policy_call("leave_child", &exc, 1));
    PyErr_WriteUnraisable((PyObject *)task); /* it does not return */
    _exit(1);
}
