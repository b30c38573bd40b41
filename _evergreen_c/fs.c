/* fs.c: files and the file system.
 *
 * Every operation is a row of one table: its parameters, the system call (made by a thread of the
 * file lane, work.c), and how its result is shown to Python.  It is called in one of three ways:
 *
 *     in a task               parks it until the call has ended
 *     with callback=          returns an FSRequest at once; the hub calls back
 *     in a thread with no hub makes the call there and then
 *
 * What need not block does not leave the thread: reads that the page cache can serve
 * (RWF_NOWAIT), and pipes, sockets and terminals, which are waited for by fd.c.
 *
 * A request's memory belongs to the lane and to the task: each holds a share, and the last to
 * leave frees it.  What is read or written is memory of the request's own, never the caller's: a
 * killed task is gone while the call goes on.
 */
#include "evergreen.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <structmember.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/inotify.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#endif

#define PARAMS 5        /* that an operation may have */
#define MEMORY 1        /* the major number of /dev/null, zero, random and so on */
#define AT_ONCE 1048576 /* bytes that are copied without leaving the thread, at most */

typedef struct EgFs EgFs;

enum {
    MAKES_FD = 1,  /* the result is a descriptor, or has one: closed if nobody gets it */
    CLOSES_FD = 2, /* is made whatever happens to the task */
    READS = 4,     /* n[0] is a descriptor to read from; tried first */
    WRITES = 8,    /* likewise, to write to */
    OPENS = 16     /* files by their paths; may wait for a FIFO's other end */
};

typedef struct {
    const char *name;
    const char *params;          /* "p:path i:flags=0", by kinds: see fs_parse() */
    ssize_t (*run)(EgFs *);      /* the system call; a negated errno for an error */
    PyObject *(*result)(EgFs *); /* of a call that succeeded; NULL: exception */
    int traits;
    const char *doc;
    EgWaitKind kind; /* what follows is filled in by eg_fs_setup() */
    PyMethodDef def;
    int nparams, needed;
    struct {
        char kind;
        PyObject *name; /* strong */
        int64_t value;  /* if it is not given */
    } param[PARAMS];
} EgFsOp;

struct EgFs {
    EgWork work;
    EgLane *lane;
    EgBell bell;  /* in the queue of the descriptor that a request waits for */
    EgNode again; /* queued by fs_on_bell, run by fs_try_again */
    const EgFsOp *op;
    int shares;
    bool text;         /* names in the result are str, not bytes */
    bool taken;        /* the descriptor that it made is somebody's */
    EgQueue waiters;   /* the task */
    PyObject *request; /* strong FSRequest; NULL: a task waits */
    PyObject *name[2]; /* strong: the paths as Python gave them, for errors; or NULL */
    PyObject *path[2]; /* strong: bytes */
    PyObject *data;    /* strong: bytes to write, or to be read into; NULL: neither */
    Py_buffer buffer;  /* the caller's, to be filled when it is over; obj NULL: none */
    int npaths, nn;
    int64_t n[PARAMS]; /* the other arguments */
    size_t size;       /* bytes to read or write */
    size_t have;       /* of them: read already */
    ssize_t status;    /* what run() returned */
    struct statvfs vfs;
    uv_fs_t uv; /* used synchronously, by one thread at a time */
};

typedef struct {
    PyObject_HEAD
    EgHub *loop;        /* strong */
    PyObject *callback; /* strong; NULL: called, or never to be */
    PyObject *path;     /* strong; None: none */
    PyObject *result;   /* strong; None until it is over */
    PyObject *error;    /* strong: an exception; None: it succeeded, or is not over */
    EgFs *fs;           /* borrowed; NULL: it is over */
    bool cancelled;
    PyObject *dict, *weakrefs;
} EgFsRequest;

static PyObject *fs_stat_type, *fs_statvfs_type; /* os.stat_result, ...; for good */

/* ---- the system calls: in a native thread, or without the GIL ------------------------------ */
#define PATH(fs, i) PyBytes_AS_STRING((fs)->path[i]) /* immutable, and held by the request */

#define UV_CALL(function, call, ...)                             \
    static ssize_t function(EgFs *fs)                            \
    {                                                            \
        return uv_fs_##call(NULL, &fs->uv, ##__VA_ARGS__, NULL); \
    }

/* Whether it would keep a thread of the file lane from work that takes no longer than a disk. */
static bool
fs_is_out_of_place(const EgFs *fs, int i, int flags)
{
    return fs->lane == &eg_lane_file && eg_fs_open_waits(PATH(fs, i), AT_FDCWD, flags);
}

static ssize_t
run_open(EgFs *fs)
{
    if (fs_is_out_of_place(fs, 0, (int)fs->n[0]))
        return UV_EAGAIN;
    return uv_fs_open(NULL, &fs->uv, PATH(fs, 0), (int)fs->n[0], (int)fs->n[1], NULL);
}

static ssize_t
run_copyfile(EgFs *fs)
{
    if (fs_is_out_of_place(fs, 0, O_RDONLY) || fs_is_out_of_place(fs, 1, O_WRONLY))
        return UV_EAGAIN;
    return uv_fs_copyfile(NULL, &fs->uv, PATH(fs, 0), PATH(fs, 1), (int)fs->n[0], NULL);
}

UV_CALL(run_close, close, (int)fs->n[0])
UV_CALL(run_stat, stat, PATH(fs, 0))
UV_CALL(run_lstat, lstat, PATH(fs, 0))
UV_CALL(run_fstat, fstat, (int)fs->n[0])
UV_CALL(run_rename, rename, PATH(fs, 0), PATH(fs, 1))
UV_CALL(run_unlink, unlink, PATH(fs, 0))
UV_CALL(run_mkdir, mkdir, PATH(fs, 0), (int)fs->n[0])
UV_CALL(run_mkdtemp, mkdtemp, PATH(fs, 0))
UV_CALL(run_mkstemp, mkstemp, PATH(fs, 0))
UV_CALL(run_rmdir, rmdir, PATH(fs, 0))
UV_CALL(run_scandir, scandir, PATH(fs, 0), 0)
UV_CALL(run_readlink, readlink, PATH(fs, 0))
UV_CALL(run_realpath, realpath, PATH(fs, 0))
UV_CALL(run_symlink, symlink, PATH(fs, 0), PATH(fs, 1), 0)
UV_CALL(run_link, link, PATH(fs, 0), PATH(fs, 1))
UV_CALL(run_chmod, chmod, PATH(fs, 0), (int)fs->n[0])
UV_CALL(run_fchmod, fchmod, (int)fs->n[0], (int)fs->n[1])
UV_CALL(run_chown, chown, PATH(fs, 0), (uv_uid_t)fs->n[0], (uv_gid_t)fs->n[1])
UV_CALL(run_lchown, lchown, PATH(fs, 0), (uv_uid_t)fs->n[0], (uv_gid_t)fs->n[1])
UV_CALL(run_fchown, fchown, (int)fs->n[0], (uv_uid_t)fs->n[1], (uv_gid_t)fs->n[2])
UV_CALL(run_access, access, PATH(fs, 0), (int)fs->n[0])
UV_CALL(run_fsync, fsync, (int)fs->n[0])
UV_CALL(run_fdatasync, fdatasync, (int)fs->n[0])
UV_CALL(run_ftruncate, ftruncate, (int)fs->n[0], fs->n[1])

