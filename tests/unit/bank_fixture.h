/* A small bank for a tiny model, and the same file with one thing wrong. */
#ifndef SS_BANK_FIXTURE_H
#define SS_BANK_FIXTURE_H

#include "gguf_writer.h"
#include "train/train.h"

#define BANK_DIM 6
#define BANK_CLUSTERS 3
#define BANK_LEVELS 2 /* 0.25 and 0.5 */
#define BANK_LAYERS 2

typedef struct bank_case {
  const char *architecture; /* NULL: the right one; "" leaves the key out */
  uint32_t version;         /* 0: the right one */
  const char *without;      /* leave out this key or tensor */
  const char *extra_tensor;
  uint32_t mask_clusters;   /* 0: BANK_CLUSTERS + 1 */
  uint32_t mask_value;      /* of block 0 in the first mask; 0 or 1 are right */
  uint32_t mask_type;       /* 0: I8 */
  uint32_t losses;          /* elements; 0: none */
  float centroid;           /* of cluster 1, element 2 */
  float level;              /* the second; 0: 0.5 */
} bank_case;

/* Written by the tests' own writer, key by key, not by ss_bank_write. */
gguf_image bank_image(const bank_case *c);

/* What bank_image's cluster c at a level leaves out: block (c + level) % 4. */
ss_mask bank_mask(uint32_t cluster, uint32_t level);

#endif
