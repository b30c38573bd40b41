/* native.c: C code that blocks in libc parks its task (evergreen run --native).
 *
 * native/preload.c, if it was preloaded, finds the calls; here the task parks.  What calls may be
 * deep in a C extension, with the GIL or without it, with an exception set or none, and does not
 * know that it can be interrupted.  So each wait is between native_enter(), which takes the GIL
 * if it was given away, and native_leave(), which leaves everything as it was.
 *
 * An exception thrown at a task cannot be raised in there.  The call fails with EINTR, as if a
 * signal had come.  Many libraries then call again; that one fails with ECANCELED, and whatever
 * waits after that waits: a library that never gives up must not spin.  The exception stays with
 * the task, and is raised at its next wait, or when the task or a scope ends by an error that
 * came of this.
 */
#include "evergreen.h"

#include "native/preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#define REFUSALS 2 /* calls that fail for one exception */

static const EgWaitKind native_kinds[] = {
#define KIND(name) {"native " #name, NULL},
    EG_NATIVE_CALLS(KIND)
#undef KIND
};

static unsigned long native_parks[EG_NATIVE_COUNT]; /* with the GIL */
static EgNativeRegister native_enrol;               /* NULL: no preload */
static bool native_active;
static pid_t native_process; /* whose hubs these are: a child of vfork() shares this memory */

/* ---- to and from foreign code --------------------------------------------------------- */
typedef struct {
    EgTask *me;
    PyThreadState *released;            /* whoever called had given the GIL away; NULL: it had it */
    PyObject *type, *value, *traceback; /* the exception that was set */
    PyObject *pending; /* strong: it was thrown before, and has been told; NULL: nothing */
} EgNativeVisit;

static bool
native_cooperates(void)
{
    EgHub *hub = eg_hub_here;
    return hub && hub->current && hub->current->state == EG_RUNNING && !hub->forbidden
           && !hub->destroyed;
}

