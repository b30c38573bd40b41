/* fd.c: readiness of file descriptors.
 *
 * On Linux each hub has a private epoll set.  A descriptor joins it once, edge-triggered for
 * both directions, and stays: a wait costs no system call, and a number that was closed and
 * used again is an errno, not libuv's abort.  While a callback watches it (add_reader), it is
 * level-triggered for just what somebody wants.
 *
 * Waiters must have tried first: an edge that came before the wait is not told again.
 *
 * A number says nothing of the file that it means: C code closes descriptors untold.  A wait
 * trusts the registration that its own owner made; any other wait asks the kernel again, by
 * adding the descriptor once more.  FD_DOUBT_NS after a wait began the kernel is asked, too: a
 * new file is found then, and those that waited for the one before are woken with EBADF.
 *
 * The kernel refuses to watch what is in too many epoll sets already.  Such a wait ends after
 * FD_CROWDED_NS as if the descriptor were ready, and its caller tries again.
 *
 * There are two sets then, this one and libuv's, and one of them holds the other: what happens
 * in the inner one costs a look at both.  At first libuv's holds this one, by a uv_poll; where
 * nearly all that happens is in here, they change places.
 *
 * What a poll finds is noted, and the descriptor is chained; that may happen without the GIL.
 * The queues of waiters are looked at after the poll.
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256
#define CHANGE 32 /* so many more polls found something in the inner set than did not */
#define FD_DOUBT_NS 50000000u
#define FD_CROWDED_NS 5000000u

typedef struct EgFd EgFd;
struct EgFd {
    EgNode node; /* on poller->happened */
    int fd;
    uint32_t armed;      /* what the kernel's set has: 0 for nothing */
    uint32_t happened;   /* noted by fd_on_events() */
    unsigned generation; /* eg_patch_generation when it was armed */
    bool noted;          /* node is on the ring */
    bool drained;        /* a read got all there was, and nothing has come since */
    bool ending;         /* there may be more without the kernel telling: its end, or urgent data */
    bool urgent;         /* a waiter among the readers wants urgent data, too */
    bool doubted;        /* on poller->doubts */
    bool disowned;     /* reader and writer are of a file that the number does not mean any more */
    const void *owner; /* never used: whose close of it is told; NULL: nobody's */
    EgFd *next_doubt;
    EgQueue readers, writers;
    PyObject *reader, *writer; /* strong, NULL: none; Handlers */
};

struct EgPoller {
    uv_poll_t uv;
    int epoll;
    EgFd **fds; /* by number; NULL where never used */
    int size;
    EgRing happened;
    Py_ssize_t active; /* waiters and Handlers */
    bool outer;        /* it holds libuv's set, and is not held by it */
    bool inner_told;   /* the last poll found something in the inner set */
    int weight;        /* counts for changing places */
    EgFd *doubts;      /* waited for since the kernel was asked last */
    EgTimer doubt;     /* when it is asked next */
    EgHub *hub;        /* borrowed: the hub owns this */
};

#define EDGE (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)
#define ENDING (EPOLLHUP | EPOLLERR | EPOLLRDHUP | EPOLLPRI)
#define READABLE (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP | EPOLLPRI)
#define WRITABLE (EPOLLOUT | EPOLLHUP | EPOLLERR)

static const EgWaitKind fd_read_kind = {"readable", NULL};
static const EgWaitKind fd_write_kind = {"writable", NULL};

/* ---- without the GIL: no PyObject touched -------------------------------------------- */
/* epoll_wait() with a timeout in ns; fine: not rounded up to milliseconds, if the kernel can. */
static int
poller_wait(EgPoller *poller, struct epoll_event *list, uint64_t ns, bool fine)
{
#ifdef SYS_epoll_pwait2
    if (fine) {
        struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        int n = (int)syscall(SYS_epoll_pwait2, poller->epoll, list, BATCH, &time, NULL, 0);
        if (n >= 0 || errno != ENOSYS)
            return n;
    }
#endif
    uint64_t ms = ns / 1000000 + (ns % 1000000 != 0);
    int timeout = ns == EG_FOREVER ? -1 : ms > 86400000 ? 86400000 : (int)ms;
    return epoll_wait(poller->epoll, list, BATCH, timeout);
}

