/* port.c: the libuv loop of a hub, and the descriptors that it stands on.
 *
 * libuv ends the process when a system call on one of them fails, and C code may close any number
 * (closefrom(3), a daemon that begins, a double close), or give it to another file.  So libuv
 * never runs before eg_port_ready() has asked the kernel whether they are what they were:
 *
 *     backend   libuv's epoll set: holds the bell
 *     bell      an eventfd, by which other threads end the hub's sleep
 *     set       fd.c's epoll set: holds the bell, too, which asks for no event there
 *
 * To add the bell once more fails with EEXIST only if both numbers still mean what they did, so
 * one call a poll asks for two of the three.  What was lost is made anew in
 * place; libuv's handles and requests stay.  What libuv has to tell the kernel is told here, where a
 * refusal ends one stream and not the process.
 *
 * Without descriptors to make them of, the hub goes on without: timers, tasks and other threads'
 * wake-ups are looked at every BARE_NS, and each time it is tried again.
 *
 * os.close() and others spare these numbers, where they are told: see eg_port_owns().
 */
#include "evergreen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define BARE_NS 10000000u
#define LONG_NS 60000000u /* more than fd.c leaves a wait without a look */
#define NEEDED 6          /* descriptors that the first loop of a process takes */
#define APART 100         /* and the number from which on they are, if that may be */

/* What libuv's first loop makes for the process: the two ends of a pipe, which a forked child
 * closes and makes anew, whatever the numbers mean by then. */
static int port_lock[2] = {-1, -1};
/* It aborts if it cannot make them: two low numbers that a child gives up for them, a pipe, too. */
static int port_reserve[2] = {-1, -1};
static ino_t port_lock_pipe, port_reserve_pipe; /* which pipes these are */
static void port_after_libuv(void);

/* ---- watchers: what libuv's epoll set holds, or is to hold ------------------------------ */
typedef struct PortLink {
    struct PortLink *next, *prev; /* as libuv's queues are made */
} PortLink;

static PortLink *
watcher_link(uv__io_t *watcher)
{
    return (PortLink *)(void *)&watcher->watcher_queue;
}

static void
link_remove(PortLink *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = link->prev = link;
}

static void
watcher_queue(uv_loop_t *uv, uv__io_t *watcher)
{
    PortLink *link = watcher_link(watcher), *queue = (PortLink *)(void *)&uv->watcher_queue;
    if (link->next != link)
        return;
    link->next = queue;
    link->prev = queue->prev;
    queue->prev->next = link;
    queue->prev = link;
}

/* libuv knows it no more under its number. */
static void
watcher_take_out(uv_loop_t *uv, uv__io_t *watcher)
{
    link_remove(watcher_link(watcher));
    watcher->events = 0;
    if (watcher->fd >= 0 && (unsigned)watcher->fd < uv->nwatchers
        && uv->watchers[watcher->fd] == watcher) {
        uv->watchers[watcher->fd] = NULL;
        uv->nfds--;
    }
}

/* Whether set is an epoll set that holds member. */
static bool
set_holds(int set, int member)
{
    struct epoll_event event = {0};
    if (epoll_ctl(set, EPOLL_CTL_ADD, member, &event) < 0)
        return errno == EEXIST;
    epoll_ctl(set, EPOLL_CTL_DEL, member, &event); /* another set has that number now */
    return false;
}

/* Have libuv forget a watcher of a file that had the number before, and was closed untold. */
static void
port_evict(EgHub *hub, int fd)
{
    uv_loop_t *uv = &hub->port->uv;
    uv__io_t *watcher = uv->watchers[fd];
    if (!watcher || !watcher->events || set_holds(uv->backend_fd, fd))
        return;
    watcher_take_out(uv, watcher);
    if (fd == eg_signal_pipe(hub))
        eg_signal_lose(hub);
    else if (eg_wires_lost(hub, watcher, UV_EBADF))
        watcher->pevents = 0;
}

