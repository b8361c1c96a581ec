/* A session's state: KV cache, the step in flight and its buffers. Inside the core only. */
#ifndef SS_SESSION_H
#define SS_SESSION_H

#include "model/model.h"

#define SS_ATTN_TILE 8 /* tokens whose queries share a pass over K in prefill */
#define SS_HEAD_ROWS 64 /* rows of the head that a thread computes at a time for a whole chunk; more for fewer tokens */
#define SS_MAX_GROUP 64 /* query heads that share a KV head */

/* KV of one attention block. K in the layout of SS_PACK_8 with positions as rows, so that scores are a matmul. */
typedef struct ss_kv {
  ss_block8 *k; /* [n_kv_heads][ceil(context / 8)][head_dim / 32]; NULL: not in kv_mask */
  int8_t *v; /* [n_kv_heads][context][head_dim] */
  float *v_scale; /* [n_kv_heads][context][head_dim / 32] */
  uint32_t filled; /* positions 0..filled-1 hold KV */
} ss_kv;

struct ss_session {
  ss_host host;
  const ss_model *model;
  const ss_kernels *kernels;
  size_t bytes; /* of the one allocation that holds this struct and everything it points to */
  uint32_t context, chunk, max_logits;
  ss_mask run_mask, kv_mask;
  const ss_recovery *recovery; /* of run_mask; NULL: none */

  ss_kv *kv; /* [n_layers] */
  uint32_t length; /* positions held */

  /* the step in flight */
  const int32_t *tokens; /* borrowed from ss_session_begin */
  uint32_t n_tokens, n_done; /* asked for; complete */
  uint32_t n_logits;
  uint32_t n; /* tokens of the chunk in flight; 0: none started */
  uint32_t block; /* the next block of the chunk; n_blocks is the output head */
  bool active;

  /* buffers for one chunk; T = chunk */
  float *h; /* [T][n_embd] the residual stream */
  float *x; /* [T][max(n_embd, n_heads * head_dim)] a matmul's input */
  float *q, *k, *v; /* [T][n_heads * head_dim], [T][n_kv_heads * head_dim] x 2 */
  float *gate_kept, *up_kept; /* [T][n_ff] where training keeps what SwiGLU reads; NULL: nowhere */
  float *out; /* [T][n_embd] a block's output, in the session's own `q` */
  int8_t *act_q; /* [T][max(n_embd, n_heads * head_dim)] quantised input, twice for the head */
  ss_act_block *act_b; /* [T][as many / 32] */
  int8_t *ff_q; /* [T][n_ff] quantised input of the feed-forward block's last matmul */
  ss_act_block *ff_b; /* [T][n_ff / 32] */
  float *ff_x; /* [T][n_ff] the same in f32, for float weights; NULL: there are none */
  int8_t *query_q; /* [n_kv_heads][T * group][head_dim] quantised queries, group = n_heads / n_kv_heads */
  ss_act_block *query_b;
  float *cosine, *sine; /* [T][n_rot / 2] */
  float *logits; /* [max_logits][n_vocab rounded up to 8] */

  /* scratch of each thread */
  uint8_t *panel; /* [n_threads][panel_bytes] */
  size_t panel_bytes;
  float *inside; /* [n_threads][inside_each]: gate and up, some columns at a time */
  size_t inside_each; /* floats of one thread */
  float *scores; /* [n_threads][SS_ATTN_TILE * group][context rounded up to 8] */
  size_t scores_each; /* floats of one thread */
  float *head_y; /* [n_threads][head_y_each]: 2 * T x SS_HEAD_ROWS, or fewer tokens x more rows */
  size_t head_y_each; /* floats of one thread */
  int8_t *head_q; /* [n_threads][head_dim] a key or value being quantised */
  ss_act_block *head_b;
};

static inline size_t ss_padded(size_t rows) { return (rows + SS_ROWS - 1) / SS_ROWS * SS_ROWS; }

/* One step of the walk over the chunk in flight. forward.c */
void ss_run_embedding(ss_session *s);
void ss_run_block(ss_session *s, uint32_t block); /* h += block(h) */
void ss_run_gate_up(ss_session *s, uint32_t layer); /* a feed-forward block up to its last matmul; h stays */
void ss_run_stand_in(ss_session *s, uint32_t block); /* of a skipped block, where the recovery has one */
/* Logits of the chunk's tokens first..n-1 into row `row` and on. */
void ss_run_head(ss_session *s, uint32_t first, uint32_t row);

#endif
