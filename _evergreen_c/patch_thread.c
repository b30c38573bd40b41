/* patch_thread.c: threads are tasks where a hub runs.
 *
 * start_new_thread() and start_joinable_thread() start a task, get_ident() tells tasks apart,
 * and what threading.local keeps follows the task (follow.c): it hangs on PyThreadState.dict (on
 * 3.13 and later also on threading_local_key), which is exchanged.
 *
 * The native threads that are there stay native.  Where C code ends a wait for one without
 * calling anything that could be patched, the wait is made in a pool thread.
 */
#include "evergreen.h"

#include <unistd.h>

#if PY_VERSION_HEX >= 0x030d0000
#define HANDLES 1 /* threads have a _ThreadHandle */
#else
#define HANDLES 0 /* threads have a lock that C releases when they end */
#endif

/* ---- thread-local data ----------------------------------------------------------- */
/* What the thread state has goes out, and what was kept comes in. */
static inline void
thread_pass(PyObject **out, PyObject **state, PyObject **in)
{
    *out = *state;
    *state = *in;
    *in = NULL;
}

static void
thread_exchange_local(PyThreadState *state, EgKept *out, EgKept *in)
{
    thread_pass(&out->dict, &state->dict, &in->dict);
#if HANDLES
    thread_pass(&out->key, &state->threading_local_key, &in->key);
    thread_pass(&out->sentinel, &state->threading_local_sentinel, &in->sentinel);
#endif
}

/* As an EgExchange. */
static void
thread_exchange(EgHub *hub, EgTask *from, EgTask *to)
{
    thread_exchange_local(hub->state, eg_follow_kept(hub, from), eg_follow_kept(hub, to));
    eg_trace_exchange(hub, from, to);
}

/* Drop the task's thread-local data; finalisers run in the task, which has none meanwhile. */
static void
thread_drop_local(EgTask *me)
{
    EgKept none = {0};
    if (eg_follow_on(EG_FOLLOW_THREAD) && me->hub->resident == me)
        thread_exchange_local(me->hub->state, &me->kept, &none);
    if (me->kept.dict) {
        Py_CLEAR(me->kept.dict);
        if (eg_follow_on(EG_FOLLOW_ASYNCIO))
            eg_asyncio_refresh();
    }
    Py_CLEAR(me->kept.key);
    Py_CLEAR(me->kept.sentinel);
}

void
eg_thread_end(EgTask *me)
{
    thread_drop_local(me);
    thread_drop_local(me); /* and what finalisers have put there */
    eg_trace_end(me);
    eg_follow_end(me);
    if (me->identified) {
        PyObject *ident = PyLong_FromUnsignedLong((unsigned long)(uintptr_t)me);
        PyObject *result = ident ? eg_policy_call("forget_thread", &ident, 1) : NULL;
        if (!result)
            PyErr_WriteUnraisable((PyObject *)me);
        Py_XDECREF(result);
        Py_XDECREF(ident);
        me->identified = false;
    }
    if (me->tstate_lock) {
        PyObject *lock = me->tstate_lock; /* ours now */
        me->tstate_lock = NULL;
        PyObject *result = eg_patch_lock_release(lock); /* takes no memory: a join waits for it */
        if (!result)
            PyErr_Clear(); /* its Thread has released it: the interpreter is ending */
        Py_XDECREF(result);
        Py_DECREF(lock);
    }
}

/* thread_follow(on): patched threads begin or end, in every hub; what the thread states have is
 * the main tasks', whoever patches */
