/* trace.c: debuggers, profilers and coverage see tasks as they see threads.
 *
 * threading.settrace() and threading.setprofile() name functions for threads that start
 * later; a task that starts applies them too, unless its native thread is traced already.
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
