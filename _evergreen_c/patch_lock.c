/* patch_lock.c: _thread.lock and _thread.RLock.
 *
 * A task tries the native lock without blocking and, if it is taken, waits in the table of
 * waiters.c.  release() hands the lock to the longest waiter without unlocking it, so nobody
 * can come between; a task that is killed before it runs releases what it was handed.  Native
 * threads stand in the same queue, but what one of them hands to another it only unlocks.
 *
 * An RLock belongs to a task where a hub runs: its owner is what get_ident() says there.
 */
#include "evergreen.h"

EG_PATCH(lock_acquire, "_thread.LockType", "acquire", "thread");
EG_PATCH(lock_acquire_lock, "_thread.LockType", "acquire_lock", "thread");
EG_PATCH(lock_enter, "_thread.LockType", "__enter__", "thread");
EG_PATCH_WAKER(lock_release, "_thread.LockType", "release", "thread");
EG_PATCH_WAKER(lock_release_lock, "_thread.LockType", "release_lock", "thread");
EG_PATCH_WAKER(lock_exit, "_thread.LockType", "__exit__", "thread");
EG_PATCH(lock_locked, "_thread.LockType", "locked", "thread");
EG_PATCH(lock_locked_lock, "_thread.LockType", "locked_lock", "thread");
EG_PATCH(rlock_locked, "_thread.RLock", "locked", "thread"); /* 3.14 and later */
EG_PATCH(rlock_acquire, "_thread.RLock", "acquire", "thread");
EG_PATCH(rlock_enter, "_thread.RLock", "__enter__", "thread");
EG_PATCH_WAKER(rlock_release, "_thread.RLock", "release", "thread");
EG_PATCH_WAKER(rlock_exit, "_thread.RLock", "__exit__", "thread");
EG_PATCH(rlock_is_owned, "_thread.RLock", "_is_owned", "thread");
EG_PATCH(rlock_acquire_restore, "_thread.RLock", "_acquire_restore", "thread");
EG_PATCH_WAKER(rlock_release_save, "_thread.RLock", "_release_save", "thread");
EG_PATCH(rlock_recursion_count, "_thread.RLock", "_recursion_count", "thread");

/* ---- arguments -------------------------------------------------------------- */
/* acquire(blocking=True, timeout=-1), where it may wait. false: it may not, or the arguments
 * are wrong: the native function deals with it. */
static bool
lock_may_wait(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, uint64_t *deadline)
{
    PyObject *blocking = n > 0 ? args[0] : Py_True, *timeout = n > 1 ? args[1] : NULL;
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *deadline = EG_FOREVER;
    if (n == 0 && nkw == 0)
        return true;
    if (n > 2)
        return false;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (n < 1 && PyUnicode_CompareWithASCIIString(name, "blocking") == 0)
            blocking = args[n + i];
        else if (n < 2 && PyUnicode_CompareWithASCIIString(name, "timeout") == 0)
            timeout = args[n + i];
        else
            return false;
    }
    if (!PyBool_Check(blocking) && !PyLong_Check(blocking))
        return false;
    if (PyObject_IsTrue(blocking) != 1)
        return false;
    if (!timeout)
        return true;
    if (!PyFloat_Check(timeout) && !PyLong_Check(timeout))
        return false;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    if (seconds == -1)
        return true;
    if (!(seconds > 0 && seconds < (double)PY_TIMEOUT_MAX / 1e6))
        return false;
    *deadline = eg_clock_after(seconds);
    return true;
}

/* ---- lock: the native structure -------------------------------------------------- */
/* A lock that is free, or that nobody waits for, is taken and released without the native methods,
 * whose arguments cost more than the lock. Where the structure is another one, they are called. */
#if PY_VERSION_HEX >= 0x030e0000
typedef struct {
    PyObject_HEAD
    PyMutex mutex;
} EgLock;