PyObject *
eg_thread_follow(PyObject *module, PyObject *on)
{
    (void)module;
    int follows = PyObject_IsTrue(on);
    if (follows < 0)
        return NULL;
    if (eg_follow_on(EG_FOLLOW_THREAD) == (bool)follows)
        Py_RETURN_NONE;
    if (eg_hub_here && !eg_hub_task(eg_hub_here) && PyErr_Occurred())
        return NULL;
    eg_thread_after_fork(); /* notes the process */
    if (follows)
        eg_follow_begin(EG_FOLLOW_THREAD, thread_exchange);
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub)
        if (hub->resident != hub->main) {
            EgTask *before = follows ? hub->main : hub->resident;
            thread_exchange(hub, before, follows ? hub->resident : hub->main);
        }
    if (follows)
        eg_trace_share();
    else
        eg_follow_stop(EG_FOLLOW_THREAD);
    Py_RETURN_NONE;
}

/* ---- identity ----------------------------------------------------------------------- */
EG_PATCH(thread_get_ident, "_thread", "get_ident", "thread");

/* The task that stands for the current thread; NULL: a callback runs, or there is no hub. */
static EgTask *
thread_task(void)
{
    EgTask *me = eg_hub_here ? eg_hub_task(eg_hub_here) : NULL;
    return me ? eg_task_owner(me) : NULL;
}

unsigned long
eg_thread_ident(void)
{
    EgTask *me = thread_task();
    if (!me || me->role == EG_MAIN || me->signals) /* signal handlers run in the main thread */
        return PyThread_get_thread_ident();
    me->identified = true;
    return (unsigned long)(uintptr_t)me;
}

static PyObject *
thread_get_ident(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates())
        return eg_patch_call_original(&thread_get_ident_patch, self, args, n, kwnames);
    unsigned long ident = eg_thread_ident();
    return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLong(ident);
}

EG_PATCH(thread_pthread_kill, "_signal", "pthread_kill", "thread");
EG_PATCH(thread_cpu_clock, "time", "pthread_getcpuclockid", "thread");

/* A task's ident is the address of no thread, and the C library takes it for one. Call the original
 * with that of the native thread in its place. */
static PyObject *
thread_call_native(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                   PyObject *kwnames)
{
    PyObject *native = NULL, *given[2] = {NULL, n == 2 ? args[1] : NULL};
    unsigned long ident =
        n > 0 && n <= 2 && PyLong_Check(args[0]) ? PyLong_AsUnsignedLongMask(args[0]) : 0;
    for (EgHub *hub = ident ? eg_state->hubs : NULL; hub && !native; hub = hub->next_hub)
        for (EgTask *task = hub->tasks; task && !native; task = task->next)
            if ((unsigned long)(uintptr_t)task == ident
                && !(native = PyLong_FromUnsignedLong(hub->thread)))
                return NULL;
    given[0] = native;
    PyObject *result = eg_patch_call_original(patch, self, native ? given : args, n, kwnames);
    Py_XDECREF(native);
    return result;
}

static PyObject *
thread_pthread_kill(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return thread_call_native(&thread_pthread_kill_patch, self, args, n, kwnames);
}

static PyObject *
thread_cpu_clock(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return thread_call_native(&thread_cpu_clock_patch, self, args, n, kwnames);
}

/* ---- their frames -------------------------------------------------------------------- */
EG_PATCH(thread_frames, "sys", "_current_frames", "thread");

/* The frame that a task is in; new; None: it has none. *native* is that of its hub's thread. */
static PyObject *
thread_frame(EgTask *task, PyObject *native)
{
    EgTask *current = task->hub->current, *parked = eg_park_foreign_on(task);
    if (current && current->state == EG_RUNNING && eg_task_owner(current) == task)
        return Py_NewRef(native);
    PyObject *greenlet = parked ? parked->greenlet : task->greenlet;
    if (!greenlet)
        Py_RETURN_NONE;
    PyObject *frame = PyObject_GetAttrString(greenlet, "gr_frame");
    if (frame == Py_None) /* its stack is the one that the hub sleeps on */
        Py_SETREF(frame, Py_NewRef(native));
    return frame;
}

