/* uvserver.c: what libuv itself takes: uvserver KIND WHERE ENDS
 *
 * An echo server, with nothing between libuv and the data.  KIND is tcp, udp or accept (one byte for each
 * connection, which the server then closes), on a free port of 127.0.0.1, which is printed; or unix, at the
 * path WHERE.  It measures from the line that it gets until ENDS connections have ended (udp: until a
 * datagram of one byte comes), and prints its CPU and wall time, in seconds, as JSON.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

/* A message of 64 KiB fits with room to spare, so that a read that fills it is no reason to try again. */
enum { SLAB = 65536 + 4096 };

typedef union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
} Connection;

typedef struct {
    uv_write_t request;
    char rest[];
} Write;

static char slab[SLAB];
static bool one_each, is_unix;
static long ends;
static double began_cpu, began_wall;
static uv_pipe_t input;

static double
now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void
check(int status)
{
    if (status < 0) {
        fprintf(stderr, "%s\n", uv_strerror(status));
        exit(1);
    }
}

static void
finish(void)
{
    printf("{\"cpu\": %.9f, \"wall\": %.9f}\n", now(CLOCK_PROCESS_CPUTIME_ID) - began_cpu,
           now(CLOCK_MONOTONIC) - began_wall);
    exit(0);
}

static void
on_closed(uv_handle_t *handle)
{
    free(handle);
    if (--ends == 0)
        finish();
}

static void
lend(uv_handle_t *handle, size_t wanted, uv_buf_t *buf)
{
    (void)handle, (void)wanted;
    *buf = uv_buf_init(slab, SLAB);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void
on_written(uv_write_t *request, int status)
{
    if (status == 0)
        uv_read_start(request->handle, lend, on_read);
    free(request);
}

static void
on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    if (n == 0)
        return;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    uv_buf_t data = uv_buf_init(buf->base, (unsigned)n);
    int sent = uv_try_write(stream, &data, 1);
    if (sent < n) { /* the peer is slow: read no more until it has taken the rest */
        size_t left = (size_t)(n - (sent > 0 ? sent : 0));
        Write *rest = malloc(sizeof *rest + left);
        memcpy(rest->rest, buf->base + n - left, left);
        data = uv_buf_init(rest->rest, (unsigned)left);
        uv_read_stop(stream);
        check(uv_write(&rest->request, stream, &data, 1, on_written));
    } else if (one_each) {
        uv_close((uv_handle_t *)stream, on_closed);
    }
}

static void
on_connection(uv_stream_t *server, int status)
{
    check(status);
    Connection *self = malloc(sizeof *self);
    if (is_unix)
        check(uv_pipe_init(server->loop, &self->pipe, 0));
    else
        check(uv_tcp_init(server->loop, &self->tcp));
    check(uv_accept(server, &self->stream));
    if (!is_unix)
        check(uv_tcp_nodelay(&self->tcp, 1));
    check(uv_read_start(&self->stream, lend, on_read));
}

static void
on_datagram(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
            unsigned flags)
{
    (void)flags;
    if (n <= 0 || from == NULL)
        return;
    uv_buf_t data = uv_buf_init(buf->base, (unsigned)n);
    uv_udp_try_send(udp, &data, 1, from);
    if (n == 1)
        finish();
}

/* From here on it is measured. */
static void
on_line(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    if (n < 0)
        exit(1);
    uv_close((uv_handle_t *)stream, NULL);
    began_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    began_wall = now(CLOCK_MONOTONIC);
    puts("measuring");
    fflush(stdout);
}

static void
listen_on(uv_loop_t *loop, const char *kind, const char *where)
{
    static Connection server;
    static uv_udp_t udp;
    struct sockaddr_in address;
    int size = sizeof address;
    check(uv_ip4_addr("127.0.0.1", 0, &address));
    if (strcmp(kind, "udp") == 0) {
        check(uv_udp_init(loop, &udp));
        check(uv_udp_bind(&udp, (struct sockaddr *)&address, 0));
        check(uv_udp_recv_start(&udp, lend, on_datagram));
        check(uv_udp_getsockname(&udp, (struct sockaddr *)&address, &size));
    } else if (is_unix) {
        check(uv_pipe_init(loop, &server.pipe, 0));
        check(uv_pipe_bind(&server.pipe, where));
        check(uv_listen(&server.stream, 4096, on_connection));
    } else {
        check(uv_tcp_init(loop, &server.tcp));
        check(uv_tcp_bind(&server.tcp, (struct sockaddr *)&address, 0));
        check(uv_listen(&server.stream, 4096, on_connection));
        check(uv_tcp_getsockname(&server.tcp, (struct sockaddr *)&address, &size));
    }
    if (is_unix)
        puts(where);
    else
        printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: uvserver KIND WHERE ENDS\n");
        return 2;
    }
    uv_loop_t *loop = uv_default_loop();
    is_unix = strcmp(argv[1], "unix") == 0;
    one_each = strcmp(argv[1], "accept") == 0;
    ends = atol(argv[3]);
    listen_on(loop, argv[1], argv[2]);
    check(uv_pipe_init(loop, &input, 0));
    check(uv_pipe_open(&input, 0));
    check(uv_read_start((uv_stream_t *)&input, lend, on_line));
    return uv_run(loop, UV_RUN_DEFAULT);
}
