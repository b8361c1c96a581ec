/* Plain simd128. Codes are widened to 16 bits and multiplied in pairs of columns by i32x4.dot_i16x8, which leaves 4 row
 * sums. The even and the odd bytes of a code vector are such pairs already (columns 0 and 2, 1 and 3), so widening is a
 * shift or a mask and no shuffle; activations are widened the same way. */
#include "kernels/wasm_common.h"

/* 4 columns as pairs (0, 2) and (1, 3). */
typedef struct pairs {
  v128_t even, odd;
} pairs;

SS_INLINE pairs widen_signed(v128_t bytes) {
  return (pairs){wasm_i16x8_shr(wasm_i16x8_shl(bytes, 8), 8), wasm_i16x8_shr(bytes, 8)};
}
SS_INLINE pairs widen_codes(ss_pack pack, v128_t bytes) {
  if (pack == SS_PACK_8) return widen_signed(bytes);
  return (pairs){wasm_v128_and(bytes, wasm_i16x8_const_splat(255)), wasm_u16x8_shr(bytes, 8)};
}

/* ---- few tokens: codes are widened in registers ---- */

enum { WIDE_BLOCKS = 24 }; /* blocks of a stretch of columns: its activations are prepared on the stack */

typedef struct wide_block { /* of one block, SS_TILE tokens; 4 columns are repeated over a vector */
  int32_t even[SS_TILE][8][4], odd[SS_TILE][8][4];
} wide_block;

SS_NOINLINE void widen_acts(wide_block *to, size_t token, const int8_t *q, size_t n_blocks) {
  for (size_t i = 0; i < n_blocks; i++) {
    for (unsigned j = 0; j < 8; j++) {
      const pairs p = widen_signed(wasm_v128_load32_splat(q + SS_COLS * i + 4 * j));
      wasm_v128_store(to[i].even[token][j], p.even);
      wasm_v128_store(to[i].odd[token][j], p.odd);
    }
  }
}

SS_INLINE void dot_step(ss_pack pack, size_t n_tokens, unsigned j, bool first, v128_t isum[SS_TILE][2],
                        const ss_step *w, const wide_block *x) {
  const pairs c0 = widen_codes(pack, w->half[0]), c1 = widen_codes(pack, w->half[1]);
  SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
    const v128_t even = wasm_v128_load(x->even[t][j]), odd = wasm_v128_load(x->odd[t][j]);
    const v128_t e0 = wasm_i32x4_dot_i16x8(c0.even, even), e1 = wasm_i32x4_dot_i16x8(c1.even, even);
    isum[t][0] = first ? e0 : wasm_i32x4_add(isum[t][0], e0);
    isum[t][1] = first ? e1 : wasm_i32x4_add(isum[t][1], e1);
    isum[t][0] = wasm_i32x4_add(isum[t][0], wasm_i32x4_dot_i16x8(c0.odd, odd));
    isum[t][1] = wasm_i32x4_add(isum[t][1], wasm_i32x4_dot_i16x8(c1.odd, odd));
    ss_keep_order(&isum[t][0], &isum[t][1]);
  }
}

/* 8 rows of each run x n_tokens; n_blocks of the columns, continuing what y holds unless they are the first. block and
 * y are the first run's; the next one's are run_bytes and run_rows on. */