/* Put it into frames, or take what is there for its ident out; -1: exception. */
static int
thread_note_frame(EgTask *task, PyObject *native, PyObject *frames)
{
    bool main = task->role == EG_MAIN;
    PyObject *frame = thread_frame(task, native);
    PyObject *key =
        PyLong_FromUnsignedLong(main ? task->hub->thread : (unsigned long)(uintptr_t)task);
    int status = -1;
    if (key && frame)
        status = frame == Py_None ? 0 : PyDict_SetItem(frames, key, frame);
    Py_XDECREF(frame);
    Py_XDECREF(key);
    return status;
}

/* The tasks of all hubs, main ones too; new. */
static PyObject *
thread_all(void)
{
    PyObject *list = PyList_New(0);
    for (EgHub *hub = eg_state->hubs; list && hub; hub = hub->next_hub) {
        if (PyList_Append(list, (PyObject *)hub->main) < 0)
            Py_CLEAR(list);
        for (EgTask *task = hub->tasks; list && task; task = task->next)
            if (PyList_Append(list, (PyObject *)task) < 0)
                Py_CLEAR(list);
    }
    return list;
}

static PyObject *
thread_frames(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *native = eg_patch_call_original(&thread_frames_patch, self, args, n, kwnames);
    PyObject *frames = native ? PyDict_Copy(native) : NULL;
    PyObject *tasks = frames ? thread_all() : NULL;
    int status = tasks ? 0 : -1;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(tasks); i++) {
        EgTask *task = (EgTask *)PyList_GET_ITEM(tasks, i);
        PyObject *thread = PyLong_FromUnsignedLong(task->hub->thread);
        PyObject *frame = thread ? PyDict_GetItemWithError(native, thread) : NULL; /* borrowed */
        status = thread ? thread_note_frame(task, frame ? frame : Py_None, frames) : -1;
        Py_XDECREF(thread);
    }
    Py_XDECREF(tasks);
    Py_XDECREF(native);
    if (status < 0)
        Py_CLEAR(frames);
    return frames;
}

/* ---- starting ------------------------------------------------------------------------ */
EG_PATCH(thread_start_new_thread, "_thread", "start_new_thread", "thread");
EG_PATCH(thread_start_new, "_thread", "start_new", "thread");

static Py_ssize_t thread_tasks; /* that run, as _count() counts threads */

/* What a task does in a thread's place: body = (function, args, kwargs or None). */
static PyObject *
thread_run(PyObject *body, PyObject *unused)
{
    (void)unused;
    PyObject *function = PyTuple_GET_ITEM(body, 0), *kwargs = PyTuple_GET_ITEM(body, 2);
    thread_tasks++;
    PyObject *result =
        PyObject_Call(function, PyTuple_GET_ITEM(body, 1), kwargs == Py_None ? NULL : kwargs);
    thread_tasks--;
    if (result) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(eg_state->task_exit))
        return NULL;
    if (PyErr_ExceptionMatches(PyExc_SystemExit))
        PyErr_Clear(); /* a thread ends with it, silently */
    else {
#if PY_VERSION_HEX >= 0x030d0000
        PyErr_FormatUnraisable("Exception ignored in thread started by %R", function);
#else
        _PyErr_WriteUnraisableMsg("in thread started by", function);
#endif
    }
    Py_RETURN_NONE;
}

static PyMethodDef thread_run_def = {"thread", thread_run, METH_NOARGS, NULL};

/* Whether a thread that is started here is a task. In the main thread the first one brings the
 * hub; until then there is no task, and so nothing that native calls could hold up. */
static bool
thread_becomes_task(void)
{
    return eg_hub_cooperates()
           || (PyThread_get_thread_ident() == eg_state->main_thread && !eg_exit_ended()
               && PyInterpreterState_Get() == PyInterpreterState_Main());
}

/* A new reference to the task that stands for the thread. Like one it starts in an empty context
 * (threading.Thread itself copies one where it is to inherit it). */
