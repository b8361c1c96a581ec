/* The packed layout of weights: 8 rows interleaved at 4-byte steps, the same on every target.
 *
 * A matrix [rows][cols] becomes ceil(rows / 8) groups of 8 rows (missing rows are zero); a group is cols / 32 blocks;
 * a block holds 8 rows x 32 columns. Column k of a block lies in step j = k / 4 (0..7) at byte t = k % 4:
 *
 *     step j of 8-bit codes:   bytes q[32*j + 4*r + t], r = row in the group
 *     step j of 4-bit codes:   the same byte of q[32*(j % 4) + ...], low nibble for j < 4, high nibble for j >= 4
 *     high bit of 5-bit codes: bit j of h[4*r + t]
 *     high bits of 6-bit codes: bits 2*(j % 4), +1 of h[32*(j / 4) + 4*r + t]
 *
 * So one 32-byte vector holds 4 columns of 8 rows, a dot product instruction on it leaves 8 row sums, and no
 * horizontal add is left. GGUF's own nibble order (column k and k + 16 share a byte) makes packing Q4_0 .. Q5_1 and
 * Q8_0 a copy of 4-byte words.
 *
 * The weight of a code q is   d * (q - offset)   or, for the types with a minimum,   d * q + m.
 * Codes with an offset or a minimum are unsigned; those of SS_PACK_8 are signed. Scales are f32: exact, since GGUF's
 * own are f16 products of few bits.
 *
 * F32, F16 and BF16 matrices stay row-major, rows padded to a multiple of 8 with zero rows. */
#ifndef SS_PACK_H
#define SS_PACK_H

#include <stdint.h>

#define SS_ROWS 8   /* rows of a group */
#define SS_COLS 32  /* columns of a block */

typedef enum ss_pack {
  SS_PACK_F32,
  SS_PACK_F16,
  SS_PACK_BF16,
  SS_PACK_4,  /* Q4_0: offset 8 */
  SS_PACK_4M, /* Q4_1, Q4_K: minimum */
  SS_PACK_5,  /* Q5_0: offset 16 */
  SS_PACK_5M, /* Q5_1, Q5_K: minimum */
  SS_PACK_6,  /* Q6_K: offset 32, a scale for each 16 columns */
  SS_PACK_8,  /* Q8_0, and the K half of the KV cache (its rows are positions) */
  SS_PACK_COUNT,
} ss_pack;

typedef struct ss_block4 {
  float d[8];
  uint8_t q[128];
} ss_block4;
typedef struct ss_block4m {
  float d[8], m[8];
  uint8_t q[128];
} ss_block4m;
typedef struct ss_block5 {
  float d[8];
  uint8_t h[32], q[128];
} ss_block5;
typedef struct ss_block5m {
  float d[8], m[8];
  uint8_t h[32], q[128];
} ss_block5m;
typedef struct ss_block6 {
  float d[2][8];
  uint8_t h[64], q[128];
} ss_block6; /* d[c / 16][row] */
typedef struct ss_block8 {
  float d[8];
  int8_t q[256];
} ss_block8;

_Static_assert(sizeof(ss_block4) == 160 && sizeof(ss_block4m) == 192, "8 x 32 four-bit codes and their scales");
_Static_assert(sizeof(ss_block5) == 192 && sizeof(ss_block5m) == 224, "8 x 32 five-bit codes and their scales");
_Static_assert(sizeof(ss_block6) == 256 && sizeof(ss_block8) == 288, "8 x 32 six- and eight-bit codes and scales");

typedef struct ss_pack_info {
  const char *name;
  uint16_t group_bytes; /* of a block, or for row-major types of one weight */
  uint8_t is_float;     /* row-major */
  uint8_t has_min;
  int8_t offset;
} ss_pack_info;
extern const ss_pack_info ss_packs[SS_PACK_COUNT];

/* A weight matrix: y = W x, W [rows][cols]. data: 64-byte aligned groups (or rows). */
typedef struct ss_matrix {
  const void *data; /* NULL: absent */
  uint32_t rows, cols;
  ss_pack pack;
} ss_matrix;

static inline uint32_t ss_matrix_groups(const ss_matrix *w) { return (w->rows + SS_ROWS - 1) / SS_ROWS; }

/* Bytes of one group of 8 rows. */
static inline uint64_t ss_pack_group_bytes(ss_pack pack, uint32_t cols) {
  return ss_packs[pack].is_float ? (uint64_t)SS_ROWS * cols * ss_packs[pack].group_bytes
                                 : (uint64_t)(cols / SS_COLS) * ss_packs[pack].group_bytes;
}

#endif
