/* queue.c: Queue, LifoQueue and PriorityQueue, with the interface of module queue.
 *
 * An item goes straight from put() to the longest waiter, if there is one; a put() that waits
 * keeps its item in wait.value until get() makes room and takes it over.  So items and waiters
 * are served in the order in which they came, and nothing needs to be tried again.  An item
 * that was handed to a task which is then killed goes back, ahead of the others.
 *
 * Items of a PriorityQueue are compared, which may run Python and let other tasks and threads at
 * the queue: see heap_find().
 *
 * A subclass that has its own _init(), _put(), _get() or _qsize(), as those of the standard
 * library may, keeps its items where it likes.  These are called by one task or thread at a
 * time; waiters are woken to try again.
 */
#include "evergreen.h"

#include <structmember.h>

/* A ring of items, or a heap that begins at 0; from the heap, while there are any. */
typedef struct {
    size_t head, count, size; /* the size is a power of two */
    PyObject *at[];           /* strong */
} EgItems;

typedef enum { EG_FIFO, EG_LIFO, EG_PRIORITY } EgOrder;

typedef struct {
    PyObject_HEAD
    EgItems *items;     /* NULL: never had any */
    Py_ssize_t maxsize; /* <= 0: no limit */
    Py_ssize_t unfinished;
    EgQueue getters, putters, joiners;
    EgReturned *returned; /* handed to a getter that was killed; NULL: nothing */
    PyObject *guard;      /* strong: an RLock around a subclass's own methods; NULL: ours */
    PyObject *weakrefs;
    uint32_t changes; /* counts what changes the items */
    uint8_t order;    /* EgOrder */
    bool shut_down;
} EgItemQueue;

#define ITEMS_FIRST 8
#define ITEMS_KEPT 1024 /* room that an empty queue keeps */
#define DEPTH_MAX 64

/* What to do with the items may have become wrong while Python ran. */
enum { AGAIN = 0, DONE = 1 };

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
    self->changes++; /* heap_take() has a pointer to the old ones while it compares */
    return 0;
}

static Py_ssize_t
items_count(const EgItemQueue *self)
{
    return self->items ? (Py_ssize_t)self->items->count : 0;
}

/* Put it where items_find() said. */
static void
items_insert(EgItemQueue *self, PyObject *item, size_t place)
{
    EgItems *items = self->items;
    size_t i = items->count++;
    self->changes++;
    if (self->order == EG_PRIORITY)
        for (; i > place; i = (i - 1) / 2)
            items->at[i] = items->at[(i - 1) / 2];
    items->at[(items->head + i) & (items->size - 1)] = Py_NewRef(item);
}

static void
items_shrink(EgItemQueue *self)
{
    EgItems *items = self->items;
    self->changes++;
    if (--items->count == 0 && items->size > ITEMS_KEPT) {
        PyMem_Free(items);
        self->items = NULL;
    }
}

/* ---- a heap ---------------------------------------------------------------------------- */
/* 1: a < b; 0: not; 2: the items have changed meanwhile; -1: exception. */
static int
heap_less(EgItemQueue *self, PyObject *a, PyObject *b)
{
    uint32_t changes = self->changes;
    Py_INCREF(a);
    Py_INCREF(b);
    int less = PyObject_RichCompareBool(a, b, Py_LT);
    Py_DECREF(a);
    Py_DECREF(b);
    return less >= 0 && changes != self->changes ? 2 : less;
}

/* The place of an item in a heap of n. Comparing may run Python: so nothing is moved before all
 * is compared, and if the heap is not the same any more by then, the search is in vain.
 * DONE; AGAIN; -1: exception. */
static int
heap_find(EgItemQueue *self, PyObject *item, size_t n, size_t *place)
{
    int less = 1;
    for (*place = n; *place > 0; *place = (*place - 1) / 2)
        if ((less = heap_less(self, item, self->items->at[(*place - 1) / 2])) != 1)
            break;
    return less < 0 ? -1 : less == 2 ? AGAIN : DONE;
}

