/* hostfix.c - two host problems of the infinistore 0.2.35 wheel that have nothing to do with RDMA;
 * linked into softverbs.so.
 *  1. server.py writes -1000 to /proc/<pid>/oom_score_adj and dies (PermissionError) without
 *     CAP_SYS_RESOURCE, root or not: that open goes to /dev/null.
 *  2. The wheel bundles libuv 1.41.1 but drives the loop of whatever libuv uvloop was built with;
 *     with uvloop 0.23 (libuv 1.52) the server aborts on the first connection
 *     (core.c uv__io_cb "unreachable code").  Send the extension's uv_* calls to uvloop's own
 * libuv.
 *  3. The server frees a uv_poll_t inside its Client object without uv_close() when an RDMA client
 *     leaves (infinistore.cpp ~Client): libuv's handle list keeps pointing at freed memory and the
 * heap is corrupted at the next connection.  Give libuv a heap handle of our own and close it
 * properly. HOSTFIX_NOPOLL=1 turns this one off (to reproduce the bug).
 *  4. Only with HOSTFIX_NODELAY=1: TCP_NODELAY on accepted connections.  The server sends an 8-byte
 * header and the value in separate writes under Nagle, so each TCP read of a value smaller than one
 * MSS (65483 bytes on loopback) waits ~44 ms for the client's delayed ACK.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static int open_redirect(const char* sym, const char* path, int flags, va_list ap) {
  mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(ap, mode_t) : 0;
  int (*real)(const char*, int, ...) = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, sym);
  const char* e = path ? strrchr(path, '/') : NULL;
  if (e && !strcmp(e, "/oom_score_adj") && (flags & O_ACCMODE) != O_RDONLY) {
    path = "/dev/null";
    flags &= ~O_CREAT;
  }
  return real(path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list ap;
  va_start(ap, flags);
  int r = open_redirect("open", path, flags, ap);
  va_end(ap);
  return r;
}
int open64(const char* path, int flags, ...) {
  va_list ap;
  va_start(ap, flags);
  int r = open_redirect("open64", path, flags, ap);
  va_end(ap);
  return r;
}

struct find {
  const char* pat;
  char path[1024];
};
static int find_cb(struct dl_phdr_info* i, size_t sz, void* arg) {
  struct find* f = arg;
  (void)sz;
  if (!i->dlpi_name || !strstr(i->dlpi_name, f->pat)) return 0;
  snprintf(f->path, sizeof f->path, "%s", i->dlpi_name);
  return 1;
}
static void* uv_sym(const char* name) {
  static const char* const pats[] = {"/uvloop/loop.", "libuv-", "libuv.so"};
  for (unsigned k = 0; k < sizeof pats / sizeof *pats; k++) {
    struct find f = {.pat = pats[k]};
    void *h, *s = NULL;
    if (dl_iterate_phdr(find_cb, &f) && (h = dlopen(f.path, RTLD_NOLOAD | RTLD_LAZY))) {
      s = dlsym(h, name);
      dlclose(h);
    }
    if (s) return s;
  }
  fprintf(stderr, "hostfix: no libuv provides %s\n", name);
  abort();
}
typedef long (*fn6)(long, long, long, long, long, long);
#define FWD(n)                                             \
  long n(long a, long b, long c, long d, long e, long f) { \
    static fn6 p;                                          \
    if (!p) p = (fn6)uv_sym(#n);                           \
    return p(a, b, c, d, e, f);                            \
  }
FWD(uv_close)
FWD(uv_default_loop) FWD(uv_err_name) FWD(uv_ip4_addr) FWD(uv_listen) FWD(uv_queue_work)
    FWD(uv_read_start) FWD(uv_strerror) FWD(uv_tcp_bind) FWD(uv_tcp_init)
        FWD(uv_write) int uv_accept(void* srv, void* cli) {
  int r = ((int (*)(void*, void*))uv_sym("uv_accept"))(srv, cli);
  if (!r && getenv("HOSTFIX_NODELAY")) ((int (*)(void*, int))uv_sym("uv_tcp_nodelay"))(cli, 1);
  return r;
}
struct uvbuf {
  char* base;
  size_t len;
};
struct uvbuf uv_buf_init(char* b, unsigned n) {
  struct uvbuf r = {b, n};
  return r;
}

struct pollmap {
  void* theirs;
  void** ours;
  struct pollmap* next;
};
static struct pollmap* polls; /* loop thread only */
static struct pollmap** poll_find(void* h) {
  struct pollmap** p = &polls;
  while (*p && (*p)->theirs != h) p = &(*p)->next;
  return p;
}
int uv_poll_init(void* loop, void* h, int fd) {
  int (*real)(void*, void*, int) = (int (*)(void*, void*, int))uv_sym("uv_poll_init");
  if (getenv("HOSTFIX_NOPOLL")) return real(loop, h, fd);
  struct pollmap* m = calloc(1, sizeof *m);
  m->theirs = h;
  m->ours = calloc(1, 1024);
  m->next = polls;
  polls = m;
  return real(loop, m->ours, fd);
}
int uv_poll_start(void* h, int events, void* cb) {
  struct pollmap* m = *poll_find(h);
  if (m) {
    m->ours[0] = *(void**)h;
    h = m->ours;
  } /* uv_handle_t.data is the first member */
  return ((int (*)(void*, int, void*))uv_sym("uv_poll_start"))(h, events, cb);
}
int uv_poll_stop(void* h) {
  struct pollmap **p = poll_find(h), *m = *p;
  if (!m) return ((int (*)(void*))uv_sym("uv_poll_stop"))(h);
  *p = m->next;
  ((void (*)(void*, void (*)(void*)))uv_sym("uv_close"))(m->ours, free);
  free(m);
  return 0;
}
