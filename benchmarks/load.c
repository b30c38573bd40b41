/* load.c: the clients of an echo server: load PORT CONNECTIONS SIZE COUNT
 *
 * Each connection sends a message of SIZE bytes when the one before has come back, COUNT in all.  It costs as
 * little as can be, so that on a machine with few cores the server is what is measured.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    int fd;
    long left; /* messages */
    size_t sent, received;
} Connection;

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
send_rest(Connection *self, const char *message, size_t size)
{
    while (self->sent < size) {
        ssize_t n = send(self->fd, message + self->sent, size - self->sent, MSG_DONTWAIT);
        if (n < 0)
            break; /* no room: epoll tells when there is */
        self->sent += (size_t)n;
    }
}

int
main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SIZE COUNT\n");
        return 2;
    }
    int connections = atoi(argv[2]), running = connections, poll = epoll_create1(0), one = 1;
    size_t size = (size_t)atol(argv[3]);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[1]))};
    char *message = calloc(1, size), *buffer = malloc(1 << 20);
    Connection *all = calloc((size_t)connections, sizeof *all);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[i]};
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        all[i].left = atol(argv[4]) / connections;
        if (connect(all[i].fd, (struct sockaddr *)&address, sizeof address) < 0)
            fail("connect");
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    while (running) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            Connection *self = events[i].data.ptr;
            ssize_t got = 0;
            if (self->fd < 0)
                continue;
            send_rest(self, message, size);
            while ((got = recv(self->fd, buffer, 1 << 20, MSG_DONTWAIT)) > 0) {
                self->received += (size_t)got;
                if (self->received < size)
                    continue;
                self->sent = self->received = 0;
                if (--self->left <= 0)
                    break;
                send_rest(self, message, size);
            }
            if (got == 0)
                fail("the server has closed a connection");
            if (self->left <= 0) {
                close(self->fd);
                self->fd = -1;
                running--;
            }
        }
    }
    return 0;
}
