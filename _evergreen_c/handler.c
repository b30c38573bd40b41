/* handler.c: callbacks that the hub's own greenlet runs.
 *
 * A Handler is a call that can be cancelled: what call_soon() and add_reader() return.  A
 * Timer is one that comes later.  On the ring, or armed, it holds a reference to itself;
 * nothing that it calls may block.
 *
 * Most are made, run once and forgotten, so that is what is cheap: they are small, a few
 * arguments are kept inside, memory is used again, and the collector does not know them,
 * because one that is queued is alive anyway and one that has run refers to nothing.  Those
 * that last, a watched descriptor's or a signal's, are a type of their own that it does know.
 */
#include "evergreen.h"

#define INLINE_ARGS 2
#define SPARE_MAX 256

typedef struct {
    PyObject_HEAD
    EgNode node;
    EgHub *hub;         /* strong */
    PyObject *callback; /* strong; NULL once run for the last time, or cancelled */
    PyObject *kwnames;  /* strong: tuple; NULL: no keyword arguments */
    PyObject **args;    /* inside, or from PyMem if there are many; strong, nargs + keywords */
    int nargs;
    bool cancelled;
    bool queued;                       /* on the ring or the inbox */
    bool lasting;                      /* may be scheduled more than once */
    bool running;                      /* its callback is being called, and needs its arguments */
    PyObject *inside[1 + INLINE_ARGS]; /* [0] is scratch for the callee: vectorcall's offset */
} EgHandler;

typedef struct {
    EgHandler base;
    EgTimer timer;
} EgTimerHandler;

static EgHandler *handler_spare[SPARE_MAX]; /* plain Handlers without content */
static int handler_spares;

static void
handler_drop(EgHandler *self)
{
    Py_ssize_t n = self->nargs + (self->kwnames ? PyTuple_GET_SIZE(self->kwnames) : 0);
    PyObject **args = self->args;
    self->nargs = 0;
    self->args = NULL;
    Py_CLEAR(self->kwnames);
    Py_CLEAR(self->callback);
    for (Py_ssize_t i = 0; i < n; i++)
        Py_DECREF(args[i]);
    if (args && args != self->inside + 1)
        PyMem_Free(args - 1);
}

/* ---- the hub's side --------------------------------------------------------------- */
static void
handler_run(EgNode *node)
{
    EgHandler *self = EG_OWNER(node, EgHandler, node);
    self->queued = false;
    if (EG_LIKELY(!self->cancelled && !self->hub->destroyed)) {
        self->running = true;
        PyObject *result = PyObject_Vectorcall(self->callback, self->args,
                                               (size_t)self->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                               self->kwnames);
        self->running = false;
        if (EG_LIKELY(result != NULL))
            Py_DECREF(result);
        else
            eg_hub_report(self->hub, "Exception in callback", (PyObject *)self);
    }
    if (!self->lasting || self->cancelled)
        handler_drop(self);
    Py_DECREF(self); /* what eg_handler_schedule() took */
}

void
eg_handler_schedule(PyObject *op)
{
    EgHandler *self = (EgHandler *)op;
    if (self->queued || self->cancelled || !self->callback)
        return;
    self->queued = true;
    Py_INCREF(self); /* given back by handler_run() */
    eg_hub_push(self->hub, &self->node);
}

static void
handler_on_time(EgTimer *timer)
{
    EgHandler *self = &EG_OWNER(timer, EgTimerHandler, timer)->base;
    self->queued = true; /* the armed timer's reference becomes the ring's */
    eg_hub_push(self->hub, &self->node);
}

/* ---- making ------------------------------------------------------------------------- */
static EgHandler *
handler_alloc(PyTypeObject *type)
{
    EgHandler *self;
    if (type == eg_state->handler_type && handler_spares) {
        self = handler_spare[--handler_spares];
        _Py_NewReference((PyObject *)self);
        Py_INCREF(type); /* given back by handler_dealloc() */
        self->cancelled = self->queued = self->lasting = self->running = false;
        return self;
    }
    return (EgHandler *)type->tp_alloc(type, 0);
}

