/* patch_input.c: input() at a terminal.
 *
 * At a terminal, input() has PyOS_ReadlineFunctionPointer read the line, without the GIL.  For the
 * length of a task's call ours stands there:
 *
 *     module readline is imported    what was there, which edits the line in its own loop: it waits
 *                                    in select(2) for a key, and reads that.  The loop's select()
 *                                    is ours: the entry of its library's table of imported
 *                                    functions (GOT) points here, and here the task parks.
 *     it is not                      a reader that does as the original does, and parks
 *
 * The terminal is opened a second time, for O_NONBLOCK belongs to whoever shares the first one:
 * ^C throws away what was typed, also between poll(2) and read(2), which then would block.
 *
 * Nothing can be raised in the middle of readline.  When the task is killed, readline is told
 * that its input has ended, after its state was put back as Python does it for a signal; so it
 * restores the terminal and returns, and input() raises what hit the task.
 *
 * Elsewhere than at a terminal input() reads from sys.stdin, which is patch_io.c's.
 */
#include "evergreen.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <unistd.h>

#define LINE 128 /* bytes: room to begin a line with */

typedef char *(*ReadLine)(FILE *, FILE *, const char *);

static EgTask *input_task;     /* borrowed: who is inside of input(); NULL: nobody */
static ReadLine input_beneath; /* what stood where ours stands; NULL: nothing yet */
static bool input_edits;       /* that is a library's, not Python's own */
static int input_fd = -1;      /* the terminal, non-blocking; or as it is, if that cannot be */
static bool input_owned;       /* it was opened here */
static PyObject *input_error;  /* strong: what hit the task meanwhile; NULL: nothing */

/* ---- waiting: called without the GIL, as readline is --------------------------------- */
static const EgWaitKind input_kind = {"input", NULL};

static bool
input_is_mine(void)
{
    return input_task && eg_hub_here && eg_hub_here->current == input_task
           && !eg_hub_here->forbidden;
}

/* The exception that is set ends the input, if nothing has. */
static void
input_failed(void)
{
    PyObject *exc = eg_task_take_exception(); /* ours */
    if (input_error)
        Py_DECREF(exc);
    else
        input_error = exc;
}

/* Park until a descriptor can be read: 1; 0: the deadline passed; -1: input_error is set. */
static int
input_wait(int fd, uint64_t deadline)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int status = 1, events = EG_READ;
    PyEval_RestoreThread(PyGILState_GetThisThreadState());
    if (input_error || eg_os_turn() < 0)
        status = -1;
    while (status > 0 && poll(&one, 1, 0) == 0) {
        EgTask *me = eg_wait_begin();
        status = me ? eg_fd_wait_many(me, 1, &fd, &events, &input_kind, deadline) : -1;
    }
    if (status < 0 && PyErr_Occurred())
        input_failed();
    PyEval_SaveThread();
    return status;
}

static void
input_open(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    input_owned = again >= 0;
    input_fd = input_owned ? again : fd;
}

static void
input_close(void)
{
    if (input_owned) {
        PyEval_RestoreThread(PyGILState_GetThisThreadState());
        eg_fd_closing(input_fd);
        PyEval_SaveThread();
        close(input_fd);
    }
    input_fd = -1;
    input_owned = false;
}

/* One byte: 1; 0: there is no more; -1: input_error is set. */
static int
input_byte(char *byte)
{
    for (;;) {
        if (input_error || (!input_owned && input_wait(input_fd, EG_FOREVER) < 0))
            return -1;
        ssize_t got = read(input_fd, byte, 1);
        if (got >= 0)
            return (int)got;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || !input_owned)
            return 0; /* the terminal is gone; or the program made it non-blocking: as the original */
        if (input_wait(input_fd, EG_FOREVER) < 0)
            return -1;
    }
}

/* ---- the library that edits lines ------------------------------------------------------ */
/* What is needed of it; found by name, since nobody links it but Python's module. */
static struct {
    int (**getc)(FILE *);
    int (*getc_before)(FILE *);
    int *end, *point;
    char **line;
    void (*free_line_state)(void);
    void (*sigcleanup)(void); /* NULL: it has none */
    void (*handler_remove)(void);
    bool aborted;
} rl;

/* Have what was typed of the line not be a line, now that its input ends. */
static void
input_drop_line(void)
{
    *rl.end = *rl.point = 0;
    (*rl.line)[0] = 0;
}

/* Stands for rl_getc(). */
static int
input_getc(FILE *stream)
{
    char byte;
    if (!input_is_mine())
        return rl.getc_before(stream);
    int got = input_byte(&byte);
    if (got < 0)
        input_drop_line();
    return got > 0 ? (unsigned char)byte : EOF;
}

/* Between two keys: have it leave its loop as at the end of its input. */
static void
input_abort(void)
{
    if (rl.aborted)
        return;
    rl.aborted = true;
    rl.free_line_state();
    if (rl.sigcleanup)
        rl.sigcleanup();
    input_drop_line();
}

