#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

// KV_CHECK guards invariants of our own making, in every build: a cache that has lost its bearings
// must stop before it serves a wrong block. A caller's input is never checked with it; that gives
// an error which names the argument. KV_DCHECK is for what the hot path cannot afford: debug and
// sanitizer builds only.
#define KV_CHECK(condition)                                                                 \
  do {                                                                                      \
    if (!(condition)) [[unlikely]] {                                                        \
      std::fprintf(stderr, "%s:%d: KV_CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                         \
    }                                                                                       \
  } while (false)

#ifdef NDEBUG
#define KV_DCHECK(condition) \
  do {                       \
  } while (false)
#else
#define KV_DCHECK(condition) KV_CHECK(condition)
#endif

// For check_invariants() alone: what is broken is reported to the test that asked.
#define KV_INVARIANT(condition)                                                \
  do {                                                                         \
    if (!(condition)) throw std::logic_error("broken invariant: " #condition); \
  } while (false)