static ssize_t
run_read(EgFs *fs)
{
    uv_buf_t buf = {.base = PyBytes_AS_STRING(fs->data) + fs->have, .len = fs->size - fs->have};
    int64_t offset = fs->n[1] < 0 ? -1 : fs->n[1] + (int64_t)fs->have;
    ssize_t n = uv_fs_read(NULL, &fs->uv, (int)fs->n[0], &buf, 1, offset, NULL);
    return n < 0 && !fs->have ? n : (ssize_t)fs->have + (n > 0 ? n : 0);
}

static ssize_t
run_write(EgFs *fs)
{
    uv_buf_t buf = {.base = PyBytes_AS_STRING(fs->data), .len = fs->size};
    return uv_fs_write(NULL, &fs->uv, (int)fs->n[0], &buf, 1, fs->n[1], NULL);
}

static ssize_t
run_sendfile(EgFs *fs)
{
#ifdef __linux__
    off_t offset = (off_t)fs->n[2];
    ssize_t sent;
    do
        sent =
            sendfile((int)fs->n[0], (int)fs->n[1], fs->n[2] < 0 ? NULL : &offset, (size_t)fs->n[3]);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
#else
    return uv_fs_sendfile(NULL, &fs->uv, (int)fs->n[0], (int)fs->n[1], fs->n[2], (size_t)fs->n[3],
                          NULL);
#endif
}

/* Two times in nanoseconds, as the system wants them. */
static void
fs_timespecs(const int64_t *ns, struct timespec *times)
{
    for (int i = 0; i < 2; i++) {
        int64_t part = ns[i] % 1000000000;
        bool before = part < 0; /* rounded down: the part counts from there */
        times[i].tv_nsec = (long)(before ? part + 1000000000 : part);
        times[i].tv_sec = (time_t)(ns[i] / 1000000000 - before);
    }
}

static ssize_t
run_utime(EgFs *fs)
{
    struct timespec times[2];
    int flags = fs->n[2] ? 0 : AT_SYMLINK_NOFOLLOW;
    fs_timespecs(fs->n, times);
    return utimensat(AT_FDCWD, PATH(fs, 0), times, flags) < 0 ? -errno : 0;
}

static ssize_t
run_futime(EgFs *fs)
{
    struct timespec times[2];
    fs_timespecs(fs->n + 1, times);
    return futimens((int)fs->n[0], times) < 0 ? -errno : 0;
}

static ssize_t
run_opendir(EgFs *fs)
{
    return uv_fs_open(NULL, &fs->uv, PATH(fs, 0), O_RDONLY | O_DIRECTORY, 0, NULL);
}

/* struct linux_dirent64 */
typedef struct {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
} EgDirent;

static bool
dirent_counts(const EgDirent *entry)
{
    return strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0;
}

static ssize_t
run_readdir(EgFs *fs)
{
#ifdef __linux__
    for (;;) {
        char *data = PyBytes_AS_STRING(fs->data);
        ssize_t n = syscall(SYS_getdents64, (int)fs->n[0], data, (unsigned)fs->size);
        if (n <= 0)
            return n < 0 ? -errno : 0;
        for (char *at = data; at < data + n; at += ((EgDirent *)at)->length)
            if (dirent_counts((EgDirent *)at))
                return n; /* nothing is the end */
    }
#else
    (void)fs;
    return -ENOSYS;
#endif
}

static ssize_t
run_statvfs(EgFs *fs)
{
    return statvfs(PATH(fs, 0), &fs->vfs) < 0 ? -errno : 0;
}

static ssize_t
run_inotify(EgFs *fs)
{
#ifdef __linux__
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd >= 0 && inotify_add_watch(fd, PATH(fs, 0), (uint32_t)fs->n[0]) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd < 0 ? -errno : fd;
#else
    (void)fs;
    return UV_ENOSYS;
#endif
}

/* ---- their results -------------------------------------------------------------------------- */
static PyObject *
result_none(EgFs *fs)
{
    (void)fs;
    Py_RETURN_NONE;
}

static PyObject *
result_size(EgFs *fs)
{
    return PyLong_FromSsize_t((Py_ssize_t)fs->status);
}

static PyObject *
result_fd(EgFs *fs)
{
    PyObject *fd = PyLong_FromSsize_t((Py_ssize_t)fs->status);
    fs->taken = fd != NULL;
    return fd;
}

static PyObject *
result_bytes(EgFs *fs)
{
    PyObject *data = fs->data; /* ours now */
    fs->data = NULL;
    if (PyBytes_GET_SIZE(data) != fs->status)
        _PyBytes_Resize(&data, (Py_ssize_t)fs->status); /* NULL if it fails */
    return data;
}

static PyObject *
result_filled(EgFs *fs)
{
    if (fs->data)
        memcpy((char *)fs->buffer.buf + fs->have, PyBytes_AS_STRING(fs->data) + fs->have,
               (size_t)fs->status - fs->have);
    return result_size(fs);
}

static PyObject *
fs_text(EgFs *fs, const char *name)
{
    return fs->text ? PyUnicode_DecodeFSDefault(name) : PyBytes_FromString(name);
}

static PyObject *
result_path(EgFs *fs) /* readlink(), realpath() */
{
    return fs_text(fs, fs->uv.ptr);
}

static PyObject *
result_made(EgFs *fs) /* mkdtemp() */
{
    return fs_text(fs, fs->uv.path);
}

static PyObject *
result_fd_made(EgFs *fs) /* mkstemp() */
{
    PyObject *result = Py_BuildValue("(nN)", (Py_ssize_t)fs->status, fs_text(fs, fs->uv.path));
    fs->taken = result != NULL;
    return result;
}

static PyObject *
result_second(EgFs *fs) /* copyfile() */
{
    return Py_NewRef(fs->name[1]);
}

