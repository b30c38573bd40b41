/* follow.c: what natively belongs to a thread belongs to the task that is one.
 *
 * Thread-local data, trace functions and asyncio's running loop are in the thread state, which the
 * tasks of a hub share.  hub->resident is the task whose data is there (NULL: the hub's own
 * greenlet's); the data of all others is kept beside them.  It moves when another one goes on, not
 * when a task parks: a task that comes back to its own data moves nothing.
 *
 * A greenlet that a library switches by itself runs on the stack of a task, as it would on a
 * thread's, and shares the task's data: eg_task_owner().
 *
 * The kinds of data that follow are the process's: eg_follow has a bit for each.  All hubs obey it,
 * whether they are made before or after; with no bit set a switch costs one test more.
 */
#include "evergreen.h"

unsigned eg_follow;
static EgExchange follow_exchanges[EG_FOLLOW_KINDS]; /* of the kinds that are on, or were */

static EgTask *
follow_owner(EgTask *task)
{
    return task ? eg_task_owner(task) : NULL;
}

EgKept *
eg_follow_kept(EgHub *hub, EgTask *task)
{
    return task ? &task->kept : &hub->kept;
}

void
eg_follow_move(EgHub *hub, EgTask *me)
{
    EgTask *to = follow_owner(me), *from = hub->resident;
    if (to == from)
        return;
    hub->resident = to;
    for (int kind = 0; kind < EG_FOLLOW_KINDS; kind++)
        if (eg_follow & 1u << kind)
            follow_exchanges[kind](hub, from, to);
}

void
eg_follow_leave(EgHub *hub, EgTask *me)
{
    eg_trace_leave(hub, me);
}

void
eg_follow_enter(EgHub *hub, EgTask *me)
{
    eg_follow_move(hub, me);
    eg_trace_enter(hub, me);
}

void
eg_follow_end(EgTask *me)
{
    if (me->hub->resident == me)
        eg_follow_move(me->hub, NULL);
}

void
eg_follow_begin(EgFollow kind, EgExchange exchange)
{
    follow_exchanges[kind] = exchange;
    if (!eg_follow) /* nobody has kept account of it */
        for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub)
            hub->resident = follow_owner(hub->current);
    eg_follow |= 1u << kind;
}

void
eg_follow_stop(EgFollow kind)
{
    eg_follow &= ~(1u << kind);
}

int
eg_follow_visit(EgKept *kept, visitproc visit, void *arg)
{
    Py_VISIT(kept->dict);
    Py_VISIT(kept->key);
    Py_VISIT(kept->sentinel);
    Py_VISIT(kept->trace_object);
    Py_VISIT(kept->profile_object);
    Py_VISIT(kept->running_loop);
    Py_VISIT(kept->running_task);
    Py_VISIT(kept->first_iteration);
    Py_VISIT(kept->finalizer);
    return 0;
}

void
eg_follow_clear(EgKept *kept)
{
    kept->trace = kept->profile = NULL;
    Py_CLEAR(kept->dict);
    Py_CLEAR(kept->key);
    Py_CLEAR(kept->sentinel);
    Py_CLEAR(kept->trace_object);
    Py_CLEAR(kept->profile_object);
    Py_CLEAR(kept->running_loop);
    Py_CLEAR(kept->running_task);
    Py_CLEAR(kept->first_iteration);
    Py_CLEAR(kept->finalizer);
}
