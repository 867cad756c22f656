// Prints where everything lies in verbs_abi.h, or, with -DSYSTEM, in rdma-core's verbs.h. Where its
// headers are installed, in this folder:
//   gcc abi_check.c -o ours && gcc -DSYSTEM abi_check.c -o system && diff <(./ours) <(./system)
#ifdef SYSTEM
#include <infiniband/verbs.h>
#define WR(field) wr.rdma.field
#define OP(name, slot) (offsetof(struct ibv_context_ops, name) / sizeof(void*))
#else
#include "verbs_abi.h"
#define WR(field) rdma.field
#define OP(name, slot) ((size_t)slot)
#endif
#include <stddef.h>
#include <stdio.h>

#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(struct type, field))
#define VALUE(name) printf(#name " %d\n", (int)name)

int main(void) {
  FIELD(ibv_device, ibdev_path);
  FIELD(ibv_context, ops);
  FIELD(ibv_context, num_comp_vectors);
  FIELD(ibv_context, abi_compat);
  FIELD(ibv_mr, lkey);
  FIELD(ibv_mr, rkey);
  FIELD(ibv_comp_channel, fd);
  FIELD(ibv_cq, channel);
  FIELD(ibv_cq, cq_context);
  FIELD(ibv_qp, qp_num);
  FIELD(ibv_qp, state);
  FIELD(ibv_sge, lkey);
  FIELD(ibv_send_wr, next);
  FIELD(ibv_send_wr, sg_list);
  FIELD(ibv_send_wr, num_sge);
  FIELD(ibv_send_wr, opcode);
  FIELD(ibv_send_wr, send_flags);
  FIELD(ibv_send_wr, imm_data);
  printf("ibv_send_wr.remote_addr %zu\n", offsetof(struct ibv_send_wr, WR(remote_addr)));
  printf("ibv_send_wr.rkey %zu\n", offsetof(struct ibv_send_wr, WR(rkey)));
  FIELD(ibv_recv_wr, sg_list);
  FIELD(ibv_recv_wr, num_sge);
  FIELD(ibv_wc, status);
  FIELD(ibv_wc, opcode);
  FIELD(ibv_wc, byte_len);
  FIELD(ibv_wc, imm_data);
  FIELD(ibv_wc, qp_num);
  FIELD(ibv_wc, wc_flags);
  printf("ibv_wc %zu\n", sizeof(struct ibv_wc));
  FIELD(ibv_qp_init_attr, cap);
  FIELD(ibv_qp_init_attr, qp_type);
  FIELD(ibv_qp_init_attr, sq_sig_all);
  FIELD(ibv_qp_attr, dest_qp_num);
  FIELD(ibv_port_attr, lid);
  FIELD(ibv_port_attr, active_mtu);
  FIELD(ibv_port_attr, link_layer);
  printf("slots %zu %zu %zu %zu\n", OP(poll_cq, kOpPollCq), OP(req_notify_cq, kOpReqNotifyCq),
         OP(post_send, kOpPostSend), OP(post_recv, kOpPostRecv));
  VALUE(IBV_WC_RETRY_EXC_ERR);
  VALUE(IBV_WC_REM_ACCESS_ERR);
  VALUE(IBV_WC_LOC_PROT_ERR);
  VALUE(IBV_WR_RDMA_READ);
  VALUE(IBV_WC_RECV_RDMA_WITH_IMM);
  VALUE(IBV_WC_WITH_IMM);
  VALUE(IBV_SEND_SIGNALED);
  VALUE(IBV_QPS_ERR);
  VALUE(IBV_QPT_RC);
  return 0;
}
