/* queue.c: Queue, LifoQueue and PriorityQueue, with the interface of module queue.
 *
 * An item goes straight from put() to the longest waiter, if there is one; a put() that waits
 * keeps its item in wait.value until get() makes room and takes it over.  So items and waiters
 * are served in the order in which they came, and nothing needs to be tried again.  An item
 * that was handed to a task which is then killed goes back, ahead of the others.
 *
 * A subclass that has its own _init(), _put(), _get() or _qsize(), as those of the standard
 * library may, keeps its items where it likes: its waiters are woken to try again.
 */
#include "evergreen.h"

#include <structmember.h>

/* A ring of items; from the heap, while there are any. */
typedef struct {
    size_t head, count, size; /* the size is a power of two */
    PyObject *at[];           /* strong */
} EgItems;

typedef enum { EG_FIFO, EG_LIFO, EG_PRIORITY } EgOrder;

typedef struct {
    PyObject_HEAD
    union {
        EgItems *items; /* NULL: never had any */
        PyObject *heap; /* EG_PRIORITY: strong, a list; NULL likewise */
    };
    Py_ssize_t maxsize; /* <= 0: no limit */
    Py_ssize_t unfinished;
    EgQueue getters, putters, joiners;
    PyObject *returned; /* strong: what was given back; see eg_returned_add() */
    PyObject *weakrefs;
    uint8_t order; /* EgOrder */
    bool hooked;   /* a subclass keeps the items */
    bool shut_down;
} EgItemQueue;

#define ITEMS_FIRST 8
#define ITEMS_KEPT 1024 /* room that an empty queue keeps */

/* ---- items ------------------------------------------------------------------------- */
static int
items_grow(EgItemQueue *self)
{
    EgItems *old = self->items;
    size_t size = old ? old->size * 2 : ITEMS_FIRST;
    EgItems *items = PyMem_Malloc(sizeof *items + size * sizeof *items->at);
    if (!items) {
        PyErr_NoMemory();
        return -1;
    }
    items->head = 0;
    items->size = size;
    items->count = old ? old->count : 0;
    for (size_t i = 0; i < items->count; i++)
        items->at[i] = old->at[(old->head + i) & (old->size - 1)];
    PyMem_Free(old);
    self->items = items;
    return 0;
}

static PyObject *
items_take(EgItemQueue *self)
{
    EgItems *items = self->items;
    PyObject *item;
    items->count--;
    if (self->order == EG_FIFO) {
        item = items->at[items->head];
        items->head = (items->head + 1) & (items->size - 1);
    } else
        item = items->at[(items->head + items->count) & (items->size - 1)];
    if (items->count == 0 && items->size > ITEMS_KEPT) {
        PyMem_Free(items);
        self->items = NULL;
    }
    return item;
}

static Py_ssize_t
items_count(const EgItemQueue *self)
{
    if (self->order == EG_PRIORITY)
        return self->heap ? PyList_GET_SIZE(self->heap) : 0;
    return self->items ? (Py_ssize_t)self->items->count : 0;
}

static int
items_add(EgItemQueue *self, PyObject *item)
{
    if (self->order == EG_PRIORITY) {
        if (!self->heap && !(self->heap = PyList_New(0)))
            return -1;
        PyObject *args[] = {self->heap, item};
        PyObject *result = PyObject_Vectorcall(eg_state->heappush, args, 2, NULL);
        Py_XDECREF(result);
        return result ? 0 : -1;
    }
    if ((!self->items || self->items->count == self->items->size) && items_grow(self) < 0)
        return -1;
    EgItems *items = self->items;
    items->at[(items->head + items->count++) & (items->size - 1)] = Py_NewRef(item);
    return 0;
}

/* From a queue that has some. */
static PyObject *
items_get(EgItemQueue *self)
{
    /* What was given back had been first in its order, and its place may be another by now. */
    while (self->returned && PyList_GET_SIZE(self->returned)) {
        PyObject *item = eg_returned_take(&self->returned);
        if (!item || self->order == EG_FIFO)
            return item;
        int status = items_add(self, item);
        Py_DECREF(item);
        if (status < 0)
            return NULL;
    }
    if (self->order == EG_PRIORITY)
        return PyObject_CallOneArg(eg_state->heappop, self->heap);
    return items_take(self);
}