/* Look at the kernel's set, for so many ns. True: libuv's, which it holds, has something. */
static bool
poller_look(EgPoller *poller, uint64_t ns, bool fine)
{
    struct epoll_event list[BATCH];
    bool uv = false;
    for (int round = 0, n = BATCH; n == BATCH && round < 16; round++) {
        n = poller_wait(poller, list, round ? 0 : ns, fine && !round);
        for (int i = 0; i < n; i++) {
            EgFd *self = list[i].data.ptr;
            uv |= self == NULL;
            if (!self)
                continue;
            self->happened |= list[i].events;
            if (!self->noted)
                eg_ring_push(&poller->happened, &self->node);
            self->noted = true;
        }
    }
    return uv;
}

static void
fd_on_events(uv_poll_t *uv, int status, int events)
{
    EgPoller *poller = EG_OWNER(uv, EgPoller, uv);
    (void)status;
    (void)events;
    poller->inner_told = true;
    poller_look(poller, 0, false);
}

/* ---- the hub's side: GIL held ----------------------------------------------------------- */
static void fd_on_doubt(EgTimer *timer);

/* Have libuv's set hold this one, now and not at its next poll: what the kernel refuses then, libuv
 * would die of. -1: errno. */
static int
poller_go_inside(EgPoller *poller, int uv)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = poller->epoll};
    epoll_ctl(poller->epoll, EPOLL_CTL_DEL, uv, &event); /* no circle */
    if (epoll_ctl(uv, EPOLL_CTL_ADD, poller->epoll, &event) < 0 && errno != EEXIST)
        return -1;
    poller->outer = false;
    uv_poll_start(&poller->uv, UV_READABLE, fd_on_events);
    return epoll_ctl(uv, EPOLL_CTL_ADD, poller->epoll, &event); /* uv_poll_start() took it out */
}

/* A new epoll set, which holds the bell for port.c to ask of; -1: errno. */
static int
poller_make_set(const uv_loop_t *uv)
{
    struct epoll_event event = {0};
    int set = eg_port_apart(epoll_create1(EPOLL_CLOEXEC));
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, uv->async_io_watcher.fd, &event) == 0)
        return set;
    int code = errno;
    close(set);
    errno = code;
    return -1;
}

static EgPoller *
poller_get(EgHub *hub)
{
    if (hub->poller)
        return hub->poller;
    uv_loop_t *uv = eg_port_uv(hub);
    EgPoller *poller = uv ? PyMem_RawCalloc(1, sizeof *poller) : NULL;
    if (!poller) {
        if (uv)
            PyErr_NoMemory();
        return NULL;
    }
    if ((poller->epoll = poller_make_set(uv)) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto fail;
    }
    int status = eg_port_reserve(hub, poller->epoll);
    if (status == 0)
        status = uv_poll_init(uv, &poller->uv, poller->epoll);
    if (status < 0) {
        close(poller->epoll);
        eg_error_raise(status);
        goto fail;
    }
    poller_go_inside(poller, uv->backend_fd);
    uv_unref((uv_handle_t *)&poller->uv);
    poller->hub = hub;
    poller->doubt.fire = fd_on_doubt;
    poller->doubt.background = true;
    return hub->poller = poller;
fail:
    PyMem_RawFree(poller);
    return NULL;
}

/* Have the two sets change places; false: they stay. */
static bool
poller_turn(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    int uv = hub->port->uv.backend_fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    bool outer = poller->outer;
    poller->weight = 0;
    if (outer && poller_go_inside(poller, uv) == 0)
        return true;
    if (!outer)
        uv_poll_stop(&poller->uv); /* takes it out of libuv's set at once: no circle */
    poller->outer = epoll_ctl(poller->epoll, EPOLL_CTL_ADD, uv, &event) == 0;
    if (!poller->outer)
        poller_go_inside(poller, uv);
    return poller->outer != outer;
}

bool
eg_fd_is_outer(EgHub *hub)
{
    return hub->poller && hub->poller->outer && hub->poller->active;
}

