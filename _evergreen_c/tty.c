/* tty.c: streams over terminals. */
#include "evergreen.h"

static PyObject *
tty_get_winsize(PyObject *op, void *unused)
{
    int width, height;
    (void)unused;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = uv_tty_get_winsize(&wire->uv.tty, &width, &height);
    return status < 0 ? eg_stream_raise((EgStream *)op, status)
                      : Py_BuildValue("(ii)", width, height);
}

PyDoc_STRVAR(tty_set_raw_mode_doc,
"set_raw_mode($self, raw, /)\n"
"--\n"
"\n"
"Have the terminal give each key at once and unechoed, or lines (termios(3)).\n"
"\n"
"It is put back when the program exits.");

static PyObject *
tty_set_raw_mode(PyObject *op, PyObject *raw)
{
    int on = PyObject_IsTrue(raw);
    EgWire *wire = on < 0 ? NULL : eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = uv_tty_set_mode(&wire->uv.tty, on ? UV_TTY_MODE_RAW : UV_TTY_MODE_NORMAL);
    return status < 0 ? eg_stream_raise((EgStream *)op, status) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(tty_reset_mode_doc,
"_reset_mode()\n"
"--\n"
"\n"
"Put the terminal back as it was before set_raw_mode(True).");

static PyObject *
tty_reset_mode(PyObject *unused, PyObject *none)
{
    (void)unused;
    (void)none;
    uv_tty_reset_mode(); /* at exit: a terminal that is gone needs nothing */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(tty_attach_doc,
"_attach($self, fd, /)\n"
"--\n"
"\n"
"Take over the descriptor of a terminal.");

static PyObject *
tty_attach(PyObject *op, PyObject *arg)
{
    long fd = PyLong_AsLong(arg);
    if ((fd == -1 && PyErr_Occurred()) || eg_stream_attach((EgStream *)op, EG_TTY, (int)fd) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef tty_methods[] = {
    {"set_raw_mode", tty_set_raw_mode, METH_O, tty_set_raw_mode_doc},
    {"_reset_mode", tty_reset_mode, METH_NOARGS | METH_STATIC, tty_reset_mode_doc},
    {"_attach", tty_attach, METH_O, tty_attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tty_getset[] = {
    {"winsize", tty_get_winsize, NULL, PyDoc_STR("(columns, rows) of the terminal."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tty_slots[] = {
    {Py_tp_doc, (void *)"A stream over a terminal."},
    {Py_tp_methods, tty_methods},
    {Py_tp_getset, tty_getset},
    {0, NULL},
};

PyType_Spec eg_tty_spec = {
    .name = "evergreen._evergreen_c._TTYStream",
    .basicsize = sizeof(EgStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = tty_slots,
};