/* ---- what a subclass may have its own way ---------------------------------------------- */
static Py_ssize_t
queue_size(EgItemQueue *self)
{
    Py_ssize_t more = self->returned ? PyList_GET_SIZE(self->returned) : 0;
    if (EG_LIKELY(!self->hooked))
        return items_count(self) + more;
    PyObject *size = PyObject_CallMethod((PyObject *)self, "_qsize", NULL);
    Py_ssize_t n = size ? PyLong_AsSsize_t(size) : -1;
    Py_XDECREF(size);
    return n < 0 && PyErr_Occurred() ? -1 : n;
}

static PyObject *
queue_hook_init(PyObject *op, PyObject *maxsize)
{
    (void)op;
    (void)maxsize;
    Py_RETURN_NONE;
}

static PyObject *
queue_hook_put(PyObject *op, PyObject *item)
{
    return items_add((EgItemQueue *)op, item) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
queue_hook_get(PyObject *op, PyObject *unused)
{
    EgItemQueue *self = (EgItemQueue *)op;
    (void)unused;
    if (items_count(self) == 0) {
        PyErr_SetString(PyExc_IndexError, "the queue is empty");
        return NULL;
    }
    return items_get(self);
}

static PyObject *
queue_hook_qsize(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(items_count((EgItemQueue *)op));
}

/* 1: the type has a method of its own in place of one of ours; 0: no; -1: exception. */
static int
queue_is_hooked(PyTypeObject *type, PyTypeObject *ours)
{
    static const char *const names[] = {"_init", "_put", "_get", "_qsize"};
    int differs = 0;
    for (int i = 0; i < 4 && !differs; i++) {
        PyObject *its = PyObject_GetAttrString((PyObject *)type, names[i]);
        PyObject *base = its ? PyObject_GetAttrString((PyObject *)ours, names[i]) : NULL;
        differs = base ? its != base : -1;
        Py_XDECREF(its);
        Py_XDECREF(base);
    }
    return differs;
}

/* ---- waiting ------------------------------------------------------------------------------- */
static void
queue_give_back(EgTask *task)
{
    EgItemQueue *self = (EgItemQueue *)task->wait.object; /* held by the getter's frame */
    PyObject *item = task->wait.value;                    /* ours now */
    task->wait.value = NULL;
    if (!item) /* it was told to try again, or that the queue is shut down */
        eg_queue_wake(&self->getters, NULL);
    else if (!eg_queue_wake(&self->getters, item))
        eg_returned_add(&self->returned, task, item);
}

static void
queue_pass_on_room(EgTask *task)
{
    EgItemQueue *self = (EgItemQueue *)task->wait.object;
    if (self->hooked)
        eg_queue_wake(&self->putters, NULL);
    else
        Py_CLEAR(task->wait.value); /* Py_None: the queue is shut down */
}

static const EgWaitKind queue_get_kind = {"queue get", queue_give_back};
static const EgWaitKind queue_put_kind = {"queue put", queue_pass_on_room};
static const EgWaitKind queue_join_kind = {"queue join", NULL};

static PyObject *
queue_raise(PyObject *exception)
{
    PyErr_SetNone(exception);
    return NULL;
}

/* (…, block=True, timeout=None). 1: may wait; 0: may not; -1: exception. */
static int
queue_parse_wait(PyObject *block, PyObject *timeout, uint64_t *deadline)
{
    int blocking = block ? PyObject_IsTrue(block) : 1;
    *deadline = EG_FOREVER;
    if (blocking < 1 || !timeout || timeout == Py_None)
        return blocking;
    double seconds;
    if (eg_clock_seconds(timeout, &seconds) < 0)
        return -1;
    if (seconds < 0) {
        PyErr_SetString(PyExc_ValueError, "'timeout' must be a non-negative number");
        return -1;
    }
    *deadline = eg_clock_after(seconds);
    return 1;
}

/* ---- put ----------------------------------------------------------------------------------- */
/* There is room. */
static int
queue_add(EgItemQueue *self, PyObject *item)
{
    if (self->hooked) {
        PyObject *result = PyObject_CallMethod((PyObject *)self, "_put", "O", item);
        if (!result)
            return -1;
        Py_DECREF(result);
        self->unfinished++;
        eg_queue_wake(&self->getters, NULL);
        return 0;
    }
    /* Whoever waits finds the queue empty: the item need not go through it. */
    if (self->getters.first && eg_queue_peek(&self->getters))
        eg_queue_wake(&self->getters, Py_NewRef(item));
    else if (items_add(self, item) < 0)
        return -1;
    self->unfinished++;
    return 0;
}

/* 1: there is room; 0: there is none; -1: exception. */
static int
queue_has_room(EgItemQueue *self)
{
    if (self->maxsize <= 0)
        return 1;
    Py_ssize_t size = queue_size(self);
    return size < 0 ? -1 : size < self->maxsize;
}

/* 1: put; 0: not in time; -1: exception. */
static int
queue_wait_put(EgItemQueue *self, PyObject *item, uint64_t deadline)
{
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    if (!self->hooked)
        me->wait.value = Py_NewRef(item); /* taken by queue_admit(), dropped by a failed park */
    eg_wait_join(me, &self->putters);
    int status = eg_wait_park(me, &queue_put_kind, (PyObject *)self, deadline);
    if (status > 0 && me->wait.value) {
        queue_raise(eg_state->queue_shut_down);
        status = -1;
    }
    Py_CLEAR(me->wait.value);
    return status;
}

static PyObject *
queue_put_item(EgItemQueue *self, PyObject *item, int blocking, uint64_t deadline)
{
    for (;;) {
        if (self->shut_down)
            return queue_raise(eg_state->queue_shut_down);
        int status = queue_has_room(self);
        if (status > 0)
            return queue_add(self, item) < 0 ? NULL : Py_NewRef(Py_None);
        if (status == 0 && blocking)
            status = queue_wait_put(self, item, deadline);
        if (status == 0)
            return queue_raise(eg_state->queue_full);
        if (status < 0)
            return NULL;
        if (!self->hooked)
            Py_RETURN_NONE; /* whoever made room has put it */
    }
}

PyDoc_STRVAR(queue_put_doc,
"put($self, /, item, block=True, timeout=None)\n"
"--\n"
"\n"
"Put an item into the queue, waiting for room, timeout seconds at most.\n"
"\n"
"Raise Full if there is none in time, or at once if block is false; ShutDown after\n"
"shutdown().");

static PyObject *
queue_put(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"item", "block", "timeout"};
    PyObject *values[3] = {NULL, NULL, NULL};
    uint64_t deadline = EG_FOREVER;
    int blocking = 1;
    if (EG_LIKELY(n == 1 && !kwnames))
        values[0] = args[0];
    else if (eg_parse("put", names, 3, 1, args, n, kwnames, values) < 0
             || (blocking = queue_parse_wait(values[1], values[2], &deadline)) < 0)
        return NULL;
    return queue_put_item((EgItemQueue *)op, values[0], blocking, deadline);
}

