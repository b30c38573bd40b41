/* fd.c: readiness of file descriptors.
 *
 * On Linux each hub has a private epoll set.  A descriptor joins it once, edge-triggered for
 * both directions, and stays: a wait costs no system call, and a number that was closed and
 * used again is an errno, not libuv's abort.  While a callback watches it (add_reader), it is
 * level-triggered for just what somebody wants.
 *
 * Waiters must have tried first: an edge that came before the wait is not told again.
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
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 256
#define CHANGE 32 /* so many more polls found something in the inner set than did not */

typedef struct {
    EgNode node; /* on poller->happened */
    int fd;
    uint32_t armed;      /* what the kernel's set has: 0 for nothing */
    uint32_t happened;   /* noted by fd_on_events() */
    unsigned generation; /* eg_patch_generation when it was armed */
    bool noted;          /* node is on the ring */
    bool drained;        /* a read got all there was, and nothing has come since */
    bool ending;         /* there may be more without the kernel telling: its end, or urgent data */
    EgQueue readers, writers;
    PyObject *reader, *writer; /* strong, NULL: none; Handlers */
} EgFd;

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
};

#define EDGE (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)
#define ENDING (EPOLLHUP | EPOLLERR | EPOLLRDHUP | EPOLLPRI)
#define READABLE (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP | EPOLLPRI)
#define WRITABLE (EPOLLOUT | EPOLLHUP | EPOLLERR)

static const EgWaitKind fd_read_kind = {"readable", NULL};
static const EgWaitKind fd_write_kind = {"writable", NULL};

/* ---- without the GIL: no PyObject touched -------------------------------------------- */
/* Look at the kernel's set, for so many ms. True: libuv's, which it holds, has something. */
static bool
poller_look(EgPoller *poller, int timeout)
{
    struct epoll_event list[BATCH];
    bool uv = false;
    for (int round = 0, n = BATCH; n == BATCH && round < 16; round++) {
        n = epoll_wait(poller->epoll, list, BATCH, round ? 0 : timeout);
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
    poller_look(poller, 0);
}

/* ---- the hub's side: GIL held ----------------------------------------------------------- */
static EgPoller *
poller_get(EgHub *hub)
{
    if (hub->poller)
        return hub->poller;
    EgPoller *poller = PyMem_RawCalloc(1, sizeof *poller);
    if (!poller) {
        PyErr_NoMemory();
        return NULL;
    }
    poller->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (poller->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        PyMem_RawFree(poller);
        return NULL;
    }
    int status = uv_poll_init(eg_hub_uv(hub), &poller->uv, poller->epoll);
    if (status < 0) {
        close(poller->epoll);
        PyMem_RawFree(poller);
        eg_error_raise(status);
        return NULL;
    }
    uv_poll_start(&poller->uv, UV_READABLE, fd_on_events);
    uv_unref((uv_handle_t *)&poller->uv);
    return hub->poller = poller;
}

/* Have the two sets change places. */
static void
poller_turn(EgHub *hub)
{
    EgPoller *poller = hub->poller;
    int uv = uv_backend_fd(eg_hub_uv(hub));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller->outer) {
        epoll_ctl(poller->epoll, EPOLL_CTL_DEL, uv, &event);
        poller->outer = false;
    } else {
        uv_poll_stop(&poller->uv); /* takes it out of libuv's set at once: no circle */
        poller->outer = epoll_ctl(poller->epoll, EPOLL_CTL_ADD, uv, &event) == 0;
    }
    if (!poller->outer)
        uv_poll_start(&poller->uv, UV_READABLE, fd_on_events);
    poller->weight = 0;
}

bool
eg_fd_is_outer(EgHub *hub)
{
    return hub->poller && hub->poller->outer && hub->poller->active;
}

bool
eg_fd_poll(EgHub *hub, int timeout)
{
    EgPoller *poller = hub->poller;
    bool uv;
    if (timeout == 0)
        uv = poller_look(poller, 0);
    else {
        Py_BEGIN_ALLOW_THREADS
        uv = poller_look(poller, timeout);
        Py_END_ALLOW_THREADS
    }
    poller->inner_told = uv;
    return uv;
}

void
eg_fd_embed(EgHub *hub)
{
    if (hub->poller && hub->poller->outer)
        poller_turn(hub);
}

static EgFd *
fd_known(EgHub *hub, int fd)
{
    EgPoller *poller = hub->poller;
    return poller && fd >= 0 && fd < poller->size ? poller->fds[fd] : NULL;
}

