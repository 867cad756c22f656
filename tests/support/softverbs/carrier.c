// The two threads of a queue pair: one works off its sends, one moves frames into its receives.
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "softverbs.h"

enum { kMaxBatch = 256, kMaxBatchBytes = 64 << 20, kStreamBytes = 4 << 20 };
enum { kMagic = 0x53565231, kFrameNak = 100 };

struct hello {
  uint32_t magic, from, to;
};
struct frame {
  uint32_t type, length, imm_data, padding;  // type: an IBV_WR_..., or kFrameNak
};
union fd_message {
  char bytes[CMSG_SPACE(sizeof(int))];
  struct cmsghdr header;
};

unsigned sv_address(struct sockaddr_un* address, uint32_t qp_num) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  return offsetof(struct sockaddr_un, sun_path) + 1 +
         sprintf(address->sun_path + 1, "softverbs.%u", qp_num);
}

static bool move_all(int fd, struct iovec* parts, int num_parts, bool sends) {
  while (num_parts) {
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = num_parts};
    ssize_t moved =
        sends ? sendmsg(fd, &message, MSG_NOSIGNAL) : recvmsg(fd, &message, MSG_WAITALL);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    for (; num_parts && (size_t)moved >= parts->iov_len; parts++, num_parts--) {
      moved -= parts->iov_len;
    }
    if (num_parts) {
      parts->iov_base = (char*)parts->iov_base + moved;
      parts->iov_len -= moved;
    }
  }
  return true;
}

static bool send_one(int fd, void* data, size_t length) {
  struct iovec part = {data, length};
  return move_all(fd, &part, 1, true);
}

static bool receive_one(int fd, void* data, size_t length) {
  struct iovec part = {data, length};
  return move_all(fd, &part, 1, false);
}

// ---- the sender ----

// Receives the peer's hello and maps the table of regions that comes with it.
static bool take_regions(struct queue_pair* qp) {
  struct hello hello;
  struct iovec part = {&hello, sizeof hello};
  union fd_message control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(qp->send_fd, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof hello ||
      hello.magic != kMagic) {
    return false;
  }
  int fd = -1;
  for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
      memcpy(&fd, CMSG_DATA(c), sizeof fd);
    }
  }
  if (fd < 0) return false;
  void* table = mmap(NULL, kRegionTableBytes, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (table == MAP_FAILED) return false;
  qp->peer_regions = table;
  return true;
}

static bool connect_to_peer(struct queue_pair* qp) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), size = kStreamBytes;
  pthread_mutex_lock(&qp->lock);
  qp->send_fd = fd;
  pthread_mutex_unlock(&qp->lock);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  struct sockaddr_un address;
  const socklen_t length = sv_address(&address, qp->peer_num);
  struct hello hello = {kMagic, qp->base.qp_num, qp->peer_num};
  struct ucred peer;
  socklen_t peer_length = sizeof peer;
  if (connect(fd, (void*)&address, length) || !send_one(fd, &hello, sizeof hello) ||
      !take_regions(qp) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_length)) {
    return false;
  }
  qp->peer_pid = peer.pid;
  SV_TRACE("qp %u -> qp %u of pid %d", qp->base.qp_num, qp->peer_num, peer.pid);
  return true;
}

// Moves `num` requests of one kind at once. Returns how many went well, and of the first that did
// not its status.
static int move_memory(const struct queue_pair* qp, struct send_request* const* requests, int num,
                       int* status) {
  static __thread struct iovec local[kMaxBatch * kMaxSge], remote[kMaxBatch];
  const bool reads = requests[0]->opcode == IBV_WR_RDMA_READ;
  int num_local = 0, num_remote = 0;
  size_t wanted = 0;
  *status = IBV_WC_SUCCESS;
  if (sv_delay_us) usleep(sv_delay_us);
  for (int i = 0; i < num; i++) {
    const struct send_request* r = requests[i];
    const int first_local = num_local;
    size_t length = 0;
    for (int s = 0; s < r->num_sge; s++) {
      const struct ibv_sge* sge = &r->sge[s];
      if (sge->length && !sv_may(sv_regions, sge->lkey, sge->addr, sge->length,
                                 reads ? IBV_ACCESS_LOCAL_WRITE : 0)) {
        *status = IBV_WC_LOC_PROT_ERR;
      }
      local[num_local++] = (struct iovec){(void*)sge->addr, sge->length};
      length += sge->length;
    }
    if (!*status && length &&
        !sv_may(qp->peer_regions, r->rkey, r->remote_addr, length,
                reads ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE)) {
      *status = IBV_WC_REM_ACCESS_ERR;
    }
    if (*status) {
      num_local = first_local;
      break;
    }
    remote[num_remote++] = (struct iovec){(void*)r->remote_addr, length};
    wanted += length;
  }
  if (!wanted) return num_remote;
  const ssize_t moved =
      reads ? process_vm_readv(qp->peer_pid, local, num_local, remote, num_remote, 0)
            : process_vm_writev(qp->peer_pid, local, num_local, remote, num_remote, 0);
  if (moved == (ssize_t)wanted) return num_remote;
  *status = moved < 0 && errno == ESRCH ? IBV_WC_RETRY_EXC_ERR : IBV_WC_REM_ACCESS_ERR;
  if (moved < 0 && errno == EPERM) {
    fprintf(stderr, "softverbs: may not touch the memory of pid %d (ptrace)\n", qp->peer_pid);
  }
  // Where the peer has unmapped a page, what came before it was moved.
  size_t left = moved > 0 ? moved : 0;
  int whole = 0;
  while (whole < num_remote && left >= remote[whole].iov_len) left -= remote[whole++].iov_len;
  return whole;
}