PyDoc_STRVAR(queue_put_nowait_doc,
"put_nowait($self, item, /)\n"
"--\n"
"\n"
"put(item, block=False)");

static PyObject *
queue_put_nowait(PyObject *op, PyObject *item)
{
    return queue_put_item((EgItemQueue *)op, item, 0, EG_FOREVER);
}

/* ---- get ----------------------------------------------------------------------------------- */
/* There may be room now: let in whoever waited longest to put something. */
static int
queue_admit(EgItemQueue *self)
{
    EgTask *putter;
    if (self->hooked) {
        eg_queue_wake(&self->putters, NULL);
        return 0;
    }
    while (queue_has_room(self) > 0 && (putter = eg_queue_peek(&self->putters))) {
        PyObject *item = putter->wait.value; /* ours now */
        eg_queue_wake(&self->putters, NULL);
        int status = queue_add(self, item);
        Py_DECREF(item);
        if (status < 0)
            return -1;
    }
    return 0;
}

static PyObject *
queue_take(EgItemQueue *self)
{
    PyObject *item =
        self->hooked ? PyObject_CallMethod((PyObject *)self, "_get", NULL) : items_get(self);
    if (item && self->putters.first && queue_admit(self) < 0)
        PyErr_WriteUnraisable((PyObject *)self); /* of the other task's item */
    return item;
}