static EgFd *
fd_get(EgHub *hub, int fd)
{
    EgPoller *poller = poller_get(hub);
    if (!poller)
        return NULL;
    if (fd < 0) {
        errno = EBADF;
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    if (fd >= poller->size) {
        int size = poller->size ? poller->size : 64;
        while (size <= fd)
            size *= 2;
        EgFd **fds = PyMem_RawRealloc(poller->fds, (size_t)size * sizeof *fds);
        if (!fds) {
            PyErr_NoMemory();
            return NULL;
        }
        memset(fds + poller->size, 0, (size_t)(size - poller->size) * sizeof *fds);
        poller->fds = fds;
        poller->size = size;
    }
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

/* What the kernel's set should have for it now. */
static uint32_t
fd_interest(const EgFd *self)
{
    if (!self->reader && !self->writer)
        return EDGE;
    return (self->reader || self->readers.first ? EPOLLIN | EPOLLRDHUP : 0)
           | (self->writer || self->writers.first ? EPOLLOUT : 0);
}

/* What eg_fd_closing() hands to a waiter. */
#define FD_CLOSED Py_False

/* Its number means another file now, and nobody told: those but *me* waited for the one before. */
static void
fd_abandon(EgFd *self, const EgTask *me)
{
    EgQueue *queues[] = {&self->readers, &self->writers};
    for (int i = 0; i < 2; i++) {
        for (EgLink *link = queues[i]->first, *next; link; link = next) {
            next = link->next;
            if (link->task && link->task != me)
                eg_wait_wake(link->task, link, Py_NewRef(FD_CLOSED));
        }
    }
}

/* Have the kernel's set know it. check: the number may mean another file by now.
 * 0: done; 1: it is always ready (a regular file); -1: exception. */
static int
fd_arm(EgHub *hub, EgFd *self, uint32_t interest, bool check)
{
    struct epoll_event event = {.events = interest, .data.ptr = self};
    int epoll = hub->poller->epoll;
    check |= self->generation != eg_patch_generation; /* closes may have gone untold */
    self->generation = eg_patch_generation;
    if (self->armed == interest && !check)
        return 0;
    if (!self->armed || check) {
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, self->fd, &event) == 0) {
            if (self->armed)
                fd_abandon(self, hub->current);
            self->armed = interest;
            return 0;
        }
        if (errno == EPERM)
            return 1;
        if (errno != EEXIST) {
            self->armed = 0;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (self->armed == interest)
            return 0;
    }
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, self->fd, &event) < 0) {
        self->armed = 0;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    self->armed = interest;
    return 0;
}

static void
fd_tell(EgHub *hub, EgFd *self)
{
    uint32_t happened = self->happened;
    self->happened = 0;
    self->noted = self->drained = false;
    self->ending |= (happened & ENDING) != 0;
    if (happened & READABLE) {
        eg_queue_wake_all(&self->readers);
        if (self->reader)
            eg_handler_schedule(self->reader);
    }
    if (happened & WRITABLE) {
        eg_queue_wake_all(&self->writers);
        if (self->writer)
            eg_handler_schedule(self->writer);
    }
    /* Level-triggered: take out what nobody waits for any more. */
    if ((self->reader || self->writer) && fd_arm(hub, self, fd_interest(self), false) < 0)
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

int
eg_fd_wait(EgTask *me, int fd, int events, uint64_t deadline, bool owned)
{
    if (me->role == EG_THREAD || events == (EG_READ | EG_WRITE))
        return eg_fd_wait_many(me, 1, &fd, &events, &fd_read_kind, deadline);
    EgHub *hub = me->hub;
    EgFd *self = fd_get(hub, fd);
    if (!self)
        return -1;
    EgQueue *queue = events == EG_READ ? &self->readers : &self->writers;
    eg_wait_join(me, queue);
    int status = fd_arm(hub, self, fd_interest(self), !owned);
    if (status) {
        eg_wait_visit_leave(me);
        return status;
    }
    hub->poller->active++;
    status = eg_wait_park(me, events == EG_READ ? &fd_read_kind : &fd_write_kind, NULL, deadline);
    hub->poller->active--;
    return fd_outcome(me, status);
}

/* A native thread without a hub: poll(2), as it would do anyway. */
static int
fd_wait_thread(Py_ssize_t n, const int *fds, const int *events, uint64_t deadline)
{
    struct epoll_event event;
    int ready = -1, epoll = epoll_create1(EPOLL_CLOEXEC);
    for (Py_ssize_t i = 0; epoll >= 0 && i < n; i++) {
        event.events = (events[i] & EG_READ ? EPOLLIN : 0) | (events[i] & EG_WRITE ? EPOLLOUT : 0);
        event.data.u64 = (uint64_t)i;
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0) {
            ready = errno == EPERM ? 1 : -1;
            goto done;
        }
    }
    while (epoll >= 0) {
        uint64_t now = eg_clock_now();
        uint64_t ms = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
        int timeout = deadline == EG_FOREVER ? -1 : ms > 86400000 ? 86400000 : (int)ms;
        Py_BEGIN_ALLOW_THREADS
        ready = epoll_wait(epoll, &event, 1, timeout);
        Py_END_ALLOW_THREADS
        if (ready > 0 || (ready < 0 && errno != EINTR)
            || (ready == 0 && eg_clock_now() >= deadline))
            break;
        if (PyErr_CheckSignals() < 0)
            break;
    }
done:
    if (ready < 0 && !PyErr_Occurred())
        PyErr_SetFromErrno(PyExc_OSError);
    if (epoll >= 0)
        close(epoll);
    return ready;
}

