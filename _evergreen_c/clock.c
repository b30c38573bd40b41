/* clock.c: seconds, deadlines, and the monotonic clock they are measured on.
 *
 * A deadline is an absolute number of nanoseconds; EG_FOREVER is none.  Python gives
 * seconds, as int, float or anything with __float__ or __index__; None means for ever.
 *
 * A deadline that is far off is rounded up to a whole millisecond, so that many share a timer's
 * bucket, and a poll whose timeout is in milliseconds; one that is near is left as it is.
 */
#include "evergreen.h"

#include <math.h>

uint64_t
eg_clock_now(void)
{
    return uv_hrtime();
}

int
eg_clock_seconds(PyObject *seconds, double *result)
{
    int overflow = -1;
    long whole = PyLong_CheckExact(seconds) ? PyLong_AsLongAndOverflow(seconds, &overflow) : 0;
    if (!overflow) { /* sleep(0), most of all: no float is made */
        *result = (double)whole;
        return 0;
    }
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(value)) {
        PyErr_SetString(PyExc_ValueError, "a time in seconds must not be NaN");
        return -1;
    }
    *result = value;
    return 0;
}

/* The deadline, which is so many ns off. */
static uint64_t
clock_round(uint64_t deadline, uint64_t ns)
{
    if (ns >= 4000000) /* constants, so that the compiler need not divide */
        return (deadline + 999999) / 1000000 * 1000000;
    return ns < 1000000 ? deadline : (deadline + 124999) / 125000 * 125000;
}

uint64_t
eg_clock_in(uint64_t ns)
{
    uint64_t now = eg_clock_now();
    return ns < INT64_MAX - now ? clock_round(now + ns, ns) : EG_FOREVER;
}

uint64_t
eg_clock_settle(uint64_t deadline)
{
    uint64_t now = eg_clock_now();
    return deadline == EG_FOREVER || deadline <= now ? deadline
                                                     : clock_round(deadline, deadline - now);
}

uint64_t
eg_clock_after(double seconds)
{
    if (seconds <= 0)
        return eg_clock_now();
    if (seconds >= 9e9) /* 285 years: what int64 nanoseconds hold */
        return EG_FOREVER;
    return eg_clock_in((uint64_t)ceil(seconds * 1e9));
}

int
eg_clock_deadline(PyObject *timeout, uint64_t *ns)
{
    double seconds;
    *ns = EG_FOREVER;
    if (!timeout || timeout == Py_None)
        return 0;
    if (eg_clock_seconds(timeout, &seconds) < 0)
        return -1;
    *ns = eg_clock_after(seconds);
    return 0;
}
