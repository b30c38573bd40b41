/* module.c: the extension module evergreen._evergreen_c. */
#include "evergreen.h"

EgState *eg_state;
EG_THREAD_LOCAL Py_ssize_t eg_pool_thread;

/* ---- policy: what is decided in Python (evergreen/_policy.py) -------------------------- */
PyObject *
eg_policy_call(const char *name, PyObject *const *args, Py_ssize_t n)
{
    if (!eg_state->policy && !(eg_state->policy = PyImport_ImportModule("evergreen._policy")))
        return NULL;
    PyObject *function = PyObject_GetAttrString(eg_state->policy, name);
    PyObject *result = function ? PyObject_Vectorcall(function, args, (size_t)n, NULL) : NULL;
    Py_XDECREF(function);
    return result;
}

/* ---- functions ----------------------------------------------------------------------------- */
PyDoc_STRVAR(wait_fd_doc,
"wait_fd($module, fd, events, timeout=None, /)\n"
"--\n"
"\n"
"Wait until the descriptor is readable (events 1), writable (2) or either (3).\n"
"\n"
"Return whether it was in timeout seconds. Readiness is told once: read until EAGAIN\n"
"before waiting again. Raise OSError EBADF if it is closed meanwhile.");

static PyObject *
module_wait_fd(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *file, *timeout = Py_None;
    int events;
    uint64_t deadline;
    if (!PyArg_ParseTuple(args, "Oi|O:wait_fd", &file, &events, &timeout))
        return NULL;
    int fd = PyObject_AsFileDescriptor(file);
    if (fd < 0 || eg_clock_deadline(timeout, &deadline) < 0)
        return NULL;
    if (events < EG_READ || events > (EG_READ | EG_WRITE))
        return PyErr_Format(PyExc_ValueError, "events must be 1, 2 or 3, not %d", events);
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    int status = eg_fd_wait(me, fd, events, deadline, NULL);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

PyDoc_STRVAR(count_pool_thread_doc,
"count_pool_thread($module, by, /)\n"
"--\n"
"\n"
"Say that a native thread of Evergreen's own began (1) or ended (-1).");

static PyObject *
module_count_pool_thread(PyObject *module, PyObject *by)
{
    (void)module;
    long n = PyLong_AsLong(by);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    eg_state->pool_threads += n;
    eg_pool_thread += n;
    Py_RETURN_NONE;
}

static PyObject *
module_in_main_thread(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(PyThread_get_thread_ident() == eg_state->main_thread);
}

static PyObject *
module_unobserved(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromSsize_t(eg_state->unobserved);
}

PyDoc_STRVAR(report_doc,
"report($module, task, /)\n"
"--\n"
"\n"
"Give the exception of a task that has ended to the excepthook, unless it was observed.");

static PyObject *
module_report(PyObject *module, PyObject *task)
{
    (void)module;
    if (!PyObject_TypeCheck(task, eg_state->task_type))
        return PyErr_Format(PyExc_TypeError, "report() takes a Task, not %R", task);
    eg_task_report((EgTask *)task);
    Py_RETURN_NONE;
}

static PyObject *
module_loop_here(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_NewRef(eg_hub_here ? (PyObject *)eg_hub_here : Py_None);
}

static PyMethodDef module_methods[] = {
    {"spawn", EG_METHOD(eg_task_spawn_method), METH_FASTCALL | METH_KEYWORDS, eg_task_spawn_doc},
    {"sleep", EG_METHOD(eg_task_sleep_method), METH_FASTCALL, eg_task_sleep_doc},
    {"wait_fd", module_wait_fd, METH_VARARGS, wait_fd_doc},
    {"dns_getaddrinfo", eg_dns_getaddrinfo, METH_VARARGS,
     PyDoc_STR("dns_getaddrinfo($module, host, service, family, type, proto, flags, /)\n--\n\n"
               "Like _socket.getaddrinfo(), of bytes or None, for tasks.")},
    {"dns_getnameinfo", eg_dns_getnameinfo, METH_VARARGS,
     PyDoc_STR("dns_getnameinfo($module, host, port, flowinfo, scope_id, n, flags, /)\n--\n\n"
               "Like _socket.getnameinfo() of a tuple of n, with bytes, for tasks.")},
    {"in_turn", eg_turn_in, METH_O,
     PyDoc_STR("in_turn($module, method, /)\n--\n\n"
               "Return a method like it that first waits for its turn, which is self._turn.")},
    {"work_limit", eg_work_limit, METH_VARARGS,
     PyDoc_STR("work_limit($module, lane, limit, /)\n--\n\n"
               "Have a lane of the core (\"file\", \"dns\") use up to so many native threads; "
               "return how\n"
               "many it might before.")},
    {"after_fork_in_child", eg_fork_after_in_child, METH_O,
     PyDoc_STR("after_fork_in_child($module, keep_tasks, /)\n--\n\n"
               "What os.register_at_fork() has the child call.")},
    {"patch_set", EG_METHOD(eg_patch_set), METH_FASTCALL,
     PyDoc_STR("patch_set($module, owner, name, on, /)\n--\n\n"
               "Swap one function in or out; return whether ours stands there now.")},
    {"patch_list", eg_patch_list, METH_NOARGS,
     PyDoc_STR("patch_list($module, /)\n--\n\n"
               "Return [(group, owner, name, applied)] of all replacements.")},
    {"patch_native", EG_METHOD(eg_patch_native), METH_FASTCALL,
     PyDoc_STR("patch_native($module, owner, name, /)\n--\n\n"
               "Return the function itself, which is never swapped; None: there is none.")},
    {"patch_ours", EG_METHOD(eg_patch_ours), METH_FASTCALL,
     PyDoc_STR("patch_ours($module, owner, name, /)\n--\n\n"
               "Return a function that cooperates whatever is patched; None: there is none.")},
    {"patch_poll", eg_patch_poll_method, METH_NOARGS,
     PyDoc_STR("patch_poll($module, /)\n--\n\n"
               "Let others run, if the task has asked for long without waiting; return False.")},
    {"thread_follow", eg_thread_follow, METH_O,
     PyDoc_STR("thread_follow($module, on, /)\n--\n\n"
               "Have thread-local data follow tasks from now on, or not.")},
    {"file_follow", eg_file_follow, METH_NOARGS,
     PyDoc_STR("file_follow($module, /)\n--\n\n"
               "Have io.FileIO() ask from now on whether opening files is patched.")},
    {"note_native_thread", eg_thread_note_native, METH_O,
     PyDoc_STR("note_native_thread($module, lock, /)\n--\n\n"
               "Say that C code releases this lock, when a native thread ends.")},
    {"semaphore_wait", eg_semaphore_wait, METH_VARARGS,
     PyDoc_STR("semaphore_wait($module, handle, seconds, /)\n--\n\n"
               "Wait natively for the sem_t at an address; return whether it was taken in time.")},
    {"semaphore_post", eg_semaphore_post, METH_O,
     PyDoc_STR("semaphore_post($module, handle, /)\n--\n\n"
               "Give a unit back to the sem_t at an address.")},
    {"asyncio_turn", eg_asyncio_turn, METH_NOARGS,
     PyDoc_STR("asyncio_turn($module, /)\n--\n\n"
               "Let other tasks run, if it is their time.")},
    {"asyncio_adopt", eg_asyncio_adopt_method, METH_NOARGS,
     PyDoc_STR("asyncio_adopt($module, /)\n--\n\n"
               "The loop that runs already is that of the task that runs now.")},
    {"signal_mask", EG_METHOD(eg_native_thread_signal_mask), METH_FASTCALL,
     eg_native_thread_signal_mask_doc},
    {"exit_begin", eg_exit_begin, METH_NOARGS,
     PyDoc_STR("exit_begin($module, /)\n--\n\nSay that the interpreter ends: for atexit.")},
    {"exit_collect", eg_exit_collect, METH_VARARGS,
     PyDoc_STR("exit_collect($module, phase, info, /)\n--\n\nOne of gc.callbacks, at exit.")},
    {"exit_status", eg_exit_status, METH_O,
     PyDoc_STR("exit_status($module, status, /)\n--\n\n"
               "Have the process exit with this status once the interpreter has ended.")},
    {"in_main_thread", module_in_main_thread, METH_NOARGS,
     PyDoc_STR("in_main_thread($module, /)\n--\n\n"
               "Return whether this native thread is the interpreter's main one.")},
    {"count_pool_thread", module_count_pool_thread, METH_O, count_pool_thread_doc},
    {"unobserved", module_unobserved, METH_NOARGS,
     PyDoc_STR("unobserved($module, /)\n--\n\n"
               "Return how many tasks have failed without anybody knowing yet.")},
    {"report", module_report, METH_O, report_doc},
    {"loop_here", module_loop_here, METH_NOARGS,
     PyDoc_STR("loop_here($module, /)\n--\n\n"
               "Return this thread's event loop, or None; make none.")},
    {"native_raise", eg_native_raise, METH_NOARGS,
     PyDoc_STR("native_raise($module, /)\n--\n\n"
               "Raise what was thrown at the caller, if a native call failed because of it.")},
    {"native_status", eg_native_status, METH_NOARGS,
     PyDoc_STR("native_status($module, /)\n--\n\n"
               "Return {name: how often a task parked in it} of libc's calls; None: no preload.")},
    {NULL, NULL, 0, NULL},
};

/* ---- setup ------------------------------------------------------------------------------------ */
/* The types, each after its base. */
static int
add_types(PyObject *module, EgState *state)
{
    PyTypeObject *exception = (PyTypeObject *)PyExc_BaseException, *integer = &PyLong_Type;
    const struct {
        PyType_Spec *spec;
        PyTypeObject **slot; /* of the state; filled here */
        PyTypeObject **base; /* NULL: object */
    } types[] = {
        {&eg_loop_spec, &state->loop_type, NULL},
        {&eg_task_spec, &state->task_type, NULL},
        {&eg_handler_spec, &state->handler_type, NULL},
        {&eg_timer_spec, &state->timer_type, &state->handler_type},
        {&eg_watcher_spec, &state->watcher_type, &state->handler_type},
        {&eg_event_spec, &state->event_type, NULL},
        {&eg_channel_spec, &state->channel_type, NULL},
        {&eg_semaphore_spec, &state->semaphore_type, NULL},
        {&eg_bounded_semaphore_spec, &state->bounded_semaphore_type, &state->semaphore_type},
        {&eg_lock_spec, &state->lock_type, &state->semaphore_type},
        {&eg_rlock_spec, &state->rlock_type, NULL},
        {&eg_condition_spec, &state->condition_type, NULL},
        {&eg_barrier_spec, &state->barrier_type, NULL},
        {&eg_queue_spec, &state->queue_type, NULL},
        {&eg_lifo_queue_spec, &state->lifo_queue_type, &state->queue_type},
        {&eg_priority_queue_spec, &state->priority_queue_type, &state->queue_type},
        {&eg_watch_spec, &state->watch_type, NULL},
        {&eg_scope_spec, &state->scope_type, &exception},
        {&eg_timeout_spec, &state->timeout_type, &state->scope_type},
        {&eg_fail_after_spec, &state->fail_after_type, &state->scope_type},
        {&eg_move_on_after_spec, &state->move_on_after_type, &state->scope_type},
        {&eg_shield_spec, &state->shield_type, NULL},
        {&eg_group_spec, &state->group_type, NULL},
        {&eg_local_spec, &state->local_type, NULL},
        {&eg_local_entry_spec, &state->local_entry_type, NULL},
        {&eg_future_spec, &state->future_type, NULL},
        {&eg_answer_spec, &state->answer_type, &integer},
        {&eg_fs_request_spec, &state->fs_request_type, NULL},
        {&eg_stream_spec, &state->stream_type, NULL},
        {&eg_tcp_spec, &state->tcp_type, &state->stream_type},
        {&eg_pipe_spec, &state->pipe_type, &state->stream_type},
        {&eg_tty_spec, &state->tty_type, &state->stream_type},
        {&eg_udp_spec, &state->udp_type, NULL},
        {&eg_tls_spec, &state->tls_type, NULL},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *base = types[i].base ? (PyObject *)*types[i].base : NULL;
        PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, base);
        if (!type || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            return -1;
        }
        *types[i].slot = (PyTypeObject *)type;
    }
    return 0;
}

