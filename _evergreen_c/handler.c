/* handler.c: callbacks that the hub's own greenlet runs.
 *
 * A Handler is a call that can be cancelled: what call_soon() and add_reader() return.  A
 * Timer is one that comes later.  On the ring, or armed, it holds a reference to itself;
 * nothing that it calls may block.
 *
 * Most are made, run once and forgotten, so that is what is cheap: a call without arguments
 * is one line of the cache, arguments stand right behind, and the collector does not know
 * them, because one that is queued is alive anyway and one that has run refers to nothing.
 * Those that last, a watched descriptor's or a signal's, are a type of their own that it does
 * know.
 */
#include "evergreen.h"

typedef struct {
    PyObject_HEAD
    EgNode node;
    EgHub *hub;         /* strong */
    PyObject *callback; /* strong; NULL once run for the last time, or cancelled */
    PyObject **extra;   /* see below; NULL: called with nothing */
    int nargs;
    bool cancelled;
    bool queued;  /* on the ring or the inbox */
    bool lasting; /* may be scheduled more than once */
    bool running; /* its callback is being called, and needs its arguments */
} EgHandler;

/* What extra points at, which stands behind the object, or on its own where the collector's
 * allocation has no room for that: */
enum {
    EXTRA_KWNAMES, /* strong: tuple; NULL: no keyword arguments */
    EXTRA_SCRATCH, /* for the callee: vectorcall's offset */
    EXTRA_ARGS     /* strong: nargs positional ones, then one for each of kwnames */
};

typedef struct {
    EgHandler base;
    EgTimer timer;
} EgTimerHandler;

static inline PyObject **
handler_behind(EgHandler *self)
{
    return (PyObject **)((char *)self + Py_TYPE(self)->tp_basicsize);
}

static Py_ssize_t
handler_count(const EgHandler *self)
{
    PyObject *kwnames = self->extra ? self->extra[EXTRA_KWNAMES] : NULL;
    return self->nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
}

static void
handler_drop(EgHandler *self)
{
    PyObject *callback = self->callback, **extra = self->extra;
    Py_ssize_t n = handler_count(self);
    self->callback = NULL;
    self->extra = NULL;
    self->nargs = 0;
    if (extra) {
        for (Py_ssize_t i = 0; i < n; i++)
            Py_DECREF(extra[EXTRA_ARGS + i]);
        Py_XDECREF(extra[EXTRA_KWNAMES]);
        if (extra != handler_behind(self))
            PyMem_Free(extra);
    }
    Py_XDECREF(callback);
}

/* ---- the hub's side --------------------------------------------------------------- */
static void
handler_run(EgNode *node)
{
    EgHandler *self = EG_OWNER(node, EgHandler, node);
    self->queued = false;
    if (EG_LIKELY(!self->cancelled && !self->hub->destroyed)) {
        self->running = true;
        PyObject **extra = self->extra;
        PyObject *result =
            extra ? PyObject_Vectorcall(self->callback, extra + EXTRA_ARGS,
                                        (size_t)self->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                        extra[EXTRA_KWNAMES])
                  : PyObject_CallNoArgs(self->callback);
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
    if (self->queued || self->cancelled || !self->callback || self->hub->destroyed)
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
/* An object, with room for so many pointers. */
static EgHandler *
handler_alloc(PyTypeObject *type, Py_ssize_t pointers)
{
    EgHandler *self;
    if (PyType_IS_GC(type)) {
        PyObject **extra = pointers ? PyMem_New(PyObject *, pointers) : NULL;
        if (pointers && !extra)
            return (EgHandler *)PyErr_NoMemory();
        self = (EgHandler *)type->tp_alloc(type, 0);
        if (self)
            self->extra = extra;
        else
            PyMem_Free(extra);
        return self;
    }
    size_t size = (size_t)type->tp_basicsize + (size_t)pointers * sizeof(PyObject *);
    self = PyObject_Malloc(size);
    if (!self)
        return (EgHandler *)PyErr_NoMemory();
    PyObject_Init((PyObject *)self, type);
    self->extra = pointers ? handler_behind(self) : NULL;
    return self;
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
    Py_ssize_t all = n + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    EgHandler *self = handler_alloc(type, all ? EXTRA_ARGS + all : 0);
    if (!self)
        return NULL;
    self->node.run = handler_run;
    self->hub = (EgHub *)Py_NewRef(hub);
    self->callback = Py_NewRef(callback);
    self->nargs = (int)n;
    self->cancelled = self->queued = self->lasting = self->running = false;
    if (all) {
        self->extra[EXTRA_KWNAMES] = Py_XNewRef(kwnames);
        for (Py_ssize_t i = 0; i < all; i++)
            self->extra[EXTRA_ARGS + i] = Py_NewRef(args[i]);
    }
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
    *timer = (EgTimer){.fire = handler_on_time};
    if (deadline == EG_FOREVER) { /* beyond any time that will come */
        handler_drop(self);
        return (PyObject *)self;
    }
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
    PyObject *callback = Py_XNewRef(self->callback); /* its __repr__() may call cancel() */
    if (type && callback)
        repr = PyUnicode_FromFormat("<%U %R>", type, callback);
    else if (type)
        repr = PyUnicode_FromFormat("<%U %s>", type, self->cancelled ? "cancelled" : "done");
    Py_XDECREF(callback);
    Py_XDECREF(type);
    return repr;
}

/* ---- the types --------------------------------------------------------------------------- */
static int
watcher_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgHandler *self = (EgHandler *)op;
    Py_ssize_t n = handler_count(self);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->hub);
    Py_VISIT(self->callback);
    if (self->extra)
        Py_VISIT(self->extra[EXTRA_KWNAMES]);
    for (Py_ssize_t i = 0; i < n; i++)
        Py_VISIT(self->extra[EXTRA_ARGS + i]);
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
"Have the callback run once more, from its loop; from any thread.\n"
"\n"
"Raise RuntimeError if the loop was destroyed.");

static PyObject *
watcher_schedule(PyObject *op, PyObject *unused)
{
    (void)unused;
    if (((EgHandler *)op)->hub->destroyed) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
        return NULL;
    }
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
