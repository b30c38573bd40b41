/* exit.c: the end of the interpreter.
 *
 *     atexit functions    tasks run yet: exit_begin() was one of them, and has the next step noticed
 *     finalization        greenlets cannot be switched any more: every patched function is the
 *                         original again, for finalisers, and a wait is a native one
 *
 * Nothing calls us in between, so from exit_begin() on whoever asks whether code cooperates asks
 * whether the interpreter finalizes, too; before, that costs nothing.
 */
#include "evergreen.h"

#include <stdlib.h>

static int exit_status; /* of the process, instead of the interpreter's; 0: that one */

static bool
exit_finalizes(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

bool
eg_exit_ended(void)
{
    if (!eg_state->ended && exit_finalizes()) {
        eg_state->ended = true;
        eg_state->interpreter = NULL;
        eg_state->hubs = NULL;
        eg_hub_here = NULL; /* its reference is left: there is no time to end it */
        eg_patch_end();
    }
    return eg_state->ended;
}

bool
eg_exit_cooperates(void)
{
    return PyInterpreterState_Get() == eg_state->exiting && !eg_exit_ended();
}

/* exit_begin(): atexit functions run */
PyObject *
eg_exit_begin(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (!eg_state->exiting && !eg_state->ended) {
        eg_state->exiting = eg_state->interpreter;
        eg_state->interpreter = NULL;
    }
    Py_RETURN_NONE;
}

/* exit_collect(phase, info): of gc.callbacks, so that finalisers find the originals in place */
PyObject *
eg_exit_collect(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    eg_exit_ended();
    Py_RETURN_NONE;
}

/* exit_status(status): the interpreter cannot be told any more that the program has failed */
PyObject *
eg_exit_status(PyObject *module, PyObject *status)
{
    (void)module;
    long number = PyLong_AsLong(status);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    exit_status = (int)number;
    Py_RETURN_NONE;
}

/* The interpreter has finalized. */
static void
exit_leave(void)
{
    if (exit_status)
        exit(exit_status);
}

int
eg_exit_setup(void)
{
    if (Py_AtExit(exit_leave) == 0)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the interpreter has no room for an exit function");
    return -1;
}
