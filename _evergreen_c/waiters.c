/* waiters.c: who waits for an object that is not ours.
 *
 * A native lock or queue has no room for waiting tasks, so a table has it: from the object's
 * address to a queue, which is there only while somebody waits.  Whoever waits holds a
 * reference to the object, so an address means one thing as long as it is in the table.
 */
#include "evergreen.h"

typedef struct EgPlace {
    EgQueue queue;
    PyObject *object; /* borrowed from those who wait */
    struct EgPlace *chain;
    Py_ssize_t users; /* waits that have not ended */
} EgPlace;

static EgPlace **waiters_table;
static size_t waiters_size, waiters_places; /* the size is a power of two */
Py_ssize_t eg_waiters_count;

static EgPlace **
waiters_slot(EgPlace **table, size_t size, PyObject *object)
{
    return &table[((uintptr_t)object * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (size - 1)];
}

static EgPlace **
waiters_find(PyObject *object)
{
    EgPlace **link = waiters_slot(waiters_table, waiters_size, object);
    while (*link && (*link)->object != object)
        link = &(*link)->chain;
    return link;
}

static int
waiters_grow(void)
{
    size_t size = waiters_size ? waiters_size * 2 : 64;
    EgPlace **table = PyMem_RawCalloc(size, sizeof *table), *place;
    if (!table) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < waiters_size; i++) {
        while ((place = waiters_table[i])) {
            waiters_table[i] = place->chain;
            place->chain = *waiters_slot(table, size, place->object);
            *waiters_slot(table, size, place->object) = place;
        }
    }
    PyMem_RawFree(waiters_table);
    waiters_table = table;
    waiters_size = size;
    return 0;
}

EgQueue *
eg_waiters_of(PyObject *object)
{
    EgPlace *place = eg_waiters_count ? *waiters_find(object) : NULL;
    return place ? &place->queue : NULL;
}

int
eg_waiters_join(EgTask *me, PyObject *object)
{
    if (waiters_places >= waiters_size && waiters_grow() < 0)
        return -1;
    EgPlace *place = *waiters_find(object);
    if (!place) {
        if (!(place = PyMem_RawCalloc(1, sizeof *place))) {
            PyErr_NoMemory();
            return -1;
        }
        EgPlace **slot = waiters_slot(waiters_table, waiters_size, object);
        place->object = object;
        place->chain = *slot;
        *slot = place;
        waiters_places++;
    }
    place->users++;
    eg_waiters_count++;
    eg_wait_join(me, &place->queue);
    return 0;
}

void
eg_waiters_leave(PyObject *object)
{
    EgPlace **link = waiters_find(object), *place = *link;
    eg_waiters_count--;
    if (--place->users == 0) {
        *link = place->chain;
        PyMem_RawFree(place);
        waiters_places--;
    }
    if (EG_UNLIKELY(eg_patch_lingers) && !eg_waiters_count)
        eg_patch_settle();
}
