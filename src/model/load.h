/* The loader's own state, behind ss_model.load. model.c makes and frees it, config.c reads the header, load.c the
 * weights. */
#ifndef SS_LOAD_H
#define SS_LOAD_H

#include "model/model.h"
#include "model/quant.h"

#define SS_LOAD_NAME_BYTES 128
#define SS_LOAD_FRAGMENT_BYTES 210 /* of the largest block that runs: Q6_K */

typedef struct ss_interval {
  uint64_t begin, end; /* [begin, end) of the file */
} ss_interval;

/* A quantisation block that the border of a piece has cut. Every byte of the file is taken once, so a count says when
 * the block is whole. */
typedef struct ss_fragment {
  uint64_t offset; /* of the block in the file; 0: a free slot */
  uint32_t filled;
  uint8_t bytes[SS_LOAD_FRAGMENT_BYTES];
} ss_fragment;

typedef struct ss_load {
  bool failed;
  char name[SS_LOAD_NAME_BYTES]; /* general.name, cut */
  const char *architecture, *quantisation;
  uint64_t n_parameters, packed_bytes;
  uint64_t *received;          /* [gguf.n_tensors], bytes of each wanted tensor so far */
  size_t n_absent;             /* wanted tensors that are not whole */
  ss_interval *intervals;      /* what was fed: sorted, apart from each other; the first one holds the header */
  size_t n_intervals, intervals_capacity;
  ss_fragment *fragments;      /* a hash table by offset; its capacity is a power of two, or 0 */
  size_t n_fragments, fragments_capacity;
} ss_load;

/* Reads the configuration from a complete header, finds the tensors it asks for and checks their shapes and types. */
ss_status ss_config_read(ss_model *m, ss_error *err);

/* Takes bytes [offset, offset + n) of the file behind its header. SS_OK: no tensor is absent any more. */
ss_status ss_load_bytes(ss_model *m, uint64_t offset, const uint8_t *bytes, size_t n, ss_error *err);

/* Marks [begin, end) as known without reading it: the header. */
ss_status ss_load_know(ss_model *m, uint64_t begin, uint64_t end, ss_error *err);

#endif
