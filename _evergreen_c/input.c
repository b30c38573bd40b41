/* input.c: bytes that have come in and that nobody has read yet.
 *
 * They wait in a chain of chunks.  A little is copied into a chunk of just its size, so an
 * idle connection holds nothing; much was received straight into a bytes object, which is
 * handed to the reader as it is.  Those bytes objects are made beforehand, a few for each
 * hub, because libuv's callbacks make no PyObject: they only move the pointer.  When a poll has
 * used them up, the other streams wait for the next one, after the tasks have taken what came:
 * large messages then pass through the processor's cache, not through memory.
 *
 * What is chained in later is as large as all that waits before it, so a peer that sends
 * byte by byte to somebody who does not read costs amortised nothing.
 */
#include "evergreen.h"

struct EgChunk {
    EgChunk *next;
    PyObject *bytes;         /* strong; NULL: the data follow */
    size_t start, end, room; /* what is left of the data; how much there is place for */
    char data[];
};

static inline char *
chunk_data(EgChunk *chunk)
{
    return chunk->bytes ? PyBytes_AS_STRING(chunk->bytes) : chunk->data;
}

static void
chunk_free(EgChunk *chunk)
{
    Py_XDECREF(chunk->bytes);
    PyMem_RawFree(chunk);
}

static void
input_chain(EgInput *in, EgChunk *chunk)
{
    chunk->next = NULL;
    if (in->last)
        in->last->next = chunk;
    else
        in->first = chunk;
    in->last = chunk;
    in->size += chunk->end - chunk->start;
}

static EgChunk *
chunk_new(size_t room)
{
    EgChunk *chunk = PyMem_RawMalloc(sizeof *chunk + room);
    if (!chunk)
        return NULL;
    chunk->bytes = NULL;
    chunk->start = chunk->end = 0;
    chunk->room = room;
    return chunk;
}

/* ---- libuv's side: no reference is counted ----------------------------------------- */
void
eg_input_offer(EgSpares *spares, size_t wanted, uv_buf_t *buf)
{
    size_t size = wanted >= EG_BIG && wanted < EG_SPARE_SIZE ? wanted : EG_SPARE_SIZE;
    if (spares->n)
        *buf = uv_buf_init(PyBytes_AS_STRING(spares->bytes[spares->n - 1]), (unsigned)size);
    else
        *buf = uv_buf_init(NULL, 0); /* the read callback is told ENOBUFS */
}

int
eg_input_copy(EgInput *in, const char *data, size_t n)
{
    EgChunk *last = in->last;
    if (last && !last->bytes && last->room - last->end >= n) {
        memcpy(last->data + last->end, data, n);
        last->end += n;
        in->size += n;
        return 0;
    }
    if (!(last = chunk_new(n > in->size ? n : in->size)))
        return UV_ENOMEM;
    memcpy(last->data, data, n);
    last->end = n;
    input_chain(in, last);
    return 0;
}

int
eg_input_accept(EgInput *in, EgSpares *spares, size_t n)
{
    PyObject *bytes = spares->bytes[spares->n - 1];
    if (n < EG_BIG)
        return n ? eg_input_copy(in, PyBytes_AS_STRING(bytes), n) : 0;
    EgChunk *chunk = chunk_new(0);
    if (!chunk)
        return UV_ENOMEM;
    chunk->bytes = bytes; /* moved */
    spares->n--;
    chunk->end = n;
    input_chain(in, chunk);
    return 0;
}

/* ---- the hub's side: GIL held --------------------------------------------------------- */
/* Out of memory is no error yet: whoever then receives is told. */
void
eg_input_refill(EgSpares *spares)
{
    spares->failed = false;
    while (spares->n < EG_SPARES) {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, EG_SPARE_SIZE);
        if (!bytes) {
            PyErr_Clear();
            spares->failed = true;
            return;
        }
        spares->bytes[spares->n++] = bytes;
    }
}

