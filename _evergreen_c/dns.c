/* dns.c: names and addresses, by the C library's resolver.
 *
 * getaddrinfo(3) and getnameinfo(3) block, so they are called in a thread of the dns lane (work.c),
 * while the task is parked; what is numeric asks nobody and is answered at once.  A lookup's memory
 * belongs to the lane and to the task: the last to leave frees it.
 */
#include "evergreen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

typedef struct EgLookup EgLookup;
struct EgLookup {
    EgWork work;
    int shares;
    EgQueue waiters;                 /* the task */
    int (*run)(EgLookup *);          /* 0, or an EAI_ error */
    PyObject *host, *service;        /* strong: bytes; or NULL */
    struct addrinfo hints, *found;   /* of getaddrinfo() */
    struct sockaddr_storage address; /* of getnameinfo() */
    socklen_t size;
    int flags;
    char name[NI_MAXHOST], port[NI_MAXSERV];
    int status, error; /* what run() returned, and errno if it is EAI_SYSTEM */
};

static PyObject *dns_gaierror; /* for good */

/* ---- the lookups: in a native thread, or without the GIL -------------------------------------- */
static int
dns_addresses(EgLookup *lookup)
{
    return getaddrinfo(lookup->host ? PyBytes_AS_STRING(lookup->host) : NULL,
                       lookup->service ? PyBytes_AS_STRING(lookup->service) : NULL, &lookup->hints,
                       &lookup->found);
}

static int
dns_name(EgLookup *lookup)
{
    return getnameinfo((struct sockaddr *)&lookup->address, lookup->size, lookup->name,
                       sizeof lookup->name, lookup->port, sizeof lookup->port, lookup->flags);
}

static void
dns_run(EgWork *work)
{
    EgLookup *lookup = EG_OWNER(work, EgLookup, work);
    lookup->status = lookup->run(lookup);
    lookup->error = errno;
}

static void
dns_undo(EgWork *work)
{
    (void)work;
}

/* ---- the hub's side: GIL held -------------------------------------------------------------------- */
static void
dns_leave(EgLookup *lookup)
{
    if (--lookup->shares > 0)
        return;
    if (lookup->found)
        freeaddrinfo(lookup->found);
    Py_XDECREF(lookup->host);
    Py_XDECREF(lookup->service);
    PyMem_RawFree(lookup);
}

static void
dns_on_done(EgNode *node)
{
    EgLookup *lookup = EG_OWNER(node, EgLookup, work.done);
    eg_queue_wake(&lookup->waiters, NULL);
    dns_leave(lookup); /* the lane's share */
}

static void
dns_orphaned(EgWork *work)
{
    dns_leave(EG_OWNER(work, EgLookup, work));
}

static EgLookup *
dns_new(int (*run)(EgLookup *))
{
    EgLookup *lookup = PyMem_RawCalloc(1, sizeof *lookup);
    if (!lookup)
        return (EgLookup *)PyErr_NoMemory();
    lookup->run = run;
    lookup->shares = 1; /* the caller's */
    lookup->work.run = dns_run;
    lookup->work.undo = dns_undo;
    lookup->work.done.run = dns_on_done;
    lookup->work.orphaned = dns_orphaned;
    return lookup;
}

static int
dns_raise(EgLookup *lookup)
{
    if (lookup->status == EAI_SYSTEM) {
        errno = lookup->error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    PyObject *args = Py_BuildValue("(is)", lookup->status, gai_strerror(lookup->status));
    if (args)
        PyErr_SetObject(dns_gaierror, args);
    Py_XDECREF(args);
    return -1;
}

/* Have a thread of the lane do it, while the task is parked. -1: exception. */
static int
dns_perform(EgLookup *lookup)
{
    static const EgWaitKind kind = {"name", NULL};
    if (!eg_hub_here && PyThread_get_thread_ident() != eg_state->main_thread) {
        Py_BEGIN_ALLOW_THREADS
        dns_run(&lookup->work);
        Py_END_ALLOW_THREADS
        return lookup->status ? dns_raise(lookup) : 0;
    }
    eg_work_bury();
    EgTask *me = eg_wait_begin();
    if (!me || eg_work_submit(me->hub, &eg_lane_dns, &lookup->work) < 0)
        return -1;
    lookup->shares++; /* the lane's: given back by dns_on_done() or dns_orphaned() */
    eg_wait_join(me, &lookup->waiters);
    if (eg_wait_park(me, &kind, lookup->host, EG_FOREVER) < 0) {
        eg_work_cancel(&lookup->work);
        return -1;
    }
    if (lookup->work.state == EG_WORK_CANCELLED) { /* it was left in the parent of a fork */
        lookup->status = EAI_SYSTEM;
        lookup->error = ECANCELED;
    }
    return lookup->status ? dns_raise(lookup) : 0;
}

/* ---- results ---------------------------------------------------------------------------------------- */
static PyObject *
dns_sockaddr(const struct sockaddr *address)
{
    char text[INET6_ADDRSTRLEN];
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        return Py_BuildValue("(si)", text, ntohs(in->sin_port));
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
        return Py_BuildValue("(siII)", text, ntohs(in->sin6_port),
                             (unsigned)ntohl(in->sin6_flowinfo), (unsigned)in->sin6_scope_id);
    }
    return Py_BuildValue("(iy#)", address->sa_family, address->sa_data,
                         (Py_ssize_t)sizeof address->sa_data);
}

