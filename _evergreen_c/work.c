/* work.c: system calls that block, made in native threads without the GIL.
 *
 * A lane is a bounded set of threads with a queue.  Each kind of work has its own, so that slow
 * names delay no file.  Why not libuv's pool: it is one for everything, with four threads, and
 * a process cannot end while one of them is stuck (opening a FIFO that nobody else opens).
 *
 *     the hub's thread                         a thread of the lane
 *     eg_work_submit() --- lane's queue ---->  work->run()
 *                                                  |
 *     work->done.run(), by the hub <-- bell ---  mailbox
 *
 * Work may take for ever: a file system that is gone, a name server that does not answer. If no work
 * of a lane ends for a while, and some waits, the lane gets more threads than its limit.
 *
 * The threads touch no PyObject.  A hub that is destroyed does not wait for work that is under
 * way: it becomes an orphan, and is freed by whoever comes next with the GIL.
 *
 * One lock is over all of it; it is held for a few pointers at a time.
 */
#include "evergreen.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define IDLE_SECONDS 10    /* how long a thread waits for more work before it ends */
#define STALL_NS 250000000 /* how long no work of a lane ends before the lane grows */
#define EXTRA_MAX 1000     /* threads over the limit */
#define LANES 3

struct EgMailbox {
    uv_async_t bell; /* referenced while work is under way: so the loop is alive, and polls */
    EgHub *hub;      /* borrowed: the hub owns this */
    EgRing done;     /* by the lanes' threads, under the lock */
    EgWork *first;   /* all that was submitted and has not come back, under the lock */
    Py_ssize_t pending;
    atomic_int ringing;    /* threads that are at the bell: it may not be closed */
    EgTimer stall;         /* armed while work waits for a thread to come back */
    unsigned ended[LANES]; /* of each lane, when it was started */
};

EgLane eg_lane_file = {.name = "file", .limit = 16};
EgLane eg_lane_dns = {.name = "dns", .limit = 16};
EgLane eg_lane_open = {.name = "open", .limit = 1000000}; /* of FIFOs: it may take for ever */
static EgLane *const lanes[LANES] = {&eg_lane_file, &eg_lane_dns, &eg_lane_open};

static pthread_mutex_t work_lock = PTHREAD_MUTEX_INITIALIZER;
static EgWork *work_orphans; /* done, and their hub is gone; chained by next */

/* ---- lists, under the lock ----------------------------------------------------------- */
static void
work_enlist(EgMailbox *mailbox, EgWork *work)
{
    work->mailbox = mailbox;
    work->prev = NULL;
    if ((work->next = mailbox->first))
        work->next->prev = work;
    mailbox->first = work;
}

static void
work_delist(EgWork *work)
{
    if (work->prev)
        work->prev->next = work->next;
    else
        work->mailbox->first = work->next;
    if (work->next)
        work->next->prev = work->prev;
    work->mailbox = NULL;
}

static bool
lane_remove(EgLane *lane, EgWork *work)
{
    EgNode *before = NULL;
    for (EgNode *node = lane->queue.first; node; before = node, node = node->next) {
        if (node != &work->queued)
            continue;
        if (before)
            before->next = node->next;
        else
            lane->queue.first = node->next;
        if (lane->queue.last == node)
            lane->queue.last = before;
        lane->waiting--;
        return true;
    }
    return false;
}

/* ---- the lanes' threads: no GIL, no PyObject ------------------------------------------ */
static bool
lane_is_full(const EgLane *lane)
{
    return lane->threads > lane->limit + lane->extra;
}

/* Wait for work, under the lock; NULL: there was none for long, or there are too many threads. */
static EgWork *
lane_next(EgLane *lane)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += IDLE_SECONDS;
    for (int status = 0; lane_is_full(lane) || !lane->queue.first;) {
        if (status || lane_is_full(lane)) {
            pthread_cond_signal(&lane->wanted); /* in case it was this one that was called */
            return NULL;
        }
        lane->idle++;
        status = pthread_cond_timedwait(&lane->wanted, &work_lock, &until);
        lane->idle--;
    }
    lane->waiting--;
    return EG_OWNER(eg_ring_pop(&lane->queue), EgWork, queued);
}

static void *
lane_thread(void *arg)
{
    EgLane *lane = arg;
    EgWork *work;
#ifdef __linux__
    char name[16]; /* for ps and top: with the limit of the kernel */
    snprintf(name, sizeof name, "evergreen-%s", lane->name);
    pthread_setname_np(pthread_self(), name);
#endif
    pthread_mutex_lock(&work_lock);
    while ((work = lane_next(lane))) {
        unsigned growths = lane->growths;
        work->state = EG_WORK_BEGUN;
        pthread_mutex_unlock(&work_lock);
        work->run(work);
        pthread_mutex_lock(&work_lock);
        lane->ended++;
        growths = lane->growths - growths; /* for want of this thread, among others */
        lane->extra -= lane->extra < (int)growths ? lane->extra : (int)growths;
        work->state = EG_WORK_DONE;
        EgMailbox *mailbox = work->mailbox;
        if (mailbox) {
            bool first = !mailbox->done.first; /* else the bell was rung, and not heard yet */
            mailbox->ringing += first;
            eg_ring_push(&mailbox->done, &work->done);
            pthread_mutex_unlock(&work_lock);
            if (first) { /* without the lock: the loop's thread wants it next */
                eg_port_ring(&mailbox->bell);
                mailbox->ringing--;
            }
            pthread_mutex_lock(&work_lock);
            continue;
        }
        pthread_mutex_unlock(&work_lock);
        work->undo(work);
        pthread_mutex_lock(&work_lock);
        work->next = work_orphans;
        work_orphans = work;
    }
    lane->threads--;
    pthread_mutex_unlock(&work_lock);
    return NULL;
}

