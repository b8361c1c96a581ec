/* The backward half of the forward pass's operations, in f32. dx is the gradient of the loss by x; what an operation
 * adds to and what it overwrites is said for each. Checked one by one against finite differences in
 * tests/unit/test_gradients.c. */
#ifndef SS_BACKWARD_H
#define SS_BACKWARD_H

#include "kernels/kernels.h"
#include "train/gemm.h"

/* y[i] = x[i] r w[i], r = 1 / sqrt(mean(x^2) + eps):   dx += ...; returns r. */
float ss_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *w, size_t n, float eps);
/* dw[i] += sum over rows t of dy[t][i] x[t][i] r[t] for i in [first, end); rows of n numbers. x_rows [n_rows]: which
 * row of x each is; NULL: in order. */
void ss_rmsnorm_gains_backward(float *dw, const float *dy, const float *x, const uint32_t *x_rows, const float *r,
                               size_t n_rows, size_t n, size_t first, size_t end);

/* One head, in place: turns back by the angle of the forward pass. */
void ss_rope_backward(float *dx, const float *cosine, const float *sine, uint32_t n_rot, bool neox);

/* y = silu(gate) up:   dgate and dup = ... times scale; returns sum dy y, without scale. n is a multiple of 8. */
double ss_swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, float scale,
                          size_t n);

/* y += a y + b, channel by channel:   da += dy y, db += dy, dy += a dy; y before that. da and db may be NULL. */
void ss_stand_in_backward(float *dy, float *da, float *db, const float *y, const float *a, size_t n);

/* logits[n] becomes the gradient of -log softmax(logits)[target] by them; with dense[n] that of KL(softmax(dense) ||
 * softmax(logits)), and dense is overwritten. */
void ss_softmax_backward(float *logits, float *dense, int32_t target, size_t n, const ss_kernels *kernels);

/* Causal attention of the query heads that share a KV head: o_i = softmax(scale q_i K') V, over n tokens. */
typedef struct ss_attention {
  size_t n, dim, group;
  float scale;
  const float *q, *k, *v, *dout; /* row t at + t * stride; head i of q and dout at + i * dim */
  float *dq, *dk, *dv; /* overwritten */
  size_t q_stride, kv_stride, dout_stride, d_stride; /* d_stride: of dq, dk and dv */
} ss_attention;
size_t ss_attention_scratch(size_t n); /* floats */
void ss_attention_backward(const ss_attention *a, float *scratch, const ss_gemm *gemm, void *panels,
                           const ss_kernels *kernels);

/* Groups [first, end) of 8 rows of w as f32, rows of w->cols at out (that of row 8 * first first): the values of
 * ss_matrix_row. */
void ss_dequantize(float *out, const ss_matrix *w, size_t first, size_t end);

#endif
