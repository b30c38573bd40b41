/* timer.c: deadlines, by the hundred thousand.
 *
 * Timers due in the same tick share a bucket, a list in order of arrival.  A hash finds the
 * bucket of a tick, a binary heap the earliest one.  So starting and
 * stopping a timer is O(1) however many there are, and a million sleepers cost as much
 * each as a thousand.  A bucket whose timers were all stopped stays in the heap until its
 * time comes or until such buckets are in the majority.
 *
 * There are 64 ticks in a millisecond, for waits shorter than that; the deadlines of longer ones
 * are whole milliseconds (clock.c), because epoll and libuv count in them.  Rounded up, so never
 * early.
 */
#include "evergreen.h"

#define TICK_NS 15625u
#define SPARE_MAX 256

struct EgBucket {
    EgTimer head; /* of the circular list; its bucket is NULL */
    uint64_t tick;
    EgBucket *chain; /* in the hash, or among the spare ones */
    size_t index;    /* in the heap */
};

static uint64_t
timer_tick(uint64_t ns)
{
    return ns / TICK_NS + (ns % TICK_NS != 0);
}

/* ---- the hash ------------------------------------------------------------ */
static inline EgBucket **
hash_slot(EgTimers *timers, uint64_t tick)
{
    return &timers->hash[(tick * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (timers->hash_size - 1)];
}

static EgBucket *
hash_find(EgTimers *timers, uint64_t tick)
{
    if (timers->last && timers->last->tick == tick)
        return timers->last;
    EgBucket *bucket = timers->hash_size ? *hash_slot(timers, tick) : NULL;
    while (bucket && bucket->tick != tick)
        bucket = bucket->chain;
    return bucket;
}

static void
hash_remove(EgTimers *timers, EgBucket *bucket)
{
    EgBucket **slot = hash_slot(timers, bucket->tick);
    while (*slot != bucket)
        slot = &(*slot)->chain;
    *slot = bucket->chain;
    if (timers->last == bucket)
        timers->last = NULL;
}

static int
hash_grow(EgTimers *timers)
{
    size_t size = timers->hash_size ? timers->hash_size * 2 : 64;
    EgBucket **hash = PyMem_RawCalloc(size, sizeof *hash);
    if (!hash)
        return -1;
    PyMem_RawFree(timers->hash);
    timers->hash = hash;
    timers->hash_size = size;
    for (size_t i = 0; i < timers->nheap; i++) {
        EgBucket *bucket = timers->heap[i], **slot = hash_slot(timers, bucket->tick);
        bucket->chain = *slot;
        *slot = bucket;
    }
    return 0;
}

/* ---- the heap ------------------------------------------------------------ */
static void
heap_up(EgTimers *timers, size_t i, EgBucket *bucket)
{
    while (i > 0 && timers->heap[(i - 1) / 2]->tick > bucket->tick) {
        timers->heap[i] = timers->heap[(i - 1) / 2];
        timers->heap[i]->index = i;
        i = (i - 1) / 2;
    }
    timers->heap[i] = bucket;
    bucket->index = i;
}

static void
heap_down(EgTimers *timers, size_t i, EgBucket *bucket)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= timers->nheap)
            break;
        if (child + 1 < timers->nheap && timers->heap[child + 1]->tick < timers->heap[child]->tick)
            child++;
        if (timers->heap[child]->tick >= bucket->tick)
            break;
        timers->heap[i] = timers->heap[child];
        timers->heap[i]->index = i;
        i = child;
    }
    timers->heap[i] = bucket;
    bucket->index = i;
}

static void
heap_pop(EgTimers *timers)
{
    EgBucket *last = timers->heap[--timers->nheap];
    if (timers->nheap)
        heap_down(timers, 0, last);
}

/* ---- buckets ------------------------------------------------------------- */
static bool
bucket_is_empty(const EgBucket *bucket)
{
    return bucket->head.next == &bucket->head;
}

static void
bucket_free(EgTimers *timers, EgBucket *bucket)
{
    hash_remove(timers, bucket);
    if (timers->nspare < SPARE_MAX) {
        bucket->chain = timers->spare;
        timers->spare = bucket;
        timers->nspare++;
    } else
        PyMem_RawFree(bucket);
}

static EgBucket *
bucket_make(EgTimers *timers, uint64_t tick)
{
    if (timers->nheap == timers->heap_size) {
        size_t size = timers->heap_size ? timers->heap_size * 2 : 64;
        EgBucket **heap = PyMem_RawRealloc(timers->heap, size * sizeof *heap);
        if (!heap)
            return NULL;
        timers->heap = heap;
        timers->heap_size = size;
    }
    if (timers->nheap >= timers->hash_size && hash_grow(timers) < 0)
        return NULL;
    EgBucket *bucket = timers->spare;
    if (bucket) {
        timers->spare = bucket->chain;
        timers->nspare--;
    } else if (!(bucket = PyMem_RawMalloc(sizeof *bucket)))
        return NULL;
    bucket->head.prev = bucket->head.next = &bucket->head;
    bucket->head.bucket = NULL;
    bucket->tick = tick;
    EgBucket **slot = hash_slot(timers, tick);
    bucket->chain = *slot;
    *slot = bucket;
    heap_up(timers, timers->nheap++, bucket);
    timers->nempty++; /* its first timer takes this back */
    return bucket;
}

