/* patch_asyncio.c: each task may run an event loop of asyncio, beside the others.
 *
 * asyncio keeps the running loop (from 3.14 also the running task) by thread, and CPython the
 * hooks of asynchronous generators likewise.  Here they belong to the task that set them
 * (follow.c): when another one goes on they are exchanged, once any loop has run at all.
 *
 * That the loop waits without blocking the thread is patch_select.c's business; one that does not
 * wait at all is told to take turns (evergreen/_asyncio.py).
 */
#include "evergreen.h"

EG_PATCH(asyncio_set_running_loop, "_asyncio", "_set_running_loop", "asyncio");

/* _asyncio, with the state that 3.12 has there; strong once used */
static PyObject *asyncio_module;
static unsigned asyncio_age = 1; /* counts when loops began, or ceased, to tell what runs */

/* Tell asyncio; harmless where nothing changes. */
static void
asyncio_set_loop(PyObject *loop)
{
    PyObject *given = loop ? loop : Py_None;
    PyObject *done =
        eg_patch_call_original(&asyncio_set_running_loop_patch, asyncio_module, &given, 1, NULL);
    if (!done)
        PyErr_WriteUnraisable(loop);
    Py_XDECREF(done);
}

/* The dictionary of a thread is gone. Before 3.14, asyncio keeps a borrowed pointer to what it found in
 * the last one it looked at: give it another. */
void
eg_asyncio_refresh(void)
{
#if PY_VERSION_HEX < 0x030e0000
    EgHub *hub = eg_hub_here;
    if (!hub || !asyncio_module)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    asyncio_set_loop(eg_follow_kept(hub, hub->resident)->running_loop);
    PyErr_Restore(type, value, traceback);
#endif
}

/* What asyncio says now; new, NULL: none. */
static PyObject *
asyncio_get_loop(void)
{
    if (!asyncio_module)
        return NULL;
    PyObject *loop = PyObject_CallMethod(asyncio_module, "_get_running_loop", NULL);
    if (!loop)
        PyErr_WriteUnraisable(asyncio_module);
    if (loop == Py_None)
        Py_CLEAR(loop);
    return loop;
}

#if PY_VERSION_HEX >= 0x030e0000
/* Make *task* (NULL: none) the running one of the running loop; return the one before. */
static PyObject *
asyncio_swap_task(PyObject *loop, PyObject *task)
{
    static PyObject *swap; /* strong, as long as the process */
    if (!swap) {
        PyObject *module = PyImport_ImportModule("_asyncio");
        swap = module ? PyObject_GetAttrString(module, "_swap_current_task") : NULL;
        Py_XDECREF(module);
    }
    PyObject *args[] = {loop, task ? task : Py_None};
    PyObject *before = swap ? PyObject_Vectorcall(swap, args, 2, NULL) : NULL;
    if (!before)
        PyErr_WriteUnraisable(loop);
    if (before == Py_None)
        Py_CLEAR(before);
    return before;
}
#endif

/* What the thread has becomes *from*'s. */
static void
asyncio_keep(EgKept *from)
{
    PyThreadState *thread = PyThreadState_Get();
    from->first_iteration = thread->async_gen_firstiter;
    from->finalizer = thread->async_gen_finalizer;
    thread->async_gen_firstiter = thread->async_gen_finalizer = NULL;
#if PY_VERSION_HEX >= 0x030e0000
    if (from->running_loop)
        from->running_task = asyncio_swap_task(from->running_loop, NULL);
#endif
}

static void
asyncio_put(EgKept *to)
{
    PyThreadState *thread = PyThreadState_Get();
    thread->async_gen_firstiter = to->first_iteration;
    thread->async_gen_finalizer = to->finalizer;
    to->first_iteration = to->finalizer = NULL;
#if PY_VERSION_HEX >= 0x030e0000
    if (to->running_loop && to->running_task) {
        PyObject *task = to->running_task; /* ours now */
        to->running_task = NULL;
        Py_XDECREF(asyncio_swap_task(to->running_loop, task));
        Py_DECREF(task);
    }
#endif
}

/* As an EgExchange. */
static void
asyncio_exchange(EgHub *hub, EgTask *leaves, EgTask *comes)
{
    EgKept *from = eg_follow_kept(hub, leaves), *to = eg_follow_kept(hub, comes);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback); /* it may go on because something was thrown into it */
    if (EG_UNLIKELY(hub->asyncio_age != asyncio_age
                    || !asyncio_set_running_loop_patch.applied)) { /* nobody told us */
        Py_XSETREF(from->running_loop, asyncio_get_loop());
        hub->asyncio_age = asyncio_age;
    }
    asyncio_keep(from);
    if (from->running_loop != to->running_loop)
        asyncio_set_loop(to->running_loop);
    asyncio_put(to);
    PyErr_Restore(type, value, traceback);
}

static void
asyncio_find(void)
{
    PyObject *name = asyncio_module ? NULL : PyUnicode_FromString("_asyncio");
    if (name)
        asyncio_module = PyImport_GetModule(name); /* NULL: it is not imported */
    Py_XDECREF(name);
    PyErr_Clear();
}

/* A loop may run since before the patch, or since before there was a hub. */
void
eg_asyncio_adopt(EgHub *hub)
{
    if (!asyncio_set_running_loop_patch.applied)
        return;
    asyncio_find();
    PyObject *loop = asyncio_get_loop();
    if (!eg_hub_task(hub))
        PyErr_Clear(); /* no memory: as if nothing ran */
    if (loop)
        eg_follow_begin(EG_FOLLOW_ASYNCIO, asyncio_exchange);
    Py_XDECREF(loop);
}

PyObject *
eg_asyncio_adopt_method(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    asyncio_age++;
    asyncio_find();
    if (eg_hub_cooperates())
        eg_asyncio_adopt(eg_hub_here);
    for (EgHub *hub = eg_state->hubs; asyncio_module && hub; hub = hub->next_hub)
        if (hub != eg_hub_here) /* its thread alone could say whether a loop runs there */
            eg_follow_begin(EG_FOLLOW_ASYNCIO, asyncio_exchange);
    Py_RETURN_NONE;
}

static PyObject *
asyncio_set_running_loop(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static bool told; /* that a loop runs; afterwards patcher does it */
    if (eg_hub_cooperates() && !eg_hub_task(eg_hub_here)) /* the data that changes is its own */
        PyErr_Clear();
    PyObject *done =
        eg_patch_call_original(&asyncio_set_running_loop_patch, self, args, n, kwnames);
    if (done && !told) {
        Py_SETREF(done, eg_policy_call("asyncio_runs", (PyObject *[]){Py_True}, 1));
        told = done != NULL;
    }
    if (!done || !eg_hub_cooperates())
        return done;
    EgHub *hub = eg_hub_here;
    if (!eg_hub_task(hub))
        PyErr_Clear(); /* no memory to know a foreign greenlet by: as the hub's */
    eg_follow_begin(EG_FOLLOW_ASYNCIO, asyncio_exchange);
    if (self != asyncio_module)
        Py_XSETREF(asyncio_module, Py_XNewRef(self));
    Py_XSETREF(eg_follow_kept(hub, hub->resident)->running_loop,
               args[0] == Py_None ? NULL : Py_NewRef(args[0]));
    return done;
}

PyObject *
eg_asyncio_turn(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (eg_hub_cooperates() && eg_os_turn() < 0)
        return NULL;
    Py_RETURN_NONE;
}

EgPatch *const eg_patch_asyncio[] = {&asyncio_set_running_loop_patch, NULL};