int
eg_port_reserve(EgHub *hub, int fd)
{
    uv_loop_t *uv = &hub->port->uv;
    unsigned size = uv->nwatchers + 2;
    if ((unsigned)fd < uv->nwatchers) {
        port_evict(hub, fd);
        return 0;
    }
    while (size < (unsigned)fd + 3)
        size *= 2;
    uv__io_t **watchers = realloc(uv->watchers, size * sizeof *watchers);
    if (!watchers)
        return UV_ENOMEM;
    memset(watchers + uv->nwatchers, 0, (size - uv->nwatchers) * sizeof *watchers);
    uv->watchers = watchers;
    uv->nwatchers = size - 2;
    return 0;
}

int
eg_port_move(EgHub *hub, uv__io_t *watcher, int fd)
{
    uv_loop_t *uv = &hub->port->uv;
    int status = eg_port_reserve(hub, fd);
    if (status < 0)
        return status;
    watcher_take_out(uv, watcher);
    watcher->fd = fd;
    if (!watcher->pevents)
        return 0;
    uv->nfds += !uv->watchers[fd];
    uv->watchers[fd] = watcher;
    watcher_queue(uv, watcher);
    return 0;
}

/* Tell the kernel of a watcher; false: it refuses, errno. */
static bool
watcher_arm(uv_loop_t *uv, uv__io_t *watcher)
{
    struct epoll_event event = {.events = watcher->pevents, .data.fd = watcher->fd};
    if (epoll_ctl(uv->backend_fd, watcher->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, watcher->fd,
                  &event)
            < 0
        && (errno != EEXIST || epoll_ctl(uv->backend_fd, EPOLL_CTL_MOD, watcher->fd, &event) < 0))
        return false;
    link_remove(watcher_link(watcher));
    watcher->events = watcher->pevents;
    return true;
}

/* Tell the kernel what libuv would tell it. A stream that the kernel refuses has ended; false: it
 * is something of the hub's own. */
static bool
port_arm(EgHub *hub)
{
    uv_loop_t *uv = &hub->port->uv;
    PortLink *queue = (PortLink *)(void *)&uv->watcher_queue;
    while (queue->next != queue) {
        uv__io_t *watcher =
            (uv__io_t *)(void *)((char *)queue->next - offsetof(uv__io_t, watcher_queue));
        if (watcher_arm(uv, watcher))
            continue;
        int status = -errno;
        if (watcher == &uv->async_io_watcher || !eg_wires_lost(hub, watcher, status))
            return false;
        watcher_take_out(uv, watcher);
        watcher->pevents = 0;
    }
    return true;
}

/* ---- asking the kernel ------------------------------------------------------------------- */
/* Before a poll that may sleep for so long. libuv's set is asked for each time, in turns with one of
 * the others; before a long sleep, two calls ask for all. */
static bool
port_is_intact(EgHub *hub, uint64_t ns)
{
    uv_loop_t *uv = &hub->port->uv;
    int backend = uv->backend_fd, bell = uv->async_io_watcher.fd;
    int set = eg_fd_set(hub), pipe = eg_signal_pipe(hub);
    unsigned turn = hub->port->turn++ % 4;
    if (ns > LONG_NS) {
        if (pipe >= 0 && !set_holds(backend, pipe))
            return false;
        return set_holds(set >= 0 && pipe >= 0 ? set : backend, bell)
               && (set < 0 || pipe >= 0 || eg_fd_holds_each_other(hub));
    }
    if (set >= 0 && turn % 2)
        return eg_fd_holds_each_other(hub);
    return set_holds(backend, pipe >= 0 && turn ? pipe : bell);
}

/* The same of all of it. */
static bool
port_is_well(EgHub *hub)
{
    uv_loop_t *uv = &hub->port->uv;
    int set = eg_fd_set(hub), bell = uv->async_io_watcher.fd;
    return set_holds(uv->backend_fd, bell) && eg_signal_is_well(hub)
           && (set < 0 || (set_holds(set, bell) && eg_fd_holds_each_other(hub)));
}

/* ---- making anew --------------------------------------------------------------------------- */
/* Far from the numbers that programs close and use again, or at least none of the standard streams':
 * libuv may close none of those. */