bool
eg_fd_poll(EgHub *hub, uint64_t ns, bool fine)
{
    EgPoller *poller = hub->poller;
    bool uv;
    if (ns == 0)
        uv = poller_look(poller, 0, false);
    else {
        Py_BEGIN_ALLOW_THREADS
        uv = poller_look(poller, ns, fine);
        Py_END_ALLOW_THREADS
    }
    poller->inner_told = uv;
    return uv;
}

int
eg_fd_embed(EgHub *hub)
{
    if (!hub->poller || !hub->poller->outer || poller_turn(hub))
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static EgFd *
fd_known(EgHub *hub, int fd)
{
    EgPoller *poller = hub->poller;
    return poller && fd >= 0 && fd < poller->size ? poller->fds[fd] : NULL;
}

static int
fd_raise(int code)
{
    errno = code;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* Make room for a descriptor; -1: exception. */
static int
poller_grow(EgPoller *poller, int fd)
{
    size_t size = poller->size ? (size_t)poller->size : 64;
    if (fcntl(fd, F_GETFD) < 0) /* any number, which costs memory only if it is open */
        return fd_raise(EBADF);
    while (size <= (size_t)fd)
        size *= 2;
    EgFd **fds = PyMem_RawRealloc(poller->fds, size * sizeof *fds);
    if (!fds) {
        PyErr_NoMemory();
        return -1;
    }
    memset(fds + poller->size, 0, (size - (size_t)poller->size) * sizeof *fds);
    poller->fds = fds;
    poller->size = (int)Py_MIN(size, INT_MAX);
    return 0;
}

static EgFd *
fd_get(EgHub *hub, int fd)
{
    EgPoller *poller = poller_get(hub);
    if (!poller)
        return NULL;
    if (fd < 0) {
        fd_raise(EBADF);
        return NULL;
    }
    if (fd >= poller->size && poller_grow(poller, fd) < 0)
        return NULL;
    EgFd *self = poller->fds[fd];
    if (!self) {
        if (!(self = PyMem_RawCalloc(1, sizeof *self))) {
            PyErr_NoMemory();
            return NULL;
        }
        self->fd = fd;
        poller->fds[fd] = self;
    }
    return self;
}

static bool
fd_is_watched(const EgFd *self)
{
    return (self->reader || self->writer) && !self->disowned;
}

/* What the kernel's set should have for it now. */
static uint32_t
fd_interest(const EgFd *self)
{
    if (!fd_is_watched(self))
        return EDGE;
    return (self->reader || self->readers.first ? EPOLLIN | EPOLLRDHUP : 0)
           | (self->writer || self->writers.first ? EPOLLOUT : 0)
           | (self->urgent && self->readers.first ? EPOLLPRI : 0);
}

/* What eg_fd_closing() hands to a waiter. */
#define FD_CLOSED Py_False

static void
queue_abandon(EgQueue *queue, const EgTask *me)
{
    for (EgLink *link = queue->first, *next; link; link = next) {
        next = link->next;
        if (link->task && link->task != me)
            eg_wait_wake(link->task, link, Py_NewRef(FD_CLOSED));
        else if (!link->task) {
            EgBell *bell = EG_OWNER(link, EgBell, link);
            eg_queue_remove(link);
            bell->closed = true;
            bell->ring(bell);
        }
    }
}

/* Its number means another file now, and nobody told: those but *me* waited for the one before.
 * Its Handlers are left where they are, for this may run no Python. */
static void
fd_abandon(EgHub *hub, EgFd *self, const EgTask *me)
{
    self->drained = self->ending = false;
    self->owner = NULL;
    if (!self->disowned) {
        hub->poller->active -= (self->reader != NULL) + (self->writer != NULL);
        self->disowned = self->reader || self->writer;
    }
    queue_abandon(&self->readers, me);
    queue_abandon(&self->writers, me);
}

enum { FD_ARMED, FD_READY, FD_CROWDED };

static int fd_arm(EgHub *hub, EgFd *self, uint32_t interest, bool check);

/* The kernel refused to watch it: FD_READY, FD_CROWDED, or -1 with an exception. */
static int
fd_refused(EgHub *hub, EgFd *self, uint32_t interest)
{
    if (errno == EPERM)
        return FD_READY;
    self->armed = 0;
    int code = errno;
    if ((code == EBADF || code == EINVAL) && fcntl(self->fd, F_GETFD) >= 0
        && eg_port_mend(hub)) /* it was the set that was lost, and there is another now */
        return fd_arm(hub, self, interest, false);
    errno = code;
    if (errno == EINVAL || errno == ELOOP || errno == ENOSPC || errno == ENOMEM)
        return FD_CROWDED;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* Have the kernel's set know it. check: the number may mean another file by now.
 * FD_ARMED: done; FD_READY: it is always ready (a regular file); FD_CROWDED: the kernel watches
 * no more of it; -1: exception. */
static int
fd_arm(EgHub *hub, EgFd *self, uint32_t interest, bool check)
{
    struct epoll_event event = {.events = interest, .data.ptr = self};
    check |= self->generation != eg_patch_generation; /* closes may have gone untold */
    self->generation = eg_patch_generation;
    if (self->armed == interest && !check)
        return FD_ARMED;
    if (!self->armed || check) {
        if (epoll_ctl(hub->poller->epoll, EPOLL_CTL_ADD, self->fd, &event) == 0) {
            if (self->armed) {
                fd_abandon(hub, self, hub->current);
                if (fd_interest(self) != interest) /* without those Handlers */
                    return self->armed = interest, fd_arm(hub, self, fd_interest(self), false);
            }
            self->armed = interest;
            return FD_ARMED;
        }
        if (errno != EEXIST)
            return fd_refused(hub, self, interest);
        if (self->armed == interest)
            return FD_ARMED;
    }
    if (epoll_ctl(hub->poller->epoll, EPOLL_CTL_MOD, self->fd, &event) < 0)
        return fd_refused(hub, self, interest);
    self->armed = interest;
    return FD_ARMED;
}

/* The same for a wait. owner: see eg_fd_wait(). Among many sets the outer one may watch more. */
static int
fd_arm_for(EgHub *hub, EgFd *self, const void *owner)
{
    EgPoller *poller = hub->poller;
    int status = fd_arm(hub, self, fd_interest(self), !owner || self->owner != owner);
    if (status == FD_CROWDED && !poller->outer && !hub->embedded && poller_turn(hub))
        status = fd_arm(hub, self, fd_interest(self), false);
    if (status != FD_ARMED)
        return status;
    if (owner)
        self->owner = owner;
    if (EG_LIKELY(self->doubted))
        return FD_ARMED;
    if (!poller->doubts && !eg_timer_armed(&poller->doubt)
        && eg_timer_start(&hub->timers, &poller->doubt, eg_clock_in(FD_DOUBT_NS)) < 0)
        return -1;
    self->doubted = true;
    self->next_doubt = poller->doubts;
    poller->doubts = self;
    return FD_ARMED;
}

/* Whether numbers that are waited for still mean the files that the kernel watches. */
static void
fd_on_doubt(EgTimer *timer)
{
    EgPoller *poller = EG_OWNER(timer, EgPoller, doubt);
    EgFd *self = poller->doubts, *next;
    poller->doubts = NULL;
    for (; self; self = next) {
        next = self->next_doubt;
        self->doubted = false;
        if (!self->armed || (!self->readers.first && !self->writers.first))
            continue;
        struct epoll_event event = {.events = EDGE, .data.ptr = self};
        if (epoll_ctl(poller->epoll, EPOLL_CTL_ADD, self->fd, &event) == 0)
            self->armed = EDGE; /* all who wait, wait for a file that is gone, or are told anew */
        else if (errno != EBADF)
            continue;
        else
            self->armed = 0;
        fd_abandon(poller->hub, self, NULL);
    }
}

static void
fd_tell(EgHub *hub, EgFd *self)
{
    uint32_t happened = self->happened;
    self->happened = 0;
    bool watched = fd_is_watched(self);
    self->noted = self->drained = false;
    self->ending |= (happened & ENDING) != 0;
    if (happened & READABLE) {
        eg_queue_wake_all(&self->readers);
        self->urgent = false;
        if (watched && self->reader)
            eg_handler_schedule(self->reader);
    }
    if (happened & WRITABLE) {
        eg_queue_wake_all(&self->writers);
        if (watched && self->writer)
            eg_handler_schedule(self->writer);
    }
    /* Level-triggered: take out what nobody waits for any more. */
    if (watched && fd_arm(hub, self, fd_interest(self), false) < 0)
        PyErr_Clear(); /* closed behind our back: its waiters were woken and will see it */
}

void
eg_fd_after_poll(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    EgNode *node;
    if (!poller)
        return;
    while ((node = eg_ring_pop(&poller->happened)))
        fd_tell(hub, EG_OWNER(node, EgFd, node));
    poller->weight += poller->inner_told ? 1 : poller->weight > 0 ? -1 : 0;
    poller->inner_told = false;
    if (poller->weight > CHANGE && !hub->embedded)
        poller_turn(hub);
}

/* A stream's read that gets less than there is room for has got all there is. What comes later is
 * told by an edge, so until then there is no need to try. An end, or urgent data, that came with
 * what was read has been told already, so it is tried then. */
void
eg_fd_drained(int fd)
{
    EgFd *self = fd_known(eg_hub_here, fd);
    if (self && self->armed == EDGE && !self->ending)
        self->drained = true;
}

bool
eg_fd_is_drained(int fd)
{
    EgFd *self = fd_known(eg_hub_here, fd);
    return self && self->drained;
}

Py_ssize_t
eg_fd_active(EgHub *hub)
{
    return hub->poller ? hub->poller->active : 0;
}

/* ---- waiting ------------------------------------------------------------------------------ */
static int
fd_outcome(EgTask *me, int status)
{
    if (status <= 0 || !me->wait.value)
        return status;
    Py_CLEAR(me->wait.value); /* FD_CLOSED: immortal in all but name */
    errno = EBADF;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* Park until the deadline; if crowded no longer than so, and as if it were ready then. */
static int
fd_park(EgTask *me, const EgWaitKind *kind, uint64_t deadline, bool crowded)
{
    EgPoller *poller = me->hub->poller;
    uint64_t now = crowded ? eg_clock_now() : 0;
    bool early = crowded && deadline > now && deadline - now > FD_CROWDED_NS;
    poller->active++;
    int status = eg_wait_park(me, kind, NULL, early ? now + FD_CROWDED_NS : deadline);
    me->hub->poller->active--;
    return status == 0 && early ? 1 : fd_outcome(me, status);
}

int
eg_fd_wait(EgTask *me, int fd, int events, uint64_t deadline, const void *owner)
{
    if (me->role == EG_THREAD || events == (EG_READ | EG_WRITE))
        return eg_fd_wait_many(me, 1, &fd, &events, &fd_read_kind, deadline);
    EgHub *hub = me->hub;
    EgFd *self = fd_get(hub, fd);
    if (!self)
        return -1;
    EgQueue *queue = events == EG_READ ? &self->readers : &self->writers;
    eg_wait_join(me, queue);
    int status = fd_arm_for(hub, self, owner);
    if (EG_UNLIKELY(status == FD_READY || status < 0)) {
        eg_wait_visit_leave(me);
        return status;
    }
    return fd_park(me, events == EG_READ ? &fd_read_kind : &fd_write_kind, deadline,
                   status == FD_CROWDED);
}

static short
fd_poll_events(int events)
{
    return (short)((events & EG_READ ? POLLIN | POLLRDHUP : 0) | (events & EG_WRITE ? POLLOUT : 0)
                   | (events & EG_URGENT ? POLLPRI : 0));
}

/* A native thread without a hub: poll(2), as it would do anyway. */
static int
fd_wait_thread(Py_ssize_t n, const int *fds, const int *events, uint64_t deadline)
{
    int ready = -1;
    struct pollfd *list = PyMem_New(struct pollfd, n + 1);
    if (!list) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        list[i] = (struct pollfd){.fd = fds[i], .events = fd_poll_events(events[i])};
        if (fds[i] < 0 || fcntl(fds[i], F_GETFD) < 0) {
            fd_raise(EBADF);
            goto done;
        }
    }
    for (;;) {
        uint64_t now = eg_clock_now();
        uint64_t ns = deadline > now ? deadline - now : 0;
        struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        Py_BEGIN_ALLOW_THREADS
        ready = ppoll(list, (nfds_t)n, deadline == EG_FOREVER ? NULL : &time, NULL);
        Py_END_ALLOW_THREADS
        if (ready > 0 || (ready < 0 && errno != EINTR)
            || (ready == 0 && eg_clock_now() >= deadline))
            break;
        if (PyErr_CheckSignals() < 0) {
            ready = -1;
            break;
        }
    }
    if (ready < 0 && !PyErr_Occurred())
        PyErr_SetFromErrno(PyExc_OSError);
done:
    PyMem_Free(list);
    return ready > 0 ? 1 : ready;
}

/* Join the queues of a descriptor, which needs two links, and watch it: as fd_arm(). */
static int
fd_join(EgTask *me, int fd, int events)
{
    EgWait *wait = &me->wait;
    EgFd *self = fd_get(me->hub, fd);
    if (!self)
        return -1;
    if (events & (EG_READ | EG_URGENT))
        eg_queue_add(&self->readers, &wait->links[wait->nlinks++], me);
    if (events & EG_WRITE)
        eg_queue_add(&self->writers, &wait->links[wait->nlinks++], me);
    self->urgent |= (events & EG_URGENT) != 0;
    int status = fd_arm_for(me->hub, self, NULL);
    return status == FD_READY && (events & EG_POLLED) ? FD_ARMED : status;
}

int
eg_fd_wait_many(EgTask *me, Py_ssize_t n, const int *fds, const int *events, const EgWaitKind *kind,
                uint64_t deadline)
{
    if (me->role == EG_THREAD)
        return fd_wait_thread(n, fds, events, deadline);
    EgWait *wait = &me->wait;
    int status = FD_ARMED;
    bool crowded = false;
    if (!poller_get(me->hub))
        return -1;
    if (n && !(wait->links = PyMem_RawCalloc((size_t)n * 2, sizeof *wait->links))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n && (status == FD_ARMED || status == FD_CROWDED); i++) {
        status = fd_join(me, fds[i], events[i]);
        crowded |= status == FD_CROWDED;
    }
    if (status == FD_ARMED || status == FD_CROWDED)
        status = fd_park(me, kind, deadline, crowded);
    eg_wait_visit_leave(me);
    PyMem_RawFree(wait->links);
    wait->links = NULL;
    wait->nlinks = 0;
    return status;
}

static void
fd_drop_handlers(EgHub *hub, EgFd *self)
{
    PyObject *reader = self->reader, *writer = self->writer; /* ours now */
    if (!self->disowned)
        hub->poller->active -= (reader != NULL) + (writer != NULL);
    self->reader = self->writer = NULL;
    self->disowned = false;
    Py_XDECREF(reader);
    Py_XDECREF(writer);
}

int
eg_fd_ring(EgHub *hub, int fd, int event, EgBell *bell, void (*ring)(EgBell *))
{
    EgFd *self = fd_get(hub, fd);
    int status =
        self ? fd_arm_for(hub, self, NULL) : -1; /* which may ring those of a file before */
    if (status != FD_ARMED)
        return status;
    bell->closed = false;
    eg_queue_add_bell(event == EG_READ ? &self->readers : &self->writers, bell, ring);
    status = fd_arm(hub, self, fd_interest(self), false);
    if (status == FD_ARMED)
        hub->poller->active++;
    else
        eg_queue_remove(&bell->link);
    return status;
}

void
eg_fd_rung(EgHub *hub)
{
    hub->poller->active--;
}

void
eg_fd_leave(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    for (int fd = 0; poller && fd < poller->size; fd++)
        if (poller->fds[fd]) {
            eg_queue_peek(&poller->fds[fd]->readers);
            eg_queue_peek(&poller->fds[fd]->writers);
        }
}

void
eg_fd_closing(int fd)
{
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        EgFd *self = fd_known(hub, fd);
        if (!self || (!self->armed && !self->readers.first && !self->writers.first))
            continue;
        self->drained = self->ending = false;
        self->owner = NULL;
        /* Copies of the descriptor may live on: closing alone would leave it in the set. */
        struct epoll_event unused;
        epoll_ctl(hub->poller->epoll, EPOLL_CTL_DEL, fd, &unused);
        self->armed = 0;
        queue_abandon(&self->readers, NULL);
        queue_abandon(&self->writers, NULL);
        fd_drop_handlers(hub, self);
    }
}

/* ---- callbacks ------------------------------------------------------------------------------ */
/* Its Handlers are of a file that the number does not mean any more: let go of them. */
static void
fd_disown(EgHub *hub, EgFd *self)
{
    struct epoll_event event = {.events = EDGE, .data.ptr = self};
    if (self->armed && epoll_ctl(hub->poller->epoll, EPOLL_CTL_ADD, self->fd, &event) == 0) {
        self->armed = EDGE;
        fd_abandon(hub, self, NULL);
    }
    if (self->disowned)
        fd_drop_handlers(hub, self);
}

int
eg_fd_watch(EgHub *hub, int fd, int event, PyObject *handler)
{
    EgFd *self = fd_get(hub, fd);
    if (!self)
        return -1;
    fd_disown(hub, self);
    PyObject **slot = event == EG_READ ? &self->reader : &self->writer;
    if (*slot) {
        PyErr_Format(PyExc_RuntimeError, "another %s is already registered for fd %d",
                     event == EG_READ ? "reader" : "writer", fd);
        return -1;
    }
    *slot = Py_NewRef(handler); /* given back by eg_fd_unwatch() or eg_fd_closing() */
    hub->poller->active++;
    int status = fd_arm(hub, self, fd_interest(self), true);
    if (status == FD_ARMED)
        return 0;
    if (status > 0)
        fd_raise(status == FD_READY ? EPERM : errno); /* EPERM: a regular file, nothing to watch */
    if (*slot == handler) {
        *slot = NULL;
        hub->poller->active--;
        Py_DECREF(handler);
    }
    return -1;
}

int
eg_fd_unwatch(EgHub *hub, int fd, int event)
{
    EgFd *self = fd_known(hub, fd);
    PyObject **slot = self ? event == EG_READ ? &self->reader : &self->writer : NULL;
    if (!slot || !*slot)
        return 0;
    PyObject *handler = *slot; /* ours now */
    *slot = NULL;
    hub->poller->active -= !self->disowned;
    if (!self->reader && !self->writer)
        self->disowned = false;
    if (self->armed && fd_arm(hub, self, fd_interest(self), false) < 0)
        PyErr_Clear(); /* it was closed behind our back */
    eg_handler_cancel(handler);
    Py_DECREF(handler);
    return 1;
}

/* ---- making and ending ------------------------------------------------------------------------ */
int
eg_fd_traverse(EgHub *hub, visitproc visit, void *arg)
{
    EgPoller *poller = hub->poller;
    for (int fd = 0; poller && fd < poller->size; fd++) {
        if (!poller->fds[fd])
            continue;
        Py_VISIT(poller->fds[fd]->reader);
        Py_VISIT(poller->fds[fd]->writer);
    }
    return 0;
}

/* After the loop has closed the handle. */
void
eg_fd_destroy(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    if (!poller)
        return;
    hub->poller = NULL;
    eg_timer_stop(&hub->timers, &poller->doubt);
    for (int fd = 0; fd < poller->size; fd++) {
        EgFd *self = poller->fds[fd];
        if (!self)
            continue;
        Py_CLEAR(self->reader);
        Py_CLEAR(self->writer);
        PyMem_RawFree(self);
    }
    close(poller->epoll);
    PyMem_RawFree(poller->fds);
    PyMem_RawFree(poller);
}

int
eg_fd_known_below(void)
{
    int most = EG_HINTS;
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        int own = eg_port_highest(hub) + 1;
        most = hub->poller && hub->poller->size > most ? hub->poller->size : most;
        most = own > most ? own : most;
    }
    return most;
}

/* ---- when descriptors of the hub's own were lost: port.c ------------------------------------- */
int
eg_fd_set(const EgHub *hub)
{
    return hub->poller ? hub->poller->epoll : -1;
}

bool
eg_fd_holds_each_other(EgHub *hub)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int uv = hub->port->uv.backend_fd, set = eg_fd_set(hub);
    if (set < 0)
        return false;
    int outer = hub->poller->outer ? set : uv, inner = outer == uv ? set : uv;
    if (epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event) < 0)
        return errno == EEXIST;
    epoll_ctl(outer, EPOLL_CTL_DEL, inner, &event);
    return false;
}

