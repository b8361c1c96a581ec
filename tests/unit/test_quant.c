/* Repacking and reading back: every type against a plain dequantisation written from the GGUF specification. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gguf_writer.h"
#include "host.h"
#include "kernels/kernels.h"
#include "test.h"

enum { ROWS = 11, COLS = 512 }; /* a whole group of 8 rows, and 3 rows of the next */

static const uint32_t all_types[] = {SS_GGUF_F32,  SS_GGUF_F16,  SS_GGUF_BF16, SS_GGUF_Q4_0, SS_GGUF_Q4_1, SS_GGUF_Q5_0,
                                     SS_GGUF_Q5_1, SS_GGUF_Q8_0, SS_GGUF_Q4_K, SS_GGUF_Q5_K, SS_GGUF_Q6_K};
#define N_TYPES (sizeof all_types / sizeof all_types[0])

/* ---- the reference: one weight at a time ---- */

static float half(const uint8_t *p) {
  const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double x = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return (float)(bits & 0x8000 ? -x : x);
}

static void k_scale_min(const uint8_t *scales, int s, int *scale, int *min) {
  if (s < 4) *scale = scales[s] & 63, *min = scales[s + 4] & 63;
  else *scale = (scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4, *min = scales[s + 4] >> 4 | (scales[s] >> 6) << 4;
}

/* Weight c of one block. */
static float reference(uint32_t type, const uint8_t *b, int c) {
  const int nibble_at = c % 16, nibble_shift = c / 16 * 4;
  uint32_t word, qh;
  int scale, min;
  float f;
  switch (type) {
    case SS_GGUF_F32: memcpy(&f, b, 4); return f;
    case SS_GGUF_F16: return half(b);
    case SS_GGUF_BF16:
      word = (uint32_t)(b[0] | b[1] << 8) << 16;
      memcpy(&f, &word, 4);
      return f;
    case SS_GGUF_Q4_0: return half(b) * (float)((b[2 + nibble_at] >> nibble_shift & 15) - 8);
    case SS_GGUF_Q4_1: return half(b) * (float)(b[4 + nibble_at] >> nibble_shift & 15) + half(b + 2);
    case SS_GGUF_Q5_0:
      memcpy(&qh, b + 2, 4);
      return half(b) * (float)((b[6 + nibble_at] >> nibble_shift & 15) + (int)(qh >> c & 1) * 16 - 16);
    case SS_GGUF_Q5_1:
      memcpy(&qh, b + 4, 4);
      return half(b) * (float)((b[8 + nibble_at] >> nibble_shift & 15) + (int)(qh >> c & 1) * 16) + half(b + 2);
    case SS_GGUF_Q8_0: return half(b) * (float)(int8_t)b[2 + c];
    case SS_GGUF_Q4_K: {
      k_scale_min(b + 4, c / 32, &scale, &min);
      const int code = b[16 + c / 64 * 32 + c % 32] >> (c / 32 % 2 * 4) & 15;
      return half(b) * (float)scale * (float)code - half(b + 2) * (float)min;
    }
    case SS_GGUF_Q5_K: {
      k_scale_min(b + 4, c / 32, &scale, &min);
      const int code = (b[48 + c / 64 * 32 + c % 32] >> (c / 32 % 2 * 4) & 15) | (b[16 + c % 32] >> (c / 32) & 1) << 4;
      return half(b) * (float)scale * (float)code - half(b + 2) * (float)min;
    }
    case SS_GGUF_Q6_K: {
      const int part = c % 128 / 32, low = b[c / 128 * 64 + part % 2 * 32 + c % 32] >> (part / 2 * 4) & 15;
      const int high = b[128 + c / 128 * 32 + c % 32] >> (2 * part) & 3;
      return half(b + 208) * (float)(int8_t)b[192 + c / 16] * (float)((low | high << 4) - 32);
    }
    default: fail_msg("no reference for type %u", (unsigned)type); return 0;
  }
}

/* ---- packed matrices ---- */

static void *pack_rows(uint32_t type, const uint8_t *bytes, size_t piece, size_t *n_bytes) {
  const ss_quant_info *quant = ss_quant_find(type);
  *n_bytes = ss_ceil_div(ROWS, SS_ROWS) * (size_t)ss_pack_group_bytes((ss_pack)quant->pack, COLS);
  void *data = ss_host_alloc(&test_host, *n_bytes);
  const size_t per_row = COLS / quant->block;
  for (uint32_t row = 0; row < ROWS; row++)
    for (size_t first = 0; first < per_row; first += piece) {
      const size_t n = per_row - first < piece ? per_row - first : piece;
      const size_t bad = ss_quant_repack(data, (ss_gguf_type)type, row, COLS, first, n,
                                         bytes + (row * per_row + first) * quant->bytes);
      assert_true(bad == SS_QUANT_FINITE);
    }
  return data;
}

static void test_rows_read_back_equal_the_specification_for_all_types(void **state) {
  (void)state;
  for (size_t k = 0; k < N_TYPES; k++) {
    const ss_quant_info *quant = ss_quant_find(all_types[k]);
    size_t n_bytes, packed_bytes;
    uint8_t *bytes = random_weights(all_types[k], ROWS * COLS, 1, 7 + k, &n_bytes);
    void *data = pack_rows(all_types[k], bytes, SIZE_MAX, &packed_bytes);
    const ss_matrix w = {.data = data, .rows = ROWS, .cols = COLS, .pack = (ss_pack)quant->pack};
    float x[COLS];
    double squares = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
      ss_matrix_row(x, &w, row);
      for (int c = 0; c < COLS; c++) {
        const uint8_t *block = bytes + (row * COLS + (uint32_t)c) / quant->block * quant->bytes;
        const float want = reference(all_types[k], block, c % quant->block);
        if (memcmp(&x[c], &want, 4) != 0 && !(x[c] == 0 && want == 0))
          fail_msg("%s: row %u, column %d: %a, want %a", quant->name, (unsigned)row, c, (double)x[c], (double)want);
        squares += (double)want * want;
      }
    }
    const double spread = sqrt(squares / (ROWS * COLS)); /* of the tests' own weights: no test of zeros */
    if (spread < 0.3 || spread > 3) fail_msg("%s: random weights of spread %g", quant->name, spread);
    free(data);
    free(bytes);
  }
}

