/* patch.c: method tables of the standard library's C modules, swapped in place.
 *
 * A builtin function and a method descriptor both point at a PyMethodDef and call its
 * ml_meth.  Replacing that pointer reaches every reference there is, whatever was imported
 * first, and leaves types, pickles and subclasses alone; putting it back unpatches.
 *
 * A builtin function's hash is made of that pointer, too, so it is replaced by one that keeps the
 * hash: sets and dicts of functions, such as os.supports_dir_fd, go on finding it.
 *
 * The interpreter has fixed the calling convention when it made the function object, so a
 * replacement must be entered in the original's: EG_PATCH makes a door for each.
 */
#include "evergreen.h"

/* ---- conventions --------------------------------------------------------- */
#define CONVENTION \
    (METH_VARARGS | METH_KEYWORDS | METH_NOARGS | METH_O | METH_FASTCALL | METH_METHOD)

static PyCFunction
patch_door(const EgPatch *patch, int flags)
{
    switch (flags & CONVENTION) {
    case METH_NOARGS:
        return patch->doors[EG_DOOR_NOARGS];
    case METH_O:
        return patch->doors[EG_DOOR_O];
    case METH_VARARGS:
        return patch->doors[EG_DOOR_TUPLE];
    case METH_VARARGS | METH_KEYWORDS:
        return patch->doors[EG_DOOR_DICT];
    case METH_FASTCALL:
        return patch->doors[EG_DOOR_FAST];
    case METH_FASTCALL | METH_KEYWORDS:
        return EG_METHOD(patch->body);
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
        return patch->doors[EG_DOOR_METHOD];
    default:
        return NULL;
    }
}

PyObject *
eg_patch_call_dict(EgPatchBody body, PyObject *self, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t n = PyTuple_GET_SIZE(args), nkw = kwargs ? PyDict_GET_SIZE(kwargs) : 0;
    if (nkw == 0)
        return body(self, &PyTuple_GET_ITEM(args, 0), n, NULL);
    PyObject *result = NULL, *kwnames = PyTuple_New(nkw), *key, *value;
    PyObject **flat = PyMem_New(PyObject *, n + nkw);
    if (!kwnames || !flat) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        flat[i] = PyTuple_GET_ITEM(args, i); /* borrowed from args */
    Py_ssize_t pos = 0, i = 0;
    while (PyDict_Next(kwargs, &pos, &key, &value)) {
        PyTuple_SET_ITEM(kwnames, i, Py_NewRef(key));
        flat[n + i++] = value; /* borrowed from kwargs */
    }
    result = body(self, flat, n, kwnames);
done:
    PyMem_Free(flat);
    Py_XDECREF(kwnames);
    return result;
}

static PyObject *
patch_tuple(PyObject *const *args, Py_ssize_t n)
{
    PyObject *tuple = PyTuple_New(n);
    for (Py_ssize_t i = 0; tuple && i < n; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    return tuple;
}

/* The class that self has the method from: another one than was patched, with the same table, if
 * its module was imported twice. Classes made in Python have no table. */
static PyTypeObject *
patch_class(const EgPatch *patch, PyObject *self)
{
    if (!patch->type || PyObject_TypeCheck(self, patch->type))
        return patch->type;
    PyTypeObject *cls = Py_TYPE(self);
    while (cls->tp_base && !cls->tp_methods)
        cls = cls->tp_base;
    return cls;
}

PyObject *
eg_patch_call_original(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
                       PyObject *kwnames)
{
    void (*fn)(void) = (void (*)(void))patch->original;
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    int convention = patch->def->ml_flags & CONVENTION;
    if (nkw && !(convention & METH_KEYWORDS))
        return PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", patch->name);
    switch (convention) {
    case METH_NOARGS:
    case METH_O:
        if (n != (convention == METH_O))
            return PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", patch->name,
                                convention == METH_O ? "exactly one argument" : "no arguments", n);
        return patch->original(self, n ? args[0] : NULL);
    case METH_FASTCALL:
        return ((PyObject * (*)(PyObject *, PyObject *const *, Py_ssize_t)) fn)(self, args, n);
    case METH_FASTCALL | METH_KEYWORDS:
        return ((EgPatchBody)fn)(self, args, n, kwnames);
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
        return ((PyObject * (*)(PyObject *, PyTypeObject *, PyObject *const *, size_t, PyObject *))
                    fn)(self, patch_class(patch, self), args, (size_t)n, kwnames);
    }
    PyObject *tuple = patch_tuple(args, n), *dict = NULL, *result = NULL;
    if (!tuple)
        goto done;
    if (convention == METH_VARARGS) {
        result = patch->original(self, tuple);
        goto done;
    }
    if (nkw && !(dict = PyDict_New()))
        goto done;
    for (Py_ssize_t i = 0; i < nkw; i++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), args[n + i]) < 0)
            goto done;
    result = ((PyCFunctionWithKeywords)fn)(self, tuple, dict);