static EgHandler *
handler_make(EgHub *hub, PyTypeObject *type, PyObject *callback, PyObject *const *args,
             Py_ssize_t n, PyObject *kwnames)
{
    if (EG_UNLIKELY(!PyCallable_Check(callback))) {
        bool handler = PyObject_TypeCheck(callback, eg_state->handler_type);
        PyErr_Format(handler ? PyExc_AssertionError : PyExc_TypeError,
                     "callback must be callable, not %.100s", Py_TYPE(callback)->tp_name);
        return NULL;
    }
    if (EG_UNLIKELY(hub->destroyed)) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
        return NULL;
    }
    EgHandler *self = handler_alloc(type);
    if (!self)
        return NULL;
    Py_ssize_t all = n + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    self->node.run = handler_run;
    self->hub = (EgHub *)Py_NewRef(hub);
    self->args = self->inside + 1;
    if (all > INLINE_ARGS) {
        PyObject **many = PyMem_New(PyObject *, all + 1);
        if (!many) {
            self->args = NULL;
            Py_DECREF(self);
            PyErr_NoMemory();
            return NULL;
        }
        self->args = many + 1;
    }
    self->callback = Py_NewRef(callback);
    self->kwnames = Py_XNewRef(kwnames);
    self->nargs = (int)n;
    for (Py_ssize_t i = 0; i < all; i++)
        self->args[i] = Py_NewRef(args[i]);
    return self;
}

PyObject *
eg_handler_call_soon(EgHub *hub, PyObject *callback, PyObject *const *args, Py_ssize_t n,
                     PyObject *kwnames)
{
    EgHandler *self = handler_make(hub, eg_state->handler_type, callback, args, n, kwnames);
    if (self)
        eg_handler_schedule((PyObject *)self);
    return (PyObject *)self;
}

PyObject *
eg_handler_lasting(EgHub *hub, PyObject *callback, PyObject *const *args, Py_ssize_t n,
                   PyObject *kwnames)
{
    EgHandler *self = handler_make(hub, eg_state->watcher_type, callback, args, n, kwnames);
    if (self)
        self->lasting = true;
    return (PyObject *)self;
}

PyObject *
eg_handler_call_at(EgHub *hub, uint64_t deadline, PyObject *callback, PyObject *const *args,
                   Py_ssize_t n, PyObject *kwnames)
{
    EgHandler *self = handler_make(hub, eg_state->timer_type, callback, args, n, kwnames);
    EgTimer *timer = self ? &((EgTimerHandler *)self)->timer : NULL;
    if (!self)
        return NULL;
    if (deadline == EG_FOREVER) { /* beyond any time that will come */
        handler_drop(self);
        return (PyObject *)self;
    }
    timer->fire = handler_on_time;
    if (eg_timer_start(&hub->timers, timer, deadline) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    Py_INCREF(self); /* the armed timer's: given back by handler_run() or eg_handler_cancel() */
    eg_hub_wake(hub);
    return (PyObject *)self;
}

/* ---- methods --------------------------------------------------------------------------- */
void
eg_handler_cancel(PyObject *op)
{
    EgHandler *self = (EgHandler *)op;
    self->cancelled = true;
    if (Py_IS_TYPE(op, eg_state->timer_type)) {
        EgTimer *timer = &((EgTimerHandler *)op)->timer;
        if (eg_timer_armed(timer)) {
            eg_timer_stop(&self->hub->timers, timer);
            Py_DECREF(self); /* the armed timer's; the caller holds one, too */
        }
    }
    if (!self->running) /* else handler_run() does */
        handler_drop(self);
}

PyDoc_STRVAR(handler_cancel_doc,
"cancel($self, /)\n"
"--\n"
"\n"
"Have the callback not be called any more. Harmless when it was, or twice.");

static PyObject *
handler_cancel(PyObject *op, PyObject *unused)
{
    (void)unused;
    eg_handler_cancel(op);
    Py_RETURN_NONE;
}

static PyObject *
handler_get_cancelled(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EgHandler *)op)->cancelled);
}