static bool
lock_grab(EgLock *self)
{
    if (PyMutex_IsLocked(&self->mutex))
        return false;
    PyMutex_Lock(&self->mutex); /* the GIL is held: nobody came between */
    return true;
}

static bool
lock_free(EgLock *self)
{
    if (!PyMutex_IsLocked(&self->mutex))
        return false;
    PyMutex_Unlock(&self->mutex);
    return true;
}
#else
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    PyObject *weakrefs;
    char locked;
} EgLock;

static bool
lock_grab(EgLock *self)
{
    if (self->locked || !PyThread_acquire_lock(self->lock, 0))
        return false;
    self->locked = 1;
    return true;
}

static bool
lock_free(EgLock *self)
{
    if (!self->locked)
        return false;
    PyThread_release_lock(self->lock);
    self->locked = 0;
    return true;
}
#endif

static inline bool
lock_is_known(PyObject *op)
{
    return Py_TYPE(op)->tp_basicsize == sizeof(EgLock);
}

/* ---- who waits in the queue -------------------------------------------------- */
/* Native threads stand in it with the tasks, or those would hand a lock to each other for ever.
 * The main thread without a hub does not: it has signals to look after. */
static bool
lock_has_queue(void)
{
    return eg_hub_here ? eg_hub_cooperates()
                       : PyThread_get_thread_ident() != eg_state->main_thread
                             && PyInterpreterState_Get() == eg_state->interpreter;
}

/* Native threads among themselves are as unfair, and as fast, as without us: the next one is told
 * to try again. */
static bool
lock_is_handed_to(EgQueue *waiters)
{
    EgTask *next = waiters ? eg_queue_peek(waiters) : NULL;
    return next && (eg_hub_here || next->role != EG_THREAD);
}

/* ---- lock ------------------------------------------------------------------- */
/* 1: taken; 0: somebody has it; -1: exception. */
static int
lock_try(PyObject *self)
{
    PyObject *no = Py_False;
    if (EG_LIKELY(lock_is_known(self)))
        return lock_grab((EgLock *)self);
    PyObject *taken = eg_patch_call_original(&lock_acquire_patch, self, &no, 1, NULL);
    int status = taken ? taken == Py_True : -1;
    Py_XDECREF(taken);
    return status;
}

/* The native release; it takes no memory, or a lock would stay taken for want of it. */
static PyObject *
lock_let_go(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
            PyObject *kwnames)
{
    if (lock_is_known(self) && lock_free((EgLock *)self))
        Py_RETURN_NONE;
    return eg_patch_call_original(patch, self, args, n, kwnames);
}

static PyObject *
lock_unlock(PyObject *self)
{
    return lock_let_go(&lock_release_patch, self, NULL, 0, NULL);
}

static bool
lock_hand_over(PyObject *self)
{
    EgQueue *waiters = eg_waiters_of(self);
    return lock_is_handed_to(waiters) && eg_queue_wake(waiters, Py_NewRef(Py_True));
}

/* It was released: the longest waiter may try again. */
static void
lock_tell(PyObject *self)
{
    EgQueue *waiters = eg_waiters_of(self);
    if (waiters)
        eg_queue_wake(waiters, NULL);
}

static void
lock_give_back(EgTask *task)
{
    PyObject *self = task->wait.object;
    bool handed = task->wait.value != NULL;
    Py_CLEAR(task->wait.value); /* a bool: no finaliser runs */
    if (!handed)                /* it was told to try again: so may the next one */
        lock_tell(self);
    else if (!lock_hand_over(self)) {
        PyObject *result = lock_unlock(self);
        if (!result)
            PyErr_WriteUnraisable(self);
        Py_XDECREF(result);
        lock_tell(self);
    }
}

static const EgWaitKind lock_kind = {"lock", lock_give_back};

