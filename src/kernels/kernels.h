/* The kernel table: every loop that costs time. scalar.c is the specification of every number; an ISA file overrides
 * entries and must give the same bits. Rules that make it so: no fused multiply-add, sums in the stated order, integers
 * exact, f32 reductions over 8 lanes (element i in lane i % 8) and then the tree of ss_lane_sum.
 *
 * All pointers are 4-byte aligned at least; packed weights and the panel are 64-byte aligned. Buffers never overlap unless stated. */
#ifndef SS_KERNELS_H
#define SS_KERNELS_H

#include "base/base.h"
#include "kernels/pack.h"

/* Activations, quantised in blocks of 32: x is about d * q, q in -127..127. */
typedef struct ss_act_block {
  float d;        /* amax / 127; 0 when the block is all zero or holds a non-finite value */
  float fsum;     /* (float)sum */
  int32_t sum;    /* of q over the 32 */
  int32_t sum_lo; /* of q over the first 16 */
} ss_act_block;

/* The input of a matmul: n_tokens rows of cols. Float weights read x, the others q and b. */
typedef struct ss_acts {
  const float *x;        /* [n_tokens][cols] */
  const int8_t *q;       /* [n_tokens][cols] */
  const ss_act_block *b; /* [n_tokens][cols / 32] */
  uint32_t n_tokens, cols;
} ss_acts;

/* Scratch of a GEMM call: one or two groups of 8 rows, widened. */
#define SS_PANEL_BLOCK_BYTES 640 /* 16 x 32 codes in 8 bits (or 8 x 32 in 16), and scales and minima of 16 rows */
static inline size_t ss_panel_bytes(uint32_t cols) {
  return ss_align((size_t)(cols / SS_COLS + 1) * SS_PANEL_BLOCK_BYTES);
}

/* One token: y[8 * g + r] for groups g of w (n_groups of n_blocks blocks each). */
typedef void ss_gemv_fn(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                        const ss_act_block *b);
/* Many tokens: y[t * y_stride + 8 * g + r]; q [n_tokens][32 * n_blocks], b [n_tokens][n_blocks]. */
typedef void ss_gemm_fn(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                        const ss_act_block *b, size_t n_tokens, void *panel);
/* Float weights: y[t * y_stride + row], w [n_rows][cols], x [n_tokens][cols]. */
typedef void ss_fgemm_fn(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                         size_t n_tokens);

struct ss_kernels {
  const char *name;
#define SS_KERNEL(result, entry, args) result(*entry) args;
#include "kernels/kernels.def"
#undef SS_KERNEL
  ss_gemv_fn *gemv[SS_PACK_COUNT]; /* NULL for the float packs */
  ss_gemm_fn *gemm[SS_PACK_COUNT]; /* NULL for the float packs */
  ss_fgemm_fn *fgemm[SS_PACK_COUNT]; /* the float packs alone */
};

/* The scalar entries, by name, for ISA tables that do not override them: ss_quantize_scalar, ... */
#define SS_KERNEL(result, entry, args) result ss_##entry##_scalar args;
#include "kernels/kernels.def"
#undef SS_KERNEL
extern ss_gemv_fn ss_gemv_4_scalar, ss_gemv_4m_scalar, ss_gemv_5_scalar, ss_gemv_5m_scalar, ss_gemv_6_scalar,
    ss_gemv_8_scalar;
extern ss_gemm_fn ss_gemm_4_scalar, ss_gemm_4m_scalar, ss_gemm_5_scalar, ss_gemm_5m_scalar, ss_gemm_6_scalar,
    ss_gemm_8_scalar;
extern ss_fgemm_fn ss_fgemm_f32_scalar, ss_fgemm_f16_scalar, ss_fgemm_bf16_scalar;

extern const ss_kernels ss_kernels_scalar;
extern const ss_kernels ss_kernels_avx2;         /* x86-64, present when built for it */
extern const ss_kernels ss_kernels_avx512vnni;
extern const ss_kernels ss_kernels_neon;
extern const ss_kernels ss_kernels_wasm_simd128;
extern const ss_kernels ss_kernels_wasm_relaxed;
extern const ss_kernels ss_kernels_wasm_relaxed_dot; /* the same with the 8-bit dot product, for ARM and AVX-VNNI */

/* ss_kernels_at(0); does not pull the specification into a wasm module, which never runs it. */
const ss_kernels *ss_kernels_fastest(void);

/* y = W x for groups [first, end) of w and all tokens of x; y_stride >= 8 * ss_matrix_groups(w) when there are several
 * tokens; y [n_tokens][y_stride]. panel: ss_panel_bytes(w->cols), used when there are several tokens. */
void ss_matmul(const ss_kernels *k, float *y, size_t y_stride, const ss_matrix *w, size_t first, size_t end,
               const ss_acts *x, void *panel);

/* Rotates one head in place by angles whose cosines and sines are given, [n_rot / 2] each (RoPE, arXiv 2104.09864): pairs
 * (2i, 2i + 1), or in the NEOX order (i, i + n_rot / 2). */
void ss_rope(float *head, const float *cosine, const float *sine, uint32_t n_rot, bool neox);

/* Multiplies each 32 of x[n] by the 32 x 32 Hadamard matrix of +-1 (Sylvester's order; not normalised), in place: five
 * passes of a + b, a - b. Twice gives 32 x. */
void ss_hadamard(float *x, size_t n);

/* What a sentence encoder has beside the table; a thousandth of its time.
 * x = (x - mean) / sqrt(variance + eps) * gain + bias, in place; both sums over 8 lanes. */
void ss_layernorm(float *x, const float *gain, const float *bias, size_t n, float eps);
/* x = gelu(x + bias), in place: x / 2 (1 + erf(x / sqrt 2)), erf being ss_erff. */
void ss_gelu(float *x, const float *bias, size_t n);

/* Row `row` of w as f32, x[w->cols]: the token embedding. d * (float)(q - offset), or d * (float)q + m. */
void ss_matrix_row(float *x, const ss_matrix *w, uint32_t row);

/* The tree of every 8-lane f32 reduction. */
static inline float ss_lane_sum(const float l[8]) {
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

#endif
