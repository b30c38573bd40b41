/* patch_hashlib.c: deriving keys, which computes in C for long and without the GIL.
 *
 * Natively other threads run meanwhile; so do other tasks, while a thread of the lane for
 * computations works.  What is quicker than that thread's start is left where it is.
 */
#include "evergreen.h"

#define FEW 1000 /* iterations: a millisecond, at most */

EG_PATCH(hashlib_scrypt, "_hashlib", "scrypt", "hashlib");

static PyObject *
hashlib_scrypt(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (!eg_os_may_wait())
        return eg_patch_call_original(&hashlib_scrypt_patch, self, args, n, kwnames);
    return eg_patch_offload("offload_computation", &hashlib_scrypt_patch, self, args, n, kwnames);
}

EG_PATCH(hashlib_pbkdf2, "_hashlib", "pbkdf2_hmac", "hashlib");

static PyObject *
hashlib_pbkdf2(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    static const char *const names[] = {"hash_name", "password", "salt", "iterations", "dklen"};
    PyObject *full[5];
    int iterations = FEW;
    if (!eg_os_may_wait() || !eg_os_arrange(args, n, kwnames, names, 5, full) || !full[3]
        || (eg_os_int(full[3], &iterations) && iterations < FEW))
        return eg_patch_call_original(&hashlib_pbkdf2_patch, self, args, n, kwnames);
    return eg_patch_offload("offload_computation", &hashlib_pbkdf2_patch, self, args, n, kwnames);
}

EgPatch *const eg_patch_hashlib[] = {&hashlib_scrypt_patch, &hashlib_pbkdf2_patch, NULL};
