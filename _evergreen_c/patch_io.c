/* patch_io.c: raw and buffered streams on pipes, terminals and sockets.
 *
 * FileIO's methods read and write as os.read() and os.write() do here (patch_os.c).
 *
 * A buffered stream calls its raw stream with a native lock held, and takes a second call in
 * the same thread for a reentrant one.  So each call on it is noted, with the task that made
 * it, and a task that finds another one inside waits until that has left.  A call within a
 * call of the same task is still the RuntimeError that it always was.
 */
#include "evergreen.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 8192 /* bytes: what readall() begins with */

/* ---- raw streams ---------------------------------------------------------------- */
/* How a FileIO begins, up to Python 3.15; file_layout_check() compares. */
typedef struct {
    PyObject_HEAD
    int fd;
    unsigned int created : 1, readable : 1, writable : 1, appending : 1;
    signed int seekable : 2;
#if PY_VERSION_HEX >= 0x030f0000
    unsigned int truncates : 1;
#endif
    unsigned int closefd : 1;
} FileObject;

static bool
file_looks_so(PyObject *type, const char *mode, bool readable)
{
    PyObject *sample = PyObject_CallFunction(type, "ss", "/dev/null", mode);
    PyObject *fd = sample ? PyObject_CallMethod(sample, "fileno", NULL) : NULL;
    FileObject *view = (FileObject *)sample;
    bool same = fd && PyLong_AsLong(fd) == view->fd && view->readable == readable
                && view->writable == !readable && view->closefd == 1;
    PyObject *done = sample ? PyObject_CallMethod(sample, "close", NULL) : NULL;
    same = same && done && view->fd < 0;
    Py_XDECREF(done);
    Py_XDECREF(fd);
    Py_XDECREF(sample);
    PyErr_Clear();
    return same;
}

static enum { UNCHECKED, KNOWN, UNKNOWN } file_layout;

static void
file_layout_check(const EgPatch *patch)
{
    PyObject *type = (PyObject *)patch->type;
    file_layout = UNKNOWN; /* while the check runs */
    if (patch->type->tp_basicsize >= (Py_ssize_t)sizeof(FileObject)
        && file_looks_so(type, "rb", true) && file_looks_so(type, "wb", false))
        file_layout = KNOWN;
}

/* What the descriptor of an open stream is. */
static EgFdKind
file_kind(const EgPatch *patch, PyObject *self, bool writing)
{
    FileObject *file = (FileObject *)self;
    if (EG_UNLIKELY(file_layout == UNCHECKED))
        file_layout_check(patch);
    if (file_layout != KNOWN || file->fd < 0 || !(writing ? file->writable : file->readable))
        return EG_FD_NATIVE;
    return eg_os_kind(file->fd);
}

static int
file_fd(PyObject *self)
{
    return ((FileObject *)self)->fd;
}

/* How much to ask for at first: of a regular file all that is there, and one byte more, which
 * tells that this is the end. */
static Py_ssize_t
file_rest(int fd, EgFdKind kind)
{
    struct stat st;
    off_t at = kind == EG_FD_FILE ? lseek(fd, 0, SEEK_CUR) : -1;
    if (at < 0 || fstat(fd, &st) < 0 || st.st_size < at || st.st_size - at >= PY_SSIZE_T_MAX)
        return CHUNK;
    return (Py_ssize_t)(st.st_size - at) + 1;
}

/* What a read or write that has failed returns: None if it gave up waiting, as the original does. */
static PyObject *
file_failed(EgFdKind kind)
{
    if (kind != EG_FD_SOCKET || eg_patch_errno() != EAGAIN)
        return NULL;
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Everything up to the end. */
static PyObject *
file_read_all(const EgPatch *patch, PyObject *self, EgFdKind kind)
{
    Py_ssize_t size = file_rest(file_fd(self), kind), filled = 0;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    while (bytes) {
        int fd = file_fd(self); /* others may have closed it */
        ssize_t got;
        if (fd < 0) {
            errno = EBADF;
            PyErr_SetFromErrno(PyExc_OSError);
            got = -1;
        } else
            got = eg_os_read(fd, kind, PyBytes_AS_STRING(bytes) + filled, (size_t)(size - filled));
        if (got == EG_OS_NONBLOCKING && filled == 0) {
            Py_DECREF(bytes);
            return eg_patch_call_original(patch, self, NULL, 0, NULL);
        }
        if (got == -1) {
            PyObject *none = file_failed(kind);
            if (none && filled) {
                Py_DECREF(none);
                _PyBytes_Resize(&bytes, filled);
                return bytes;
            }
            Py_DECREF(bytes);
            return none;
        }
        if (got <= 0) {
            _PyBytes_Resize(&bytes, filled);
            break;
        }
        filled += got;
        if (filled == size && _PyBytes_Resize(&bytes, size = size < CHUNK ? CHUNK : size * 2) < 0)
            break;
    }
    return bytes;
}

EG_PATCH(io_file_readall, "_io.FileIO", "readall", "os");

static PyObject *
io_file_readall(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgFdKind kind = EG_FD_NATIVE;
    if (eg_hub_cooperates() && n == 0 && !kwnames)
        kind = file_kind(&io_file_readall_patch, self, false);
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&io_file_readall_patch, self, args, n, kwnames);
    return eg_os_turn() < 0 ? NULL : file_read_all(&io_file_readall_patch, self, kind);
}

