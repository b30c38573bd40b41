/* arguments.c: what methods with METH_FASTCALL | METH_KEYWORDS make of their arguments. */
#include "evergreen.h"

/* Where a keyword belongs, or -1. */
static int
arguments_find(PyObject *name, const char *const *names, int max)
{
    for (int i = 0; i < max; i++)
        if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0)
            return i;
    return -1;
}

int
eg_parse(const char *function, const char *const *names, int max, int required,
         PyObject *const *args, Py_ssize_t n, PyObject *kwnames, PyObject **values)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (n + nkw > max) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d argument%s (%zd given)", function, max,
                     max == 1 ? "" : "s", n + nkw);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        values[i] = args[i];
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int place = arguments_find(name, names, max);
        if (place < 0 || values[place]) {
            PyErr_Format(PyExc_TypeError,
                         place < 0 ? "%s() got an unexpected keyword argument '%U'"
                                   : "%s() got multiple values for argument '%U'",
                         function, name);
            return -1;
        }
        values[place] = args[n + i];
    }
    for (int i = 0; i < required; i++)
        if (!values[i]) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", function,
                         names[i]);
            return -1;
        }
    return 0;
}

PyObject *
eg_parse_tuple(PyObject *iterable, const char *complaint)
{
    PyObject *fast = PySequence_Fast(iterable, complaint);
    PyObject *tuple = fast ? PySequence_Tuple(fast) : NULL;
    Py_XDECREF(fast);
    return tuple;
}
