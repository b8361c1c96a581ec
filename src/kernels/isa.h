/* What the files of instruction sets share: where the parts of a block lie, and the entries that bind a pack.
 *
 * Their functions take the pack as an argument and are inlined with a constant one: its branches, and what it looks up
 * in ss_blocks, cost nothing. */
#ifndef SS_ISA_H
#define SS_ISA_H

#include "kernels/kernels.h"

#define SS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define SS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SS_UNROLL _Pragma("GCC unroll 16")
#endif

/* A block as pack.h lays it out: scales first, then the minima or the scales of the second half, if it has them. */
typedef struct ss_block_layout {
  uint16_t bytes;
  uint16_t codes_at; /* or their low four bits */
  uint16_t high_at;  /* their high bits, or 0 */
  bool has_min;
} ss_block_layout;
static const ss_block_layout ss_blocks[SS_PACK_COUNT] = {
    [SS_PACK_4] = {sizeof(ss_block4), offsetof(ss_block4, q), 0, false},
    [SS_PACK_4M] = {sizeof(ss_block4m), offsetof(ss_block4m, q), 0, true},
    [SS_PACK_5] = {sizeof(ss_block5), offsetof(ss_block5, q), offsetof(ss_block5, h), false},
    [SS_PACK_5M] = {sizeof(ss_block5m), offsetof(ss_block5m, q), offsetof(ss_block5m, h), true},
    [SS_PACK_6] = {sizeof(ss_block6), offsetof(ss_block6, q), offsetof(ss_block6, h), false},
    [SS_PACK_8] = {sizeof(ss_block8), offsetof(ss_block8, q), 0, false},
};

/* The offset of a code is 1 << ss_offset_shift, for packs with an offset: 4, 5 and 6. */
SS_INLINE unsigned ss_offset_shift(ss_pack pack) { return pack == SS_PACK_4 ? 3 : pack == SS_PACK_5 ? 4 : 5; }

/* The activations that go with a scale: of the block, or of one half where the pack has a scale for each. */
SS_INLINE int32_t ss_act_sum(ss_pack pack, int half, const ss_act_block *a) {
  return pack != SS_PACK_6 ? a->sum : half ? a->sum - a->sum_lo : a->sum_lo;
}

/* Weights that few tokens read once come from memory, and a single long run of reads leaves it waiting: hardware
 * prefetches a few lines ahead and no farther than a page. So the groups are split in runs that are read by turns, block
 * by block, which gives 1.3 to 1.5 times as much. Runs have `in_run` groups, the last ones fewer. */
#ifdef __wasm__
enum { SS_RUNS = 8 }; /* nothing else prefetches */
#else
enum { SS_RUNS = 4 };
#endif
SS_INLINE size_t ss_in_run(size_t n_groups) { return ss_ceil_div(n_groups, SS_RUNS); }
/* The runs that have a group g. */
SS_INLINE size_t ss_runs_with(size_t g, size_t n_groups) {
  const size_t in_run = ss_in_run(n_groups);
  return (n_groups - g + in_run - 1) / in_run;
}

/* With prefetches of its own each run gives 1.3 times as much again. Past the end of the weights they do nothing. */
SS_INLINE void ss_prefetch(const uint8_t *p, size_t bytes) {
  SS_UNROLL for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

/* Where the weights of a tile come from: the packed groups themselves, or the panel. A constant argument. */
typedef enum ss_source { SS_PACKED, SS_PANEL } ss_source;

/* The polynomial of ss_expf, highest power first. */
static const float ss_exp_terms[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                      4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

/* ---- entries of a table ---- */

/* ss_gemv_<name>_<isa> and ss_gemm_<name>_<isa>: the file's gemv and gemm with their first arguments bound. */
#define SS_GEMV_KERNEL(name, isa, ...)                                                                           \
  static void ss_gemv_##name##_##isa(float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q, \
                                     const ss_act_block *a) {                                                    \
    gemv(__VA_ARGS__, y, w, n_groups, n_blocks, q, a);                                                           \
  }
#define SS_GEMM_KERNEL(name, isa, ...)                                                                           \
  static void ss_gemm_##name##_##isa(float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks, \
                                     const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {     \
    gemm(__VA_ARGS__, y, y_stride, w, n_groups, n_blocks, q, a, n_tokens, panel);                                \
  }
#define SS_GEMV_KERNELS(isa)          \
  SS_GEMV_KERNEL(4, isa, SS_PACK_4)   \
  SS_GEMV_KERNEL(4m, isa, SS_PACK_4M) \
  SS_GEMV_KERNEL(5, isa, SS_PACK_5)   \
  SS_GEMV_KERNEL(5m, isa, SS_PACK_5M) \
  SS_GEMV_KERNEL(6, isa, SS_PACK_6)   \
  SS_GEMV_KERNEL(8, isa, SS_PACK_8)
#define SS_DOT_KERNELS(isa)           \
  SS_GEMV_KERNELS(isa)                \
  SS_GEMM_KERNEL(4, isa, SS_PACK_4)   \
  SS_GEMM_KERNEL(4m, isa, SS_PACK_4M) \
  SS_GEMM_KERNEL(5, isa, SS_PACK_5)   \
  SS_GEMM_KERNEL(5m, isa, SS_PACK_5M) \
  SS_GEMM_KERNEL(6, isa, SS_PACK_6)   \
  SS_GEMM_KERNEL(8, isa, SS_PACK_8)

/* The same of its fgemm, not static. */
#define SS_FLOAT_KERNEL(name, isa, pack)                                                                             \
  void ss_fgemm_##name##_##isa(float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x, \
                               size_t n_tokens) {                                                                    \
    fgemm(pack, y, y_stride, w, n_rows, cols, x, n_tokens);                                                          \
  }
#define SS_FLOAT_KERNELS(isa)            \
  SS_FLOAT_KERNEL(f32, isa, SS_PACK_F32) \
  SS_FLOAT_KERNEL(f16, isa, SS_PACK_F16) \
  SS_FLOAT_KERNEL(bf16, isa, SS_PACK_BF16)

/* Initialisers of a table's gemv or gemm, and of its fgemm. */
#define SS_DOT_ENTRIES(kernel, isa)                                                                                   \
  {[SS_PACK_4] = ss_##kernel##_4_##isa,   [SS_PACK_4M] = ss_##kernel##_4m_##isa, [SS_PACK_5] = ss_##kernel##_5_##isa, \
   [SS_PACK_5M] = ss_##kernel##_5m_##isa, [SS_PACK_6] = ss_##kernel##_6_##isa,   [SS_PACK_8] = ss_##kernel##_8_##isa}
#define SS_FLOAT_ENTRIES(isa) \
  {[SS_PACK_F32] = ss_fgemm_f32_##isa, [SS_PACK_F16] = ss_fgemm_f16_##isa, [SS_PACK_BF16] = ss_fgemm_bf16_##isa}

#endif