static PyObject *
add_exception(PyObject *module, const char *name, const char *doc, PyObject *base, PyObject **slot)
{
    const char *dot = strrchr(name, '.');
    *slot = PyErr_NewExceptionWithDoc(name, doc, base, NULL);
    if (*slot && PyModule_AddObjectRef(module, dot + 1, *slot) < 0)
        Py_CLEAR(*slot);
    return *slot;
}

static PyObject *
task_exit_reason(PyObject *unused, PyObject *exc)
{
    PyObject *args = PyObject_GetAttrString(exc, "args"), *reason = NULL;
    (void)unused;
    if (args && PyTuple_Check(args))
        reason = Py_NewRef(PyTuple_GET_SIZE(args) ? PyTuple_GET_ITEM(args, 0) : Py_None);
    Py_XDECREF(args);
    return reason;
}

static PyMethodDef task_exit_reason_def = {"reason", task_exit_reason, METH_O, NULL};

/* TaskExit.reason: what kill() was told, or None. */
static int
add_reason(PyObject *task_exit)
{
    PyObject *getter = PyCFunction_New(&task_exit_reason_def, NULL);
    PyObject *property = getter ? PyObject_CallOneArg((PyObject *)&PyProperty_Type, getter) : NULL;
    int status = property ? PyObject_SetAttrString(task_exit, "reason", property) : -1;
    Py_XDECREF(property);
    Py_XDECREF(getter);
    return status;
}

