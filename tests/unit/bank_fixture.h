/* A small bank for a tiny model, and the same file with one thing wrong. */
#ifndef SS_BANK_FIXTURE_H
#define SS_BANK_FIXTURE_H

#include "gguf_writer.h"
#include "train/train.h"

#define BANK_DIM 6
#define BANK_CLUSTERS 3
#define BANK_LEVELS 2 /* 0.25 and 0.5 */
#define BANK_LAYERS 2
#define BANK_EMBD 4

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
  uint32_t recovery;        /* 1: with recovery; the fields below are about it */
  uint32_t parts;           /* of cluster 0 at level 0; 0: 7 */
  uint32_t gain_rows;       /* 0: as many as the masks want */
  uint32_t recovery_type;   /* of the gains; 0: F16 */
  uint32_t scale;           /* the first, as an f16's bits; 0: 1.0 */
} bank_case;

/* Written by the tests' own writer, key by key, not by ss_bank_write. */
gguf_image bank_image(const bank_case *c);

/* The parts of recovery of a mask: gains, scales and stand-ins by turns, all for the first, none for the last. The numbers are
 * all different: gains and stand-ins count from 1 in the file's order, scales from 2 down by 1/64. */
uint32_t bank_recovery_parts(const bank_case *c, uint32_t i);

/* What bank_image's cluster c at a level leaves out: block (c + level) % 4. */
ss_mask bank_mask(uint32_t cluster, uint32_t level);

#endif