EG_PATCH(io_file_read, "_io.FileIO", "read", "os");

static PyObject *
io_file_read(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgFdKind kind = EG_FD_NATIVE;
    Py_ssize_t size = -1;
    if (eg_hub_cooperates() && n <= 1 && !kwnames
        && (n == 0 || args[0] == Py_None || PyLong_Check(args[0]))) {
        if (n && args[0] != Py_None)
            size = PyLong_AsSsize_t(args[0]);
        if (PyErr_Occurred())
            PyErr_Clear(); /* too big: the original says so */
        else if (size != 0)
            kind = file_kind(&io_file_read_patch, self, false);
    }
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&io_file_read_patch, self, args, n, kwnames);
    if (eg_os_turn() < 0)
        return NULL;
    if (size < 0)
        return file_read_all(&io_file_read_patch, self, kind);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return NULL;
    ssize_t got = eg_os_read(file_fd(self), kind, PyBytes_AS_STRING(bytes), (size_t)size);
    if (got < 0) {
        Py_DECREF(bytes);
        return got == EG_OS_NONBLOCKING
                   ? eg_patch_call_original(&io_file_read_patch, self, args, n, NULL)
                   : file_failed(kind);
    }
    if (got != size)
        _PyBytes_Resize(&bytes, got);
    return bytes;
}

EG_PATCH(io_file_readinto, "_io.FileIO", "readinto", "os");

