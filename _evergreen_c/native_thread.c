/* native_thread.c: the threads of the process: how many are not ours, and which signals they receive.
 *
 * A thread may wake a task although Python does not know it: a library in C made it, and it has no
 * thread state before it calls back. So it is the system's threads that are counted, less our own:
 * those of the lanes (work.c), and those of Python that count_pool_thread() was called in. The
 * watchdog of faulthandler wakes nobody either: its function is swapped, to know which one it is.
 */
#include "evergreen.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS "/proc/self/task"

/* ---- how many there are --------------------------------------------------------------- */
/* Threads of the process. One system call: the links of the directory count its folders, of which
 * there is one a thread. Where there is no such directory: the threads that Python knows. */
static Py_ssize_t
thread_count_all(void)
{
    struct stat status;
    if (stat(THREADS, &status) == 0 && status.st_nlink > 2)
        return (Py_ssize_t)status.st_nlink - 2;
    Py_ssize_t n = 0;
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; thread; thread = PyThreadState_Next(thread))
        n++;
    return n + eg_work_threads();
}

/* ---- the watchdog ------------------------------------------------------------------------ */
EG_PATCH(thread_dump_later, "faulthandler", "dump_traceback_later", "faulthandler");

static long thread_watchdog; /* the system's number of it; 0: none */

static bool
thread_watchdog_lives(void)
{
    char path[64];
    snprintf(path, sizeof path, THREADS "/%ld", thread_watchdog);
    return thread_watchdog && access(path, F_OK) == 0;
}

static bool
thread_is_among(long number, const long *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (numbers[i] == number)
            return true;
    return false;
}

/* The numbers of up to *size* threads; how many. */
static size_t
thread_list(long *numbers, size_t size)
{
    size_t n = 0;
    DIR *folder = opendir(THREADS);
    for (struct dirent *entry; folder && n < size && (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            numbers[n++] = atol(entry->d_name);
    if (folder)
        closedir(folder);
    return n;
}

static PyObject *
thread_dump_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    long before[256], after[256];
    size_t nbefore = thread_list(before, 256);
    PyObject *result = eg_patch_call_original(&thread_dump_later_patch, self, args, n, kwnames);
    size_t nafter = result && nbefore < 256 ? thread_list(after, 256) : 0;
    for (size_t i = 0; i < nafter; i++)
        if (!thread_is_among(after[i], before, nbefore))
            thread_watchdog = after[i];
    return result;
}

bool
eg_native_thread_others(void)
{
    /* Ours first: one that ends meanwhile may be taken for another's, and not the other way. */
    Py_ssize_t ours = eg_state->pool_threads - eg_pool_thread + eg_work_threads();
    Py_ssize_t others = thread_count_all() - 1 - ours;
    return others > 0 && others > thread_watchdog_lives();
}

/* ---- signals ----------------------------------------------------------------------------- */
/* Bit n - 1 of a mask stands for signal n. */
static uint64_t
mask_of_set(const sigset_t *set)
{
    uint64_t mask = 0;
    for (int number = 1; number <= 64; number++)
        if (sigismember(set, number) == 1)
            mask |= UINT64_C(1) << (number - 1);
    return mask;
}

static void
mask_to_set(uint64_t mask, sigset_t *set)
{
    sigemptyset(set);
    for (int number = 1; number <= 64; number++)
        if (mask >> (number - 1) & 1)
            sigaddset(set, number); /* it refuses the C library's own */
}

/* All but those that a fault raises in the very thread: faulthandler wants them. */
static uint64_t
mask_all(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&set, faults[i]);
    return mask_of_set(&set);
}

const char eg_native_thread_signal_mask_doc[] =
    "signal_mask($module, mask=None, /)\n"
    "--\n"
    "\n"
    "Return which signals this thread blocks, and block those of mask instead.\n"
    "\n"
    "A mask is an int: bit n - 1 stands for signal n. No handler runs in the call.";

PyObject *
eg_native_thread_signal_mask(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    sigset_t set, before;
    bool given = n && args[0] != Py_None;
    (void)module;
    if (n > 1)
        return PyErr_Format(PyExc_TypeError, "signal_mask() takes at most 1 argument (%zd given)",
                            n);
    if (given) {
        uint64_t mask = PyLong_AsUnsignedLongLong(args[0]);
        if (PyErr_Occurred())
            return NULL;
        mask_to_set(mask, &set);
    }
    pthread_sigmask(SIG_SETMASK, given ? &set : NULL, &before);
    return PyLong_FromUnsignedLongLong(mask_of_set(&before));
}

int
eg_native_thread_setup(PyObject *module)
{
    PyObject *all = PyLong_FromUnsignedLongLong(mask_all());
    int status = all ? PyModule_AddObjectRef(module, "SIGNAL_MASK_ALL", all) : -1;
    Py_XDECREF(all);
    return status < 0 || eg_patch_apply(&thread_dump_later_patch, true) < 0 ? -1 : 0;
}
