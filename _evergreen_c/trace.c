/* trace.c: debuggers, profilers and coverage see tasks as they see threads.
 *
 * threading.settrace() and threading.setprofile() name functions for threads that start
 * later; a task that starts applies them too, unless its native thread is traced already.  Where
 * threads are tasks, sys.settrace() and sys.setprofile() are the task's that called them, and the
 * hub's own callbacks are traced as main is.  A task that waits inside of a trace function (a
 * debugger's, that has stopped it) leaves others to be traced.
 *
 * Not on 3.15: there an exception raised in a frame that was suspended, in another greenlet,
 * while the trace function was set reads monitoring data that the frame's code does not have,
 * and the process crashes; two plain greenlets and sys.settrace() show it.
 */
#include "evergreen.h"

static PyObject *
trace_hook(const char *name)
{
    PyObject *hook = PyDict_GetItemString(eg_state->threading_dict, name); /* borrowed */
    return hook == Py_None ? NULL : hook;
}

bool
eg_trace_wanted(void)
{
    if (PY_VERSION_HEX >= 0x030f0000)
        return false;
    PyObject *hook = PyDict_GetItemWithError(eg_state->threading_dict, eg_state->str_trace_hook);
    if (EG_UNLIKELY(hook != Py_None))
        return true;
    hook = PyDict_GetItemWithError(eg_state->threading_dict, eg_state->str_profile_hook);
    return hook != Py_None;
}

static void
trace_apply(const char *setter, PyObject *hook)
{
    PyObject *function = PySys_GetObject(setter); /* borrowed */
    PyObject *result = function ? PyObject_CallOneArg(function, hook) : NULL;
    if (!result)
        PyErr_WriteUnraisable(hook);
    Py_XDECREF(result);
}

void
eg_trace_start(void)
{
    PyThreadState *thread = PyThreadState_Get();
    PyObject *trace = trace_hook("_trace_hook"), *profile = trace_hook("_profile_hook");
    if (trace && !thread->c_tracefunc)
        trace_apply("settrace", trace);
    if (profile && !thread->c_profilefunc)
        trace_apply("setprofile", profile);
}

/* ---- following tasks ------------------------------------------------------------- */
#if PY_VERSION_HEX < 0x030f0000
enum { EG_TRACE = 1, EG_PROFILE = 2 };

/* The interpreter counts how many threads are traced. What is moved about stays counted. */
static void
trace_put_out(PyThreadState *state, EgKept *out)
{
    out->trace = state->c_tracefunc;
    out->trace_object = state->c_traceobj;
    out->profile = state->c_profilefunc;
    out->profile_object = state->c_profileobj;
    state->c_tracefunc = state->c_profilefunc = NULL;
    state->c_traceobj = state->c_profileobj = NULL;
}

static void
trace_put_in(PyThreadState *state, EgKept *in)
{
    state->c_tracefunc = in->trace;
    state->c_traceobj = in->trace_object;
    state->c_profilefunc = in->profile;
    state->c_profileobj = in->profile_object;
    in->trace = in->profile = NULL;
    in->trace_object = in->profile_object = NULL;
}

/* On 3.11 the evaluation of a frame looks here before it looks for functions. */
static void
trace_tell_frame(PyThreadState *state)
{
#if PY_VERSION_HEX < 0x030c0000
    state->cframe->use_tracing =
        !state->tracing && (state->c_tracefunc || state->c_profilefunc) ? 255 : 0;
#else
    (void)state;
#endif
}

void
eg_trace_exchange(EgHub *hub, EgTask *from, EgTask *to)
{
    from = from ? from : hub->main;
    to = to ? to : hub->main;
    if (from == to)
        return;
    trace_put_out(hub->state, &from->kept);
    trace_put_in(hub->state, &to->kept);
}

void
eg_trace_leave(EgHub *hub, EgTask *me)
{
    PyThreadState *state = hub->state;
    me->tracing = (uint16_t)state->tracing;
    state->tracing = 0;
#if PY_VERSION_HEX >= 0x030c0000
    me->event = (int16_t)state->what_event;
    state->what_event = -1;
#endif
}

void
eg_trace_enter(EgHub *hub, EgTask *me)
{
    PyThreadState *state = hub->state;
    state->tracing = me ? me->tracing : 0;
#if PY_VERSION_HEX >= 0x030c0000
    state->what_event = me && me->tracing ? me->event : -1;
#endif
    if (me)
        me->tracing = 0;
    trace_tell_frame(state);
}

static void
trace_set(int which, const EgKept *like)
{
    if (which & EG_TRACE)
        PyEval_SetTrace(like->trace, like->trace_object);
    if (which & EG_PROFILE)
        PyEval_SetProfile(like->profile, like->profile_object);
}

/* Have a task, of whatever hub, be traced as *like* is. This goes through the thread state of the
 * caller, so that the interpreter counts it; auditing hooks, which are Python, may run. */