static PyObject *
queue_get_item(EgItemQueue *self, int blocking, uint64_t deadline)
{
    for (;;) {
        Py_ssize_t size = queue_size(self);
        if (size > 0)
            return queue_take(self);
        if (size < 0)
            return NULL;
        if (self->shut_down)
            return queue_raise(eg_state->queue_shut_down);
        if (!blocking)
            return queue_raise(eg_state->queue_empty);
        EgTask *me = eg_wait_begin();
        if (!me)
            return NULL;
        eg_wait_join(me, &self->getters);
        int status = eg_wait_park(me, &queue_get_kind, (PyObject *)self, deadline);
        if (status <= 0)
            return status ? NULL : queue_raise(eg_state->queue_empty);
        PyObject *item = me->wait.value; /* ours now; NULL: try again */
        me->wait.value = NULL;
        if (item)
            return item;
    }
}

PyDoc_STRVAR(queue_get_doc,
"get($self, /, block=True, timeout=None)\n"
"--\n"
"\n"
"Take an item from the queue, waiting for one, timeout seconds at most.\n"
"\n"
"Raise Empty if there is none in time, or at once if block is false; ShutDown if the\n"
"queue was shut down and is empty.");

static PyObject *
queue_get(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"block", "timeout"};
    PyObject *values[2] = {NULL, NULL};
    uint64_t deadline = EG_FOREVER;
    int blocking = 1;
    if (EG_UNLIKELY(n || kwnames)
        && (eg_parse("get", names, 2, 0, args, n, kwnames, values) < 0
            || (blocking = queue_parse_wait(values[0], values[1], &deadline)) < 0))
        return NULL;
    return queue_get_item((EgItemQueue *)op, blocking, deadline);
}

PyDoc_STRVAR(queue_get_nowait_doc,
"get_nowait($self, /)\n"
"--\n"
"\n"
"get(block=False)");

static PyObject *
queue_get_nowait(PyObject *op, PyObject *unused)
{
    (void)unused;
    return queue_get_item((EgItemQueue *)op, 0, EG_FOREVER);
}

/* ---- how it stands ----------------------------------------------------------------------- */
PyDoc_STRVAR(queue_qsize_doc,
"qsize($self, /)\n"
"--\n"
"\n"
"Return how many items are in the queue now.");

static PyObject *
queue_qsize(PyObject *op, PyObject *unused)
{
    (void)unused;
    Py_ssize_t size = queue_size((EgItemQueue *)op);
    return size < 0 ? NULL : PyLong_FromSsize_t(size);
}

PyDoc_STRVAR(queue_empty_doc,
"empty($self, /)\n"
"--\n"
"\n"
"Return whether there is nothing in the queue now.");

static PyObject *
queue_is_empty(PyObject *op, PyObject *unused)
{
    (void)unused;
    Py_ssize_t size = queue_size((EgItemQueue *)op);
    return size < 0 ? NULL : PyBool_FromLong(size == 0);
}

PyDoc_STRVAR(queue_full_doc,
"full($self, /)\n"
"--\n"
"\n"
"Return whether there is no room in the queue now.");

static PyObject *
queue_is_full(PyObject *op, PyObject *unused)
{
    (void)unused;
    int room = queue_has_room((EgItemQueue *)op);
    return room < 0 ? NULL : PyBool_FromLong(!room);
}

EgQueue *
eg_queue_waitable(PyObject *op, bool *ready)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_ssize_t size = queue_size(self);
    if (size < 0)
        return NULL;
    *ready = size > 0 || self->shut_down;
    return &self->getters;
}

/* ---- unfinished work ------------------------------------------------------------------------ */
PyDoc_STRVAR(queue_task_done_doc,
"task_done($self, /)\n"
"--\n"
"\n"
"Say that the work on one item is done.\n"
"\n"
"Raise ValueError if it is said more often than items were put.");

