// hostfix: what the server of infinistore 0.2.35 needs on an ordinary machine and that has nothing
// to do with RDMA. It hides none of the hazards that clients over TCP meet.
//  1. The server writes -1000 to /proc/<pid>/oom_score_adj and dies where it may not: that goes to
//     /dev/null.
//  2. The wheel brings libuv 1.41.1, but drives the loop of the libuv inside uvloop, and aborts at
//  the
//     first connection where that is 1.52 (uvloop 0.23): its calls go to uvloop's.
//  3. When a client over RDMA leaves, the server frees a uv_poll_t inside its own object without
//     uv_close(): libuv keeps a pointer to it and the heap is corrupted at the next connection.
//     libuv gets a handle of ours, which is closed. HOSTFIX_NOPOLL=1 turns this off, to meet the
//     bug.
//  4. Only with HOSTFIX_NODELAY=1: TCP_NODELAY on the server's side. Without it, a value below
//  65,483
//     bytes waits some 44 ms for the client's delayed acknowledgement of the header.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

// ---- 1 ----

typedef int (*open_fn)(const char*, int, ...);

static int redirected_open(const char* name, const char* path, int flags, va_list arguments) {
  const mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  const open_fn real = (open_fn)dlsym(RTLD_NEXT, name);
  const char* end = path ? strrchr(path, '/') : NULL;
  if (end && !strcmp(end, "/oom_score_adj") && (flags & O_ACCMODE) != O_RDONLY) {
    return real("/dev/null", flags & ~O_CREAT, mode);
  }
  return real(path, flags, mode);
}

#define REDIRECT(name)                                             \
  int name(const char* path, int flags, ...) {                     \
    va_list arguments;                                             \
    va_start(arguments, flags);                                    \
    const int fd = redirected_open(#name, path, flags, arguments); \
    va_end(arguments);                                             \
    return fd;                                                     \
  }
REDIRECT(open)
REDIRECT(open64)

// ---- 2 ----

struct search {
  const char* pattern;
  char path[1024];
};

static int note_match(struct dl_phdr_info* info, size_t size, void* argument) {
  struct search* search = argument;
  (void)size;
  if (!info->dlpi_name || !strstr(info->dlpi_name, search->pattern)) return 0;
  snprintf(search->path, sizeof search->path, "%s", info->dlpi_name);
  return 1;
}

static void* uv_symbol(const char* name) {
  static const char* const patterns[] = {"/uvloop/loop.", "libuv-", "libuv.so"};
  for (unsigned i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    struct search search = {.pattern = patterns[i]};
    if (!dl_iterate_phdr(note_match, &search)) continue;
    void* library = dlopen(search.path, RTLD_NOLOAD | RTLD_LAZY);
    if (!library) continue;
    void* symbol = dlsym(library, name);
    dlclose(library);
    if (symbol) return symbol;
  }
  fprintf(stderr, "hostfix: no libuv has %s\n", name);
  abort();
}

typedef long (*six_fn)(long, long, long, long, long, long);

#define FORWARD(name)                                         \
  long name(long a, long b, long c, long d, long e, long f) { \
    static six_fn real;                                       \
    if (!real) real = (six_fn)uv_symbol(#name);               \
    return real(a, b, c, d, e, f);                            \
  }
FORWARD(uv_close)
FORWARD(uv_default_loop)
FORWARD(uv_err_name)
FORWARD(uv_ip4_addr)
FORWARD(uv_listen)
FORWARD(uv_queue_work)
FORWARD(uv_read_start)
FORWARD(uv_strerror)
FORWARD(uv_tcp_bind)
FORWARD(uv_tcp_init)
FORWARD(uv_write)

struct uv_buf {
  char* base;
  size_t length;
};

struct uv_buf uv_buf_init(char* base, unsigned length) { return (struct uv_buf){base, length}; }

// ---- 3 ---- (all in the loop's thread)

typedef int (*poll_init_fn)(void*, void*, int);
typedef int (*poll_start_fn)(void*, int, void*);
typedef int (*poll_stop_fn)(void*);
typedef void (*close_fn)(void*, void (*)(void*));

struct poll_handle {
  void* theirs;
  void** ours;  // a uv_poll_t; its first member is its `data`
  struct poll_handle* next;
};

enum { kMoreThanPollHandle = 1024 };
static struct poll_handle* poll_handles;

static struct poll_handle** find_poll_handle(const void* theirs) {
  struct poll_handle** link = &poll_handles;
  while (*link && (*link)->theirs != theirs) link = &(*link)->next;
  return link;
}

int uv_poll_init(void* loop, void* theirs, int fd) {
  const poll_init_fn real = (poll_init_fn)uv_symbol("uv_poll_init");
  if (getenv("HOSTFIX_NOPOLL")) return real(loop, theirs, fd);
  struct poll_handle* handle = calloc(1, sizeof *handle);
  *handle = (struct poll_handle){theirs, calloc(1, kMoreThanPollHandle), poll_handles};
  poll_handles = handle;
  return real(loop, handle->ours, fd);
}

int uv_poll_start(void* theirs, int events, void* callback) {
  const struct poll_handle* handle = *find_poll_handle(theirs);
  if (handle) handle->ours[0] = *(void**)theirs;
  const poll_start_fn real = (poll_start_fn)uv_symbol("uv_poll_start");
  return real(handle ? handle->ours : theirs, events, callback);
}

int uv_poll_stop(void* theirs) {
  struct poll_handle **link = find_poll_handle(theirs), *handle = *link;
  if (!handle) return ((poll_stop_fn)uv_symbol("uv_poll_stop"))(theirs);
  *link = handle->next;
  ((close_fn)uv_symbol("uv_close"))(handle->ours, free);
  free(handle);
  return 0;
}

// ---- 4 ----

int uv_accept(void* server, void* client) {
  const int result = ((int (*)(void*, void*))uv_symbol("uv_accept"))(server, client);
  if (!result && getenv("HOSTFIX_NODELAY")) {
    ((int (*)(void*, int))uv_symbol("uv_tcp_nodelay"))(client, 1);
  }
  return result;
}