static EgTask *
thread_spawn(PyObject *function, PyObject *args, PyObject *kwargs)
{
    PyObject *body = PyTuple_Pack(3, function, args, kwargs ? kwargs : Py_None);
    PyObject *run = body ? PyCFunction_New(&thread_run_def, body) : NULL;
    PyObject *context = run ? PyContext_New() : NULL;
    EgHub *hub = context ? eg_hub_get() : NULL;
    EgTask *task = hub ? (EgTask *)eg_task_spawn(hub, run, NULL, NULL) : NULL;
    if (task) {
        task->is_thread = true;
        PyObject_GC_UnTrack(context); /* as eg_task_spawn() left the copy that this replaces */
        PyObject_GC_Track(task->context);
        PyObject *copy = task->context;
        task->context = context;
        context = copy;
    }
    Py_XDECREF(context);
    Py_XDECREF(run);
    Py_XDECREF(body);
    return task;
}

/* Whether who calls is a thread that is a task. */
static bool
thread_calls(void)
{
    EgTask *current = eg_hub_cooperates() ? eg_hub_here->current : NULL;
    return current && eg_task_owner(current)->is_thread;
}

bool
eg_thread_refuses(const char *function)
{
    if (!thread_calls() || eg_fork_is_news()) /* in a child, whoever forked is the main thread */
        return false;
    PyErr_Format(PyExc_ValueError, "%s only works in main thread of the main interpreter",
                 function);
    return true;
}

static PyObject *
thread_start(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
             PyObject *kwnames)
{
    if (!thread_becomes_task() || kwnames || n < 2 || n > 3 || !PyCallable_Check(args[0])
        || !PyTuple_Check(args[1]) || (n == 3 && !PyDict_Check(args[2])))
        return eg_patch_call_original(patch, self, args, n, kwnames);
    EgTask *task = thread_spawn(args[0], args[1], n == 3 ? args[2] : NULL);
    if (!task)
        return NULL;
    PyObject *ident = PyLong_FromUnsignedLong((unsigned long)(uintptr_t)task);
    Py_DECREF(task);
    return ident;
}

static PyObject *
thread_start_new_thread(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return thread_start(&thread_start_new_thread_patch, self, args, n, kwnames);
}

static PyObject *
thread_start_new(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return thread_start(&thread_start_new_patch, self, args, n, kwnames);
}

/* ---- what threads tell about themselves ----------------------------------------------------- */
EG_PATCH(thread_count, "_thread", "_count", "thread");
EG_PATCH(thread_excepthook, "_thread", "_excepthook", "thread");

/* Native threads of our own that wait for work are nobody's: programs wait for the count to fall. */
static PyObject *
thread_count(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *native = eg_patch_call_original(&thread_count_patch, self, args, n, kwnames);
    if (!native)
        return NULL;
    Py_ssize_t count = PyLong_AsSsize_t(native);
    Py_DECREF(native);
    return PyLong_FromSsize_t(count - eg_state->pool_threads + thread_tasks);
}

/* What threading.excepthook is unless somebody sets another one. A Thread gives it whatever ends
 * its run(): Ctrl-C is for the main thread, and a task that is killed is nothing to report. */
static PyObject *
thread_excepthook(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (eg_hub_cooperates() && n == 1 && PyTuple_Check(args[0]) && PyTuple_GET_SIZE(args[0]) > 1) {
        PyObject *type = PyTuple_GET_ITEM(args[0], 0), *exc = PyTuple_GET_ITEM(args[0], 1);
        if (PyErr_GivenExceptionMatches(type, eg_state->task_exit))
            Py_RETURN_NONE;
        if (PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt)
            && PyExceptionInstance_Check(exc)) {
            eg_hub_to_main(eg_hub_here, exc);
            Py_RETURN_NONE;
        }
    }
    return eg_patch_call_original(&thread_excepthook_patch, self, args, n, kwnames);
}

