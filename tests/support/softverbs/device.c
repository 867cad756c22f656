// The device, protection domains and memory regions.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "softverbs.h"

bool sv_traces;
int sv_delay_us;
struct region* sv_regions;
int sv_regions_fd = -1;

static uint32_t next_region = 1;
static pthread_mutex_t regions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ibv_device device = {.node_type = 1, .name = "soft0", .dev_name = "uverbs0"};
static struct ibv_device* device_list[2] = {&device, NULL};

__attribute__((constructor)) static void read_environment(void) {
  sv_traces = getenv("SOFTVERBS_TRACE") != NULL;
  const char* delay = getenv("SOFTVERBS_DELAY_US");
  sv_delay_us = delay ? atoi(delay) : 0;
}

// InfiniStore reads the type of the GID there by itself.
static void make_sysfs(void) {
  static const char* const folders[] = {"", "/ports", "/ports/1", "/ports/1/gid_attrs",
                                        "/ports/1/gid_attrs/types"};
  char path[400];
  snprintf(device.ibdev_path, sizeof device.ibdev_path, P_tmpdir "/.softverbs-%d", (int)getuid());
  for (unsigned i = 0; i < sizeof folders / sizeof *folders; i++) {
    snprintf(path, sizeof path, "%s%s", device.ibdev_path, folders[i]);
    mkdir(path, 0755);
  }
  snprintf(path, sizeof path, "%s/ports/1/gid_attrs/types/0", device.ibdev_path);
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return;
  if (write(fd, "RoCE v2\n", 8) != 8) SV_TRACE("cannot write %s", path);
  close(fd);
}

struct ibv_device** ibv_get_device_list(int* num_devices) {
  if (num_devices) *num_devices = 1;
  return device_list;
}

void ibv_free_device_list(struct ibv_device** list) { (void)list; }

const char* ibv_get_device_name(struct ibv_device* d) { return d->name; }

static int unsupported(void) { return EOPNOTSUPP; }

struct ibv_context* ibv_open_device(struct ibv_device* d) {
  if (!sv_open_regions()) return NULL;
  make_sysfs();
  // abi_compat stays null: the inline functions then call the plain entry points below.
  struct ibv_context* context = calloc(1, sizeof *context);
  context->device = d;
  context->cmd_fd = context->async_fd = -1;
  context->num_comp_vectors = 1;
  for (int i = 0; i < kNumOps; i++) context->ops[i] = (void*)unsupported;
  context->ops[kOpPollCq] = (void*)sv_poll_cq;
  context->ops[kOpReqNotifyCq] = (void*)sv_req_notify_cq;
  context->ops[kOpPostSend] = (void*)sv_post_send;
  context->ops[kOpPostRecv] = (void*)sv_post_recv;
  return context;
}

int ibv_close_device(struct ibv_context* context) {
  free(context);
  return 0;
}

int ibv_query_port(struct ibv_context* context, uint8_t port, struct ibv_port_attr* attr) {
  (void)context;
  (void)port;
  attr->state = 4;                       // active
  attr->max_mtu = attr->active_mtu = 5;  // 4096
  attr->gid_tbl_len = attr->pkey_tbl_len = attr->lid = 1;
  attr->max_msg_sz = 1u << 30;
  attr->phys_state = 5;  // link up
  attr->link_layer = 0;  // unspecified: goes with --link-type IB and with Ethernet
  return 0;
}

int ibv_query_gid(struct ibv_context* context, uint8_t port, int index, uint8_t gid[16]) {
  static const uint8_t loopback[16] = {[10] = 0xff, 0xff, 127, 0, 0, 1};
  (void)context;
  (void)port;
  if (index) {
    errno = EINVAL;
    return -1;
  }
  memcpy(gid, loopback, 16);
  return 0;
}

struct ibv_pd* ibv_alloc_pd(struct ibv_context* context) {
  struct ibv_pd* pd = calloc(1, sizeof *pd);
  pd->context = context;
  return pd;
}

int ibv_dealloc_pd(struct ibv_pd* pd) {
  free(pd);
  return 0;
}

bool sv_open_regions(void) {
  pthread_mutex_lock(&regions_lock);
  if (!sv_regions) {
    sv_regions_fd = memfd_create("softverbs-regions", MFD_CLOEXEC);
    if (sv_regions_fd >= 0 && !ftruncate(sv_regions_fd, kRegionTableBytes)) {
      void* table =
          mmap(NULL, kRegionTableBytes, PROT_READ | PROT_WRITE, MAP_SHARED, sv_regions_fd, 0);
      if (table != MAP_FAILED) sv_regions = table;
    }
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);  // for hosts with Yama's ptrace_scope=1
  }
  pthread_mutex_unlock(&regions_lock);
  return sv_regions != NULL;
}

bool sv_may(const struct region* table, uint32_t key, uint64_t addr, uint64_t length,
            uint32_t access) {
  const struct region* region = &table[(key >> 8) % kNumRegions];
  return key && region->key == key && addr >= region->addr &&
         addr + length <= region->addr + region->length && (region->access & access) == access;
}

// A key is the index of its entry and, in the lowest byte, how often keys were given: an old one
// fails.
struct ibv_mr* ibv_reg_mr(struct ibv_pd* pd, void* addr, size_t length, int access) {
  static uint8_t generation;
  struct ibv_mr* mr = calloc(1, sizeof *mr);
  uint32_t index = 0, tried = 0;
  pthread_mutex_lock(&regions_lock);
  for (; tried < kNumRegions; tried++) {
    index = (next_region + tried) % kNumRegions;
    if (index && !sv_regions[index].key) break;
  }
  bool found = tried < kNumRegions;
  if (found) {
    next_region = index + 1;
    sv_regions[index] = (struct region){(uint64_t)addr, length, 0, access};
    __atomic_store_n(&sv_regions[index].key, index << 8 | generation++, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&regions_lock);
  if (!found) {
    free(mr);
    errno = ENOMEM;
    return NULL;
  }
  mr->context = pd->context;
  mr->pd = pd;
  mr->addr = addr;
  mr->length = length;
  mr->handle = index;
  mr->lkey = mr->rkey = sv_regions[index].key;
  return mr;
}

int ibv_dereg_mr(struct ibv_mr* mr) {
  __atomic_store_n(&sv_regions[mr->handle].key, 0, __ATOMIC_RELEASE);
  free(mr);
  return 0;
}
