/* Relaxed SIMD: products of whole bytes. One operand is signed, the other must be 0..127: then every engine gives the
 * same exact number. For codes below 128 the signed one is the activation; 8-bit codes see below.
 *
 * Two ways to sum, both exact; which one is faster depends on the processor, so there is a set of each:
 *
 *   wasm-relaxed       i16x8.relaxed_dot_i8x16_i7x16: neighbouring products are added into 16 bits, and these sums are
 *                      added up as long as they cannot overflow. x86 without AVX-VNNI: 2 instructions for 16 products.
 *   wasm-relaxed-dot   i32x4.relaxed_dot_i8x16_i7x16_add: four products into 32 bits. One instruction on ARM and with
 *                      AVX-VNNI, but five on other x86. For many tokens only: one alone waits for memory. */
#include "kernels/wasm_common.h"

/* Steps of 4 columns whose 16-bit sums cannot overflow: 2 * 127 * (largest code) * steps <= 32767. */
SS_INLINE unsigned safe_steps(ss_pack pack) {
  return pack == SS_PACK_6 ? 2 : pack == SS_PACK_5 || pack == SS_PACK_5M ? 4 : 8;
}

/* A sum over steps of 4 columns for 4 rows. What is narrow is not yet in wide. */
typedef struct partial {
  v128_t narrow, wide; /* sums of 2 columns in 16 bits; of 4 in 32 */
  unsigned n_narrow; /* steps in narrow; a constant once unrolled */
  bool has_wide;
} partial;

SS_INLINE void widen(partial *p) {
  if (!p->n_narrow) return;
  const v128_t sums = wasm_i32x4_extadd_pairwise_i16x8(p->narrow);
  p->wide = p->has_wide ? wasm_i32x4_add(p->wide, sums) : sums;
  p->has_wide = true;
  p->n_narrow = 0;
}
SS_INLINE void add_step(bool dot32, ss_pack pack, partial *p, v128_t q, v128_t codes) {
  if (dot32) {
    p->wide = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(q, codes, p->has_wide ? p->wide : wasm_i32x4_const_splat(0));
    p->has_wide = true;
    return;
  }
  const v128_t products = wasm_i16x8_relaxed_dot_i8x16_i7x16(q, codes);
  p->narrow = p->n_narrow ? wasm_i16x8_add(p->narrow, products) : products;
  if (++p->n_narrow == safe_steps(pack)) widen(p);
}
/* Pins the order of the steps of two sums. */
SS_INLINE void keep_order(partial *a, partial *b) {
  if (a->n_narrow) ss_keep_order(&a->narrow, &b->narrow);
  else ss_keep_order(&a->wide, &b->wide);
}
SS_INLINE void add_block(ss_pack pack, unsigned part, v128_t acc[2], partial sum[2], const float *d,
                         const ss_act_block *a) {
  widen(&sum[0]);
  widen(&sum[1]);
  const v128_t isum[2] = {sum[0].wide, sum[1].wide};
  ss_add_block(pack, part, acc, isum, d, a);
}

/* ---- one token ---- */

