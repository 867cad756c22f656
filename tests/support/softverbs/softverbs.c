/* softverbs.c - a software RDMA "device" between processes of one host, as an LD_PRELOAD shim
 * over the part of libibverbs that InfiniStore uses (RC queue pairs, SEND/RECV, SEND_WITH_IMM,
 * RDMA_READ, RDMA_WRITE[_WITH_IMM], completion channels).  Original code; needs no rdma-core
 * headers, no kernel RDMA, no privileges beyond process_vm_readv/writev on one's own processes.
 *
 *   gcc -O2 -Wall -shared -fPIC -pthread -o softverbs.so softverbs.c hostfix.c -ldl
 *   LD_PRELOAD=$PWD/softverbs.so infinistore --prealloc-size 1 ...         (server)
 *   LD_PRELOAD=$PWD/softverbs.so python client.py                          (RDMA clients)
 *
 * Model.  A queue pair listens on the abstract unix socket "\0softverbs.<qp_num>".  Each direction
 * has its own stream: the sender connects to the peer's socket at RTR, says HELLO and gets back the
 * peer's memory-region table (a memfd); the peer's pid comes from SO_PEERCRED.  A tx thread runs
 * the send queue in order: SENDs are framed onto the stream, RDMA ops are process_vm_readv/writev
 * on the peer after its rkey, range and access are checked.  An rx thread moves frames into posted
 * receives (waits when there is none: infinite RNR retry).  Errors follow RC rules: bad lkey ->
 * LOC_PROT_ERR, bad rkey/range -> REM_ACCESS_ERR and the peer's QP is failed too, dead peer ->
 * RETRY_EXC_ERR on the next send (and, as on hardware, nothing at all on a side that only waits);
 * then WR_FLUSH_ERR.
 *
 * Environment: SOFTVERBS_TRACE=1 log to stderr; SOFTVERBS_DELAY_US=n sleep n us before each RDMA
 * batch.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- the stable libibverbs ABI, as far as it is visible to applications ---- */
struct ibv_device {
  void* ops[2];
  int node_type, transport_type;
  char name[64], dev_name[64], dev_path[256], ibdev_path[256];
};
struct ibv_context {
  struct ibv_device* device;
  void* ops[32];
  int cmd_fd, async_fd, num_comp_vectors;
  pthread_mutex_t mutex;
  void* abi_compat;
};
enum {
  OP_POLL_CQ = 11,
  OP_REQ_NOTIFY = 12,
  OP_POST_SEND = 25,
  OP_POST_RECV = 26
}; /* slots of ops[] */
struct ibv_pd {
  struct ibv_context* context;
  uint32_t handle;
};
struct ibv_mr {
  struct ibv_context* context;
  struct ibv_pd* pd;
  void* addr;
  size_t length;
  uint32_t handle, lkey, rkey;
};
struct ibv_comp_channel {
  struct ibv_context* context;
  int fd, refcnt;
};
struct ibv_cq {
  struct ibv_context* context;
  struct ibv_comp_channel* channel;
  void* cq_context;
  uint32_t handle;
  int cqe;
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  uint32_t comp_ev, async_ev;
};
struct ibv_qp {
  struct ibv_context* context;
  void* qp_context;
  struct ibv_pd* pd;
  struct ibv_cq *send_cq, *recv_cq;
  void* srq;
  uint32_t handle, qp_num;
  int state, qp_type;
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  uint32_t ev;
};
struct ibv_sge {
  uint64_t addr;
  uint32_t length, lkey;
};
struct ibv_send_wr {
  uint64_t wr_id;
  struct ibv_send_wr* next;
  struct ibv_sge* sg_list;
  int num_sge, opcode;
  unsigned send_flags;
  uint32_t imm_data;
  struct {
    uint64_t remote_addr;
    uint32_t rkey;
  } rdma; /* unions follow */
};
struct ibv_recv_wr {
  uint64_t wr_id;
  struct ibv_recv_wr* next;
  struct ibv_sge* sg_list;
  int num_sge;
};
struct ibv_wc {
  uint64_t wr_id;
  int status, opcode;
  uint32_t vendor_err, byte_len, imm_data, qp_num, src_qp;
  unsigned wc_flags;
  uint16_t pkey_index, slid;
  uint8_t sl, dlid_path_bits;
};
struct qp_cap {
  uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline;
};
struct ibv_qp_init_attr {
  void* qp_context;
  struct ibv_cq *send_cq, *recv_cq;
  void* srq;
  struct qp_cap cap;
  int qp_type, sq_sig_all;
};
struct ibv_qp_attr {
  int qp_state, cur, path_mtu, mig;
  uint32_t qkey, rq_psn, sq_psn, dest_qp_num; /* more follows */
};
struct port_attr {
  int state, max_mtu, active_mtu, gid_tbl_len;
  uint32_t caps, max_msg, bp, qv;
  uint16_t pkeys, lid, sm_lid;
  uint8_t lmc, vl, sl, to, ir, aw, as, phys, link_layer, flags;
};
enum { WR_WRITE, WR_WRITE_IMM, WR_SEND, WR_SEND_IMM, WR_READ };
enum { WC_SEND, WC_WRITE, WC_READ, WC_RECV = 128, WC_RECV_RDMA_IMM };
enum { S_OK, S_LOC_LEN = 1, S_LOC_PROT = 4, S_FLUSH = 5, S_REM_ACCESS = 10, S_RETRY_EXC = 12 };
enum { QPS_RESET, QPS_INIT, QPS_RTR, QPS_RTS, QPS_ERR = 6 };
enum { ACC_LOCAL_WRITE = 1, ACC_REMOTE_WRITE = 2, ACC_REMOTE_READ = 4 };
enum { MASK_STATE = 1, SEND_SIGNALED = 2, WC_WITH_IMM = 2, MAXSGE = 4, BATCH = 256 };