/* Throw the empty buckets out and order the heap anew: O(n), once per n/2 stops. */
static void
buckets_compact(EgTimers *timers)
{
    size_t kept = 0;
    for (size_t i = 0; i < timers->nheap; i++) {
        EgBucket *bucket = timers->heap[i];
        if (bucket_is_empty(bucket))
            bucket_free(timers, bucket);
        else
            timers->heap[kept++] = bucket;
    }
    timers->nheap = kept;
    timers->nempty = 0;
    for (size_t i = 0; i < kept; i++)
        timers->heap[i]->index = i;
    for (size_t i = kept / 2; i-- > 0;)
        heap_down(timers, i, timers->heap[i]);
}

/* ---- what the hub calls --------------------------------------------------- */
int
eg_timer_start(EgTimers *timers, EgTimer *timer, uint64_t deadline)
{
    uint64_t tick = timer_tick(deadline);
    EgBucket *bucket = hash_find(timers, tick);
    if (!bucket && !(bucket = bucket_make(timers, tick))) {
        PyErr_NoMemory();
        return -1;
    }
    if (bucket_is_empty(bucket))
        timers->nempty--;
    timers->last = bucket;
    timer->bucket = bucket;
    timer->next = &bucket->head;
    timer->prev = bucket->head.prev;
    timer->prev->next = timer;
    bucket->head.prev = timer;
    timers->armed += !timer->background;
    return 0;
}

void
eg_timer_stop(EgTimers *timers, EgTimer *timer)
{
    if (!eg_timer_armed(timer))
        return;
    timer->prev->next = timer->next;
    timer->next->prev = timer->prev;
    timer->next = timer->prev = NULL;
    timers->armed -= !timer->background;
    if (!bucket_is_empty(timer->bucket))
        return;
    if (++timers->nempty > 1024 && timers->nempty > timers->nheap / 2)
        buckets_compact(timers);
}

void
eg_timers_fire(EgTimers *timers, uint64_t now)
{
    uint64_t tick = now / TICK_NS;
    while (timers->nheap && timers->heap[0]->tick <= tick) {
        EgBucket *bucket = timers->heap[0];
        if (bucket_is_empty(bucket))
            timers->nempty--;
        while (!bucket_is_empty(bucket)) {
            EgTimer *timer = bucket->head.next;
            timer->next->prev = timer->prev;
            timer->prev->next = timer->next;
            timer->next = timer->prev = NULL;
            timers->armed -= !timer->background;
            timer->fire(timer);
        }
        heap_pop(timers);
        bucket_free(timers, bucket);
    }
}

uint64_t
eg_timers_next(EgTimers *timers)
{
    while (timers->nheap && bucket_is_empty(timers->heap[0])) {
        EgBucket *bucket = timers->heap[0];
        heap_pop(timers);
        bucket_free(timers, bucket);
        timers->nempty--;
    }
    return timers->nheap ? timers->heap[0]->tick * TICK_NS : EG_FOREVER;
}

void
eg_timers_drop(EgTimers *timers, bool (*keeps)(EgTimer *, const void *), const void *arg)
{
    for (size_t i = 0; i < timers->nheap; i++) {
        EgBucket *bucket = timers->heap[i];
        if (bucket_is_empty(bucket))
            continue;
        for (EgTimer *timer = bucket->head.next, *next; timer != &bucket->head; timer = next) {
            next = timer->next;
            if (keeps(timer, arg))
                continue;
            timer->next->prev = timer->prev;
            timer->prev->next = timer->next;
            timer->next = timer->prev = NULL;
            timers->armed -= !timer->background;
        }
        timers->nempty += bucket_is_empty(bucket);
    }
}

void
eg_timers_clear(EgTimers *timers)
{
    for (size_t i = 0; i < timers->nheap; i++) {
        EgBucket *bucket = timers->heap[i];
        while (!bucket_is_empty(bucket)) {
            EgTimer *timer = bucket->head.next;
            timer->next->prev = timer->prev;
            timer->prev->next = timer->next;
            timer->next = timer->prev = NULL;
        }
        PyMem_RawFree(bucket);
    }
    while (timers->spare) {
        EgBucket *bucket = timers->spare;
        timers->spare = bucket->chain;
        PyMem_RawFree(bucket);
    }
    PyMem_RawFree(timers->heap);
    PyMem_RawFree(timers->hash);
    memset(timers, 0, sizeof *timers);
}