/* isa.h says why in runs. */
SS_INLINE void one_token(ss_pack pack, float *y, const uint8_t *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                         const ss_act_block *a) {
  const size_t in_run = ss_in_run(n_groups), group_bytes = n_blocks * ss_blocks[pack].bytes;
  for (size_t g = 0; g < in_run; g++) {
    const size_t n_runs = ss_runs_with(g, n_groups);
    const uint8_t *block[SS_RUNS];
    v128_t acc[SS_RUNS][2];
    SS_EACH_RUN(r, n_runs) {
      block[r] = w + (r * in_run + g) * group_bytes;
      acc[r][0] = acc[r][1] = wasm_f32x4_const_splat(0);
    }
    for (size_t i = 0; i < n_blocks; i++) {
      const int8_t *x = ss_opaque(q + SS_COLS * i);
      SS_EACH_RUN(r, n_runs) {
        const uint8_t *b = ss_opaque(block[r]);
        partial low_sum[2] = {{.n_narrow = 0}}, high_sum[2] = {{.n_narrow = 0}};
        partial *second = safe_steps(pack) == 8 ? low_sum : high_sum; /* where the sum of columns 16 on goes */
        SS_UNROLL for (unsigned j = 0; j < 4; j++) {
          ss_step low, high;
          ss_load_steps(pack, b, j, &low, &high);
          const v128_t q_low = wasm_v128_load32_splat(x + 4 * j), q_high = wasm_v128_load32_splat(x + 4 * j + 16);
          SS_UNROLL for (unsigned s = 0; s < 2; s++) {
            add_step(false, pack, &low_sum[s], q_low, low.half[s]);
            add_step(false, pack, &second[s], q_high, high.half[s]);
          }
        }
        const float *d = (const float *)(const void *)b;
        if (pack != SS_PACK_6 && second == high_sum) { /* widened already, by add_step */
          SS_UNROLL for (unsigned s = 0; s < 2; s++) low_sum[s].wide =
              wasm_i32x4_add(low_sum[s].wide, high_sum[s].wide);
        }
        add_block(pack, 0, acc[r], low_sum, d, a + i);
        if (pack == SS_PACK_6) add_block(pack, 1, acc[r], high_sum, d, a + i);
        block[r] += ss_blocks[pack].bytes;
      }
    }
    SS_EACH_RUN(r, n_runs) {
      wasm_v128_store(y + SS_ROWS * (r * in_run + g), acc[r][0]);
      wasm_v128_store(y + SS_ROWS * (r * in_run + g) + 4, acc[r][1]);
    }
  }
}

/* ---- many tokens: the codes of a group are unpacked once, into the panel ---- */

enum { PANEL_BLOCK = SS_ROWS * SS_COLS }; /* bytes: [step][half] */

SS_INLINE void fill_panel(ss_pack pack, uint8_t *panel, const uint8_t *block, size_t n_blocks) {
  for (size_t i = 0; i < n_blocks; i++, block += ss_blocks[pack].bytes, panel += PANEL_BLOCK) {
    const uint8_t *b = ss_opaque(block);
    for (unsigned j = 0; j < 4; j++) {
      ss_step low, high;
      ss_load_steps(pack, b, j, &low, &high);
      SS_UNROLL for (unsigned s = 0; s < 2; s++) {
        wasm_v128_store(panel + 32 * j + 16 * s, low.half[s]);
        wasm_v128_store(panel + 32 * (j + 4) + 16 * s, high.half[s]);
      }
    }
  }
}

SS_FILL_KERNELS

/* 8 rows x SS_TILE tokens. steps_of: a pack with as many safe steps. How a block ends is decided as it runs, so a tile
 * serves several packs. */
SS_INLINE void tile(bool dot32, ss_pack steps_of, ss_pack pack, const ss_tile_io *io, const uint8_t *panel,
                    const uint8_t *block, size_t n_blocks) {
  const size_t block_bytes = ss_packs[pack].group_bytes;
  const bool has_min = ss_packs[pack].has_min;
  const uint32_t shift = ss_offset_shift(pack);
  v128_t acc[SS_TILE][2];
  SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) acc[t][0] = acc[t][1] = wasm_f32x4_const_splat(0);
  for (size_t i = 0; i < n_blocks; i++, block += block_bytes, panel += PANEL_BLOCK) {
    const float *d = ss_opaque(block);
    const uint8_t *w = ss_opaque(panel);
    const int8_t *q[SS_TILE];
    const ss_act_block *a[SS_TILE];
    SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
      q[t] = ss_opaque(io->q[t] + SS_COLS * i);
      a[t] = ss_opaque(io->a[t] + i);
    }
    const bool six_bit = steps_of == SS_PACK_6;
    const unsigned n_parts = six_bit ? 2 : 1;
    SS_UNROLL for (unsigned part = 0; part < n_parts; part++) {
      partial sum[SS_TILE][2] = {{{.n_narrow = 0}}};
      SS_UNROLL for (unsigned j = 8 / n_parts * part; j < 8 / n_parts * (part + 1); j++) {
        const v128_t w0 = wasm_v128_load(w + 32 * j), w1 = wasm_v128_load(w + 32 * j + 16);
        SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
          const v128_t x = wasm_v128_load32_splat(q[t] + 4 * j);
          add_step(dot32, steps_of, &sum[t][0], x, w0);
          add_step(dot32, steps_of, &sum[t][1], x, w1);
          keep_order(&sum[t][0], &sum[t][1]);
        }
      }
      SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) widen(&sum[t][0]), widen(&sum[t][1]);
      if (!six_bit && has_min) {
        SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
          ss_add_min(acc[t], sum[t][0].wide, sum[t][1].wide, d, a[t]);
          ss_keep_order(&acc[t][0], &acc[t][1]);
        }
      } else {
        SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
          const v128_t offset = ss_offset_sum(six_bit, part, six_bit ? 5 : shift, a[t]);
          ss_add_scaled(acc[t], wasm_i32x4_sub(sum[t][0].wide, offset), wasm_i32x4_sub(sum[t][1].wide, offset),
                        d + 8 * part, a[t]);
          ss_keep_order(&acc[t][0], &acc[t][1]);
        }
      }
    }
  }
  SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
    wasm_v128_store(io->y[t], acc[t][0]);
    wasm_v128_store(io->y[t] + 4, acc[t][1]);
  }
}