done:
    Py_XDECREF(dict);
    Py_XDECREF(tuple);
    return result;
}

/* The errno of the OSError that is set; 0: it is something else. */
int
eg_patch_errno(void)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return 0;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *number = PyObject_GetAttrString(value, "errno");
    long code = number && PyLong_Check(number) ? PyLong_AsLong(number) : 0;
    Py_XDECREF(number);
    PyErr_Restore(type, value, traceback);
    return (int)code;
}

/* ---- finding and swapping ------------------------------------------------ */
static EgPatch *const *const patch_tables[] = {eg_patch_time,    eg_patch_socket,
                                               eg_patch_select,  eg_patch_thread,
                                               eg_patch_lock,    eg_patch_queue,
                                               eg_patch_os,      eg_patch_io,
                                               eg_patch_ssl,     eg_patch_multiprocessing,
                                               eg_patch_asyncio, eg_patch_signal,
                                               eg_patch_file,    eg_patch_input,
                                               eg_patch_sqlite,  eg_patch_hashlib,
                                               eg_patch_trace,   NULL};

/* The object that owner names, a new reference: a module, a type in one, or, with () at the end,
 * the type of what calling such a thing gives (select.poll is a function, and its type has no
 * name anywhere). */
static PyObject *
patch_owner(const char *owner)
{
    const char *dot = strchr(owner, '.');
    if (!dot)
        return PyImport_ImportModule(owner);
    PyObject *name = PyUnicode_FromStringAndSize(owner, dot - owner);
    PyObject *module = name ? PyImport_Import(name) : NULL;
    size_t length = strlen(dot + 1);
    bool call = length > 2 && strcmp(dot + 1 + length - 2, "()") == 0;
    PyObject *attribute =
        PyUnicode_FromStringAndSize(dot + 1, (Py_ssize_t)(length - (call ? 2 : 0)));
    PyObject *found = module && attribute ? PyObject_GetAttr(module, attribute) : NULL;
    if (found && call)
        Py_SETREF(found, PyObject_CallNoArgs(found));
    if (found && call)
        Py_SETREF(found, Py_NewRef(Py_TYPE(found)));
    Py_XDECREF(attribute);
    Py_XDECREF(module);
    Py_XDECREF(name);
    return found;
}

/* Find the method table's entry; 0: this Python has no such function. */
static int
patch_find(EgPatch *patch)
{
    int found = -1;
    PyObject *function = NULL, *owner = patch_owner(patch->owner);
    /* Interned, since a type's method cache keeps the names that it was asked for. */
    PyObject *name = owner ? PyUnicode_InternFromString(patch->name) : NULL;
    if (name)
        function = PyObject_GetAttr(owner, name);
    Py_XDECREF(name);
    if (!function) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)
            || PyErr_ExceptionMatches(PyExc_ImportError)) {
            PyErr_Clear();
            found = 0;
        }
        goto done;
    }
    if (PyCFunction_Check(function))
        patch->def = ((PyCFunctionObject *)function)->m_ml;
    else if (Py_IS_TYPE(function, &PyMethodDescr_Type)) {
        patch->def = ((PyMethodDescrObject *)function)->d_method;
        patch->type = (PyTypeObject *)Py_NewRef(PyDescr_TYPE(function));
    } else {
        found = 0; /* somebody else has put a Python function there */
        goto done;
    }
    patch->original = patch->def->ml_meth;
    found = 1;
done:
    Py_XDECREF(function);
    Py_XDECREF(owner);
    return found;
}

/* A callable like the one that stands there, whose table entry is of its own. *kept has it from
 * then on; NULL: exception. */
