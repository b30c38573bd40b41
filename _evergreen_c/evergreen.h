/* evergreen.h: what the core's files need of each other, one section per file.
 *
 * Read it from top to bottom to see how the core is built: nodes wait on a ring,
 * tasks park on queues, timers and file descriptors complete their waits, one
 * function switches greenlets, and the patches stand on all of that.
 *
 * Three rules hold everywhere:
 *   - libuv's callbacks record and push a node; they touch no PyObject;
 *   - greenlets are switched in park.c alone;
 *   - nothing that libuv or another greenlet can reach lives on a C stack.
 *
 * Everything but libuv's callbacks runs with the GIL held, and the GIL is the lock
 * of every structure here, also between the hubs of different threads.
 */
#ifndef EVERGREEN_H
#define EVERGREEN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <greenlet/greenlet.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct EgHub EgHub;
typedef struct EgTask EgTask;
typedef struct EgState EgState;
typedef struct EgSignals EgSignals;
typedef struct EgMailbox EgMailbox;
typedef struct EgWires EgWires;
typedef struct EgLater EgLater;

/* The object around a member; the comparison has the compiler check the member's type. */
#define EG_OWNER(ptr, type, member) \
    ((type *)((char *)(1 ? (ptr) : &((type *)0)->member) - offsetof(type, member)))

/* The one cast between C function types: methods of a given calling convention. */
#define EG_METHOD(fn) ((PyCFunction)(void (*)(void))(fn))

/* Thread-local, at a fixed offset where the C library has room for that in a loaded module. */
#ifdef __GLIBC__
#define EG_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define EG_THREAD_LOCAL _Thread_local
#endif

#define EG_LIKELY(x) __builtin_expect(!!(x), 1)
#define EG_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* A call less is a frame less to copy when greenlets switch. */
#define EG_INLINE inline __attribute__((always_inline))
#define EG_COLD __attribute__((noinline, cold))

/* ---- module.c: the module and what its files share --------------------- */
struct EgState {
    PyTypeObject *loop_type; /* strong, as all of these */
    PyTypeObject *task_type;
    PyTypeObject *handler_type;
    PyTypeObject *timer_type;
    PyTypeObject *watcher_type;
    PyTypeObject *event_type;
    PyTypeObject *channel_type;
    PyTypeObject *stream_type;
    PyTypeObject *tcp_type, *pipe_type, *tty_type, *udp_type, *tls_type;
    PyTypeObject *semaphore_type;
    PyTypeObject *bounded_semaphore_type;
    PyTypeObject *lock_type;
    PyTypeObject *rlock_type;
    PyTypeObject *condition_type;
    PyTypeObject *barrier_type;
    PyTypeObject *queue_type;
    PyTypeObject *lifo_queue_type;
    PyTypeObject *priority_queue_type;
    PyTypeObject *watch_type;
    PyTypeObject *scope_type;
    PyTypeObject *timeout_type;
    PyTypeObject *fail_after_type;
    PyTypeObject *move_on_after_type;
    PyTypeObject *shield_type;
    PyTypeObject *group_type;
    PyTypeObject *local_type;
    PyTypeObject *local_entry_type;
    PyTypeObject *future_type, *answer_type;
    PyObject *answer_yes, *answer_no; /* what Future.done and Future.cancelled say */
    PyTypeObject *fs_request_type;
    PyObject *task_exit; /* the exceptions this module makes */
    PyObject *deadlock;
    PyObject *broken_barrier;
    PyObject *channel_closed;
    PyObject *queue_empty, *queue_full, *queue_shut_down; /* of module queue, where it has them */
    PyObject *empty_tuple;
    PyObject *str_intruder; /* what one is told who switches to a parked greenlet */
    PyObject *str_exit, *str_run, *str_task_key, *str_trace_hook, *str_profile_hook;
    PyObject *threading_dict;        /* strong: the namespace of module threading */
    PyObject *policy;                /* module evergreen._policy, imported when first needed */
    PyInterpreterState *interpreter; /* the one that loaded this module; NULL: at its exit */
    PyInterpreterState *exiting;     /* the same, at its exit; else NULL */
    bool ended;                      /* it finalizes: nothing cooperates any more */
    EgHub *hubs;               /* every hub that is not destroyed; borrowed, linked by next_hub */
    unsigned long main_thread; /* the interpreter's, as Python counts identities */
    Py_ssize_t unobserved;     /* tasks that failed, and nobody knows yet */
    Py_ssize_t pool_threads;   /* native threads of our own: never a reason to wait for ever */
};
extern EG_THREAD_LOCAL Py_ssize_t eg_pool_thread; /* 1 in a native thread of our own */
extern EgState *eg_state; /* the module's; greenlet allows one interpreter */
PyObject *eg_policy_call(const char *name, PyObject *const *args, Py_ssize_t nargs);

/* ---- error.c: one place where a libuv status becomes an exception ------ */
PyObject *eg_error_raise(int status); /* always NULL, as all of them */
/* As self.error_cls, with a text of its own (NULL: the status's). */
PyObject *eg_error_raise_as(PyObject *self, int status, const char *text);
/* As os does for a call on one or two files (NULL: none): ENOMEM stays an OSError. */
PyObject *eg_error_raise_for_files(int status, PyObject *name, PyObject *other);
PyObject *eg_error_raise_status(PyObject *module, PyObject *status);
PyObject *eg_error_list(PyObject *module, PyObject *unused);

/* ---- arguments.c: positional and keyword arguments ---------------------- */
/* Sort args (as METH_FASTCALL | METH_KEYWORDS gives them) into values, which begin as NULL; the
 * first *required* names must be there. -1: TypeError set. */
int eg_parse(const char *function, const char *const *names, int max, int required,
             PyObject *const *args, Py_ssize_t n, PyObject *kwnames, PyObject **values);
/* What is in an iterable, which may change while Python runs for it; new. complaint: the text of
 * the TypeError if it is no iterable. */
PyObject *eg_parse_tuple(PyObject *iterable, const char *complaint);

/* ---- clock.c: time ----------------------------------------------------- */
#define EG_FOREVER UINT64_MAX
uint64_t eg_clock_now(void);                             /* ns, CLOCK_MONOTONIC */
int eg_clock_deadline(PyObject *timeout, uint64_t *ns);  /* None or seconds from now */
int eg_clock_seconds(PyObject *seconds, double *result); /* refuses what is no number, and NaN */
uint64_t eg_clock_after(double seconds);
uint64_t eg_clock_in(uint64_t ns);
uint64_t eg_clock_settle(uint64_t deadline); /* one that was made otherwise */

/* A cheap counter that only ever decides when to look at the real clock. */
static inline uint64_t
eg_clock_ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#else
    return uv_hrtime();
#endif
}

/* ---- ring.h: what can run, first in, first out ------------------------- */
typedef struct EgNode EgNode;
struct EgNode {
    EgNode *next;
    void (*run)(EgNode *); /* called on the hub's greenlet; NULL: the node of a task */
};

typedef struct {
    EgNode *first, *last;
} EgRing;

static inline void
eg_ring_push(EgRing *ring, EgNode *node)
{
    node->next = NULL;
    if (ring->last)
        ring->last->next = node;
    else
        ring->first = node;
    ring->last = node;
}

static inline EgNode *
eg_ring_pop(EgRing *ring)
{
    EgNode *node = ring->first;
    if (node && !(ring->first = node->next))
        ring->last = NULL;
    return node;
}

/* Behind *before*, which is in the ring; NULL: in front of all. */
static inline void
eg_ring_insert(EgRing *ring, EgNode *before, EgNode *node)
{
    EgNode **link = before ? &before->next : &ring->first;
    node->next = *link;
    *link = node;
    if (ring->last == before)
        ring->last = node;
}

/* Take one out, wherever it is; false: it is not there. */
static inline bool
eg_ring_remove(EgRing *ring, EgNode *node)
{
    EgNode *before = NULL, *at = ring->first;
    for (; at && at != node; at = at->next)
        before = at;
    if (!at)
        return false;
    *(before ? &before->next : &ring->first) = node->next;
    if (ring->last == node)
        ring->last = before;
    return true;
}

/* Move everything in *from* behind what is in *to*. */
static inline void
eg_ring_append(EgRing *to, EgRing *from)
{
    if (!from->first)
        return;
    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    from->first = from->last = NULL;
}

/* ---- timer.c: deadlines ------------------------------------------------ */
typedef struct EgTimer EgTimer;
typedef struct EgBucket EgBucket;
struct EgTimer {
    EgTimer *prev, *next; /* among those of the same tick; NULL: not armed */
    EgBucket *bucket;
    void (*fire)(EgTimer *); /* with the GIL, on any greenlet's stack: runs no Python */
    bool background;         /* does not keep the loop alive */
};

typedef struct {
    EgBucket **heap; /* by tick */
    EgBucket **hash; /* by tick */
    EgBucket *last;  /* the bucket used last, or NULL */
    EgBucket *spare; /* freed buckets, chained */
    size_t nheap, heap_size, hash_size;
    size_t nempty; /* buckets in the heap whose timers were all cancelled */
    size_t nspare;
    size_t armed; /* timers that keep the loop alive */
} EgTimers;

