/* switch.c: a greenlet switch, and nothing else: the floor of whatever is built on greenlets.
 *
 * An extension for Python: turns(tasks, count) lets tasks of them, whose bodies are in C, switch to each other
 * in a ring, count times in all.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <greenlet/greenlet.h>

static PyGreenlet **ring;   /* strong; only while turns() runs */
static PyGreenlet *starter; /* strong; likewise */
static long tasks, started, turns_each;

/* The body of a greenlet: its place in the ring is how many began before. */
static PyObject *
body(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyGreenlet **next = &ring[(started++ + 1) % tasks];
    for (long i = -1; i < turns_each; i++) { /* first back to who started it */
        PyObject *got = PyGreenlet_Switch(i < 0 ? starter : *next, NULL, NULL);
        if (got == NULL)
            return NULL;
        Py_DECREF(got);
    }
    Py_RETURN_NONE; /* to its parent, which is who called turns() */
}

static PyMethodDef body_def = {"body", body, METH_NOARGS, NULL};

static PyObject *
turns(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *result = NULL, *run = NULL, *got = NULL;
    long count = 0;
    if (!PyArg_ParseTuple(args, "ll", &tasks, &count))
        return NULL;
    started = 0;
    turns_each = count / tasks;
    ring = PyMem_Calloc((size_t)tasks, sizeof *ring);
    if (ring == NULL)
        return PyErr_NoMemory();
    starter = PyGreenlet_GetCurrent();
    run = PyCFunction_New(&body_def, NULL);
    if (starter == NULL || run == NULL)
        goto done;
    for (long i = 0; i <= tasks; i++) {
        if (i < tasks)
            ring[i] = PyGreenlet_New(run, NULL);
        if (ring[i % tasks] == NULL)
            goto done;
        got = PyGreenlet_Switch(ring[i % tasks], NULL, NULL); /* the last time, round the ring */
        if (got == NULL)
            goto done;
        Py_CLEAR(got);
    }
    result = Py_NewRef(Py_None);
done:
    for (long i = 0; i < tasks; i++)
        Py_XDECREF(ring[i]); /* those that have not ended end here, by a GreenletExit */
    PyMem_Free(ring);
    Py_XDECREF(starter);
    Py_XDECREF(run);
    return result;
}

static PyMethodDef methods[] = {{"turns", turns, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static int
setup(PyObject *module)
{
    (void)module;
    PyGreenlet_Import();
    return PyErr_Occurred() ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, setup}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "switch", .m_methods = methods,
                                 .m_slots = slots};

PyMODINIT_FUNC
PyInit_switch(void)
{
    return PyModuleDef_Init(&definition);
}