static int send_frame(const struct queue_pair* qp, struct send_request* request) {
  struct frame frame = {.type = request->opcode, .imm_data = request->imm_data};
  struct iovec parts[1 + kMaxSge] = {{&frame, sizeof frame}};
  int num_parts = 1, status = IBV_WC_SUCCESS;
  if (request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM) {
    if (move_memory(qp, &request, 1, &status) != 1) return status;
  } else {
    for (int s = 0; s < request->num_sge; s++) {
      const struct ibv_sge* sge = &request->sge[s];
      if (sge->length && !sv_may(sv_regions, sge->lkey, sge->addr, sge->length, 0)) {
        return IBV_WC_LOC_PROT_ERR;
      }
      parts[num_parts++] = (struct iovec){(void*)sge->addr, sge->length};
      frame.length += sge->length;
    }
  }
  return move_all(qp->send_fd, parts, num_parts, true) ? status : IBV_WC_RETRY_EXC_ERR;
}

static bool is_plain_rdma(const struct send_request* request) {
  return request->opcode == IBV_WR_RDMA_READ || request->opcode == IBV_WR_RDMA_WRITE;
}

// Waits for requests. Returns the first ones, as many as go at once; none when it is to stop.
static int take_requests(struct queue_pair* qp, struct send_request** taken, bool* failed) {
  pthread_mutex_lock(&qp->lock);
  while (!qp->stops && !qp->num_sends) pthread_cond_wait(&qp->changed, &qp->lock);
  int num = 0;
  size_t bytes = 0;
  while (!qp->stops && num < kMaxBatch && (unsigned)num < qp->num_sends && bytes < kMaxBatchBytes) {
    struct send_request* request = &qp->sends[(qp->first_send + num) % qp->max_sends];
    if (num && (!is_plain_rdma(taken[0]) || request->opcode != taken[0]->opcode)) break;
    for (int s = 0; num && s < request->num_sge; s++) bytes += request->sge[s].length;
    taken[num++] = request;
  }
  *failed = qp->base.state == IBV_QPS_ERR;
  pthread_mutex_unlock(&qp->lock);
  return num;
}

static int completed_opcode(int opcode) {
  switch (opcode) {
    case IBV_WR_RDMA_READ:
      return IBV_WC_RDMA_READ;
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
      return IBV_WC_SEND;
    default:
      return IBV_WC_RDMA_WRITE;
  }
}

// Takes the first `num` off the queue, of which `num_good` went well.
static void finish_requests(struct queue_pair* qp, struct send_request** requests, int num,
                            int num_good, int status) {
  static __thread struct ibv_wc completions[kMaxBatch];
  int num_completions = 0;
  for (int i = 0; i < num; i++) {
    const bool good = i < num_good;
    if (good && !qp->signals_all && !(requests[i]->flags & IBV_SEND_SIGNALED)) continue;
    completions[num_completions++] =
        (struct ibv_wc){.wr_id = requests[i]->id,
                        .status = good ? IBV_WC_SUCCESS : status,
                        .opcode = completed_opcode(requests[i]->opcode),
                        .qp_num = qp->base.qp_num};
  }
  pthread_mutex_lock(&qp->lock);
  qp->first_send = (qp->first_send + num) % qp->max_sends;
  qp->num_sends -= num;
  pthread_mutex_unlock(&qp->lock);
  for (int i = 0; i < num_completions; i++) sv_complete(qp->base.send_cq, &completions[i]);
}

const char* ibv_wc_status_str(int status);