int eg_timer_start(EgTimers *, EgTimer *, uint64_t deadline); /* -1: MemoryError set */
/* Forget all but those of which *keeps* says so. */
void eg_timers_drop(EgTimers *, bool (*keeps)(EgTimer *, const void *), const void *arg);
void eg_timer_stop(EgTimers *, EgTimer *); /* harmless when not armed */
void eg_timers_fire(EgTimers *, uint64_t now);
uint64_t eg_timers_next(EgTimers *); /* ns, EG_FOREVER if there is none */
void eg_timers_clear(EgTimers *);    /* forget and free everything */
static inline bool
eg_timer_armed(const EgTimer *timer)
{
    return timer->next != NULL;
}

/* ---- wait.c: queues of waiters, and how a wait ends --------------------- */
typedef struct EgQueue EgQueue;

/* One place in one queue. */
typedef struct EgLink {
    struct EgLink *prev, *next; /* the first one's prev is the last one */
    EgQueue *queue;             /* NULL: in none */
    EgTask *task; /* borrowed: whoever waits is alive; NULL: this is part of an EgBell */
} EgLink;

/* A place in a queue of one who takes nothing, but is told when it is its turn. */
typedef struct EgBell {
    EgLink link;
    void (*ring)(struct EgBell *); /* with the GIL: runs no Python; it is in no queue any more */
    bool closed;                   /* eg_fd_ring()'s: the descriptor is not there any more */
} EgBell;

struct EgQueue {
    EgLink *first;
};

typedef enum { EG_PENDING, EG_WOKEN, EG_TIMED_OUT, EG_THROWN } EgOutcome;

/* What kind of thing a task waits for. */
typedef struct {
    const char *name; /* as task dumps show it: "lock", "sleep", "channel receive" */
    /* Give back what was handed to a task that is killed before it runs; may be NULL. */
    void (*give_back)(EgTask *);
} EgWaitKind;

/* What a task waits for; it is part of the task. */
typedef struct {
    EgOutcome outcome;
    int nlinks; /* a wait on several queues: so many links, from the heap */
    EgLink *links;
    EgLink link; /* the usual single queue */
    EgTimer deadline;
    uint64_t deadline_ns;
    uint64_t since; /* ns */
    const EgWaitKind *kind;
    PyObject *object; /* borrowed from the one who parks; NULL: nothing to name */
    PyObject *value;  /* strong; handed over by the waker, taken by the woken */
} EgWait;

/* A blocking operation is these three steps; between the second and the third nothing
 * may run Python or allocate an object that the collector tracks:
 *
 *     EgTask *me = eg_wait_begin();              NULL: may not block, or killed
 *     eg_wait_join(me, &queue);                  as often as there are wakers, or never
 *     switch (eg_wait_park(me, &kind, object, deadline)) ...
 */
EgTask *eg_wait_begin(void);
/* One step of a wait that has to come to its end. 1: woken; 0: something hit the caller: *exc,
 * new; -1: it may not wait here, exception set. */
int eg_wait_through(EgQueue *queue, const EgWaitKind *kind, PyObject *object, PyObject **exc);
/* Of all that hit it the last one counts, with the others as its context; steals exc. */
void eg_wait_collect(PyObject **hit, PyObject *exc);
void eg_wait_join(EgTask *me, EgQueue *queue);
/* 1: woken; 0: the deadline passed; -1: exception set. Nothing is registered afterwards. */
int eg_wait_park(EgTask *me, const EgWaitKind *kind, PyObject *object, uint64_t deadline);
int eg_wait_yield(EgTask *me); /* let everything else that is ready run once */
/* An operation that takes something yields first: a kill there loses nothing. An operation that
 * hands something over acts first, so that tasks are seen to act in the order in which they did,
 * and yields afterwards: then it has a result, so the next operation raises what is thrown at
 * the task meanwhile. eg_wait_check() is the beginning of the latter, eg_wait_give_way() the end.
 * Neither does anything where nobody may wait. 0; -1: exception. */
int eg_wait_meet(void); /* raise what was thrown at this task */
int eg_wait_give_way(void);

void eg_queue_add(EgQueue *, EgLink *, EgTask *);
void eg_queue_add_bell(EgQueue *, EgBell *, void (*ring)(EgBell *));
void eg_queue_remove(EgLink *); /* harmless when it is in none */
/* Wake the longest waiter with *value* (stolen; NULL for none): true if there was one. If
 * not, the value still belongs to the caller. */
bool eg_queue_wake(EgQueue *, PyObject *value);
EgTask *eg_queue_peek(EgQueue *); /* whom eg_queue_wake() would wake; borrowed, or NULL */
/* The same with what was handed to a task that was killed before it ran. */
bool eg_queue_hand_on(EgQueue *, EgTask *from, PyObject *value);
Py_ssize_t eg_queue_wake_all(EgQueue *);
bool eg_wait_wake(EgTask *, EgLink *by, PyObject *value); /* false: its wait was over */
/* Raise exc in the task at its wait, or at its next one; false: it has ended. A shielded task
 * meets it after the shield; eg_wait_interrupt() does not care. */
bool eg_wait_throw(EgTask *, PyObject *exc);
bool eg_wait_interrupt(EgTask *, PyObject *exc);
/* As eg_wait_throw(), but a task that only yields goes on to its next wait. */
bool eg_wait_kill(EgTask *, PyObject *exc);
int eg_shield_enter(EgTask *me);  /* -1: exception, and no shield */
void eg_shield_begin(EgTask *me); /* the same, raising nothing */
void eg_shield_leave(EgTask *me);
void eg_wait_visit_leave(EgTask *); /* take the task out of every queue it is in */
void eg_wait_settle(EgTask *); /* what was thrown at it while it was not parked, and is again */
void eg_wait_drop(EgTask *);   /* it waits no more, never runs, and is not handed anything */

/* An exception for a block of code that a task is in (its time is up, its group failed): raised
 * at a wait once nothing else is on its way, and no shield that is inside of the block is
 * entered. Whoever this is part of stays until release(), which runs no Python. */
struct EgLater {
    EgLater *next;
    PyObject *exc; /* borrowed from whoever this is part of */
    void (*release)(EgLater *, EgTask *);
    uint16_t shields; /* those around the block */
    bool pending;     /* neither raised nor forgotten */
};
void eg_later_throw(EgTask *, EgLater *, PyObject *exc);
/* The block ends: exc, if it was not raised, is not to be any more. True: it was not. */
bool eg_later_forget(EgTask *, EgLater *, PyObject *exc);
void eg_later_end(EgTask *); /* the task has ended */
/* An exception replaces one that is under way when it hits a task in its clean-up. What of those
 * replaced by exc, since *before* was handled, is for somebody farther out: a kill, or the
 * exception of a scope that is not left yet; borrowed, NULL: none. */
PyObject *eg_later_beneath(EgTask *, PyObject *exc, const PyObject *before);

/* Values that were handed to a task killed before it ran, in the order in which they had been
 * handed over; from the heap while there are any, else NULL. */
typedef struct EgReturned EgReturned;
void eg_returned_add(EgReturned **, EgTask *task, PyObject *value); /* steals value */
PyObject *eg_returned_take(EgReturned **, bool newest);             /* there is one */
PyObject *eg_returned_first(EgReturned *);                          /* borrowed */
Py_ssize_t eg_returned_count(const EgReturned *);
int eg_returned_visit(EgReturned *, visitproc visit, void *arg);
void eg_returned_clear(EgReturned **);

/* ---- watch.c: waiting for several things at once ---------------------------- */
extern PyType_Spec eg_watch_spec;
/* Where one waits for an object, and whether there is no need to. One for each kind: */
EgQueue *eg_task_waitable(PyObject *op, bool *ready);
EgQueue *eg_event_waitable(PyObject *op, bool *ready);
EgQueue *eg_channel_waitable(PyObject *op, bool *ready);
EgQueue *eg_queue_waitable(PyObject *op, bool *ready);
EgQueue *eg_lock_waitable(PyObject *op, bool *ready); /* semaphores, too */

/* ---- waiters.c: who waits for an object that is not ours ------------------- */
extern Py_ssize_t eg_waiters_count;                /* waits that have not ended, for any object */
EgQueue *eg_waiters_of(PyObject *object);          /* NULL: nobody waits */
int eg_waiters_join(EgTask *me, PyObject *object); /* for eg_wait_join(); -1: MemoryError */
void eg_waiters_leave(PyObject *object);           /* after the park */