static PyObject *
queue_task_done(PyObject *op, PyObject *unused)
{
    EgItemQueue *self = (EgItemQueue *)op;
    (void)unused;
    if (self->unfinished <= 0) {
        PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
        return NULL;
    }
    if (--self->unfinished == 0)
        eg_queue_wake_all(&self->joiners);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(queue_join_doc,
"join($self, /)\n"
"--\n"
"\n"
"Wait until task_done() was called for every item that was put.");

static PyObject *
queue_join(PyObject *op, PyObject *unused)
{
    EgItemQueue *self = (EgItemQueue *)op;
    (void)unused;
    while (self->unfinished) {
        EgTask *me = eg_wait_begin();
        if (!me)
            return NULL;
        eg_wait_join(me, &self->joiners);
        if (eg_wait_park(me, &queue_join_kind, op, EG_FOREVER) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(queue_shutdown_doc,
"shutdown($self, /, immediate=False)\n"
"--\n"
"\n"
"Have put() raise ShutDown from now on, and get() once the queue is empty.\n"
"\n"
"With immediate, drop what is in the queue, and count it as done.");

static PyObject *
queue_shutdown(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"immediate"};
    EgItemQueue *self = (EgItemQueue *)op;
    PyObject *value = NULL;
    if (eg_parse("shutdown", names, 1, 0, args, n, kwnames, &value) < 0)
        return NULL;
    int immediate = value ? PyObject_IsTrue(value) : 0;
    if (immediate < 0)
        return NULL;
    self->shut_down = true;
    EgTask *putter;
    while ((putter = eg_queue_peek(&self->putters))) {
        PyObject *item = putter->wait.value; /* ours now */
        eg_queue_wake(&self->putters, self->hooked ? NULL : Py_NewRef(Py_None));
        Py_XDECREF(item);
    }
    eg_queue_wake_all(&self->getters);
    Py_ssize_t size = 0;
    while (immediate && (size = queue_size(self)) > 0) {
        PyObject *item = queue_take(self);
        if (!item)
            return NULL;
        Py_DECREF(item);
        if (self->unfinished > 0)
            self->unfinished--;
    }
    if (size < 0)
        return NULL;
    if (self->unfinished == 0)
        eg_queue_wake_all(&self->joiners);
    Py_RETURN_NONE;
}

/* ---- the types ------------------------------------------------------------------------------ */
static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    PyTypeObject *ours =
        PyType_IsSubtype(type, eg_state->lifo_queue_type)       ? eg_state->lifo_queue_type
        : PyType_IsSubtype(type, eg_state->priority_queue_type) ? eg_state->priority_queue_type
                                                                : eg_state->queue_type;
    int hooked = type == ours ? 0 : queue_is_hooked(type, ours);
    EgItemQueue *self = hooked < 0 ? NULL : (EgItemQueue *)type->tp_alloc(type, 0);
    if (self) {
        self->hooked = hooked > 0;
        self->order = ours == eg_state->lifo_queue_type       ? EG_LIFO
                      : ours == eg_state->priority_queue_type ? EG_PRIORITY
                                                              : EG_FIFO;
    }
    return (PyObject *)self;
}

static int
queue_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"maxsize", NULL};
    EgItemQueue *self = (EgItemQueue *)op;
    Py_ssize_t maxsize = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:Queue", names, &maxsize))
        return -1;
    self->maxsize = maxsize;
    PyObject *result =
        self->hooked ? PyObject_CallMethod(op, "_init", "n", maxsize) : Py_NewRef(Py_None);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *
queue_repr(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_ssize_t size = queue_size(self);
    PyObject *name = size < 0 ? NULL : PyType_GetName(Py_TYPE(op)), *repr = NULL;
    if (name)
        repr = PyUnicode_FromFormat("<evergreen.%U at %p: %zd items, maxsize=%zd%s>", name, op,
                                    size, self->maxsize, self->shut_down ? ", shut down" : "");
    Py_XDECREF(name);
    return repr;
}

static int
queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->returned);
    if (self->order == EG_PRIORITY)
        Py_VISIT(self->heap);
    else
        for (size_t i = 0; self->items && i < self->items->count; i++)
            Py_VISIT(self->items->at[(self->items->head + i) & (self->items->size - 1)]);
    return 0;
}

