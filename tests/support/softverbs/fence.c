// fence.c - keeps a server under test to itself: preloaded, it
//  1. binds to loopback what would be bound to every interface (the server listens on 0.0.0.0
//     whatever its --host);
//  2. with FENCE_PARENT=pid, kills the process when that parent has died, however it died.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int (*bind_fn)(int, const struct sockaddr*, socklen_t);

int bind(int fd, const struct sockaddr* address, socklen_t length) {
  static bind_fn real;
  if (!real) real = (bind_fn)dlsym(RTLD_NEXT, "bind");
  struct sockaddr_storage fenced;
  if (length > sizeof fenced) return real(fd, address, length);
  memcpy(&fenced, address, length);
  if (fenced.ss_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
    struct sockaddr_in* v4 = (struct sockaddr_in*)&fenced;
    if (v4->sin_addr.s_addr == htonl(INADDR_ANY)) v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  } else if (fenced.ss_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
    struct sockaddr_in6* v6 = (struct sockaddr_in6*)&fenced;
    if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) v6->sin6_addr = in6addr_loopback;
  }
  return real(fd, (const struct sockaddr*)&fenced, length);
}

__attribute__((constructor)) static void die_with_the_parent(void) {
  const char* parent = getenv("FENCE_PARENT");
  if (!parent) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != atoi(parent)) raise(SIGKILL);  // it was gone before the line above
}
