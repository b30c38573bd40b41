/* patch_time.c: time.sleep() lets other tasks run.
 *
 * What the original would refuse is given to the original, which refuses it in its own
 * words: so eg_patch_seconds() answers "is this a time that may be waited for" and no more.
 */
#include "evergreen.h"

#include <math.h>

static const EgWaitKind time_sleep_kind = {"sleep", NULL};

/* Whether object is a number that the standard library takes for a time, and which one, in
 * the object's own unit.  False, and no exception, is for the original to explain. */
bool
eg_patch_number(PyObject *object, double *value)
{
    PyNumberMethods *number = Py_TYPE(object)->tp_as_number;
    if (PyFloat_Check(object))
        *value = PyFloat_AS_DOUBLE(object);
    else if (PyLong_Check(object))
        *value = PyLong_AsDouble(object);
    else if (number && (number->nb_index || (PY_VERSION_HEX >= 0x030F0000 && number->nb_float)))
        *value = PyFloat_AsDouble(object);
    else
        return false;
    if (*value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return !isnan(*value);
}

/* The same for seconds that fit the standard library's 64-bit nanoseconds. */
bool
eg_patch_seconds(PyObject *object, double *seconds)
{
    return eg_patch_number(object, seconds) && fabs(*seconds * 1e9) < 9223372036854775808.0;
}

EG_PATCH(time_sleep, "time", "sleep", "time");

static PyObject *
time_sleep(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    double seconds;
    if (!eg_hub_cooperates() || n != 1 || kwnames || !eg_patch_seconds(args[0], &seconds)
        || seconds < 0)
        return eg_patch_call_original(&time_sleep_patch, self, args, n, kwnames);
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    int status = seconds == 0 ? eg_wait_yield(me)
                              : eg_wait_park(me, &time_sleep_kind, NULL, eg_clock_after(seconds));
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

EgPatch *const eg_patch_time[] = {&time_sleep_patch, NULL};
