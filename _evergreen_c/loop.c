/* loop.c: EventLoop, the hub as Python sees it. */
#include "evergreen.h"

#include <structmember.h>

enum { RUN_DEFAULT = 1, RUN_FOREVER = 2, RUN_ONCE = 3, RUN_NOWAIT = 4 };

/* ---- ending: by hand, or with its thread ------------------------------------------------- */
/* destroy(), once it is known to be right. */
static int
loop_end(EgHub *hub)
{
    PyObject *result = eg_policy_call("before_destroy", (PyObject **)&hub, 1);
    Py_XDECREF(result);
    return result ? eg_hub_destroy(hub) : -1;
}

#define GUARD "evergreen.loop" /* in the dictionary of the thread */

/* The dictionary goes: by the end of the thread, which can still run Python code here, or, in
 * another thread, by a fork or by the end of the process. */
static void
loop_on_thread_end(PyObject *guard)
{
    PyObject *type, *value, *traceback;
    EgHub *hub = eg_hub_here;
    if (!hub || PyCapsule_GetPointer(guard, GUARD) != (void *)PyThread_get_thread_ident())
        return;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyErr_ResourceWarning((PyObject *)hub, 1, "%R was not destroyed before its thread ended",
                              hub)
        < 0)
        PyErr_WriteUnraisable((PyObject *)hub);
    if (loop_end(hub) < 0)
        PyErr_WriteUnraisable(NULL);
    PyErr_Restore(type, value, traceback);
}

/* Whoever forgets destroy() in a thread loses no descriptors. */
static int
loop_guard(void)
{
    PyObject *thread = PyThreadState_GetDict(); /* NULL, without an exception: there is none */
    if (!thread || eg_hub_here->thread == eg_state->main_thread)
        return 0;
    if (PyDict_GetItemString(thread, GUARD))
        return 0; /* of a loop before this one */
    PyObject *guard = PyCapsule_New((void *)PyThread_get_thread_ident(), GUARD, loop_on_thread_end);
    int status = guard ? PyDict_SetItemString(thread, GUARD, guard) : -1;
    if (guard && status < 0)
        PyCapsule_SetDestructor(guard, NULL); /* else it would end the loop here and now */
    Py_XDECREF(guard);
    return status;
}

/* ---- making and finding --------------------------------------------------------------- */
static PyObject *
loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":EventLoop", names))
        return NULL;
    EgHub *hub = eg_hub_new(type);
    if (hub && loop_guard() < 0)
        PyErr_Clear(); /* no memory: as if there were no such help */
    return Py_XNewRef((PyObject *)hub);
}

PyDoc_STRVAR(loop_current_doc,
"current()\n"
"--\n"
"\n"
"Return this thread's event loop; in the main thread, make it if there is none.\n"
"\n"
"Raise RuntimeError in another thread that has made none with EventLoop().");

static PyObject *
loop_current(PyObject *type, PyObject *unused)
{
    (void)type;
    (void)unused;
    return Py_XNewRef((PyObject *)eg_hub_get());
}

/* ---- callbacks -------------------------------------------------------------------------- */
static int
need_arguments(const char *name, Py_ssize_t n, Py_ssize_t least)
{
    if (n >= least)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() needs at least %zd arguments (%zd given)", name, least, n);
    return -1;
}

PyDoc_STRVAR(loop_call_soon_doc,
"call_soon($self, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) from the loop, after what is ready already.\n"
"\n"
"Return its Handler. A callback may not block: it is the place to spawn a task.");

static PyObject *
loop_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (need_arguments("call_soon", n, 1) < 0)
        return NULL;
    return eg_handler_call_soon((EgHub *)op, args[0], args + 1, n - 1, kwnames);
}

PyDoc_STRVAR(loop_call_from_thread_doc,
"call_from_thread($self, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Like call_soon(), and says so: it may be called from any thread.");

PyDoc_STRVAR(loop_call_later_doc,
"call_later($self, delay, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) from the loop in delay seconds; return its Timer.\n"
"\n"
"A delay that is not positive means soon. Raise ValueError for NaN.");