/* One more thread, under the lock. Signals are for the threads that Python knows. */
static int
lane_grow(EgLane *lane)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(&thread, &attributes, lane_thread, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (status == 0)
        lane->threads++;
    return -status;
}

/* ---- libuv's side: no PyObject touched --------------------------------------------------- */
static void
work_on_bell(uv_async_t *uv)
{
    EgMailbox *mailbox = EG_OWNER(uv, EgMailbox, bell);
    EgRing done;
    pthread_mutex_lock(&work_lock);
    done = mailbox->done;
    mailbox->done.first = mailbox->done.last = NULL;
    for (EgNode *node = done.first; node; node = node->next) {
        work_delist(EG_OWNER(node, EgWork, done));
        mailbox->pending--;
    }
    pthread_mutex_unlock(&work_lock);
    if (mailbox->pending == 0)
        uv_unref((uv_handle_t *)&mailbox->bell);
    eg_ring_append(&mailbox->hub->ready, &done);
}

/* ---- the hub's side: GIL held --------------------------------------------------------------- */
static void
mailbox_watch(EgMailbox *mailbox)
{
    for (int i = 0; i < LANES; i++)
        mailbox->ended[i] = lanes[i]->ended;
    if (eg_timer_start(&mailbox->hub->timers, &mailbox->stall, eg_clock_in(STALL_NS)) < 0)
        PyErr_Clear(); /* the next that is submitted tries again */
}

/* Work waits for threads: as many as the lane has join them, if none of those came back. */
static void
mailbox_on_stall(EgTimer *timer)
{
    EgMailbox *mailbox = EG_OWNER(timer, EgMailbox, stall);
    bool waits = false;
    pthread_mutex_lock(&work_lock);
    for (int i = 0; i < LANES; i++) {
        EgLane *lane = lanes[i];
        int wanted = lane->waiting < lane->threads ? lane->waiting : lane->threads;
        bool stuck = lane->ended == mailbox->ended[i] && lane->idle == 0;
        int before = lane->extra;
        while (stuck && wanted-- > 0 && lane->extra < EXTRA_MAX && lane_grow(lane) == 0)
            lane->extra++;
        lane->growths += lane->extra > before;
        waits |= lane->waiting > 0;
    }
    if (waits)
        mailbox_watch(mailbox);
    pthread_mutex_unlock(&work_lock);
}

static EgMailbox *
mailbox_get(EgHub *hub)
{
    if (hub->mailbox)
        return hub->mailbox;
    EgMailbox *mailbox = PyMem_RawCalloc(1, sizeof *mailbox);
    if (!mailbox) {
        PyErr_NoMemory();
        return NULL;
    }
    uv_loop_t *uv = eg_port_uv(hub);
    if (!uv) {
        PyMem_RawFree(mailbox);
        return NULL;
    }
    int status = uv_async_init(uv, &mailbox->bell, work_on_bell);
    if (status < 0) {
        PyMem_RawFree(mailbox);
        eg_error_raise(status);
        return NULL;
    }
    uv_unref((uv_handle_t *)&mailbox->bell);
    mailbox->hub = hub;
    mailbox->stall.fire = mailbox_on_stall;
    mailbox->stall.background = true;
    return hub->mailbox = mailbox;
}

void
eg_work_bury(void)
{
    if (EG_LIKELY(!work_orphans))
        return;
    pthread_mutex_lock(&work_lock);
    EgWork *work = work_orphans, *next;
    work_orphans = NULL;
    pthread_mutex_unlock(&work_lock);
    for (; work; work = next) {
        next = work->next;
        work->orphaned(work);
    }
}

int
eg_work_submit(EgHub *hub, EgLane *lane, EgWork *work)
{
    int status = 0;
    if (hub->destroyed) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop was destroyed");
        return -1;
    }
    EgMailbox *mailbox = mailbox_get(hub);
    if (!mailbox)
        return -1;
    pthread_mutex_lock(&work_lock);
    if (!lane->open) {
        pthread_cond_init(&lane->wanted, NULL);
        lane->open = true;
    }
    if (lane->waiting >= lane->idle && lane->threads < lane->limit + lane->extra)
        status = lane_grow(lane);
    if (status == 0 || lane->threads) {
        status = 0;
        work->lane = lane;
        work->state = EG_WORK_QUEUED;
        work_enlist(mailbox, work);
        eg_ring_push(&lane->queue, &work->queued);
        lane->waiting++;
        if (lane->waiting > lane->idle && !eg_timer_armed(&mailbox->stall))
            mailbox_watch(mailbox);
    }
    pthread_mutex_unlock(&work_lock);
    pthread_cond_signal(&lane->wanted);
    if (status < 0) {
        eg_error_raise(status);
        return -1;
    }
    if (mailbox->pending++ == 0)
        uv_ref((uv_handle_t *)&mailbox->bell);
    return 0;
}

