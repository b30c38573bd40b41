/* local.c: local, storage that belongs to a greenlet.
 *
 * What a greenlet has in a local is a dict, in an entry under the local's own key in the
 * greenlet's __dict__: it ends with the greenlet, or with its task if the greenlet goes on to
 * serve another.  A local that ends takes its entries out.
 */
#include "evergreen.h"

#include <structmember.h>

typedef struct EgEntry EgEntry;

typedef struct {
    PyObject_HEAD
    PyObject *key;    /* strong: in each greenlet's __dict__ */
    PyObject *args;   /* strong: for __init__() in each greenlet; NULL: none, as the next */
    PyObject *kwargs; /* strong */
    EgEntry *entries; /* borrowed: each takes itself out when it ends */
    PyObject *weakrefs;
} EgLocal;

struct EgEntry {
    PyObject_HEAD
    PyObject *dict;     /* strong */
    PyObject *greenlet; /* strong: a weak reference */
    EgLocal *local;     /* borrowed; NULL: it has ended */
    EgEntry *prev, *next;
};

/* ---- entries -------------------------------------------------------------------------- */
static void
entry_unlink(EgEntry *self)
{
    if (!self->local)
        return;
    if (self->prev)
        self->prev->next = self->next;
    else
        self->local->entries = self->next;
    if (self->next)
        self->next->prev = self->prev;
    self->local = NULL;
}

static EgEntry *
entry_new(EgLocal *local, PyObject *greenlet)
{
    EgEntry *self = PyObject_GC_New(EgEntry, eg_state->local_entry_type);
    if (!self)
        return NULL;
    self->local = NULL;
    self->dict = PyDict_New();
    self->greenlet = PyWeakref_NewRef(greenlet, NULL);
    PyObject_GC_Track(self);
    if (!self->dict || !self->greenlet) {
        Py_DECREF(self);
        return NULL;
    }
    self->local = local;
    self->prev = NULL;
    if ((self->next = local->entries))
        self->next->prev = self;
    return local->entries = self;
}

static int
entry_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EgEntry *)op)->dict);
    return 0;
}

static int
entry_clear(PyObject *op)
{
    entry_unlink((EgEntry *)op);
    Py_CLEAR(((EgEntry *)op)->dict);
    return 0;
}

static void
entry_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, entry_dealloc);
    entry_clear(op);
    Py_XDECREF(((EgEntry *)op)->greenlet);
    PyObject_GC_Del(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyType_Slot entry_slots[] = {
    {Py_tp_traverse, entry_traverse},
    {Py_tp_clear, entry_clear},
    {Py_tp_dealloc, entry_dealloc},
    {0, NULL},
};

PyType_Spec eg_local_entry_spec = {
    .name = "evergreen._evergreen_c.local_entry",
    .basicsize = sizeof(EgEntry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = entry_slots,
};

/* ---- the dict of the greenlet that runs -------------------------------------------------- */
/* New. */
static PyObject *
local_enter(EgLocal *self, PyObject *greenlet)
{
    PyObject **all = &((PyGreenlet *)greenlet)->dict;
    if (!*all && !(*all = PyDict_New()))
        return NULL;
    PyObject *held = Py_NewRef(*all), *dict = NULL; /* the collector runs Python, and so do keys */
    EgEntry *entry = entry_new(self, greenlet);
    if (entry && PyDict_SetItem(held, self->key, (PyObject *)entry) == 0
        && !(dict = Py_XNewRef(entry->dict)))
        PyErr_SetString(PyExc_RuntimeError, "a greenlet's data was cleared while a local used it");
    Py_XDECREF(entry);
    Py_DECREF(held);
    return dict;
}

/* New. */
static PyObject *
local_dict(EgLocal *self)
{
    PyObject *greenlet = eg_park_current_greenlet();
    PyObject *all = Py_XNewRef(((PyGreenlet *)greenlet)->dict), *dict = NULL;
    PyObject *entry = all ? PyDict_GetItemWithError(all, self->key) : NULL; /* borrowed */
    if (EG_LIKELY(entry && Py_IS_TYPE(entry, eg_state->local_entry_type)))
        dict = Py_XNewRef(((EgEntry *)entry)->dict);
    Py_XDECREF(all);
    if (EG_LIKELY(dict != NULL))
        return dict;
    if (PyErr_Occurred() || !(dict = local_enter(self, greenlet)))
        return NULL;
    initproc init = Py_TYPE(self)->tp_init;
    if (init == PyBaseObject_Type.tp_init)
        return dict;
    PyObject *args = Py_NewRef(self->args ? self->args : eg_state->empty_tuple);
    PyObject *kwargs = Py_XNewRef(self->kwargs);
    int status = init((PyObject *)self, args, kwargs);
    Py_DECREF(args);
    Py_XDECREF(kwargs);
    if (status < 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if ((all = Py_XNewRef(((PyGreenlet *)greenlet)->dict))
            && PyDict_DelItem(all, self->key) < 0)
            PyErr_Clear();
        Py_XDECREF(all);
        PyErr_Restore(type, value, traceback);
    }
    if (status == 0 && Py_REFCNT(dict) == 1) {
        PyErr_SetString(PyExc_RuntimeError, "__init__() of a local cleared its greenlet's data");
        status = -1;
    }
    if (status < 0)
        Py_CLEAR(dict);
    return dict;
}

/* ---- attributes ---------------------------------------------------------------------------- */
/* 0: it is a str; -1: exception. Python calls __getattribute__() with whatever it is given. */
static int
local_check_name(PyObject *name)
{
    if (EG_LIKELY(PyUnicode_Check(name)))
        return 0;
    PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'",
                 Py_TYPE(name)->tp_name);
    return -1;
}

/* A name that no attribute of class local itself has. */
static inline bool
local_name_is_plain(EgLocal *self, PyObject *name)
{
    return Py_IS_TYPE(self, eg_state->local_type)
           && (PyUnicode_GET_LENGTH(name) == 0 || PyUnicode_READ_CHAR(name, 0) != '_');
}

static PyObject *
local_getattro(PyObject *op, PyObject *name)
{
    PyObject *dict, *value = NULL; /* names and descriptors run Python */
    if (local_check_name(name) < 0 || !(dict = local_dict((EgLocal *)op)))
        return NULL;
    if (local_name_is_plain((EgLocal *)op, name))
        value = Py_XNewRef(PyDict_GetItemWithError(dict, name));
    else if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0)
        return dict;
    if (EG_UNLIKELY(!value && !PyErr_Occurred()))
        value = _PyObject_GenericGetAttrWithDict(op, name, dict, 0);
    Py_DECREF(dict);
    return value;
}