int
eg_fd_wait_many(EgTask *me, Py_ssize_t n, const int *fds, const int *events, const EgWaitKind *kind,
                uint64_t deadline)
{
    if (me->role == EG_THREAD)
        return fd_wait_thread(n, fds, events, deadline);
    EgHub *hub = me->hub;
    EgWait *wait = &me->wait;
    int status = 0;
    if (!poller_get(hub))
        return -1;
    if (n && !(wait->links = PyMem_RawCalloc((size_t)n * 2, sizeof *wait->links))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n && !status; i++) {
        EgFd *self = fd_get(hub, fds[i]);
        if (!self) {
            status = -1;
            break;
        }
        if (events[i] & EG_READ)
            eg_queue_add(&self->readers, &wait->links[wait->nlinks++], me);
        if (events[i] & EG_WRITE)
            eg_queue_add(&self->writers, &wait->links[wait->nlinks++], me);
        status = fd_arm(hub, self, fd_interest(self), true);
    }
    if (!status) {
        hub->poller->active++;
        status = fd_outcome(me, eg_wait_park(me, kind, NULL, deadline));
        hub->poller->active--;
    }
    eg_wait_visit_leave(me);
    PyMem_RawFree(wait->links);
    wait->links = NULL;
    wait->nlinks = 0;
    return status;
}

void
eg_fd_closing(int fd)
{
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        EgFd *self = fd_known(hub, fd);
        if (!self || !self->armed)
            continue;
        self->drained = self->ending = false;
        /* Copies of the descriptor may live on: closing alone would leave it in the set. */
        struct epoll_event unused;
        epoll_ctl(hub->poller->epoll, EPOLL_CTL_DEL, fd, &unused);
        self->armed = 0;
        while (eg_queue_peek(&self->readers))
            eg_queue_wake(&self->readers, Py_NewRef(FD_CLOSED));
        while (eg_queue_peek(&self->writers))
            eg_queue_wake(&self->writers, Py_NewRef(FD_CLOSED));
        for (int event = EG_READ; event <= EG_WRITE; event++) {
            PyObject **slot = event == EG_READ ? &self->reader : &self->writer;
            hub->poller->active -= *slot != NULL;
            Py_CLEAR(*slot);
        }
    }
}

/* ---- callbacks ------------------------------------------------------------------------------ */
int
eg_fd_watch(EgHub *hub, int fd, int event, PyObject *handler)
{
    EgFd *self = fd_get(hub, fd);
    if (!self)
        return -1;
    PyObject **slot = event == EG_READ ? &self->reader : &self->writer;
    if (*slot) {
        PyErr_Format(PyExc_RuntimeError, "another %s is already registered for fd %d",
                     event == EG_READ ? "reader" : "writer", fd);
        return -1;
    }
    *slot = Py_NewRef(handler); /* given back by eg_fd_unwatch() or eg_fd_closing() */
    int status = fd_arm(hub, self, fd_interest(self), true);
    if (status) {
        Py_CLEAR(*slot);
        if (status > 0) {
            errno = EPERM; /* a regular file: nothing to watch */
            PyErr_SetFromErrno(PyExc_OSError);
        }
        return -1;
    }
    hub->poller->active++;
    return 0;
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
    hub->poller->active--;
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

/* In a forked child: the kernel's set is the parent's, too, so it is left as it is. */
int
eg_fd_after_fork(EgHub *hub, bool keep)
{
    EgPoller *old = hub->poller;
    if (!old)
        return 0;
    hub->poller = NULL; /* what it holds is left behind: the parent's structure, our copy */
    close(old->epoll);
    if (!keep)
        return 0;
    EgPoller *poller = poller_get(hub);
    if (!poller)
        return -1;
    poller->fds = old->fds;
    poller->size = old->size;
    poller->active = old->active;
    for (int fd = 0; fd < poller->size; fd++) {
        EgFd *self = poller->fds[fd];
        if (!self || !self->armed)
            continue;
        self->armed = 0;
        self->happened = 0;
        self->noted = self->drained = false;
        if (self->readers.first || self->writers.first || self->reader || self->writer)
            if (fd_arm(hub, self, fd_interest(self), false) < 0)
                return -1;
    }
    return 0;
}