#if !HANDLES
/* ---- 3.11, 3.12: the lock of a thread, which C releases --------------------------------------- */
EG_PATCH(thread_set_sentinel, "_thread", "_set_sentinel", "thread");

static PyObject *thread_sentinels; /* strong: dict of address to weak reference to a lock */

static PyObject *
thread_note_sentinel(PyObject *lock)
{
    if (!thread_sentinels && !(thread_sentinels = PyDict_New()))
        return NULL;
    PyObject *key = PyLong_FromVoidPtr(lock), *ref = key ? PyWeakref_NewRef(lock, NULL) : NULL;
    int status = ref ? PyDict_SetItem(thread_sentinels, key, ref) : -1;
    Py_XDECREF(ref);
    Py_XDECREF(key);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

bool
eg_thread_is_sentinel(PyObject *lock)
{
    if (!thread_sentinels)
        return false;
    PyObject *key = PyLong_FromVoidPtr(lock);
    PyObject *ref = key ? PyDict_GetItemWithError(thread_sentinels, key) : NULL; /* borrowed */
    bool is = ref && PyWeakref_GetObject(ref) == lock;
    if (ref && !is)
        PyDict_DelItem(thread_sentinels, key);
    Py_XDECREF(key);
    PyErr_Clear();
    return is;
}

static PyObject *
thread_set_sentinel(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgTask *me = eg_hub_cooperates() ? thread_task() : NULL;
    if (!me || me->role == EG_MAIN) {
        PyObject *lock = eg_patch_call_original(&thread_set_sentinel_patch, self, args, n, kwnames);
        PyObject *noted = lock ? thread_note_sentinel(lock) : NULL;
        if (!noted)
            Py_CLEAR(lock);
        Py_XDECREF(noted);
        return lock;
    }
    PyObject *lock = PyObject_CallMethod(self, "allocate_lock", NULL);
    if (lock)
        Py_XSETREF(me->tstate_lock, Py_NewRef(lock)); /* released by eg_thread_end() */
    return lock;
}

void
eg_thread_after_fork(void)
{
}

/* note_native_thread(lock): a thread that was there before the patch */
PyObject *
eg_thread_note_native(PyObject *module, PyObject *lock)
{
    (void)module;
    return thread_note_sentinel(lock);
}

EgPatch *const eg_patch_thread[] = {&thread_start_new_thread_patch,
                                    &thread_start_new_patch,
                                    &thread_get_ident_patch,
                                    &thread_pthread_kill_patch,
                                    &thread_cpu_clock_patch,
                                    &thread_frames_patch,
                                    &thread_set_sentinel_patch,
                                    &thread_excepthook_patch,
                                    &thread_count_patch,
                                    NULL};

#else
/* ---- 3.13 and later: handles ------------------------------------------------------------------- */
EG_PATCH(thread_start_joinable, "_thread", "start_joinable_thread", "thread");
EG_PATCH(thread_handle_join, "_thread._ThreadHandle", "join", "thread");
EG_PATCH(thread_handle_is_done, "_thread._ThreadHandle", "is_done", "thread");
EG_PATCH(thread_handle_set_done, "_thread._ThreadHandle", "_set_done", "thread");
EG_PATCH(thread_shutdown, "_thread", "_shutdown", "thread");

/* A handle has no room for a task: this maps the address of one to its task, and the end of
 * the handle takes it out. */
static PyObject *thread_handles; /* strong: dict of address to Task */
static destructor thread_handle_dealloc_native;

static EgTask *
thread_of_handle(PyObject *handle)
{
    if (!thread_handles)
        return NULL;
    PyObject *key = PyLong_FromVoidPtr(handle);
    PyObject *task = key ? PyDict_GetItemWithError(thread_handles, key) : NULL; /* borrowed */
    Py_XDECREF(key);
    return (EgTask *)task;
}

static void
thread_handle_dealloc(PyObject *handle)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *key = PyLong_FromVoidPtr(handle);
    if (key && PyDict_Contains(thread_handles, key) == 1)
        PyDict_DelItem(thread_handles, key);
    Py_XDECREF(key);
    PyErr_Restore(type, value, traceback);
    thread_handle_dealloc_native(handle);
}