static PyObject *
call_after(EgHub *hub, double seconds, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return eg_handler_call_at(hub, eg_clock_after(seconds), args[1], args + 2, n - 2, kwnames);
}

static PyObject *
loop_call_later(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    double delay;
    if (need_arguments("call_later", n, 2) < 0 || eg_clock_seconds(args[0], &delay) < 0)
        return NULL;
    if (delay <= 0)
        return loop_call_soon(op, args + 1, n - 1, kwnames);
    return call_after((EgHub *)op, delay, args, n, kwnames);
}

static double
loop_seconds(void)
{
    return (double)eg_clock_now() / 1e9;
}

PyDoc_STRVAR(loop_call_at_doc,
"call_at($self, when, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) when time() is at least when; return its Timer.");

static PyObject *
loop_call_at(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    double when;
    if (need_arguments("call_at", n, 2) < 0 || eg_clock_seconds(args[0], &when) < 0)
        return NULL;
    if (when <= loop_seconds())
        return loop_call_soon(op, args + 1, n - 1, kwnames);
    return call_after((EgHub *)op, when - loop_seconds(), args, n, kwnames);
}

PyDoc_STRVAR(loop_time_doc,
"time($self, /)\n"
"--\n"
"\n"
"Return the loop's clock, in seconds: monotonic, and that of time.monotonic().");

static PyObject *
loop_time(PyObject *op, PyObject *unused)
{
    (void)op;
    (void)unused;
    return PyFloat_FromDouble(loop_seconds());
}

/* ---- descriptors -------------------------------------------------------------------------- */
static PyObject *
loop_watch(PyObject *op, const char *name, int event, PyObject *const *args, Py_ssize_t n,
           PyObject *kwnames)
{
    EgHub *hub = (EgHub *)op;
    int fd;
    if (need_arguments(name, n, 2) < 0 || (fd = PyObject_AsFileDescriptor(args[0])) < 0)
        return NULL;
    PyObject *handler = eg_handler_lasting(hub, args[1], args + 2, n - 2, kwnames);
    if (handler && eg_fd_watch(hub, fd, event, handler) < 0)
        Py_CLEAR(handler);
    return handler;
}

static PyObject *
loop_unwatch(PyObject *op, int event, PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0)
        return NULL;
    return PyBool_FromLong(eg_fd_unwatch((EgHub *)op, fd, event));
}

PyDoc_STRVAR(loop_add_reader_doc,
"add_reader($self, fd, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) from the loop whenever fd can be read; return its Handler.\n"
"\n"
"Raise RuntimeError if fd has a reader, OSError if it cannot be watched.");

static PyObject *
loop_add_reader(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return loop_watch(op, "add_reader", EG_READ, args, n, kwnames);
}

PyDoc_STRVAR(loop_add_writer_doc,
"add_writer($self, fd, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) from the loop whenever fd can be written; return its Handler.\n"
"\n"
"Raise RuntimeError if fd has a writer, OSError if it cannot be watched.");

static PyObject *
loop_add_writer(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return loop_watch(op, "add_writer", EG_WRITE, args, n, kwnames);
}

PyDoc_STRVAR(loop_remove_reader_doc,
"remove_reader($self, fd, /)\n"
"--\n"
"\n"
"Stop what add_reader() started; return whether there was anything to stop.");

static PyObject *
loop_remove_reader(PyObject *op, PyObject *fd)
{
    return loop_unwatch(op, EG_READ, fd);
}

PyDoc_STRVAR(loop_remove_writer_doc,
"remove_writer($self, fd, /)\n"
"--\n"
"\n"
"Stop what add_writer() started; return whether there was anything to stop.");

static PyObject *
loop_remove_writer(PyObject *op, PyObject *fd)
{
    return loop_unwatch(op, EG_WRITE, fd);
}

