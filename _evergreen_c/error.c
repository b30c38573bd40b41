/* error.c: the one place where a libuv status becomes an exception. */
#include "evergreen.h"

#include <errno.h>

PyObject *
eg_error_raise(int status)
{
    if (status == UV_ENOMEM)
        return PyErr_NoMemory();
    if (status <= UV_EAI_ADDRFAMILY) { /* libuv's own: EAI_*, UV_CHARSET, UV_UNKNOWN, UV_EOF */
        PyObject *args = Py_BuildValue("(is)", status, uv_strerror(status));
        if (args)
            PyErr_SetObject(PyExc_OSError, args);
        Py_XDECREF(args);
        return NULL;
    }
    errno = -status; /* on Unix a libuv status is a negated errno */
    return PyErr_SetFromErrno(PyExc_OSError);
}

#define ENTRY(name, text) Py_BuildValue("(sis)", #name, UV_##name, text),

PyObject *
eg_error_list(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *entries[] = {UV_ERRNO_MAP(ENTRY)};
    PyObject *list = PyList_New(0);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        if (!list || !entries[i] || PyList_Append(list, entries[i]) < 0)
            Py_CLEAR(list);
        Py_XDECREF(entries[i]);
    }
    return list;
}