/* Have the kernel's set know all that it should. */
static void
poller_arm_all(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    for (int fd = 0; fd < poller->size; fd++) {
        EgFd *self = poller->fds[fd];
        if (!self || !self->armed)
            continue;
        self->armed = 0;
        self->owner = NULL;
        self->drained = false;
        if (!self->readers.first && !self->writers.first && !self->reader && !self->writer)
            continue;
        if (fd_arm(hub, self, fd_interest(self), false) == FD_ARMED)
            continue;
        PyErr_Clear(); /* it was closed as well: those that wait hear of it */
        fd_abandon(hub, self, NULL);
    }
}

bool
eg_fd_repair(EgHub *hub, bool lost)
{
    EgPoller *poller = hub->poller;
    uv_loop_t *uv = &hub->port->uv;
    struct epoll_event event = {0};
    poller->outer = false; /* it comes to that again, where it is worth it */
    if (lost) {
        int set = poller_make_set(uv);
        if (set < 0 || eg_port_move(hub, &poller->uv.io_watcher, set) < 0) {
            if (set >= 0)
                close(set);
            return false;
        }
        poller->epoll = set;
    } else {
        epoll_ctl(poller->epoll, EPOLL_CTL_ADD, uv->async_io_watcher.fd, &event); /* a new bell */
        epoll_ctl(poller->epoll, EPOLL_CTL_DEL, uv->backend_fd, &event);
    }
    poller_go_inside(poller, uv->backend_fd);
    if (lost)
        poller_arm_all(hub);
    return true;
}