void* sv_send_main(void* argument) {
  struct queue_pair* qp = argument;
  struct send_request* requests[kMaxBatch];
  const bool connected = connect_to_peer(qp);
  if (!connected) SV_TRACE("qp %u: cannot reach qp %u: %m", qp->base.qp_num, qp->peer_num);
  for (;;) {
    bool failed;
    const int num = take_requests(qp, requests, &failed);
    if (!num) return NULL;
    int status, num_good = 0;
    if (failed) {
      finish_requests(qp, requests, 1, 0, IBV_WC_WR_FLUSH_ERR);
      continue;
    }
    if (!connected) {
      status = IBV_WC_RETRY_EXC_ERR;
    } else if (is_plain_rdma(requests[0])) {
      num_good = move_memory(qp, requests, num, &status);
    } else {
      status = send_frame(qp, requests[0]);
      num_good = status == IBV_WC_SUCCESS;
    }
    if (status == IBV_WC_REM_ACCESS_ERR) {
      struct frame nak = {.type = kFrameNak};
      send_one(qp->send_fd, &nak, sizeof nak);
    }
    finish_requests(qp, requests, num_good + (status != IBV_WC_SUCCESS), num_good, status);
    if (status) {
      SV_TRACE("qp %u: %s", qp->base.qp_num, ibv_wc_status_str(status));
      sv_fail(qp);
    }
  }
}

// ---- the receiver ----

static bool take_receive(struct queue_pair* qp, struct recv_request* taken) {
  pthread_mutex_lock(&qp->lock);
  while (!qp->stops && !qp->num_recvs && qp->base.state != IBV_QPS_ERR) {
    pthread_cond_wait(&qp->changed, &qp->lock);
  }
  const bool goes_on = !qp->stops && qp->base.state != IBV_QPS_ERR;
  if (goes_on) {
    *taken = qp->recvs[qp->first_recv];
    qp->first_recv = (qp->first_recv + 1) % qp->max_recvs;
    qp->num_recvs--;
  }
  pthread_mutex_unlock(&qp->lock);
  return goes_on;
}

// Returns whether the stream goes on.
static bool receive_frame(struct queue_pair* qp) {
  struct frame frame;
  struct recv_request recv;
  if (!receive_one(qp->recv_fd, &frame, sizeof frame)) return false;
  if (frame.type == kFrameNak) {
    sv_fail(qp);
    return true;
  }
  if (!take_receive(qp, &recv)) return false;
  const bool of_write = frame.type == IBV_WR_RDMA_WRITE_WITH_IMM;
  struct ibv_wc wc = {.wr_id = recv.id,
                      .opcode = of_write ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV,
                      .byte_len = frame.length,
                      .imm_data = frame.imm_data,
                      .qp_num = qp->base.qp_num,
                      .src_qp = qp->peer_num,
                      .wc_flags = frame.type == IBV_WR_SEND ? 0 : IBV_WC_WITH_IMM};
  struct iovec parts[kMaxSge];
  int num_parts = 0;
  size_t left = frame.length;
  for (; num_parts < recv.num_sge && left; num_parts++) {
    const struct ibv_sge* sge = &recv.sge[num_parts];
    if (!sv_may(sv_regions, sge->lkey, sge->addr, sge->length, IBV_ACCESS_LOCAL_WRITE)) {
      wc.status = IBV_WC_LOC_PROT_ERR;
      break;
    }
    const size_t length = sge->length < left ? sge->length : left;
    parts[num_parts] = (struct iovec){(void*)sge->addr, length};
    left -= length;
  }
  if (!wc.status && left) wc.status = IBV_WC_LOC_LEN_ERR;
  if (!wc.status && !move_all(qp->recv_fd, parts, num_parts, false)) return false;
  sv_complete(qp->base.recv_cq, &wc);
  if (wc.status) sv_fail(qp);
  return !wc.status;
}

static bool send_regions(int fd, struct hello* hello) {
  struct iovec part = {hello, sizeof *hello};
  union fd_message control = {.bytes = {0}};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  control.header.cmsg_level = SOL_SOCKET;
  control.header.cmsg_type = SCM_RIGHTS;
  control.header.cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(&control.header), &sv_regions_fd, sizeof sv_regions_fd);
  return sendmsg(fd, &message, MSG_NOSIGNAL) == sizeof *hello;
}

static void set_recv_fd(struct queue_pair* qp, int fd) {
  pthread_mutex_lock(&qp->lock);
  qp->recv_fd = fd;
  if (fd >= 0 && qp->stops) shutdown(fd, SHUT_RDWR);
  pthread_mutex_unlock(&qp->lock);
}

void* sv_receive_main(void* argument) {
  struct queue_pair* qp = argument;
  int fd;
  while ((fd = accept4(qp->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR) {
    if (fd < 0) continue;
    set_recv_fd(qp, fd);
    struct hello hello;
    if (receive_one(fd, &hello, sizeof hello) && hello.magic == kMagic &&
        hello.to == qp->base.qp_num && send_regions(fd, &hello)) {
      while (receive_frame(qp)) {
      }
    }
    SV_TRACE("qp %u: its peer's stream ended", qp->base.qp_num);
    set_recv_fd(qp, -1);
    close(fd);
  }
  return NULL;
}