static PyObject *
io_file_readinto(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    Py_buffer buffer;
    EgFdKind kind = EG_FD_NATIVE;
    if (eg_hub_cooperates() && n == 1 && !kwnames)
        kind = file_kind(&io_file_readinto_patch, self, false);
    if (kind != EG_FD_NATIVE
        && PyObject_GetBuffer(args[0], &buffer, PyBUF_WRITABLE | PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        kind = EG_FD_NATIVE;
    }
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&io_file_readinto_patch, self, args, n, kwnames);
    ssize_t got =
        eg_os_turn() < 0 ? -1 : eg_os_read(file_fd(self), kind, buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    if (got == EG_OS_NONBLOCKING)
        return eg_patch_call_original(&io_file_readinto_patch, self, args, n, NULL);
    return got < 0 ? file_failed(kind) : PyLong_FromSsize_t(got);
}

EG_PATCH(io_file_write, "_io.FileIO", "write", "os");

static PyObject *
io_file_write(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    Py_buffer buffer;
    EgFdKind kind = EG_FD_NATIVE;
    if (n == 1 && !kwnames && eg_os_may_wait())
        kind = file_kind(&io_file_write_patch, self, true);
    if (kind != EG_FD_NATIVE
        && (PyUnicode_Check(args[0]) || PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0)) {
        PyErr_Clear();
        kind = EG_FD_NATIVE;
    }
    if (kind == EG_FD_NATIVE)
        return eg_patch_call_original(&io_file_write_patch, self, args, n, kwnames);
    ssize_t sent = eg_os_write(file_fd(self), kind, buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    if (sent == EG_OS_NONBLOCKING)
        return eg_patch_call_original(&io_file_write_patch, self, args, n, NULL);
    return sent < 0 ? file_failed(kind) : PyLong_FromSsize_t(sent);
}

EG_PATCH(io_file_close, "_io.FileIO", "close", "os");

static PyObject *
io_file_close(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    FileObject *file = (FileObject *)self;
    if (eg_state->hubs && file_layout == KNOWN && file->fd >= 0 && file->closefd)
        eg_socket_forget(file->fd);
    return eg_patch_call_original(&io_file_close_patch, self, args, n, kwnames);
}

/* ---- who is inside what ----------------------------------------------- */
struct EgVisit {
    EgVisit *next;
    PyObject *stream; /* borrowed from the caller */
    void *who;        /* a task, a hub (its callbacks), or a native thread's state */
};

#define PLACES 256
static EgVisit *visits[PLACES]; /* by the stream's address */
static EgVisit *visits_spare;   /* chained */

static EgVisit **
visits_place(PyObject *stream)
{
    return &visits[((uintptr_t)stream * UINT64_C(0x9E3779B97F4A7C15) >> 56) % PLACES];
}

static void *
visit_who(void)
{
    EgHub *hub = eg_hub_here;
    if (!hub)
        return PyThreadState_Get();
    return hub->current ? (void *)eg_task_owner(hub->current) : (void *)hub;
}

static bool
visit_is_mine(const EgVisit *visit, PyObject *stream, void *who)
{
    return visit->stream == stream && visit->who == who;
}

/* Whether somebody else is inside, and not this one, too. */
static bool
stream_is_busy(PyObject *stream, void *who)
{
    bool busy = false;
    for (EgVisit *visit = *visits_place(stream); visit; visit = visit->next) {
        if (visit_is_mine(visit, stream, who))
            return false;
        busy |= visit->stream == stream;
    }
    return busy;
}

static EgVisit *
visit_note(PyObject *stream, void *who)
{
    EgVisit *visit = visits_spare, **place = visits_place(stream);
    if (visit)
        visits_spare = visit->next;
    else if (!(visit = PyMem_RawMalloc(sizeof *visit))) {
        PyErr_NoMemory();
        return NULL;
    }
    *visit = (EgVisit){*place, stream, who};
    *place = visit;
    return visit;
}

void
eg_visit_end(EgVisit *visit, PyObject *stream)
{
    EgVisit **link = visits_place(stream);
    while (*link && *link != visit)
        link = &(*link)->next;
    if (*link)
        *link = visit->next;
    visit->next = visits_spare;
    visits_spare = visit;
    EgQueue *waiters = EG_UNLIKELY(eg_waiters_count != 0) ? eg_waiters_of(stream) : NULL;
    if (waiters)
        eg_queue_wake(waiters, NULL);
}

/* In a forked child: those who were inside are the parent's. */
void
eg_io_after_fork(void)
{
    void *who = visit_who();
    for (int i = 0; i < PLACES; i++) {
        EgVisit **link = &visits[i];
        while (*link) {
            if ((*link)->who == who)
                link = &(*link)->next;
            else
                *link = (*link)->next; /* left behind, as their stacks are */
        }
    }
}

static void
stream_give_back(EgTask *task)
{
    EgQueue *waiters = eg_waiters_of(task->wait.object);
    if (waiters)
        eg_queue_wake(waiters, NULL); /* it was told to try: so may the next one */
}

static const EgWaitKind stream_kind = {"buffered stream", stream_give_back};

/* Wait until nobody else is inside: 0; -1: exception. */
static int
stream_wait(PyObject *stream, void *who)
{
    while (stream_is_busy(stream, who) && eg_os_may_wait()) {
        EgTask *me = eg_wait_begin();
        if (!me || eg_waiters_join(me, stream) < 0)
            return -1;
        int status = eg_wait_park(me, &stream_kind, stream, EG_FOREVER);
        eg_waiters_leave(stream);
        if (status < 0)
            return -1;
    }
    return 0;
}

bool
eg_visit_is_barred(PyObject *object)
{
    return stream_is_busy(object, visit_who()) && !eg_os_may_wait();
}

EgVisit *
eg_visit_begin(PyObject *object)
{
    void *who = visit_who();
    if (EG_UNLIKELY(*visits_place(object) != NULL) && stream_wait(object, who) < 0)
        return NULL;
    return visit_note(object, who);
}

/* ---- buffered streams ----------------------------------------------------------------- */
static void buffered_setup(void);

static PyObject *
buffered_call(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
              PyObject *kwnames)
{
    static bool ready;
    if (!eg_state->hubs)
        return eg_patch_call_original(patch, self, args, n, kwnames);
    if (EG_UNLIKELY(!ready)) {
        ready = true;
        buffered_setup();
    }
    EgVisit *visit = eg_visit_begin(self);
    if (!visit)
        return NULL;
    PyObject *result = eg_patch_call_original(patch, self, args, n, kwnames);
    eg_visit_end(visit, self);
    return result;
}

#define BUFFERED(fn, type, name)                                                                \
    EG_PATCH(fn, "_io." type, name, "os");                                                      \
    static PyObject *fn(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) \
    {                                                                                           \
        return buffered_call(&fn##_patch, self, args, n, kwnames);                              \
    }                                                                                           \
    struct eg_swallow_semicolon

BUFFERED(io_reader_read, "BufferedReader", "read");
BUFFERED(io_reader_read1, "BufferedReader", "read1");
BUFFERED(io_reader_readinto, "BufferedReader", "readinto");
BUFFERED(io_reader_readinto1, "BufferedReader", "readinto1");
BUFFERED(io_reader_readline, "BufferedReader", "readline");
BUFFERED(io_reader_peek, "BufferedReader", "peek");
BUFFERED(io_reader_close, "BufferedReader", "close");
BUFFERED(io_writer_write, "BufferedWriter", "write");
BUFFERED(io_writer_flush, "BufferedWriter", "flush");
BUFFERED(io_writer_close, "BufferedWriter", "close");
BUFFERED(io_random_read, "BufferedRandom", "read");
BUFFERED(io_random_read1, "BufferedRandom", "read1");
BUFFERED(io_random_readinto, "BufferedRandom", "readinto");
BUFFERED(io_random_readinto1, "BufferedRandom", "readinto1");
BUFFERED(io_random_readline, "BufferedRandom", "readline");
BUFFERED(io_random_peek, "BufferedRandom", "peek");
BUFFERED(io_random_write, "BufferedRandom", "write");
BUFFERED(io_random_flush, "BufferedRandom", "flush");
BUFFERED(io_random_close, "BufferedRandom", "close");
BUFFERED(io_reader_seek, "BufferedReader", "seek");
BUFFERED(io_reader_tell, "BufferedReader", "tell");
BUFFERED(io_reader_truncate, "BufferedReader", "truncate");
BUFFERED(io_reader_detach, "BufferedReader", "detach");
BUFFERED(io_writer_seek, "BufferedWriter", "seek");
BUFFERED(io_writer_tell, "BufferedWriter", "tell");
BUFFERED(io_writer_truncate, "BufferedWriter", "truncate");
BUFFERED(io_writer_detach, "BufferedWriter", "detach");
BUFFERED(io_random_seek, "BufferedRandom", "seek");
BUFFERED(io_random_tell, "BufferedRandom", "tell");
BUFFERED(io_random_truncate, "BufferedRandom", "truncate");
BUFFERED(io_random_detach, "BufferedRandom", "detach");

/* Iteration is a slot, not a method: it is replaced for good, and asks whether it is patched. */
static iternextfunc buffered_next_native;

static PyObject *
buffered_next(PyObject *self)
{
    if (!io_reader_readline_patch.applied)
        return buffered_next_native(self);
    EgVisit *visit = eg_visit_begin(self);
    if (!visit)
        return NULL;
    PyObject *line = buffered_next_native(self);
    eg_visit_end(visit, self);
    return line;
}

static void
buffered_setup(void)
{
    PyTypeObject *types[] = {io_reader_readline_patch.type, io_random_readline_patch.type};
    for (int i = 0; i < 2; i++) {
        if (!types[i] || (buffered_next_native && types[i]->tp_iternext != buffered_next_native))
            continue;
        buffered_next_native = types[i]->tp_iternext;
        if (eg_patch_slot(types[i], offsetof(PyTypeObject, tp_iternext),
                          (void (*)(void))buffered_next_native, (void (*)(void))buffered_next)
            < 0)
            PyErr_WriteUnraisable((PyObject *)types[i]);
    }
}

/* ---- the table ------------------------------------------------------------------------ */
EgPatch *const eg_patch_io[] = {&io_file_read_patch,
                                &io_file_readall_patch,
                                &io_file_readinto_patch,
                                &io_file_write_patch,
                                &io_file_close_patch,
                                &io_reader_read_patch,
                                &io_reader_read1_patch,
                                &io_reader_readinto_patch,
                                &io_reader_readinto1_patch,
                                &io_reader_readline_patch,
                                &io_reader_peek_patch,
                                &io_reader_close_patch,
                                &io_writer_write_patch,
                                &io_writer_flush_patch,
                                &io_writer_close_patch,
                                &io_random_read_patch,
                                &io_random_read1_patch,
                                &io_random_readinto_patch,
                                &io_random_readinto1_patch,
                                &io_random_readline_patch,
                                &io_random_peek_patch,
                                &io_random_write_patch,
                                &io_random_flush_patch,
                                &io_random_close_patch,
                                &io_reader_seek_patch,
                                &io_reader_tell_patch,
                                &io_reader_truncate_patch,
                                &io_reader_detach_patch,
                                &io_writer_seek_patch,
                                &io_writer_tell_patch,
                                &io_writer_truncate_patch,
                                &io_writer_detach_patch,
                                &io_random_seek_patch,
                                &io_random_tell_patch,
                                &io_random_truncate_patch,
                                &io_random_detach_patch,
                                NULL};