/* The attribute ident of a handle, for which the type has a getter. */
static getter thread_handle_ident_native;

static PyObject *
thread_handle_ident(PyObject *handle, void *closure)
{
    EgTask *task = thread_of_handle(handle);
    if (task)
        return PyLong_FromUnsignedLong((unsigned long)(uintptr_t)task);
    return PyErr_Occurred() ? NULL : thread_handle_ident_native(handle, closure);
}

static pid_t thread_process; /* the one that the tasks of all handles run in */

void
eg_thread_after_fork(void)
{
    thread_process = getpid();
}

static int
thread_bind_handle(PyObject *handle, EgTask *task)
{
    PyTypeObject *type = Py_TYPE(handle);
    PyGetSetDef *attribute = type->tp_getset;
    while (attribute && attribute->name && strcmp(attribute->name, "ident"))
        attribute++;
    if (attribute && attribute->name && attribute->get != thread_handle_ident) {
        thread_handle_ident_native = attribute->get;
        attribute->get = thread_handle_ident;
    }
    if (!thread_handles && !(thread_handles = PyDict_New()))
        return -1;
    if (!thread_process) /* of evergreen.lib.threading, and nothing is patched */
        eg_thread_after_fork();
    if (type->tp_dealloc != thread_handle_dealloc) {
        thread_handle_dealloc_native = type->tp_dealloc;
        type->tp_dealloc = thread_handle_dealloc;
    }
    PyObject *key = PyLong_FromVoidPtr(handle);
    int status = key ? PyDict_SetItem(thread_handles, key, (PyObject *)task) : -1;
    Py_XDECREF(key);
    return status;
}

/* start_joinable_thread(function, handle=None, daemon=True) */
static PyObject *
thread_start_joinable(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    PyObject *given[3] = {NULL, Py_None, Py_True};
    static const char *const names[] = {"function", "handle", "daemon"};
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    bool usual = thread_becomes_task() && n <= 3;
    for (Py_ssize_t i = 0; usual && i < n; i++)
        given[i] = args[i];
    for (Py_ssize_t i = 0; usual && i < nkw; i++) {
        int k = 0;
        while (k < 3
               && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), names[k]) != 0)
            k++;
        usual = k < 3 && k >= n;
        if (usual)
            given[k] = args[n + i];
    }
    PyTypeObject *handle_type = thread_handle_join_patch.type;
    if (!usual || !given[0] || !PyCallable_Check(given[0]) || !handle_type
        || (given[1] != Py_None && !Py_IS_TYPE(given[1], handle_type)))
        return eg_patch_call_original(&thread_start_joinable_patch, self, args, n, kwnames);
    if (given[1] != Py_None && thread_of_handle(given[1])) {
        PyErr_SetString(PyExc_RuntimeError, "thread already started");
        return NULL;
    }
    int daemon = PyObject_IsTrue(given[2]);
    if (daemon < 0)
        return NULL;
    PyObject *handle =
        given[1] != Py_None ? Py_NewRef(given[1]) : PyObject_CallNoArgs((PyObject *)handle_type);
    EgTask *task = handle ? thread_spawn(given[0], eg_state->empty_tuple, NULL) : NULL;
    if (!task || thread_bind_handle(handle, task) < 0)
        Py_CLEAR(handle);
    else
        task->keeps_process = !daemon;
    Py_XDECREF(task);
    return handle;
}

