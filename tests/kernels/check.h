/* Checks that a kernel set gives the bits of the scalar one. No operating system: memory and output come from the caller,
 * so the same files run natively, under qemu and in a WebAssembly module. */
#ifndef SS_TEST_CHECK_H
#define SS_TEST_CHECK_H

#include "kernels/kernels.h"

typedef struct ss_check_host {
  void *(*alloc)(void *ctx,
                 size_t bytes); /* 64-byte aligned, bytes a multiple of 64; best with a trap behind its end */
  void (*free)(void *ctx, void *p, size_t bytes);
  void (*say)(void *ctx, const char *line); /* without newline */
  void *ctx;
} ss_check_host;

/* A check runs one kind of entry of `k` on random, extreme, tail and misaligned input against scalar. Returns how many
 * cases differ and says the first few. */
typedef struct ss_check {
  const char *name; /* a sentence: "<set> <name>" */
  size_t (*run)(const ss_kernels *k, const ss_check_host *host);
} ss_check;
extern const ss_check ss_checks[];
extern const size_t ss_n_checks;

/* All of them; returns the failures. */
size_t ss_check_kernels(const ss_kernels *k, const ss_check_host *host);

/* The tester's test: copies of the scalar set with one error each, which ss_check_kernels must see. */
typedef struct ss_planted {
  const char *error; /* what was broken */
  void (*plant)(ss_kernels *k);
} ss_planted;
extern const ss_planted ss_planted_errors[];
extern const size_t ss_n_planted_errors;

#endif
