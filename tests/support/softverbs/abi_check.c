#define _GNU_SOURCE
/* prints offsets; build twice and diff: -DSYS uses rdma-core's verbs.h */
#include <stddef.h>
#include <stdio.h>
#ifdef SYS
#include <infiniband/verbs.h>
#define P(t, f) printf("%s.%s %zu\n", #t, #f, offsetof(struct t, f))
#define RADDR offsetof(struct ibv_send_wr, wr.rdma.remote_addr)
#define RKEY offsetof(struct ibv_send_wr, wr.rdma.rkey)
#define OPS(n, i) (offsetof(struct ibv_context_ops, n) / 8)
#define PORT struct ibv_port_attr
#else
#include "softverbs.c"
#define P(t, f) printf("%s.%s %zu\n", #t, #f, offsetof(struct t, f))
#define RADDR offsetof(struct ibv_send_wr, rdma.remote_addr)
#define RKEY offsetof(struct ibv_send_wr, rdma.rkey)
#define OPS(n, i) ((size_t)i)
#define PORT struct port_attr
#endif
int main() {
  P(ibv_device, ibdev_path);
  P(ibv_context, ops);
  P(ibv_context, abi_compat);
  P(ibv_context, num_comp_vectors);
  P(ibv_mr, lkey);
  P(ibv_mr, rkey);
  P(ibv_comp_channel, fd);
  P(ibv_cq, channel);
  P(ibv_cq, cq_context);
  P(ibv_qp, qp_num);
  P(ibv_qp, state);
  P(ibv_sge, lkey);
  P(ibv_send_wr, next);
  P(ibv_send_wr, sg_list);
  P(ibv_send_wr, num_sge);
  P(ibv_send_wr, opcode);
  P(ibv_send_wr, send_flags);
  P(ibv_send_wr, imm_data);
  P(ibv_recv_wr, num_sge);
  P(ibv_recv_wr, sg_list);
  P(ibv_wc, status);
  P(ibv_wc, opcode);
  P(ibv_wc, byte_len);
  P(ibv_wc, imm_data);
  P(ibv_wc, qp_num);
  P(ibv_wc, wc_flags);
  printf("wc %zu\n", sizeof(struct ibv_wc));
  P(ibv_qp_init_attr, cap);
  P(ibv_qp_init_attr, qp_type);
  P(ibv_qp_init_attr, sq_sig_all);
  P(ibv_qp_attr, dest_qp_num);
  printf("raddr %zu rkey %zu\n", RADDR, RKEY);
  printf("ops %zu %zu %zu %zu\n", OPS(poll_cq, OP_POLL_CQ), OPS(req_notify_cq, OP_REQ_NOTIFY),
         OPS(post_send, OP_POST_SEND), OPS(post_recv, OP_POST_RECV));
#ifdef SYS
  printf("port %zu %zu %zu\n", offsetof(PORT, lid), offsetof(PORT, active_mtu),
         offsetof(PORT, link_layer));
  printf("const %d %d %d %d %d %d %d %d %d\n", IBV_WC_RETRY_EXC_ERR, IBV_WC_REM_ACCESS_ERR,
         IBV_WC_LOC_PROT_ERR, IBV_WR_RDMA_READ, IBV_WC_RECV_RDMA_WITH_IMM, IBV_WC_WITH_IMM,
         IBV_SEND_SIGNALED, IBV_QPS_ERR, IBV_QPT_RC);
#else
  printf("port %zu %zu %zu\n", offsetof(PORT, lid), offsetof(PORT, active_mtu),
         offsetof(PORT, link_layer));
  printf("const %d %d %d %d %d %d %d %d %d\n", S_RETRY_EXC, S_REM_ACCESS, S_LOC_PROT, WR_READ,
         WC_RECV_RDMA_IMM, WC_WITH_IMM, SEND_SIGNALED, QPS_ERR, 2);
#endif
  return 0;
}