static PyObject *
lock_take(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
          PyObject *kwnames)
{
    uint64_t deadline;
    if (eg_hub_here && eg_patch_poll() < 0)
        return NULL;
    if (EG_LIKELY(n == 0 && !kwnames && lock_is_known(self) && lock_grab((EgLock *)self)))
        Py_RETURN_TRUE;
    if (!lock_has_queue() || !lock_may_wait(args, n, kwnames, &deadline))
        return eg_patch_call_original(patch, self, args, n, kwnames);
    int status = lock_try(self);
    if (status == 0 && eg_thread_is_sentinel(self))
        return eg_hub_here ? eg_patch_offload("wait_for_thread", patch, self, args, n, kwnames)
                           : eg_patch_call_original(patch, self, args, n, kwnames);
    while (status == 0) {
        EgTask *me = eg_wait_begin();
        if (!me || eg_waiters_join(me, self) < 0)
            return NULL;
        status = eg_wait_park(me, &lock_kind, self, deadline);
        eg_waiters_leave(self);
        if (status <= 0)
            break;
        bool handed = me->wait.value != NULL;
        Py_CLEAR(me->wait.value);
        status = handed ? 1 : lock_try(self);
    }
    return status < 0 ? NULL : PyBool_FromLong(status);
}

static PyObject *
lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_take(&lock_acquire_patch, self, args, n, kwnames);
}

static PyObject *
lock_acquire_lock(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_take(&lock_acquire_lock_patch, self, args, n, kwnames);
}

static PyObject *
lock_enter(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_take(&lock_enter_patch, self, args, n, kwnames);
}

static PyObject *
lock_drop(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
          PyObject *kwnames)
{
    /* Nobody waits: the usual case. */
    EgQueue *waiters = EG_UNLIKELY(eg_waiters_count != 0) ? eg_waiters_of(self) : NULL;
    if (!waiters)
        return lock_let_go(patch, self, args, n, kwnames);
    int free_now = lock_try(self); /* released twice, or by C code: then it is not ours to give */
    if (free_now < 0)
        return NULL;
    if (free_now) {
        PyObject *result = lock_unlock(self);
        Py_XDECREF(result);
        eg_queue_wake(waiters, NULL);
        return result ? eg_patch_call_original(patch, self, args, n, kwnames) : NULL;
    }
    if (lock_hand_over(self))
        Py_RETURN_NONE;
    PyObject *result = lock_let_go(patch, self, args, n, kwnames);
    lock_tell(self);
    return result;
}

PyObject *
eg_patch_lock_release(PyObject *lock)
{
    return lock_drop(&lock_release_patch, lock, NULL, 0, NULL);
}

static PyObject *
lock_release(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_drop(&lock_release_patch, self, args, n, kwnames);
}

static PyObject *
lock_release_lock(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_drop(&lock_release_lock_patch, self, args, n, kwnames);
}

static PyObject *
lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_drop(&lock_exit_patch, self, args, n, kwnames);
}

/* Who asks again and again waits for another task to take or release it. */
static PyObject *
lock_ask(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
         PyObject *kwnames)
{
    return eg_patch_poll() < 0 ? NULL : eg_patch_call_original(patch, self, args, n, kwnames);
}

static PyObject *
lock_locked(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_ask(&lock_locked_patch, self, args, n, kwnames);
}

static PyObject *
lock_locked_lock(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_ask(&lock_locked_lock_patch, self, args, n, kwnames);
}

static PyObject *
rlock_locked(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return lock_ask(&rlock_locked_patch, self, args, n, kwnames);
}

/* ---- RLock: the native structure ----------------------------------------------- */
#if PY_VERSION_HEX >= 0x030e0000
typedef struct {
    PyObject_HEAD
    PyMutex mutex;
    unsigned long long owner;
    size_t level; /* acquisitions beyond the first */
} EgRLock;

static bool
rlock_lock(EgRLock *self)
{
    if (PyMutex_IsLocked(&self->mutex))
        return false;
    PyMutex_Lock(&self->mutex); /* the GIL is held: nobody came between */
    return true;
}

static void
rlock_unlock(EgRLock *self)
{
    PyMutex_Unlock(&self->mutex);
}