/* ---- signals: policy, in Python -------------------------------------------------------------- */
PyDoc_STRVAR(loop_add_signal_handler_doc,
"add_signal_handler($self, signum, callback, /, *args, **kwargs)\n"
"--\n"
"\n"
"Call callback(*args, **kwargs) from the loop when the signal arrives; return its Handler.\n"
"\n"
"A signal may have many handlers. They do not keep the loop running. Raise ValueError\n"
"for no signal, RuntimeError for one that cannot be handled, or outside the main thread.");

static PyObject *
loop_add_signal_handler(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgHub *hub = (EgHub *)op;
    if (need_arguments("add_signal_handler", n, 2) < 0)
        return NULL;
    PyObject *handler = eg_handler_lasting(hub, args[1], args + 2, n - 2, kwnames);
    if (!handler)
        return NULL;
    PyObject *call[] = {op, args[0], handler};
    PyObject *result = eg_policy_call("add_signal_handler", call, 3);
    Py_DECREF(handler);
    return result;
}

PyDoc_STRVAR(loop_remove_signal_handler_doc,
"remove_signal_handler($self, signum, /)\n"
"--\n"
"\n"
"Take out every handler of the signal; return whether there was any.\n"
"\n"
"The Python handler that was there before is put back.");

static PyObject *
loop_remove_signal_handler(PyObject *op, PyObject *signum)
{
    PyObject *call[] = {op, signum};
    return eg_policy_call("remove_signal_handler", call, 2);
}

/* ---- running ----------------------------------------------------------------------------------- */
static const EgWaitKind loop_run_kind = {"run", NULL};

static int
loop_check_main(EgHub *hub, const char *what)
{
    if (hub->destroyed)
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
    else if (hub != eg_hub_here || eg_hub_task(hub) != hub->main)
        PyErr_Format(PyExc_RuntimeError,
                     "%s() can only be called from the main greenlet of the "
                     "loop's thread",
                     what);
    else
        return 0;
    return -1;
}

static PyObject *
loop_run_mode(EgHub *hub, long mode)
{
    if (loop_check_main(hub, "run") < 0)
        return NULL;
    int status = 0;
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    hub->running = true;
    hub->ended = false;
    if (mode == RUN_DEFAULT || mode == RUN_FOREVER) {
        hub->forever = mode == RUN_FOREVER;
        eg_wait_join(me, &hub->runner);
        status = eg_wait_park(me, &loop_run_kind, NULL, EG_FOREVER);
        hub->forever = false;
        hub->ended = status >= 0;
    } else {
        bool waits = mode == RUN_ONCE;
        do /* again if it was woken for nothing */
            eg_hub_poll(hub, waits && eg_hub_busy(hub));
        while (waits && !eg_hub_ready(hub) && eg_hub_busy(hub));
        eg_ring_append(&hub->ready, &hub->due); /* all that is ready runs before this returns */
        status = eg_wait_yield(me);
    }
    hub->running = false;
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(loop_run_doc,
"run($self, /, mode=1)\n"
"--\n"
"\n"
"Run tasks and callbacks, from the main greenlet.\n"
"\n"
"RUN_DEFAULT returns when nothing is left that could run, RUN_FOREVER after stop().\n"
"RUN_ONCE waits for one thing to happen, RUN_NOWAIT for nothing; both run what is ready\n"
"and return. Raise RuntimeError elsewhere, Deadlock if tasks are left that nothing can\n"
"wake.");

static PyObject *
loop_run(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mode", NULL};
    long mode = RUN_DEFAULT;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|l:run", names, &mode))
        return NULL;
    if (mode < RUN_DEFAULT || mode > RUN_NOWAIT)
        return PyErr_Format(PyExc_ValueError, "no run mode: %ld", mode);
    return loop_run_mode((EgHub *)op, mode);
}

PyDoc_STRVAR(loop_run_forever_doc,
"run_forever($self, /)\n"
"--\n"
"\n"
"Run tasks and callbacks until stop(), also while there are none.");

static PyObject *
loop_run_forever(PyObject *op, PyObject *unused)
{
    (void)unused;
    return loop_run_mode((EgHub *)op, RUN_FOREVER);
}

PyDoc_STRVAR(loop_stop_doc,
"stop($self, /)\n"
"--\n"
"\n"
"Have run() return; what was not done stays to be done.\n"
"\n"
"Raise RuntimeError if the loop is not in run(). From another thread, use\n"
"call_from_thread(loop.stop).");

static PyObject *
loop_stop(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (!hub->running) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop has not been started yet");
        return NULL;
    }
    eg_queue_wake(&hub->runner, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(loop_switch_doc,
"switch($self, /)\n"
"--\n"
"\n"
"Park the current task until a callback calls its switch(value); return value.\n"
"\n"
"In the main greenlet it is run().");

static PyObject *
loop_switch(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (hub == eg_hub_here && eg_hub_task(hub) == hub->main)
        return loop_run_mode(hub, RUN_DEFAULT);
    if (PyErr_Occurred())
        return NULL;
    return eg_task_switch_away();
}

PyDoc_STRVAR(loop_destroy_doc,
"destroy($self, /)\n"
"--\n"
"\n"
"End the loop: its tasks see TaskExit, its callbacks are dropped, its handles closed.\n"
"\n"
"Raise RuntimeError while it runs, the second time, and from another thread. A loop that\n"
"is left when its thread ends is destroyed then, with a ResourceWarning.");

static PyObject *
loop_destroy(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (hub->destroyed)
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed already");
    else if (hub != eg_hub_here)
        PyErr_SetString(PyExc_RuntimeError, "destroy() can only be called from the thread that "
                                            "made the event loop");
    else if (eg_hub_task(hub) != hub->main) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError,
                            "destroy() cannot be called while the event loop is running");
    } else if (loop_end(hub) == 0)
        Py_RETURN_NONE;
    return NULL;
}

