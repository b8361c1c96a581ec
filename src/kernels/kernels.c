/* Which kernel sets there are, and the matmul that picks between GEMV and GEMM. */
#include "kernels/kernels.h"

#include "kernels/isa.h"

const ss_pack_info ss_packs[SS_PACK_COUNT] = {
    [SS_PACK_F32] = {"f32", 4, 1, 0, 0},
    [SS_PACK_F16] = {"f16", 2, 1, 0, 0},
    [SS_PACK_BF16] = {"bf16", 2, 1, 0, 0},
    [SS_PACK_4] = {"4", sizeof(ss_block4), 0, 0, 8},
    [SS_PACK_4M] = {"4m", sizeof(ss_block4m), 0, 1, 0},
    [SS_PACK_5] = {"5", sizeof(ss_block5), 0, 0, 16},
    [SS_PACK_5M] = {"5m", sizeof(ss_block5m), 0, 1, 0},
    [SS_PACK_6] = {"6", sizeof(ss_block6), 0, 0, 32},
    [SS_PACK_8] = {"8", sizeof(ss_block8), 0, 0, 0},
};

const ss_kernels *ss_kernels_fastest(void) {
#if defined(__wasm_relaxed_simd__)
  return &ss_kernels_wasm_relaxed;
#elif defined(__wasm_simd128__)
  return &ss_kernels_wasm_simd128;
#else
  return ss_kernels_at(0);
#endif
}

const ss_kernels *ss_kernels_at(size_t i) {
  const ss_kernels *sets[4];
  size_t n = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    sets[n++] = &ss_kernels_avx512vnni;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) sets[n++] = &ss_kernels_avx2;
#elif defined(__aarch64__)
  sets[n++] = &ss_kernels_neon;
#elif defined(__wasm_simd128__)
  sets[n++] = ss_kernels_fastest();
#if defined(__wasm_relaxed_simd__)
  sets[n++] = &ss_kernels_wasm_relaxed_dot;
#endif
#endif
  sets[n++] = &ss_kernels_scalar;
  return i < n ? sets[i] : NULL;
}

const ss_kernels *ss_kernels_find(const char *name) {
  const ss_kernels *k;
  for (size_t i = 0; (k = ss_kernels_at(i)); i++) {
    if (!name) return k;
    size_t c = 0;
    while (name[c] && name[c] == k->name[c]) c++;
    if (name[c] == k->name[c]) return k;
  }
  return NULL;
}

const char *ss_kernels_name(const ss_kernels *kernels) { return kernels->name; }

void ss_matmul(const ss_kernels *k, float *y, size_t y_stride, const ss_matrix *w, size_t first, size_t end,
               const ss_acts *x, void *panel) {
  if (first >= end) return;
  const uint8_t *data = (const uint8_t *)w->data + first * ss_pack_group_bytes(w->pack, w->cols);
  const size_t n_groups = end - first, n_blocks = w->cols / SS_COLS;
  y += first * SS_ROWS;
  if (ss_packs[w->pack].is_float) k->fgemm[w->pack](y, y_stride, data, n_groups * SS_ROWS, w->cols, x->x, x->n_tokens);
  else if (x->n_tokens == 1) k->gemv[w->pack](y, data, n_groups, n_blocks, x->q, x->b);
  else k->gemm[w->pack](y, y_stride, data, n_groups, n_blocks, x->q, x->b, x->n_tokens, panel);
}

typedef float four_floats __attribute__((vector_size(16), aligned(4), may_alias));

void ss_rope(float *head, const float *cosine, const float *sine, uint32_t n_rot, bool neox) {
  const uint32_t half = n_rot / 2, step = neox ? 1 : 2, other = neox ? half : 1;
  uint32_t i = 0;
  for (; i + 4 <= half; i += 4) {
    four_floats *first = (four_floats *)(head + step * i);
    four_floats *second = neox ? (four_floats *)(head + half + i) : first + 1;
    const four_floats c = *(const four_floats *)(cosine + i), s = *(const four_floats *)(sine + i);
    const four_floats u = *first, v = *second;
    four_floats x = u, y = v;
    if (!neox) {
      x = __builtin_shufflevector(u, v, 0, 2, 4, 6);
      y = __builtin_shufflevector(u, v, 1, 3, 5, 7);
    }
    const four_floats a = x * c - y * s, b = x * s + y * c;
    *first = a;
    *second = b;
    if (!neox) {
      *first = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      *second = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    }
  }
  for (; i < half; i++) {
    float *a = head + step * i, *b = a + other;
    const float x = *a, y = *b;
    *a = x * cosine[i] - y * sine[i];
    *b = x * sine[i] + y * cosine[i];
  }
}

