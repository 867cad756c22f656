// Queue pairs: made, moved through their states, posted to.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "softverbs.h"

// Binds to the first free number from a start of its own.
static uint32_t listen_somewhere(struct queue_pair* qp) {
  struct sockaddr_un address;
  uint32_t num = ((uint32_t)getpid() * 64) ^ ((uint32_t)(uintptr_t)qp >> 4);
  do {
    num = (num + 1) & 0xffffff;
  } while (num < 16 || (bind(qp->listen_fd, (void*)&address, sv_address(&address, num)) &&
                        errno == EADDRINUSE));
  return num;
}

struct ibv_qp* ibv_create_qp(struct ibv_pd* pd, struct ibv_qp_init_attr* attr) {
  if (attr->qp_type != IBV_QPT_RC || attr->cap.max_send_sge > kMaxSge ||
      attr->cap.max_recv_sge > kMaxSge) {
    errno = EINVAL;
    return NULL;
  }
  struct queue_pair* qp = calloc(1, sizeof *qp);
  qp->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  qp->recv_fd = qp->send_fd = -1;
  const uint32_t num = listen_somewhere(qp);
  if (listen(qp->listen_fd, 4)) {
    close(qp->listen_fd);
    free(qp);
    return NULL;
  }
  pthread_mutex_init(&qp->lock, NULL);
  pthread_cond_init(&qp->changed, NULL);
  qp->base.context = pd->context;
  qp->base.pd = pd;
  qp->base.qp_context = attr->qp_context;
  qp->base.send_cq = attr->send_cq;
  qp->base.recv_cq = attr->recv_cq;
  qp->base.qp_num = num;
  qp->base.qp_type = attr->qp_type;
  qp->base.state = IBV_QPS_RESET;
  qp->signals_all = attr->sq_sig_all;
  qp->max_sends = attr->cap.max_send_wr;
  qp->max_recvs = attr->cap.max_recv_wr;
  qp->sends = calloc(qp->max_sends, sizeof *qp->sends);
  qp->recvs = calloc(qp->max_recvs, sizeof *qp->recvs);
  return &qp->base;
}

static void stop_threads(struct queue_pair* qp) {
  pthread_mutex_lock(&qp->lock);
  qp->stops = true;
  pthread_cond_broadcast(&qp->changed);
  shutdown(qp->listen_fd, SHUT_RDWR);
  if (qp->recv_fd >= 0) shutdown(qp->recv_fd, SHUT_RDWR);
  if (qp->send_fd >= 0) shutdown(qp->send_fd, SHUT_RDWR);
  pthread_mutex_unlock(&qp->lock);
  if (qp->has_sender) pthread_join(qp->sender, NULL);
  if (qp->has_receiver) pthread_join(qp->receiver, NULL);
  qp->has_sender = qp->has_receiver = false;
  qp->num_sends = qp->num_recvs = 0;
}

int ibv_modify_qp(struct ibv_qp* base, struct ibv_qp_attr* attr, int mask) {
  struct queue_pair* qp = (struct queue_pair*)base;
  if (!(mask & IBV_QP_STATE)) return 0;
  switch (attr->qp_state) {
    case IBV_QPS_ERR:
      sv_fail(qp);
      return 0;
    case IBV_QPS_RESET:
      stop_threads(qp);  // used only in front of destroy
      break;
    case IBV_QPS_INIT:
      if (!qp->has_receiver) {
        qp->has_receiver = !pthread_create(&qp->receiver, NULL, sv_receive_main, qp);
      }
      break;
    case IBV_QPS_RTR:
      if (!qp->has_sender) {
        qp->peer_num = attr->dest_qp_num;
        qp->has_sender = !pthread_create(&qp->sender, NULL, sv_send_main, qp);
      }
      break;
    default:
      break;
  }
  base->state = attr->qp_state;
  return 0;
}