int
eg_port_apart(int fd)
{
    int other = fd < 0 || fd >= APART ? fd : fcntl(fd, F_DUPFD_CLOEXEC, APART);
    if (other < 0 && fd > STDERR_FILENO)
        return fd;
    if (other < 0 && fd >= 0)
        other = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int code = errno;
    if (fd >= 0 && other != fd)
        close(fd);
    errno = code;
    return other;
}

static bool
port_renew_backend(uv_loop_t *uv)
{
    int fd = eg_port_apart(epoll_create1(EPOLL_CLOEXEC));
    if (fd < 0)
        return false;
    uv->backend_fd = fd;
    for (unsigned i = 0; i < uv->nwatchers; i++) {
        uv__io_t *watcher = uv->watchers[i];
        if (!watcher || !watcher->pevents)
            continue;
        watcher->events = 0;
        watcher_queue(uv, watcher);
    }
    return true;
}

static bool
port_renew_bell(EgHub *hub)
{
    int fd = eg_port_apart(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (fd < 0)
        return false;
    if (eg_port_move(hub, &hub->port->uv.async_io_watcher, fd) == 0)
        return eventfd_write(fd, 1) == 0; /* the old one may have been rung */
    close(fd);
    return false;
}

void
eg_port_settle(EgHub *hub)
{
    uv_loop_t *uv = &hub->port->uv;
    if (uv->emfile_fd >= 0 && uv->emfile_fd < APART)
        uv->emfile_fd = eg_port_apart(uv->emfile_fd);
}

/* The spare descriptor that libuv keeps for servers of its own; the number may mean another file. */
static void
port_check_spare(uv_loop_t *uv)
{
    struct stat status;
    if (uv->emfile_fd != -1
        && (fstat(uv->emfile_fd, &status) < 0 || !S_ISCHR(status.st_mode)
            || status.st_rdev != makedev(1, 3)))
        uv->emfile_fd = -1;
}

/* Numbers of the hub's mean other files, or none: give it new ones. False: there are none left. */
static bool
port_repair(EgHub *hub)
{
    uv_loop_t *uv = &hub->port->uv;
    int bell = uv->async_io_watcher.fd, set = eg_fd_set(hub);
    bool backend_well = set_holds(uv->backend_fd, bell);
    bool set_well = set < 0 || set_holds(set, bell);
    bool bell_well = backend_well || (set >= 0 && set_well);
    if (!bell_well && eg_fd_holds_each_other(hub))
        backend_well = set_well = true;
    if (!backend_well || !set_well || !bell_well)
        uv->emfile_fd = -1; /* it may be lost as well: it is better not closed than another's */
    eg_work_hold(hub);
    bool done = (backend_well || port_renew_backend(uv)) && (bell_well || port_renew_bell(hub));
    eg_work_release();
    if (!done || !eg_signal_repair(hub) || (set >= 0 && !eg_fd_repair(hub, !set_well)))
        return false;
    if (port_arm(hub))
        return true;
    return false;
}

/* Without the GIL for a while: without descriptors there is nothing that could end this. */
static void
port_sleep_bare(uint64_t ns)
{
    struct timespec pause = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
}

/* What the hub had before a fork, and needs from the first. */
static bool
port_ensure(EgHub *hub)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    bool done = (hub->port || eg_port_open(hub) == 0)
                && (!eg_signal_lacks_pipe(hub) || eg_signal_repair(hub));
    PyErr_Restore(type, value, traceback);
    return done;
}

bool
eg_port_ready(EgHub *hub, uint64_t bare_ns)
{
    if (EG_LIKELY(hub->port && !eg_signal_lacks_pipe(hub) && port_is_intact(hub, bare_ns)
                  && port_arm(hub)))
        return true;
    if (port_ensure(hub) && (port_is_well(hub) || port_repair(hub)) && port_arm(hub))
        return true;
    if (bare_ns)
        port_sleep_bare(Py_MIN(bare_ns, BARE_NS));
    eg_signal_doubt(hub);
    return false;
}

