/* alarm.c: an exception that a task raises in itself later, unless it is quicker.
 *
 * What Timeout stands on.  An alarm that has gone off but whose exception the task has not
 * met yet is taken back by cancel(), so it never hits code after the block it was for.
 */
#include "evergreen.h"

#define RETRY_NS 1000000u

typedef struct {
    PyObject_HEAD
    EgTimer timer;
    EgNode spent;  /* the hub drops the armed alarm's reference */
    EgTask *task;  /* strong */
    PyObject *exc; /* strong */
} EgAlarm;

/* ---- the hub's side ------------------------------------------------------------------ */
static void
alarm_release(EgNode *node)
{
    Py_DECREF(EG_OWNER(node, EgAlarm, spent)); /* what alarm_start() took */
}

static void
alarm_on_time(EgTimer *timer)
{
    EgAlarm *self = EG_OWNER(timer, EgAlarm, timer);
    EgHub *hub = self->task->hub;
    if (self->task->thrown && self->task->state != EG_ENDED
        && eg_timer_start(&hub->timers, timer, eg_clock_now() + RETRY_NS) == 0)
        return; /* something that was thrown before is on its way: one after the other */
    eg_wait_throw(self->task, self->exc);
    eg_hub_push(hub, &self->spent);
}

/* ---- methods ---------------------------------------------------------------------------- */
PyDoc_STRVAR(alarm_start_doc,
"start($self, seconds, exc, /)\n"
"--\n"
"\n"
"Raise exc in the current task, at its wait, when seconds have passed.");

static PyObject *
alarm_start(PyObject *op, PyObject *const *args, Py_ssize_t n)
{
    EgAlarm *self = (EgAlarm *)op;
    double seconds;
    if (n != 2)
        return PyErr_Format(PyExc_TypeError, "start() takes 2 arguments (%zd given)", n);
    if (eg_clock_seconds(args[0], &seconds) < 0)
        return NULL;
    if (eg_timer_armed(&self->timer)) {
        PyErr_SetString(PyExc_RuntimeError, "the alarm is set already");
        return NULL;
    }
    EgHub *hub = eg_hub_get();
    EgTask *task = hub ? eg_hub_task(hub) : NULL;
    if (!task) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "no task is running: nothing here can time out");
        return NULL;
    }
    PyObject *exc = eg_task_make_exception(args[1], NULL, NULL);
    if (!exc)
        return NULL;
    Py_XSETREF(self->task, (EgTask *)Py_NewRef(task));
    Py_XSETREF(self->exc, exc);
    uint64_t deadline = eg_clock_after(seconds);
    if (deadline != EG_FOREVER) {
        if (eg_timer_start(&hub->timers, &self->timer, deadline) < 0)
            return NULL;
        Py_INCREF(self); /* given back by alarm_cancel() or alarm_release() */
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(alarm_cancel_doc,
"cancel($self, /)\n"
"--\n"
"\n"
"Do not raise it any more.");

static PyObject *
alarm_cancel(PyObject *op, PyObject *unused)
{
    EgAlarm *self = (EgAlarm *)op;
    (void)unused;
    if (eg_timer_armed(&self->timer)) {
        eg_timer_stop(&self->task->hub->timers, &self->timer);
        Py_DECREF(self); /* alarm_start()'s; the caller holds one, too */
    } else if (self->task && self->task->thrown == self->exc && self->task->state == EG_RUNNING)
        Py_CLEAR(self->task->thrown);
    Py_CLEAR(self->exc);
    Py_CLEAR(self->task);
    Py_RETURN_NONE;
}

static PyObject *
alarm_get_armed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(eg_timer_armed(&((EgAlarm *)op)->timer));
}

/* ---- the type ------------------------------------------------------------------------------ */
static PyObject *
alarm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    EgAlarm *self = (EgAlarm *)type->tp_alloc(type, 0);
    if (self) {
        self->timer.fire = alarm_on_time;
        self->spent.run = alarm_release;
    }
    return (PyObject *)self;
}

static int
alarm_traverse(PyObject *op, visitproc visit, void *arg)
{
    EgAlarm *self = (EgAlarm *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->task);
    Py_VISIT(self->exc);
    return 0;
}

static int
alarm_clear(PyObject *op)
{
    EgAlarm *self = (EgAlarm *)op;
    Py_CLEAR(self->exc); /* not armed: an armed one holds itself */
    Py_CLEAR(self->task);
    return 0;
}

static void
alarm_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    alarm_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef alarm_methods[] = {
    {"start", EG_METHOD(alarm_start), METH_FASTCALL, alarm_start_doc},
    {"cancel", alarm_cancel, METH_NOARGS, alarm_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef alarm_getset[] = {
    {"armed", alarm_get_armed, NULL, PyDoc_STR("Whether it is still to go off."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(alarm_doc,
"Alarm()\n"
"--\n"
"\n"
"An exception that the current task raises later, unless it is cancelled.");

static PyType_Slot alarm_slots[] = {
    {Py_tp_doc, (void *)alarm_doc},   {Py_tp_new, alarm_new},
    {Py_tp_traverse, alarm_traverse}, {Py_tp_clear, alarm_clear},
    {Py_tp_dealloc, alarm_dealloc},   {Py_tp_methods, alarm_methods},
    {Py_tp_getset, alarm_getset},     {0, NULL},
};

PyType_Spec eg_alarm_spec = {
    .name = "evergreen._evergreen_c.Alarm",
    .basicsize = sizeof(EgAlarm),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = alarm_slots,
};