void
eg_fd_lose(EgHub *hub)
{
    if (hub->poller)
        hub->poller->epoll = -1;
}

/* ---- forks ----------------------------------------------------------------------------------- */
void
eg_fd_drop_set(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    struct epoll_event event = {0};
    if (poller && hub->port
        && epoll_ctl(poller->epoll, EPOLL_CTL_ADD, hub->port->uv.async_io_watcher.fd, &event) < 0
        && errno == EEXIST)
        close(poller->epoll);
}

/* Requests that wait for a descriptor outlive the poller: none is in a queue of it. */
static void
fd_drop_waits(EgPoller *poller)
{
    for (int fd = 0; fd < poller->size; fd++) {
        EgFd *self = poller->fds[fd];
        while (self && self->readers.first)
            eg_queue_remove(self->readers.first);
        while (self && self->writers.first)
            eg_queue_remove(self->writers.first);
    }
}

/* In a forked child: the kernel's set is the parent's, too, so it was left as it is. */
int
eg_fd_after_fork(EgHub *hub, bool keep)
{
    EgPoller *old = hub->poller;
    if (!old)
        return 0;
    hub->poller = NULL; /* what it holds is left behind: the parent's structure, our copy */
    if (!keep) {
        fd_drop_waits(old);
        return 0;
    }
    if (eg_timer_armed(&old->doubt))
        eg_timer_stop(&hub->timers, &old->doubt);
    EgPoller *poller = poller_get(hub);
    if (!poller)
        return -1;
    poller->fds = old->fds;
    poller->size = old->size;
    poller->active = old->active;
    for (int fd = 0; fd < poller->size; fd++) {
        EgFd *self = poller->fds[fd];
        if (!self)
            continue;
        self->happened = 0;
        self->noted = self->doubted = false;
    }
    poller_arm_all(hub);
    return 0;
}
