// softverbs: a software RDMA "device" between processes of one user on one host, in the place of
// libibverbs: the part of it that InfiniStore uses (RC queue pairs, SEND and RECV, SEND_WITH_IMM,
// RDMA_READ, RDMA_WRITE, with and without immediate data, completion channels). It needs no headers
// of rdma-core, no RDMA in the kernel, and no rights but process_vm_readv/writev on one's own
// processes.
//
// A queue pair listens on the abstract unix socket "\0softverbs.<qp_num>". Each direction has a
// stream of its own: at RTR the sender connects to its peer's socket, says hello and gets the table
// of the peer's memory regions (a memfd); SO_PEERCRED tells the peer's pid. A thread works off the
// send queue in order: SENDs go onto the stream as frames, RDMA goes by process_vm_readv/writev
// after its rkey, range and access were checked. Another moves frames into posted receives, and
// waits for one where there is none (RNR retry without end). Errors are those of RC: a bad lkey is
// a LOC_PROT_ERR; a bad rkey or range a REM_ACCESS_ERR, and the peer's queue pair fails too; a dead
// peer a RETRY_EXC_ERR at the next send (and, as on hardware, nothing at all where one only waits);
// all that follows is a WR_FLUSH_ERR.
//
// Environment: SOFTVERBS_TRACE=1 logs to standard error, SOFTVERBS_DELAY_US=n sleeps before each
// batch of RDMA.
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#include "verbs_abi.h"

enum { kMaxSge = 4 };

extern bool sv_traces;
extern int sv_delay_us;
#define SV_TRACE(...)                               \
  do {                                              \
    if (sv_traces) {                                \
      fprintf(stderr, "softverbs[%d]: ", getpid()); \
      fprintf(stderr, __VA_ARGS__);                 \
      fputc('\n', stderr);                          \
    }                                               \
  } while (0)

// Memory regions: one table a process, in a memfd that its peers map too.
enum { kNumRegions = 65536 };
struct region {
  uint64_t addr, length;
  uint32_t key, access;  // a key of 0: a free entry
};
enum { kRegionTableBytes = kNumRegions * sizeof(struct region) };
extern struct region* sv_regions;
extern int sv_regions_fd;
bool sv_open_regions(void);
bool sv_may(const struct region* table, uint32_t key, uint64_t addr, uint64_t length,
            uint32_t access);

// Completions.
void sv_complete(struct ibv_cq* cq, const struct ibv_wc* wc);
int sv_poll_cq(struct ibv_cq* cq, int num_entries, struct ibv_wc* wc);
int sv_req_notify_cq(struct ibv_cq* cq, int solicited_only);

// Queue pairs: what is posted waits in rings until the threads of carrier.c take it.
struct send_request {
  uint64_t id, remote_addr;
  uint32_t imm_data, rkey;
  int opcode, num_sge;
  unsigned flags;
  struct ibv_sge sge[kMaxSge];
};
struct recv_request {
  uint64_t id;
  int num_sge;
  struct ibv_sge sge[kMaxSge];
};
struct queue_pair {
  struct ibv_qp base;  // first: the application holds a pointer to it
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool stops, signals_all;
  int listen_fd, recv_fd, send_fd;
  uint32_t peer_num;
  pid_t peer_pid;
  struct region* peer_regions;
  struct send_request* sends;
  unsigned first_send, num_sends, max_sends;
  struct recv_request* recvs;
  unsigned first_recv, num_recvs, max_recvs;
  pthread_t sender, receiver;
  bool has_sender, has_receiver;
};
void sv_fail(struct queue_pair* qp);  // to the state ERR
int sv_post_send(struct ibv_qp* qp, struct ibv_send_wr* wr, struct ibv_send_wr** bad);
int sv_post_recv(struct ibv_qp* qp, struct ibv_recv_wr* wr, struct ibv_recv_wr** bad);

// Threads of a queue pair, and its address.
struct sockaddr_un;
unsigned sv_address(struct sockaddr_un* address, uint32_t qp_num);
void* sv_send_main(void* qp);
void* sv_receive_main(void* qp);