bool
eg_work_cancel(EgWork *work)
{
    bool cancelled = false;
    pthread_mutex_lock(&work_lock);
    EgMailbox *mailbox = work->mailbox;
    if (work->state == EG_WORK_QUEUED && mailbox && lane_remove(work->lane, work)) {
        cancelled = true;
        work->state = EG_WORK_CANCELLED;
        eg_ring_push(&mailbox->done, &work->done);
    }
    pthread_mutex_unlock(&work_lock);
    if (cancelled && mailbox->hub == eg_hub_here)
        work_on_bell(&mailbox->bell);
    else if (cancelled)
        eg_port_ring(&mailbox->bell);
    return cancelled;
}

Py_ssize_t
eg_work_pending(EgHub *hub)
{
    return hub->mailbox ? hub->mailbox->pending : 0;
}

Py_ssize_t
eg_work_threads(void)
{
    Py_ssize_t threads = 0;
    pthread_mutex_lock(&work_lock);
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++)
        threads += lanes[i]->threads;
    pthread_mutex_unlock(&work_lock);
    return threads;
}

void
eg_work_hold(EgHub *hub)
{
    pthread_mutex_lock(&work_lock);
    while (hub->mailbox && hub->mailbox->ringing)
        sched_yield();
}

void
eg_work_release(void)
{
    pthread_mutex_unlock(&work_lock);
}

/* work_limit(lane, limit) */
PyObject *
eg_work_limit(PyObject *module, PyObject *args)
{
    const char *name;
    int limit;
    (void)module;
    if (!PyArg_ParseTuple(args, "si:work_limit", &name, &limit))
        return NULL;
    if (limit < 1)
        return PyErr_Format(PyExc_ValueError, "a lane needs a thread, not %d", limit);
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++)
        if (strcmp(lanes[i]->name, name) == 0) {
            pthread_mutex_lock(&work_lock);
            int before = lanes[i]->limit;
            lanes[i]->limit = limit;
            if (lanes[i]->open)
                pthread_cond_broadcast(&lanes[i]->wanted);
            pthread_mutex_unlock(&work_lock);
            return PyLong_FromLong(before);
        }
    return PyErr_Format(PyExc_ValueError, "there is no lane %s", name);
}

/* ---- ending ---------------------------------------------------------------------------------- */
/* Before the loop closes its handles: what was not begun is not made, what was is left alone. */
void
eg_work_close(EgHub *hub)
{
    EgMailbox *mailbox = hub->mailbox;
    EgWork *work;
    if (!mailbox)
        return;
    eg_timer_stop(&hub->timers, &mailbox->stall);
    pthread_mutex_lock(&work_lock);
    while ((work = mailbox->first)) {
        EgWorkState state = work->state;
        work_delist(work);
        if (state == EG_WORK_BEGUN)
            continue; /* its thread makes it an orphan */
        if (state == EG_WORK_QUEUED) {
            lane_remove(work->lane, work);
            work->state = EG_WORK_CANCELLED;
        }
        work->next = work_orphans;
        work_orphans = work;
    }
    mailbox->done.first = mailbox->done.last = NULL;
    mailbox->pending = 0;
    pthread_mutex_unlock(&work_lock);
    while (mailbox->ringing)
        sched_yield();
    eg_work_bury();
}

/* After the loop has closed the handle. */
void
eg_work_destroy(EgHub *hub)
{
    PyMem_RawFree(hub->mailbox);
    hub->mailbox = NULL;
}

/* In a forked child there are no lanes' threads. Kept tasks are told that what they wait for was
 * left in the parent; what others waited for is left where it is, as they are. */
int
eg_work_after_fork(EgHub *hub, bool keep)
{
    EgMailbox *old = hub ? hub->mailbox : NULL;
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    work_lock = fresh;
    work_orphans = NULL;
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++) {
        EgLane empty = {.name = lanes[i]->name, .limit = lanes[i]->limit};
        *lanes[i] = empty;
    }
    if (!old)
        return 0;
    hub->mailbox = NULL; /* its handle is the parent's loop's */
    if (!keep)
        return 0;
    eg_timer_stop(&hub->timers, &old->stall);
    for (EgWork *work = old->first, *next; work; work = next) {
        next = work->next;
        work->mailbox = NULL;
        if (work->state != EG_WORK_DONE)
            work->state = EG_WORK_CANCELLED;
        eg_ring_push(&hub->ready, &work->done);
    }
    return 0;
}