static PyObject *
result_names(EgFs *fs)
{
    PyObject *list = PyList_New(0);
    uv_dirent_t entry;
    while (list && uv_fs_scandir_next(&fs->uv, &entry) == 0) {
        PyObject *name = fs_text(fs, entry.name);
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* Add (name, kind as libuv numbers them) to *list, which is NULL after an exception. */
static void
entries_add(PyObject **list, EgFs *fs, const char *name, int kind)
{
    PyObject *pair = Py_BuildValue("(Ni)", fs_text(fs, name), kind);
    if (!pair || PyList_Append(*list, pair) < 0)
        Py_CLEAR(*list);
    Py_XDECREF(pair);
}

/* What evergreen/_policy.py makes of the list, whose reference is taken. */
static PyObject *
entries_made(const char *policy, EgFs *fs, PyObject *list)
{
    if (!list)
        return NULL;
    PyObject *args[] = {fs->name[0], list};
    PyObject *entries = eg_policy_call(policy, args, 2);
    Py_DECREF(list);
    return entries;
}

static PyObject *
result_entries(EgFs *fs)
{
    PyObject *list = PyList_New(0);
    uv_dirent_t entry;
    while (list && uv_fs_scandir_next(&fs->uv, &entry) == 0)
        entries_add(&list, fs, entry.name, (int)entry.type);
    return entries_made("directory_entries", fs, list);
}

static PyObject *
result_directory(EgFs *fs)
{
    PyObject *fd = PyLong_FromSsize_t(fs->status);
    PyObject *args[] = {fs->name[0], fd};
    PyObject *directory = fd ? eg_policy_call("directory_opened", args, 2) : NULL;
    fs->taken = directory != NULL;
    Py_XDECREF(fd);
    return directory;
}

/* getdents64(2): a list of (name, kind as libuv numbers them), without "." and "..". */
static PyObject *
result_dirents(EgFs *fs)
{
    static const struct {
        unsigned char system, libuv;
    } kinds[] = {{DT_REG, UV_DIRENT_FILE},  {DT_DIR, UV_DIRENT_DIR},     {DT_LNK, UV_DIRENT_LINK},
                 {DT_FIFO, UV_DIRENT_FIFO}, {DT_SOCK, UV_DIRENT_SOCKET}, {DT_CHR, UV_DIRENT_CHAR},
                 {DT_BLK, UV_DIRENT_BLOCK}};
    const char *data = PyBytes_AS_STRING(fs->data), *end = data + fs->status;
    PyObject *list = PyList_New(0);
    while (list && data < end) {
        const EgDirent *entry = (const EgDirent *)data;
        int kind = UV_DIRENT_UNKNOWN;
        data += entry->length;
        if (!dirent_counts(entry))
            continue;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (kinds[i].system == entry->type)
                kind = kinds[i].libuv;
        entries_add(&list, fs, entry->name, kind);
    }
    return entries_made("directory_part", fs, list);
}

static double
fs_seconds(const uv_timespec_t *at)
{
    return (double)at->tv_sec + 1e-9 * (double)at->tv_nsec;
}

/* New: int64 nanoseconds end in 2262, a file's seconds do not. */
static PyObject *
fs_ns(const uv_timespec_t *at)
{
    long long ns;
    if (!__builtin_mul_overflow((long long)at->tv_sec, 1000000000LL, &ns)
        && !__builtin_add_overflow(ns, (long long)at->tv_nsec, &ns))
        return PyLong_FromLongLong(ns);
    PyObject *seconds = PyLong_FromLongLong(at->tv_sec), *rest = PyLong_FromLong(at->tv_nsec);
    PyObject *billion = PyLong_FromLong(1000000000);
    PyObject *whole = seconds && billion ? PyNumber_Multiply(seconds, billion) : NULL;
    PyObject *sum = whole && rest ? PyNumber_Add(whole, rest) : NULL;
    Py_XDECREF(seconds);
    Py_XDECREF(rest);
    Py_XDECREF(billion);
    Py_XDECREF(whole);
    return sum;
}

static PyObject *
result_stat(EgFs *fs)
{
    const uv_stat_t *st = &fs->uv.statbuf;
    typedef unsigned long long U;
    return PyObject_CallFunction(
        fs_stat_type, "((KKKKKKKLLL){s:d,s:d,s:d,s:N,s:N,s:N,s:K,s:K,s:K})", (U)st->st_mode,
        (U)st->st_ino, (U)st->st_dev, (U)st->st_nlink, (U)st->st_uid, (U)st->st_gid, (U)st->st_size,
        (long long)st->st_atim.tv_sec, (long long)st->st_mtim.tv_sec, (long long)st->st_ctim.tv_sec,
        "st_atime", fs_seconds(&st->st_atim), "st_mtime", fs_seconds(&st->st_mtim), "st_ctime",
        fs_seconds(&st->st_ctim), "st_atime_ns", fs_ns(&st->st_atim), "st_mtime_ns",
        fs_ns(&st->st_mtim), "st_ctime_ns", fs_ns(&st->st_ctim), "st_blksize", (U)st->st_blksize,
        "st_blocks", (U)st->st_blocks, "st_rdev", (U)st->st_rdev);
}

static PyObject *
result_statvfs(EgFs *fs)
{
    const struct statvfs *vfs = &fs->vfs;
    typedef unsigned long long U;
    return PyObject_CallFunction(
        fs_statvfs_type, "((KKKKKKKKKK){s:K})", (U)vfs->f_bsize, (U)vfs->f_frsize, (U)vfs->f_blocks,
        (U)vfs->f_bfree, (U)vfs->f_bavail, (U)vfs->f_files, (U)vfs->f_ffree, (U)vfs->f_favail,
        (U)vfs->f_flag, (U)vfs->f_namemax, "f_fsid", (U)vfs->f_fsid);
}

/* ---- the table -------------------------------------------------------------------------------- */
#define OP(name_, params_, run_, result_, traits_, signature, text)     \
    {                                                                   \
        .name = name_,                                                  \
        .params = params_,                                              \
        .run = run_,                                                    \
        .result = result_,                                              \
        .traits = traits_,                                              \
        .doc = name_ "(" signature ", *, callback=None)\n--\n\n" text   \
                     "\n\nWith callback, return an FSRequest at once.", \
    }

static EgFsOp fs_table[] = {
    OP("open", "p:path i:flags=0 i:mode=511", run_open, result_fd, MAKES_FD | OPENS,
       "path, flags=0, mode=0o777",
       "Open a file and return its descriptor, which child processes do not inherit (open(2))."),
    OP("close", "d:fd", run_close, result_none, CLOSES_FD, "fd",
       "Close a descriptor; whoever waits for it gets OSError EBADF.\n\n"
       "It is closed even if the task is killed meanwhile (close(2))."),
    OP("read", "d:fd n:size o:offset=-1", run_read, result_bytes, READS, "fd, size, offset=None",
       "Return up to size bytes from offset, or from the file's position, which moves on;\n"
       "b\"\" at the end (read(2), pread(2))."),
    OP("readinto", "d:fd w:buffer o:offset=-1", run_read, result_filled, READS,
       "fd, buffer, offset=None",
       "Read into a writable buffer; return how many bytes were read, 0 at the end."),
    OP("write", "d:fd b:data o:offset=-1", run_write, result_size, WRITES, "fd, data, offset=None",
       "Write bytes at offset, or at the file's position, which moves on; return how many\n"
       "were written (write(2), pwrite(2))."),
    OP("stat", "p:path", run_stat, result_stat, 0, "path",
       "Return the os.stat_result of what a path leads to."),
    OP("lstat", "p:path", run_lstat, result_stat, 0, "path",
       "Like stat(), but of a symbolic link itself."),
    OP("fstat", "d:fd", run_fstat, result_stat, 0, "fd",
       "Return the os.stat_result of an open file."),
    OP("rename", "p:src p:dst", run_rename, result_none, 0, "src, dst",
       "Give a file or directory another name; a file that has it is replaced (rename(2))."),
    OP("unlink", "p:path", run_unlink, result_none, 0, "path", "Remove a file."),
    OP("mkdir", "p:path i:mode=511", run_mkdir, result_none, 0, "path, mode=0o777",
       "Make a directory."),
    OP("mkdtemp", "p:template", run_mkdtemp, result_made, 0, "template",
       "Make a directory that nobody else can read; return its name: the template, whose\n"
       "XXXXXX at the end are replaced (mkdtemp(3))."),
    OP("mkstemp", "p:template", run_mkstemp, result_fd_made, MAKES_FD, "template",
       "Make and open a file that nobody else can read; return (descriptor, name). The name is\n"
       "the template, whose XXXXXX at the end are replaced (mkstemp(3))."),
    OP("rmdir", "p:path", run_rmdir, result_none, 0, "path", "Remove an empty directory."),
    OP("listdir", "P:path", run_scandir, result_names, 0, "path='.'",
       "Return the names in a directory, sorted, without \".\" and \"..\"."),
    OP("scandir", "P:path", run_scandir, result_entries, 0, "path='.'",
       "Return an iterator over the DirEntry objects of a directory, sorted by name."),
    OP("opendir", "p:path", run_opendir, result_directory, MAKES_FD, "path",
       "Open a directory to read its entries in parts; return the Directory."),
    OP("readdir_fd", "p:path d:fd n:size", run_readdir, result_dirents, 0, "path, fd, size",
       "Return the next entries of an open directory, whose records fit into size bytes."),
    OP("readlink", "p:path", run_readlink, result_path, 0, "path",
       "Return what a symbolic link leads to."),
    OP("realpath", "p:path", run_realpath, result_path, 0, "path",
       "Return the absolute path without symbolic links; the file must exist (realpath(3))."),
    OP("symlink", "p:src p:dst", run_symlink, result_none, 0, "src, dst",
       "Make dst, a symbolic link to src."),
    OP("link", "p:src p:dst", run_link, result_none, 0, "src, dst",
       "Make dst, another name of the file src."),
    OP("chmod", "p:path i:mode", run_chmod, result_none, 0, "path, mode",
       "Change who may do what with a file."),
    OP("fchmod", "d:fd i:mode", run_fchmod, result_none, 0, "fd, mode",
       "Change who may do what with an open file."),
    OP("chown", "p:path u:uid u:gid", run_chown, result_none, 0, "path, uid, gid",
       "Change the owner and the group of a file; -1 leaves one as it is."),
    OP("lchown", "p:path u:uid u:gid", run_lchown, result_none, 0, "path, uid, gid",
       "Like chown(), but of a symbolic link itself."),
    OP("fchown", "d:fd u:uid u:gid", run_fchown, result_none, 0, "fd, uid, gid",
       "Like chown(), of an open file."),
    OP("utime_ns", "p:path l:atime l:mtime i:follow=1", run_utime, result_none, 0,
       "path, atime, mtime, follow=1",
       "Set when a file was read and written last, in nanoseconds (utimensat(2))."),
    OP("futime_ns", "d:fd l:atime l:mtime", run_futime, result_none, 0, "fd, atime, mtime",
       "The same of an open file (futimens(3))."),
    OP("access", "p:path i:mode", run_access, NULL, 0, "path, mode",
       "Return whether this process may use a file so: os.R_OK, W_OK, X_OK, or F_OK (access(2))."),
    OP("copyfile", "p:src p:dst i:flags=2", run_copyfile, result_second, OPENS, "src, dst, flags=2",
       "Copy a file with its permissions, sharing blocks where the file system can; return dst.\n\n"
       "flags is a sum: 1, dst must not exist; 2, share blocks if possible; 4, or fail."),
    OP("sendfile", "d:out_fd d:in_fd o:offset l:count", run_sendfile, result_size, WRITES,
       "out_fd, in_fd, offset, count",
       "Copy up to count bytes between descriptors without reading them; return how many.\n\n"
       "offset None means the position of in_fd, which moves on (sendfile(2))."),
    OP("fsync", "d:fd", run_fsync, result_none, 0, "fd",
       "Wait until what was written is on the disk (fsync(2))."),
    OP("fdatasync", "d:fd", run_fdatasync, result_none, 0, "fd",
       "Like fsync(), without what is not needed to read it again (fdatasync(2))."),
    OP("ftruncate", "d:fd l:length", run_ftruncate, result_none, 0, "fd, length",
       "Make an open file so many bytes long."),
    OP("statvfs", "p:path", run_statvfs, result_statvfs, 0, "path",
       "Return the os.statvfs_result of the file system that a path is on."),
    OP("inotify", "p:path i:mask", run_inotify, result_fd, MAKES_FD, "path, mask",
       "Return a non-blocking descriptor that tells of changes to a path (inotify(7))."),
};

/* ---- in the native thread ----------------------------------------------------------------------- */
static void
fs_run(EgWork *work)
{
    EgFs *fs = EG_OWNER(work, EgFs, work);
    fs->status = fs->op->run(fs);
}

/* Nobody wants the descriptor. */
static void
fs_undo(EgWork *work)
{
    EgFs *fs = EG_OWNER(work, EgFs, work);
    if (fs->op->traits & MAKES_FD && fs->status >= 0 && !fs->taken)
        close((int)fs->status);
    fs->taken = true;
}

/* ---- the hub's side: GIL held --------------------------------------------------------------------- */
static void
fs_leave(EgFs *fs)
{
    if (--fs->shares > 0)
        return;
    fs_undo(&fs->work);
    uv_fs_req_cleanup(&fs->uv);
    if (fs->buffer.obj)
        PyBuffer_Release(&fs->buffer);
    for (int i = 0; i < 2; i++) {
        Py_XDECREF(fs->name[i]);
        Py_XDECREF(fs->path[i]);
    }
    Py_XDECREF(fs->data);
    Py_XDECREF(fs->request);
    PyMem_RawFree(fs);
}

/* What the call gave, or the exception of its errno. */
static PyObject *
fs_result(EgFs *fs)
{
    if (fs->work.state == EG_WORK_CANCELLED)
        fs->status = UV_ECANCELED;
    if (fs->op->run == run_access && fs->status != UV_ECANCELED)
        return PyBool_FromLong(fs->status == 0);
    if (fs->status >= 0)
        return fs->op->result(fs);
    return eg_error_raise_for_files((int)fs->status, fs->name[0], fs->name[1]);
}

static void
fs_call_back(EgFs *fs, EgFsRequest *request)
{
    PyObject *callback = request->callback, *result = NULL; /* callback is ours now */
    request->callback = NULL;
    request->fs = NULL;
    if (request->cancelled) {
        fs_undo(&fs->work);
        fs->status = UV_ECANCELED;
    }
    if (!request->loop->destroyed)
        result = fs_result(fs);
    if (result)
        Py_SETREF(request->result, result);
    else if (PyErr_Occurred()) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        Py_SETREF(request->error, value);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    if (!request->loop->destroyed) {
        if ((result = PyObject_CallOneArg(callback, (PyObject *)request)))
            Py_DECREF(result);
        else
            eg_hub_report(request->loop, "Exception in callback", (PyObject *)request);
    }
    Py_DECREF(callback);
}

/* A close() that no thread came to make is made all the same. */
static void
fs_close_after_all(EgFs *fs)
{
    if (fs->op->traits & CLOSES_FD && fs->work.state == EG_WORK_CANCELLED) {
        fs_run(&fs->work);
        fs->work.state = EG_WORK_DONE;
    }
}

/* Whether it has to be made again, in the lane of what may take for ever. */
static bool
fs_belongs_elsewhere(EgFs *fs)
{
    if (!(fs->op->traits & OPENS) || fs->status != UV_EAGAIN || fs->lane != &eg_lane_file
        || fs->work.state != EG_WORK_DONE)
        return false;
    fs->lane = &eg_lane_open;
    uv_fs_req_cleanup(&fs->uv);
    return true;
}

static void
fs_on_done(EgNode *node)
{
    EgFs *fs = EG_OWNER(node, EgFs, work.done);
    fs_close_after_all(fs);
    EgFsRequest *request = (EgFsRequest *)fs->request;
    if (request && !request->cancelled && !request->loop->destroyed && fs_belongs_elsewhere(fs)) {
        if (eg_work_submit(request->loop, fs->lane, &fs->work) == 0)
            return;
        eg_hub_report(request->loop, "Exception in callback", fs->request); /* no thread */
        fs->work.state = EG_WORK_CANCELLED;
    }
    if (fs->request)
        fs_call_back(fs, (EgFsRequest *)fs->request);
    else
        eg_queue_wake(&fs->waiters, NULL);
    fs_leave(fs); /* the lane's share */
}

static void
fs_orphaned(EgWork *work)
{
    EgFs *fs = EG_OWNER(work, EgFs, work);
    fs_close_after_all(fs);
    if (fs->request) {
        EgFsRequest *request = (EgFsRequest *)fs->request;
        request->fs = NULL;
        Py_CLEAR(request->callback);
    }
    fs_leave(fs);
}

/* ---- what need not block ---------------------------------------------------------------------------- */
/* Files on disks are always ready, and may block all the same. */
static bool
fs_on_disk(int fd, struct stat *st)
{
    return fstat(fd, st) < 0 || S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)
           || S_ISDIR(st->st_mode);
}

/* Read or write without blocking; a negated errno: -EAGAIN, or that it cannot be tried. */
static ssize_t
fs_try(const EgFs *fs, char *memory)
{
#ifdef RWF_NOWAIT
    struct iovec part = {memory, fs->size < AT_ONCE ? fs->size : AT_ONCE};
    ssize_t n;
    do
        n = fs->op->traits & READS ? preadv2((int)fs->n[0], &part, 1, fs->n[1], RWF_NOWAIT)
                                   : pwritev2((int)fs->n[0], &part, 1, fs->n[1], RWF_NOWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
#else
    (void)fs;
    (void)memory;
    return -EOPNOTSUPP;
#endif
}

/* Whether that is the outcome, also of the call that may block. */
static bool
fs_settled(ssize_t status)
{
    return status >= 0
           || (status != -EAGAIN && status != -EOPNOTSUPP && status != -ENOSYS && status != -EINVAL
               && status != -EPERM);
}

/* Read what the page cache has. true: that is all there is. */
static bool
fs_read_here(EgFs *fs)
{
    struct stat st;
    fs->status = fs_try(fs, fs->buffer.obj ? fs->buffer.buf : PyBytes_AS_STRING(fs->data));
    if (fs->status <= 0 || (size_t)fs->status == fs->size)
        return fs_settled(fs->status);
    if (!fs_on_disk((int)fs->n[0], &st)) /* a pipe gives what it has */
        return true;
    off_t at = fs->n[1] < 0 ? lseek((int)fs->n[0], 0, SEEK_CUR) : fs->n[1] + fs->status;
    if (at >= st.st_size)
        return true;
    fs->have = (size_t)fs->status;
    return false;
}

/* Wait until the descriptor, which is no file on a disk, is ready. -1: exception. */
static int
fs_wait_ready(const EgFs *fs)
{
    int fd = (int)fs->n[0], events = fs->op->traits & READS ? EG_READ : EG_WRITE;
    struct pollfd one = {.fd = fd, .events = events == EG_READ ? POLLIN : POLLOUT};
    if (poll(&one, 1, 0) != 0)
        return 0;
    EgTask *me = eg_wait_begin();
    return me && eg_fd_wait(me, fd, events, EG_FOREVER, NULL) >= 0 ? 0 : -1;
}

/* Let others have their turn when a slice of time is over: before a call that reads, since what was
 * read would be lost if the task is killed then. */
static int
fs_turn(EgHub *hub)
{
    if (EG_LIKELY(eg_clock_ticks() < hub->slice_end) || hub->forbidden)
        return 0;
    if (!eg_hub_task(hub))
        return PyErr_Occurred() ? -1 : 0;
    EgTask *me = eg_wait_begin();
    return me ? eg_wait_yield_first(me) : -1;
}

/* Memory for the native thread to read into, instead of the caller's. */
static int
fs_own_memory(EgFs *fs)
{
    if (!fs->buffer.obj || fs->data)
        return 0;
    fs->data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)fs->size);
    return fs->data ? 0 : -1;
}