#define TILE(name, dot32, steps_of)                                                                            \
  SS_NOINLINE void tile_##name(ss_pack pack, const ss_tile_io *io, const uint8_t *panel, const uint8_t *block, \
                               size_t n_blocks) {                                                              \
    tile(dot32, steps_of, pack, io, panel, block, n_blocks);                                                   \
  }
TILE(8_steps, false, SS_PACK_4)
TILE(4_steps, false, SS_PACK_5)
TILE(6, false, SS_PACK_6)
TILE(dot, true, SS_PACK_4)
static ss_tile_fn *const tiles[SS_PACK_COUNT] = {[SS_PACK_4] = tile_8_steps,
                                                 [SS_PACK_4M] = tile_8_steps,
                                                 [SS_PACK_5] = tile_4_steps,
                                                 [SS_PACK_5M] = tile_4_steps,
                                                 [SS_PACK_6] = tile_6};

SS_NOINLINE void many_tokens(bool dot32, ss_pack pack, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                             size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {
  ss_gemm_by_panel(fill[pack], dot32 && pack != SS_PACK_6 ? tile_dot : tiles[pack], pack, y, y_stride, w, n_groups,
                   n_blocks, q, a, n_tokens, panel);
}

/* ---- 8-bit codes ----
 *
 * The signed operand is the weight, the other the magnitude |q| of the activation. With m = -1 where q < 0, else 0: w
 * * q = (w ^ m) * |q| + (m ? |q| : 0), so isum is a sum of exact products and a sum over the negative q, which the
 * weights do not change. The sum of two products fills 16 bits (2 * 128 * 127), so each is widened at once. */

enum { SIGN_BLOCKS = 24 }; /* blocks of a stretch of columns: its signs and magnitudes are prepared on the stack */

typedef struct sign_block { /* of one block, SS_TILE tokens; 4 columns are repeated over a vector */
  int32_t magnitude[SS_TILE][8][4], sign[SS_TILE][8][4];
  int32_t negative[SS_TILE][4]; /* sum of the magnitudes of negative q */
} sign_block;

SS_NOINLINE void split_signs(sign_block *to, size_t token, const int8_t *q, const ss_act_block *a, size_t n_blocks) {
  for (size_t i = 0; i < n_blocks; i++) {
    v128_t sums = wasm_i16x8_const_splat(0);
    SS_UNROLL for (unsigned j = 0; j < 8; j++) {
      const v128_t v = wasm_v128_load32_splat(q + SS_COLS * i + 4 * j), magnitude = wasm_i8x16_abs(v);
      wasm_v128_store(to[i].magnitude[token][j], magnitude);
      wasm_v128_store(to[i].sign[token][j], wasm_i8x16_gt(wasm_i8x16_const_splat(0), v));
      sums = wasm_i16x8_add(sums, wasm_u16x8_extadd_pairwise_u8x16(magnitude));
    }
    const v128_t twice = wasm_i32x4_sub(wasm_i32x4_extadd_pairwise_i16x8(sums), wasm_v128_load32_splat(&a[i].sum));
    wasm_v128_store(to[i].negative[token], wasm_i32x4_shr(twice, 1)); /* sum |q| - sum q is twice that */
  }
}

/* 8 rows of each run x n_tokens; n_blocks of the columns, continuing what y holds unless they are the first. block and
 * y are the first run's; the next one's are run_bytes and run_rows on. */
SS_INLINE void sign_tile(bool dot32, size_t n_tokens, size_t n_runs, float *y, size_t y_stride, size_t run_rows,
                         bool first, const uint8_t *block, size_t run_bytes, const sign_block *signs,
                         const ss_act_block *a, size_t a_stride, size_t n_blocks) {
  v128_t acc[SS_RUNS][SS_TILE][2], ones = wasm_i16x8_const_splat(1);
  __asm__("" : "+r"(ones)); /* in a register, and not seen through: the compiler would make it the other set's dot */
  SS_EACH_RUN(r, n_runs) SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
    const float *from = y + t * y_stride + r * run_rows;
    acc[r][t][0] = first ? wasm_f32x4_const_splat(0) : wasm_v128_load(from);
    acc[r][t][1] = first ? wasm_f32x4_const_splat(0) : wasm_v128_load(from + 4);
  }
  for (size_t i = 0; i < n_blocks; i++) {
    const sign_block *x = ss_opaque(signs + i);
    SS_EACH_RUN(r, n_runs) {
      const uint8_t *b = ss_opaque(block + i * sizeof(ss_block8) + r * run_bytes);
      const uint8_t *w = b + ss_blocks[SS_PACK_8].codes_at;
      const uint8_t *at = (const uint8_t *)x->magnitude;
      v128_t isum[SS_TILE][2];
      SS_UNROLL for (size_t t = 0; t < n_tokens; t++) isum[t][0] = isum[t][1] = wasm_v128_load(x->negative[t]);
      const size_t at_once = n_tokens > 1 ? 2 : 8; /* steps: a loop for the sake of code size */
      for (size_t j0 = 0; j0 < 8; j0 += at_once, w += 32 * at_once, at += 16 * at_once) {
        SS_UNROLL for (size_t j = 0; j < at_once; j++) {
          const v128_t w0 = wasm_v128_load(w + 32 * j), w1 = wasm_v128_load(w + 32 * j + 16);
          SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
            const v128_t magnitude = wasm_v128_load(at + 128 * t + 16 * j);
            const v128_t sign = wasm_v128_load(at + sizeof x->magnitude + 128 * t + 16 * j);
            const v128_t s0 = wasm_v128_xor(w0, sign), s1 = wasm_v128_xor(w1, sign);
            if (dot32) {
              isum[t][0] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(s0, magnitude, isum[t][0]);
              isum[t][1] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(s1, magnitude, isum[t][1]);
            } else {
              const v128_t p0 = wasm_i16x8_relaxed_dot_i8x16_i7x16(s0, magnitude);
              const v128_t p1 = wasm_i16x8_relaxed_dot_i8x16_i7x16(s1, magnitude);
              isum[t][0] = wasm_i32x4_add(isum[t][0], wasm_i32x4_dot_i16x8(p0, ones));
              isum[t][1] = wasm_i32x4_add(isum[t][1], wasm_i32x4_dot_i16x8(p1, ones));
            }
            ss_keep_order(&isum[t][0], &isum[t][1]);
          }
        }
      }
      SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
        ss_add_block(SS_PACK_8, 0, acc[r][t], isum[t], (const float *)(const void *)b, a + t * a_stride + i);
        ss_keep_order(&acc[r][t][0], &acc[r][t][1]);
      }
    }
  }
  SS_EACH_RUN(r, n_runs) SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
    float *to = y + t * y_stride + r * run_rows;
    wasm_v128_store(to, acc[r][t][0]);
    wasm_v128_store(to + 4, acc[r][t][1]);
  }
}