static bool
native_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Whose GIL it is: this thread's state while it has it. */
static PyThreadState *
native_current(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

static void
native_leave(EgNativeVisit *visit)
{
    if (visit->pending) {
        eg_wait_interrupt(visit->me, visit->pending); /* at its next wait, again */
        Py_DECREF(visit->pending);
    }
    PyErr_Restore(visit->type, visit->value, visit->traceback);
    if (visit->released)
        PyEval_SaveThread();
}

/* Whether this call is to fail because of what is thrown at the task. */
static bool
native_refuses(EgTask *me)
{
    if (me->refused_for != me->thrown) {
        me->refused_for = me->thrown;
        me->refused = 0;
    }
    if (!me->thrown || me->refused >= REFUSALS)
        return false;
    errno = me->refused++ ? ECANCELED : EINTR;
    return true;
}

/* AGAIN: the task may park, and native_leave() follows. Else nothing is left to do. */
static EgNativeOutcome
native_enter(EgNativeVisit *visit, bool may_fail)
{
    PyThreadState *here = PyGILState_GetThisThreadState();
    /* With subinterpreters one cannot tell here who has the GIL. */
    if (!here || native_finalizing() || getpid() != native_process
        || PyInterpreterState_Next(PyInterpreterState_Head()))
        return EG_NATIVE_PASS;
    memset(visit, 0, sizeof *visit);
    PyThreadState *current = native_current();
#if PY_VERSION_HEX >= 0x030C0000
    if (current && current != here) /* another state of this thread, made by C code */
        return EG_NATIVE_PASS;
#endif
    if (current != here)
        PyEval_RestoreThread(visit->released = here);
    PyErr_Fetch(&visit->type, &visit->value, &visit->traceback);
    EgNativeOutcome outcome = EG_NATIVE_PASS;
    EgTask *me = native_cooperates() ? eg_hub_task(eg_hub_here) : NULL;
    if (!me)
        PyErr_Clear(); /* out of memory, most likely: it blocks, then */
    else if (me->state == EG_RUNNING) {
        visit->me = me;
        outcome = !may_fail && me->thrown          ? EG_NATIVE_PASS
                  : may_fail && native_refuses(me) ? EG_NATIVE_REFUSED
                                                   : EG_NATIVE_AGAIN;
    }
    if (outcome == EG_NATIVE_AGAIN) {
        visit->pending = me->thrown; /* ours now */
        me->thrown = NULL;
    } else {
        int error = errno;
        native_leave(visit);
        errno = error;
    }
    return outcome;
}

/* The wait has raised an exception: what that means for the call. */
static EgNativeOutcome
native_raised(EgNativeVisit *visit, bool parked)
{
    EgTask *me = visit->me;
    PyObject *exc = eg_task_take_exception(); /* ours */
    bool closed = PyErr_GivenExceptionMatches(exc, PyExc_OSError);
    EgNativeOutcome outcome = closed ? EG_NATIVE_AGAIN : EG_NATIVE_PASS;
    if (me->wait.outcome == EG_THROWN || (parked && !closed)) {
        if (visit->pending) {
            eg_wait_interrupt(me, visit->pending); /* the first of the two */
            Py_CLEAR(visit->pending);
        }
        eg_wait_interrupt(me, exc);
        me->refused_for = NULL;
        outcome = native_refuses(me) ? EG_NATIVE_REFUSED : EG_NATIVE_AGAIN;
    } else if (!parked) /* it cannot be waited for: no memory, no descriptors */
        outcome = EG_NATIVE_PASS;
    Py_DECREF(exc);
    return outcome;
}

/* ---- what preload.c calls ----------------------------------------------------------------- */
static EgNativeOutcome
native_wait(EgNativeCall call, const struct pollfd *fds, nfds_t n, uint64_t deadline)
{
    EgNativeVisit visit;
    struct pollfd *real = NULL; /* those that count: a negative one is to be passed over */
    nfds_t nreal = 0;
    EgNativeOutcome outcome = native_enter(&visit, true);
    if (outcome != EG_NATIVE_AGAIN)
        return outcome;
    for (nfds_t i = 0; i < n; i++)
        nreal += fds[i].fd >= 0;
    if (nreal < n) {
        real = PyMem_New(struct pollfd, nreal + 1);
        nfds_t k = 0;
        for (nfds_t i = 0; real && i < n; i++)
            if (fds[i].fd >= 0)
                real[k++] = fds[i];
        fds = real;
    }
    int error = 0;
    if (nreal < n && !real)
        outcome = EG_NATIVE_PASS;
    else {
        native_parks[call]++;
        visit.me->wait.kind = NULL;
        int status = eg_select_wait(&native_kinds[call], fds, nreal, eg_clock_settle(deadline));
        bool parked = visit.me->wait.kind == &native_kinds[call];
        outcome = status > 0    ? EG_NATIVE_AGAIN
                  : status == 0 ? EG_NATIVE_TIMED_OUT
                                : native_raised(&visit, parked);
        error = errno;
    }
    PyMem_Free(real);
    native_leave(&visit);
    errno = error;
    return outcome;
}

static void
native_yield(void)
{
    EgNativeVisit visit;
    if (native_enter(&visit, false) != EG_NATIVE_AGAIN)
        return;
    EgTask *me = eg_wait_begin();
    if (!me)
        PyErr_Clear(); /* it may not wait here, so it does not */
    else if (eg_wait_yield(me) < 0) {
        PyObject *exc = eg_task_take_exception();
        eg_wait_interrupt(visit.me, exc); /* at its next wait, which is not this */
        Py_DECREF(exc);
    }
    native_leave(&visit);
}

/* ---- jobs for native threads ------------------------------------------------------------------ */
static const char native_job_name[] = "evergreen native job";

static void
native_job_drop(PyObject *capsule)
{
    eg_native_job_leave(PyCapsule_GetPointer(capsule, native_job_name));
}

static PyObject *
native_job_run(PyObject *capsule, PyObject *unused)
{
    (void)unused;
    EgNativeJob *job = PyCapsule_GetPointer(capsule, native_job_name);
    if (!job)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    job->run(job);
    Py_END_ALLOW_THREADS
    job->done = true;
    if (job->abandoned && job->undo)
        job->undo(job);
    Py_RETURN_NONE;
}

static PyMethodDef native_job_def = {"native_job", native_job_run, METH_NOARGS, NULL};

static EgNativeOutcome
native_call(EgNativeCall call, EgNativeJob *job)
{
    EgNativeVisit visit;
    EgNativeOutcome outcome = native_enter(&visit, true);
    if (outcome != EG_NATIVE_AGAIN)
        return outcome;
    PyObject *result = NULL, *function = NULL,
             *name = PyUnicode_FromString(&native_kinds[call].name[7]);
    PyObject *capsule = PyCapsule_New(job, native_job_name, native_job_drop);
    if (capsule)
        __atomic_add_fetch(&job->shares, 1, __ATOMIC_RELAXED); /* native_job_drop()'s */
    if (name && capsule && (function = PyCFunction_New(&native_job_def, capsule))) {
        native_parks[call]++;
        visit.me->wait.outcome = EG_PENDING;
        result = eg_policy_call("native_call", (PyObject *[]){name, function}, 2);
    }
    if (!result) {
        outcome = native_raised(&visit, false);
        if (job->done && job->undo)
            job->undo(job);
        job->abandoned = true;
    }
    int error = errno;
    Py_XDECREF(result);
    Py_XDECREF(function);
    Py_XDECREF(capsule);
    Py_XDECREF(name);
    native_leave(&visit);
    errno = error;
    return outcome;
}

/* ---- for the patches ------------------------------------------------------------------------ */
bool
eg_native_sleep(const EgWaitKind *kind, uint64_t ns)
{
    EgNativeVisit visit;
    EgNativeOutcome outcome = native_enter(&visit, true);
    if (outcome != EG_NATIVE_AGAIN)
        return outcome == EG_NATIVE_REFUSED;
    if (!visit.pending) { /* else it is to give up, however often it calls */
        EgTask *me = eg_wait_begin();
        if (!me || eg_wait_park(me, kind, NULL, eg_clock_in(ns)) < 0)
            native_raised(&visit, me != NULL);
    }
    native_leave(&visit);
    return true;
}

/* ---- coming out of foreign code -------------------------------------------------------------------- */
bool
eg_native_refused(const EgTask *me)
{
    return me->thrown && me->refused && me->refused_for == me->thrown;
}

void
eg_native_meet(EgTask *me)
{
    if (!eg_native_refused(me))
        return;
    PyObject *error = eg_task_take_exception(), *exc = me->thrown; /* both ours */
    me->thrown = NULL;
    PyObject *context = PyException_GetContext(exc);
    if (!context && error != exc)
        PyException_SetContext(exc, Py_NewRef(error));
    Py_XDECREF(context);
    Py_DECREF(error);
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(exc);
}

/* ---- meeting the preloaded library ------------------------------------------------------------------- */
static EgNativeCore native_core = {
    .abi = EG_NATIVE_ABI,
    .cooperates = native_cooperates,
    .wait = native_wait,
    .yield = native_yield,
    .call = native_call,
};

void
eg_native_open(void)
{
    native_process = getpid();
    *(void **)&native_enrol = dlsym(RTLD_DEFAULT, EG_NATIVE_REGISTER);
    if (!native_enrol)
        return;
    native_core.excluded[0] = (const void *)Py_IsInitialized;
    native_core.excluded[1] = (const void *)eg_native_open;
    native_core.excluded[2] = (const void *)uv_run;
    native_active = native_enrol(&native_core) == 0;
}

void
eg_native_forked(void)
{
    native_process = getpid();
    if (native_active)
        native_enrol(&native_core);
}

PyObject *
eg_native_raise(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    EgTask *me = eg_hub_here ? eg_hub_task(eg_hub_here) : NULL;
    if (PyErr_Occurred())
        return NULL;
    if (!me || !eg_native_refused(me))
        Py_RETURN_NONE;
    PyObject *exc = me->thrown; /* ours now */
    me->thrown = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(exc);
    return NULL;
}

PyObject *
eg_native_status(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (!native_active)
        Py_RETURN_NONE;
    PyObject *counts = PyDict_New();
    for (int call = 0; counts && call < EG_NATIVE_COUNT; call++) {
        PyObject *n = PyLong_FromUnsignedLong(native_parks[call]);
        if (!n || PyDict_SetItemString(counts, &native_kinds[call].name[7], n) < 0)
            Py_CLEAR(counts);
        Py_XDECREF(n);
    }
    return counts;
}