bool
eg_port_mend(EgHub *hub)
{
    return hub->port && !port_is_well(hub) && port_repair(hub);
}

uv_loop_t *
eg_port_uv(EgHub *hub)
{
    uv_loop_t *uv = hub->port ? &hub->port->uv : NULL;
    if (uv && set_holds(uv->backend_fd, uv->async_io_watcher.fd))
        return uv;
    if (uv ? port_repair(hub) : eg_port_open(hub) == 0)
        return &hub->port->uv;
    if (uv)
        PyErr_SetFromErrno(PyExc_OSError);
    return NULL;
}

/* ---- ringing: from any thread, with the GIL or without -------------------------------------- */
void
eg_port_ring(uv_async_t *bell)
{
    uv_loop_t *uv = bell->loop;
    /* Another file that has the number would get what is written to the bell. */
    if (bell->pending || set_holds(uv->backend_fd, uv->async_io_watcher.fd))
        uv_async_send(bell);
}

/* ---- opening --------------------------------------------------------------------------------- */
/* Take up to n descriptors, the lowest ones; how many. */
static int
fill(int *fds, int n)
{
    int taken = 0;
    while (taken < n && (fds[taken] = eventfd(0, EFD_CLOEXEC)) >= 0)
        if (fds[taken++] >= APART)
            break;
    return taken;
}

static void
let_go(const int *fds, int n)
{
    while (n--)
        close(fds[n]);
}

