/* patch_sqlite.c: a database that somebody else has locked.
 *
 * sqlite3.connect(timeout=5) has SQLite sleep and try again, deep in its code and without the
 * GIL.  If a *task* of the same thread has the lock, that sleep only ends in "database is locked".
 * SQLite sleeps by a function of its VFS, a table of pointers that it gives out and lets one change
 * (https://www.sqlite.org/c3ref/vfs.html): xSleep is ours, and parks.
 *
 * Meanwhile the connection is in the middle of a call, and SQLite's mutex is of no use, since it
 * lets its own thread in again.  So each call is a visit of the connection, as those of buffered
 * streams are (patch_io.c), and another task's call waits until it has left.
 */
#include "evergreen.h"

#include <dlfcn.h>

/* ---- SQLite's side ------------------------------------------------------------------- */
/* sqlite3_vfs, as far as it is the same in all versions. */
typedef struct Vfs {
    int version, file_size, most_path;
    struct Vfs *next;
    const char *name;
    void *data;
    void *others[9]; /* xOpen ... xRandomness */
    int (*sleep)(struct Vfs *, int microseconds);
} Vfs;

static const EgWaitKind sqlite_kind = {"locked database", NULL};
static int (*sqlite_sleep_native)(Vfs *, int);

static int
sqlite_sleep(Vfs *vfs, int microseconds)
{
    EgTask *me = eg_hub_here ? eg_hub_here->current : NULL;
    if (me && me->in_sqlite && microseconds > 0
        && eg_native_sleep(&sqlite_kind, (uint64_t)microseconds * 1000))
        return microseconds;
    return sqlite_sleep_native(vfs, microseconds);
}

static void
sleep_take_over(const void *within)
{
    Dl_info info;
    Vfs *(*find)(const char *) = NULL;
    void *module = dladdr(within, &info) ? dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_LAZY) : NULL;
    if (module) {
        *(void **)&find = dlsym(module, "sqlite3_vfs_find"); /* NULL: it is built in, and hidden */
        dlclose(module);                                     /* the interpreter holds it */
    }
    Vfs *vfs = find ? find(NULL) : NULL;
    if (!vfs)
        return;
    sqlite_sleep_native = vfs->sleep;
    for (; vfs; vfs = vfs->next)
        if (vfs->sleep == sqlite_sleep_native)
            vfs->sleep = sqlite_sleep;
}

/* ---- Python's side ---------------------------------------------------------------------- */
typedef struct {
    EgVisit *visit;
    EgTask *me; /* borrowed: it runs; NULL: nothing may wait here */
    bool before;
} Inside;

/* Wait until no other task is in a call of the connection. -1: exception. */
static int
inside_begin(Inside *self, PyObject *connection)
{
    if (eg_visit_is_barred(connection)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a task is in a call of this connection, and a callback cannot wait");
        return -1;
    }
    if (!(self->visit = eg_visit_begin(connection)))
        return -1;
    if ((self->me = eg_os_may_wait() ? eg_hub_here->current : NULL)) {
        self->before = self->me->in_sqlite;
        self->me->in_sqlite = true;
    }
    return 0;
}

static PyObject *
inside_end(const Inside *self, PyObject *connection, PyObject *result)
{
    if (self->me) {
        self->me->in_sqlite = self->before;
        if (!result && PyErr_Occurred())
            eg_native_meet(self->me); /* "database is locked", since the task was killed */
    }
    eg_visit_end(self->visit, connection);
    return result;
}

static void sqlite_take_over(const EgPatch *patch);

static PyObject *
sqlite_call(const EgPatch *patch, PyObject *connection, PyObject *self, PyObject *const *args,
            Py_ssize_t n, PyObject *kwnames)
{
    Inside inside;
    sqlite_take_over(patch);
    if (inside_begin(&inside, connection) < 0)
        return NULL;
    PyObject *result = eg_patch_call_original(patch, self, args, n, kwnames);
    return inside_end(&inside, connection, result);
}