/* ---- looking in ------------------------------------------------------------------------------------ */
PyDoc_STRVAR(loop_fileno_doc,
"fileno($self, /)\n"
"--\n"
"\n"
"Return the descriptor that becomes readable when libuv has something to do.\n"
"\n"
"To embed the loop in another: watch it, and call run(RUN_NOWAIT) then, or after\n"
"get_timeout() seconds.");

static PyObject *
loop_fileno(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (hub->destroyed) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
        return NULL;
    }
    if (eg_fd_embed(hub) < 0)
        return NULL;
    hub->embedded = true;
    eg_hub_poll(hub, false); /* so that libuv watches what ends its sleep */
    uv_loop_t *uv = eg_port_uv(hub);
    return uv ? PyLong_FromLong(uv_backend_fd(uv)) : NULL;
}

PyDoc_STRVAR(loop_get_timeout_doc,
"get_timeout($self, /)\n"
"--\n"
"\n"
"Return in how many seconds the loop has something to do; 0 for now, None for never,\n"
"as far as can be known.");

static PyObject *
loop_get_timeout(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (hub->destroyed) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
        return NULL;
    }
    if (eg_hub_ready(hub) || hub->inbox.first)
        return PyFloat_FromDouble(0);
    uint64_t next = eg_timers_next(&hub->timers), now = eg_clock_now();
    if (next == EG_FOREVER)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(next > now ? (double)(next - now) / 1e9 : 0);
}

PyDoc_STRVAR(loop_tasks_doc,
"tasks($self, /)\n"
"--\n"
"\n"
"Return a list of the tasks that were started and have not ended.");

static PyObject *
loop_tasks(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (EgTask *task = hub->tasks; list && task; task = task->next)
        if (PyList_Append(list, (PyObject *)task) < 0)
            Py_CLEAR(list);
    if (list && PyList_Reverse(list) < 0)
        Py_CLEAR(list);
    return list;
}

PyDoc_STRVAR(loop_stats_doc,
"stats($self, /)\n"
"--\n"
"\n"
"Return a dict of counters: switches, polls, greenlets started and idle, tasks, timers and\n"
"the milliseconds they share, descriptors waited for, pins, requests in\n"
"native threads, open streams, whether anything is ready, whether tasks have small frame\n"
"chunks on this Python, and the memory that is in use for those and kept for later.");

