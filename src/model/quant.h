/* GGUF's weight types, and their repacking into the kernels' layout (kernels/pack.h).
 * Block formats: ggml's ggml-common.h; the static asserts in quant.c pin their sizes. */
#ifndef SS_QUANT_H
#define SS_QUANT_H

#include "base/base.h"
#include "kernels/pack.h"

typedef enum ss_gguf_type { /* GGUF's numbering */
                            SS_GGUF_F32 = 0,
                            SS_GGUF_F16 = 1,
                            SS_GGUF_Q4_0 = 2,
                            SS_GGUF_Q4_1 = 3,
                            SS_GGUF_Q5_0 = 6,
                            SS_GGUF_Q5_1 = 7,
                            SS_GGUF_Q8_0 = 8,
                            SS_GGUF_Q4_K = 12,
                            SS_GGUF_Q5_K = 13,
                            SS_GGUF_Q6_K = 14,
                            SS_GGUF_BF16 = 30,
} ss_gguf_type;

#define SS_QUANT_MAX_BYTES 292 /* of a block of any type in the table */

typedef struct ss_quant_info {
  const char *name;
  uint16_t block, bytes; /* weights of one block, and its size in the file */
  int8_t pack;           /* ss_pack, or -1: its size is known, but this version does not run it */
} ss_quant_info;

/* NULL: an unknown type. */
const ss_quant_info *ss_quant_find(uint32_t type);

#define SS_QUANT_FINITE SIZE_MAX

/* Repacks n whole blocks of row `row`, from the row's block `first` on, into the packed matrix at `data` (whose pack
 * is ss_quant_find(type)->pack; cols is a multiple of the block). Returns SS_QUANT_FINITE, or the column of the first
 * weight that is not finite (a scale counts for its first weight); what was written is then of no use. */
size_t ss_quant_repack(void *data, ss_gguf_type type, uint32_t row, uint32_t cols, size_t first, size_t n,
                       const uint8_t *blocks);

/* n weights of a float type as f32, for vectors. Returns SS_QUANT_FINITE, or the first one that is not finite. */
size_t ss_quant_floats(float *out, ss_gguf_type type, size_t n, const uint8_t *bytes);

#endif
