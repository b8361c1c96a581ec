/* A host for tests: plain memory, and one that counts and fails an allocation of choice. */
#ifndef SS_TEST_HOST_H
#define SS_TEST_HOST_H

#include <stdlib.h>

#include "skipstone.h"

static inline void *test_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static inline void test_free(void *ctx, void *p, size_t bytes) {
  (void)ctx, (void)bytes;
  free(p);
}
static const ss_host test_host = {.alloc = test_alloc, .free = test_free, .n_threads = 1};

/* Fails its allocation number fail_at (from 1; 0: none). */
typedef struct counting_memory {
  size_t n_allocs, fail_at, n_live, bytes_live;
} counting_memory;
static inline void *counting_alloc(void *ctx, size_t bytes) {
  counting_memory *m = ctx;
  if (++m->n_allocs == m->fail_at) return NULL;
  m->n_live++;
  m->bytes_live += bytes;
  return test_alloc(NULL, bytes);
}
static inline void counting_free(void *ctx, void *p, size_t bytes) {
  counting_memory *m = ctx;
  if (!p) return;
  m->n_live--;
  m->bytes_live -= bytes;
  free(p);
}
static inline ss_host counting_host(counting_memory *m) {
  return (ss_host){.alloc = counting_alloc, .free = counting_free, .n_threads = 1, .ctx = m};
}

/* Runs parts on the caller in reverse order, as many as `n_threads`: finds parts that depend on each other. */
static inline void reverse_parallel(void *ctx, uint32_t n_parts, ss_task *task, void *arg) {
  (void)ctx;
  for (uint32_t part = n_parts; part-- > 0;) task(arg, part, n_parts);
}

#endif