/* The smallest item; new. DONE; AGAIN; -1: exception. */
static int
heap_take(EgItemQueue *self, PyObject **item)
{
    EgItems *items = self->items;
    size_t path[DEPTH_MAX], depth = 0, n = items->count - 1, hole = 0, child;
    PyObject *last = items->at[n];
    int less;
    /* The hole that it leaves goes down along the smaller children, and the last one rises in it. */
    while ((child = 2 * hole + 1) < n) {
        less = child + 1 < n ? heap_less(self, items->at[child + 1], items->at[child]) : 0;
        if (less < 0 || less == 2)
            return less < 0 ? -1 : AGAIN;
        path[depth++] = hole = child + (size_t)less;
    }
    while (depth > 0 && (less = heap_less(self, last, items->at[path[depth - 1]])) != 0) {
        if (less != 1)
            return less < 0 ? -1 : AGAIN;
        depth--;
    }
    *item = items->at[0];
    hole = 0;
    for (size_t i = 0; i < depth; hole = path[i++])
        items->at[hole] = items->at[path[i]];
    items->at[hole] = last;
    items_shrink(self);
    return DONE;
}

/* ---- items, whatever their order ----------------------------------------------------------- */
/* Find a place for one more, which items_insert() can use while nothing changes.
 * DONE; AGAIN; -1: exception. */
static int
items_find(EgItemQueue *self, PyObject *item, size_t *place)
{
    if ((!self->items || self->items->count == self->items->size) && items_grow(self) < 0)
        return -1;
    *place = self->items->count;
    return self->order == EG_PRIORITY ? heap_find(self, item, *place, place) : DONE;
}

/* Among the others with what had been handed out as the only one. */
static int
items_restore(EgItemQueue *self)
{
    while (self->returned) {
        PyObject *item = Py_NewRef(eg_returned_first(self->returned));
        size_t place;
        int status = items_find(self, item, &place);
        if (status == DONE && self->returned && eg_returned_first(self->returned) == item) {
            items_insert(self, item, place);
            Py_DECREF(eg_returned_take(&self->returned, false)); /* the queue has one, too */
        }
        Py_DECREF(item);
        if (status < 0)
            return -1;
    }
    return 0;
}

/* From a queue that has some. DONE; AGAIN; -1: exception. */
static int
items_take(EgItemQueue *self, PyObject **item)
{
    EgItems *items = self->items;
    Py_ssize_t count = items_count(self);
    if (self->order == EG_PRIORITY) {
        if (!self->returned)
            return heap_take(self, item);
        if (items_restore(self) == 0)
            return AGAIN;
        if (!self->returned || !PyErr_ExceptionMatches(PyExc_TypeError))
            return -1;
        PyErr_Clear(); /* it cannot be compared with what came later: it comes first */
        count = 0;
    }
    /* What was given back is older than the others: it was handed out when there were none. */
    if (self->returned && (count == 0 || self->order == EG_FIFO)) {
        self->changes++;
        *item = eg_returned_take(&self->returned, self->order == EG_LIFO);
        return DONE;
    }
    if (self->order == EG_FIFO) {
        *item = items->at[items->head];
        items->head = (items->head + 1) & (items->size - 1);
    } else
        *item = items->at[(items->head + items->count - 1) & (items->size - 1)];
    items_shrink(self);
    return DONE;
}

/* ---- what a subclass may have its own way ---------------------------------------------- */
/* -1: exception; never without a guard. */
static Py_ssize_t
queue_size(EgItemQueue *self)
{
    if (EG_LIKELY(!self->guard))
        return items_count(self) + eg_returned_count(self->returned);
    PyObject *size = PyObject_CallMethod((PyObject *)self, "_qsize", NULL);
    Py_ssize_t n = size ? PyLong_AsSsize_t(size) : -1;
    Py_XDECREF(size);
    if (n < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "_qsize() should return >= 0");
    return Py_MAX(n, -1);
}

