/* watch.c: waiting for several things at once.
 *
 * A Watch has a bell in the queue of each thing that is not ready.  When it rings, the thing
 * goes on the watch's list, and the next in the queue gets what there is to get.  So each thing
 * costs one step when it comes, however many others are watched.
 */
#include "evergreen.h"

typedef struct EgWatch EgWatch;

typedef struct EgWatched {
    EgBell bell;
    EgWatch *watch;         /* borrowed: this is part of it */
    PyObject *object;       /* strong; NULL: taken */
    struct EgWatched *next; /* among those that have come */
} EgWatched;

struct EgWatch {
    PyObject_HEAD
    Py_ssize_t n, left;      /* left: not taken yet */
    EgWatched *watched;      /* n of them, from the heap */
    EgWatched *first, *last; /* what has come, in that order */
    EgQueue waiter;
};

static const EgWaitKind watch_kind = {"watch", NULL};

/* ---- what comes ---------------------------------------------------------------------- */
static void
watch_note(EgWatched *watched)
{
    EgWatch *self = watched->watch;
    watched->next = NULL;
    if (self->first)
        self->last->next = watched;
    else
        self->first = watched;
    self->last = watched;
}

static void
watch_ring(EgBell *bell)
{
    EgWatched *watched = EG_OWNER(bell, EgWatched, bell);
    watch_note(watched);
    eg_queue_wake(&watched->watch->waiter, NULL);
}

/* NULL: nothing that can be watched, exception set. */
static EgQueue *
watch_queue(PyObject *object, bool *ready)
{
    const struct {
        PyTypeObject *type;
        EgQueue *(*waitable)(PyObject *, bool *);
    } kinds[] = {
        {eg_state->task_type, eg_task_waitable},      {eg_state->event_type, eg_event_waitable},
        {eg_state->queue_type, eg_queue_waitable},    {eg_state->channel_type, eg_channel_waitable},
        {eg_state->semaphore_type, eg_lock_waitable}, {eg_state->rlock_type, eg_lock_waitable},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (PyObject_TypeCheck(object, kinds[i].type))
            return kinds[i].waitable(object, ready);
    PyErr_Format(PyExc_TypeError, "cannot wait for %.100s objects", Py_TYPE(object)->tp_name);
    return NULL;
}

/* ---- methods ------------------------------------------------------------------------------ */
PyDoc_STRVAR(watch_take_doc,
"take($self, timeout=None, /)\n"
"--\n"
"\n"
"Wait until one more thing is ready, timeout seconds at most; return it, or None.");

static PyObject *
watch_take(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgWatch *self = (EgWatch *)op;
    PyObject *timeout = NULL;
    uint64_t deadline;
    if (eg_parse("take", NULL, 1, 0, args, n, NULL, &timeout) < 0
        || eg_clock_deadline(timeout, &deadline) < 0)
        return NULL;
    while (!self->first && self->left) {
        EgTask *me = eg_wait_begin();
        if (!me)
            return NULL;
        eg_wait_join(me, &self->waiter);
        int status = eg_wait_park(me, &watch_kind, op, deadline);
        if (status < 0)
            return NULL;
        if (status == 0)
            Py_RETURN_NONE;
    }
    EgWatched *watched = self->first;
    if (!watched)
        Py_RETURN_NONE;
    self->first = watched->next;
    self->left--;
    PyObject *object = watched->object; /* the caller's now */
    watched->object = NULL;
    return object;
}

static int
watch_clear(PyObject *op)
{
    EgWatch *self = (EgWatch *)op;
    self->left = 0;
    self->first = NULL;
    for (Py_ssize_t i = 0; i < self->n; i++)
        eg_queue_remove(&self->watched[i].bell.link);
    for (Py_ssize_t i = 0; i < self->n; i++)
        Py_CLEAR(self->watched[i].object);
    return 0;
}

PyDoc_STRVAR(watch_close_doc,
"close($self, /)\n"
"--\n"
"\n"
"Watch nothing any more.");

static PyObject *
watch_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    watch_clear(op);
    eg_queue_wake_all(&((EgWatch *)op)->waiter);
    Py_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------------------------ */
static PyObject *
watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *objects;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O:Watch", &objects) || !(objects = PySequence_Tuple(objects)))
        return NULL;
    EgWatch *self = (EgWatch *)type->tp_alloc(type, 0);
    Py_ssize_t n = PyTuple_GET_SIZE(objects);
    if (self && !(self->watched = PyMem_Calloc((size_t)n + 1, sizeof *self->watched))) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    for (Py_ssize_t i = 0; self && i < n; i++) {
        PyObject *object = PyTuple_GET_ITEM(objects, i); /* borrowed from the tuple */
        bool ready = false;
        EgQueue *queue = watch_queue(object, &ready);
        if (!queue) {
            Py_CLEAR(self);
            break;
        }
        EgWatched *watched = &self->watched[self->n++];
        watched->watch = self;
        watched->object = Py_NewRef(object);
        self->left++;
        if (ready)
            watch_note(watched);
        else
            eg_queue_add_bell(queue, &watched->bell, watch_ring);
    }
    Py_DECREF(objects);
    return (PyObject *)self;
}

static PyObject *
watch_get_left(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((EgWatch *)op)->left);
}

static int
watch_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgWatch *self = (EgWatch *)op;
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < self->n; i++)
        Py_VISIT(self->watched[i].object);
    return 0;
}

static void
watch_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, watch_dealloc);
    if (((EgWatch *)op)->watched)
        watch_clear(op);
    PyMem_Free(((EgWatch *)op)->watched);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef watch_methods[] = {
    {"take", EG_METHOD(watch_take), METH_FASTCALL, watch_take_doc},
    {"close", watch_close, METH_NOARGS, watch_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef watch_getset[] = {
    {"left", watch_get_left, NULL, PyDoc_STR("How many were not taken yet."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(watch_doc,
"Watch(objects, /)\n"
"--\n"
"\n"
"Tasks, events, locks, queues and channels, to be taken in the order in which they come.\n"
"\n"
"A task is ready when it has ended, an event when it is set, a lock when it is free, a\n"
"queue or channel when there is something to receive.");

static PyType_Slot watch_slots[] = {
    {Py_tp_doc, (void *)watch_doc},   {Py_tp_new, watch_new},
    {Py_tp_traverse, watch_traverse}, {Py_tp_clear, watch_clear},
    {Py_tp_dealloc, watch_dealloc},   {Py_tp_methods, watch_methods},
    {Py_tp_getset, watch_getset},     {0, NULL},
};

PyType_Spec eg_watch_spec = {
    .name = "evergreen._evergreen_c.Watch",
    .basicsize = sizeof(EgWatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = watch_slots,
};