static int
find_broken_barrier(PyObject *module, EgState *state)
{
    PyObject *error = PyDict_GetItemString(state->threading_dict, "BrokenBarrierError");
    state->broken_barrier = Py_XNewRef(error);
    if (!error)
        PyErr_SetString(PyExc_ImportError, "threading has no BrokenBarrierError");
    return error ? PyModule_AddObjectRef(module, "BrokenBarrierError", error) : -1;
}

/* Queues raise the standard library's exceptions; ShutDown is there from Python 3.13 on. */
static int
find_queue_names(PyObject *module, EgState *state)
{
    PyObject *queue = PyImport_ImportModule("queue");
    int status = -1;
    if (!queue || !(state->queue_empty = PyObject_GetAttrString(queue, "Empty"))
        || !(state->queue_full = PyObject_GetAttrString(queue, "Full")))
        goto done;
    if (!(state->queue_shut_down = PyObject_GetAttrString(queue, "ShutDown"))) {
        PyErr_Clear();
        if (!add_exception(module, "evergreen.queue.ShutDown",
                           "Raised by put() and get() of a queue that was shut down.",
                           PyExc_Exception, &state->queue_shut_down))
            goto done;
    } else if (PyModule_AddObjectRef(module, "ShutDown", state->queue_shut_down) < 0)
        goto done;
    status = 0;
done:
    Py_XDECREF(queue);
    return status;
}

