/* What the two WebAssembly kernel sets share: reading packed blocks and the f32 end of a block.
 *
 * A v128 holds 4 rows x 4 columns of codes (pack.h), so a group of 8 rows is two of them, "halves", per step of 4
 * columns.
 *
 * V8 has 16 vector registers and spills badly beyond them: tiles keep 8 accumulators, 2 weights and a little. */
#ifndef SS_WASM_COMMON_H
#define SS_WASM_COMMON_H

#include <wasm_simd128.h>

#include "kernels/isa.h"

#define SS_NOINLINE static __attribute__((noinline))

/* The same pointer, but the compiler no longer sees where it comes from. It then keeps constant offsets from it, which
 * are free as immediates of the load; strength reduction would turn each into an addition. */
SS_INLINE const void *ss_opaque(const void *p) {
  __asm__("" : "+r"(p));
  return p;
}

/* Pins the order of a tile's steps: left alone, the compiler sums one accumulator after the other over a whole block,
 * with all weights of the block alive (V8 then spills them). */
SS_INLINE void ss_keep_order(v128_t *a, v128_t *b) { __asm__ volatile("" : "+r"(*a), "+r"(*b)); }

enum { SS_TILE = 4 }; /* tokens of a GEMM tile */

/* Codes of 4 columns, [half of the group]. */
typedef struct ss_step {
  v128_t half[2];
} ss_step;

/* Steps j and j + 4 (j < 4) share their bytes in all packs but the 8-bit one: both are read at once. Bits that a 16-bit
 * shift brings over from a neighbour byte are masked away. */
SS_INLINE void ss_load_steps(ss_pack pack, const uint8_t *block, unsigned j, ss_step *low, ss_step *high) {
  const uint8_t *q = block + ss_blocks[pack].codes_at, *h = block + ss_blocks[pack].high_at;
  SS_UNROLL for (unsigned s = 0; s < 2; s++) {
    const v128_t v = wasm_v128_load(q + 32 * j + 16 * s);
    if (pack == SS_PACK_8) {
      low->half[s] = v;
      high->half[s] = wasm_v128_load(q + 32 * (j + 4) + 16 * s);
      continue;
    }
    const v128_t nibble = wasm_i8x16_const_splat(15);
    v128_t l = wasm_v128_and(v, nibble), u = wasm_v128_and(wasm_u16x8_shr(v, 4), nibble);
    if (pack == SS_PACK_5 || pack == SS_PACK_5M) {
      const v128_t bits = wasm_v128_load(h + 16 * s), mask = wasm_i8x16_const_splat(16);
      l = wasm_v128_or(l, wasm_v128_and(wasm_i16x8_shl(bits, 4 - j), mask));
      u = wasm_v128_or(u, wasm_v128_and(wasm_u16x8_shr(bits, j), mask));
    } else if (pack == SS_PACK_6) {
      const v128_t first = wasm_v128_load(h + 16 * s), second = wasm_v128_load(h + 32 + 16 * s);
      const v128_t mask = wasm_i8x16_const_splat(48);
      l = wasm_v128_or(l, wasm_v128_and(j < 3 ? wasm_i16x8_shl(first, 4 - 2 * j) : wasm_u16x8_shr(first, 2), mask));
      u = wasm_v128_or(u, wasm_v128_and(j < 3 ? wasm_i16x8_shl(second, 4 - 2 * j) : wasm_u16x8_shr(second, 2), mask));
    }
    low->half[s] = l;
    high->half[s] = u;
  }
}

/* Adds a block to the sums of 8 rows of one token, in scalar.c's order: with a scale (isum has its offset subtracted)
 * and with scale and minimum. */