/* Read or write without leaving this thread. 1: done; 0: it has to; -1: exception. */
static int
fs_transfer_here(EgFs *fs)
{
    struct stat st;
    bool reads = fs->op->traits & READS;
    if (eg_hub_here && (reads ? fs_turn(eg_hub_here) : eg_wait_check()) < 0)
        return -1;
    if (reads && fs_read_here(fs))
        return 1;
    if (fs->have || fs_on_disk((int)fs->n[0], &st))
        return 0;
    for (;;) {
        if (fs->op->run == run_sendfile)
            fs->status = -EOPNOTSUPP;
        else if (!reads)
            fs->status = fs_try(fs, PyBytes_AS_STRING(fs->data));
        if (fs_settled(fs->status))
            return 1;
        bool tried = fs->status == -EAGAIN;
        if (fs->n[1] >= 0 && fs->op->run != run_sendfile)
            return 0; /* which will say that it has no offsets */
        if (fs_wait_ready(fs) < 0)
            return -1;
        if (!tried) { /* older kernels, of pipes */
            if (fs->op->run == run_sendfile || !(fcntl((int)fs->n[0], F_GETFL) & O_NONBLOCK))
                return 0;
            if (fs_own_memory(fs) < 0)
                return -1;
            fs_run(&fs->work);
            if (fs->status != -EAGAIN)
                return 1;
        } else if (reads && fs_read_here(fs))
            return 1;
    }
}