SS_INLINE void few_tile(ss_pack pack, size_t n_tokens, size_t n_runs, float *y, size_t y_stride, size_t run_rows,
                        bool first, const uint8_t *block, size_t run_bytes, const wide_block *wide,
                        const ss_act_block *a, size_t a_stride, size_t n_blocks) {
  v128_t acc[SS_RUNS][SS_TILE][2];
  SS_EACH_RUN(r, n_runs) SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
    const float *from = y + t * y_stride + r * run_rows;
    acc[r][t][0] = first ? wasm_f32x4_const_splat(0) : wasm_v128_load(from);
    acc[r][t][1] = first ? wasm_f32x4_const_splat(0) : wasm_v128_load(from + 4);
  }
  for (size_t i = 0; i < n_blocks; i++) {
    const wide_block *x = ss_opaque(wide + i);
    SS_EACH_RUN(r, n_runs) {
      const uint8_t *b = ss_opaque(block + i * ss_blocks[pack].bytes + r * run_bytes);
      const float *d = (const float *)(const void *)b;
      v128_t isum[SS_TILE][2], high_isum[SS_TILE][2]; /* six-bit: of columns 16 on */
      SS_UNROLL for (unsigned j = 0; j < 4; j++) {
        ss_step low, high;
        ss_load_steps(pack, b, j, &low, &high);
        dot_step(pack, n_tokens, j, j == 0, isum, &low, x);
        if (pack == SS_PACK_6) dot_step(pack, n_tokens, j + 4, j == 0, high_isum, &high, x);
        else dot_step(pack, n_tokens, j + 4, false, isum, &high, x);
      }
      SS_UNROLL for (size_t t = 0; t < n_tokens; t++) {
        ss_add_block(pack, 0, acc[r][t], isum[t], d, a + t * a_stride + i);
        if (pack == SS_PACK_6) ss_add_block(pack, 1, acc[r][t], high_isum[t], d, a + t * a_stride + i);
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

/* In runs for one token, whose weights come from memory. */
SS_INLINE void few_tokens(ss_pack pack, size_t n_tokens, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                          size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const size_t in_run = n_tokens > 1 ? n_groups : ss_in_run(n_groups);
  const size_t block_bytes = ss_blocks[pack].bytes, group_bytes = n_blocks * block_bytes;
  wide_block wide[WIDE_BLOCKS];
  for (size_t at = 0, n; at < n_blocks; at += n) {
    n = ss_min(n_blocks - at, WIDE_BLOCKS);
    for (size_t t = 0; t < n_tokens; t++) widen_acts(wide, t, q + (t * n_blocks + at) * SS_COLS, n);
    for (size_t g = 0; g < in_run; g++)
      few_tile(pack, n_tokens, n_tokens > 1 ? 1 : ss_runs_with(g, n_groups), y + SS_ROWS * g, y_stride,
               SS_ROWS * in_run, at == 0, w + g * group_bytes + at * block_bytes, in_run * group_bytes, wide, a + at,
               n_blocks, n);
  }
}

/* ---- many tokens: a group is widened once, into the panel ---- */

enum { BLOCK_I16 = 2 * SS_ROWS * SS_COLS }; /* bytes of a widened block: [step][even, odd][half] */

/* Widens the blocks of one group into the panel. Offsets are subtracted here, but for six-bit codes: so one tile serves
 * all packs that end a block in the same way. */
SS_INLINE void fill_panel(ss_pack pack, uint8_t *panel, const uint8_t *block, size_t n_blocks) {
  const v128_t offset = wasm_i16x8_splat(pack == SS_PACK_4 ? 8 : 16);
  for (size_t n = n_blocks; n--; block += ss_blocks[pack].bytes, panel += BLOCK_I16) {
    const uint8_t *b = ss_opaque(block);
    for (unsigned j = 0; j < 4; j++) {
      ss_step step[2];
      ss_load_steps(pack, b, j, &step[0], &step[1]);
      SS_UNROLL for (unsigned i = 0; i < 4; i++) {
        const unsigned k = i / 2, s = i % 2;
        pairs c = widen_codes(pack, step[k].half[s]);
        if (pack == SS_PACK_4 || pack == SS_PACK_5)
          c = (pairs){wasm_i16x8_sub(c.even, offset), wasm_i16x8_sub(c.odd, offset)};
        uint8_t *to = panel + 64 * (j + 4 * k) + 16 * s;
        wasm_v128_store(to, c.even);
        wasm_v128_store(to + 32, c.odd);
      }
    }
  }
}

SS_FILL_KERNELS

/* 8 rows x SS_TILE tokens. end: the pack whose way to end a block is meant, SS_PACK_8 (only a scale), 4M or 6. */
SS_INLINE void tile(ss_pack end, ss_pack pack, const ss_tile_io *io, const uint8_t *panel, const uint8_t *block,
                    size_t n_blocks) {
  const size_t block_bytes = ss_packs[pack].group_bytes;
  v128_t acc[SS_TILE][2];
  SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) acc[t][0] = acc[t][1] = wasm_f32x4_const_splat(0);
  for (size_t i = 0; i < n_blocks; i++, block += block_bytes) {
    const float *d = ss_opaque(block);
    int16_t wide[2][SS_TILE][16]; /* the activations, [half of the block][token][4 even pairs, 4 odd pairs] */
    SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
      const int8_t *q = ss_opaque(io->q[t] + SS_COLS * i);
      SS_UNROLL for (unsigned k = 0; k < 2; k++) {
        const pairs p = widen_signed(wasm_v128_load(q + 16 * k));
        wasm_v128_store(wide[k][t], p.even);
        wasm_v128_store(wide[k][t] + 8, p.odd);
      }
    }
    v128_t isum[SS_TILE][2];
    SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) isum[t][0] = isum[t][1] = wasm_i32x4_const_splat(0);
    for (unsigned k = 0; k < 2; k++, panel += BLOCK_I16 / 2) { /* a loop for the sake of code size */
      const int16_t *x = ss_opaque(wide[k]);
      const uint8_t *w = ss_opaque(panel);
      SS_UNROLL for (unsigned j = 0; j < 8; j++) { /* pairs of columns */
        const v128_t w0 = wasm_v128_load(w + 32 * j), w1 = wasm_v128_load(w + 32 * j + 16);
        SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
          const v128_t pair = wasm_v128_load32_splat(x + 16 * t + 8 * (j % 2) + 2 * (j / 2));
          isum[t][0] = wasm_i32x4_add(isum[t][0], wasm_i32x4_dot_i16x8(w0, pair));
          isum[t][1] = wasm_i32x4_add(isum[t][1], wasm_i32x4_dot_i16x8(w1, pair));
          ss_keep_order(&isum[t][0], &isum[t][1]);
        }
      }
      if (end == SS_PACK_6 && k == 0) {
        SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
          ss_add_block(end, 0, acc[t], isum[t], d, ss_opaque(io->a[t] + i));
          isum[t][0] = isum[t][1] = wasm_i32x4_const_splat(0);
        }
      }
    }
    SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
      ss_add_block(end, end == SS_PACK_6 ? 1 : 0, acc[t], isum[t], d, ss_opaque(io->a[t] + i));
      ss_keep_order(&acc[t][0], &acc[t][1]);
    }
  }
  SS_UNROLL for (unsigned t = 0; t < SS_TILE; t++) {
    wasm_v128_store(io->y[t], acc[t][0]);
    wasm_v128_store(io->y[t] + 4, acc[t][1]);
  }
}
#define TILE(name, end)                                                                                        \
  SS_NOINLINE void tile_##name(ss_pack pack, const ss_tile_io *io, const uint8_t *panel, const uint8_t *block, \
                               size_t n_blocks) {                                                              \
    tile(end, pack, io, panel, block, n_blocks);                                                               \
  }
