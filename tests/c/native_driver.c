/* native_driver.c: a C library that blocks, as database drivers do; for test_native_calls.py.
 *
 * read_by_NAME(fd) waits in libc's function NAME until a byte can be read (or a connection
 * accepted), and returns it; write_by_NAME(fd, data, n) writes all of it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
extern ssize_t __read_chk(int, void *, size_t, size_t);
extern ssize_t __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);

/* From Python, in whose process this is. */
extern void PyErr_SetString(void *, const char *);
extern void *PyErr_Occurred(void);
extern void PyErr_Clear(void);
extern void *PyExc_ValueError;

static int
take(int fd, int ready)
{
    unsigned char byte;
    return ready == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) == 1 ? byte : -1;
}

#define READ_BY(name, wait)                  \
    int read_by_##name(int fd)               \
    {                                        \
        struct pollfd one = {fd, POLLIN, 0}; \
        (void)one;                           \
        return take(fd, wait);               \
    }
READ_BY(poll, poll(&one, 1, -1))
READ_BY(ppoll, ppoll(&one, 1, NULL, NULL))
READ_BY(poll_chk, __poll_chk(&one, 1, 60000, sizeof one))
READ_BY(ppoll_chk, __ppoll_chk(&one, 1, NULL, NULL, sizeof one))

int
read_by_ppoll_mask(int fd)
{
    sigset_t mask;
    struct pollfd one = {fd, POLLIN, 0};
    sigemptyset(&mask);
    return take(fd, ppoll(&one, 1, NULL, &mask));
}

int
read_by_select(int fd)
{
    fd_set reads, excepts;
    struct timeval limit = {60, 0};
    FD_ZERO(&reads);
    FD_ZERO(&excepts);
    FD_SET(fd, &reads);
    FD_SET(fd, &excepts);
    int found = select(fd + 1, &reads, NULL, &excepts, &limit);
    if (FD_ISSET(fd, &excepts) || !FD_ISSET(fd, &reads) || limit.tv_sec > 60)
        return -2;
    return take(fd, found);
}

int
read_by_pselect(int fd)
{
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(fd, &reads);
    return take(fd, pselect(fd + 1, &reads, NULL, NULL, NULL, NULL));
}

int
read_by_epoll_wait(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    int found = epoll_wait(epoll, &event, 1, -1);
    close(epoll);
    return take(fd, found);
}

#define BYTE_BY(name, call)                                      \
    int read_by_##name(int fd)                                   \
    {                                                            \
        unsigned char byte = 0;                                  \
        struct iovec part = {&byte, 1};                          \
        struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1}; \
        (void)msg;                                               \
        ssize_t got = call;                                      \
        return got == 1 ? byte : -1;                             \
    }
BYTE_BY(recv, recv(fd, &byte, 1, 0))
BYTE_BY(recvfrom, recvfrom(fd, &byte, 1, 0, NULL, NULL))
BYTE_BY(recvmsg, recvmsg(fd, &msg, 0))
BYTE_BY(read, read(fd, &byte, 1))
BYTE_BY(readv, readv(fd, &part, 1))
BYTE_BY(read_chk, __read_chk(fd, &byte, 1, 1))
BYTE_BY(recv_chk, __recv_chk(fd, &byte, 1, 1, 0))
BYTE_BY(recvfrom_chk, __recvfrom_chk(fd, &byte, 1, 1, 0, NULL, NULL))

ssize_t
write_by_send(int fd, char *data, size_t n)
{
    return send(fd, data, n, 0);
}

ssize_t
write_by_sendto(int fd, char *data, size_t n)
{
    return sendto(fd, data, n, 0, NULL, 0);
}

ssize_t
write_by_sendmsg(int fd, char *data, size_t n)
{
    struct iovec parts[] = {{data, 1}, {data + 1, n - 2}, {data + n - 1, 1}};
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 3};
    return sendmsg(fd, &msg, 0);
}

ssize_t
write_by_write(int fd, char *data, size_t n)
{
    return write(fd, data, n);
}

ssize_t
write_by_writev(int fd, char *data, size_t n)
{
    struct iovec parts[] = {{data, 1}, {data + 1, n - 2}, {data + n - 1, 1}};
    return writev(fd, parts, 3);
}

int
nap_by_usleep(long ms)
{
    return usleep((useconds_t)ms * 1000);
}

int
nap_by_nanosleep(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    return nanosleep(&time, NULL);
}

int
nap_by_clock_nanosleep(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    return clock_nanosleep(CLOCK_REALTIME, 0, &time, NULL);
}

int
nap_until(int clock, long ms)
{
    struct timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += ms * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return clock_nanosleep(clock, TIMER_ABSTIME, &time, NULL);
}

int
nap_by_clock_nanosleep_until(long ms)
{
    return nap_until(CLOCK_MONOTONIC, ms);
}

int
nap_by_poll(long ms)
{
    struct pollfd none = {-1, POLLIN, 0};
    return poll(&none, 1, (int)ms);
}

int
nap_by_select(long ms)
{
    struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    int found = select(0, NULL, NULL, NULL, &limit);
    return found ? found : (int)(limit.tv_sec + limit.tv_usec); /* nothing was left */
}

/* How many bytes were there, one by one. */
int
read_many(int fd, int n)
{
    int i = 0;
    while (i < n && read_by_recv(fd) >= 0)
        i++;
    return i;
}

/* The number of an interrupted sleep's ms that were left. */
long
nap_rest(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000}, rest;
    if (nanosleep(&time, &rest) == 0)
        return 0;
    return errno == EINTR ? rest.tv_sec * 1000 + rest.tv_nsec / 1000000 : -1;
}

/* How often a library that never gives up had to call. */
int
insist(int fd)
{
    int calls = 1;
    struct pollfd one = {fd, POLLIN, 0};
    while (poll(&one, 1, -1) < 0)
        calls++;
    return calls;
}

int
poll_errno(int fd)
{
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, -1) < 0 ? errno : 0;
}

int
poll_revents(int fd, int ms)
{
    struct pollfd some[] = {{-1, POLLIN, 0}, {fd, POLLIN, 0}};
    int found = poll(some, 2, ms);
    return found < 0 ? -errno : some[1].revents;
}

/* errno after a call that parked and succeeded; it was 77 before. */
int
errno_after(int fd)
{
    char byte;
    errno = 77;
    ssize_t got = recv(fd, &byte, 1, 0);
    return got == 1 ? errno : -errno;
}

int
poll_with_exception(int fd)
{
    PyErr_SetString(PyExc_ValueError, "set before");
    int byte = read_by_poll(fd);
    if (!PyErr_Occurred())
        return -3;
    PyErr_Clear();
    return byte;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

int
read_locked(int fd)
{
    pthread_mutex_lock(&mutex);
    int byte = read_by_poll(fd);
    pthread_mutex_unlock(&mutex);
    return byte;
}

static void
on_signal(int signum)
{
    struct timespec time = {0, 5000000};
    (void)signum;
    nanosleep(&time, NULL);
}

int
sleep_in_handler(void)
{
    struct sigaction action = {.sa_handler = on_signal}, before, now;
    sigaction(SIGUSR2, &action, &before);
    raise(SIGUSR2);
    sigaction(SIGUSR2, &before, &now);
    return now.sa_handler == on_signal && !(now.sa_flags & SA_SIGINFO);
}

/* What a child that C code made, without telling Python, reads from fd. */
int
read_in_child(int fd)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(read_by_recv(fd));
    while (waitpid(child, &status, 0) < 0)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