static int
queue_guard(EgItemQueue *self)
{
    PyObject *result = PyObject_CallMethod(self->guard, "acquire", NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* With or without an exception set. */
static void
queue_unguard(EgItemQueue *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *result = PyObject_CallMethod(self->guard, "release", NULL);
    if (!result)
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(result);
    PyErr_Restore(type, value, traceback);
}

/* queue_size() for those who have not got the guard. */
static Py_ssize_t
queue_size_guarded(EgItemQueue *self)
{
    if (EG_LIKELY(!self->guard))
        return queue_size(self);
    if (queue_guard(self) < 0)
        return -1;
    Py_ssize_t size = queue_size(self);
    queue_unguard(self);
    return size;
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
    EgItemQueue *self = (EgItemQueue *)op;
    size_t place;
    int status;
    while ((status = items_find(self, item, &place)) == AGAIN)
        continue;
    if (status < 0)
        return NULL;
    items_insert(self, item, place);
    Py_RETURN_NONE;
}

static PyObject *
queue_hook_get(PyObject *op, PyObject *unused)
{
    EgItemQueue *self = (EgItemQueue *)op;
    PyObject *item = NULL;
    int status = AGAIN;
    (void)unused;
    while (status == AGAIN && items_count(self))
        status = items_take(self, &item);
    if (status == AGAIN)
        PyErr_SetString(PyExc_IndexError, "the queue is empty");
    return item;
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
    else if (!eg_queue_hand_on(&self->getters, task, item)) {
        eg_returned_add(&self->returned, task, item);
        self->changes++;
    }
}

/* A putter finds NULL there: its item was put, or there is room for a subclass's. Else None: the
 * queue is shut down, or what comparing its item raised. */
static void
queue_pass_on_room(EgTask *task)
{
    EgItemQueue *self = (EgItemQueue *)task->wait.object;
    if (self->guard)
        eg_queue_wake(&self->putters, NULL);
    else
        Py_CLEAR(task->wait.value);
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
static bool
queue_has_getter(EgItemQueue *self)
{
    return self->getters.first && eg_queue_peek(&self->getters);
}

/* There is room. DONE; AGAIN; -1: exception. */
static int
queue_add(EgItemQueue *self, PyObject *item)
{
    /* Whoever waits finds the queue empty: the item need not go through it. */
    if (queue_has_getter(self))
        eg_queue_wake(&self->getters, Py_NewRef(item));
    else {
        size_t place;
        int status = items_find(self, item, &place);
        if (status != DONE)
            return status;
        items_insert(self, item, place);
    }
    self->unfinished++;
    return DONE;
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

/* Wait until somebody who made room has put the item. 1: that is so; 0: not in time;
 * -1: exception. */
static int
queue_wait_put(EgItemQueue *self, PyObject *item, uint64_t deadline)
{
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    me->wait.value = Py_NewRef(item); /* taken by queue_admit(), dropped by a failed park */
    eg_wait_join(me, &self->putters);
    int status = eg_wait_park(me, &queue_put_kind, (PyObject *)self, deadline);
    PyObject *value = me->wait.value; /* ours now */
    me->wait.value = NULL;
    if (status > 0 && value) {
        if (value == Py_None)
            queue_raise(eg_state->queue_shut_down);
        else
            PyErr_SetObject((PyObject *)Py_TYPE(value), value);
        status = -1;
    }
    Py_XDECREF(value);
    return status;
}

/* Leave the guard, wait to be woken, and take it again. 1: woken; 0: not in time, without the
 * guard; -1: exception, likewise. */
static int
queue_wait_unguarded(EgItemQueue *self, EgQueue *queue, const EgWaitKind *kind, uint64_t deadline)
{
    queue_unguard(self);
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    eg_wait_join(me, queue);
    int status = eg_wait_park(me, kind, (PyObject *)self, deadline);
    if (status <= 0)
        return status;
    if (queue_guard(self) == 0)
        return 1;
    eg_queue_wake(queue, NULL); /* it was our turn */
    return -1;
}

/* put() of a subclass that keeps the items. */
static PyObject *
queue_put_guarded(EgItemQueue *self, PyObject *item, int blocking, uint64_t deadline)
{
    PyObject *result = NULL;
    int status = queue_guard(self), woken = 0;
    if (status < 0)
        return NULL;
    for (;;) {
        if (self->shut_down) {
            queue_raise(eg_state->queue_shut_down);
            break;
        }
        if ((status = queue_has_room(self)) < 0)
            break;
        if (status > 0) {
            if (!(result = PyObject_CallMethod((PyObject *)self, "_put", "(O)", item)))
                break;
            Py_SETREF(result, Py_NewRef(Py_None));
            self->unfinished++;
            eg_queue_wake(&self->getters, NULL);
            woken = 0;
            break;
        }
        if (!blocking) {
            queue_raise(eg_state->queue_full);
            break;
        }
        woken = queue_wait_unguarded(self, &self->putters, &queue_put_kind, deadline);
        if (woken <= 0)
            return woken ? NULL : queue_raise(eg_state->queue_full);
    }
    if (woken)
        eg_queue_wake(&self->putters, NULL); /* the room is not used */
    queue_unguard(self);
    return result;
}

static PyObject *
queue_put_item(EgItemQueue *self, PyObject *item, int blocking, uint64_t deadline)
{
    if (EG_UNLIKELY(self->guard != NULL))
        return queue_put_guarded(self, item, blocking, deadline);
    for (;;) {
        if (self->shut_down)
            return queue_raise(eg_state->queue_shut_down);
        int status;
        if (queue_has_room(self) > 0) { /* never -1: it has no guard */
            if ((status = queue_add(self, item)) == AGAIN)
                continue;
        } else if ((status = blocking ? queue_wait_put(self, item, deadline) : 0) == 0)
            return queue_raise(eg_state->queue_full);
        return status < 0 ? NULL : Py_NewRef(Py_None);
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
static void
queue_admit(EgItemQueue *self)
{
    EgTask *putter;
    while (queue_has_room(self) > 0 && (putter = eg_queue_peek(&self->putters))) {
        PyObject *item = Py_NewRef(putter->wait.value), *failed = NULL;
        size_t place = 0;
        int status = items_find(self, item, &place);
        if (status < 0)
            failed = eg_task_take_exception();
        /* Python may have run: is it still so? */
        if (status != AGAIN && eg_queue_peek(&self->putters) == putter
            && putter->wait.value == item) {
            putter->wait.value = NULL;
            eg_queue_wake(&self->putters, failed);
            failed = NULL; /* the putter's */
            if (status == DONE) {
                items_insert(self, item, place);
                self->unfinished++;
            }
            Py_DECREF(item); /* the putter's */
        }
        Py_XDECREF(failed);
        Py_DECREF(item);
    }
}

/* get() of a subclass that keeps the items. */
static PyObject *
queue_get_guarded(EgItemQueue *self, int blocking, uint64_t deadline)
{
    PyObject *item = NULL;
    int woken = 0;
    if (queue_guard(self) < 0)
        return NULL;
    for (;;) {
        Py_ssize_t size = queue_size(self);
        if (size < 0)
            break;
        if (size > 0) {
            if ((item = PyObject_CallMethod((PyObject *)self, "_get", NULL))) {
                eg_queue_wake(&self->putters, NULL);
                woken = 0;
            }
            break;
        }
        if (self->shut_down || !blocking) {
            queue_raise(self->shut_down ? eg_state->queue_shut_down : eg_state->queue_empty);
            break;
        }
        woken = queue_wait_unguarded(self, &self->getters, &queue_get_kind, deadline);
        if (woken <= 0)
            return woken ? NULL : queue_raise(eg_state->queue_empty);
    }
    if (woken)
        eg_queue_wake(&self->getters, NULL); /* the item is still there */
    queue_unguard(self);
    return item;
}

/* Wait until it is handed an item. 1: *item is set, or NULL: try again; 0: not in time;
 * -1: exception. */
static int
queue_wait_get(EgItemQueue *self, PyObject **item, uint64_t deadline)
{
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    eg_wait_join(me, &self->getters);
    int status = eg_wait_park(me, &queue_get_kind, (PyObject *)self, deadline);
    *item = me->wait.value; /* ours now */
    me->wait.value = NULL;
    return status;
}

static PyObject *
queue_get_item(EgItemQueue *self, int blocking, uint64_t deadline)
{
    PyObject *item = NULL;
    if (EG_UNLIKELY(self->guard != NULL))
        return queue_get_guarded(self, blocking, deadline);
    while (!item) {
        if (queue_size(self)) {
            if (items_take(self, &item) < 0)
                return NULL;
            if (item && self->putters.first)
                queue_admit(self);
        } else if (self->shut_down)
            return queue_raise(eg_state->queue_shut_down);
        else {
            int status = blocking ? queue_wait_get(self, &item, deadline) : 0;
            if (status <= 0)
                return status ? NULL : queue_raise(eg_state->queue_empty);
        }
    }
    return item;
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
    Py_ssize_t size = queue_size_guarded((EgItemQueue *)op);
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
    Py_ssize_t size = queue_size_guarded((EgItemQueue *)op);
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
    Py_ssize_t size = queue_size_guarded((EgItemQueue *)op), most = ((EgItemQueue *)op)->maxsize;
    return size < 0 ? NULL : PyBool_FromLong(most > 0 && size >= most);
}

EgQueue *
eg_queue_waitable(PyObject *op, bool *ready)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_ssize_t size = queue_size_guarded(self);
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

/* Take everything out, as done. -1: exception. */
static int
queue_drain(EgItemQueue *self)
{
    int status = self->guard ? queue_guard(self) : 0;
    if (status < 0)
        return -1;
    while (status >= 0) {
        PyObject *item = NULL;
        Py_ssize_t size = queue_size(self);
        if (size <= 0) {
            status = (int)size;
            break;
        }
        if (self->guard)
            status = (item = PyObject_CallMethod((PyObject *)self, "_get", NULL)) ? 0 : -1;
        else if (self->returned)
            item = eg_returned_take(&self->returned, false);
        else if (self->order == EG_PRIORITY) {
            item = self->items->at[self->items->count - 1]; /* the order does not matter */
            items_shrink(self);
        } else
            status = items_take(self, &item);
        if (item && self->unfinished > 0)
            self->unfinished--;
        Py_XDECREF(item);
    }
    if (self->guard)
        queue_unguard(self);
    return status;
}

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
    self->changes++;
    EgTask *putter;
    while ((putter = eg_queue_peek(&self->putters))) {
        PyObject *item = putter->wait.value; /* ours now */
        eg_queue_wake(&self->putters, self->guard ? NULL : Py_NewRef(Py_None));
        Py_XDECREF(item);
    }
    eg_queue_wake_all(&self->getters);
    if (immediate && queue_drain(self) < 0)
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
        self->order = ours == eg_state->lifo_queue_type       ? EG_LIFO
                      : ours == eg_state->priority_queue_type ? EG_PRIORITY
                                                              : EG_FIFO;
        if (hooked && !(self->guard = PyObject_CallNoArgs((PyObject *)eg_state->rlock_type)))
            Py_CLEAR(self);
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
        self->guard ? PyObject_CallMethod(op, "_init", "n", maxsize) : Py_NewRef(Py_None);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *
queue_repr(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    Py_ssize_t size = queue_size_guarded(self);
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
    Py_VISIT(self->guard);
    for (size_t i = 0; self->items && i < self->items->count; i++)
        Py_VISIT(self->items->at[(self->items->head + i) & (self->items->size - 1)]);
    return eg_returned_visit(self->returned, visit, arg);
}

static int
queue_clear(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    eg_returned_clear(&self->returned);
    while (items_count(self)) {
        EgItems *items = self->items;
        PyObject *item = items->at[(items->head + items->count - 1) & (items->size - 1)];
        items_shrink(self);
        Py_DECREF(item);
    }
    return 0;
}

static void
queue_dealloc(PyObject *op)
{
    EgItemQueue *self = (EgItemQueue *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, queue_dealloc);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(op);
    queue_clear(op);
    Py_XDECREF(self->guard);
    PyMem_Free(self->items);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef queue_methods[] = {
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("A queue of items of some type.")},
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
