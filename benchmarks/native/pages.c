/* pages.c: an HTTP server whose every page has 1 KiB, on a free port of 127.0.0.1, which it prints.
 *
 * It answers whatever ends with an empty line, keeps connections open, and goes when its standard input ends.
 * Requests have no body, and a client waits for the answer before it asks again.
 */
#define _GNU_SOURCE /* memmem() */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST = 8192, BODY = 1024 };

typedef struct {
    int fd;
    size_t received;
    char request[REQUEST];
} Connection;

static char answer[BODY + 200];
static size_t answer_size;

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
watch(int poll, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

static void
accept_one(int poll, int server)
{
    int one = 1;
    Connection *self = calloc(1, sizeof *self);
    self->fd = accept(server, NULL, NULL);
    if (self->fd < 0)
        fail("accept");
    setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(poll, self->fd, self);
}

static void
serve(Connection *self)
{
    ssize_t n = recv(self->fd, self->request + self->received, REQUEST - self->received, 0);
    if (n <= 0) {
        close(self->fd);
        free(self);
        return;
    }
    self->received += (size_t)n;
    if (memmem(self->request, self->received, "\r\n\r\n", 4) == NULL)
        return;
    self->received = 0;
    if (send(self->fd, answer, answer_size, MSG_NOSIGNAL) != (ssize_t)answer_size)
        fail("send"); /* it is small enough for any socket's buffer */
}

int
main(void)
{
    static char server_mark, input_mark;
    int poll = epoll_create1(0), server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(server, (struct sockaddr *)&address, size) < 0 || listen(server, 4096) < 0
        || getsockname(server, (struct sockaddr *)&address, &size) < 0)
        fail("listen");
    int head = sprintf(
        answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", BODY);
    memset(answer + head, 'x', BODY);
    answer_size = (size_t)head + BODY;
    watch(poll, server, &server_mark);
    watch(poll, 0, &input_mark);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (1) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &input_mark)
                return 0;
            if (events[i].data.ptr == &server_mark)
                accept_one(poll, server);
            else
                serve(events[i].data.ptr);
        }
    }
}
