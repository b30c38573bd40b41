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
    EgReturned *returned; /* NULL: nothing */
    PyObject *weakrefs;
    bool closed;
} EgChannel;

static void
channel_give_back(EgTask *task)
{
    EgChannel *self = (EgChannel *)task->wait.object; /* held by the receiver's frame */
    PyObject *value = task->wait.value;               /* ours now; NULL: it was closed */
    task->wait.value = NULL;
    if (!value || eg_queue_hand_on(&self->receivers, task, value))
        return;
    eg_returned_add(&self->returned, task, value);
}

/* A sender finds NULL there: the value was taken, or Py_None: the channel was closed. */
static void
channel_drop_mark(EgTask *task)
{
    Py_CLEAR(task->wait.value);
}

static const EgWaitKind channel_send_kind = {"channel send", channel_drop_mark};
static const EgWaitKind channel_receive_kind = {"channel receive", channel_give_back};

/* ---- sending ---------------------------------------------------------------------- */
static PyObject *
channel_raise_closed(void)
{
    PyErr_SetString(eg_state->channel_closed, "this channel is closed");
    return NULL;
}

/* Steals value. */
static PyObject *
channel_put(EgChannel *self, PyObject *value)
{
    if (self->closed) {
        Py_DECREF(value);
        return channel_raise_closed();
    }
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
    if (me->wait.value) {
        Py_CLEAR(me->wait.value); /* None: no finaliser runs */
        return channel_raise_closed();
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(channel_send_doc,
"send($self, value, /)\n"
"--\n"
"\n"
"Give a value to a receiver, waiting until there is one.\n"
"\n"
"A task that is killed while it waits has sent nothing; one that is killed after a receiver\n"
"took the value, and before it ran again, has sent it. Raise ChannelClosed after close().");

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

/* NULL: an exception is set, or, if *ended, none. */
static PyObject *
channel_take(EgChannel *self, bool *ended)
{
    *ended = false;
    if (self->returned)
        return channel_open(eg_returned_take(&self->returned, false));
    EgTask *sender = eg_queue_peek(&self->senders);
    if (sender) {
        PyObject *value = sender->wait.value; /* ours now */
        eg_queue_wake(&self->senders, NULL);
        return channel_open(value);
    }
    if ((*ended = self->closed))
        return NULL;
    EgTask *me = eg_wait_begin();
    if (!me)
        return NULL;
    eg_wait_join(me, &self->receivers);
    if (eg_wait_park(me, &channel_receive_kind, (PyObject *)self, EG_FOREVER) < 0)
        return NULL;
    PyObject *value = me->wait.value; /* ours now */
    me->wait.value = NULL;
    *ended = !value;
    return channel_open(value);
}

PyDoc_STRVAR(channel_receive_doc,
"receive($self, /)\n"
"--\n"
"\n"
"Wait for a sender; return its value, or raise its exception.\n"
"\n"
"A task that is killed while it waits has received nothing. Raise ChannelClosed after\n"
"close().");

static PyObject *
channel_receive(PyObject *op, PyObject *unused)
{
    bool ended;
    PyObject *value = channel_take((EgChannel *)op, &ended);
    (void)unused;
    return ended ? channel_raise_closed() : value;
}

static PyObject *
channel_next(PyObject *op)
{
    bool ended;
    return channel_take((EgChannel *)op, &ended);
}

EgQueue *
eg_channel_waitable(PyObject *op, bool *ready)
{
    EgChannel *self = (EgChannel *)op;
    *ready = self->closed || self->returned || eg_queue_peek(&self->senders);
    return &self->receivers;
}

/* ---- closing --------------------------------------------------------------------------- */
PyDoc_STRVAR(channel_close_doc,
"close($self, /)\n"
"--\n"
"\n"
"End it: iterating over it ends, sending and receiving raise ChannelClosed, also for those\n"
"who wait. Harmless the second time.");

static PyObject *
channel_close(PyObject *op, PyObject *unused)
{
    EgChannel *self = (EgChannel *)op;
    EgTask *sender;
    (void)unused;
    self->closed = true;
    while ((sender = eg_queue_peek(&self->senders))) {
        PyObject *value = sender->wait.value; /* ours now */
        eg_queue_wake(&self->senders, Py_NewRef(Py_None));
        Py_XDECREF(value);
    }
    eg_queue_wake_all(&self->receivers);
    Py_RETURN_NONE;
}

static PyObject *
channel_get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgChannel *)op)->closed);
}

/* ---- the type ----------------------------------------------------------------------------- */
static int
channel_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return eg_returned_visit(((EgChannel *)op)->returned, visit, arg);
}

static int
channel_clear(PyObject *op)
{
    eg_returned_clear(&((EgChannel *)op)->returned);
    return 0;
}

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* A subclass may have an __init__() that takes some. */
    if (type == eg_state->channel_type
        && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
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
    Py_TRASHCAN_BEGIN(op, channel_dealloc);
    if (((EgChannel *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    channel_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef channel_methods[] = {
    {"send", channel_send, METH_O, channel_send_doc},
    {"send_exception", channel_send_exception, METH_VARARGS, channel_send_exception_doc},
    {"receive", channel_receive, METH_NOARGS, channel_receive_doc},
    {"close", channel_close, METH_NOARGS, channel_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_getset[] = {
    {"closed", channel_get_closed, NULL, PyDoc_STR("Whether close() was called."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
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
"Iterating over it receives until it is closed, or a sender sends StopIteration.");

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_getset, channel_getset},
    {0, NULL},
};

PyType_Spec eg_channel_spec = {
    .name = "evergreen.Channel",
    .basicsize = sizeof(EgChannel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = channel_slots,
};
