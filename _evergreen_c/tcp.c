/* tcp.c: streams over TCP, and socket addresses as Python writes them. */
#include "evergreen.h"

#include <arpa/inet.h>
#include <sys/un.h>

/* ---- addresses --------------------------------------------------------------------- */
PyObject *
eg_address_make(const struct sockaddr *address)
{
    char host[INET6_ADDRSTRLEN];
    switch (address->sa_family) {
    case AF_INET: {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        uv_ip4_name(in, host, sizeof host);
        return Py_BuildValue("(si)", host, ntohs(in->sin_port));
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        uv_ip6_name(in6, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(in6->sin6_port), ntohl(in6->sin6_flowinfo),
                             in6->sin6_scope_id);
    }
    default:
        return PyErr_Format(PyExc_ValueError, "an address of unknown family %d",
                            address->sa_family);
    }
}

/* (host, port) or (host, port, flowinfo, scope), with a numeric host. */
int
eg_address_parse(PyObject *address, struct sockaddr_storage *result)
{
    const char *host;
    int port;
    unsigned flow = 0, scope = 0;
    if (!PyTuple_Check(address)) {
        PyErr_Format(PyExc_TypeError, "an address is a tuple (host, port), not %R", address);
        return -1;
    }
    if (!PyArg_ParseTuple(address, "si|II;an address is a tuple (host, port)", &host, &port, &flow,
                          &scope))
        return -1;
    if (port < 0 || port > 65535) {
        PyErr_Format(PyExc_OverflowError, "port must be 0 to 65535, not %d", port);
        return -1;
    }
    memset(result, 0, sizeof *result);
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)result) == 0)
        return 0;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)result;
    if (uv_ip6_addr(host, port, in6) == 0) {
        in6->sin6_flowinfo = htonl(flow);
        if (scope)
            in6->sin6_scope_id = scope;
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%R is no numeric address", PyTuple_GET_ITEM(address, 0));
    return -1;
}

/* ---- the stream ------------------------------------------------------------------------- */
static PyObject *
tcp_name(PyObject *op, int (*ask)(const uv_tcp_t *, struct sockaddr *, int *))
{
    struct sockaddr_storage address;
    int size = sizeof address;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = ask(&wire->uv.tcp, (struct sockaddr *)&address, &size);
    if (status < 0)
        return eg_stream_raise((EgStream *)op, status);
    return eg_address_make((struct sockaddr *)&address);
}

static PyObject *
tcp_get_sockname(PyObject *op, void *unused)
{
    (void)unused;
    return tcp_name(op, uv_tcp_getsockname);
}

static PyObject *
tcp_get_peername(PyObject *op, void *unused)
{
    (void)unused;
    return tcp_name(op, uv_tcp_getpeername);
}

PyDoc_STRVAR(tcp_nodelay_doc,
"nodelay($self, enable=True, /)\n"
"--\n"
"\n"
"Send each write at once (TCP_NODELAY, as is the default here), or gather small ones.");

static PyObject *
tcp_nodelay(PyObject *op, PyObject *args)
{
    int enable = 1;
    if (!PyArg_ParseTuple(args, "|p:nodelay", &enable))
        return NULL;
    EgWire *wire = eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = uv_tcp_nodelay(&wire->uv.tcp, enable);
    return status < 0 ? eg_stream_raise((EgStream *)op, status) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(tcp_keepalive_doc,
"keepalive($self, enable=True, delay=60, /)\n"
"--\n"
"\n"
"Have the kernel ask a silent peer whether it is there, first after delay seconds (whole ones).");

static PyObject *
tcp_keepalive(PyObject *op, PyObject *args)
{
    int enable = 1, delay = 60;
    if (!PyArg_ParseTuple(args, "|pi:keepalive", &enable, &delay))
        return NULL;
    if (delay <= 0)
        return PyErr_Format(PyExc_ValueError, "delay must be positive, not %d", delay);
    EgWire *wire = eg_stream_wire((EgStream *)op);
    if (!wire)
        return NULL;
    int status = uv_tcp_keepalive(&wire->uv.tcp, enable, (unsigned)delay);
    return status < 0 ? eg_stream_raise((EgStream *)op, status) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(tcp_attach_doc,
"_attach($self, fd, nodelay=False, /)\n"
"--\n"
"\n"
"Take over the descriptor of a connected socket; nodelay: whether it has TCP_NODELAY already.");

static PyObject *
tcp_attach(PyObject *op, PyObject *args)
{
    EgStream *self = (EgStream *)op;
    int fd, nodelay = 0;
    if (!PyArg_ParseTuple(args, "i|p:_attach", &fd, &nodelay)
        || eg_stream_attach(self, EG_TCP, fd) < 0)
        return NULL;
    if (!nodelay)
        uv_tcp_nodelay(&self->wire->uv.tcp, 1); /* an error here is one of the next read, too */
    Py_RETURN_NONE;
}

static PyMethodDef tcp_methods[] = {
    {"nodelay", tcp_nodelay, METH_VARARGS, tcp_nodelay_doc},
    {"keepalive", tcp_keepalive, METH_VARARGS, tcp_keepalive_doc},
    {"_attach", tcp_attach, METH_VARARGS, tcp_attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tcp_getset[] = {
    {"sockname", tcp_get_sockname, NULL,
     PyDoc_STR("Its own address: (host, port), or (host, port, flowinfo, scope) for IPv6."), NULL},
    {"peername", tcp_get_peername, NULL, PyDoc_STR("The peer's address, likewise."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tcp_slots[] = {
    {Py_tp_doc, (void *)"A stream over TCP."},
    {Py_tp_methods, tcp_methods},
    {Py_tp_getset, tcp_getset},
    {0, NULL},
};

PyType_Spec eg_tcp_spec = {
    .name = "evergreen._evergreen_c.TCPStream",
    .basicsize = sizeof(EgStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = tcp_slots,
};
