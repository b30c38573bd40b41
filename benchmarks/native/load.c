/* load.c: the clients of a server: load KIND WHERE CONNECTIONS SIZE COUNT IDLE
 *
 * KIND is tcp, tls, udp or accept, and WHERE a port of 127.0.0.1; or unix, and the path of a socket.
 *
 * Each connection sends a message of SIZE bytes when the one before has come back, COUNT in all.  With
 * "accept", each message has a connection of its own, which is then closed.  IDLE connections are open
 * meanwhile, and silent.  It costs as little as can be, so that on a machine with few cores the server is
 * what is measured.
 *
 * It says "ready" when all are connected, and begins when it gets a line.  When all messages have come
 * back it closes the connections that were used, prints how long they took, in seconds, as JSON, and goes
 * when its standard input ends.  A "udp" client then sends one byte, until that comes back.
 *
 * Compiled with -DWITH_TLS it has the kind tls, and needs OpenSSL.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

enum { BUFFER = 1 << 20, RESEND = 1000 /* ms: a datagram may be lost */ };

typedef struct {
    int fd;    /* -1: closed */
    long left; /* messages */
    size_t sent, received;
    double began;
#ifdef WITH_TLS
    SSL *tls;
#endif
} Connection;

static bool datagrams, one_each;
static int family = AF_INET, poll_fd;
static struct sockaddr_storage address;
static socklen_t address_size;
static size_t size;
static char *message, *buffer;
static double *latencies;
static long measured;
#ifdef WITH_TLS
static SSL_CTX *tls_context;
#endif

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void
set_address(const char *kind, const char *where)
{
    if (strcmp(kind, "unix") == 0) {
        struct sockaddr_un *path = (struct sockaddr_un *)&address;
        family = path->sun_family = AF_UNIX;
        strncpy(path->sun_path, where, sizeof path->sun_path - 1);
        address_size = sizeof *path;
    } else {
        struct sockaddr_in *port = (struct sockaddr_in *)&address;
        port->sin_family = AF_INET;
        port->sin_port = htons((uint16_t)atoi(where));
        inet_pton(AF_INET, "127.0.0.1", &port->sin_addr);
        address_size = sizeof *port;
    }
}

static void
open_connection(Connection *self)
{
    int one = 1;
    self->sent = self->received = 0;
    self->fd = socket(family, datagrams ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (self->fd < 0 || connect(self->fd, (struct sockaddr *)&address, address_size) < 0)
        fail("connect");
    if (family == AF_INET && !datagrams)
        setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef WITH_TLS
    if (tls_context) {
        self->tls = SSL_new(tls_context);
        SSL_set_fd(self->tls, self->fd);
        if (SSL_connect(self->tls) != 1)
            fail("SSL_connect");
    }
#endif
}

static void
watch(Connection *self)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = self};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, self->fd, &event);
}

static void
close_connection(Connection *self)
{
    /* A reset, so that no port stays in TIME_WAIT: there are 28,000 of them. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    if (one_each)
        setsockopt(self->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
#ifdef WITH_TLS
    if (self->tls) {
        SSL_shutdown(self->tls);
        SSL_free(self->tls);
        self->tls = NULL;
    }
#endif
    close(self->fd);
    self->fd = -1;
}

/* As send() and recv() that do not block, with -1 for "not now". */
static ssize_t
put(Connection *self)
{
#ifdef WITH_TLS
    if (self->tls)
        return SSL_write(self->tls, message + self->sent, (int)(size - self->sent));
#endif
    return send(self->fd, message + self->sent, size - self->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t
get(Connection *self)
{
#ifdef WITH_TLS
    if (self->tls) {
        int n = SSL_read(self->tls, buffer, BUFFER);
        if (n <= 0)
            return SSL_get_error(self->tls, n) == SSL_ERROR_WANT_READ ? -1 : 0;
        return n;
    }
#endif
    ssize_t n = recv(self->fd, buffer, BUFFER, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        fail("recv");
    return n;
}

static void
send_rest(Connection *self)
{
    if (self->sent == 0)
        self->began = now();
    while (self->sent < size) {
        ssize_t n = put(self);
        if (n <= 0)
            break; /* no room: epoll tells when there is */
        self->sent += (size_t)n;
    }
}

/* A message has come back; return whether there is another. */
static bool
next(Connection *self)
{
    latencies[measured++] = now() - self->began;
    if (--self->left <= 0)
        return false;
    if (one_each) {
        close_connection(self);
        open_connection(self);
        watch(self);
    }
    self->sent = self->received = 0;
    send_rest(self);
    return true;
}

/* Receive what there is; return whether the connection goes on. */
static bool
receive(Connection *self)
{
    ssize_t n = 0;
    while ((n = get(self)) > 0) {
        self->received += (size_t)n;
        if (self->received >= size && !next(self))
            return false;
    }
    if (n == 0)
        fail("the server has closed a connection");
    return true;
}

static void
run(Connection *all, int connections)
{
    struct epoll_event events[64];
    int running = connections;
    for (int i = 0; i < connections; i++) {
        if (one_each)
            open_connection(&all[i]);
        watch(&all[i]);
    }
    while (running) {
        int n = epoll_wait(poll_fd, events, 64, datagrams ? RESEND : -1);
        for (int i = 0; i < n; i++) {
            Connection *self = events[i].data.ptr;
            if (self->fd < 0)
                continue;
            send_rest(self);
            if (!receive(self)) {
                close_connection(self);
                running--;
            }
        }
        for (int i = 0; n == 0 && i < connections; i++) {
            all[i].sent = 0;
            if (all[i].fd >= 0)
                send_rest(&all[i]);
        }
    }
}

/* Tell a server that has no connections that this was all. */
static void
say_goodbye(Connection *self)
{
    open_connection(self);
    struct timeval wait = {.tv_usec = 100000};
    setsockopt(self->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    do
        send(self->fd, "", 1, 0);
    while (recv(self->fd, buffer, BUFFER, 0) != 1);
}

static int
compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int
main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: load KIND WHERE CONNECTIONS SIZE COUNT IDLE\n");
        return 2;
    }
    const char *kind = argv[1];
    int connections = atoi(argv[3]), idle = atoi(argv[6]);
    long count = atol(argv[5]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    set_address(kind, argv[2]);
    datagrams = strcmp(kind, "udp") == 0;
    one_each = strcmp(kind, "accept") == 0;
#ifdef WITH_TLS
    tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(tls_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#endif
    size = (size_t)atol(argv[4]);
    message = calloc(1, size);
    buffer = malloc(BUFFER);
    latencies = calloc((size_t)(count + connections), sizeof *latencies);
    poll_fd = epoll_create1(0);
    Connection *all = calloc((size_t)(connections + idle), sizeof *all);
    for (int i = 0; i < connections + idle; i++) {
        all[i].left = count / connections + (i < count % connections);
        if (i >= connections || !one_each)
            open_connection(&all[i]);
#ifdef WITH_TLS
        int flags = 1;
        ioctl(all[i].fd, FIONBIO, &flags);
#endif
    }
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    run(all, connections);
    if (datagrams)
        say_goodbye(&all[0]);
    qsort(latencies, (size_t)measured, sizeof *latencies, compare);
    printf("{\"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f, \"count\": %ld}\n",
           latencies[measured / 2], latencies[measured * 99 / 100], latencies[measured - 1],
           measured);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