TILE(scale, SS_PACK_8)
TILE(min, SS_PACK_4M)
TILE(6, SS_PACK_6)
static ss_tile_fn *const tiles[SS_PACK_COUNT] = {[SS_PACK_4] = tile_scale,
                                                 [SS_PACK_4M] = tile_min,
                                                 [SS_PACK_5] = tile_scale,
                                                 [SS_PACK_5M] = tile_min,
                                                 [SS_PACK_6] = tile_6};

SS_NOINLINE void many_tokens(ss_pack pack, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                             size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {
  ss_gemm_by_panel(fill[pack], tiles[pack], pack, y, y_stride, w, n_groups, n_blocks, q, a, n_tokens, panel);
}

/* ---- entries ---- */

/* 8-bit codes are widened fast enough to do without a panel, which attention with its few queries would not repay. */
#define FEW_8(n)                                                                                            \
  SS_NOINLINE void few_8_##n(float *y, size_t y_stride, const uint8_t *w, size_t n_groups, size_t n_blocks, \
                             const int8_t *q, const ss_act_block *a) {                                      \
    few_tokens(SS_PACK_8, n, y, y_stride, w, n_groups, n_blocks, q, a);                                     \
  }
FEW_8(1)
FEW_8(4)
static ss_few_fn *const few_8[SS_TILE] = {few_8_1, NULL, NULL, few_8_4}; /* two and three tokens go one by one */

SS_INLINE void gemv(ss_pack pack, float *y, const uint8_t *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                    const ss_act_block *a) {
  if (pack == SS_PACK_8) few_8_1(y, 0, w, n_groups, n_blocks, q, a);
  else few_tokens(pack, 1, y, 0, w, n_groups, n_blocks, q, a);
}
SS_INLINE void gemm(ss_pack pack, float *y, size_t y_stride, const uint8_t *w, size_t n_groups, size_t n_blocks,
                    const int8_t *q, const ss_act_block *a, size_t n_tokens, void *panel) {
  if (pack == SS_PACK_8)
    ss_gemm_by_tiles(few_8, y, y_stride, w, n_groups, n_blocks, n_blocks * sizeof(ss_block8), q, a, n_tokens);
  else many_tokens(pack, y, y_stride, w, n_groups, n_blocks, q, a, n_tokens, panel);
}
SS_DOT_KERNELS(wasm_simd128)

const ss_kernels ss_kernels_wasm_simd128 = {
    .name = "wasm-simd128",
#define SS_KERNEL(result, entry, args) .entry = ss_##entry##_wasm,
#include "kernels/kernels.def"
#undef SS_KERNEL
    .gemv = SS_DOT_ENTRIES(gemv, wasm_simd128),
    .gemm = SS_DOT_ENTRIES(gemm, wasm_simd128),
    .fgemm = SS_FLOAT_ENTRIES(wasm),
};