int ibv_destroy_qp(struct ibv_qp* base) {
  struct queue_pair* qp = (struct queue_pair*)base;
  stop_threads(qp);
  close(qp->listen_fd);
  if (qp->send_fd >= 0) close(qp->send_fd);
  if (qp->peer_regions) munmap(qp->peer_regions, kRegionTableBytes);
  free(qp->sends);
  free(qp->recvs);
  free(qp);
  return 0;
}

// The receives are flushed here, the sends by their thread.
void sv_fail(struct queue_pair* qp) {
  pthread_mutex_lock(&qp->lock);
  qp->base.state = IBV_QPS_ERR;
  for (; qp->num_recvs; qp->num_recvs--, qp->first_recv = (qp->first_recv + 1) % qp->max_recvs) {
    struct ibv_wc wc = {.wr_id = qp->recvs[qp->first_recv].id,
                        .status = IBV_WC_WR_FLUSH_ERR,
                        .opcode = IBV_WC_RECV,
                        .qp_num = qp->base.qp_num};
    sv_complete(qp->base.recv_cq, &wc);
  }
  pthread_cond_broadcast(&qp->changed);
  pthread_mutex_unlock(&qp->lock);
}

static int refusal_of_send(const struct queue_pair* qp, const struct ibv_send_wr* wr) {
  if (qp->num_sends == qp->max_sends) return ENOMEM;
  const bool valid = qp->base.state >= IBV_QPS_RTS && wr->num_sge >= 0 && wr->num_sge <= kMaxSge &&
                     wr->opcode >= 0 && wr->opcode <= IBV_WR_RDMA_READ;
  return valid ? 0 : EINVAL;
}

int sv_post_send(struct ibv_qp* base, struct ibv_send_wr* wr, struct ibv_send_wr** bad) {
  struct queue_pair* qp = (struct queue_pair*)base;
  int refusal = 0;
  pthread_mutex_lock(&qp->lock);
  for (; wr; wr = wr->next) {
    refusal = refusal_of_send(qp, wr);
    if (refusal) {
      *bad = wr;
      break;
    }
    struct send_request* send = &qp->sends[(qp->first_send + qp->num_sends++) % qp->max_sends];
    *send = (struct send_request){.id = wr->wr_id,
                                  .remote_addr = wr->rdma.remote_addr,
                                  .imm_data = wr->imm_data,
                                  .rkey = wr->rdma.rkey,
                                  .opcode = wr->opcode,
                                  .num_sge = wr->num_sge,
                                  .flags = wr->send_flags};
    if (wr->num_sge) memcpy(send->sge, wr->sg_list, wr->num_sge * sizeof *send->sge);
  }
  pthread_cond_broadcast(&qp->changed);
  pthread_mutex_unlock(&qp->lock);
  return refusal;
}

int sv_post_recv(struct ibv_qp* base, struct ibv_recv_wr* wr, struct ibv_recv_wr** bad) {
  struct queue_pair* qp = (struct queue_pair*)base;
  int refusal = 0;
  pthread_mutex_lock(&qp->lock);
  for (; wr; wr = wr->next) {
    if (base->state == IBV_QPS_ERR) {
      struct ibv_wc wc = {.wr_id = wr->wr_id,
                          .status = IBV_WC_WR_FLUSH_ERR,
                          .opcode = IBV_WC_RECV,
                          .qp_num = base->qp_num};
      sv_complete(base->recv_cq, &wc);
      continue;
    }
    if (qp->num_recvs == qp->max_recvs) {
      refusal = ENOMEM;
    } else if (base->state < IBV_QPS_INIT || wr->num_sge < 0 || wr->num_sge > kMaxSge) {
      refusal = EINVAL;
    }
    if (refusal) {
      *bad = wr;
      break;
    }
    struct recv_request* recv = &qp->recvs[(qp->first_recv + qp->num_recvs++) % qp->max_recvs];
    recv->id = wr->wr_id;
    recv->num_sge = wr->num_sge;
    if (wr->num_sge) memcpy(recv->sge, wr->sg_list, wr->num_sge * sizeof *recv->sge);
  }
  pthread_cond_broadcast(&qp->changed);
  pthread_mutex_unlock(&qp->lock);
  return refusal;
}
