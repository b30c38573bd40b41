/* stack.c: the memory of Python frames in small greenlets.
 *
 * CPython keeps frames in chunks of 16 KiB from the arena allocator, one list of chunks per
 * thread, and greenlet gives each greenlet a list of its own.  So a greenlet that runs any
 * Python costs an mmap(), page faults and a munmap(): most of the price of a spawn and of a
 * parked task.  Two cures (the third is that park.c recycles greenlets):
 *
 *   - freed chunks are kept, up to a bound, behind PyObject_SetArenaAllocator().  They stay
 *     genuine chunks of the allocator before ours, so it does no harm if another library
 *     puts its own in place later and frees them itself;
 *   - a worker's first chunk is a small one from malloc.  It is put in before its first
 *     Python frame and taken out after its last.
 *
 * The second leans on members of PyThreadState, as greenlet does; where the version of
 * CPython is not known here, it is off.
 */
#include "evergreen.h"

#define CHUNK_SIZE 16384 /* CPython's DATA_STACK_CHUNK_SIZE, in bytes */
#define ROOT_SIZE 704    /* ours: room for a few frames; no size that an arena could have */
#define CACHE_MAX 512    /* 8 MiB */
#define CACHE_KEPT 16    /* when idle */

#if PY_VERSION_HEX < 0x03100000 && !defined(Py_GIL_DISABLED)
#define ROOT_CHUNKS 1
#else
#define ROOT_CHUNKS 0
#endif

static PyObjectArenaAllocator stack_below; /* what was there before us */
static void *stack_cache[CACHE_MAX];
static int stack_cached;
static Py_ssize_t stack_roots; /* small chunks in use */

static void *
stack_alloc(void *unused, size_t size)
{
    (void)unused;
    if (size == CHUNK_SIZE && stack_cached)
        return stack_cache[--stack_cached];
    return stack_below.alloc(stack_below.ctx, size);
}

static void
stack_free(void *unused, void *chunk, size_t size)
{
    (void)unused;
    if (size == ROOT_SIZE) { /* a greenlet was dropped in the middle */
        stack_roots--;
        PyMem_RawFree(chunk);
    } else if (size == CHUNK_SIZE && stack_cached < CACHE_MAX)
        stack_cache[stack_cached++] = chunk;
    else
        stack_below.free(stack_below.ctx, chunk, size);
}

void
eg_stack_setup(void)
{
    PyObjectArenaAllocator ours = {NULL, stack_alloc, stack_free};
    PyObject_GetArenaAllocator(&stack_below);
    if (stack_below.alloc != stack_alloc)
        PyObject_SetArenaAllocator(&ours);
}

void
eg_stack_trim(void)
{
    while (stack_cached > CACHE_KEPT)
        stack_below.free(stack_below.ctx, stack_cache[--stack_cached], CHUNK_SIZE);
}

#if ROOT_CHUNKS
void
eg_stack_install(void)
{
    PyThreadState *thread = PyThreadState_Get();
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    if (thread->datastack_chunk || now.free != stack_free)
        return; /* somebody else would free it, and not know what it is */
    _PyStackChunk *root = PyMem_RawMalloc(ROOT_SIZE);
    if (!root)
        return;
    root->previous = NULL;
    root->size = ROOT_SIZE;
    root->top = 0;
    thread->datastack_chunk = root;
    thread->datastack_top = &root->data[1]; /* as CPython does, so that it is never popped */
    thread->datastack_limit = (PyObject **)((char *)root + ROOT_SIZE);
    stack_roots++;
}

void
eg_stack_remove(void)
{
    PyThreadState *thread = PyThreadState_Get();
    _PyStackChunk *root = thread->datastack_chunk;
    if (!root || root->size != ROOT_SIZE || root->previous)
        return;
    thread->datastack_chunk = NULL;
    thread->datastack_top = thread->datastack_limit = NULL;
    stack_roots--;
    PyMem_RawFree(root);
}
#else
void
eg_stack_install(void)
{
}

void
eg_stack_remove(void)
{
}
#endif

PyObject *
eg_stack_stats(void)
{
    return Py_BuildValue("{s:n,s:i,s:O}", "small_chunks", stack_roots, "cached_chunks",
                         stack_cached, "small_chunks_on", ROOT_CHUNKS ? Py_True : Py_False);
}