/* a + b and a - b of vectors that lie `distance` vectors apart. */
#define SS_BUTTERFLIES(distance)                                           \
  SS_UNROLL for (int j = 0; j < SS_COLS / 4; j++) if (!(j & (distance))) { \
    const four_floats a = v[j], b = v[j + (distance)];                     \
    v[j] = a + b;                                                          \
    v[j + (distance)] = a - b;                                             \
  }

void ss_hadamard(float *x, size_t n) {
  for (size_t i = 0; i < n; i += SS_COLS, x += SS_COLS) {
    four_floats v[SS_COLS / 4];
    memcpy(v, x, sizeof v);
    SS_BUTTERFLIES(4)
    SS_BUTTERFLIES(2)
    SS_BUTTERFLIES(1)
    memcpy(x, v, sizeof v);
    for (int j = 0; j < SS_COLS / 4; j++) { /* within a vector: a - b is a + -b */
      four_floats *y = (four_floats *)x + j;
      *y = __builtin_shufflevector(*y, *y, 0, 1, 0, 1) + __builtin_shufflevector(*y, -*y, 2, 3, 6, 7);
      *y = __builtin_shufflevector(*y, *y, 0, 0, 2, 2) + __builtin_shufflevector(*y, -*y, 1, 5, 3, 7);
    }
  }
}

void ss_layernorm(float *x, const float *gain, const float *bias, size_t n, float eps) {
  float lane[8] = {0};
  for (size_t i = 0; i < n; i++) lane[i % 8] += x[i];
  const float mean = ss_lane_sum(lane) / (float)n;
  memset(lane, 0, sizeof lane);
  for (size_t i = 0; i < n; i++) {
    x[i] -= mean;
    lane[i % 8] += x[i] * x[i];
  }
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (size_t i = 0; i < n; i++) x[i] = (x[i] * scale) * gain[i] + bias[i];
}

void ss_gelu(float *x, const float *bias, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const float v = x[i] + bias[i];
    x[i] = (0.5f * v) * (1.0f + ss_erff(v * 0.70710678f));
  }
}

void ss_matrix_row(float *x, const ss_matrix *w, uint32_t row) {
  const uint8_t *group = (const uint8_t *)w->data + (row / SS_ROWS) * ss_pack_group_bytes(w->pack, w->cols);
  const unsigned r = row % SS_ROWS;
  for (uint32_t c = 0; c < w->cols; c++) {
    const unsigned k = c % SS_COLS, j = k / 4, t = 4 * r + k % 4;
    const size_t i = c / SS_COLS;
    switch (w->pack) {
      case SS_PACK_F32: x[c] = ((const float *)(const void *)group)[(size_t)r * w->cols + c]; break;
      case SS_PACK_F16:
        x[c] = ss_float_of_half(((const uint16_t *)(const void *)group)[(size_t)r * w->cols + c]);
        break;
      case SS_PACK_BF16:
        x[c] = ss_float_of_bits((uint32_t)((const uint16_t *)(const void *)group)[(size_t)r * w->cols + c] << 16);
        break;
#define NIBBLE(b) ((b)->q[32 * (j % 4) + t] >> (j < 4 ? 0 : 4) & 15)
      case SS_PACK_4: {
        const ss_block4 *b = (const ss_block4 *)(const void *)group + i;
        x[c] = b->d[r] * (float)(NIBBLE(b) - 8);
        break;
      }
      case SS_PACK_4M: {
        const ss_block4m *b = (const ss_block4m *)(const void *)group + i;
        x[c] = b->d[r] * (float)NIBBLE(b) + b->m[r];
        break;
      }
      case SS_PACK_5: {
        const ss_block5 *b = (const ss_block5 *)(const void *)group + i;
        x[c] = b->d[r] * (float)((NIBBLE(b) | (b->h[t] >> j & 1) << 4) - 16);
        break;
      }
      case SS_PACK_5M: {
        const ss_block5m *b = (const ss_block5m *)(const void *)group + i;
        x[c] = b->d[r] * (float)(NIBBLE(b) | (b->h[t] >> j & 1) << 4) + b->m[r];
        break;
      }
      case SS_PACK_6: {
        const ss_block6 *b = (const ss_block6 *)(const void *)group + i;
        x[c] = b->d[k / 16][r] * (float)((NIBBLE(b) | (b->h[32 * (j / 4) + t] >> 2 * (j % 4) & 3) << 4) - 32);
        break;
      }
#undef NIBBLE
      case SS_PACK_8: {
        const ss_block8 *b = (const ss_block8 *)(const void *)group + i;
        x[c] = b->d[r] * (float)b->q[32 * j + t];
        break;
      }
      case SS_PACK_COUNT: break;
    }
  }
}