/* ---- park.c: the switch ------------------------------------------------- */
int eg_park_import(void);
PyObject *eg_park_current_greenlet(void);        /* borrowed */
PyObject *eg_park_root_greenlet(void);           /* borrowed: the thread's first one */
int eg_park_switch_away(EgHub *hub, EgTask *me); /* until someone makes me ready; -1: thrown */
int eg_park_hub_create(EgHub *hub);
void eg_park_workers_trim(EgHub *hub, int keep); /* from the hub's greenlet */
EgTask *eg_park_foreign_on(EgTask *owner);       /* parked on its stack; borrowed, NULL: none */
void eg_park_hub_end(EgHub *hub);
PyObject *eg_park_parent_greenlet(PyObject *greenlet); /* borrowed; NULL: it has none */
int eg_park_end_foreign(EgHub *hub);             /* raise GreenletExit in those that are parked */
void eg_park_drop_foreign(EgHub *hub);           /* those that are parked never go on */
void eg_park_raise(EgTask *task, PyObject *exc); /* where it switched away by hand */

/* ---- arena.c: memory that CPython gives back and soon wants again --------- */
void eg_arena_setup(void);
bool eg_arena_is_ours(void);             /* and not of a library that came later */
void eg_arena_trim(void);                /* give what is kept back to the system */
void *eg_arena_small_alloc(size_t size); /* CPython may free it as one of the allocator's */
void eg_arena_small_free(void *block);
PyObject *eg_arena_stats(void);

/* ---- stack.c: CPython's frame chunks of small greenlets ------------------ */
void eg_stack_install(void);  /* before a new greenlet's first Python frame */
void eg_stack_remove(void);   /* after its last */
bool eg_stack_is_known(void); /* else these do nothing */

/* ---- fd.c: readiness of file descriptors -------------------------------- */
enum {
    EG_READ = 1,
    EG_WRITE = 2,
    EG_URGENT = 4, /* urgent data, and whatever else is no data: eg_fd_wait_many() only */
    EG_POLLED =
        8, /* the caller has asked poll(2): a file that is always ready has no more to say */
};
typedef struct EgPoller EgPoller;
/* Wait until fd is ready for any of events. The caller has just tried and was told EAGAIN.
 * owner: the caller tells eg_fd_closing() before this object's descriptor is closed, so no system
 * call is needed to see whether the number still means its file. NULL: that is not so.
 * 1: ready (perhaps in vain: try again); 0: deadline; -1: exception (EBADF: closed). */
int eg_fd_wait(EgTask *me, int fd, int events, uint64_t deadline, const void *owner);
/* The same for several; eg_wait_begin() first. The arrays are copied. */
int eg_fd_wait_many(EgTask *me, Py_ssize_t n, const int *fds, const int *events,
                    const EgWaitKind *kind, uint64_t deadline);
/* For sockets of TCP: a read got less than there was room for; whether nothing came since. Then
 * eg_fd_wait() may come first. In a thread with a hub. */
void eg_fd_drained(int fd);
bool eg_fd_is_drained(int fd);
void eg_fd_closing(int fd); /* in every hub: wake its waiters with EBADF, forget it */
/* Have a bell ring when fd may be ready; the caller has tried. 0; > 0: no event tells; -1: exception.
 * When it rang, or was taken out of its queue: eg_fd_rung(). */
int eg_fd_ring(EgHub *hub, int fd, int event, EgBell *bell, void (*ring)(EgBell *));
void eg_fd_rung(EgHub *hub);
void eg_fd_leave(EgHub *hub); /* ring all bells: nobody waits any more */
int eg_fd_watch(EgHub *hub, int fd, int event, PyObject *handler); /* add_reader/writer */
int eg_fd_unwatch(EgHub *hub, int fd, int event); /* 1: there was one; 0: none; -1 */
/* Whether the hub has to poll here, and not in libuv, whose set is inside of this one. */
bool eg_fd_is_outer(EgHub *hub);
/* Sleep until the deadline; true: libuv has something to do. *fine*: not only to a millisecond. */
bool eg_fd_poll(EgHub *hub, uint64_t ns, bool fine);
int eg_fd_embed(EgHub *hub); /* libuv's set has to be the outer one from now on; -1: exception */
void eg_fd_after_poll(EgHub *hub); /* hand what libuv reported to the waiters */
void eg_fd_destroy(EgHub *hub);
int eg_fd_after_fork(EgHub *hub, bool keep); /* in the child; -1: exception */
void eg_fd_drop_set(EgHub *hub);             /* before that, and before eg_port_leave() */
/* For port.c. The epoll set, -1: there is none yet; whether that and libuv's are what they were;
 * have the set hold what it should, a new one if it was lost. */
int eg_fd_set(const EgHub *hub);
bool eg_fd_holds_each_other(EgHub *hub);
bool eg_fd_repair(EgHub *hub, bool lost);
void eg_fd_lose(EgHub *hub); /* its number is not to be closed */
int eg_fd_traverse(EgHub *hub, visitproc visit, void *arg);
Py_ssize_t eg_fd_active(EgHub *hub); /* waiters and watchers */
int eg_fd_known_below(void);         /* no hub knows a number that is as high, nor stands on it */

/* ---- task.c -------------------------------------------------------------- */
typedef enum { EG_NEW, EG_STARTED, EG_RUNNING, EG_PARKED, EG_ENDED } EgTaskState;
typedef enum {
    EG_TASK,    /* made by spawn() or Task() */
    EG_MAIN,    /* stands for the greenlet that was there before the hub */
    EG_FOREIGN, /* stands for a greenlet that somebody else made */
    EG_THREAD,  /* stands for a native thread without a hub */
    EG_VISITOR  /* signal handlers that run on the stack of a parked greenlet: interrupt.c */
} EgTaskRole;

/* What follows a task and is not in the thread state; objects are strong or NULL. */
typedef struct {
    PyObject *dict, *key, *sentinel; /* thread-local data */
    Py_tracefunc trace, profile;     /* sys.settrace(), sys.setprofile(); NULL: none */
    PyObject *trace_object, *profile_object;
    PyObject *running_loop;                /* also while it runs; this, and the next: asyncio's */
    PyObject *running_task;                /* from 3.14 */
    PyObject *first_iteration, *finalizer; /* sys.set_asyncgen_hooks() */
} EgKept;

struct EgTask {
    PyObject_HEAD
    EgNode ready;       /* on its hub's ring or inbox while queued */
    EgHub *hub;         /* strong; NULL in EG_THREAD */
    PyObject *greenlet; /* strong while it lives; EG_FOREIGN: borrowed, it owns the task */
    union {
        EgTask *next; /* among the hub's live tasks */
        EgTask *
            owner; /* strong; EG_FOREIGN: the task whose stack it runs on; EG_VISITOR: which is parked there */
    };
    union {
        EgTask *prev;            /* EG_TASK: likewise */
        EgTask *beneath;         /* EG_FOREIGN: strong; the task that was current before it */
        PyThread_type_lock bell; /* EG_THREAD: what its thread sleeps on */
    };
    PyObject *target, *args, *kwargs; /* strong until it has run */
    PyObject *name;                   /* strong, NULL: "Task-<number>" */
    PyObject *context;                /* strong from start to end; NULL: none */
    PyObject *result;                 /* strong; when ended: value, or exception if failed */
    PyObject *thrown;                 /* strong; to be raised at its next wait, NULL: nothing */
    PyObject *refused_for;            /* borrowed, never used: what they were refused for */
    PyObject *held;                   /* strong: list of what shields keep off; NULL: nothing */
    EgLater *later;                   /* what is thrown at it when nothing else is; or NULL */
    EgLater *coming;                  /* what *thrown* comes from, if from one of these */
    const PyObject *killed_by;        /* the kill that it met last; only ever compared */
    PyObject *group;                  /* strong: the TaskGroup it is in; NULL: none */
    EgTask *group_prev, *group_next;  /* EG_FOREIGN: among those that are parked */
    PyObject *dict, *weakrefs;
    EgKept kept;           /* while it is not its hub's resident: follow.c */
    PyObject *tstate_lock; /* strong; NULL: none: released when it ends, as a thread's is */
    EgQueue joiners;
    EgWait wait;
    uint32_t number;
    uint16_t shields; /* entered and not left */
    uint16_t tracing; /* trace functions that it is inside of, while it is parked */
    int16_t event;    /* of sys.monitoring, likewise */
    uint8_t state, role;
    uint8_t refused;    /* native calls that failed because of what is thrown: native.c */
    bool queued;        /* ready is on a ring or inbox */
    bool failed;        /* result is an exception */
    bool observed;      /* somebody took the exception */
    bool killed_early;  /* before start(), which then does nothing */
    bool unbound;       /* EG_FOREIGN: its greenlet forgot it while it was parked */
    bool signals;       /* runs signal handlers: whatever it raises goes to main */
    bool identified;    /* get_ident() was asked in it, as the next two: patch_thread.c */
    bool in_sqlite;     /* in a call that may park when the database is locked: patch_sqlite.c */
    bool is_thread;     /* was started as a thread: signals are the main thread's business */
    bool keeps_process; /* a thread that is no daemon: the process waits for it */
};

