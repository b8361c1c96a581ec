/* Any bytes fed to the loader give a model or an error, nothing else.
 *
 * Three programs in one file:
 *   with libFuzzer  clang-22 -g -O1 -fsanitize=fuzzer,address,undefined -DSS_LIBFUZZER -Isrc -Itests \
 *                     tests/fuzz/test_fuzz_gguf.c and the core's sources     (needs libclang-rt-22-dev)
 *   over files      test_fuzz_gguf FILE...      a crash found elsewhere, again
 *   alone           test_fuzz_gguf [-n ROUNDS]  the golden models with random damage: what ctest runs; 77 without them
 *
 * The first byte of the input says in what pieces the rest is fed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "unit/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a host would ask a model, at whatever state it is in. */
static void ask_everything(ss_model *m) {
  ss_model_info info;
  ss_tensor_info tensor;
  ss_block_cost cost;
  ss_meta meta, element;
  uint64_t sum = 0;
  if (ss_model_info_get(m, &info, NULL) == SS_OK) sum += strlen(info.name) + strlen(info.quantisation);
  for (size_t i = 0; i < ss_model_n_tensors(m); i++)
    if (ss_model_tensor(m, i, &tensor, NULL) == SS_OK) sum += strlen(tensor.name) + tensor.bytes;
  for (uint32_t block = 0; block < 4; block++)
    if (ss_model_block_cost(m, block, &cost, NULL) == SS_OK) sum += cost.macs;
  for (size_t i = 0; i < ss_model_n_meta(m); i++) {
    if (!ss_model_meta_at(m, i, &meta)) continue;
    char key[64];
    ss_format(key, sizeof key, "%.*s", (int)ss_min(meta.key.len, 63), meta.key.data);
    if (meta.type == SS_META_ARRAY && meta.n && ss_model_meta_element(m, key, meta.n - 1, &element))
      for (size_t k = 0; k < element.text.len; k++) sum += (uint8_t)element.text.data[k];
    for (size_t k = 0; k < meta.text.len; k++) sum += (uint8_t)meta.text.data[k];
  }
  volatile uint64_t sink = sum + ss_model_bytes(m, NULL) + ss_model_next_offset(m) + ss_model_file_bytes(m);
  (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const size_t pieces[] = {SIZE_MAX, 1, 7, 64, 1000, 4096, 16384, 100000};
  if (size < 1) return 0;
  const size_t piece = pieces[data[0] % 8];
  const bool backwards = data[0] & 8, expected = data[0] & 16;
  data++, size--;

  ss_model *m;
  ss_error err;
  if (ss_model_create(&m, &test_host, NULL, &err) != SS_OK) abort();
  ss_status status = expected && size ? ss_model_expect_bytes(m, size, &err) : SS_MORE;
  size_t at = 0;
  while (status >= 0 && at < size && !(backwards && ss_model_header_done(m))) {
    const size_t n = ss_min(piece, size - at);
    status = ss_model_feed(m, at, data + at, n, &err);
    at += n;
  }
  for (size_t end = size; status >= 0 && end > at;) { /* the weights from their end */
    const size_t n = ss_min(piece, end - at);
    status = ss_model_feed(m, end - n, data + end - n, n, &err);
    end -= n;
  }
  if (status < 0 && (status != err.status || !err.message[0])) abort();
  if (status < 0 && ss_model_feed(m, 0, data, size, &err) != SS_E_STATE) abort();
  ask_everything(m);
  ss_model_free(m);
  return 0;
}

#ifndef SS_LIBFUZZER

/* The file's bytes behind one byte for the pieces; NULL when it cannot be read. */
static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  size_t capacity = 1 << 20;
  uint8_t *data = malloc(capacity);
  *size = 1;
  for (size_t n; data && (n = fread(data + *size, 1, capacity - *size, file)) > 0;)
    if ((*size += n) == capacity) data = realloc(data, capacity *= 2);
  fclose(file);
  if (data) data[0] = 0;
  return data;
}

/* One round: a few changes, most of them in the header, where numbers lie that mean something. */
static void damage(uint8_t *data, size_t *size, ss_rng *rng) {
  static const uint8_t telling[] = {0, 1, 2, 0x7f, 0x80, 0xff};
  const size_t header = ss_min(*size, 12000);
  for (uint64_t n = 1 + ss_rng_below(rng, 4); n > 0; n--) {
    const size_t at = 1 + (size_t)ss_rng_below(rng, (ss_rng_below(rng, 8) ? header : *size) - 1);
    switch (ss_rng_below(rng, 4)) {
      case 0: data[at] ^= (uint8_t)(1 << ss_rng_below(rng, 8)); break;
      case 1: data[at] = telling[ss_rng_below(rng, sizeof telling)]; break;
      case 2: memset(data + at, (int)(ss_rng_below(rng, 2) * 255), ss_min(8, *size - at)); break;
      default: data[at] = (uint8_t)(data[at] + 1);
    }
  }
  if (ss_rng_below(rng, 16) == 0) *size = 2 + (size_t)ss_rng_below(rng, *size - 2);
}

static int run_rounds(uint64_t rounds) {
  static const char *const seeds[] = {"f32",  "f16",  "bf16", "q4_0", "q4_1", "q5_0",
                                      "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"};
  enum { N_SEEDS = sizeof seeds / sizeof seeds[0] };
  ss_rng rng = ss_rng_seed(1);
  for (size_t i = 0; i < N_SEEDS; i++) {
    char path[64];
    size_t whole_size;
    snprintf(path, sizeof path, "tests/golden/tiny/%s.gguf", seeds[i]);
    uint8_t *whole = read_file(path, &whole_size);
    if (!whole) {
      fprintf(stderr, "%s: not there, skipped\n", path);
      return 77;
    }
    for (uint64_t round = 0; round < rounds / N_SEEDS; round++) {
      size_t size = whole_size;
      uint8_t *data = malloc(size); /* exactly as large: a sanitizer sees a read past the end */
      if (!data) abort();
      memcpy(data, whole, size);
      if (round > 0) damage(data, &size, &rng);
      data[0] = (uint8_t)(ss_rng_below(&rng, 32) | 2); /* pieces of one byte take too long here */
      LLVMFuzzerTestOneInput(data, size);
      free(data);
    }
    free(whole);
  }
  printf("%llu rounds\n", (unsigned long long)rounds);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 1) return run_rounds(2200);
  if (argc == 3 && strcmp(argv[1], "-n") == 0) return run_rounds(strtoull(argv[2], NULL, 10));
  for (int i = 1; i < argc; i++) {
    size_t size;
    uint8_t *data = read_file(argv[i], &size);
    if (!data) {
      fprintf(stderr, "%s: cannot be read\n", argv[i]);
      return 1;
    }
    for (int how = 0; how < 32; how++) { /* the file as it is, in all kinds of pieces */
      data[0] = (uint8_t)how;
      LLVMFuzzerTestOneInput(data, size);
    }
    free(data);
  }
  return 0;
}

#endif
