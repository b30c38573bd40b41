/* event.c: a flag to wait for.  Event has the interface of threading.Event and works between
 * tasks, event loops and native threads. */
#include "evergreen.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    EgQueue waiters;
    PyObject *weakrefs;
    bool set;
} EgEvent;

static const EgWaitKind event_kind = {"event", NULL};

PyDoc_STRVAR(event_set_doc,
"set($self, /)\n"
"--\n"
"\n"
"Set the flag and wake everyone who waits for it, the longest waiter first.");

static PyObject *
event_set(PyObject *op, PyObject *unused)
{
    EgEvent *self = (EgEvent *)op;
    (void)unused;
    self->set = true;
    eg_queue_wake_all(&self->waiters);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_clear_doc,
"clear($self, /)\n"
"--\n"
"\n"
"Take the flag down: those who wait from now on wait for the next set().");

static PyObject *
event_clear(PyObject *op, PyObject *unused)
{
    (void)unused;
    ((EgEvent *)op)->set = false;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_is_set_doc,
"is_set($self, /)\n"
"--\n"
"\n"
"Return whether the flag is set.");

static PyObject *
event_is_set(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgEvent *)op)->set);
}

PyDoc_STRVAR(event_wait_doc,
"wait($self, /, timeout=None)\n"
"--\n"
"\n"
"Wait until the flag is set, timeout seconds at most; return whether it was.");

static PyObject *
event_wait(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    EgEvent *self = (EgEvent *)op;
    PyObject *timeout = NULL;
    uint64_t deadline;
    if (eg_parse("wait", names, 1, 0, args, n, kwnames, &timeout) < 0
        || eg_clock_deadline(timeout, &deadline) < 0)
        return NULL;
    if (self->set)
        Py_RETURN_TRUE;
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    eg_wait_join(me, &self->waiters);
    int status = eg_wait_park(me, &event_kind, op, deadline);
    return status < 0 ? NULL : PyBool_FromLong(status);
}

EgQueue *
eg_event_waitable(PyObject *op, bool *ready)
{
    *ready = ((EgEvent *)op)->set;
    return &((EgEvent *)op)->waiters;
}

static PyObject *
event_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<evergreen.Event at %p: %s>", op,
                                ((EgEvent *)op)->set ? "set" : "unset");
}

static PyObject *
event_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* A subclass may have an __init__() that takes some. */
    if (type == eg_state->event_type
        && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
        PyErr_SetString(PyExc_TypeError, "Event() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static void
event_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((EgEvent *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef event_methods[] = {
    {"set", event_set, METH_NOARGS, event_set_doc},
    {"clear", event_clear, METH_NOARGS, event_clear_doc},
    {"is_set", event_is_set, METH_NOARGS, event_is_set_doc},
    {"wait", EG_METHOD(event_wait), METH_FASTCALL | METH_KEYWORDS, event_wait_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef event_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgEvent, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(event_doc,
"Event()\n"
"--\n"
"\n"
"A flag that starts unset, and that tasks and threads can wait for.");

static PyType_Slot event_slots[] = {
    {Py_tp_doc, (void *)event_doc},
    {Py_tp_new, event_new},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_repr, event_repr},
    {Py_tp_methods, event_methods},
    {Py_tp_members, event_members},
    {0, NULL},
};

PyType_Spec eg_event_spec = {
    .name = "evergreen.event.Event",
    .basicsize = sizeof(EgEvent),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = event_slots,
};