/* Stands for select() in the loop that waits for a key. */
static int
input_select(int n, fd_set *readable, fd_set *writable, fd_set *exceptional,
             struct timeval *timeout)
{
    if (!input_is_mine() || n < 1 || !readable || writable || exceptional
        || !FD_ISSET(n - 1, readable))
        return select(n, readable, writable, exceptional, timeout);
    uint64_t deadline = EG_FOREVER;
    if (timeout) /* there is a PyOS_InputHook: it wants to be called now and then */
        deadline = eg_clock_after((double)timeout->tv_sec + 1e-6 * (double)timeout->tv_usec);
    int status = input_wait(input_fd, deadline);
    if (status < 0)
        input_abort();
    if (status == 0)
        FD_CLR(n - 1, readable);
    return status != 0;
}

/* At the interpreter's exit with a task in the middle of a line: the terminal is everybody's. */
static void
input_at_exit(void)
{
    if (input_task && input_edits && rl.handler_remove)
        rl.handler_remove();
}

/* ---- its table of imported functions ---------------------------------------------------- */
#if defined(__x86_64__)
#define IS_IMPORT(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#elif defined(__aarch64__)
#define IS_IMPORT(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#endif

#if defined(__linux__) && defined(IS_IMPORT)

typedef struct {
    const void *within; /* an address in the library */
    const char *name;
    void *function; /* what is to be called instead */
    int replaced;
} Import;

static bool
import_is_within(const struct dl_phdr_info *info, const void *address)
{
    uintptr_t offset = (uintptr_t)address - info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && offset >= info->dlpi_phdr[i].p_vaddr
            && offset - info->dlpi_phdr[i].p_vaddr < info->dlpi_phdr[i].p_memsz)
            return true;
    return false;
}

/* Entries that the loader has made read-only (RELRO) are so again afterwards. */
static bool
import_set(const struct dl_phdr_info *info, void **entry, void *function)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)entry;
    void *start = (void *)(at & ~(page - 1));
    bool sealed = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + header->p_vaddr;
        sealed |= header->p_type == PT_GNU_RELRO && at >= from && at - from < header->p_memsz;
    }
    if (sealed && mprotect(start, page, PROT_READ | PROT_WRITE) < 0)
        return false;
    __atomic_store_n(entry, function, __ATOMIC_RELEASE);
    if (sealed)
        mprotect(start, page, PROT_READ);
    return true;
}

static int
import_visit(struct dl_phdr_info *info, size_t size, void *arg)
{
    Import *import = arg;
    const ElfW(Dyn) *dynamic = NULL;
    const ElfW(Rela) * tables[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    (void)size;
    if (!import_is_within(info, import->within))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
        uintptr_t value = dynamic->d_un.d_ptr;
        uintptr_t address = value < info->dlpi_addr ? value + info->dlpi_addr : value;
        switch (dynamic->d_tag) {
        case DT_JMPREL:
            tables[0] = (const ElfW(Rela) *)address;
            break;
        case DT_PLTRELSZ:
            sizes[0] = value;
            break;
        case DT_RELA:
            tables[1] = (const ElfW(Rela) *)address;
            break;
        case DT_RELASZ:
            sizes[1] = value;
            break;
        case DT_SYMTAB:
            symbols = (const ElfW(Sym) *)address;
            break;
        case DT_STRTAB:
            names = (const char *)address;
            break;
        }
    }
    for (int t = 0; t < 2 && symbols && names; t++) {
        const ElfW(Rela) *entry = tables[t];
        for (size_t n = entry ? sizes[t] / sizeof *entry : 0; n > 0; n--, entry++) {
            if (!IS_IMPORT(ELF64_R_TYPE(entry->r_info))
                || strcmp(names + symbols[ELF64_R_SYM(entry->r_info)].st_name, import->name) != 0)
                continue;
            void **place = (void **)(info->dlpi_addr + entry->r_offset);
            import->replaced += import_set(info, place, import->function);
        }
    }
    return 1;
}

static bool
import_replace(const void *within, const char *name, void *function)
{
    Import import = {within, name, function, 0};
    dl_iterate_phdr(import_visit, &import);
    return import.replaced > 0;
}

#else

static bool
import_replace(const void *within, const char *name, void *function)
{
    (void)within, (void)name, (void)function;
    return false;
}

#endif

/* Have the library's loop wait here: once for each, and for good. False: it cannot be. */
static bool
input_take_over(ReadLine library)
{
    static ReadLine known;
    static bool possible;
    Dl_info info;
    if (library == known)
        return possible;
    known = library;
    possible = false;
    void *handle =
        dladdr((void *)library, &info) ? dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_LAZY) : NULL;
    if (!handle)
        return false;
    *(void **)&rl.getc = dlsym(handle, "rl_getc_function");
    *(void **)&rl.end = dlsym(handle, "rl_end");
    *(void **)&rl.point = dlsym(handle, "rl_point");
    *(void **)&rl.line = dlsym(handle, "rl_line_buffer");
    *(void **)&rl.free_line_state = dlsym(handle, "rl_free_line_state");
    *(void **)&rl.sigcleanup = dlsym(handle, "rl_callback_sigcleanup");
    *(void **)&rl.handler_remove = dlsym(handle, "rl_callback_handler_remove");
    dlclose(handle); /* the interpreter holds it */
    possible = rl.getc && rl.end && rl.point && rl.line && rl.free_line_state && rl.handler_remove
               && import_replace((void *)library, "select", (void *)input_select);
    static bool at_exit;
    if (possible && !at_exit)
        at_exit = Py_AtExit(input_at_exit) == 0;
    return possible;
}