PyObject *eg_task_spawn(EgHub *hub, PyObject *target, PyObject *args, PyObject *kwargs);
/* A task for (callable, *args, **kwargs), not started; new; TypeError as spawn() has it. */
EgTask *eg_task_make(PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
/* TaskExit(reason), reason may be NULL; new. Out of memory: the MemoryError. */
PyObject *eg_task_make_exit(PyObject *reason);
int eg_task_kill(EgTask *, PyObject *reason); /* with a TaskExit; reason may be NULL */
EgTask *eg_task_for(EgHub *hub, EgTaskRole role, PyObject *greenlet);
/* The greenlet of an EG_FOREIGN task forgot it while it was parked, and goes on: it keeps it again. */
void eg_task_rebind(EgTask *);
int eg_task_start(EgTask *); /* -1: exception */
void eg_task_run(EgTask *);  /* on its own greenlet, up to its end */
/* A task that has not run ends with exc, or with the exception that is set if NULL. */
void eg_task_end_unrun(EgTask *, PyObject *exc);
void eg_task_report(EgTask *); /* its exception to the excepthook, unless observed */
PyObject *eg_task_name(EgTask *);
uint64_t eg_task_identity(void);        /* of the task or thread that runs; never 0 */
PyObject *eg_task_take_exception(void); /* the one that is set, as an instance */
/* The exception instance of (typ, value, tb) as throw() takes them; value, tb may be NULL. */
PyObject *eg_task_make_exception(PyObject *type, PyObject *value, PyObject *traceback);
PyObject *eg_task_switch_away(void); /* EventLoop.switch() */
extern PyType_Spec eg_task_spec;
PyObject *eg_task_spawn_method(PyObject *module, PyObject *const *args, Py_ssize_t n,
                               PyObject *kwnames);
extern const char eg_task_spawn_doc[];
PyObject *eg_task_sleep_method(PyObject *module, PyObject *const *args, Py_ssize_t n);
extern const char eg_task_sleep_doc[];

/* ---- handler.c: callbacks ------------------------------------------------ */
/* Each returns a new Handler; -> NULL: exception. kwnames as in vectorcall. */
PyObject *eg_handler_call_soon(EgHub *hub, PyObject *callback, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames);
PyObject *eg_handler_lasting(EgHub *hub, PyObject *callback, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
void eg_handler_schedule(PyObject *handler); /* once more, on its hub's ring */
PyObject *eg_handler_call_at(EgHub *hub, uint64_t deadline, PyObject *callback,
                             PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
void eg_handler_cancel(PyObject *handler);
extern PyType_Spec eg_handler_spec, eg_timer_spec, eg_watcher_spec;

/* ---- signal.c ------------------------------------------------------------ */
int eg_signal_open(EgHub *hub); /* of the main thread's hub; its wake-up pipe is made later */
void eg_signal_before_sleep(EgHub *hub);
void eg_signal_after_poll(EgHub *hub);
void eg_signal_close(EgHub *hub);
bool eg_signal_lacks_pipe(const EgHub *hub); /* eg_signal_repair() comes before its sleep */
void eg_signal_forget(EgHub *hub);           /* there are none to be handled */
bool eg_signal_happened(const EgHub *hub);   /* there is something to do after the poll */
bool eg_signal_owns(const EgHub *hub, int fd);
int eg_signal_pipe(const EgHub *hub); /* what libuv watches; -1: there is none yet */
int eg_signal_highest(const EgHub *hub);
bool eg_signal_is_well(const EgHub *hub);
bool eg_signal_repair(EgHub *hub); /* if its descriptors mean other files: new ones; false: errno */
void eg_signal_lose(EgHub *hub);   /* another file has that number */
void eg_signal_vacate(EgHub *hub); /* another file is about to get one of its numbers */
void eg_signal_doubt(EgHub *hub);  /* signals may have come without a byte */
EgQueue *eg_signal_handled(EgHub *hub); /* woken when handlers have run; NULL: not in this thread */
int eg_signal_after_fork(EgHub *hub);   /* in the child: without the parent's pipe; -1: exception */
void eg_signal_leave(EgHub *hub);       /* in the child, without that hub */
bool eg_signal_begin(EgHub *hub);       /* handlers are about to run; what eg_signal_end() wants */
void eg_signal_end(EgHub *hub, bool came);

/* ---- interrupt.c: signal handlers run as main ------------------------------ */
int eg_interrupt_setup(PyObject *module);
int eg_interrupt_open(EgHub *hub); /* the main thread's hub is there; -1: exception */
void eg_interrupt_close(void);
void eg_interrupt_after_fork(EgHub *hub, EgTask *me);
void eg_interrupt_ask(EgHub *hub);     /* have the handlers run next; runs no Python */
EgNode *eg_interrupt_asked(void);      /* what is on the ring for that; NULL: nothing */
EgTask *eg_interrupt_main(EgHub *hub); /* borrowed: the hub's task that is the main thread */
EgTask *eg_interrupt_top(EgHub *hub);  /* borrowed: the visitor in whose stead nobody runs; NULL */
/* For park.c. Whether a node is that of a visitor that has not begun; the greenlet to switch to for
 * it, or the hub's own: eg_interrupt_elsewhere(); and there, host being parked: */
bool eg_interrupt_is(const EgNode *node);
PyObject *eg_interrupt_target(EgHub *hub);
void eg_interrupt_visit(EgHub *hub, EgTask *host);
void eg_interrupt_elsewhere(EgHub *hub);

/* ---- port.c: the libuv loop of a hub, and its descriptors ------------------ */
typedef struct EgPort { /* from the heap */
    uv_loop_t uv;
    uv_async_t bell;  /* rung by other threads; the only handle of ours that is referenced */
    uv_timer_t clock; /* bounds a poll by the earliest deadline */
    unsigned turn;    /* what is asked next: port_is_intact() */
} EgPort;

int eg_port_setup(void); /* once a process; -1: exception */
int eg_port_open(EgHub *hub);
void eg_port_close(EgHub *hub);
/* Its loop, made if there is none (in a forked child), and mended if it was lost; NULL: exception. */
uv_loop_t *eg_port_uv(EgHub *hub);
void eg_port_leave(EgHub *hub); /* in a forked child: the parent's is left alone */
/* Before libuv runs. False: it may not, for there are no descriptors; so much time was slept away. */
bool eg_port_ready(EgHub *hub, uint64_t bare_ns);
bool eg_port_mend(EgHub *hub);           /* true: something was lost, and is well again */
void eg_port_ring(uv_async_t *bell);     /* end the sleep of its hub; from any thread */
int eg_port_reserve(EgHub *hub, int fd); /* have libuv find room for a number; its status */
int eg_port_move(EgHub *hub, uv__io_t *watcher, int fd); /* it watches another one; likewise */
void eg_port_settle(EgHub *hub); /* libuv has made a stream, and perhaps a descriptor of its own */
int eg_port_apart(int fd);       /* the same file, not as one of the standard streams; -1: errno */
int eg_port_highest(const EgHub *hub); /* of its own numbers, and libuv's */
bool eg_port_owns(int fd);             /* whether any hub would be lost without it */
void eg_port_vacate(int fd);           /* another file is about to get such a number */

/* ---- hub.c: the loop ------------------------------------------------------ */

struct EgHub {
    PyObject_HEAD
    EgRing ready;
    EgRing due;          /* what the timers made ready while others were */
    EgRing inbox;        /* pushed by other threads */
    EgTask *current;     /* borrowed; NULL while the hub's greenlet runs */
    EgNode *handoff;     /* what the greenlet that is switched to has to run; it makes this NULL */
    PyObject *ending;    /* borrowed: the greenlet that is switched to for it to end; or NULL */
    PyObject *finishing; /* borrowed: the worker that lets go of a task that has ended; or NULL */
    uint64_t slice_end;  /* in clock ticks: when to look at the loop with the ring busy */
    int budget;          /* switches until then */
    int forbidden;       /* > 0: Python runs where nothing may block */
    bool due_turn;       /* the last entry was from there */
    bool sleeping;       /* inside a poll that may sleep: wakers send uv_async */
    bool embedded;       /* fileno() was asked for: they always do */
    bool running;        /* inside run() */
    bool stopping;
    bool forever;
    bool destroyed;
    bool ended;      /* run() came to its end; the next one starts anew */
    EgNode deadlock; /* on the ring while a Deadlock is on its way */
    EgNode astray;   /* on the ring while tasks are to end that wait for nothing of ours */
    bool deadlocked;
    bool orphan; /* after fork() in a task: the process ends with that task */
    unsigned long thread;
    PyThreadState *state; /* of its thread */
    EgTimers timers;
    EgTimer trim; /* gives memory back when idle */
    EgNode trim_node;
    uint64_t ticks0, now0, slice_ticks; /* calibration of the tick counter */
    EgTask *main;                       /* strong */
    EgTask *foreign;    /* borrowed: the EG_FOREIGN tasks that are parked, the last one first */
    EgTask *tasks;      /* live tasks, borrowed: each holds itself by one reference */
    Py_ssize_t ntasks;  /* started and not ended, without main and foreign ones */
    Py_ssize_t pins;    /* work outside that will wake a task here */
    unsigned forks;     /* how often fork() has dropped them */
    PyObject *greenlet; /* strong: the hub's own */
    PyObject **idle;    /* strong: worker greenlets without a task */
    int nidle, idle_size;
    bool trim_wanted;
    EgQueue runner; /* main, while in run() */
    EgPort *port;
    EgPoller *poller;
    EgMailbox *mailbox; /* of work in native threads; NULL: there was none yet */
    EgKept kept;        /* its own greenlet's, while a task is resident */
    EgTask *resident;   /* borrowed: whose data is in the thread state, NULL: the hub's: follow.c */
    unsigned asyncio_age; /* of what is known of the loop that runs here: patch_asyncio.c */
    PyObject *for_main;   /* strong: list of exceptions that wait for their turn; NULL: none */
    EgSignals *signals;   /* in the main thread; else NULL */
    PyObject *excepthook; /* strong, NULL: the default */
    EgRing happened; /* by libuv's callbacks; run after the poll, with the GIL: eg_hub_happened() */
    EgWires *wires;  /* streams; NULL: there were none yet */
    PyObject *dict, *weakrefs;
    EgHub *next_hub;
    uint64_t switches, polls, started; /* counters for statistics */
};

/* The hub of this thread, or NULL; no exception. */
extern EG_THREAD_LOCAL EgHub *eg_hub_here;
EgHub *eg_hub_get(void);         /* borrowed; made on demand in the main thread */
EgTask *eg_hub_task(EgHub *hub); /* borrowed: who runs; NULL, no exception: the hub's greenlet */
void eg_hub_push(EgHub *hub, EgNode *node); /* make it runnable, from any thread */
static inline bool
eg_hub_ready(const EgHub *hub) /* something can run */
{
    return hub->ready.first || hub->due.first;
}
/* The next node to run; polls if there is none. ticks: what the counter says now. */
EgNode *eg_hub_next(EgHub *hub, uint64_t ticks);
EgHub *eg_hub_new(PyTypeObject *type); /* this thread's, which has none */
int eg_hub_destroy(EgHub *hub);        /* from its main greenlet; -1: exception */
void eg_hub_prepare(EgHub *hub);       /* set what is never zero */
void eg_hub_wake(EgHub *hub);          /* end its sleep, if another thread's is sleeping */
bool eg_hub_busy(EgHub *hub);          /* something outside can still wake somebody */
void eg_hub_poll(EgHub *hub, bool block);
/* For libuv's callbacks: have node->run(node) called after the poll, with the GIL held, on any
 * greenlet's stack; it may wake tasks and drop references, and runs no Python. */
static inline void
eg_hub_happened(EgHub *hub, EgNode *node)
{
    eg_ring_push(&hub->happened, node);
}
void eg_hub_after_poll(EgHub *hub);                                 /* call them */
uint64_t eg_hub_since(EgHub *hub, uint64_t ticks);                  /* clock ticks, as ns */
void eg_hub_report(EgHub *hub, const char *what, PyObject *object); /* the exception that is set */
void eg_hub_to_main(EgHub *hub, PyObject *exc); /* raise exc in the main greenlet */
void eg_hub_main_next(EgHub *hub);              /* it has met one: the next that was sent to it */
extern PyType_Spec eg_loop_spec;

/* See eg_wait_yield(). */
static inline int
eg_wait_check(void)
{
    const EgHub *hub = eg_hub_here;
    return EG_UNLIKELY(hub && hub->current && hub->current->thrown) ? eg_wait_meet() : 0;
}

/* Before an operation that takes something: a kill does not overtake the yield, and must not come
 * after what is taken, which would be lost. */
static inline int
eg_wait_yield_first(EgTask *me)
{
    return eg_wait_yield(me) < 0 ? -1 : eg_wait_check();
}

/* Whether others have to have their turn. */
static inline bool
eg_hub_slice_is_over(const EgHub *hub)
{
    return EG_UNLIKELY(eg_clock_ticks() >= hub->slice_end);
}

/* ---- exit.c: the end of the interpreter ------------------------------------- */
int eg_exit_setup(void);
bool
eg_exit_cooperates(void); /* for eg_hub_cooperates(), where the interpreter is not the usual one */
bool eg_exit_ended(void); /* whether it finalizes: from then on everything is native */
PyObject *eg_exit_begin(PyObject *module, PyObject *unused);
PyObject *eg_exit_collect(PyObject *module, PyObject *args);
PyObject *eg_exit_status(PyObject *module, PyObject *status);

/* Whether the code that runs now is in a task (or the main greenlet) of a hub: what a
 * patched function asks first. */
static inline bool
eg_hub_cooperates(void)
{
    /* A subinterpreter on a hub's thread shares the method tables, but not the tasks. */
    return eg_hub_here != NULL
           && (EG_LIKELY(PyInterpreterState_Get() == eg_state->interpreter)
               || eg_exit_cooperates());
}

/* ---- follow.c: what belongs to a thread follows the task that is one ---------- */
/* The task that is what a thread is natively: for a visitor the one that it visits, for a greenlet
 * that somebody else switches the one whose stack it runs on. */
static inline EgTask *
eg_task_owner(EgTask *task)
{
    while (EG_UNLIKELY(task->role == EG_VISITOR))
        task = task->owner;
    if (EG_LIKELY(task->role != EG_FOREIGN))
        return task;
    return task->owner && task->owner->state != EG_ENDED ? task->owner : task->hub->main;
}

typedef enum { EG_FOLLOW_THREAD, EG_FOLLOW_ASYNCIO, EG_FOLLOW_KINDS } EgFollow;
/* The thread state's data of one kind becomes *from*'s, and *to*'s goes there; NULL: the data of the
 * hub's own greenlet. Runs no Python. */
typedef void (*EgExchange)(EgHub *hub, EgTask *from, EgTask *to);
extern unsigned
    eg_follow; /* a bit for each kind that follows tasks now; 0: a switch moves nothing */
void eg_follow_leave(EgHub *hub, EgTask *me); /* me parks; as the next two, if eg_follow */
void eg_follow_enter(EgHub *hub, EgTask *me); /* me goes on; NULL: the hub's own greenlet */
void eg_follow_move(EgHub *hub, EgTask *me);  /* me is found to run, on whatever stack */
void eg_follow_end(EgTask *me);               /* me ends: its data leaves the thread state */
/* A kind begins to follow, in all hubs: what their thread states have is their current tasks'. */
void eg_follow_begin(EgFollow kind, EgExchange exchange);
void eg_follow_stop(EgFollow kind);
static inline bool
eg_follow_on(EgFollow kind)
{
    return eg_follow & 1u << kind;
}
EgKept *eg_follow_kept(EgHub *hub, EgTask *task); /* task NULL: the hub's own greenlet's */
int eg_follow_visit(EgKept *kept, visitproc visit, void *arg);
void eg_follow_clear(EgKept *kept);

/* ---- trace.c: debuggers see tasks as they see threads ------------------------ */
bool eg_trace_wanted(void);
void eg_trace_start(void); /* apply threading.gettrace() and getprofile() to this thread */
void eg_trace_exchange(EgHub *hub, EgTask *from, EgTask *to); /* as an EgExchange */
void eg_trace_leave(EgHub *hub, EgTask *me); /* me parks, inside of a trace function or not */
void eg_trace_enter(EgHub *hub, EgTask *me); /* me goes on; NULL: the hub's own greenlet */
void eg_trace_end(EgTask *me);               /* me, which runs, ends: it is not traced any more */
void eg_trace_share(void);                   /* the tasks that live are traced as main is */

/* ---- input.c: bytes that have come in and were not read yet ------------------------ */
#define EG_BIG 16384 /* bytes: from here on a copy costs more than a bytes object of its own */
#define EG_SPARES 4
#define EG_SPARE_SIZE 69632 /* 64 KiB, and some more, so that 64 KiB at once is a short read */

typedef struct EgChunk EgChunk;
typedef struct {
    EgChunk *first, *last;
    size_t size; /* bytes in all */
} EgInput;

/* Where libuv receives into: bytes objects that nobody else knows yet. */
typedef struct {
    PyObject *bytes[EG_SPARES]; /* strong */
    int n;
    bool failed; /* there was no memory for more */
} EgSpares;

/* Without the GIL: memory to receive into, and the n bytes that were received there. wanted: what
 * the reader has room for, 0 for whatever there is. offer: none is left if buf->base is NULL;
 * accept and copy: 0, or UV_ENOMEM. */
void eg_input_offer(EgSpares *spares, size_t wanted, uv_buf_t *buf);
int eg_input_accept(EgInput *in, EgSpares *spares, size_t n);
int eg_input_copy(EgInput *in, const char *data, size_t n);
/* With it. */
void eg_input_refill(EgSpares *spares);
void eg_input_drop_spares(EgSpares *spares);
void eg_input_clear(EgInput *in);
void eg_input_take(EgInput *in, char *to, size_t n); /* the first n of it; to NULL: drop them */
PyObject *eg_input_bytes(EgInput *in, size_t n);     /* likewise, without a copy if it can */
size_t eg_input_front(const EgInput *in);            /* how much is in one piece */
const char *eg_input_join(EgInput *in);              /* all of it in one piece; NULL: exception */
PyObject *eg_input_look(EgInput *in);                /* all of it, and leave it there */
/* The first n bytes, one or more, of a bytes object that nobody else knows, which is stolen. */
PyObject *eg_input_cut(PyObject *bytes, size_t n);
/* Put n bytes back in front: those of a bytes object, or a copy of data if it is NULL. */
int eg_input_unread(EgInput *in, PyObject *bytes, const char *data, size_t n);

/* ---- wire.c: libuv's side of a stream ---------------------------------------------- */
typedef struct EgStream EgStream;
typedef struct EgWrite EgWrite;
typedef struct EgLinger EgLinger;
typedef enum { EG_TCP, EG_PIPE, EG_IPC, EG_TTY } EgWireKind;

/* A libuv stream and what its callbacks record. It is the loop's until its close callback, and
 * outlives the object that it belongs to while what was written is still being sent. */
typedef struct EgWire {
    EgHub *hub;                 /* borrowed: it closes its wires before it goes */
    EgStream *owner;            /* borrowed; NULL: it was closed, or is gone */
    struct EgWire *prev, *next; /* among the hub's */
    EgNode happened;            /* wire_tell: something is noted below */
    EgNode leave;               /* wire_leave: let go by another thread */
    EgLinger *linger;           /* while it is only there to send what was written; from the heap */
    EgInput in;
    size_t mark;   /* when so much waits to be read, receiving stops */
    size_t wanted; /* how much a reader wants that takes whatever there is; 0: none waits */
    char *fresh;   /* what came in the last poll, before anything of *in*: on the hub's slab */
    char *target;  /* the reader's own memory, while it waits; NULL: none */
    size_t target_size, filled;
    EgWrite *written;   /* finished, their data still to be let go */
    Py_ssize_t nwrites; /* not finished */
    int *fds;           /* EG_IPC: descriptors that came; from the heap */
    int nfds;
    unsigned nfresh;     /* bytes */
    int read_status;     /* 0; UV_EOF or an error: nothing more will come */
    int write_status;    /* 0; an error: nothing more can be sent */
    int shutdown_status; /* 1: not asked for; UV_EAGAIN: under way; 0: done; an error */
    EgWireKind kind;
    int fd;
    bool reading, noted, closed;
    bool ready; /* there may be something in the kernel, for the reader to receive by itself */
    bool large; /* what was received last */
    bool roomy; /* messages fill what is offered: offer more, and spare a vain read(2) */
    union {     /* last: there is only room for its kind's */
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_tty_t tty;
    } uv;
} EgWire;

/* Takes fd over; NULL: *status says why, and fd is still the caller's. */
EgWire *eg_wire_open(EgHub *hub, EgWireKind kind, int fd, int *status);
int eg_wire_read(EgWire *wire); /* have it receive; libuv status */
/* Up to n bytes of what is fresh, of which there is some. */
PyObject *eg_wire_take_fresh(EgWire *wire, size_t n);
/* Receive up to n bytes there and then; NULL: there are none, or read_status says why, or
 * exception. */
PyObject *eg_wire_receive(EgWire *wire, size_t n);
bool eg_wire_pull(EgWire *wire);   /* receive what there is, as fresh; false: there is nothing */
void eg_wire_settle(EgWire *wire); /* what is fresh becomes part of *in* */
/* As eg_input_unread(), of what was received; without memory it can be read no more. */
int eg_wire_unread(EgWire *wire, PyObject *bytes, const char *data, size_t n);
void eg_wire_waste(EgWire *wire); /* nobody reads any more: drop what comes in while it sends */
/* Have the kernel take what it will; how much, or a libuv status. */
ssize_t eg_wire_try(EgWire *wire, const uv_buf_t *bufs, unsigned n);
void eg_wire_let_go(EgWire *wire, bool abort);
/* Send, now or later, from a bytes object; 0, or a libuv status. */
int eg_wire_write(EgWire *wire, PyObject *bytes, size_t offset);
int eg_wire_shutdown(EgWire *wire);
static inline size_t
eg_wire_unsent(const EgWire *wire)
{
    return wire->uv.stream.write_queue_size;
}
Py_ssize_t eg_wires_open(EgHub *hub); /* how many there are */
/* The kernel watches it no more; false: it is no wire's. */
bool eg_wires_lost(EgHub *hub, const uv__io_t *watcher, int status);
void eg_wires_before_poll(EgHub *hub);
void eg_wires_after_poll(EgHub *hub);
void eg_wires_close(EgHub *hub);   /* the hub is being destroyed: before its loop is closed */
void eg_wires_destroy(EgHub *hub); /* and after */
void eg_wires_after_fork(EgHub *hub, bool keep);

/* ---- stream.c, tcp.c, pipe.c, tty.c: what tasks read from and write to ------------------ */
typedef enum { EG_PEER_THERE, EG_PEER_ENDED, EG_PEER_BROKE } EgPeerState;

struct EgStream {
    PyObject_HEAD
    EgWire *wire;     /* NULL: not connected yet, or closed */
    EgInput early;    /* what was written before it was connected */
    PyObject *server; /* strong: what accepted it, None or NULL; here, so that it needs no dict */
    EgInput rest;     /* what could still be read when its end was met */
    EgQueue readers;  /* the one that waits for input */
    EgQueue turns;    /* tasks that wait for another task's read to end */
    EgQueue writers;  /* for room, or for everything to be sent */
    Py_ssize_t high;  /* bytes: a writer with more than that unsent waits */
    EgPeerState peer; /* as it was when this was closed */
    bool busy;        /* a read is waiting */
    bool closed;
    PyObject *weakrefs;
};

PyObject *eg_stream_raise(EgStream *self, int status); /* its error_cls; always NULL */
/* Its wire, if it is open and of this thread's loop; NULL: exception. */
EgWire *eg_stream_wire(EgStream *self);
int eg_stream_attach(EgStream *self, EgWireKind kind, int fd);
int eg_stream_flush(EgStream *self); /* wait until nothing is unsent; -1: exception */
/* Let others run, if it is their turn: before taking; -1: exception. */
int eg_stream_turn(void);
void eg_stream_happened(EgStream *self, EgWire *wire); /* wake who waited for it */
void eg_stream_lost(EgStream *self);                   /* its loop is gone */
void eg_stream_forked(EgStream *self, EgWire *wire, bool keep);
PyObject *eg_stream_receive(EgStream *self, size_t n, bool fds);
int eg_address_parse(PyObject *address, struct sockaddr_storage *result);
PyObject *eg_address_make(const struct sockaddr *address);
extern PyType_Spec eg_stream_spec, eg_tcp_spec, eg_pipe_spec, eg_tty_spec, eg_udp_spec;
extern PyMethodDef eg_listener_functions[];

/* ---- fork.c ----------------------------------------------------------------- */
void eg_fork_leave_child(EgTask *); /* a child made in a task ends with this one */
void eg_fork_setup(void);
bool eg_fork_is_news(void); /* a child, and the next was not called yet */
PyObject *eg_fork_after_in_child(PyObject *module, PyObject *keep_tasks);

/* ---- lock.c: semaphores and locks -------------------------------------------- */
extern PyType_Spec eg_semaphore_spec, eg_bounded_semaphore_spec, eg_lock_spec, eg_rlock_spec;
/* For conditions. Of a Lock or RLock itself, not of a subclass: */
bool eg_lock_is_ours(PyObject *lock);
bool eg_lock_held(PyObject *lock);
PyObject *eg_lock_release(PyObject *lock); /* as its method */
Py_ssize_t eg_lock_let_go(PyObject *lock); /* wholly; how often it was held */
/* Take it again so often, whatever hits the caller meanwhile: that is raised afterwards (-1). */
int eg_lock_retake(PyObject *lock, Py_ssize_t count);

/* ---- condition.c ------------------------------------------------------------- */
extern PyType_Spec eg_condition_spec, eg_barrier_spec;

/* ---- event.c, channel.c, queue.c ----------------------------------------------- */
extern PyType_Spec eg_event_spec, eg_channel_spec;
extern PyType_Spec eg_queue_spec, eg_lifo_queue_spec, eg_priority_queue_spec;

/* ---- scope.c: deadlines of blocks of code ---------------------------------------- */
extern PyType_Spec eg_scope_spec, eg_timeout_spec, eg_fail_after_spec, eg_move_on_after_spec;
extern PyType_Spec eg_shield_spec;
bool eg_scope_is_of(EgTimer *timer, const void *task); /* the deadline of one that it is in */
bool eg_scope_is_leaving(EgTask *, PyObject *exc);     /* of a scope that the task is still in */

/* ---- group.c: tasks that end together --------------------------------------------- */
extern PyType_Spec eg_group_spec;
void eg_group_leave(EgTask *task); /* it has ended, or is not there in a forked child */

/* ---- local.c: greenlet-local storage ----------------------------------------------- */
extern PyType_Spec eg_local_spec, eg_local_entry_spec;

/* ---- future.c ----------------------------------------------------------------- */
extern PyType_Spec eg_future_spec, eg_answer_spec;
int eg_future_setup(EgState *state); /* after the types */

/* ---- work.c: system calls that block, in native threads without the GIL -------- */
typedef struct {
    const char *name;
    int limit;        /* threads */
    int threads;      /* these under the lock of work.c, as all that follows */
    int idle;         /* of them: asleep, or told to wake up */
    int waiting;      /* works on the queue */
    int extra;        /* threads over the limit, in place of some that do not come back */
    unsigned growths; /* how often there came more of those */
    unsigned ended;   /* works */
    bool open;        /* wanted was made */
    EgRing queue;
    pthread_cond_t wanted;
} EgLane;
extern EgLane eg_lane_file, eg_lane_dns, eg_lane_open;

typedef enum { EG_WORK_QUEUED, EG_WORK_BEGUN, EG_WORK_DONE, EG_WORK_CANCELLED } EgWorkState;

/* Part of what is worked on, which stays where it is until one of the last two is called. */
typedef struct EgWork EgWork;
struct EgWork {
    EgNode done;                /* done.run: on the hub's greenlet, when it is over */
    void (*run)(EgWork *);      /* in a native thread, without the GIL: touches no PyObject */
    void (*undo)(EgWork *);     /* there, too, if nobody is left who wants what run() made */
    void (*orphaned)(EgWork *); /* instead of done.run, if the hub is gone; GIL held */
    EgWorkState state;          /* these are work.c's */
    EgNode queued;
    EgLane *lane;
    EgMailbox *mailbox; /* borrowed; NULL: it came back, or its hub is gone */
    EgWork *prev, *next;
};
void eg_work_bury(void); /* free what hubs left that are gone: may run Python; before a wait */
int eg_work_submit(EgHub *hub, EgLane *lane, EgWork *work); /* to this thread's; -1: exception */
bool eg_work_cancel(EgWork *work); /* false: it was begun. It comes back in any case. */
Py_ssize_t eg_work_pending(EgHub *hub);
void eg_work_hold(EgHub *hub); /* no thread of a lane is at its bell, nor comes to one: until */
void eg_work_release(void);
Py_ssize_t eg_work_threads(void); /* of all lanes */
PyObject *eg_work_limit(PyObject *module, PyObject *args);
void eg_work_close(EgHub *hub);
void eg_work_destroy(EgHub *hub);
int eg_work_after_fork(EgHub *hub, bool keep); /* in the child; hub may be NULL */

/* ---- native_thread.c: the threads of the process ------------------------------------ */
/* Whether there are any that are neither this one nor our own: they may wake somebody. */
bool eg_native_thread_others(void);
PyObject *eg_native_thread_signal_mask(PyObject *module, PyObject *const *args, Py_ssize_t n);
extern const char eg_native_thread_signal_mask_doc[];
int eg_native_thread_setup(PyObject *module);

/* ---- fs.c ------------------------------------------------------------------------ */
int eg_fs_setup(PyObject *module); /* adds its functions */
extern PyType_Spec eg_fs_request_spec;
/* For the patches, in a task that may wait. Whether opening it may take for ever: a FIFO. */
bool eg_fs_open_waits(const char *path, int dir_fd, int flags);
/* openat(2) of path, a bytes object, in a thread of the lane: the descriptor; -1: exception, of
 * name. What the lane of files finds to be a FIFO goes to that for those. */
int eg_fs_open(EgLane *lane, PyObject *name, PyObject *path, int dir_fd, int flags, int mode);
/* read(2) and write(2), or with an offset that is not negative pread(2) and pwrite(2): in this
 * thread if the page cache can do it, else in one of the lane; -1: exception. */
ssize_t eg_fs_read(int fd, void *into, size_t size, int64_t offset);
ssize_t eg_fs_write(int fd, const void *from, size_t size, int64_t offset);

/* ---- tls.c: what is quick of evergreen.io.tls ---------------------------------------- */
extern PyType_Spec eg_tls_spec;
int eg_tls_setup(void);

/* ---- dns.c ----------------------------------------------------------------------- */
int eg_dns_setup(void);
PyObject *eg_dns_getaddrinfo(PyObject *module, PyObject *args);
PyObject *eg_dns_getnameinfo(PyObject *module, PyObject *args);

/* ---- turn.c ---------------------------------------------------------------------- */
int eg_turn_setup(PyObject *module);
PyObject *eg_turn_in(PyObject *module, PyObject *method);

/* ---- patch.c: method tables, swapped in place --------------------------------- */
/* A replacement has one shape; the original's calling convention (ml_flags, which differ
 * between Python versions) decides by which of its doors it is entered. */
typedef PyObject *(*EgPatchBody)(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                 PyObject *kwnames);

typedef struct {
    const char *owner; /* "time", or a type: "_socket.socket", "select.poll()": of what it gives */
    const char *name;  /* "sleep" */
    const char *group; /* the keyword of patcher.patch() that turns it on: "time" */
    EgPatchBody body;
    PyCFunction doors[6];
    bool wakes;           /* what others wait for: made by EG_PATCH_WAKER */
    PyMethodDef *def;     /* where it is swapped in; NULL: not found yet */
    PyCFunction original; /* what stood there */
    PyTypeObject *type;   /* strong: the type it is a method of; NULL: a function */
    PyObject *native;     /* strong: a callable that is never swapped; NULL: not made yet */
    PyObject *ours;       /* strong: one that is always the replacement; NULL: not made yet */
    bool applied;
    bool wanted; /* to be applied when its module is imported */
} EgPatch;

enum { EG_DOOR_NOARGS, EG_DOOR_O, EG_DOOR_TUPLE, EG_DOOR_FAST, EG_DOOR_METHOD, EG_DOOR_DICT };

/* EG_PATCH(time_sleep, "time", "sleep", "time") makes the EgPatch time_sleep_patch of the
 * function time_sleep(self, args, n, kwnames). */
#define EG_PATCH_AS(fn, owner_, name_, group_, wakes_, native)                                \
    static EgPatch fn##_patch;                                                                \
    static PyObject *fn(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);               \
    static PyObject *fn##_noargs(PyObject *self, PyObject *unused)                            \
    {                                                                                         \
        (void)unused;                                                                         \
        return fn(self, NULL, 0, NULL);                                                       \
    }                                                                                         \
    static PyObject *fn##_o(PyObject *self, PyObject *arg)                                    \
    {                                                                                         \
        return fn(self, &arg, 1, NULL);                                                       \
    }                                                                                         \
    static PyObject *fn##_tuple(PyObject *self, PyObject *args)                               \
    {                                                                                         \
        if (native)                                                                           \
            return fn##_patch.original(self, args);                                           \
        return fn(self, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args), NULL);            \
    }                                                                                         \
    static PyObject *fn##_fast(PyObject *self, PyObject *const *args, Py_ssize_t n)           \
    {                                                                                         \
        return fn(self, args, n, NULL);                                                       \
    }                                                                                         \
    static PyObject *fn##_method(PyObject *self, PyTypeObject *cls, PyObject *const *args,    \
                                 size_t n, PyObject *kwnames)                                 \
    {                                                                                         \
        (void)cls;                                                                            \
        return fn(self, args, PyVectorcall_NARGS(n), kwnames);                                \
    }                                                                                         \
    static PyObject *fn##_dict(PyObject *self, PyObject *args, PyObject *kwargs)              \
    {                                                                                         \
        if (native)                                                                           \
            return ((PyCFunctionWithKeywords)(void (*)(void))fn##_patch.original)(self, args, \
                                                                                  kwargs);    \
        return eg_patch_call_dict(fn, self, args, kwargs);                                    \
    }                                                                                         \
    static EgPatch fn##_patch = {owner_,                                                      \
                                 name_,                                                       \
                                 group_,                                                      \
                                 fn,                                                          \
                                 {EG_METHOD(fn##_noargs), EG_METHOD(fn##_o),                  \
                                  EG_METHOD(fn##_tuple), EG_METHOD(fn##_fast),                \
                                  EG_METHOD(fn##_method), EG_METHOD(fn##_dict)},              \
                                 wakes_,                                                      \
                                 NULL,                                                        \
                                 NULL,                                                        \
                                 NULL,                                                        \
                                 NULL,                                                        \
                                 NULL,                                                        \
                                 false,                                                       \
                                 false}
#define EG_PATCH(fn, owner_, name_, group_) EG_PATCH_AS(fn, owner_, name_, group_, false, false)
/* The same for what wakes tasks that waiters.c knows: unpatched, it stays in while there are any. */
#define EG_PATCH_WAKER(fn, owner_, name_, group_) \
    EG_PATCH_AS(fn, owner_, name_, group_, true, false)
/* The same for what does nothing in a thread without a hub: where the original takes a tuple, it
 * gets the very tuple there. */
#define EG_PATCH_ON_HUB(fn, owner_, name_, group_) \
    EG_PATCH_AS(fn, owner_, name_, group_, false, !eg_hub_cooperates())

/* Each file's table, ended by NULL. */
extern EgPatch *const eg_patch_time[],
    *const eg_patch_trace[], *const eg_patch_socket[], *const eg_patch_select[],
                                                           *const eg_patch_thread[],
                                                               *const eg_patch_lock[],
                                                                   *const eg_patch_queue[];
extern EgPatch *const eg_patch_os[],
    *const eg_patch_io[], *const eg_patch_ssl[], *const eg_patch_multiprocessing[],
                                                     *const eg_patch_asyncio[],
                                                         *const eg_patch_signal[],
                                                             *const eg_patch_file[],
                                                                 *const eg_patch_input[],
                                                                     *const eg_patch_sqlite[],
                                                                         *const eg_patch_hashlib[];
PyObject *eg_patch_call_dict(EgPatchBody body, PyObject *self, PyObject *args, PyObject *kwargs);
/* Call the function that a patch stands for, whatever its calling convention. */
PyObject *eg_patch_call_original(const EgPatch *patch, PyObject *self, PyObject *const *args,
                                 Py_ssize_t n, PyObject *kwnames);
/* The same in a native thread, while the task waits; how: a function of the policy. */
PyObject *eg_patch_offload(const char *how, const EgPatch *patch, PyObject *self,
                           PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
/* Put ours into a slot, offsetof(PyTypeObject, tp_...), of a type and of its subclasses, which have
 * copies of it. -1: exception. */
int eg_patch_slot(PyTypeObject *type, size_t slot, void (*native)(void), void (*ours)(void));
int eg_patch_errno(void); /* of the OSError that is set; 0: it is something else */
/* Whether it is a number, and one of seconds, that the standard library takes; no exception. */
bool eg_patch_number(PyObject *object, double *value);
bool eg_patch_seconds(PyObject *object, double *seconds);
extern unsigned eg_patch_generation; /* counts what was unpatched */
/* Before a call that answers at once, if nobody else is needed for it: whoever polls by it lets
 * others run after as long as CPython lets a native thread run. -1: exception, which is not one
 * that was thrown at the task: that is met at its next wait. */
#define EG_POLLS 64 /* calls between two looks at the clock, the first after a hub's poll */
extern unsigned eg_patch_polls;
int eg_patch_give_way(void);
static inline int
eg_patch_poll(void)
{
    return EG_LIKELY(++eg_patch_polls < EG_POLLS) ? 0 : eg_patch_give_way();
}
extern bool eg_patch_lingers; /* a waker is unpatched, and still in: */
void eg_patch_settle(void);   /* nobody waits any more */
/* Swap it in or out. 1: done; 0: this Python has no such function; -1: exception. */
int eg_patch_apply(EgPatch *patch, bool on);
void eg_patch_end(void); /* put all originals back; runs no Python */
PyObject *eg_patch_set(PyObject *module, PyObject *const *args, Py_ssize_t n);
PyObject *eg_patch_list(PyObject *module, PyObject *unused);
PyObject *eg_patch_native(PyObject *module, PyObject *const *args, Py_ssize_t n);
PyObject *eg_patch_poll_method(PyObject *module, PyObject *unused);
PyObject *eg_patch_ours(PyObject *module, PyObject *const *args, Py_ssize_t n);

/* ---- patch_socket.c: what other patches need of it ---------------------------- */
typedef struct {
    int fd, family, type, proto;
    int64_t timeout; /* ns; 0: non-blocking, negative: for ever */
} EgSocketView;

bool eg_socket_check(PyObject *object);                    /* a socket.socket; no exception */
bool eg_socket_look(PyObject *socket, EgSocketView *view); /* false: exception */
int eg_socket_set_timeout(PyObject *socket, int64_t ns);   /* and nothing else */
bool eg_socket_is_owned(PyObject *socket);                 /* for eg_fd_wait() */
#define EG_HINTS 65536         /* descriptors that have a byte of hints */
void eg_socket_forget(int fd); /* the number is about to mean something else */
/* When a blocking call that waits for such an event, EG_READ or EG_WRITE, is to give up because of
 * SO_RCVTIMEO or SO_SNDTIMEO. known: it is a socket's, so that there is none is remembered until the
 * option is set, or the socket closed. */
uint64_t eg_socket_limit(int fd, int events, bool known);

/* ---- patch_os.c: descriptors that are not ours -------------------------------- */
typedef enum { EG_FD_NATIVE, EG_FD_FILE, EG_FD_PIPE, EG_FD_SOCKET, EG_FD_DEVICE } EgFdKind;
enum { EG_OS_NONBLOCKING = -2 }; /* the program has made it non-blocking: call the original */
EgFdKind eg_os_kind(int fd);     /* EG_FD_NATIVE: it never blocks, or there is none */
/* Put positional and keyword arguments in their places, those that are missing NULL; false,
 * without an exception: there are others. */
bool eg_os_arrange(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, const char *const *names,
                   Py_ssize_t count, PyObject **full);
bool eg_os_int(PyObject *object, int *value); /* likewise: it is one */
int eg_os_turn_after(void);        /* after an operation that hands something over; -1: exception */
int eg_os_turn(void);              /* before an operation, for others' sake; -1: killed */
int eg_os_give_way(void);          /* let the others run, if that may be; -1: killed */
bool eg_os_may_wait(void);         /* in a task, not in a callback; no exception */
bool eg_os_tells_of_closing(void); /* that os.close() & co. call eg_fd_closing() */
/* As read(2), and as write(2) of all, with the task parked; -1: exception. */
ssize_t eg_os_read(int fd, EgFdKind kind, void *into, size_t size);
ssize_t eg_os_write(int fd, EgFdKind kind, const void *from, size_t size);

/* ---- patch_io.c ----------------------------------------------------------------- */
typedef struct EgVisit EgVisit;
/* Wait until no other task is inside the object, and enter; NULL: exception. */
EgVisit *eg_visit_begin(PyObject *object);
void eg_visit_end(EgVisit *visit, PyObject *object);
bool eg_visit_is_barred(PyObject *object); /* somebody is inside, and nothing may wait here */
void eg_io_after_fork(void);

/* ---- patch_file.c: what opens files; regular files, if they are patched ----------- */
bool eg_file_on(void); /* whether patch(files=True) is on */
PyObject *eg_file_follow(PyObject *module, PyObject *unused);

/* ---- patch_input.c ---------------------------------------------------------------- */
void eg_input_after_fork(void);

/* ---- patch_multiprocessing.c ------------------------------------------------------ */
PyObject *eg_semaphore_wait(PyObject *module, PyObject *args);
PyObject *eg_semaphore_post(PyObject *module, PyObject *handle);

/* ---- patch_asyncio.c ---------------------------------------------------------------- */
void eg_asyncio_refresh(void);     /* a thread's dictionary is gone */
void eg_asyncio_adopt(EgHub *hub); /* the loop that runs already, in the task that runs */
PyObject *eg_asyncio_turn(PyObject *module, PyObject *unused);
PyObject *eg_asyncio_adopt_method(PyObject *module, PyObject *unused);
/* ---- patch_select.c ----------------------------------------------------------- */
struct pollfd;
/* Park until poll(2), which found nothing, may find something: 1; 0: the deadline passed; -1:
 * exception. */
int eg_select_wait(const EgWaitKind *kind, const struct pollfd *fds, unsigned long n,
                   uint64_t deadline);

/* ---- native.c: C code that blocks (evergreen run --native) -------------------- */
void eg_native_open(void);   /* meet the preloaded library, if there is one */
void eg_native_forked(void); /* in the child: its calls cooperate, too */
/* The task comes out of foreign C code with an exception set: if a call there failed because of
 * what was thrown at the task, that takes its place. */
bool eg_native_refused(const EgTask *me); /* a call there has failed, and it is not met yet */
void eg_native_meet(EgTask *me);
/* For a sleep in the middle of C code, with the GIL or without: park so long, or not at all if an
 * exception is to end what it is part of. False: nothing parks here. */
bool eg_native_sleep(const EgWaitKind *kind, uint64_t ns);
PyObject *eg_native_raise(PyObject *module, PyObject *unused);
PyObject *eg_native_status(PyObject *module, PyObject *unused);

/* ---- patch_thread.c --------------------------------------------------------- */
void eg_thread_end(EgTask *me); /* me is ending: drop what it kept; runs Python */
void eg_thread_after_fork(void);
unsigned long eg_thread_ident(void); /* what get_ident() says here */
/* Whether the code that runs is to find that it is not in the main thread: ValueError set. */
bool eg_thread_refuses(const char *function);
bool eg_thread_is_sentinel(PyObject *lock);      /* a native thread's, released by C code */
PyObject *eg_patch_lock_release(PyObject *lock); /* as its method does, patched or not */
PyObject *eg_thread_follow(PyObject *module, PyObject *on);
PyObject *eg_thread_note_native(PyObject *module, PyObject *lock);

#endif