static PyObject *
patch_callable(const EgPatch *patch, PyObject **kept, PyCFunction meth)
{
    if (*kept)
        return Py_NewRef(*kept);
    PyMethodDef *def = PyMem_Malloc(sizeof *def); /* lives as long as the process */
    if (!def)
        return PyErr_NoMemory();
    *def = *patch->def;
    def->ml_meth = meth;
    if (patch->type)
        *kept = PyDescr_NewMethod(patch->type, def);
    else {
        PyObject *owner = patch_owner(patch->owner);
        PyObject *name = owner ? PyObject_GetAttrString(owner, "__name__") : NULL;
        if (name)
            *kept = PyCFunction_NewEx(def, owner, name);
        Py_XDECREF(name);
        Py_XDECREF(owner);
    }
    return Py_XNewRef(*kept);
}

/* The table entry of the native one, which is never swapped; NULL: exception. */
static PyMethodDef *
patch_native_def(EgPatch *patch)
{
    PyObject *native = patch_callable(patch, &patch->native, patch->original);
    if (!native)
        return NULL;
    PyMethodDef *def = PyCFunction_Check(native) ? ((PyCFunctionObject *)native)->m_ml
                                                 : ((PyMethodDescrObject *)native)->d_method;
    Py_DECREF(native); /* the patch holds it */
    return def;
}

/* ---- in a native thread -------------------------------------------------------------- */
/* Call the original in a native thread, with the task parked meanwhile.  *how* is the policy's
 * function that does it. */
PyObject *
eg_patch_offload(const char *how, const EgPatch *patch, PyObject *self, PyObject *const *args,
                 Py_ssize_t n, PyObject *kwnames)
{
    PyObject *result = NULL, *positional = NULL, *kwargs = NULL, *function = NULL;
    PyTypeObject *type = patch->def->ml_flags & METH_METHOD ? patch->type : NULL;
    PyMethodDef *def = patch_native_def((EgPatch *)patch); /* const for everybody else */
    if (!def || !(function = PyCMethod_New(def, self, NULL, type)) || !(positional = PyTuple_New(n))
        || !(kwargs = PyDict_New()))
        goto done;
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(kwnames, i), args[n + i]) < 0)
            goto done;
    result = eg_policy_call(how, (PyObject *[]){function, positional, kwargs}, 3);
done:
    Py_XDECREF(kwargs);
    Py_XDECREF(positional);
    Py_XDECREF(function);
    return result;
}

/* The entry of owner.name; NULL: exception. */
static EgPatch *
patch_entry(const char *what, PyObject *const *args, Py_ssize_t n, Py_ssize_t wanted)
{
    if (n != wanted) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", what, wanted, n);
        return NULL;
    }
    const char *owner = PyUnicode_AsUTF8(args[0]);
    const char *name = owner ? PyUnicode_AsUTF8(args[1]) : NULL;
    if (!name)
        return NULL;
    for (EgPatch *const *const *table = patch_tables; *table; table++) {
        for (EgPatch *const *entry = *table; *entry; entry++) {
            EgPatch *patch = *entry;
            if (strcmp(patch->owner, owner) == 0 && strcmp(patch->name, name) == 0)
                return patch;
        }
    }
    PyErr_Format(PyExc_LookupError, "no patch for %s.%s", owner, name);
    return NULL;
}

/* The same, found; NULL: this Python has none, or an exception is set. */
static EgPatch *
patch_lookup(const char *what, PyObject *const *args, Py_ssize_t n, Py_ssize_t wanted)
{
    EgPatch *patch = patch_entry(what, args, n, wanted);
    return patch && (patch->def || patch_find(patch) > 0) ? patch : NULL;
}

/* ---- polling -------------------------------------------------------------------------- */
#define INTERVAL 25 /* slices: 5 ms, as sys.getswitchinterval() has it */

unsigned eg_patch_polls;

int
eg_patch_give_way(void)
{
    EgHub *hub = eg_hub_here;
    eg_patch_polls = 0;
    if (!eg_hub_cooperates()
        || eg_clock_ticks() < hub->slice_end + (INTERVAL - 1) * hub->slice_ticks
        || !eg_os_may_wait())
        return 0;
    return eg_wait_give_way();
}

