/* patch_file.c: opening files, and regular files.
 *
 * Opening a FIFO waits until its other end is opened, and a serial line for its carrier: with
 * group "os" that happens in a native thread, while the task waits.  FileIO, and with it open(),
 * is given an opener for that moment, so everything else is done by the original.
 *
 * Regular files are always ready as far as the kernel says, and stay native.  With group "files",
 * which is off unless asked for, FileIO and os.read() and so on (patch_io.c, patch_os.c) read from
 * them what the page cache has, and leave the rest to the file lane; calls of the file system are
 * made there by the original.
 */
#include "evergreen.h"

#include <fcntl.h>

/* ---- os.open ------------------------------------------------------------------------ */
/* Where a path is to be opened; NULL: here, for it does not block. */
static EgLane *
open_lane(PyObject *path, int dir_fd, int flags)
{
    if (!eg_os_may_wait())
        return NULL;
    if (eg_file_on())
        return &eg_lane_file;
    return eg_fs_open_waits(PyBytes_AS_STRING(path), dir_fd, flags) ? &eg_lane_open : NULL;
}

/* The bytes of a path, new, and its name as errors have it, too; NULL, without an exception: it
 * is none. */
static PyObject *
open_path(PyObject *object, PyObject **name)
{
    PyObject *path = NULL;
    *name = PyOS_FSPath(object);
    if (*name && PyUnicode_FSConverter(*name, &path))
        return path;
    PyErr_Clear();
    Py_CLEAR(*name);
    return NULL;
}

EG_PATCH(os_open, "posix", "open", "os");

static PyObject *
os_open(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"path", "flags", "mode", "dir_fd"};
    PyObject *full[4], *name = NULL, *path = NULL, *result = NULL;
    int flags, mode = 0777, dir_fd = AT_FDCWD;
    EgLane *lane = NULL;
    if (n <= 3 && eg_os_may_wait() && eg_os_arrange(args, n, kwnames, names, 4, full) && full[0]
        && full[1] && eg_os_int(full[1], &flags) && (!full[2] || eg_os_int(full[2], &mode))
        && (!full[3] || full[3] == Py_None || eg_os_int(full[3], &dir_fd))
        && (path = open_path(full[0], &name)))
        lane = open_lane(path, dir_fd, flags);
    if (!lane)
        result = eg_patch_call_original(&os_open_patch, self, args, n, kwnames);
    else if (PySys_Audit("open", "OOi", name, Py_None, flags | O_CLOEXEC) == 0) {
        int fd = eg_fs_open(lane, name, path, dir_fd, flags, mode);
        result = fd < 0 ? NULL : PyLong_FromLong(fd);
    }
    Py_XDECREF(path);
    Py_XDECREF(name);
    return result;
}

/* ---- io.FileIO, and with it open() -------------------------------------------------- */
/* A slot, not a method: it is replaced for good, and asks whether it is patched. */
static initproc file_init_native;

static PyObject *
file_opener(PyObject *self, PyObject *args)
{
    PyObject *name, *path = NULL;
    int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oi", &name, &flags) || !PyUnicode_FSConverter(name, &path))
        return NULL;
    EgLane *lane = eg_file_on() ? &eg_lane_file : &eg_lane_open;
    int fd = eg_fs_open(lane, name, path, AT_FDCWD, flags, 0666);
    Py_DECREF(path);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

static PyMethodDef file_opener_def = {"opener", file_opener, METH_VARARGS, NULL};

/* The flags that FileIO() opens with, as far as they matter here; -1: it says what is wrong. */
static int
file_flags(const char *mode)
{
    bool reads = strchr(mode, 'r'), updates = strchr(mode, '+');
    if (!reads && !strpbrk(mode, "wxa"))
        return -1;
    return updates ? O_RDWR : reads ? O_RDONLY : O_WRONLY;
}

static int
file_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"file", "mode", "closefd", "opener", NULL};
    PyObject *file, *closefd = Py_True, *opener = Py_None, *name = NULL, *path = NULL;
    const char *mode = "r";
    int flags, status = -1;
    EgLane *lane = NULL;
    if (!os_open_patch.applied || !eg_os_may_wait())
        return file_init_native(self, args, kwargs);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|sOO", names, &file, &mode, &closefd, &opener))
        PyErr_Clear();
    else if (opener == Py_None && !PyLong_Check(file) && (flags = file_flags(mode)) >= 0
             && (path = open_path(file, &name)))
        lane = open_lane(path, AT_FDCWD, flags);
    Py_XDECREF(path);
    Py_XDECREF(name);
    if (!lane)
        return file_init_native(self, args, kwargs);
    PyObject *ours = PyCFunction_New(&file_opener_def, NULL), *full = NULL;
    if (ours && (full = Py_BuildValue("(OsOO)", file, mode, closefd, ours)))
        status = file_init_native(self, full, NULL);
    Py_XDECREF(full);
    Py_XDECREF(ours);
    return status;
}