static unsigned long
rlock_count(const EgRLock *self)
{
    return self->owner ? (unsigned long)self->level + 1 : 0;
}

static void
rlock_set(EgRLock *self, unsigned long owner, unsigned long count)
{
    self->owner = count ? owner : 0;
    self->level = count ? count - 1 : 0;
}
#else
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner;
    unsigned long count;
} EgRLock;

static bool
rlock_lock(EgRLock *self)
{
    return PyThread_acquire_lock(self->lock, 0) != 0;
}

static void
rlock_unlock(EgRLock *self)
{
    PyThread_release_lock(self->lock);
}

static unsigned long
rlock_count(const EgRLock *self)
{
    return self->count;
}

static void
rlock_set(EgRLock *self, unsigned long owner, unsigned long count)
{
    self->owner = count ? owner : 0;
    self->count = count;
}
#endif

static bool
rlock_is_mine(const EgRLock *self)
{
    return rlock_count(self) && self->owner == eg_thread_ident();
}

/* ---- RLock --------------------------------------------------------------------- */
/* Somebody else's turn; the lock is locked, and belongs to nobody while it is handed over. */
static void
rlock_pass_on(EgRLock *self)
{
    rlock_set(self, 0, 0);
    if (!lock_hand_over((PyObject *)self)) {
        rlock_unlock(self);
        lock_tell((PyObject *)self);
    }
}

static void
rlock_give_back(EgTask *task)
{
    PyObject *self = task->wait.object;
    bool handed = task->wait.value != NULL;
    Py_CLEAR(task->wait.value);
    if (handed)
        rlock_pass_on((EgRLock *)self);
    else
        lock_tell(self);
}

static const EgWaitKind rlock_kind = {"rlock", rlock_give_back};

/* Have it, count times, waiting until the deadline. 1: have it; 0: not in time; -1: exception. */
static int
rlock_take(EgRLock *self, unsigned long count, uint64_t deadline)
{
    if (rlock_is_mine(self)) {
        rlock_set(self, eg_thread_ident(), rlock_count(self) + count);
        return 1;
    }
    int status = rlock_lock(self);
    while (status == 0) {
        EgTask *me = eg_wait_begin();
        if (!me || eg_waiters_join(me, (PyObject *)self) < 0)
            return -1;
        status = eg_wait_park(me, &rlock_kind, (PyObject *)self, deadline);
        eg_waiters_leave((PyObject *)self);
        if (status <= 0)
            return status;
        bool handed = me->wait.value != NULL;
        Py_CLEAR(me->wait.value);
        status = handed || rlock_lock(self);
    }
    rlock_set(self, eg_thread_ident(), count);
    return 1;
}

static PyObject *
rlock_acquire_by(const EgPatch *patch, PyObject *op, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames)
{
    EgRLock *self = (EgRLock *)op;
    uint64_t deadline;
    if (!lock_has_queue())
        return eg_patch_call_original(patch, op, args, n, kwnames);
    if (eg_patch_poll() < 0)
        return NULL;
    if (lock_may_wait(args, n, kwnames, &deadline)) {
        int status = rlock_take(self, 1, deadline);
        return status < 0 ? NULL : PyBool_FromLong(status);
    }
    /* It may not wait. Have the native one check the arguments on a lock that nobody has. */
    PyObject *checked = NULL, *spare = PyObject_CallNoArgs((PyObject *)patch->type);
    if (spare)
        checked = eg_patch_call_original(patch, spare, args, n, kwnames);
    if (checked)
        rlock_unlock((EgRLock *)spare), rlock_set((EgRLock *)spare, 0, 0);
    Py_XDECREF(spare);
    if (!checked)
        return NULL;
    Py_DECREF(checked);
    bool taken = rlock_is_mine(self);
    if (taken)
        rlock_set(self, eg_thread_ident(), rlock_count(self) + 1);
    else if ((taken = rlock_lock(self)))
        rlock_set(self, eg_thread_ident(), 1);
    return PyBool_FromLong(taken);
}