/* Take the numbers of standard streams that are closed: libuv's own may be none of those. */
static int
take_low(int *low)
{
    int n = 0;
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && (low[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
            n++;
    return n;
}

/* The pipe that the number means; 0: none. */
static ino_t
pipe_of(int fd)
{
    struct stat status;
    return fd >= 0 && fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) ? status.st_ino : 0;
}

static bool
is_end_of(int fd, const int *ends, ino_t pipe)
{
    return (fd == ends[0] || fd == ends[1]) && pipe && pipe_of(fd) == pipe;
}

static bool
is_lock_end(int fd, const uv_loop_t *uv)
{
    return fd != uv->signal_pipefd[0] && fd != uv->signal_pipefd[1] && pipe_of(fd);
}

/* The first loop of the process also makes what is the process's own, and aborts if it cannot. What
 * is made stands apart from the numbers that programs close and use again. */
static int
port_init_first(uv_loop_t *uv)
{
    int fds[APART + NEEDED + 1], more[NEEDED];
    int n = fill(fds, APART + NEEDED), nmore = 0;
    if (n && fds[n - 1] >= APART) {
        while (nmore < NEEDED && (more[nmore] = eventfd(0, EFD_CLOEXEC)) >= 0)
            nmore++;
        let_go(more, nmore);
    }
    if (nmore < NEEDED) { /* there is less room than that */
        if (n < NEEDED) {
            int code = errno;
            let_go(fds, n);
            return -code;
        }
        memcpy(more, fds + n - NEEDED, sizeof more);
        n -= NEEDED;
        let_go(more, NEEDED);
    }
    int status = uv_loop_init(uv);
    for (int i = 0; status == 0 && i < NEEDED; i++)
        if (is_lock_end(more[i], uv))
            port_lock[port_lock[0] != -1] = more[i];
    port_lock_pipe = pipe_of(port_lock[0]);
    let_go(fds, n);
    static bool registered;
    if (status == 0 && !registered) /* behind libuv's own */
        registered = pthread_atfork(NULL, NULL, port_after_libuv) == 0;
    if (status == 0 && pipe2(port_reserve, O_CLOEXEC) == 0)
        port_reserve_pipe = pipe_of(port_reserve[0]);
    return status;
}

/* Only libuv's own signal handlers would use it. */
static void
port_drop_signal_pipe(uv_loop_t *uv)
{
    if (uv->signal_pipefd[0] == -1)
        return;
    watcher_take_out(uv, &uv->signal_io_watcher);
    uv->signal_io_watcher.pevents = 0;
    uv->signal_io_watcher.fd = -1;
    close(uv->signal_pipefd[0]);
    close(uv->signal_pipefd[1]);
    uv->signal_pipefd[0] = uv->signal_pipefd[1] = -1;
}

static int
port_init_apart(uv_loop_t *uv)
{
    int low[STDERR_FILENO + 1], n = take_low(low);
    int status = port_lock[0] < 0 ? port_init_first(uv) : uv_loop_init(uv);
    let_go(low, n);
    return status;
}

static void
port_on_bell(uv_async_t *uv)
{
    (void)uv; /* it ended the poll, and that is all it is for: the inbox is read then */
}

int
eg_port_open(EgHub *hub)
{
    EgPort *port = PyMem_RawCalloc(1, sizeof *port);
    if (!port) {
        PyErr_NoMemory();
        return -1;
    }
    int status = port_init_apart(&port->uv);
    if (status < 0) {
        PyMem_RawFree(port);
        eg_error_raise(status);
        return -1;
    }
    port_drop_signal_pipe(&port->uv);
    port->uv.backend_fd = eg_port_apart(port->uv.backend_fd);
    uv_timer_init(&port->uv, &port->clock);
    uv_unref((uv_handle_t *)&port->clock);
    uv_async_init(&port->uv, &port->bell, port_on_bell); /* the loop has its descriptor already */
    hub->port = port;
    int bell = eg_port_apart(port->uv.async_io_watcher.fd);
    if (eg_port_move(hub, &port->uv.async_io_watcher, bell) == 0 && port_arm(hub))
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    eg_port_close(hub);
    return -1;
}

/* ---- closing ------------------------------------------------------------------------------------ */
static void
port_close_handle(uv_handle_t *uv, void *unused)
{
    (void)unused;
    if (!uv_is_closing(uv))
        uv_close(uv, NULL);
}

void
eg_port_close(EgHub *hub)
{
    EgPort *port = hub->port;
    if (!port)
        return;
    if (!port_is_well(hub) && !port_repair(hub)) {
        hub->port = NULL; /* there is nothing that it could be closed by: it is left */
        eg_fd_lose(hub);
        return;
    }
    port_check_spare(&port->uv);
    uv_walk(&port->uv, port_close_handle, NULL);
    while (port_arm(hub) && uv_run(&port->uv, UV_RUN_NOWAIT) != 0)
        ;
    if (uv_loop_close(&port->uv) == 0)
        PyMem_RawFree(port);
    hub->port = NULL;
}

/* In a forked child: the kernel's sets are shared with the parent, so nothing may be taken out of
 * them; the structure is left where it is, and only our copies of the descriptors are closed. */
void
eg_port_leave(EgHub *hub)
{
    EgPort *port = hub->port;
    hub->port = NULL;
    if (!port || !set_holds(port->uv.backend_fd, port->uv.async_io_watcher.fd))
        return;
    port_check_spare(&port->uv);
    close(port->uv.backend_fd);
    close(port->uv.async_io_watcher.fd);
    if (port->uv.emfile_fd != -1)
        close(port->uv.emfile_fd);
}

/* ---- whose a number is ------------------------------------------------------------------------------ */
/* Whether a number of the hub's still means what it did, and not a file of the program's. */
static bool
port_means(EgHub *hub, int fd)
{
    uv_loop_t *uv = &hub->port->uv;
    int backend = uv->backend_fd, bell = uv->async_io_watcher.fd, set = eg_fd_set(hub);
    if (fd == bell)
        return set_holds(backend, bell) || set_holds(set, bell);
    if (fd == backend || fd == set)
        return set_holds(fd, bell) || eg_fd_holds_each_other(hub);
    port_check_spare(uv);
    return fd == uv->emfile_fd;
}

bool
eg_port_owns(int fd)
{
    if (fd < 0)
        return false;
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub)
        if ((hub->port && port_means(hub, fd)) || eg_signal_owns(hub, fd))
            return true;
    return eg_state->hubs
           && (is_end_of(fd, port_lock, port_lock_pipe)
               || is_end_of(fd, port_reserve, port_reserve_pipe));
}

