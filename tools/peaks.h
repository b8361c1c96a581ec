/* Loops that reach what a processor can do at best with a kernel set's instructions: multiply-adds of values that are in
 * registers, and reading. */
#ifndef SS_TOOL_PEAKS_H
#define SS_TOOL_PEAKS_H

#include "kernels/kernels.h"

typedef struct peak_loop {
  const char *instructions;
  double macs; /* multiply-adds of one round */
  void (*run)(size_t n_rounds);
} peak_loop;

typedef struct set_peaks {
  const char *set; /* the name of its kernels */
  const peak_loop *matmul[SS_PACK_COUNT]; /* for gemv, gemm and fgemm */
  const peak_loop *mix;
  uint64_t (*read)(const uint8_t *p, size_t bytes,
                   bool prefetch); /* p 64-byte aligned; some function of all the bytes */
} set_peaks;

/* Of these kernels. A set without loops of its own, such as the scalar one, has no peaks (NULL), but a way to read. */
set_peaks peaks_of(const ss_kernels *kernels);

#endif