static PyObject *
loop_stats(PyObject *op, PyObject *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:i,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:O,s:O,s:N}", "switches",
        (unsigned long long)hub->switches, "polls", (unsigned long long)hub->polls,
        "greenlets_started", (unsigned long long)hub->started, "greenlets_idle", hub->nidle,
        "tasks", hub->ntasks, "timers", (Py_ssize_t)hub->timers.armed, "timer_buckets",
        (Py_ssize_t)hub->timers.nheap, "descriptors", eg_fd_active(hub), "pins", hub->pins,
        "requests", eg_work_pending(hub), "streams", eg_wires_open(hub), "ready",
        eg_hub_ready(hub) || hub->inbox.first ? Py_True : Py_False, "small_chunks_on",
        eg_stack_is_known() ? Py_True : Py_False, "memory", eg_arena_stats());
}

PyDoc_STRVAR(loop_pin_doc,
"_pin($self, by, /)\n"
"--\n"
"\n"
"Count work outside the loop that will wake one of its tasks: by is 1 or -1.");

static PyObject *
loop_pin(PyObject *op, PyObject *by)
{
    long n = PyLong_AsLong(by);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    ((EgHub *)op)->pins += n;
    eg_hub_wake((EgHub *)op);
    Py_RETURN_NONE;
}

/* ---- attributes -------------------------------------------------------------------------------------- */
static PyObject *
loop_get_running(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgHub *)op)->running);
}

static PyObject *
loop_get_destroyed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgHub *)op)->destroyed);
}

static PyObject *
loop_get_alive(PyObject *op, void *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    return PyBool_FromLong(!hub->destroyed && !hub->ended);
}

static PyObject *
loop_get_task(PyObject *op, void *unused)
{
    (void)unused;
    return eg_policy_call("hub_task", &op, 1);
}

static PyObject *
loop_get_threadpool(PyObject *op, void *unused)
{
    (void)unused;
    return eg_policy_call("threadpool", &op, 1);
}

static PyObject *
loop_get_orphan(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgHub *)op)->orphan);
}

static PyObject *
loop_get_main_task(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef((PyObject *)((EgHub *)op)->main);
}

static PyObject *
loop_get_greenlet(PyObject *op, void *unused)
{
    (void)unused;
    PyObject *greenlet = ((EgHub *)op)->greenlet;
    return Py_NewRef(greenlet ? greenlet : Py_None);
}

static PyObject *
loop_get_excepthook(PyObject *op, void *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    return Py_NewRef(hub->excepthook ? hub->excepthook : Py_None);
}