static int
add_run_modes(PyTypeObject *loop_type)
{
    static const char *const names[] = {"RUN_DEFAULT", "RUN_FOREVER", "RUN_ONCE", "RUN_NOWAIT"};
    for (int i = 0; i < 4; i++) {
        PyObject *mode = PyLong_FromLong(i + 1);
        int status = mode ? PyObject_SetAttrString((PyObject *)loop_type, names[i], mode) : -1;
        Py_XDECREF(mode);
        if (status < 0)
            return -1;
    }
    return 0;
}

/* The main thread is Python's business; threading knows it. */
static int
find_threading(EgState *state)
{
    PyObject *threading = PyImport_ImportModule("threading"), *main = NULL, *ident = NULL;
    int status = -1;
    if (!threading || !(main = PyObject_CallMethod(threading, "main_thread", NULL))
        || !(ident = PyObject_GetAttrString(main, "ident")))
        goto done;
    state->main_thread = PyLong_AsUnsignedLong(ident);
    if (state->main_thread == (unsigned long)-1 && PyErr_Occurred())
        goto done;
    state->threading_dict = PyModule_GetDict(threading);
    Py_INCREF(state->threading_dict);
    status = 0;
done:
    Py_XDECREF(ident);
    Py_XDECREF(main);
    Py_XDECREF(threading);
    return status;
}

static int
module_exec(PyObject *module)
{
    EgState *state = PyModule_GetState(module);
    if (eg_state) {
        PyErr_SetString(PyExc_ImportError, "evergreen._evergreen_c was loaded already");
        return -1;
    }
    if (eg_park_import() < 0 || find_threading(state) < 0)
        return -1;
    if (!(state->empty_tuple = PyTuple_New(0))
        || !(state->str_run = PyUnicode_InternFromString("run"))
        || !(state->str_task_key = PyUnicode_InternFromString("__evergreen_task__"))
        || !(state->str_intruder = PyUnicode_FromString(
                 "a task's greenlet is the event loop's: it cannot be switched to"))
        || !(state->str_exit = PyUnicode_InternFromString("__exit__"))
        || !(state->str_trace_hook = PyUnicode_InternFromString("_trace_hook"))
        || !(state->str_profile_hook = PyUnicode_InternFromString("_profile_hook")))
        return -1;
    if (add_types(module, state) < 0 || eg_native_thread_setup(module) < 0 || eg_port_setup() < 0
        || eg_interrupt_setup(module) < 0 || eg_exit_setup() < 0 || eg_future_setup(state) < 0
        || eg_fs_setup(module) < 0 || eg_turn_setup(module) < 0 || eg_dns_setup() < 0
        || eg_tls_setup() < 0 || PyModule_AddFunctions(module, eg_listener_functions) < 0
        || add_run_modes(state->loop_type) < 0)
        return -1;
    if (!add_exception(module, "evergreen.TaskExit",
                       "What kill() raises in a task; a task that ends with it stays silent.",
                       PyExc_BaseException, &state->task_exit)
        || !add_exception(module, "evergreen.Deadlock",
                          "Raised in the main greenlet when nothing can ever wake a task.",
                          PyExc_RuntimeError, &state->deadlock)
        || !add_exception(module, "evergreen.ChannelClosed",
                          "Raised by send() and receive() of a channel that is closed.",
                          PyExc_RuntimeError, &state->channel_closed)
        || add_reason(state->task_exit) < 0 || find_broken_barrier(module, state) < 0
        || find_queue_names(module, state) < 0)
        return -1;
    eg_arena_setup();
    state->interpreter = PyInterpreterState_Get();
    eg_state = state;
    eg_fork_setup();
    eg_native_open();
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "evergreen._evergreen_c",
    .m_doc = PyDoc_STR("Evergreen's core: event loop, tasks, waits and patches, over libuv."),
    .m_size = sizeof(EgState),
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__evergreen_c(void)
{
    return PyModuleDef_Init(&module_def);
}
