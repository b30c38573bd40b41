/* error.c: the one place where a libuv status becomes an exception. */
#include "evergreen.h"

#include <errno.h>

PyObject *
eg_error_raise(int status)
{
    if (status == UV_ENOMEM)
        return PyErr_NoMemory();
    if (status == UV_ECANCELED || UV_ERRNO_MAX + 1 > status || -status > 4096) {
        /* libuv's own, without an errno: EAI_*, UV_EOF, UV_UNKNOWN, ... */
        PyObject *args = Py_BuildValue("(is)", status, uv_strerror(status));
        if (args)
            PyErr_SetObject(PyExc_OSError, args);
        Py_XDECREF(args);
        return NULL;
    }
    errno = -status; /* on Unix a libuv status is a negated errno */
    return PyErr_SetFromErrno(PyExc_OSError);
}
