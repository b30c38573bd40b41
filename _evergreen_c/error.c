/* error.c: the one place where a libuv status becomes an exception. */
#include "evergreen.h"

#include <errno.h>
#include <string.h>

/* The errno of a status, and its text. libuv's own statuses (UV_EOF, UV_CHARSET, UV_UNKNOWN, EAI_*)
 * have no errno: they stay negative, as in evergreen.io.errno. */
static int
error_number(int status, const char **text)
{
    bool own = status <= UV_EAI_ADDRFAMILY;
    *text = own ? uv_strerror(status) : strerror(-status);
    return own ? status : -status; /* on Unix every other status is a negated errno */
}

/* Memory that Evergreen or libuv did not get: MemoryError. */
static bool
error_is_memory(int status)
{
    return status == UV_ENOMEM || status == UV_EAI_MEMORY;
}

PyObject *
eg_error_raise(int status)
{
    if (error_is_memory(status))
        return PyErr_NoMemory();
    const char *text;
    int number = error_number(status, &text);
    PyObject *args = Py_BuildValue("(is)", number, text);
    if (args)
        PyErr_SetObject(PyExc_OSError, args);
    Py_XDECREF(args);
    return NULL;
}

PyObject *
eg_error_raise_as(PyObject *self, int status, const char *text)
{
    if (error_is_memory(status))
        return PyErr_NoMemory();
    const char *own_text;
    int number = error_number(status, &own_text);
    PyObject *type = PyObject_GetAttrString(self, "error_cls");
    if (!type && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* the bare type has none */
        type = Py_NewRef(PyExc_OSError);
    }
    PyObject *exc = type ? PyObject_CallFunction(type, "is", number, text ? text : own_text) : NULL;
    if (exc)
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_XDECREF(exc);
    Py_XDECREF(type);
    return NULL;
}

PyObject *
eg_error_raise_for_files(int status, PyObject *name, PyObject *other)
{
    if (status <= UV_EAI_ADDRFAMILY)
        return eg_error_raise(status);
    errno = -status;
    return PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, name, other);
}

PyObject *
eg_error_raise_status(PyObject *module, PyObject *arg)
{
    (void)module;
    int status = (int)PyLong_AsLong(arg);
    return PyErr_Occurred() ? NULL : eg_error_raise(status);
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