static int
local_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    PyObject *dict;
    int status = -1;
    if (local_check_name(name) < 0 || !(dict = local_dict((EgLocal *)op)))
        return -1;
    if (value && local_name_is_plain((EgLocal *)op, name))
        status = PyDict_SetItem(dict, name, value);
    else if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0)
        PyErr_Format(PyExc_AttributeError, "'%.100s' object attribute '__dict__' is read-only",
                     Py_TYPE(op)->tp_name);
    else
        status = _PyObject_GenericSetAttrWithDict(op, name, value, dict);
    Py_DECREF(dict);
    return status;
}

/* ---- the type -------------------------------------------------------------------------------- */
static PyObject *
local_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static uint64_t number;
    bool some = PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs));
    if (some && type->tp_init == PyBaseObject_Type.tp_init) {
        PyErr_SetString(PyExc_TypeError, "Initialization arguments are not supported");
        return NULL;
    }
    EgLocal *self = (EgLocal *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->args = some ? Py_NewRef(args) : NULL;
    self->kwargs = some ? Py_XNewRef(kwargs) : NULL;
    self->key = PyUnicode_FromFormat("evergreen.local.%llu", (unsigned long long)++number);
    /* Python calls __init__() for this greenlet. */
    PyObject *dict = self->key ? local_enter(self, eg_park_current_greenlet()) : NULL;
    if (!dict)
        Py_CLEAR(self);
    Py_XDECREF(dict);
    return (PyObject *)self;
}

static int
local_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgLocal *self = (EgLocal *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    return 0;
}

/* Take what greenlets have in it out of them; runs finalisers. Keeps an exception that is set. */
static void
local_leave_all(EgLocal *self)
{
    PyObject *type, *value, *traceback;
    EgEntry *entry;
    PyErr_Fetch(&type, &value, &traceback);
    while ((entry = self->entries)) {
        Py_INCREF(entry);
        entry_unlink(entry);
        PyObject *greenlet = PyObject_CallNoArgs(entry->greenlet);
        PyObject *dict =
            greenlet && greenlet != Py_None ? Py_XNewRef(((PyGreenlet *)greenlet)->dict) : NULL;
        if (dict && PyDict_GetItemWithError(dict, self->key) == (PyObject *)entry)
            PyDict_DelItem(dict, self->key);
        if (PyErr_Occurred())
            PyErr_WriteUnraisable(NULL);
        Py_XDECREF(dict);
        Py_XDECREF(greenlet);
        Py_CLEAR(entry->dict);
        Py_DECREF(entry);
    }
    PyErr_Restore(type, value, traceback);
}

static int
local_clear(PyObject *op)
{
    EgLocal *self = (EgLocal *)op;
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    local_leave_all(self);
    return 0;
}

static void
local_dealloc(PyObject *op)
{
    EgLocal *self = (EgLocal *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, local_dealloc);
    if (self->weakrefs)
        PyObject_ClearWeakRefs(op);
    local_clear(op);
    Py_XDECREF(self->key);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static PyMemberDef local_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EgLocal, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(local_doc,
"local()\n"
"--\n"
"\n"
"An object whose attributes are different ones in each greenlet, and so in each task.\n"
"\n"
"A subclass may have an __init__(), which is called with the same arguments in each\n"
"greenlet that uses the object, as that of threading.local is in each thread.");

static PyType_Slot local_slots[] = {
    {Py_tp_doc, (void *)local_doc},
    {Py_tp_new, local_new},
    {Py_tp_traverse, local_traverse},
    {Py_tp_clear, local_clear},
    {Py_tp_dealloc, local_dealloc},
    {Py_tp_getattro, local_getattro},
    {Py_tp_setattro, local_setattro},
    {Py_tp_members, local_members},
    {0, NULL},
};

PyType_Spec eg_local_spec = {
    .name = "evergreen.local.local",
    .basicsize = sizeof(EgLocal),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = local_slots,
};