SS_INLINE void ss_add_scaled(v128_t acc[2], v128_t isum0, v128_t isum1, const float *d, const ss_act_block *a) {
  const v128_t a_d = wasm_v128_load32_splat(&a->d);
  const v128_t d0 = wasm_f32x4_mul(wasm_v128_load(d), a_d), d1 = wasm_f32x4_mul(wasm_v128_load(d + 4), a_d);
  acc[0] = wasm_f32x4_add(acc[0], wasm_f32x4_mul(d0, wasm_f32x4_convert_i32x4(isum0)));
  acc[1] = wasm_f32x4_add(acc[1], wasm_f32x4_mul(d1, wasm_f32x4_convert_i32x4(isum1)));
}
SS_INLINE void ss_add_min(v128_t acc[2], v128_t isum0, v128_t isum1, const float *d, const ss_act_block *a) {
  const v128_t a_d = wasm_v128_load32_splat(&a->d), a_fsum = wasm_v128_load32_splat(&a->fsum);
  const v128_t x0 = wasm_f32x4_add(wasm_f32x4_mul(wasm_v128_load(d), wasm_f32x4_convert_i32x4(isum0)),
                                   wasm_f32x4_mul(wasm_v128_load(d + 8), a_fsum));
  const v128_t x1 = wasm_f32x4_add(wasm_f32x4_mul(wasm_v128_load(d + 4), wasm_f32x4_convert_i32x4(isum1)),
                                   wasm_f32x4_mul(wasm_v128_load(d + 12), a_fsum));
  acc[0] = wasm_f32x4_add(acc[0], wasm_f32x4_mul(x0, a_d));
  acc[1] = wasm_f32x4_add(acc[1], wasm_f32x4_mul(x1, a_d));
}

/* Offset times the sum of the activations of a block; of part 0 or 1 of a six-bit one. */
SS_INLINE v128_t ss_offset_sum(bool six_bit, unsigned part, uint32_t shift, const ss_act_block *a) {
  v128_t sum = wasm_v128_load32_splat(six_bit ? &a->sum_lo : &a->sum);
  if (part == 1) sum = wasm_i32x4_sub(wasm_v128_load32_splat(&a->sum), sum);
  return wasm_i32x4_shl(sum, shift);
}

/* Adds a block of a pack, or part 0 or 1 of a six-bit one. */
SS_INLINE void ss_add_block(ss_pack pack, unsigned part, v128_t acc[2], const v128_t isum[2], const float *d,
                            const ss_act_block *a) {
  if (ss_blocks[pack].has_min) ss_add_min(acc, isum[0], isum[1], d, a);
  else if (pack == SS_PACK_8) ss_add_scaled(acc, isum[0], isum[1], d, a);
  else {
    const v128_t offset = ss_offset_sum(pack == SS_PACK_6, part, ss_offset_shift(pack), a);
    ss_add_scaled(acc, wasm_i32x4_sub(isum[0], offset), wasm_i32x4_sub(isum[1], offset), d + 8 * part, a);
  }
}

/* A loop over runs of groups (isa.h): the runs share their code, and keep their sums in memory. */
#define SS_EACH_RUN(r, n) _Pragma("clang loop unroll(disable)") for (size_t r = 0; r < (n); r++)

/* ---- GEMM ---- */

/* The input and output of SS_TILE tokens from token t on. Where fewer are left it goes back to earlier ones, or repeats
 * the last: the same numbers are then written twice, which spares kernels for 1 to 3 tokens. */
typedef struct ss_tile_io {
  const int8_t *q[SS_TILE];
  const ss_act_block *a[SS_TILE];
  float *y[SS_TILE];
} ss_tile_io;
SS_INLINE ss_tile_io ss_tile_at(size_t t, size_t n_tokens, size_t n_blocks, const int8_t *q, const ss_act_block *a,
                                float *y, size_t y_stride) {
  ss_tile_io io;
  if (n_tokens - t < SS_TILE) t = n_tokens < SS_TILE ? 0 : n_tokens - SS_TILE;
  SS_UNROLL for (size_t i = 0; i < SS_TILE; i++) {
    const size_t u = ss_min(t + i, n_tokens - 1);
    io.q[i] = q + u * n_blocks * SS_COLS;
    io.a[i] = a + u * n_blocks;
    io.y[i] = y + u * y_stride;
  }
  return io;
}

/* Tokens that pass while a group is in the panel: few enough that their activations and outputs stay in the second-
 * level cache from group to group. */
SS_INLINE size_t ss_token_stretch(size_t n_left) { return n_left < 96 ? n_left : 64; }