static PyObject *
dns_list(const struct addrinfo *found)
{
    PyObject *list = PyList_New(0);
    for (; list && found; found = found->ai_next) {
        PyObject *item = Py_BuildValue(
            "(iiisN)", found->ai_family, found->ai_socktype, found->ai_protocol,
            found->ai_canonname ? found->ai_canonname : "", dns_sockaddr(found->ai_addr));
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* ---- functions ------------------------------------------------------------------------------------------ */
static int
dns_bytes(PyObject *value, void *slot)
{
    if (value != Py_None && !PyBytes_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "bytes or None expected");
        return 0;
    }
    if (value != Py_None && strlen(PyBytes_AS_STRING(value)) != (size_t)PyBytes_GET_SIZE(value)) {
        PyErr_SetString(PyExc_ValueError, "embedded null character");
        return 0;
    }
    *(PyObject **)slot = value == Py_None ? NULL : value; /* borrowed */
    return 1;
}

static bool
dns_is_number(PyObject *service)
{
    const char *text = service ? PyBytes_AS_STRING(service) : "";
    return text[strspn(text, "0123456789")] == '\0';
}

/* getaddrinfo(host, service, family, type, proto, flags) */
PyObject *
eg_dns_getaddrinfo(PyObject *module, PyObject *args)
{
    PyObject *host, *service, *result = NULL;
    struct addrinfo hints = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "O&O&iiii:getaddrinfo", dns_bytes, &host, dns_bytes, &service,
                          &hints.ai_family, &hints.ai_socktype, &hints.ai_protocol,
                          &hints.ai_flags))
        return NULL;
    EgLookup *lookup = dns_new(dns_addresses);
    if (!lookup)
        return NULL;
    lookup->host = Py_XNewRef(host); /* given back by dns_leave(), as the next */
    lookup->service = Py_XNewRef(service);
    lookup->hints = hints;
    bool done = false;
    if (dns_is_number(service)) { /* else it is looked up in a file */
        lookup->hints.ai_flags |= AI_NUMERICHOST | (service ? AI_NUMERICSERV : 0);
        dns_run(&lookup->work);
        done = lookup->status != EAI_NONAME || hints.ai_flags & AI_NUMERICHOST;
        lookup->hints = hints;
    }
    if (done ? lookup->status == 0 || dns_raise(lookup) == 0 : dns_perform(lookup) == 0)
        result = dns_list(lookup->found);
    dns_leave(lookup); /* the caller's share */
    return result;
}

/* The address that a numeric host means. -1: exception. */
static int
dns_parse_address(EgLookup *lookup, unsigned flowinfo, unsigned scope, int n)
{
    struct addrinfo *found = NULL;
    lookup->hints.ai_socktype = SOCK_DGRAM; /* one answer for each address */
    lookup->hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if ((lookup->status = dns_addresses(lookup)) != 0)
        return dns_raise(lookup);
    found = lookup->found;
    if (found->ai_next) {
        PyErr_SetString(PyExc_OSError, "sockaddr resolved to multiple addresses");
        return -1;
    }
    if (found->ai_family == AF_INET && n != 2) {
        PyErr_SetString(PyExc_OSError, "IPv4 sockaddr must be 2 tuple");
        return -1;
    }
    memcpy(&lookup->address, found->ai_addr, found->ai_addrlen);
    lookup->size = found->ai_addrlen;
    if (found->ai_family == AF_INET6) {
        struct sockaddr_in6 *in = (struct sockaddr_in6 *)&lookup->address;
        in->sin6_flowinfo = htonl(flowinfo);
        in->sin6_scope_id = scope;
    }
    return 0;
}

/* getnameinfo(host, port, flowinfo, scope_id, length of the tuple, flags) */
PyObject *
eg_dns_getnameinfo(PyObject *module, PyObject *args)
{
    PyObject *host, *port, *result = NULL;
    unsigned flowinfo, scope;
    int n, flags;
    (void)module;
    if (!PyArg_ParseTuple(args, "O&O&IIii:getnameinfo", dns_bytes, &host, dns_bytes, &port,
                          &flowinfo, &scope, &n, &flags))
        return NULL;
    EgLookup *lookup = dns_new(dns_name);
    if (!lookup)
        return NULL;
    lookup->host = Py_XNewRef(host); /* given back by dns_leave(), as the next */
    lookup->service = Py_XNewRef(port);
    lookup->flags = flags;
    if (dns_parse_address(lookup, flowinfo, scope, n) < 0)
        goto done;
    int asks_nobody = NI_NUMERICHOST | NI_NUMERICSERV;
    if ((flags & asks_nobody) == asks_nobody) {
        dns_run(&lookup->work);
        if (lookup->status && dns_raise(lookup) < 0)
            goto done;
    } else if (dns_perform(lookup) < 0)
        goto done;
    result = Py_BuildValue("(ss)", lookup->name, lookup->port);
done:
    dns_leave(lookup); /* the caller's share */
    return result;
}

int
eg_dns_setup(void)
{
    PyObject *socket = PyImport_ImportModule("_socket");
    dns_gaierror = socket ? PyObject_GetAttrString(socket, "gaierror") : NULL;
    Py_XDECREF(socket);
    return dns_gaierror ? 0 : -1;
}
