/* stack.c: the memory of Python frames in small greenlets.
 *
 * CPython keeps frames in chunks of 16 KiB from the arena allocator, one list of chunks per
 * thread, and greenlet gives each greenlet a list of its own.  So a greenlet that runs any
 * Python costs an mmap(), page faults and a munmap(): most of the price of a spawn and of a
 * parked task.  Two cures stand elsewhere: park.c recycles greenlets, and arena.c keeps freed
 * chunks.  Here is the third: a worker's first chunk is a small one from malloc.  It is put in
 * before its first Python frame and taken out after its last.
 *
 * This leans on members of PyThreadState, as greenlet does; where the version of CPython is
 * not known here, it is off.
 */
#include "evergreen.h"

#define ROOT_SIZE 704 /* room for a few frames; no size that an arena could have */

#if PY_VERSION_HEX < 0x03100000 && !defined(Py_GIL_DISABLED)
#define ROOT_CHUNKS 1
#else
#define ROOT_CHUNKS 0
#endif

#if ROOT_CHUNKS
void
eg_stack_install(void)
{
    PyThreadState *thread = PyThreadState_Get();
    if (thread->datastack_chunk || !eg_arena_is_ours())
        return; /* somebody else would free it, and not know what it is */
    _PyStackChunk *root = eg_arena_small_alloc(ROOT_SIZE);
    if (!root)
        return;
    root->previous = NULL;
    root->size = ROOT_SIZE;
    root->top = 0;
    thread->datastack_chunk = root;
    thread->datastack_top = &root->data[1]; /* as CPython does, so that it is never popped */
    thread->datastack_limit = (PyObject **)((char *)root + ROOT_SIZE);
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
    eg_arena_small_free(root);
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

bool
eg_stack_is_known(void)
{
    return ROOT_CHUNKS;
}