/* ---- arguments -------------------------------------------------------------------------------------- */
static int
fs_parse_path(EgFs *fs, PyObject *value)
{
    int i = fs->npaths++;
    fs->name[i] = PyOS_FSPath(value);
    if (!fs->name[i] || !PyUnicode_FSConverter(fs->name[i], &fs->path[i]))
        return -1;
    fs->text |= PyUnicode_Check(fs->name[i]);
    return 0;
}

static int
fs_parse_data(EgFs *fs, PyObject *value)
{
    if (PyUnicode_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a bytes-like object is required, not 'str'");
        return -1;
    }
    fs->data = PyBytes_CheckExact(value) ? Py_NewRef(value) : PyBytes_FromObject(value);
    if (PyLong_Check(value) || !fs->data) { /* the int would have been a length */
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a bytes-like object is required, not 'int'");
        return -1;
    }
    fs->size = (size_t)PyBytes_GET_SIZE(fs->data);
    return 0;
}

static int
fs_parse_number(EgFs *fs, char kind, PyObject *name, PyObject *value)
{
    int64_t number = -1;
    if (kind == 'd')
        number = PyObject_AsFileDescriptor(value);
    else if (kind == 'i' || kind == 'u') {
        long n = PyLong_AsLong(value);
        if (!PyErr_Occurred()
            && (kind == 'i' ? n < INT32_MIN || n > INT32_MAX : n < -1 || n > UINT32_MAX))
            PyErr_Format(PyExc_OverflowError, "%U does not fit into an int", name);
        number = n;
    } else if (kind != 'o' || value != Py_None) {
        number = PyLong_AsLongLong(value);
        if (number < 0 && kind == 'o' && !PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%U must not be negative", name);
    }
    fs->n[fs->nn++] = number;
    return number == -1 && PyErr_Occurred() ? -1 : PyErr_Occurred() ? -1 : 0;
}

/* One argument, by its parameter's kind: p path, P path that may be None, d descriptor, i int, u
 * number of a user or group (-1: as it is), l int64, o offset or None, n size to read, b bytes to
 * write, w buffer to read into. */
static int
fs_parse(EgFs *fs, char kind, PyObject *name, PyObject *value)
{
    switch (kind) {
    case 'p':
    case 'P':
        return fs_parse_path(fs, value);
    case 'b':
        return fs_parse_data(fs, value);
    case 'w':
        if (PyObject_GetBuffer(value, &fs->buffer, PyBUF_WRITABLE) < 0) {
            PyErr_Format(PyExc_TypeError, "%U must be a writable bytes-like object, not %.100s",
                         name, Py_TYPE(value)->tp_name);
            return -1;
        }
        fs->size = (size_t)fs->buffer.len;
        return 0;
    case 'n': {
        Py_ssize_t size = PyNumber_AsSsize_t(value, PyExc_OverflowError);
        if (size < 0 && !PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%U must not be negative", name);
        if (PyErr_Occurred())
            return -1;
        fs->size = (size_t)size;
        return (fs->data = PyBytes_FromStringAndSize(NULL, size)) ? 0 : -1;
    }
    default:
        return fs_parse_number(fs, kind, name, value);
    }
}

static int
fs_parse_missing(EgFs *fs, const EgFsOp *op, int i)
{
    char kind = op->param[i].kind;
    if (i < op->needed) {
        PyErr_Format(PyExc_TypeError, "%s() needs an argument '%U'", op->name, op->param[i].name);
        return -1;
    }
    if (kind == 'P') {
        PyObject *here = PyUnicode_FromString(".");
        int status = here ? fs_parse_path(fs, here) : -1;
        Py_XDECREF(here);
        return status;
    }
    fs->n[fs->nn++] = op->param[i].value;
    return 0;
}

/* Sort the arguments by the operation's parameters; borrowed. */
static int
fs_sort(const EgFsOp *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames, PyObject **sorted,
        PyObject **callback)
{
    if (n > op->nparams) {
        PyErr_Format(PyExc_TypeError, "%s() takes up to %d arguments (%zd given)", op->name,
                     op->nparams, n);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        sorted[i] = args[i];
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k); /* borrowed */
        if (PyUnicode_CompareWithASCIIString(name, "callback") == 0) {
            *callback = args[n + k] == Py_None ? NULL : args[n + k];
            continue;
        }
        int i = 0;
        while (i < op->nparams && PyUnicode_Compare(op->param[i].name, name) != 0)
            i++;
        if (i == op->nparams || sorted[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument '%U'", op->name,
                         i == op->nparams ? "an unexpected" : "twice the", name);
            return -1;
        }
        sorted[i] = args[n + k];
    }
    if (*callback && !PyCallable_Check(*callback)) {
        PyErr_Format(PyExc_TypeError, "callback must be callable, not %.100s",
                     Py_TYPE(*callback)->tp_name);
        return -1;
    }
    return 0;
}

static EgFs *
fs_make(const EgFsOp *op)
{
    EgFs *fs = PyMem_RawCalloc(1, sizeof *fs);
    if (!fs)
        return (EgFs *)PyErr_NoMemory();
    fs->op = op;
    fs->lane = &eg_lane_file;
    fs->shares = 1; /* the caller's */
    fs->status = UV_ECANCELED;
    fs->work.done.run = fs_on_done;
    fs->work.run = fs_run;
    fs->work.undo = fs_undo;
    fs->work.orphaned = fs_orphaned;
    return fs;
}

static EgFs *
fs_new(const EgFsOp *op, PyObject *const *sorted)
{
    EgFs *fs = fs_make(op);
    if (!fs)
        return NULL;
    for (int i = 0; i < op->nparams; i++) {
        PyObject *value = sorted[i];
        if (op->param[i].kind == 'P' && value == Py_None)
            value = NULL;
        if ((value ? fs_parse(fs, op->param[i].kind, op->param[i].name, value)
                   : fs_parse_missing(fs, op, i))
            < 0) {
            fs_leave(fs);
            return NULL;
        }
    }
    return fs;
}

/* ---- calling ------------------------------------------------------------------------------------------ */
/* In a native thread that has no hub, or where nothing may wait. */
static void
fs_run_here(EgFs *fs)
{
    Py_BEGIN_ALLOW_THREADS
    fs_run(&fs->work);
    Py_END_ALLOW_THREADS
}

/* Park until the call has been made in a native thread. -1: exception. */
static int
fs_run_elsewhere(EgFs *fs)
{
    EgTask *me = eg_wait_begin();
    if (!me) {
        if (fs->op->traits & CLOSES_FD)
            fs_run_here(fs); /* the task was killed: all the more */
        return -1;
    }
    if (eg_work_submit(me->hub, fs->lane, &fs->work) < 0)
        return -1;
    fs->shares++; /* the lane's: given back by fs_on_done() or fs_orphaned() */
    eg_wait_join(me, &fs->waiters);
    if (eg_wait_park(me, &fs->op->kind, fs->name[0], EG_FOREVER) < 0) {
        if (!(fs->op->traits & CLOSES_FD))
            eg_work_cancel(&fs->work);
        return -1;
    }
    return 0;
}

static bool
fs_may_wait(void)
{
    EgHub *hub = eg_hub_here;
    return !hub || (!hub->forbidden && eg_hub_task(hub));
}

static int
fs_perform(EgFs *fs)
{
    bool transfers = fs->op->traits & (READS | WRITES);
    if (!eg_hub_here && PyThread_get_thread_ident() != eg_state->main_thread) {
        if (fs_own_memory(fs) < 0)
            return -1;
        fs->lane = &eg_lane_open; /* this thread, which may wait for ever */
        for (fs_run_here(fs); transfers && fs->status == UV_EAGAIN; fs_run_here(fs))
            if (fs_wait_ready(fs) < 0)
                return -1;
        return 0;
    }
    struct stat st;
    if (fs->op->traits & CLOSES_FD && !fs_on_disk((int)fs->n[0], &st)) {
        fs_run(&fs->work); /* a pipe, a socket: that does not block */
        return 0;
    }
    if (fs->op->traits & CLOSES_FD && !fs_may_wait()) {
        if (PyErr_Occurred())
            return -1;
        fs_run_here(fs); /* in a callback or a finaliser: better late than never */
        return 0;
    }
    for (;;) {
        int done = transfers ? fs_transfer_here(fs) : 0;
        if (done > 0 && !(fs->op->traits & READS) && eg_hub_here
            && eg_hub_slice_is_over(eg_hub_here) && eg_wait_give_way() < 0)
            done = -1;
        if (done)
            return done < 0 ? -1 : 0;
        if (fs_own_memory(fs) < 0 || fs_run_elsewhere(fs) < 0)
            return -1;
        if (fs->status != UV_EAGAIN || !(transfers || fs_belongs_elsewhere(fs)))
            return 0;
        uv_fs_req_cleanup(&fs->uv); /* a non-blocking descriptor that another was quicker at */
    }
}

/* ---- requests ------------------------------------------------------------------------------------------ */
/* Read or write without blocking. true: it is done. */
static bool
fs_try_here(EgFs *fs)
{
    if (fs->op->traits & READS)
        return fs_read_here(fs);
    fs->status =
        fs->op->run == run_sendfile ? -EOPNOTSUPP : fs_try(fs, PyBytes_AS_STRING(fs->data));
    return fs_settled(fs->status);
}

/* Its descriptor may be ready, and is not another's yet: so it is tried here. */
static void
fs_on_bell(EgBell *bell)
{
    EgFs *fs = EG_OWNER(bell, EgFs, bell);
    EgFsRequest *request = (EgFsRequest *)fs->request;
    EgHub *hub = request->loop;
    eg_fd_rung(hub);
    bool over = bell->closed || request->cancelled || hub->destroyed;
    if (over)
        fs->status = bell->closed ? UV_EBADF : UV_ECANCELED;
    eg_hub_push(hub, over || fs_try_here(fs) ? &fs->work.done : &fs->again);
}

/* Whether events tell when it may be read or written. */
static bool
fs_is_polled(const EgFs *fs)
{
    struct stat st;
    return fs->op->traits & (READS | WRITES) && !fs_on_disk((int)fs->n[0], &st) && !fs->have
           && (fs->n[1] < 0 || fs->op->run == run_sendfile);
}

/* Have it be made, without waiting. 0: it is over, or somebody will make it; -1: exception. */
static int
fs_submit(EgHub *hub, EgFs *fs)
{
    bool reads = fs->op->traits & READS, polled = fs_is_polled(fs);
    if ((reads || polled) && fs_try_here(fs)) {
        eg_hub_push(hub, &fs->work.done);
        return 0;
    }
    if (polled && !fs->have) {
        struct pollfd one = {.fd = (int)fs->n[0], .events = reads ? POLLIN : POLLOUT};
        bool ready = poll(&one, 1, 0) != 0;
        if (ready && fs->status == -EAGAIN) {
            eg_hub_push(hub, &fs->again); /* it came just now */
            return 0;
        }
        int status =
            ready ? 1 : eg_fd_ring(hub, one.fd, reads ? EG_READ : EG_WRITE, &fs->bell, fs_on_bell);
        if (status <= 0)
            return status;
    }
    return fs_own_memory(fs) < 0 ? -1 : eg_work_submit(hub, fs->lane, &fs->work);
}

static void
fs_try_again(EgNode *node)
{
    EgFs *fs = EG_OWNER(node, EgFs, again);
    EgFsRequest *request = (EgFsRequest *)fs->request;
    if (request->cancelled || request->loop->destroyed)
        fs->work.state = EG_WORK_CANCELLED;
    else if (fs_submit(request->loop, fs) == 0)
        return;
    else {
        fs->status = -eg_patch_errno();
        PyErr_Clear();
        if (fs->status == 0)
            fs->status = UV_ENOMEM;
    }
    fs_on_done(&fs->work.done);
}

static PyObject *
fs_start(EgFs *fs, PyObject *callback)
{
    EgHub *hub = eg_hub_get();
    EgFsRequest *request = NULL;
    if (hub)
        request = (EgFsRequest *)eg_state->fs_request_type->tp_alloc(eg_state->fs_request_type, 0);
    if (!request)
        return NULL;
    request->loop = (EgHub *)Py_NewRef(hub);
    request->callback = Py_NewRef(callback);
    request->path = Py_NewRef(fs->name[0] ? fs->name[0] : Py_None);
    request->result = Py_NewRef(Py_None);
    request->error = Py_NewRef(Py_None);
    fs->again.run = fs_try_again;
    if (fs_submit(hub, fs) < 0) {
        Py_DECREF(request);
        return NULL;
    }
    fs->shares++; /* the lane's: given back by fs_on_done() or fs_orphaned() */
    request->fs = fs;
    fs->request = Py_NewRef(request); /* likewise, by fs_leave() */
    return (PyObject *)request;
}

/* Any operation: self says which. */
static PyObject *
fs_method(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    const EgFsOp *op = &fs_table[PyLong_AsLong(self)];
    PyObject *sorted[PARAMS] = {NULL}, *callback = NULL, *result = NULL;
    eg_work_bury();
    if (fs_sort(op, args, n, kwnames, sorted, &callback) < 0)
        return NULL;
    EgFs *fs = fs_new(op, sorted);
    if (!fs)
        return NULL;
    if (op->run == run_open && PySys_Audit("open", "OOi", fs->name[0], Py_None, (int)fs->n[0]) < 0)
        goto done;
    if (op->traits & CLOSES_FD)
        eg_fd_closing((int)fs->n[0]);
    if (callback)
        result = fs_start(fs, callback);
    else if (fs_perform(fs) == 0)
        result = fs_result(fs);
done:
    fs_leave(fs); /* the caller's share */
    return result;
}

/* ---- for the patches ------------------------------------------------------------------------------------- */
bool
eg_fs_open_waits(const char *path, int dir_fd, int flags)
{
    struct stat st;
    int follow = flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0;
    if (flags & (O_NONBLOCK | O_PATH | O_DIRECTORY) || fstatat(dir_fd, path, &st, follow) < 0)
        return false;
    /* A FIFO for its other end, unless this is both; a serial line for its carrier. */
    return S_ISFIFO(st.st_mode) ? (flags & O_ACCMODE) != O_RDWR
                                : S_ISCHR(st.st_mode) && major(st.st_rdev) != MEMORY;
}

static ssize_t
run_open_at(EgFs *fs)
{
    int fd, flags = (int)fs->n[1];
    if (fs->lane == &eg_lane_file && eg_fs_open_waits(PATH(fs, 0), (int)fs->n[0], flags))
        return UV_EAGAIN; /* it would keep a thread from work that takes no longer than a disk */
    do
        fd = openat((int)fs->n[0], PATH(fs, 0), flags | O_CLOEXEC, (mode_t)fs->n[2]);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int
eg_fs_open(EgLane *lane, PyObject *name, PyObject *path, int dir_fd, int flags, int mode)
{
    static const EgFsOp op = {
        .name = "open", .run = run_open_at, .traits = MAKES_FD, .kind = {"open", NULL}};
    int fd = -1;
    eg_work_bury();
    for (;;) {
        EgFs *fs = fs_make(&op);
        if (!fs)
            return -1;
        fs->lane = lane;
        fs->name[0] = Py_NewRef(name);
        fs->path[0] = Py_NewRef(path);
        fs->n[0] = dir_fd, fs->n[1] = flags, fs->n[2] = mode;
        int status = fs_run_elsewhere(fs);
        bool again = status == 0 && fs->status == UV_EAGAIN && lane == &eg_lane_file;
        if (status == 0 && fs->status >= 0 && fs->work.state != EG_WORK_CANCELLED) {
            fd = (int)fs->status;
            fs->taken = true;
        } else if (status == 0 && !again)
            fs_result(fs);
        fs_leave(fs); /* the caller's share */
        if (!again)
            return fd;
        lane = &eg_lane_open;
    }
}

/* An operation on memory that is the caller's only while its task lives. */
static ssize_t
fs_transfer(EgFs *fs, int fd, int64_t offset)
{
    ssize_t done = -1;
    eg_work_bury();
    fs->n[0] = fd;
    fs->n[1] = offset;
    if (fs_perform(fs) == 0) {
        PyObject *result = fs_result(fs);
        done = result ? fs->status : -1;
        Py_XDECREF(result);
    }
    fs_leave(fs); /* the caller's share */
    return done;
}

ssize_t
eg_fs_read(int fd, void *into, size_t size, int64_t offset)
{
    static const EgFsOp op = {.name = "read",
                              .run = run_read,
                              .result = result_filled,
                              .traits = READS,
                              .kind = {"read", NULL}};
    EgFs *fs = fs_make(&op);
    if (!fs)
        return -1;
    fs->size = size;
    /* None owns the memory: the buffer is there, and there is nothing to release. */
    PyBuffer_FillInfo(&fs->buffer, Py_None, into, (Py_ssize_t)size, 0, PyBUF_WRITABLE);
    return fs_transfer(fs, fd, offset);
}

ssize_t
eg_fs_write(int fd, const void *from, size_t size, int64_t offset)
{
    static const EgFsOp op = {.name = "write",
                              .run = run_write,
                              .result = result_size,
                              .traits = WRITES,
                              .kind = {"write", NULL}};
    EgFs *fs = fs_make(&op);
    if (!fs)
        return -1;
    fs->size = size;
    if (!(fs->data = PyBytes_FromStringAndSize(from, (Py_ssize_t)size))) {
        fs_leave(fs);
        return -1;
    }
    return fs_transfer(fs, fd, offset);
}

/* ---- FSRequest -------------------------------------------------------------------------------------------- */
PyDoc_STRVAR(request_cancel_doc,
"cancel($self, /)\n"
"--\n"
"\n"
"Have it not be done; return False if it is over.\n"
"\n"
"The callback is called with an error of ECANCELED. A system call that was begun is left to\n"
"end, and the callback is called then; a descriptor that it made is closed.");

static PyObject *
request_cancel(PyObject *op, PyObject *unused)
{
    EgFsRequest *self = (EgFsRequest *)op;
    (void)unused;
    if (!self->fs || self->fs->op->traits & CLOSES_FD)
        Py_RETURN_FALSE;
    self->cancelled = true;
    if (self->fs->bell.link.queue) { /* it waits for its descriptor */
        eg_queue_remove(&self->fs->bell.link);
        fs_on_bell(&self->fs->bell);
    } else
        eg_work_cancel(&self->fs->work);
    Py_RETURN_TRUE;
}

static PyObject *
request_get_done(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!((EgFsRequest *)op)->fs);
}

static int
request_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgFsRequest *self = (EgFsRequest *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->path);
    Py_VISIT(self->result);
    Py_VISIT(self->error);
    Py_VISIT(self->dict);
    return 0;
}

