/* arena.c: memory that CPython gives back to the system and soon wants again.
 *
 * Two kinds of memory come from CPython's arena allocator, an mmap() and a munmap() each time,
 * with page faults and the kernel's clearing in between: the frame chunks of greenlets (16 KiB)
 * and the arenas of small objects (1 MiB).  A program that makes many tasks or callbacks at
 * once, and again a moment later, pays for both each time.  So freed ones are kept here, up to
 * a bound, behind PyObject_SetArenaAllocator(), and given back when the hub is idle.
 *
 * They stay genuine memory of the allocator before ours, so it does no harm if another library
 * puts its own in place later and frees them itself.
 */
#include "evergreen.h"

#define CHUNK_SIZE 16384       /* CPython's DATA_STACK_CHUNK_SIZE, in bytes */
#define CHUNKS_MAX 512         /* 8 MiB */
#define CHUNKS_KEPT 16         /* when idle */
#define OBJECTS_SIZE (1 << 20) /* its ARENA_SIZE */
#define OBJECTS_MAX 16         /* 16 MiB */

typedef struct {
    size_t size;
    int max, kept;
    int count;
    void **blocks;
} EgCache;

static PyObjectArenaAllocator arena_below; /* what was there before us */
static void *arena_chunk_blocks[CHUNKS_MAX], *arena_object_blocks[OBJECTS_MAX];
static EgCache arena_chunks = {CHUNK_SIZE, CHUNKS_MAX, CHUNKS_KEPT, 0, arena_chunk_blocks};
static EgCache arena_objects = {OBJECTS_SIZE, OBJECTS_MAX, 0, 0, arena_object_blocks};

static Py_ssize_t arena_smalls; /* small blocks that are in use */

static inline EgCache *
arena_cache(size_t size)
{
    return size == CHUNK_SIZE ? &arena_chunks : size == OBJECTS_SIZE ? &arena_objects : NULL;
}

static void *
arena_alloc(void *unused, size_t size)
{
    (void)unused;
    EgCache *cache = arena_cache(size);
    if (cache && cache->count)
        return cache->blocks[--cache->count];
    return arena_below.alloc(arena_below.ctx, size);
}

static void
arena_free(void *unused, void *block, size_t size)
{
    (void)unused;
    EgCache *cache = arena_cache(size);
    EgHub *hub = eg_hub_here;
    if (size < CHUNK_SIZE) { /* a greenlet was dropped in the middle */
        eg_arena_small_free(block);
        return;
    }
    if (!cache || !hub || cache->count == cache->max) { /* without a hub: who would trim it? */
        arena_below.free(arena_below.ctx, block, size);
        return;
    }
    cache->blocks[cache->count++] = block;
    if (cache->count > cache->kept)
        hub->trim_wanted = true;
}

void
eg_arena_setup(void)
{
    PyObjectArenaAllocator ours = {NULL, arena_alloc, arena_free};
    PyObject_GetArenaAllocator(&arena_below);
    if (arena_below.alloc != arena_alloc)
        PyObject_SetArenaAllocator(&ours);
}

bool
eg_arena_is_ours(void)
{
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    return now.free == arena_free;
}

/* ---- what stack.c gives CPython as if it were a block of the allocator ------------------- */
void *
eg_arena_small_alloc(size_t size)
{
    void *block = PyMem_RawMalloc(size);
    arena_smalls += block != NULL;
    return block;
}

void
eg_arena_small_free(void *block)
{
    arena_smalls--;
    PyMem_RawFree(block);
}

/* ---- giving back, and looking in ------------------------------------------------------------ */
static void
cache_trim(EgCache *cache)
{
    while (cache->count > cache->kept)
        arena_below.free(arena_below.ctx, cache->blocks[--cache->count], cache->size);
}

void
eg_arena_trim(void)
{
    cache_trim(&arena_chunks);
    cache_trim(&arena_objects);
}

PyObject *
eg_arena_stats(void)
{
    return Py_BuildValue("{s:n,s:i,s:i}", "small_chunks", arena_smalls, "cached_chunks",
                         arena_chunks.count, "cached_arenas", arena_objects.count);
}