/* A GEMM by way of the panel, which holds the codes of a group: `fill` unpacks them, `tile` multiplies SS_TILE tokens. */
typedef void ss_fill_fn(uint8_t *panel, const uint8_t *block, size_t n_blocks);
typedef void ss_tile_fn(ss_pack pack, const ss_tile_io *io, const uint8_t *panel, const uint8_t *block,
                        size_t n_blocks);
SS_INLINE void ss_gemm_by_panel(ss_fill_fn *fill, ss_tile_fn *tile, ss_pack pack, float *y, size_t y_stride,
                                const uint8_t *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                                const ss_act_block *a, size_t n_tokens, uint8_t *panel) {
  const size_t group_bytes = n_blocks * ss_packs[pack].group_bytes;
  for (size_t first = 0, n; first < n_tokens; first += n) {
    n = ss_token_stretch(n_tokens - first);
    for (size_t g = 0; g < n_groups; g++) {
      const uint8_t *group = w + g * group_bytes;
      fill(panel, group, n_blocks);
      for (size_t t = 0; t < n; t += SS_TILE) {
        const ss_tile_io io = ss_tile_at(t, n, n_blocks, q + first * n_blocks * SS_COLS, a + first * n_blocks,
                                         y + first * y_stride + g * SS_ROWS, y_stride);
        tile(pack, &io, panel, group, n_blocks);
      }
    }
  }
}

/* The file's fill_panel with its pack bound, and where they are found. */
#define SS_FILL_KERNEL(name, pack)                                                      \
  SS_NOINLINE void fill_##name(uint8_t *panel, const uint8_t *block, size_t n_blocks) { \
    fill_panel(pack, panel, block, n_blocks);                                           \
  }
#define SS_FILL_KERNELS                                                   \
  SS_FILL_KERNEL(4, SS_PACK_4)                                            \
  SS_FILL_KERNEL(4m, SS_PACK_4M)                                          \
  SS_FILL_KERNEL(5, SS_PACK_5)                                            \
  SS_FILL_KERNEL(5m, SS_PACK_5M)                                          \
  SS_FILL_KERNEL(6, SS_PACK_6)                                            \
  static ss_fill_fn *const fill[SS_PACK_COUNT] = {[SS_PACK_4] = fill_4,   \
                                                  [SS_PACK_4M] = fill_4m, \
                                                  [SS_PACK_5] = fill_5,   \
                                                  [SS_PACK_5M] = fill_5m, \
                                                  [SS_PACK_6] = fill_6};

/* A GEMM without a panel, of kernels for n tokens (few[n - 1]; NULL: there is none) that prepare the activations and
 * then pass over the groups. Groups are taken in stretches that stay in the second-level cache while the tokens pass. */
typedef void ss_few_fn(float *y, size_t y_stride, const uint8_t *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                       const ss_act_block *a);
SS_INLINE void ss_gemm_by_tiles(ss_few_fn *const few[SS_TILE], float *y, size_t y_stride, const uint8_t *w,
                                size_t n_groups, size_t n_blocks, size_t group_bytes, const int8_t *q,
                                const ss_act_block *a, size_t n_tokens) {
  const size_t stretch = n_tokens <= SS_TILE && few[n_tokens - 1] ? n_groups : ss_max(16, 160 * 1024 / group_bytes);
  for (size_t g = 0; g < n_groups; g += stretch)
    for (size_t t = 0, n; t < n_tokens; t += n) {
      n = ss_min(n_tokens - t, SS_TILE);
      while (!few[n - 1]) n--;
      few[n - 1](y + t * y_stride + SS_ROWS * g, y_stride, w + g * group_bytes, ss_min(n_groups - g, stretch), n_blocks,
                 q + t * n_blocks * SS_COLS, a + t * n_blocks);
    }
}

/* ---- wasm_simd128_float.c ---- */

#define SS_KERNEL(result, entry, args) result ss_##entry##_wasm args;
#include "kernels/kernels.def"
#undef SS_KERNEL
extern ss_fgemm_fn ss_fgemm_f32_wasm, ss_fgemm_f16_wasm, ss_fgemm_bf16_wasm;

#endif