int
eg_port_highest(const EgHub *hub)
{
    int numbers[] = {port_lock[0],
                     port_lock[1],
                     eg_fd_set(hub),
                     eg_signal_highest(hub),
                     hub->port ? hub->port->uv.backend_fd : -1,
                     hub->port ? hub->port->uv.async_io_watcher.fd : -1,
                     hub->port ? hub->port->uv.emfile_fd : -1};
    int most = -1;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        most = Py_MAX(most, numbers[i]);
    return most;
}

/* CPython writes to the number of the wake-up pipe whatever it means, so that gets another now; the
 * rest is asked for before it is used.  A hub that sleeps may have to look. */
void
eg_port_vacate(int fd)
{
    for (EgHub *hub = eg_state->hubs; hub; hub = hub->next_hub) {
        if (hub != eg_hub_here)
            eg_hub_wake(hub);
        else if (eg_signal_owns(hub, fd))
            eg_signal_vacate(hub);
    }
}

/* ---- forks ------------------------------------------------------------------------------------------- */
static void
sort_numbers(int *numbers, int n)
{
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && numbers[k] < numbers[k - 1]; k--) {
            int one = numbers[k];
            numbers[k] = numbers[k - 1];
            numbers[k - 1] = one;
        }
}

static int port_low[STDERR_FILENO + 1], port_nlow;

/* Files of the program's that have the numbers of the lock pipe, which was closed untold. */
static struct {
    int fd, copy, flags; /* copy -1: there is none */
} port_saved[2];

static void
port_save(int i)
{
    int fd = port_lock[i], flags = fcntl(fd, F_GETFD);
    bool other = flags >= 0 && !is_end_of(fd, port_lock, port_lock_pipe);
    port_saved[i].fd = fd;
    port_saved[i].flags = flags;
    port_saved[i].copy = other ? fcntl(fd, F_DUPFD_CLOEXEC, APART) : -1;
    if (other && port_saved[i].copy < 0)
        port_saved[i].copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

/* They get their numbers back, from libuv's new pipe if that has them: only its own signal handlers
 * would use it. */
static void
port_give_back(int i)
{
    if (port_saved[i].copy < 0)
        return;
    dup2(port_saved[i].copy, port_saved[i].fd);
    fcntl(port_saved[i].fd, F_SETFD, port_saved[i].flags);
    close(port_saved[i].copy);
    port_saved[i].copy = -1;
}

/* In the child, before libuv closes its lock pipe and makes another: it gets the lowest numbers that
 * are free then. */
static void
port_before_libuv(void)
{
    int numbers[4] = {port_lock[0], port_lock[1], INT_MAX, INT_MAX};
    if (port_lock[0] < 0)
        return;
    for (int i = 0; i < 2; i++)
        if (is_end_of(port_reserve[i], port_reserve, port_reserve_pipe))
            close(port_reserve[i]);
    port_reserve[0] = port_reserve[1] = -1; /* the new pipe leaves room for itself */
    port_save(0);
    port_save(1);
    port_nlow = take_low(port_low);
    if (pipe(numbers + 2) == 0) {
        close(numbers[2]);
        close(numbers[3]);
    }
    sort_numbers(numbers, 4); /* two may be there twice: those of a lock pipe that was closed */
    port_lock[0] = numbers[0];
    port_lock[1] = numbers[1] > numbers[0] ? numbers[1] : numbers[2];
}

/* And after. */
static void
port_after_libuv(void)
{
    if (port_lock[0] < 0)
        return;
    port_lock_pipe = pipe_of(port_lock[0]);
    if (pipe_of(port_lock[1]) != port_lock_pipe)
        port_lock_pipe = 0;
    let_go(port_low, port_nlow);
    port_nlow = 0;
    port_give_back(0);
    port_give_back(1);
}

int
eg_port_setup(void)
{
    static bool done;
    if (!done && pthread_atfork(NULL, NULL, port_before_libuv) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    done = true;
    return 0;
}