static int trace, delay_us;
#define T(...)                                           \
  do {                                                   \
    if (trace) {                                         \
      fprintf(stderr, "softverbs[%d]: ", (int)getpid()); \
      fprintf(stderr, __VA_ARGS__);                      \
      fputc('\n', stderr);                               \
    }                                                    \
  } while (0)

/* ---- memory regions: one table per process, in a memfd that peers map read-only ---- */
enum { NMR = 65536 };
struct mr_ent {
  uint64_t addr, len;
  uint32_t key, access;
};
static struct mr_ent* mrs;
static int mr_fd = -1;
static uint32_t mr_next = 1;
static pthread_mutex_t glk = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void init(void) {
  trace = getenv("SOFTVERBS_TRACE") != NULL;
  delay_us = getenv("SOFTVERBS_DELAY_US") ? atoi(getenv("SOFTVERBS_DELAY_US")) : 0;
}
static int mr_init(void) {
  pthread_mutex_lock(&glk);
  if (!mrs) {
    size_t sz = NMR * sizeof *mrs;
    mr_fd = memfd_create("softverbs-mr", MFD_CLOEXEC);
    if (mr_fd >= 0 && !ftruncate(mr_fd, sz)) {
      void* p = mmap(NULL, sz, PROT_READ | PROT_WRITE, MAP_SHARED, mr_fd, 0);
      if (p != MAP_FAILED) mrs = p;
    }
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0,
          0); /* Yama ptrace_scope=1 hosts; no-op elsewhere */
  }
  pthread_mutex_unlock(&glk);
  return mrs ? 0 : -1;
}
static int mr_ok(const struct mr_ent* tab, uint32_t key, uint64_t addr, uint64_t len,
                 uint32_t access) {
  const struct mr_ent* e = &tab[(key >> 8) % NMR];
  return key && e->key == key && addr >= e->addr && addr + len <= e->addr + e->len &&
         (e->access & access) == access;
}

/* ---- device ---- */
static struct ibv_device dev = {.node_type = 1, .name = "soft0", .dev_name = "uverbs0"};
static struct ibv_device* dev_list[2] = {&dev, NULL};
static int sv_poll_cq(struct ibv_cq*, int, struct ibv_wc*);
static int sv_req_notify(struct ibv_cq*, int);
static int sv_post_send(struct ibv_qp*, struct ibv_send_wr*, struct ibv_send_wr**);
static int sv_post_recv(struct ibv_qp*, struct ibv_recv_wr*, struct ibv_recv_wr**);