static int
queue_clear(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_CLEAR(self->returned);
    if (self->order == EG_PRIORITY)
        Py_CLEAR(self->heap);
    while (self->order != EG_PRIORITY && self->items && self->items->count)
        Py_DECREF(items_take(self));
    return 0;
}

static void
queue_dealloc(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(op);
    queue_clear(op);
    if (self->order != EG_PRIORITY)
        PyMem_Free(self->items);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"put", EG_METHOD(queue_put), METH_FASTCALL | METH_KEYWORDS, queue_put_doc},
    {"get", EG_METHOD(queue_get), METH_FASTCALL | METH_KEYWORDS, queue_get_doc},
    {"put_nowait", queue_put_nowait, METH_O, queue_put_nowait_doc},
    {"get_nowait", queue_get_nowait, METH_NOARGS, queue_get_nowait_doc},
    {"qsize", queue_qsize, METH_NOARGS, queue_qsize_doc},
    {"empty", queue_is_empty, METH_NOARGS, queue_empty_doc},
    {"full", queue_is_full, METH_NOARGS, queue_full_doc},
    {"task_done", queue_task_done, METH_NOARGS, queue_task_done_doc},
    {"join", queue_join, METH_NOARGS, queue_join_doc},
    {"shutdown", EG_METHOD(queue_shutdown), METH_FASTCALL | METH_KEYWORDS, queue_shutdown_doc},
    {"_init", queue_hook_init, METH_O, NULL},
    {"_put", queue_hook_put, METH_O, NULL},
    {"_get", queue_hook_get, METH_NOARGS, NULL},
    {"_qsize", queue_hook_qsize, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef queue_members[] = {
    {"maxsize", T_PYSSIZET, offsetof(EgItemQueue, maxsize), 0,
     PyDoc_STR("How many items there is room for; 0 or less: as many as you like.")},
    {"unfinished_tasks", T_PYSSIZET, offsetof(EgItemQueue, unfinished), READONLY,
     PyDoc_STR("Items that were put and for which task_done() was not called.")},
    {"is_shutdown", T_BOOL, offsetof(EgItemQueue, shut_down), READONLY,
     PyDoc_STR("Whether shutdown() was called.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgItemQueue, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(queue_doc,
"Queue(maxsize=0)\n"
"--\n"
"\n"
"Items from those who put them to those who get them, first in, first out.\n"
"\n"
"It works between tasks, event loops and native threads. With a maxsize above 0, put()\n"
"waits while there are so many items in it.");

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, (void *)queue_doc},   {Py_tp_new, queue_new},
    {Py_tp_init, queue_init},         {Py_tp_repr, queue_repr},
    {Py_tp_traverse, queue_traverse}, {Py_tp_clear, queue_clear},
    {Py_tp_dealloc, queue_dealloc},   {Py_tp_methods, queue_methods},
    {Py_tp_members, queue_members},   {0, NULL},
};

PyType_Spec eg_queue_spec = {
    .name = "evergreen.queue.Queue",
    .basicsize = sizeof(EgItemQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = queue_slots,
};

PyDoc_STRVAR(lifo_queue_doc,
"LifoQueue(maxsize=0)\n"
"--\n"
"\n"
"A Queue that gives the newest item first.");

static PyType_Slot lifo_queue_slots[] = {{Py_tp_doc, (void *)lifo_queue_doc}, {0, NULL}};

PyType_Spec eg_lifo_queue_spec = {
    .name = "evergreen.queue.LifoQueue",
    .basicsize = sizeof(EgItemQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = lifo_queue_slots,
};

PyDoc_STRVAR(priority_queue_doc,
"PriorityQueue(maxsize=0)\n"
"--\n"
"\n"
"A Queue that gives the smallest item first; (priority, item) tuples are usual.");

static PyType_Slot priority_queue_slots[] = {{Py_tp_doc, (void *)priority_queue_doc}, {0, NULL}};

PyType_Spec eg_priority_queue_spec = {
    .name = "evergreen.queue.PriorityQueue",
    .basicsize = sizeof(EgItemQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = priority_queue_slots,
};
