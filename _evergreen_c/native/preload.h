/* preload.h: what the preloaded library and Evergreen's core say to each other.
 *
 * preload.c is a library of its own, without Python in it: LD_PRELOAD puts it in front of the C
 * library.  The core looks for evergreen_native_register() when it is imported, and gives it
 * the functions below; until then, and without a preload, every call is the C library's.
 */
#ifndef EVERGREEN_PRELOAD_H
#define EVERGREEN_PRELOAD_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

/* Changed with anything below: a core and a library of different builds stay apart. */
#define EG_NATIVE_ABI 1
#define EG_NATIVE_REGISTER "evergreen_native_register"

/* The calls that are interposed; also what status() and task dumps name. */
/* The formatter makes another shape of this list each time. */
/* clang-format off */
#define EG_NATIVE_CALLS(X) \
    X(poll) X(ppoll) X(select) X(pselect) X(epoll_wait) X(recv) X(recvfrom) X(recvmsg) \
    X(send) X(sendto) X(sendmsg) X(read) X(readv) X(write) X(writev) X(connect) X(accept) \
    X(accept4) X(sleep) X(usleep) X(nanosleep) X(clock_nanosleep) X(flock) X(getaddrinfo) \
    X(pthread_mutex_lock)
/* clang-format on */

typedef enum {
#define EG_NATIVE_NAME(name) EG_NATIVE_##name,
    EG_NATIVE_CALLS(EG_NATIVE_NAME)
#undef EG_NATIVE_NAME
        EG_NATIVE_COUNT
} EgNativeCall;

typedef enum {
    EG_NATIVE_REFUSED = -2, /* the task was thrown at: fail with errno */
    EG_NATIVE_PASS = -1,    /* it may not park now: let the C library block */
    EG_NATIVE_TIMED_OUT = 0,
    EG_NATIVE_AGAIN = 1 /* something happened: look again */
} EgNativeOutcome;

/* A call that a native thread makes while the task is parked; from the heap. The task and the
 * thread hold a share each, and the last to leave frees it. */
typedef struct EgNativeJob {
    void (*run)(struct EgNativeJob *);  /* in the native thread, without the GIL */
    void (*undo)(struct EgNativeJob *); /* it succeeded for a task that is gone; may be NULL */
    void (*free)(struct EgNativeJob *);
    int shares;     /* begins as 1: the caller's */
    bool done;      /* with the GIL, as the next one */
    bool abandoned; /* the task gave it up */
} EgNativeJob;

static inline void
eg_native_job_leave(EgNativeJob *job)
{
    if (__atomic_sub_fetch(&job->shares, 1, __ATOMIC_ACQ_REL) == 0)
        job->free(job);
}

typedef struct {
    int abi;
    /* Somewhere in each library whose calls go straight to the C library, NULL at the end. */
    const void *excluded[4];
    /* Whether a task runs in this thread: asked first, with or without the GIL. */
    bool (*cooperates)(void);
    /* Park the task until one of fds may be ready or the deadline (CLOCK_MONOTONIC, ns;
     * UINT64_MAX: never) has passed. Nothing looks at fds while it is parked. */
    EgNativeOutcome (*wait)(EgNativeCall, const struct pollfd *fds, nfds_t n, uint64_t deadline);
    void (*yield)(void); /* let other tasks run that are ready */
    /* Have a native thread run the job; AGAIN: it is done. */
    EgNativeOutcome (*call)(EgNativeCall, EgNativeJob *);
} EgNativeCore;

/* 0, or -1: they are of different builds. The core stays where it is for good. A forked child
 * has to register again. */
typedef int (*EgNativeRegister)(const EgNativeCore *);

#endif