static PyObject *
sqlite_connection(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                  PyObject *kwnames)
{
    if (!eg_hub_cooperates())
        return eg_patch_call_original(patch, self, args, n, kwnames);
    return sqlite_call(patch, self, self, args, n, kwnames);
}

/* The connection of a cursor, new; NULL, without an exception: it has none, as its call says. */
static PyObject *
cursor_connection(PyObject *self)
{
    PyObject *connection = PyObject_GetAttrString(self, "connection");
    if (!connection)
        PyErr_Clear();
    else if (connection == Py_None)
        Py_CLEAR(connection);
    return connection;
}

static PyObject *
sqlite_cursor(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
              PyObject *kwnames)
{
    PyObject *connection = eg_hub_cooperates() ? cursor_connection(self) : NULL;
    if (!connection)
        return eg_patch_call_original(patch, self, args, n, kwnames);
    PyObject *result = sqlite_call(patch, connection, self, args, n, kwnames);
    Py_DECREF(connection);
    return result;
}

#define CALL(kind, type, name)                                                          \
    EG_PATCH(kind##_##name, "_sqlite3." type, #name, "sqlite3");                        \
    static PyObject *kind##_##name(PyObject *self, PyObject *const *args, Py_ssize_t n, \
                                   PyObject *kwnames)                                   \
    {                                                                                   \
        return sqlite_##kind(&kind##_##name##_patch, self, args, n, kwnames);           \
    }

/* Not interrupt(), which is for others to call. */
#define CONNECTION(X)         \
    X(backup)                 \
    X(blobopen)               \
    X(close)                  \
    X(commit)                 \
    X(create_aggregate)       \
    X(create_collation)       \
    X(create_function)        \
    X(create_window_function) \
    X(deserialize)            \
    X(execute)                \
    X(executemany)            \
    X(executescript)          \
    X(load_extension)         \
    X(rollback)               \
    X(serialize)              \
    X(__exit__)

#define CURSOR(X)    \
    X(close)         \
    X(execute)       \
    X(executemany)   \
    X(executescript) \
    X(fetchall)      \
    X(fetchmany)     \
    X(fetchone)

#define CONNECTION_CALL(name) CALL(connection, "Connection", name)
#define CURSOR_CALL(name) CALL(cursor, "Cursor", name)
CONNECTION(CONNECTION_CALL)
CURSOR(CURSOR_CALL)

/* Iteration is a slot, not a method: it is replaced for good, and asks whether it is patched. */
static iternextfunc cursor_next_native;

static PyObject *
cursor_next(PyObject *self)
{
    Inside inside;
    PyObject *row = NULL, *connection = NULL;
    if (cursor_fetchone_patch.applied && eg_hub_cooperates())
        connection = cursor_connection(self);
    if (!connection)
        return cursor_next_native(self);
    if (inside_begin(&inside, connection) == 0)
        row = inside_end(&inside, connection, cursor_next_native(self));
    Py_DECREF(connection);
    return row;
}

/* Once, and for good: what is put in place asks whether it is patched. */
static void
sqlite_take_over(const EgPatch *patch)
{
    static bool tried;
    if (tried)
        return;
    tried = true;
    sleep_take_over((void *)patch->original);
    PyTypeObject *type = cursor_fetchone_patch.type;
    if (!type)
        return;
    cursor_next_native = type->tp_iternext;
    if (eg_patch_slot(type, offsetof(PyTypeObject, tp_iternext), (void (*)(void))cursor_next_native,
                      (void (*)(void))cursor_next)
        < 0)
        PyErr_WriteUnraisable((PyObject *)type);
}

#define CONNECTION_ENTRY(name) &connection_##name##_patch,
#define CURSOR_ENTRY(name) &cursor_##name##_patch,
EgPatch *const eg_patch_sqlite[] = {CONNECTION(CONNECTION_ENTRY) CURSOR(CURSOR_ENTRY) NULL};
