/* The BERT forward pass and its buffers. Inside the core only. */
#ifndef SS_ENCODER_H
#define SS_ENCODER_H

#include "model/model.h"

#define SS_BERT_TILE 8 /* tokens whose queries share a pass over keys and values */

typedef struct ss_bert {
  const ss_model *model;
  const ss_host *host;
  uint32_t capacity; /* tokens; T below */
  float *h;          /* [T][n_embd] the residual stream */
  float *q, *k, *v;  /* [T][n_embd] */
  float *x;          /* [T][n_embd] what attention gives */
  float *out;        /* [T][n_embd] a block's output */
  float *up;         /* [T][n_ff] */
  int8_t *act_q;     /* [T][max(n_embd, n_ff)] a matmul's input, quantised */
  ss_act_block *act_b;
  int8_t *query_q;   /* [n_heads][T][head_dim] */
  ss_act_block *query_b;
  ss_block8 *keys;   /* [n_heads][ceil(T / 8)][head_dim / 32], as in a session's KV cache */
  int8_t *values;    /* [n_heads][T][head_dim] */
  float *value_scale; /* [n_heads][T][head_dim / 32] */
  /* scratch of each thread */
  uint8_t *panel;    /* [n_threads][panel_bytes] */
  size_t panel_bytes;
  float *scores;     /* [n_threads][SS_BERT_TILE][T rounded up to 8] */
  float *mixed;      /* [n_threads][SS_BERT_TILE][head_dim] */
  int8_t *head_q;    /* [n_threads][head_dim] */
  ss_act_block *head_b;
} ss_bert;

/* Lays the buffers out; with arena->base NULL it only counts. */
void ss_bert_carve(ss_bert *b, ss_arena *arena, const ss_model *m, uint32_t capacity, uint32_t n_threads);

/* The last layer's vectors of n tokens, [n][n_embd], valid until the next call. */
const float *ss_bert_run(ss_bert *b, const int32_t *tokens, uint32_t n);

#endif