void
eg_input_drop_spares(EgSpares *spares)
{
    while (spares->n)
        Py_DECREF(spares->bytes[--spares->n]);
}

static void
input_shift(EgInput *in)
{
    EgChunk *chunk = in->first;
    if (!(in->first = chunk->next))
        in->last = NULL;
    chunk_free(chunk);
}

void
eg_input_clear(EgInput *in)
{
    while (in->first)
        input_shift(in);
    in->size = 0;
}

void
eg_input_take(EgInput *in, char *to, size_t n)
{
    in->size -= n;
    while (n) {
        EgChunk *chunk = in->first;
        size_t part = chunk->end - chunk->start;
        if (part > n)
            part = n;
        if (to) {
            memcpy(to, chunk_data(chunk) + chunk->start, part);
            to += part;
        }
        chunk->start += part;
        n -= part;
        if (chunk->start == chunk->end)
            input_shift(in);
    }
}

PyObject *
eg_input_cut(PyObject *bytes, size_t n)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
#ifndef Py_TRACE_REFS        /* which has the addresses of all objects */
    PyObject *moved = NULL;  /* _PyBytes_Resize() frees it if there is no memory */
    if (n < size - size / 8) /* a little room behind it is cheaper than to cut it off */
        moved = PyObject_Realloc(bytes, offsetof(PyBytesObject, ob_sval) + n + 1);
    bytes = moved ? moved : bytes;
#endif
    Py_SET_SIZE(bytes, (Py_ssize_t)n);
    PyBytes_AS_STRING(bytes)[n] = '\0';
    return bytes;
}

PyObject *
eg_input_bytes(EgInput *in, size_t n)
{
    EgChunk *first = in->first;
    PyObject *bytes;
    if (n && first->bytes && first->start == 0 && first->end == n && Py_REFCNT(first->bytes) == 1) {
        bytes = first->bytes; /* ours now */
        first->bytes = NULL;
        in->size -= n;
        input_shift(in);
        return eg_input_cut(bytes, n);
    }
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (bytes)
        eg_input_take(in, PyBytes_AS_STRING(bytes), n);
    return bytes;
}

/* How much lies at its front in one piece. */
size_t
eg_input_front(const EgInput *in)
{
    return in->first ? in->first->end - in->first->start : 0;
}

const char *
eg_input_join(EgInput *in)
{
    EgChunk *first = in->first, *joined;
    if (!first)
        return "";
    if (first != in->last) {
        size_t size = in->size;
        if (!(joined = chunk_new(size * 2))) {
            PyErr_NoMemory();
            return NULL;
        }
        eg_input_take(in, joined->data, size);
        joined->end = size;
        input_chain(in, first = joined);
    }
    return chunk_data(first) + first->start;
}

PyObject *
eg_input_look(EgInput *in)
{
    EgChunk *first = in->first, *whole;
    if (!first)
        return PyBytes_FromStringAndSize(NULL, 0);
    if (first == in->last && first->bytes && first->start == 0
        && (size_t)PyBytes_GET_SIZE(first->bytes) == first->end)
        return Py_NewRef(first->bytes);
    size_t size = in->size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    if (!(whole = chunk_new(0))) {
        Py_DECREF(bytes);
        return PyErr_NoMemory();
    }
    eg_input_take(in, PyBytes_AS_STRING(bytes), size);
    whole->bytes = Py_NewRef(bytes);
    whole->end = size;
    input_chain(in, whole);
    return bytes;
}

int
eg_input_unread(EgInput *in, PyObject *bytes, const char *data, size_t n)
{
    EgChunk *chunk = chunk_new(bytes ? 0 : n);
    if (!chunk) {
        PyErr_NoMemory();
        return -1;
    }
    if ((chunk->bytes = Py_XNewRef(bytes)) == NULL)
        memcpy(chunk->data, data, n);
    chunk->end = n;
    chunk->next = in->first;
    in->first = chunk;
    if (!in->last)
        in->last = chunk;
    in->size += n;
    return 0;
}