/* patch_poll() -> False */
PyObject *
eg_patch_poll_method(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (eg_patch_poll() < 0)
        return NULL;
    Py_RETURN_FALSE;
}

/* ---- hashes ------------------------------------------------------------------ */
#define PLACES 2048                   /* many times as many as there are patches */
static const EgPatch *placed[PLACES]; /* by the address of their table entry */
static hashfunc function_hash_native;

/* Where the patch of a table entry is, or would be. */
static const EgPatch **
patch_place(const PyMethodDef *def)
{
    size_t at = (size_t)((uintptr_t)def * UINT64_C(0x9E3779B97F4A7C15) >> 32) % PLACES;
    while (placed[at] && placed[at]->def != def)
        at = (at + 1) % PLACES;
    return &placed[at];
}

/* As if nothing were patched. */
static Py_hash_t
function_hash(PyObject *op)
{
    PyCFunctionObject view = *(PyCFunctionObject *)op;
    const EgPatch *patch = *patch_place(view.m_ml);
    if (!patch)
        return function_hash_native(op);
    PyMethodDef def = *view.m_ml;
    def.ml_meth = patch->original;
    view.m_ml = &def;
    return function_hash_native((PyObject *)&view);
}

static int
function_hash_follow(void)
{
    PyTypeObject *types[] = {&PyCFunction_Type, &PyCMethod_Type};
    if (function_hash_native)
        return 0;
    PyObject *wrapper = PyObject_GetAttrString((PyObject *)types[0], "__hash__");
    if (!wrapper)
        return -1;
    function_hash_native = types[0]->tp_hash;
    if (Py_IS_TYPE(wrapper, &PyWrapperDescr_Type))
        ((PyWrapperDescrObject *)wrapper)->d_wrapped = (void *)function_hash;
    Py_DECREF(wrapper);
    for (int i = 0; i < 2; i++)
        if (types[i]->tp_hash == function_hash_native)
            types[i]->tp_hash = function_hash;
    return 0;
}

/* ---- swapping --------------------------------------------------------------------------- */
unsigned eg_patch_generation;
bool eg_patch_lingers;

void
eg_patch_settle(void)
{
    eg_patch_lingers = false;
    for (EgPatch *const *const *table = patch_tables; *table; table++)
        for (EgPatch *const *entry = *table; *entry; entry++)
            if ((*entry)->wakes && (*entry)->def && !(*entry)->applied)
                (*entry)->def->ml_meth = (*entry)->original;
}

int
eg_patch_apply(EgPatch *patch, bool on)
{
    int found = patch->def ? 1 : patch_find(patch);
    PyCFunction door = found > 0 ? patch_door(patch, patch->def->ml_flags) : NULL;
    if (!door)
        return found < 0 ? -1 : 0;
    if (function_hash_follow() < 0)
        return -1;
    *patch_place(patch->def) = patch;
    if (patch->applied && !on)
        eg_patch_generation++;
    if (!on && patch->wakes && eg_waiters_count)
        eg_patch_lingers = true;
    else
        patch->def->ml_meth = on ? door : patch->original;
    patch->applied = on;
    return 1;
}

void
eg_patch_end(void)
{
    for (size_t i = 0; i < PLACES; i++)
        if (placed[i])
            placed[i]->def->ml_meth = placed[i]->original;
}

int
eg_patch_slot(PyTypeObject *type, size_t slot, void (*native)(void), void (*ours)(void))
{
    void (**place)(void) = (void (**)(void))((char *)type + slot);
    if (*place == native)
        *place = ours;
    PyObject *below = PyObject_CallMethod((PyObject *)type, "__subclasses__", NULL);
    int status = below ? 0 : -1;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(below); i++)
        status = eg_patch_slot((PyTypeObject *)PyList_GET_ITEM(below, i), slot, native, ours);
    Py_XDECREF(below);
    return status;
}

/* ---- modules that are dear to import: patched when the program does --------------------- */
static const char *const patch_dear[] = {"_ssl",     "_asyncio", "_multiprocessing",
                                         "_sqlite3", "_hashlib", NULL};

static bool
patch_is_of(const EgPatch *patch, const char *module)
{
    size_t length = strlen(module);
    return strncmp(patch->owner, module, length) == 0
           && (patch->owner[length] == '.' || patch->owner[length] == 0);
}