static void fake_sysfs(
    void) /* ibv_find_sgid_type() in the extension reads the GID type from sysfs */
{
  static const char* const sub[] = {"", "/ports", "/ports/1", "/ports/1/gid_attrs",
                                    "/ports/1/gid_attrs/types"};
  char p[400];
  int fd;
  snprintf(dev.ibdev_path, sizeof dev.ibdev_path, P_tmpdir "/.softverbs-%d", (int)getuid());
  for (unsigned i = 0; i < sizeof sub / sizeof *sub; i++) {
    snprintf(p, sizeof p, "%s%s", dev.ibdev_path, sub[i]);
    mkdir(p, 0755);
  }
  snprintf(p, sizeof p, "%s/ports/1/gid_attrs/types/0", dev.ibdev_path);
  if ((fd = open(p, O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) >= 0) {
    if (write(fd, "RoCE v2\n", 8) != 8) T("sysfs");
    close(fd);
  }
}
struct ibv_device** ibv_get_device_list(int* n) {
  if (n) *n = 1;
  return dev_list;
}
void ibv_free_device_list(struct ibv_device** l) { (void)l; }
const char* ibv_get_device_name(struct ibv_device* d) { return d->name; }
static int unsupported() { return EOPNOTSUPP; }
struct ibv_context* ibv_open_device(struct ibv_device* d) {
  if (mr_init()) return NULL;
  fake_sysfs();
  struct ibv_context* c = calloc(1, sizeof *c);
  c->device = d;
  c->cmd_fd = c->async_fd = -1;
  c->num_comp_vectors = 1;
  for (int i = 0; i < 32; i++) c->ops[i] = (void*)unsupported;
  c->ops[OP_POLL_CQ] = (void*)sv_poll_cq;
  c->ops[OP_REQ_NOTIFY] = (void*)sv_req_notify;
  c->ops[OP_POST_SEND] = (void*)sv_post_send;
  c->ops[OP_POST_RECV] = (void*)sv_post_recv;
  return c; /* abi_compat stays NULL: the inline wrappers then use the plain entry points below */
}
int ibv_close_device(struct ibv_context* c) {
  free(c);
  return 0;
}
int ibv_query_port(struct ibv_context* c, uint8_t port, struct port_attr* a) {
  (void)c;
  (void)port;
  a->state = 4;
  a->max_mtu = a->active_mtu = 5;
  a->gid_tbl_len = 1;
  a->max_msg = 1u << 30;
  a->pkeys = 1;
  a->lid = 1;
  a->phys = 5;
  a->link_layer = 0; /* UNSPECIFIED: accepted with --link-type IB and with Ethernet */
  return 0;
}
int ibv_query_gid(struct ibv_context* c, uint8_t port, int idx, uint8_t gid[16]) {
  static const uint8_t v4[16] = {[10] = 0xff, 0xff, 127, 0, 0, 1};
  (void)c;
  (void)port;
  if (idx) {
    errno = EINVAL;
    return -1;
  }
  memcpy(gid, v4, 16);
  return 0;
}
struct ibv_pd* ibv_alloc_pd(struct ibv_context* c) {
  struct ibv_pd* p = calloc(1, sizeof *p);
  p->context = c;
  return p;
}
int ibv_dealloc_pd(struct ibv_pd* p) {
  free(p);
  return 0;
}
struct ibv_mr* ibv_reg_mr(struct ibv_pd* pd, void* addr, size_t len, int access) {
  struct ibv_mr* m = calloc(1, sizeof *m);
  uint32_t i = 0, k;
  pthread_mutex_lock(&glk);
  for (k = 0; k < NMR; k++) {
    i = (mr_next + k) % NMR;
    if (i && !mrs[i].key) break;
  }
  if (k < NMR) {
    static uint8_t gen;
    mr_next = i + 1;
    mrs[i] = (struct mr_ent){(uint64_t)addr, len, 0, access};
    __atomic_store_n(&mrs[i].key, i << 8 | gen++, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&glk);
  if (k == NMR) {
    free(m);
    errno = ENOMEM;
    return NULL;
  }
  m->context = pd->context;
  m->pd = pd;
  m->addr = addr;
  m->length = len;
  m->handle = i;
  m->lkey = m->rkey = mrs[i].key;
  return m;
}
int ibv_dereg_mr(struct ibv_mr* m) {
  __atomic_store_n(&mrs[m->handle].key, 0, __ATOMIC_RELEASE);
  free(m);
  return 0;
}

/* ---- completion channel (a pipe: must never poll writable, the server asks for UV_WRITABLE) and
 * CQ ---- */
struct chan {
  struct ibv_comp_channel b;
  int wfd;
};
struct cq {
  struct ibv_cq b;
  pthread_mutex_t lk;
  struct ibv_wc* ring;
  unsigned head, n, cap;
  int armed;
};
struct ibv_comp_channel* ibv_create_comp_channel(struct ibv_context* c) {
  int fd[2];
  if (pipe2(fd, O_CLOEXEC)) return NULL;
  struct chan* h = calloc(1, sizeof *h);
  h->b.context = c;
  h->b.fd = fd[0];
  h->wfd = fd[1];
  return &h->b;
}
int ibv_destroy_comp_channel(struct ibv_comp_channel* b) {
  struct chan* h = (void*)b;
  close(b->fd);
  close(h->wfd);
  free(h);
  return 0;
}
struct ibv_cq* ibv_create_cq(struct ibv_context* c, int cqe, void* ctx, struct ibv_comp_channel* ch,
                             int vec) {
  struct cq* q = calloc(1, sizeof *q);
  (void)vec;
  q->b.context = c;
  q->b.channel = ch;
  q->b.cq_context = ctx;
  q->b.cqe = cqe;
  q->cap = cqe + 1024;
  q->ring = malloc(q->cap * sizeof *q->ring);
  pthread_mutex_init(&q->lk, NULL);
  return &q->b;
}
int ibv_destroy_cq(struct ibv_cq* b) {
  struct cq* q = (void*)b;
  free(q->ring);
  free(q);
  return 0;
}
static void cq_push(struct ibv_cq* b, const struct ibv_wc* wc) {
  struct cq* q = (void*)b;
  pthread_mutex_lock(&q->lk);
  if (q->n == q->cap)
    fprintf(stderr, "softverbs: CQ overrun, completion lost\n");
  else {
    q->ring[(q->head + q->n++) % q->cap] = *wc;
  }
  if (q->armed && b->channel) {
    q->armed = 0;
    if (write(((struct chan*)b->channel)->wfd, &b, sizeof b) != sizeof b) perror("softverbs");
  }
  pthread_mutex_unlock(&q->lk);
}
static int sv_poll_cq(struct ibv_cq* b, int n, struct ibv_wc* wc) {
  struct cq* q = (void*)b;
  int k = 0;
  pthread_mutex_lock(&q->lk);
  for (; k < n && q->n; k++, q->n--) {
    wc[k] = q->ring[q->head];
    q->head = (q->head + 1) % q->cap;
  }
  pthread_mutex_unlock(&q->lk);
  return k;
}
static int sv_req_notify(struct ibv_cq* b, int solicited) {
  struct cq* q = (void*)b;
  (void)solicited;
  pthread_mutex_lock(&q->lk);
  q->armed = 1;
  pthread_mutex_unlock(&q->lk);
  return 0;
}
int ibv_get_cq_event(struct ibv_comp_channel* ch, struct ibv_cq** cq, void** ctx) {
  struct ibv_cq* b;
  if (read(ch->fd, &b, sizeof b) != sizeof b) return -1;
  *cq = b;
  *ctx = b->cq_context;
  return 0;
}
void ibv_ack_cq_events(struct ibv_cq* b, unsigned n) {
  (void)b;
  (void)n;
}
const char* ibv_wc_status_str(int s) {
  static const char* const t[] = {[S_OK] = "success",
                                  [S_LOC_LEN] = "local length error",
                                  [S_LOC_PROT] = "local protection error",
                                  [S_FLUSH] = "Work Request Flushed Error",
                                  [S_REM_ACCESS] = "remote access error",
                                  [S_RETRY_EXC] = "transport retry counter exceeded"};
  return s >= 0 && s <= S_RETRY_EXC && t[s] ? t[s] : "unknown";
}

/* ---- queue pairs ---- */
struct swr {
  uint64_t id, raddr;
  uint32_t imm, rkey;
  int op, nsge;
  unsigned flags;
  struct ibv_sge sge[MAXSGE];
};
struct rwr {
  uint64_t id;
  int nsge;
  struct ibv_sge sge[MAXSGE];
};
struct frame {
  uint32_t type, len, imm, pad;
}; /* type: WR_SEND, WR_SEND_IMM, WR_WRITE_IMM, F_NAK */
struct hello {
  uint32_t magic, src, dst;
};
enum { F_NAK = 100, MAGIC = 0x53565231 };
struct qp {
  struct ibv_qp b;
  pthread_mutex_t lk;
  pthread_cond_t cv;
  int lfd, rfd, sfd, stop, sig_all, rx_on, tx_on;
  uint32_t dst;
  pid_t peer;
  struct mr_ent* peer_mrs;
  struct swr* sq;
  unsigned sh, sn, scap;
  struct rwr* rq;
  unsigned rh, rn, rcap;
  pthread_t rx, tx;
};
static socklen_t sv_addr(struct sockaddr_un* a, uint32_t qpn) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  return offsetof(struct sockaddr_un, sun_path) + 1 + sprintf(a->sun_path + 1, "softverbs.%u", qpn);
}
static int io_all(int fd, struct iovec* v, int n, int out) {
  while (n) {
    struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
    ssize_t r = out ? sendmsg(fd, &m, MSG_NOSIGNAL) : recvmsg(fd, &m, MSG_WAITALL);
    if (r < 0 && errno == EINTR) continue;
    if (r <= 0) return -1;
    for (; n && (size_t)r >= v->iov_len; v++, n--) r -= v->iov_len;
    if (n) {
      v->iov_base = (char*)v->iov_base + r;
      v->iov_len -= r;
    }
  }
  return 0;
}
static void qp_error(struct qp* q) /* -> ERR: flush the receives; tx flushes the sends */
{
  pthread_mutex_lock(&q->lk);
  q->b.state = QPS_ERR;
  for (; q->rn; q->rn--, q->rh = (q->rh + 1) % q->rcap) {
    struct ibv_wc wc = {
        .wr_id = q->rq[q->rh].id, .status = S_FLUSH, .opcode = WC_RECV, .qp_num = q->b.qp_num};
    cq_push(q->b.recv_cq, &wc);
  }
  pthread_cond_broadcast(&q->cv);
  pthread_mutex_unlock(&q->lk);
}
static int peer_connect(struct qp* q) {
  struct sockaddr_un a;
  socklen_t al = sv_addr(&a, q->dst);
  struct ucred cr;
  socklen_t cl = sizeof cr;
  struct hello h = {MAGIC, q->b.qp_num, q->dst};
  struct iovec v = {&h, sizeof h};
  int big = 4 << 20, mfd = -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pthread_mutex_lock(&q->lk);
  q->sfd = fd;
  pthread_mutex_unlock(&q->lk);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
  if (connect(fd, (void*)&a, al) || io_all(fd, &v, 1, 1)) return -1;
  union {
    char b[CMSG_SPACE(sizeof(int))];
    struct cmsghdr c;
  } cb;
  v = (struct iovec){&h, sizeof h};
  struct msghdr m = {
      .msg_iov = &v, .msg_iovlen = 1, .msg_control = &cb, .msg_controllen = sizeof cb};
  if (recvmsg(fd, &m, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof h || h.magic != MAGIC) return -1;
  for (struct cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
      memcpy(&mfd, CMSG_DATA(c), sizeof mfd);
  if (mfd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cr, &cl)) return -1;
  void* p = mmap(NULL, NMR * sizeof *mrs, PROT_READ, MAP_SHARED, mfd, 0);
  close(mfd);
  if (p == MAP_FAILED) return -1;
  q->peer_mrs = p;
  q->peer = cr.pid;
  T("qp %u -> qp %u of pid %d", q->b.qp_num, q->dst, cr.pid);
  return 0;
}
/* One-sided transfer of k consecutive work requests; returns how many succeeded, *st for the first
 * that did not. */
static int do_rdma(struct qp* q, struct swr* const* w, int k, int* st) {
  static __thread struct iovec lv[BATCH * MAXSGE], rv[BATCH];
  int rd = w[0]->op == WR_READ, i, nl = 0, nr = 0;
  size_t want = 0;
  *st = S_OK;
  if (delay_us) usleep(delay_us);
  for (i = 0; i < k && !*st; i++) {
    size_t len = 0;
    int n0 = nl;
    for (int s = 0; s < w[i]->nsge; s++) {
      const struct ibv_sge* g = &w[i]->sge[s];
      if (g->length && !mr_ok(mrs, g->lkey, g->addr, g->length, rd ? ACC_LOCAL_WRITE : 0))
        *st = S_LOC_PROT;
      lv[nl++] = (struct iovec){(void*)g->addr, g->length};
      len += g->length;
    }
    if (!*st && len &&
        !mr_ok(q->peer_mrs, w[i]->rkey, w[i]->raddr, len, rd ? ACC_REMOTE_READ : ACC_REMOTE_WRITE))
      *st = S_REM_ACCESS;
    if (*st) {
      nl = n0;
      break;
    }
    rv[nr++] = (struct iovec){(void*)w[i]->raddr, len};
    want += len;
  }
  if (!want) return i;
  ssize_t r = rd ? process_vm_readv(q->peer, lv, nl, rv, nr, 0)
                 : process_vm_writev(q->peer, lv, nl, rv, nr, 0);
  if (r == (ssize_t)want) return i;
  *st = r < 0 && errno == ESRCH ? S_RETRY_EXC : S_REM_ACCESS;
  if (r < 0 && errno == EPERM)
    fprintf(stderr, "softverbs: process_vm_* on pid %d refused (ptrace rights)\n", q->peer);
  size_t got = r > 0 ? r : 0;
  int okc = 0; /* short copy: an unmapped page on the peer */
  while (okc < nr && got >= rv[okc].iov_len) got -= rv[okc++].iov_len;
  return okc;
}
static void* tx_main(void* arg) {
  struct qp* q = arg;
  int dead = peer_connect(q);
  struct swr* w[BATCH];
  struct ibv_wc wc[BATCH];
  if (dead) T("qp %u: cannot reach qp %u: %s", q->b.qp_num, q->dst, strerror(errno));
  for (;;) {
    pthread_mutex_lock(&q->lk);
    while (!q->stop && !q->sn) pthread_cond_wait(&q->cv, &q->lk);
    if (q->stop) {
      pthread_mutex_unlock(&q->lk);
      return NULL;
    }
    int k = 1, st = dead ? S_RETRY_EXC : S_OK, ok = 0, nwc = 0, err = q->b.state == QPS_ERR;
    size_t bytes = 0;
    w[0] = &q->sq[q->sh];
    int rdma = w[0]->op == WR_READ || w[0]->op == WR_WRITE;
    while (rdma && k < BATCH && (unsigned)k < q->sn && bytes < (64u << 20) &&
           q->sq[(q->sh + k) % q->scap].op == w[0]->op) {
      w[k] = &q->sq[(q->sh + k) % q->scap];
      for (int s = 0; s < w[k]->nsge; s++) bytes += w[k]->sge[s].length;
      k++;
    }
    pthread_mutex_unlock(&q->lk);
    if (err)
      st = S_FLUSH;
    else if (!st && rdma)
      ok = do_rdma(q, w, k, &st);
    else if (!st) {
      struct frame f = {.type = w[0]->op, .imm = w[0]->imm};
      struct iovec v[1 + MAXSGE] = {{&f, sizeof f}};
      if (w[0]->op == WR_WRITE_IMM) {
        if (do_rdma(q, w, 1, &st) == 1 && io_all(q->sfd, v, 1, 1)) st = S_RETRY_EXC;
      } else {
        int n = 1;
        for (int s = 0; s < w[0]->nsge; s++) {
          const struct ibv_sge* g = &w[0]->sge[s];
          if (g->length && !mr_ok(mrs, g->lkey, g->addr, g->length, 0)) st = S_LOC_PROT;
          v[n++] = (struct iovec){(void*)g->addr, g->length};
          f.len += g->length;
        }
        if (!st && io_all(q->sfd, v, n, 1)) st = S_RETRY_EXC;
      }
      ok = !st;
    }
    if (st == S_REM_ACCESS) {
      struct frame f = {.type = F_NAK};
      struct iovec v = {&f, sizeof f};
      io_all(q->sfd, &v, 1, 1);
    }
    int done = err ? 1 : ok + (st != S_OK);
    for (int i = 0; i < done; i++) {
      int bad = i >= ok, op = w[i]->op;
      if (bad || q->sig_all || (w[i]->flags & SEND_SIGNALED))
        wc[nwc++] = (struct ibv_wc){.wr_id = w[i]->id,
                                    .status = bad ? st : S_OK,
                                    .qp_num = q->b.qp_num,
                                    .opcode = op == WR_READ                        ? WC_READ
                                              : op == WR_SEND || op == WR_SEND_IMM ? WC_SEND
                                                                                   : WC_WRITE};
    }
    pthread_mutex_lock(&q->lk);
    q->sh = (q->sh + done) % q->scap;
    q->sn -= done;
    pthread_mutex_unlock(&q->lk);
    if (st && !err) T("qp %u: %s", q->b.qp_num, ibv_wc_status_str(st));
    for (int i = 0; i < nwc; i++) cq_push(q->b.send_cq, &wc[i]);
    if (st && !err) qp_error(q);
  }
}
static int rx_frame(struct qp* q) {
  struct frame f;
  struct iovec v[MAXSGE + 1] = {{&f, sizeof f}};
  struct rwr r;
  size_t room = 0;
  int n = 0;
  if (io_all(q->rfd, v, 1, 0)) return -1;
  if (f.type == F_NAK) {
    qp_error(q);
    return 0;
  }
  pthread_mutex_lock(&q->lk);
  while (!q->stop && !q->rn && q->b.state != QPS_ERR) pthread_cond_wait(&q->cv, &q->lk);
  if (q->stop || q->b.state == QPS_ERR) {
    pthread_mutex_unlock(&q->lk);
    return -1;
  }
  r = q->rq[q->rh];
  q->rh = (q->rh + 1) % q->rcap;
  q->rn--;
  pthread_mutex_unlock(&q->lk);
  struct ibv_wc wc = {.wr_id = r.id,
                      .opcode = f.type == WR_WRITE_IMM ? WC_RECV_RDMA_IMM : WC_RECV,
                      .byte_len = f.len,
                      .imm_data = f.imm,
                      .qp_num = q->b.qp_num,
                      .src_qp = q->dst,
                      .wc_flags = f.type == WR_SEND ? 0 : WC_WITH_IMM};
  for (size_t left = f.len; n < r.nsge && left; n++) {
    size_t l = r.sge[n].length < left ? r.sge[n].length : left;
    if (!mr_ok(mrs, r.sge[n].lkey, r.sge[n].addr, r.sge[n].length, ACC_LOCAL_WRITE)) {
      wc.status = S_LOC_PROT;
      break;
    }
    v[n] = (struct iovec){(void*)r.sge[n].addr, l};
    left -= l;
    room += l;
  }
  if (!wc.status && room < f.len) wc.status = S_LOC_LEN;
  if (!wc.status && n && io_all(q->rfd, v, n, 0)) return -1;
  cq_push(q->b.recv_cq, &wc);
  if (wc.status) {
    qp_error(q);
    return -1;
  }
  return 0;
}
static void* rx_main(void* arg) {
  struct qp* q = arg;
  struct hello h;
  int fd;
  while ((fd = accept4(q->lfd, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR) {
    if (fd < 0) continue;
    pthread_mutex_lock(&q->lk);
    q->rfd = fd;
    if (q->stop) shutdown(fd, SHUT_RDWR);
    pthread_mutex_unlock(&q->lk);
    struct iovec v = {&h, sizeof h};
    if (!io_all(fd, &v, 1, 0) && h.magic == MAGIC && h.dst == q->b.qp_num) {
      union {
        char b[CMSG_SPACE(sizeof(int))];
        struct cmsghdr c;
      } cb = {.b = {0}};
      v = (struct iovec){&h, sizeof h};
      struct msghdr m = {
          .msg_iov = &v, .msg_iovlen = 1, .msg_control = &cb, .msg_controllen = sizeof cb};
      cb.c.cmsg_level = SOL_SOCKET;
      cb.c.cmsg_type = SCM_RIGHTS;
      cb.c.cmsg_len = CMSG_LEN(sizeof(int));
      memcpy(CMSG_DATA(&cb.c), &mr_fd, sizeof mr_fd);
      if (sendmsg(fd, &m, MSG_NOSIGNAL) == sizeof h)
        while (!rx_frame(q)) {
        }
    }
    T("qp %u: peer stream ended", q->b.qp_num);
    pthread_mutex_lock(&q->lk);
    q->rfd = -1;
    pthread_mutex_unlock(&q->lk);
    close(fd);
  }
  return NULL;
}
struct ibv_qp* ibv_create_qp(struct ibv_pd* pd, struct ibv_qp_init_attr* ia) {
  if (ia->qp_type != 2 /* RC */ || ia->cap.max_send_sge > MAXSGE || ia->cap.max_recv_sge > MAXSGE) {
    errno = EINVAL;
    return NULL;
  }
  struct qp* q = calloc(1, sizeof *q);
  struct sockaddr_un a;
  uint32_t n = (uint32_t)getpid() * 64 ^ (uint32_t)(uintptr_t)q >> 4;
  q->lfd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  q->rfd = q->sfd = -1;
  do n = (n + 1) & 0xffffff;
  while (n < 16 || (bind(q->lfd, (void*)&a, sv_addr(&a, n)) && errno == EADDRINUSE));
  if (listen(q->lfd, 4)) {
    close(q->lfd);
    free(q);
    return NULL;
  }
  pthread_mutex_init(&q->lk, NULL);
  pthread_cond_init(&q->cv, NULL);
  q->b.context = pd->context;
  q->b.pd = pd;
  q->b.qp_context = ia->qp_context;
  q->b.send_cq = ia->send_cq;
  q->b.recv_cq = ia->recv_cq;
  q->b.qp_num = n;
  q->b.qp_type = ia->qp_type;
  q->b.state = QPS_RESET;
  q->sig_all = ia->sq_sig_all;
  q->scap = ia->cap.max_send_wr;
  q->rcap = ia->cap.max_recv_wr;
  q->sq = calloc(q->scap, sizeof *q->sq);
  q->rq = calloc(q->rcap, sizeof *q->rq);
  return &q->b;
}
static void qp_stop(struct qp* q) {
  pthread_mutex_lock(&q->lk);
  q->stop = 1;
  pthread_cond_broadcast(&q->cv);
  shutdown(q->lfd, SHUT_RDWR);
  if (q->rfd >= 0) shutdown(q->rfd, SHUT_RDWR);
  if (q->sfd >= 0) shutdown(q->sfd, SHUT_RDWR);
  pthread_mutex_unlock(&q->lk);
  if (q->tx_on) pthread_join(q->tx, NULL);
  if (q->rx_on) pthread_join(q->rx, NULL);
  q->tx_on = q->rx_on = 0;
  q->sn = q->rn = 0;
}
int ibv_modify_qp(struct ibv_qp* b, struct ibv_qp_attr* at, int mask) {
  struct qp* q = (void*)b;
  if (!(mask & MASK_STATE)) return 0;
  if (at->qp_state == QPS_ERR) {
    qp_error(q);
    return 0;
  }
  if (at->qp_state == QPS_RESET) qp_stop(q); /* only used right before destroy */
  if (at->qp_state == QPS_INIT && !q->rx_on) q->rx_on = !pthread_create(&q->rx, NULL, rx_main, q);
  if (at->qp_state == QPS_RTR && !q->tx_on) {
    q->dst = at->dest_qp_num;
    q->tx_on = !pthread_create(&q->tx, NULL, tx_main, q);
  }
  b->state = at->qp_state;
  return 0;
}
int ibv_destroy_qp(struct ibv_qp* b) {
  struct qp* q = (void*)b;
  qp_stop(q);
  close(q->lfd);
  if (q->sfd >= 0) close(q->sfd);
  if (q->peer_mrs) munmap(q->peer_mrs, NMR * sizeof *mrs);
  free(q->sq);
  free(q->rq);
  free(q);
  return 0;
}
static int sv_post_send(struct ibv_qp* b, struct ibv_send_wr* w, struct ibv_send_wr** bad) {
  struct qp* q = (void*)b;
  int rc = 0;
  pthread_mutex_lock(&q->lk);
  for (; w; w = w->next) {
    if (q->sn == q->scap)
      rc = ENOMEM;
    else if (b->state < QPS_RTS || w->num_sge < 0 || w->num_sge > MAXSGE || w->opcode < 0 ||
             w->opcode > WR_READ)
      rc = EINVAL;
    if (rc) {
      *bad = w;
      break;
    }
    struct swr* s = &q->sq[(q->sh + q->sn++) % q->scap];
    *s = (struct swr){w->wr_id,  w->rdma.remote_addr, w->imm_data,   w->rdma.rkey,
                      w->opcode, w->num_sge,          w->send_flags, {{0}}};
    if (w->num_sge) memcpy(s->sge, w->sg_list, w->num_sge * sizeof *s->sge);
  }
  pthread_cond_broadcast(&q->cv);
  pthread_mutex_unlock(&q->lk);
  return rc;
}
static int sv_post_recv(struct ibv_qp* b, struct ibv_recv_wr* w, struct ibv_recv_wr** bad) {
  struct qp* q = (void*)b;
  int rc = 0;
  pthread_mutex_lock(&q->lk);
  for (; w; w = w->next) {
    if (b->state == QPS_ERR) {
      struct ibv_wc wc = {
          .wr_id = w->wr_id, .status = S_FLUSH, .opcode = WC_RECV, .qp_num = b->qp_num};
      cq_push(b->recv_cq, &wc);
      continue;
    }
    if (q->rn == q->rcap)
      rc = ENOMEM;
    else if (b->state < QPS_INIT || w->num_sge < 0 || w->num_sge > MAXSGE)
      rc = EINVAL;
    if (rc) {
      *bad = w;
      break;
    }
    struct rwr* r = &q->rq[(q->rh + q->rn++) % q->rcap];
    r->id = w->wr_id;
    r->nsge = w->num_sge;
    if (w->num_sge) memcpy(r->sge, w->sg_list, w->num_sge * sizeof *r->sge);
  }
  pthread_cond_broadcast(&q->cv);
  pthread_mutex_unlock(&q->lk);
  return rc;
}
