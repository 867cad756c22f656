// Completion channels and queues.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>

#include "softverbs.h"

// A pipe: it must never be writable, since the server asks for UV_WRITABLE too.
struct channel {
  struct ibv_comp_channel base;
  int write_fd;
};

struct completion_queue {
  struct ibv_cq base;
  pthread_mutex_t lock;
  struct ibv_wc* ring;
  unsigned first, num, max;
  bool armed;
};

struct ibv_comp_channel* ibv_create_comp_channel(struct ibv_context* context) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC)) return NULL;
  struct channel* channel = calloc(1, sizeof *channel);
  channel->base.context = context;
  channel->base.fd = fds[0];
  channel->write_fd = fds[1];
  return &channel->base;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel* base) {
  struct channel* channel = (struct channel*)base;
  close(base->fd);
  close(channel->write_fd);
  free(channel);
  return 0;
}

struct ibv_cq* ibv_create_cq(struct ibv_context* context, int cqe, void* cq_context,
                             struct ibv_comp_channel* channel, int comp_vector) {
  (void)comp_vector;
  struct completion_queue* cq = calloc(1, sizeof *cq);
  cq->base.context = context;
  cq->base.channel = channel;
  cq->base.cq_context = cq_context;
  cq->base.cqe = cqe;
  cq->max = cqe + 1024;
  cq->ring = malloc(cq->max * sizeof *cq->ring);
  pthread_mutex_init(&cq->lock, NULL);
  return &cq->base;
}

int ibv_destroy_cq(struct ibv_cq* base) {
  struct completion_queue* cq = (struct completion_queue*)base;
  free(cq->ring);
  free(cq);
  return 0;
}

void sv_complete(struct ibv_cq* base, const struct ibv_wc* wc) {
  struct completion_queue* cq = (struct completion_queue*)base;
  pthread_mutex_lock(&cq->lock);
  if (cq->num == cq->max) {
    fprintf(stderr, "softverbs: a completion queue is full, one is lost\n");
  } else {
    cq->ring[(cq->first + cq->num++) % cq->max] = *wc;
  }
  if (cq->armed && base->channel) {
    cq->armed = false;
    const int fd = ((struct channel*)base->channel)->write_fd;
    if (write(fd, &base, sizeof base) != sizeof base) perror("softverbs");
  }
  pthread_mutex_unlock(&cq->lock);
}

int sv_poll_cq(struct ibv_cq* base, int num_entries, struct ibv_wc* wc) {
  struct completion_queue* cq = (struct completion_queue*)base;
  int taken = 0;
  pthread_mutex_lock(&cq->lock);
  for (; taken < num_entries && cq->num; taken++, cq->num--) {
    wc[taken] = cq->ring[cq->first];
    cq->first = (cq->first + 1) % cq->max;
  }
  pthread_mutex_unlock(&cq->lock);
  return taken;
}

int sv_req_notify_cq(struct ibv_cq* base, int solicited_only) {
  (void)solicited_only;
  struct completion_queue* cq = (struct completion_queue*)base;
  pthread_mutex_lock(&cq->lock);
  cq->armed = true;
  pthread_mutex_unlock(&cq->lock);
  return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel* channel, struct ibv_cq** cq, void** cq_context) {
  struct ibv_cq* found;
  if (read(channel->fd, &found, sizeof found) != sizeof found) return -1;
  *cq = found;
  *cq_context = found->cq_context;
  return 0;
}

void ibv_ack_cq_events(struct ibv_cq* cq, unsigned num_events) {
  (void)cq;
  (void)num_events;
}

const char* ibv_wc_status_str(int status) {
  switch (status) {
    case IBV_WC_SUCCESS:
      return "success";
    case IBV_WC_LOC_LEN_ERR:
      return "local length error";
    case IBV_WC_LOC_PROT_ERR:
      return "local protection error";
    case IBV_WC_WR_FLUSH_ERR:
      return "Work Request Flushed Error";
    case IBV_WC_REM_ACCESS_ERR:
      return "remote access error";
    case IBV_WC_RETRY_EXC_ERR:
      return "transport retry counter exceeded";
    default:
      return "unknown";
  }
}