static int
loop_set_excepthook(PyObject *op, PyObject *value, void *unused)
{
    EgHub *hub = (EgHub *)op;
    (void)unused;
    if (value && value != Py_None && !PyCallable_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "excepthook must be callable, or None for the default");
        return -1;
    }
    Py_XSETREF(hub->excepthook, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

/* ---- the type ------------------------------------------------------------------------------------------ */
static int
loop_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgHub *hub = (EgHub *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(hub->main);
    Py_VISIT(hub->greenlet);
    Py_VISIT(hub->excepthook);
    Py_VISIT(hub->for_main);
    Py_VISIT(hub->dict);
    int status = eg_follow_visit(&hub->kept, visit, arg);
    return status ? status : eg_fd_traverse(hub, visit, arg);
}

static int
loop_clear(PyObject *op)
{
    EgHub *hub = (EgHub *)op; /* destroyed: a living one is held by its thread */
    Py_CLEAR(hub->main);
    Py_CLEAR(hub->excepthook);
    Py_CLEAR(hub->for_main);
    eg_follow_clear(&hub->kept);
    Py_CLEAR(hub->dict);
    return 0;
}

static void
loop_dealloc(PyObject *op)
{
    EgHub *hub = (EgHub *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (hub->weakrefs)
        PyObject_ClearWeakRefs(op);
    loop_clear(op);
    Py_CLEAR(hub->greenlet);
    type->tp_free(op);
    Py_DECREF(type);
}

#define WITH_KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef loop_methods[] = {
    {"current", loop_current, METH_NOARGS | METH_CLASS, loop_current_doc},
    {"call_soon", EG_METHOD(loop_call_soon), WITH_KEYWORDS, loop_call_soon_doc},
    {"call_from_thread", EG_METHOD(loop_call_soon), WITH_KEYWORDS, loop_call_from_thread_doc},
    {"call_later", EG_METHOD(loop_call_later), WITH_KEYWORDS, loop_call_later_doc},
    {"call_at", EG_METHOD(loop_call_at), WITH_KEYWORDS, loop_call_at_doc},
    {"time", loop_time, METH_NOARGS, loop_time_doc},
    {"add_reader", EG_METHOD(loop_add_reader), WITH_KEYWORDS, loop_add_reader_doc},
    {"remove_reader", loop_remove_reader, METH_O, loop_remove_reader_doc},
    {"add_writer", EG_METHOD(loop_add_writer), WITH_KEYWORDS, loop_add_writer_doc},
    {"remove_writer", loop_remove_writer, METH_O, loop_remove_writer_doc},
    {"add_signal_handler", EG_METHOD(loop_add_signal_handler), WITH_KEYWORDS,
     loop_add_signal_handler_doc},
    {"remove_signal_handler", loop_remove_signal_handler, METH_O, loop_remove_signal_handler_doc},
    {"run", EG_METHOD(loop_run), METH_VARARGS | METH_KEYWORDS, loop_run_doc},
    {"run_forever", loop_run_forever, METH_NOARGS, loop_run_forever_doc},
    {"stop", loop_stop, METH_NOARGS, loop_stop_doc},
    {"switch", loop_switch, METH_NOARGS, loop_switch_doc},
    {"destroy", loop_destroy, METH_NOARGS, loop_destroy_doc},
    {"fileno", loop_fileno, METH_NOARGS, loop_fileno_doc},
    {"get_timeout", loop_get_timeout, METH_NOARGS, loop_get_timeout_doc},
    {"tasks", loop_tasks, METH_NOARGS, loop_tasks_doc},
    {"stats", loop_stats, METH_NOARGS, loop_stats_doc},
    {"_pin", loop_pin, METH_O, loop_pin_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_getset[] = {
    {"running", loop_get_running, NULL, PyDoc_STR("Whether it is in run()."), NULL},
    {"destroyed", loop_get_destroyed, NULL, PyDoc_STR("Whether it was destroyed."), NULL},
    {"main_task", loop_get_main_task, NULL,
     PyDoc_STR("The Task that stands for the greenlet that was there before the loop."), NULL},
    {"greenlet", loop_get_greenlet, NULL, PyDoc_STR("The hub's own greenlet."), NULL},
    {"excepthook", loop_get_excepthook, loop_set_excepthook,
     PyDoc_STR("Called with an exception that nobody observes, as sys.unraisablehook() is;\n"
               "None prints its traceback."),
     NULL},
    {"task", loop_get_task, NULL,
     PyDoc_STR("The hub itself: is_alive() says whether it can still run something."), NULL},
    {"_threadpool", loop_get_threadpool, NULL,
     PyDoc_STR("Native threads: spawn(fn, *args).get() runs a call in one."), NULL},
    {"_alive", loop_get_alive, NULL, NULL, NULL},
    {"_orphan", loop_get_orphan, NULL, NULL, NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef loop_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(EgHub, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgHub, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(loop_doc,
"EventLoop()\n"
"--\n"
"\n"
"The scheduler of one thread: it switches tasks when they block, over libuv.\n"
"\n"
"There is one per thread at most. The main thread's is made on demand, another's by\n"
"calling this in it; a second is a RuntimeError.");

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)loop_doc}, {Py_tp_new, loop_new},         {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},     {Py_tp_dealloc, loop_dealloc}, {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},   {Py_tp_members, loop_members}, {0, NULL},
};

PyType_Spec eg_loop_spec = {
    .name = "evergreen.EventLoop",
    .basicsize = sizeof(EgHub),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};