static PyObject *
rlock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return rlock_acquire_by(&rlock_acquire_patch, self, args, n, kwnames);
}

static PyObject *
rlock_enter(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return rlock_acquire_by(&rlock_enter_patch, self, args, n, kwnames);
}

static PyObject *
rlock_release_by(const EgPatch *patch, PyObject *op, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames)
{
    EgRLock *self = (EgRLock *)op;
    /* Unpatched, one that was taken natively is the native thread's. */
    if (!lock_has_queue() || (!patch->applied && !rlock_is_mine(self))) {
        PyObject *result = eg_patch_call_original(patch, op, args, n, kwnames);
        if (result && !rlock_count(self))
            lock_tell(op);
        return result;
    }
    if (!rlock_is_mine(self)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    unsigned long count = rlock_count(self) - 1;
    if (count)
        rlock_set(self, eg_thread_ident(), count);
    else
        rlock_pass_on(self);
    Py_RETURN_NONE;
}

static PyObject *
rlock_release(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return rlock_release_by(&rlock_release_patch, self, args, n, kwnames);
}

static PyObject *
rlock_exit(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return rlock_release_by(&rlock_exit_patch, self, args, n, kwnames);
}

static PyObject *
rlock_is_owned(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates())
        return eg_patch_call_original(&rlock_is_owned_patch, self, args, n, kwnames);
    return PyBool_FromLong(rlock_is_mine((EgRLock *)self));
}

static PyObject *
rlock_recursion_count(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_hub_cooperates())
        return eg_patch_call_original(&rlock_recursion_count_patch, self, args, n, kwnames);
    return PyLong_FromUnsignedLong(rlock_is_mine((EgRLock *)self) ? rlock_count((EgRLock *)self)
                                                                  : 0);
}

/* _release_save() -> (count, owner); what Condition.wait() calls before it sleeps */
static PyObject *
rlock_release_save(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgRLock *self = (EgRLock *)op;
    if (!lock_has_queue()) {
        PyObject *saved = eg_patch_call_original(&rlock_release_save_patch, op, args, n, kwnames);
        if (saved)
            lock_tell(op);
        return saved;
    }
    if (!rlock_count(self)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    PyObject *saved = Py_BuildValue("kk", rlock_count(self), (unsigned long)self->owner);
    if (saved)
        rlock_pass_on(self);
    return saved;
}

/* _acquire_restore((count, owner)) */
static PyObject *
rlock_acquire_restore(PyObject *op, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    EgRLock *self = (EgRLock *)op;
    unsigned long count, owner;
    PyObject *state = n ? args[0] : NULL;
    if (!lock_has_queue() || n != 1 || !PyTuple_Check(state))
        return eg_patch_call_original(&rlock_acquire_restore_patch, op, args, n, kwnames);
    if (!PyArg_ParseTuple(state, "kk", &count, &owner)) {
        PyErr_Clear(); /* the native one says it in its own words */
        return eg_patch_call_original(&rlock_acquire_restore_patch, op, args, n, kwnames);
    }
    int status = rlock_take(self, count, EG_FOREVER);
    if (status < 0)
        return NULL;
    rlock_set(self, owner, count);
    Py_RETURN_NONE;
}

EgPatch *const eg_patch_lock[] = {
    &lock_acquire_patch,       &lock_acquire_lock_patch,     &lock_enter_patch,
    &lock_release_patch,       &lock_release_lock_patch,     &lock_exit_patch,
    &rlock_acquire_patch,      &rlock_enter_patch,           &rlock_release_patch,
    &rlock_exit_patch,         &rlock_is_owned_patch,        &rlock_acquire_restore_patch,
    &rlock_release_save_patch, &rlock_recursion_count_patch, &lock_locked_patch,
    &lock_locked_lock_patch,   &rlock_locked_patch,          NULL};