/* In runs for one token and two, which a model's head has: their weights come from memory. */
SS_INLINE void few_tokens_8(bool dot32, size_t n_tokens, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                            size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const size_t in_run = n_tokens > 2 ? n_groups : ss_in_run(n_groups);
  const size_t group_bytes = n_blocks * sizeof(ss_block8);
  sign_block signs[SIGN_BLOCKS];
  for (size_t at = 0, n; at < n_blocks; at += n) {
    n = ss_min(n_blocks - at, SIGN_BLOCKS);
    for (size_t t = 0; t < n_tokens; t++)
      split_signs(signs, t, q + (t * n_blocks + at) * SS_COLS, a + t * n_blocks + at, n);
    for (size_t g = 0; g < in_run; g++)
      sign_tile(dot32, n_tokens, n_tokens > 2 ? 1 : ss_runs_with(g, n_groups), y + SS_ROWS * g, y_stride,
                SS_ROWS * in_run, at == 0, w + g * group_bytes + at * sizeof(ss_block8), in_run * group_bytes, signs,
                a + at, n_blocks, n);
  }
}

#define FEW_8(name, dot32, n)                                                                             \
  static void few_8_##name(float *y, size_t y_stride, const uint8_t *w, size_t n_groups, size_t n_blocks, \
                           const int8_t *q, const ss_act_block *a) {                                      \
    few_tokens_8(dot32, n, y, y_stride, w, n_groups, n_blocks, q, a);                                     \
  }