static void test_pieces_of_a_row_give_the_same_bytes_as_whole_rows(void **state) {
  (void)state;
  for (size_t k = 0; k < N_TYPES; k++) {
    size_t n_bytes, packed_bytes;
    uint8_t *bytes = random_weights(all_types[k], ROWS * COLS, 1, 70 + k, &n_bytes);
    void *whole = pack_rows(all_types[k], bytes, SIZE_MAX, &packed_bytes);
    for (size_t piece = 1; piece <= 3; piece += 2) {
      void *pieces = pack_rows(all_types[k], bytes, piece, &packed_bytes);
      assert_memory_equal(whole, pieces, packed_bytes);
      free(pieces);
    }
    free(whole);
    free(bytes);
  }
}

static void test_rows_that_pad_the_last_group_stay_zero(void **state) {
  (void)state;
  for (size_t k = 0; k < N_TYPES; k++) {
    size_t n_bytes, packed_bytes;
    uint8_t *bytes = random_weights(all_types[k], ROWS * COLS, 1, 700 + k, &n_bytes);
    void *data = pack_rows(all_types[k], bytes, SIZE_MAX, &packed_bytes);
    ss_pack pack = (ss_pack)ss_quant_find(all_types[k])->pack;
    const ss_matrix w = {.data = data, .rows = 16, .cols = COLS, .pack = pack};
    for (uint32_t row = ROWS; row < 16; row++) {
      float x[COLS];
      ss_matrix_row(x, &w, row);
      for (int c = 0; c < COLS; c++) assert_true(x[c] == 0);
    }
    free(data);
    free(bytes);
  }
}

/* The tests' tester: no bit of a block may be lost. */
static void test_every_bit_of_a_block_counts(void **state) {
  (void)state;
  for (size_t k = 0; k < N_TYPES; k++) {
    const ss_quant_info *quant = ss_quant_find(all_types[k]);
    size_t n_bytes, packed_bytes;
    uint8_t *bytes = random_weights(all_types[k], ROWS * COLS, 1, 90 + k, &n_bytes);
    void *before = pack_rows(all_types[k], bytes, SIZE_MAX, &packed_bytes);
    for (size_t bit = 0; bit < 8u * quant->bytes; bit++) {
      bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
      void *after = ss_host_alloc(&test_host, packed_bytes);
      memcpy(after, before, packed_bytes);
      ss_quant_repack(after, (ss_gguf_type)all_types[k], 0, COLS, 0, 1, bytes);
      if (memcmp(before, after, packed_bytes) == 0) fail_msg("%s: bit %zu is lost", quant->name, bit);
      bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
      free(after);
    }
    free(before);
    free(bytes);
  }
}

static void test_subnormal_scales_are_exact(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 0x10000; h++) {
    if ((h & 0x7c00) == 0x7c00) continue;
    const uint8_t bytes[2] = {(uint8_t)h, (uint8_t)(h >> 8)};
    uint8_t block[34] = {bytes[0], bytes[1], 1};
    float x[32], direct;
    _Alignas(64) ss_block8 packed[1] = {0};
    assert_true(ss_quant_repack(packed, SS_GGUF_Q8_0, 0, 32, 0, 1, block) == SS_QUANT_FINITE);
    assert_true(ss_quant_floats(&direct, SS_GGUF_F16, 1, bytes) == SS_QUANT_FINITE);
    ss_matrix_row(x, &(ss_matrix){.data = packed, .rows = 1, .cols = 32, .pack = SS_PACK_8}, 0);
    const float want = half(bytes);
    assert_memory_equal(&x[0], &want, 4);
    assert_memory_equal(&direct, &want, 4);
  }
}

