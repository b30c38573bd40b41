/* turn.c: an object that tasks use one after the other.
 *
 * Turn is a lock that its owner may take again; it is handed on, the longest waiter first.
 * in_turn(method) makes a method that takes self._turn for as long as it runs: what the file objects
 * of evergreen.io.file stand on, whose bases from io know threads but not tasks.
 */
#include "evergreen.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    void *owner; /* compared only: a task, a hub's greenlet; NULL: nobody's turn */
    int depth;   /* how often the owner took it again */
    bool retired;
    EgQueue waiters;
} EgTurn;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *method; /* strong */
} EgInTurn;

static PyTypeObject *turn_type, *in_turn_type; /* for good */
static PyObject *turn_name;                    /* strong: "_turn" */

/* ---- the lock ---------------------------------------------------------------------------- */
static void
turn_pass_on(EgTurn *self)
{
    EgTask *next = eg_queue_peek(&self->waiters);
    self->owner = next ? eg_task_owner(next) : NULL;
    if (next)
        eg_queue_wake(&self->waiters, NULL);
}

static void
turn_give_back(EgTask *task)
{
    turn_pass_on((EgTurn *)task->wait.object);
}

static const EgWaitKind turn_kind = {"turn", turn_give_back};

/* Whoever runs; NULL with an exception. */
static void *
turn_who(void)
{
    EgHub *hub = eg_hub_here;
    if (!hub)
        return eg_wait_begin();
    EgTask *me = eg_hub_task(hub);
    if (me)
        return eg_task_owner(me);
    return PyErr_Occurred() ? NULL : hub->greenlet;
}

static int
turn_enter(EgTurn *self)
{
    if (self->retired)
        return 0;
    void *who = turn_who();
    if (!who)
        return -1;
    if (self->owner == who) {
        self->depth++;
        return 0;
    }
    if (!self->owner) {
        self->owner = who;
        return 0;
    }
    EgTask *me = eg_wait_begin();
    if (!me)
        return -1;
    eg_wait_join(me, &self->waiters);
    return eg_wait_park(me, &turn_kind, (PyObject *)self, EG_FOREVER) < 0 ? -1 : 0;
}

static void
turn_leave(EgTurn *self)
{
    if (self->depth)
        self->depth--;
    else if (!self->retired)
        turn_pass_on(self);
}

PyDoc_STRVAR(turn_retire_doc,
"retire($self, /)\n"
"--\n"
"\n"
"Have nobody wait for it any more: for finalisers, of what nobody else can use.");

static PyObject *
turn_retire(PyObject *op, PyObject *unused)
{
    (void)unused;
    ((EgTurn *)op)->retired = true;
    Py_RETURN_NONE;
}

static void
turn_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(turn_doc, "Turn()\n--\n\nWhose turn it is to use an object.");

static PyMethodDef turn_methods[] = {
    {"retire", turn_retire, METH_NOARGS, turn_retire_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, (void *)turn_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_methods, turn_methods},
    {Py_tp_dealloc, turn_dealloc},
    {0, NULL},
};

static PyType_Spec turn_spec = {
    .name = "evergreen._evergreen_c.Turn",
    .basicsize = sizeof(EgTurn),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = turn_slots,
};

/* ---- methods that take it ------------------------------------------------------------------- */
static PyObject *
in_turn_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    EgInTurn *self = (EgInTurn *)op;
    if (PyVectorcall_NARGS(nargsf) < 1)
        return PyErr_Format(PyExc_TypeError, "%R needs an object to be called on", self->method);
    EgTurn *turn = (EgTurn *)PyObject_GetAttr(args[0], turn_name); /* strong */
    if (!turn || !Py_IS_TYPE(turn, turn_type)) {
        if (turn)
            PyErr_SetString(PyExc_TypeError, "_turn must be a Turn");
        Py_XDECREF(turn);
        return NULL;
    }
    PyObject *result = NULL;
    if (turn_enter(turn) == 0) {
        result = PyObject_Vectorcall(self->method, args, nargsf, kwnames);
        turn_leave(turn);
    }
    Py_DECREF(turn);
    return result;
}

static PyObject *
in_turn_get(PyObject *op, PyObject *object, PyObject *type)
{
    (void)type;
    return object && object != Py_None ? PyMethod_New(op, object) : Py_NewRef(op);
}

static PyObject *
in_turn_getattr(PyObject *op, PyObject *name)
{
    PyObject *method = ((EgInTurn *)op)->method;
    if (PyUnicode_Check(name) /* __getattribute__() is called with anything */
        && (PyUnicode_CompareWithASCIIString(name, "__doc__") == 0 /* every type has these, too */
            || PyUnicode_CompareWithASCIIString(name, "__module__") == 0))
        return PyObject_GetAttr(method, name);
    PyObject *own = PyObject_GenericGetAttr(op, name);
    if (own || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return own;
    PyErr_Clear();
    return PyObject_GetAttr(method, name); /* __name__, __text_signature__ ... */
}

/* Pickled by its name, as the function is. */
static PyObject *
in_turn_reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyObject_GetAttrString(((EgInTurn *)op)->method, "__qualname__");
}

static void
in_turn_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(((EgInTurn *)op)->method);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef in_turn_methods[] = {
    {"__reduce__", in_turn_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef in_turn_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EgInTurn, call), READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(EgInTurn, method), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot in_turn_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, in_turn_get},
    {Py_tp_getattro, in_turn_getattr},
    {Py_tp_dealloc, in_turn_dealloc},
    {Py_tp_members, in_turn_members},
    {Py_tp_methods, in_turn_methods},
    {0, NULL},
};

static PyType_Spec in_turn_spec = {
    .name = "evergreen._evergreen_c.InTurn",
    .basicsize = sizeof(EgInTurn),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = in_turn_slots,
};

PyObject *
eg_turn_in(PyObject *module, PyObject *method)
{
    (void)module;
    EgInTurn *self = (EgInTurn *)in_turn_type->tp_alloc(in_turn_type, 0);
    if (self) {
        self->call = in_turn_call;
        self->method = Py_NewRef(method); /* given back by in_turn_dealloc() */
    }
    return (PyObject *)self;
}

int
eg_turn_setup(PyObject *module)
{
    turn_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &turn_spec, NULL);
    in_turn_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &in_turn_spec, NULL);
    turn_name = PyUnicode_InternFromString("_turn");
    if (!turn_type || !in_turn_type || !turn_name)
        return -1;
    return PyModule_AddType(module, turn_type);
}