/* Whether its module is one of those, and not imported. */
static bool
patch_can_wait(const EgPatch *patch)
{
    for (const char *const *dear = patch_dear; *dear; dear++) {
        if (!patch_is_of(patch, *dear))
            continue;
        PyObject *name = PyUnicode_FromString(*dear);
        PyObject *module = name ? PyImport_GetModule(name) : NULL;
        bool absent = !module && !PyErr_Occurred();
        Py_XDECREF(module);
        Py_XDECREF(name);
        return absent;
    }
    return false;
}

/* What the import system calls last for a module in C. */
EG_PATCH(import_exec_dynamic, "_imp", "exec_dynamic", "import");
EG_PATCH(import_exec_builtin, "_imp", "exec_builtin", "import");

static PyObject *
import_exec(const EgPatch *patch, PyObject *self, PyObject *const *args, Py_ssize_t n,
            PyObject *kwnames)
{
    PyObject *result = eg_patch_call_original(patch, self, args, n, kwnames);
    const char *name =
        result && n == 1 && PyModule_Check(args[0]) ? PyModule_GetName(args[0]) : NULL;
    if (result && !name)
        PyErr_Clear();
    for (EgPatch *const *const *table = patch_tables; name && *table; table++) {
        for (EgPatch *const *entry = *table; *entry; entry++) {
            if (!(*entry)->wanted || !patch_is_of(*entry, name))
                continue;
            (*entry)->wanted = false;
            if (eg_patch_apply(*entry, true) < 0)
                PyErr_WriteUnraisable(args[0]);
        }
    }
    if (name) {
        PyObject *told = eg_policy_call("module_imported", args, 1);
        if (!told)
            PyErr_WriteUnraisable(args[0]);
        Py_XDECREF(told);
    }
    return result;
}

static PyObject *
import_exec_dynamic(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return import_exec(&import_exec_dynamic_patch, self, args, n, kwnames);
}

static PyObject *
import_exec_builtin(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    return import_exec(&import_exec_builtin_patch, self, args, n, kwnames);
}

/* ---- for patcher.py ------------------------------------------------------------------- */
/* patch_set(owner, name, on) -> bool: what stands there afterwards is ours */
PyObject *
eg_patch_set(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    EgPatch *patch = patch_entry("patch_set", args, n, 3);
    int on = patch ? PyObject_IsTrue(args[2]) : -1;
    if (on < 0)
        return NULL;
    if (on
        && (eg_patch_apply(&import_exec_dynamic_patch, true) < 0
            || eg_patch_apply(&import_exec_builtin_patch, true) < 0))
        return NULL;
    if ((patch->wanted = on && !patch->def && patch_can_wait(patch)))
        Py_RETURN_TRUE;
    if (!patch->def && !on)
        Py_RETURN_FALSE;
    if (eg_patch_apply(patch, on) < 0)
        return NULL;
    return PyBool_FromLong(patch->applied);
}

/* patch_native(owner, name) -> a function or method descriptor that is never swapped, or None */
PyObject *
eg_patch_native(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    EgPatch *patch = patch_lookup("patch_native", args, n, 2);
    if (patch)
        return patch_callable(patch, &patch->native, patch->original);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* patch_ours(owner, name) -> one that always is the replacement, or None */
PyObject *
eg_patch_ours(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    (void)module;
    EgPatch *patch = patch_lookup("patch_ours", args, n, 2);
    PyCFunction door = patch ? patch_door(patch, patch->def->ml_flags) : NULL;
    if (door)
        return patch_callable(patch, &patch->ours, door);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* patch_list() -> [(group, owner, name, applied)] */
PyObject *
eg_patch_list(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (EgPatch *const *const *table = patch_tables; list && *table; table++) {
        for (EgPatch *const *entry = *table; list && *entry; entry++) {
            EgPatch *patch = *entry;
            PyObject *row = Py_BuildValue("(sssO)", patch->group, patch->owner, patch->name,
                                          patch->applied || patch->wanted ? Py_True : Py_False);
            if (!row || PyList_Append(list, row) < 0)
                Py_CLEAR(list);
            Py_XDECREF(row);
        }
    }
    return list;
}