static void
trace_set_of(EgTask *task, int which, const EgKept *like)
{
    EgHub *hub = task->hub;
    PyThreadState *here = PyThreadState_Get();
    EgKept own = {0}, changed = {0};
    if (hub->resident == task && hub->state == here) {
        trace_set(which, like);
        return;
    }
    trace_put_out(here, &own);
    if (hub->resident == task)
        trace_put_out(hub->state, &task->kept);
    trace_put_in(here, &task->kept);
    trace_set(which, like);
    trace_put_out(here, &changed);
    trace_put_in(here, &own);
    trace_tell_frame(here);
    if (hub->resident != task)
        task->kept.trace = changed.trace, task->kept.trace_object = changed.trace_object,
        task->kept.profile = changed.profile, task->kept.profile_object = changed.profile_object;
    else
        trace_put_in(hub->state, &changed);
}

void
eg_trace_end(EgTask *me)
{
    static const EgKept none;
    bool resident = eg_follow_on(EG_FOLLOW_THREAD) && me->hub->resident == me;
    if (resident && (me->hub->state->c_tracefunc || me->hub->state->c_profilefunc))
        trace_set(EG_TRACE | EG_PROFILE, &none);
    if (me->kept.trace || me->kept.profile)
        trace_set_of(me, EG_TRACE | EG_PROFILE, &none);
}

/* The hub's tasks that have begun, those beside main; new, NULL: exception. */
static PyObject *
trace_tasks(EgHub *hub)
{
    PyObject *list = PyList_New(0);
    for (EgTask *task = hub->tasks; list && task; task = task->next)
        if ((task->state == EG_PARKED || task->state == EG_RUNNING)
            && PyList_Append(list, (PyObject *)task) < 0)
            Py_CLEAR(list);
    return list;
}

static void
trace_set_all(EgHub *hub, int which, const EgKept *like)
{
    PyObject *tasks = trace_tasks(hub); /* which hooks may change */
    for (Py_ssize_t i = 0; tasks && i < PyList_GET_SIZE(tasks); i++) {
        EgTask *task = (EgTask *)PyList_GET_ITEM(tasks, i);
        if (task->state != EG_ENDED)
            trace_set_of(task, which, like);
    }
    if (!tasks)
        PyErr_WriteUnraisable(NULL);
    Py_XDECREF(tasks);
}

void
eg_trace_share(void)
{
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        bool in = !hub->resident || hub->resident == hub->main;
        EgKept like = hub->main->kept;
        if (in) {
            like.trace = hub->state->c_tracefunc;
            like.trace_object = hub->state->c_traceobj;
            like.profile = hub->state->c_profilefunc;
            like.profile_object = hub->state->c_profileobj;
        }
        if (!like.trace && !like.profile)
            continue;
        Py_XINCREF(like.trace_object); /* given back below: hooks may end the tracing */
        Py_XINCREF(like.profile_object);
        trace_set_all(hub, EG_TRACE | EG_PROFILE, &like);
        Py_XDECREF(like.trace_object);
        Py_XDECREF(like.profile_object);
    }
}

/* ---- all threads at once: Python 3.12 and later ----------------------------------------- */
EG_PATCH(trace_settrace_all, "sys", "_settraceallthreads", "thread");
EG_PATCH(trace_setprofile_all, "sys", "_setprofileallthreads", "thread");

/* The original has set it in every thread state; do so for the tasks that are in none. */
static PyObject *
trace_call_all(const EgPatch *patch, int which, PyObject *self, PyObject *const *args, Py_ssize_t n,
               PyObject *kwnames)
{
    PyObject *done = eg_patch_call_original(patch, self, args, n, kwnames);
    if (!done || !eg_follow_on(EG_FOLLOW_THREAD))
        return done;
    PyThreadState *here = PyThreadState_Get();
    EgKept like = {.trace = here->c_tracefunc,
                   .trace_object = Py_XNewRef(here->c_traceobj),
                   .profile = here->c_profilefunc,
                   .profile_object = Py_XNewRef(here->c_profileobj)};
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        trace_set_all(hub, which, &like);
        if (hub->resident && hub->resident != hub->main)
            trace_set_of(hub->main, which, &like);
    }
    Py_XDECREF(like.trace_object);
    Py_XDECREF(like.profile_object);
    return done;
}

static PyObject *
trace_settrace_all(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return trace_call_all(&trace_settrace_all_patch, EG_TRACE, self, args, n, kwnames);
}

static PyObject *
trace_setprofile_all(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return trace_call_all(&trace_setprofile_all_patch, EG_PROFILE, self, args, n, kwnames);
}

EgPatch *const eg_patch_trace[] = {&trace_settrace_all_patch, &trace_setprofile_all_patch, NULL};
#else
EgPatch *const eg_patch_trace[] = {NULL};

void
eg_trace_exchange(EgHub *hub, EgTask *from, EgTask *to)
{
    (void)hub;
    (void)from;
    (void)to;
}

void
eg_trace_leave(EgHub *hub, EgTask *me)
{
    (void)hub;
    (void)me;
}

void
eg_trace_enter(EgHub *hub, EgTask *me)
{
    (void)hub;
    (void)me;
}

void
eg_trace_end(EgTask *me)
{
    (void)me;
}

void
eg_trace_share(void)
{
}
#endif