static PyObject *
thread_handle_join(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgTask *task = thread_of_handle(self);
    if (!task) {
        if (PyErr_Occurred())
            return NULL;
        if (!eg_hub_cooperates())
            return eg_patch_call_original(&thread_handle_join_patch, self, args, n, kwnames);
        return eg_patch_offload("offload", &thread_handle_join_patch, self, args, n, kwnames);
    }
    PyObject *timeout = n ? args[0] : NULL, *join = NULL;
    double seconds = -1;
    if (thread_task() == task) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot join current thread");
        return NULL;
    }
    if (timeout && timeout != Py_None && eg_clock_seconds(timeout, &seconds) < 0)
        return NULL;
    if (timeout && timeout != Py_None && seconds >= 0)
        join = PyObject_CallMethod((PyObject *)task, "join", "d", seconds);
    else
        join = PyObject_CallMethod((PyObject *)task, "join", NULL);
    if (!join)
        return NULL;
    Py_DECREF(join);
    Py_RETURN_NONE;
}

static PyObject *
thread_handle_is_done(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (eg_patch_poll() < 0)
        return NULL;
    EgTask *task = thread_of_handle(self);
    if (task) {
        /* threading asks in a forked child, before the tasks that are not there are dropped. */
        bool elsewhere = thread_process != getpid() && eg_hub_here && thread_task() != task;
        return PyBool_FromLong(task->state == EG_ENDED || elsewhere);
    }
    if (PyErr_Occurred())
        return NULL;
    return eg_patch_call_original(&thread_handle_is_done_patch, self, args, n, kwnames);
}

static PyObject *
thread_handle_set_done(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (thread_of_handle(self))
        Py_RETURN_NONE;
    if (PyErr_Occurred())
        return NULL;
    return eg_patch_call_original(&thread_handle_set_done_patch, self, args, n, kwnames);
}

/* What the interpreter calls at its end: wait for the threads that are no daemons. */
static PyObject *
thread_shutdown(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgHub *hub = eg_hub_here;
    EgTask *task = hub ? hub->tasks : NULL;
    while (task) {
        if (!task->keeps_process) {
            task = task->next;
            continue;
        }
        task->keeps_process = false;
        PyObject *join = PyObject_CallMethod((PyObject *)task, "join", NULL);
        if (!join)
            return NULL;
        Py_DECREF(join);
        task = hub->tasks; /* others may have come and gone */
    }
    return eg_patch_call_original(&thread_shutdown_patch, self, args, n, kwnames);
}

bool
eg_thread_is_sentinel(PyObject *lock)
{
    (void)lock;
    return false; /* no lock is released by C */
}

PyObject *
eg_thread_note_native(PyObject *module, PyObject *lock)
{
    (void)module;
    (void)lock;
    Py_RETURN_NONE;
}

EG_PATCH(thread_main_ident, "_thread", "_get_main_thread_ident", "thread");

/* In a forked child, threading makes the task that called fork() its main thread. */
static PyObject *
thread_main_ident(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates() || !thread_process || thread_process == getpid())
        return eg_patch_call_original(&thread_main_ident_patch, self, args, n, kwnames);
    return PyLong_FromUnsignedLong(eg_thread_ident());
}

EG_PATCH(thread_set_name, "_thread", "set_name", "thread");

/* The native thread is not that task's to name. */
static PyObject *
thread_set_name(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (n == 1 && !kwnames && PyUnicode_Check(args[0]) && thread_calls())
        Py_RETURN_NONE;
    return eg_patch_call_original(&thread_set_name_patch, self, args, n, kwnames);
}

EgPatch *const eg_patch_thread[] = {&thread_start_new_thread_patch, &thread_start_new_patch,
                                    &thread_get_ident_patch,        &thread_pthread_kill_patch,
                                    &thread_cpu_clock_patch,        &thread_frames_patch,
                                    &thread_main_ident_patch,       &thread_start_joinable_patch,
                                    &thread_handle_join_patch,      &thread_handle_is_done_patch,
                                    &thread_handle_set_done_patch,  &thread_shutdown_patch,
                                    &thread_excepthook_patch,       &thread_count_patch,
                                    &thread_set_name_patch,         NULL};
#endif