static PyObject *
handler_repr(PyObject *op)
{
    EgHandler *self = (EgHandler *)op;
    PyObject *type = PyType_GetName(Py_TYPE(op)), *repr = NULL;
    if (type && self->callback)
        repr = PyUnicode_FromFormat("<%U %R>", type, self->callback);
    else if (type)
        repr = PyUnicode_FromFormat("<%U %s>", type, self->cancelled ? "cancelled" : "done");
    Py_XDECREF(type);
    return repr;
}

/* ---- the types --------------------------------------------------------------------------- */
static int
watcher_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgHandler *self = (EgHandler *)op;
    Py_ssize_t n = self->nargs + (self->kwnames ? PyTuple_GET_SIZE(self->kwnames) : 0);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->hub);
    Py_VISIT(self->callback);
    Py_VISIT(self->kwnames);
    for (Py_ssize_t i = 0; i < n; i++)
        Py_VISIT(self->args[i]);
    return 0;
}

static int
watcher_clear(PyObject *op)
{
    ((EgHandler *)op)->cancelled = true;
    handler_drop((EgHandler *)op);
    return 0;
}

static void
handler_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (type == eg_state->watcher_type)
        PyObject_GC_UnTrack(op);
    handler_drop((EgHandler *)op);
    Py_CLEAR(((EgHandler *)op)->hub);
    if (type == eg_state->handler_type && handler_spares < SPARE_MAX)
        handler_spare[handler_spares++] = (EgHandler *)op;
    else
        type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef handler_methods[] = {
    {"cancel", handler_cancel, METH_NOARGS, handler_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handler_getset[] = {
    {"cancelled", handler_get_cancelled, NULL, PyDoc_STR("Whether cancel() was called."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(handler_doc, "A callback of an event loop, which can be cancelled.");

static PyType_Slot handler_slots[] = {
    {Py_tp_doc, (void *)handler_doc}, {Py_tp_dealloc, handler_dealloc}, {Py_tp_repr, handler_repr},
    {Py_tp_methods, handler_methods}, {Py_tp_getset, handler_getset},   {0, NULL},
};

PyType_Spec eg_handler_spec = {
    .name = "evergreen.Handler",
    .basicsize = sizeof(EgHandler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE /* of the two below alone */
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handler_slots,
};

PyDoc_STRVAR(watcher_schedule_doc,
"schedule($self, /)\n"
"--\n"
"\n"
"Have the callback run once more, from its loop; from any thread.");

static PyObject *
watcher_schedule(PyObject *op, PyObject *unused)
{
    (void)unused;
    eg_handler_schedule(op);
    Py_RETURN_NONE;
}

static PyMethodDef watcher_methods[] = {
    {"schedule", watcher_schedule, METH_NOARGS, watcher_schedule_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(watcher_doc, "A callback of an event loop that may be called many times.");

static PyType_Slot watcher_slots[] = {
    {Py_tp_doc, (void *)watcher_doc}, {Py_tp_traverse, watcher_traverse},
    {Py_tp_clear, watcher_clear},     {Py_tp_dealloc, handler_dealloc},
    {Py_tp_methods, watcher_methods}, {0, NULL},
};

PyType_Spec eg_watcher_spec = {
    .name = "evergreen._evergreen_c.Watcher",
    .basicsize = sizeof(EgHandler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = watcher_slots,
};

PyDoc_STRVAR(timer_doc, "A callback of an event loop at a time to come, which can be cancelled.");

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, (void *)timer_doc},
    {Py_tp_dealloc, handler_dealloc},
    {0, NULL},
};

PyType_Spec eg_timer_spec = {
    .name = "evergreen.Timer",
    .basicsize = sizeof(EgTimerHandler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = timer_slots,
};