FEW_8(1, false, 1)
FEW_8(2, false, 2)
FEW_8(4, false, 4)
FEW_8(2_dot, true, 2)
FEW_8(4_dot, true, 4)
static ss_few_fn *const few_8[SS_TILE] = {few_8_1, few_8_2, NULL, few_8_4};
static ss_few_fn *const few_8_dot[SS_TILE] = {few_8_1, few_8_2_dot, NULL, few_8_4_dot};

/* ---- entries ---- */

SS_INLINE void gemm(bool dot32, ss_pack pack, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                    size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {
  if (pack == SS_PACK_8)
    ss_gemm_by_tiles(dot32 ? few_8_dot : few_8, y, y_stride, w, n_groups, n_blocks, n_blocks * sizeof(ss_block8), q, a,
                     n_tokens);
  else many_tokens(dot32, pack, y, y_stride, w, n_groups, n_blocks, q, a, n_tokens, panel);
}

SS_INLINE void gemv(ss_pack pack, float *y, const uint8_t *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                    const ss_act_block *a) {
  if (pack == SS_PACK_8) few_8_1(y, 0, w, n_groups, n_blocks, q, a);
  else one_token(pack, y, w, n_groups, n_blocks, q, a);
}
SS_GEMV_KERNELS(wasm)

#define SET(set, text, dot32)                \
  SS_GEMM_KERNEL(4, set, dot32, SS_PACK_4)   \
  SS_GEMM_KERNEL(4m, set, dot32, SS_PACK_4M) \
  SS_GEMM_KERNEL(5, set, dot32, SS_PACK_5)   \
  SS_GEMM_KERNEL(5m, set, dot32, SS_PACK_5M) \
  SS_GEMM_KERNEL(6, set, dot32, SS_PACK_6)   \
  SS_GEMM_KERNEL(8, set, dot32, SS_PACK_8)   \
  const ss_kernels ss_kernels_##set = {      \
      .name = text,                          \
      .quantize = ss_quantize_wasm,          \
      .rmsnorm = ss_rmsnorm_wasm,            \
      .add = ss_add_wasm,                    \
      .swiglu = ss_swiglu_wasm,              \
      .softmax = ss_softmax_wasm,            \
      .mix = ss_mix_wasm,                    \
      .gemv = SS_DOT_ENTRIES(gemv, wasm),    \
      .gemm = SS_DOT_ENTRIES(gemm, set),     \
      .fgemm = SS_FLOAT_ENTRIES(wasm),       \
  };

SET(wasm_relaxed, "wasm-relaxed", false)
SET(wasm_relaxed_dot, "wasm-relaxed-dot", true)