static int
request_clear(PyObject *op)
{
    EgFsRequest *self = (EgFsRequest *)op;
    Py_CLEAR(self->loop);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->path);
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_CLEAR(self->dict);
    return 0;
}

static void
request_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, request_dealloc);
    if (((EgFsRequest *)op)->weakrefs)
        PyObject_ClearWeakRefs(op);
    request_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMethodDef request_methods[] = {
    {"cancel", request_cancel, METH_NOARGS, request_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef request_members[] = {
    {"loop", T_OBJECT, offsetof(EgFsRequest, loop), READONLY, PyDoc_STR("The EventLoop.")},
    {"path", T_OBJECT, offsetof(EgFsRequest, path), READONLY,
     PyDoc_STR("The path that it is about, or None.")},
    {"result", T_OBJECT, offsetof(EgFsRequest, result), READONLY,
     PyDoc_STR("What the operation returned; None before.")},
    {"error", T_OBJECT, offsetof(EgFsRequest, error), READONLY,
     PyDoc_STR("The exception that it ended with, or None.")},
    {"__dictoffset__", T_PYSSIZET, offsetof(EgFsRequest, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgFsRequest, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef request_getset[] = {
    {"done", request_get_done, NULL, PyDoc_STR("Whether it is over."), NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(request_doc,
"A file system operation that was started with a callback.\n\n"
"It takes attributes of the user's own. The loop keeps it until its callback was called.");

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc}, {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},     {Py_tp_dealloc, request_dealloc},
    {Py_tp_methods, request_methods}, {Py_tp_members, request_members},
    {Py_tp_getset, request_getset},   {0, NULL},
};

PyType_Spec eg_fs_request_spec = {
    .name = "evergreen.io.fs.FSRequest",
    .basicsize = sizeof(EgFsRequest),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

/* ---- setup ---------------------------------------------------------------------------------------------------- */
/* Read "p:path i:flags=0" into the table. */
static int
fs_read_params(EgFsOp *op)
{
    const char *at = op->params;
    for (op->nparams = 0; *at; op->nparams++) {
        size_t length = strcspn(at + 2, " =");
        op->param[op->nparams].kind = *at;
        PyObject *name = PyUnicode_FromStringAndSize(at + 2, (Py_ssize_t)length);
        if (!name)
            return -1;
        PyUnicode_InternInPlace(&name);
        op->param[op->nparams].name = name;
        at += 2 + length;
        if (*at == '=')
            op->param[op->nparams].value = strtoll(at + 1, (char **)&at, 10);
        else if (op->param[op->nparams].kind != 'P')
            op->needed = op->nparams + 1;
        at += *at == ' ';
    }
    return 0;
}

/* Add the operations to the module, as fs_open() and so on. */
int
eg_fs_setup(PyObject *module)
{
    PyObject *os = PyImport_ImportModule("os"), *public = NULL;
    int status = -1;
    if (!os || !(fs_stat_type = PyObject_GetAttrString(os, "stat_result"))
        || !(fs_statvfs_type = PyObject_GetAttrString(os, "statvfs_result"))
        || !(public = PyUnicode_FromString("evergreen.io.fs")))
        goto done;
    for (size_t i = 0; i < sizeof fs_table / sizeof *fs_table; i++) {
        EgFsOp *op = &fs_table[i];
        char name[32];
        snprintf(name, sizeof name, "fs_%s", op->name);
        op->kind.name = op->name;
        op->def =
            (PyMethodDef){op->name, EG_METHOD(fs_method), METH_FASTCALL | METH_KEYWORDS, op->doc};
        PyObject *index = PyLong_FromSize_t(i), *function = NULL;
        if (index && fs_read_params(op) == 0)
            function = PyCFunction_NewEx(&op->def, index, public);
        Py_XDECREF(index);
        if (!function || PyModule_AddObjectRef(module, name, function) < 0) {
            Py_XDECREF(function);
            goto done;
        }
        Py_DECREF(function);
    }
    status = 0;
done:
    Py_XDECREF(public);
    Py_XDECREF(os);
    return status;
}
