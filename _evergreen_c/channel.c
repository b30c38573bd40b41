/* channel.c: rendezvous.  send() returns when a receiver has taken the value, receive() waits
 * for a sender; both queue in order of arrival.
 *
 * A sender's value waits in wait.value of the sender's task; a value that was handed to a
 * receiver who is then killed before it runs goes back, ahead of all senders.  An exception
 * travels in a capsule, which no user can have sent as a value.
 */
#include "evergreen.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    EgQueue senders, receivers;
    PyObject *returned; /* strong: list of (when, value) that were given back; NULL: none */
    PyObject *weakrefs;
} EgChannel;

static void
channel_give_back(EgTask *task)
{
    EgChannel *self = (EgChannel *)task->wait.object; /* held by the receiver's frame */
    PyObject *value = task->wait.value;               /* ours now */
    task->wait.value = NULL;
    if (!value || eg_queue_wake(&self->receivers, value))
        return;
    /* Receivers queue in the order in which they came, so that is the order of their values. */
    PyObject *entry = Py_BuildValue("(KN)", (unsigned long long)task->wait.since, value);
    if (!entry || (!self->returned && !(self->returned = PyList_New(0))))
        goto lost;
    Py_ssize_t i = PyList_GET_SIZE(self->returned);
    while (i > 0) {
        PyObject *before = PyTuple_GET_ITEM(PyList_GET_ITEM(self->returned, i - 1), 0);
        if (PyLong_AsUnsignedLongLong(before) <= task->wait.since)
            break;
        i--;
    }
    if (PyList_Insert(self->returned, i, entry) == 0) {
        Py_DECREF(entry);
        return;
    }
lost:
    Py_XDECREF(entry);
    PyErr_WriteUnraisable((PyObject *)self); /* out of memory */
}

static const EgWaitKind channel_send_kind = {"channel send", NULL};
static const EgWaitKind channel_receive_kind = {"channel receive", channel_give_back};

/* ---- sending ---------------------------------------------------------------------- */
/* Steals value. */
static PyObject *
channel_put(EgChannel *self, PyObject *value)
{
    if (eg_queue_wake(&self->receivers, value))
        Py_RETURN_NONE;
    EgTask *me = eg_wait_begin();
    if (!me) {
        Py_DECREF(value);
        return NULL;
    }
    me->wait.value = value; /* taken by the receiver, dropped by a failed park */
    eg_wait_join(me, &self->senders);
    if (eg_wait_park(me, &channel_send_kind, (PyObject *)self, EG_FOREVER) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(channel_send_doc,
"send($self, value, /)\n"
"--\n"
"\n"
"Give a value to a receiver, waiting until there is one.\n"
"\n"
"A task that is killed while it waits has sent nothing; one that is killed after a receiver\n"
"took the value, and before it ran again, has sent it.");

static PyObject *
channel_send(PyObject *op, PyObject *value)
{
    return channel_put((EgChannel *)op, Py_NewRef(value));
}

static const char channel_bomb[] = "evergreen.Channel exception";

static void
channel_bomb_free(PyObject *bomb)
{
    Py_DECREF((PyObject *)PyCapsule_GetPointer(bomb, channel_bomb));
}

PyDoc_STRVAR(channel_send_exception_doc,
"send_exception($self, exc_type, exc_value=None, exc_tb=None, /)\n"
"--\n"
"\n"
"Have a receiver's receive() raise this exception, waiting until there is one.");

static PyObject *
channel_send_exception(PyObject *op, PyObject *args)
{
    PyObject *type, *value = Py_None, *traceback = Py_None;
    if (!PyArg_ParseTuple(args, "O|OO:send_exception", &type, &value, &traceback))
        return NULL;
    PyObject *exc = eg_task_make_exception(type, value, traceback);
    PyObject *bomb = exc ? PyCapsule_New(exc, channel_bomb, channel_bomb_free) : NULL;
    if (!bomb)
        Py_XDECREF(exc); /* else the capsule's */
    return bomb ? channel_put((EgChannel *)op, bomb) : NULL;
}

/* ---- receiving ----------------------------------------------------------------------- */
/* Steals value. */
static PyObject *
channel_open(PyObject *value)
{
    if (!value || !PyCapsule_IsValid(value, channel_bomb))
        return value;
    PyObject *exc = PyCapsule_GetPointer(value, channel_bomb); /* borrowed */
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_DECREF(value);
    return NULL;
}

PyDoc_STRVAR(channel_receive_doc,
"receive($self, /)\n"
"--\n"
"\n"
"Wait for a sender; return its value, or raise its exception.\n"
"\n"
"A task that is killed while it waits has received nothing.");

static PyObject *
channel_receive(PyObject *op, PyObject *unused)
{
    EgChannel *self = (EgChannel *)op;
    (void)unused;
    if (self->returned && PyList_GET_SIZE(self->returned)) {
        PyObject *value = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(self->returned, 0), 1));
        if (PyList_SetSlice(self->returned, 0, 1, NULL) < 0) {
            Py_DECREF(value);
            return NULL;
        }
        return channel_open(value);
    }
    EgTask *sender = eg_queue_peek(&self->senders);
    if (sender) {
        PyObject *value = sender->wait.value; /* ours now */
        eg_queue_wake(&self->senders, NULL);
        return channel_open(value);
    }
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    eg_wait_join(me, &self->receivers);
    if (eg_wait_park(me, &channel_receive_kind, op, EG_FOREVER) < 0)
        return NULL;
    PyObject *value = me->wait.value; /* ours now */
    me->wait.value = NULL;
    return channel_open(value);
}

static PyObject *
channel_next(PyObject *op)
{
    return channel_receive(op, NULL);
}

/* ---- the type ----------------------------------------------------------------------------- */
static int
channel_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgChannel *)op)->returned);
    return 0;
}

static int
channel_clear(PyObject *op)
{
    Py_CLEAR(((EgChannel *)op)->returned);
    return 0;
}

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* A subclass may have an __init__() that takes some. */
    if (type == eg_state->channel_type && (PyTuple_GET_SIZE(args) || kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Channel() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static void
channel_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (((EgChannel *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    channel_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef channel_methods[] = {
    {"send", channel_send, METH_O, channel_send_doc},
    {"send_exception", channel_send_exception, METH_VARARGS, channel_send_exception_doc},
    {"receive", channel_receive, METH_NOARGS, channel_receive_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef channel_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgChannel, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(channel_doc,
"Channel()\n"
"--\n"
"\n"
"A place where senders and receivers meet: values go from one to the other, unbuffered.\n"
"\n"
"Iterating over it receives for ever, or until a sender sends StopIteration.");

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)channel_doc},   {Py_tp_new, channel_new},
    {Py_tp_traverse, channel_traverse}, {Py_tp_clear, channel_clear},
    {Py_tp_dealloc, channel_dealloc},   {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},     {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},   {0, NULL},
};

PyType_Spec eg_channel_spec = {
    .name = "evergreen.Channel",
    .basicsize = sizeof(EgChannel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = channel_slots,
};