/* ---- without such a library --------------------------------------------------------------- */
static int
input_next(int fd, char *byte)
{
    ssize_t got;
    if (input_is_mine())
        return input_byte(byte);
    do
        got = read(fd, byte, 1);
    while (got < 0 && errno == EINTR); /* signals are for another thread */
    return got > 0;
}

/* As PyOS_StdioReadline() in CPython's Parser/myreadline.c: new, by PyMem_RawMalloc(); empty at the
 * end; NULL: input_error is set. Byte by byte, since what is read ahead would be lost. */
static char *
input_line(FILE *in, FILE *out, const char *prompt)
{
    size_t n = 0, size = LINE;
    int got = 1;
    char *line = PyMem_RawMalloc(size);
    fflush(out);
    if (prompt)
        fprintf(stderr, "%s", prompt);
    fflush(stderr);
    if (PyOS_InputHook)
        PyOS_InputHook();
    while (line && got > 0) {
        if (n + 1 == size) {
            char *more = PyMem_RawRealloc(line, size *= 2);
            if (!more)
                PyMem_RawFree(line);
            if (!(line = more))
                break;
        }
        got = input_next(fileno(in), line + n);
        n += got > 0;
        if (got > 0 && line[n - 1] == '\n')
            break;
    }
    if (line && got < 0) {
        PyMem_RawFree(line);
        return NULL;
    }
    if (line)
        line[n] = 0;
    return line;
}

/* ---- what stands in PyOS_ReadlineFunctionPointer -------------------------------------------- */
static char *
input_readline(FILE *in, FILE *out, const char *prompt)
{
    char *line;
    if (!input_is_mine())
        return input_beneath ? input_beneath(in, out, prompt) : input_line(in, out, prompt);
    input_open(fileno(in));
    if (!input_edits)
        line = input_line(in, out, prompt);
    else if (!input_take_over(input_beneath))
        line = input_beneath(in, out, prompt); /* it blocks */
    else {
        rl.aborted = false;
        rl.getc_before = *rl.getc;
        *rl.getc = input_getc;
        line = input_beneath(in, out, prompt);
        if (*rl.getc == input_getc)
            *rl.getc = rl.getc_before;
    }
    input_close();
    if (input_error) {
        PyMem_RawFree(line);
        line = NULL;
    }
    return line;
}

/* Whether what reads lines is not Python's own PyOS_StdioReadline(), which has no name that one
 * could ask for. -1: exception. */
static int
input_is_library(ReadLine function)
{
    Dl_info python, its;
    if (!function)
        return 0;
    if (!dladdr((void *)Py_IsInitialized, &python) || !dladdr((void *)function, &its)
        || python.dli_fbase != its.dli_fbase)
        return 1;
    PyObject *name = PyUnicode_FromString("readline"); /* it may be part of the interpreter */
    PyObject *module = name ? PyImport_GetModule(name) : NULL;
    int library = module ? 1 : PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(module);
    Py_XDECREF(name);
    return library;
}

/* ---- input() ------------------------------------------------------------------------------- */
EG_PATCH(input_input, "builtins", "input", "os");

static PyObject *
input_call(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    int library = input_is_library(PyOS_ReadlineFunctionPointer);
    if (library < 0)
        return NULL;
    input_edits = library;
    input_beneath = PyOS_ReadlineFunctionPointer;
    input_task = eg_hub_here->current;
    PyOS_ReadlineFunctionPointer = input_readline;
    PyObject *result = eg_patch_call_original(&input_input_patch, self, args, n, kwnames);
    if (PyOS_ReadlineFunctionPointer == input_readline) /* else readline was imported meanwhile */
        PyOS_ReadlineFunctionPointer = input_beneath;
    input_task = NULL;
    PyObject *error = input_error; /* ours now */
    input_error = NULL;
    if (error) {
        Py_CLEAR(result);
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return result;
}

static PyObject *
input_input(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_os_may_wait() || input_is_mine()) /* within a completion, say: it is refused */
        return eg_patch_call_original(&input_input_patch, self, args, n, kwnames);
    EgVisit *visit = eg_visit_begin(self); /* one at a time */
    if (!visit)
        return NULL;
    PyObject *result = input_call(self, args, n, kwnames);
    eg_visit_end(visit, self);
    return result;
}

void
eg_input_after_fork(void)
{
    if (!input_task || input_is_mine())
        return;
    if (PyOS_ReadlineFunctionPointer == input_readline)
        PyOS_ReadlineFunctionPointer = input_beneath;
    input_task = NULL; /* the parent's */
}

EgPatch *const eg_patch_input[] = {&input_input_patch, NULL};
