/* The bank in memory. Inside the core only. */
#ifndef SS_BANK_H
#define SS_BANK_H

#include "model/gguf.h"

struct ss_bank {
  ss_host host;
  size_t bytes;     /* of the allocation that holds this struct and the arrays */
  ss_gguf gguf;     /* the header: strings point into it */
  uint32_t version, numerics_version, n_clusters, n_levels, n_layers, dim;
  float *levels;    /* [n_levels] */
  float *centroids; /* [n_clusters][dim] */
  ss_mask *masks;   /* [n_levels][n_clusters + 1] */
  uint32_t n_recovered;               /* masks with some recovery */
  uint32_t n_embd;                    /* of the model; 0: no recovery, and the three below have no elements */
  ss_recovery *recoveries;            /* [n_levels][n_clusters + 1]; without blocks: none */
  ss_recovery_block *recovery_blocks; /* [n_levels][n_clusters + 1][2 * n_layers] */
  float *recovery_floats[3];          /* the numbers of gains, scales and stand-ins */
  float *losses, *dense_losses;
  uint32_t *sizes;
  ss_fingerprint model, encoder;
};

#endif