/* file_follow(): see module.c */
PyObject *
eg_file_follow(PyObject *module, PyObject *unused)
{
    PyObject *io = NULL, *type = NULL, *wrapper = NULL, *result = NULL;
    (void)module;
    (void)unused;
    if (file_init_native)
        Py_RETURN_NONE;
    if (!(io = PyImport_ImportModule("_io")) || !(type = PyObject_GetAttrString(io, "FileIO"))
        || !(wrapper = PyObject_GetAttrString(type, "__init__")))
        goto done;
    file_init_native = ((PyTypeObject *)type)->tp_init;
    if (Py_IS_TYPE(wrapper, &PyWrapperDescr_Type)) /* what super().__init__ calls */
        ((PyWrapperDescrObject *)wrapper)->d_wrapped = (void *)file_init;
    if (eg_patch_slot((PyTypeObject *)type, offsetof(PyTypeObject, tp_init),
                      (void (*)(void))file_init_native, (void (*)(void))file_init)
        == 0)
        result = Py_NewRef(Py_None);
done:
    Py_XDECREF(wrapper);
    Py_XDECREF(type);
    Py_XDECREF(io);
    return result;
}

/* ---- at a place in a file ------------------------------------------------------------ */
EG_PATCH(os_pread, "posix", "pread", "files");

static PyObject *
os_pread(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd, size;
    long long offset;
    PyObject *bytes = NULL;
    if (n != 3 || kwnames || !eg_os_int(args[0], &fd) || !eg_os_int(args[1], &size) || size <= 0
        || !PyLong_Check(args[2]) || eg_os_kind(fd) != EG_FD_FILE)
        return eg_patch_call_original(&os_pread_patch, self, args, n, kwnames);
    if ((offset = PyLong_AsLongLong(args[2])) < 0) {
        PyErr_Clear();
        return eg_patch_call_original(&os_pread_patch, self, args, n, kwnames);
    }
    if (eg_os_turn() < 0 || !(bytes = PyBytes_FromStringAndSize(NULL, size)))
        return NULL;
    ssize_t got = eg_fs_read(fd, PyBytes_AS_STRING(bytes), (size_t)size, offset);
    if (got < 0)
        Py_CLEAR(bytes);
    else if (got != size)
        _PyBytes_Resize(&bytes, got);
    return bytes;
}

EG_PATCH(os_pwrite, "posix", "pwrite", "files");

static PyObject *
os_pwrite(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int fd;
    long long offset = -1;
    Py_buffer buffer;
    if (n == 3 && !kwnames && eg_os_int(args[0], &fd) && PyLong_Check(args[2])
        && eg_os_kind(fd) == EG_FD_FILE)
        offset = PyLong_AsLongLong(args[2]);
    if (offset < 0 || PyUnicode_Check(args[1])
        || PyObject_GetBuffer(args[1], &buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return eg_patch_call_original(&os_pwrite_patch, self, args, n, kwnames);
    }
    ssize_t sent =
        eg_wait_check() < 0 ? -1 : eg_fs_write(fd, buffer.buf, (size_t)buffer.len, offset);
    PyBuffer_Release(&buffer);
    return sent < 0 || eg_os_turn_after() < 0 ? NULL : PyLong_FromSsize_t(sent);
}

/* ---- by the original, in the file lane -------------------------------------------------- */
#define OFFLOADED(fn, owner, name)                                                              \
    EG_PATCH(fn, owner, name, "files");                                                         \
    static PyObject *fn(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) \
    {                                                                                           \
        if (!eg_file_on() || !eg_os_may_wait())                                                 \
            return eg_patch_call_original(&fn##_patch, self, args, n, kwnames);                 \
        return eg_patch_offload("offload_file", &fn##_patch, self, args, n, kwnames);           \
    }                                                                                           \
    struct eg_swallow_semicolon

#define EACH(X)        \
    X(access)          \
    X(chmod)           \
    X(chown)           \
    X(copy_file_range) \
    X(fchmod)          \
    X(fchown)          \
    X(fdatasync)       \
    X(fstatvfs)        \
    X(fsync)           \
    X(ftruncate)       \
    X(getxattr)        \
    X(lchown)          \
    X(link)            \
    X(listdir)         \
    X(listxattr)       \
    X(lstat)           \
    X(mkdir)           \
    X(posix_fallocate) \
    X(preadv)          \
    X(pwritev)         \
    X(readlink)        \
    X(remove)          \
    X(removexattr)     \
    X(rename)          \
    X(replace)         \
    X(rmdir)           \
    X(scandir)         \
    X(setxattr)        \
    X(stat)            \
    X(statvfs)         \
    X(symlink)         \
    X(sync)            \
    X(truncate)        \
    X(unlink)          \
    X(utime)

#define POSIX(name) OFFLOADED(file_##name, "posix", #name);
EACH(POSIX)
OFFLOADED(file_io_truncate, "_io.FileIO", "truncate");

bool
eg_file_on(void)
{
    return file_stat_patch.applied;
}

/* ---- the table ------------------------------------------------------------------------ */
#define ENTRY(name) &file_##name##_patch,
EgPatch *const eg_patch_file[] = {&os_open_patch, &os_pread_patch, &os_pwrite_patch,
                                  &file_io_truncate_patch, EACH(ENTRY) NULL};