static void test_scale_that_is_not_finite_is_found_at_its_block(void **state) {
  (void)state;
  static const struct {
    uint32_t type;
    size_t at;
  } scales[] = {{SS_GGUF_Q4_0, 0}, {SS_GGUF_Q4_1, 0}, {SS_GGUF_Q4_1, 2}, {SS_GGUF_Q5_0, 0},
                {SS_GGUF_Q5_1, 0}, {SS_GGUF_Q5_1, 2}, {SS_GGUF_Q8_0, 0}, {SS_GGUF_Q4_K, 0},
                {SS_GGUF_Q4_K, 2}, {SS_GGUF_Q5_K, 0}, {SS_GGUF_Q5_K, 2}, {SS_GGUF_Q6_K, 208}};
  static const uint16_t bad_halves[] = {0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff};
  for (size_t k = 0; k < sizeof scales / sizeof scales[0]; k++)
    for (size_t h = 0; h < sizeof bad_halves / sizeof bad_halves[0]; h++) {
      const ss_quant_info *quant = ss_quant_find(scales[k].type);
      size_t n_bytes;
      uint8_t *bytes = random_weights(scales[k].type, 2048, 1, 5, &n_bytes);
      void *data = ss_host_alloc(&test_host, (size_t)ss_pack_group_bytes((ss_pack)quant->pack, 2048));
      const size_t block = 2048 / quant->block - 2;
      bytes[block * quant->bytes + scales[k].at] = (uint8_t)bad_halves[h];
      bytes[block * quant->bytes + scales[k].at + 1] = (uint8_t)(bad_halves[h] >> 8);
      const size_t bad = ss_quant_repack(data, (ss_gguf_type)scales[k].type, 3, 2048, 1, 2048 / quant->block - 1,
                                         bytes + quant->bytes);
      assert_int_equal(bad, block * quant->block);
      free(data);
      free(bytes);
    }
}

static void test_float_weight_that_is_not_finite_is_found(void **state) {
  (void)state;
  static const struct {
    uint32_t type, bits;
  } weights[] = {{SS_GGUF_F32, 0x7f800000}, {SS_GGUF_F32, 0xffc00000}, {SS_GGUF_F32, 0x7f800001}, {SS_GGUF_F16, 0x7c00},
                 {SS_GGUF_F16, 0xfe00},     {SS_GGUF_BF16, 0x7f80},    {SS_GGUF_BF16, 0xffff}};
  for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++) {
    const ss_quant_info *quant = ss_quant_find(weights[k].type);
    uint8_t bytes[64 * 4] = {0};
    float vector[64];
    for (size_t i = 0; i < quant->bytes; i++) bytes[37u * quant->bytes + i] = (uint8_t)(weights[k].bits >> (8 * i));
    void *data = ss_host_alloc(&test_host, 8 * 64 * 4);
    assert_int_equal(ss_quant_repack(data, (ss_gguf_type)weights[k].type, 1, 64, 0, 64, bytes), 37);
    assert_int_equal(ss_quant_floats(vector, (ss_gguf_type)weights[k].type, 64, bytes), 37);
    free(data);
  }
}

static void test_largest_finite_numbers_are_kept(void **state) {
  (void)state;
  const uint8_t f32[4] = {0xff, 0xff, 0x7f, 0x7f}, f16[2] = {0xff, 0xfb}, bf16[2] = {0x7f, 0x7f};
  float x;
  assert_true(ss_quant_floats(&x, SS_GGUF_F32, 1, f32) == SS_QUANT_FINITE && x == 0x1.fffffep127f);
  assert_true(ss_quant_floats(&x, SS_GGUF_F16, 1, f16) == SS_QUANT_FINITE && x == -65504.0f);
  assert_true(ss_quant_floats(&x, SS_GGUF_BF16, 1, bf16) == SS_QUANT_FINITE && x == 0x1.fep127f);
}

static void test_types_that_are_not_known_have_no_entry(void **state) {
  (void)state;
  static const uint32_t unknown[] = {4, 5, 31, 32, 33, 36, 37, 38, 40, 1000, UINT32_MAX};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) assert_null(ss_quant_find(unknown[i]));
  assert_int_equal(ss_quant_find(20)->pack, -1);
  for (uint32_t type = 0; type < 64; type++) {
    const ss_quant_info *quant = ss_quant_find(type);
    if (quant) assert_true(quant->block > 0 && quant->bytes > 0 && quant->bytes <= SS_QUANT_MAX_BYTES);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rows_read_back_equal_the_specification_for_all_types),
      cmocka_unit_test(test_pieces_of_a_row_give_the_same_bytes_as_whole_rows),
      cmocka_unit_test(test_rows_that_pad_the_last_group_stay_zero),
      cmocka_unit_test(test_every_bit_of_a_block_counts),
      cmocka_unit_test(test_subnormal_scales_are_exact),
      cmocka_unit_test(test_scale_that_is_not_finite_is_found_at_its_block),
      cmocka_unit_test(test_float_weight_that_is_not_finite_is_found),
      cmocka_unit_test(test_largest_finite_numbers_are_kept),
      cmocka_unit_test(test_types_that_are_not_known_have_no_entry),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
