/* Times every entry of a kernel set on SmolLM2-135M's shapes: best of several runs. */
#include "check.h"

enum { ROUNDS = 12, TOKENS = 128 };

typedef struct bench_run {
  const ss_kernels *k;
  const ss_check_host *host;
  const char *only;
  double best; /* seconds */
} bench_run;

static bool contains(const char *text, const char *part) {
  for (; *text; text++) {
    size_t n = 0;
    while (part[n] && text[n] == part[n]) n++;
    if (!part[n]) return true;
  }
  return false;
}

/* Tenths as text: ss_format knows no floating point. */
static void tell(const bench_run *r, const char *name, double units, double bytes, const char *unit) {
  char line[160];
  const unsigned rate = (unsigned)(units / r->best * 1e-8 + 0.5), memory = (unsigned)(bytes / r->best * 1e-8 + 0.5);
  ss_format(line, sizeof line, "%s  %s  %u.%u %s  %u.%u GB/s", r->k->name, name, rate / 10, rate % 10, unit,
            memory / 10, memory % 10);
  r->host->say(r->host->ctx, line);
}

#define BEST_OF(r, repeat, call)                                                         \
  for (int round = 0; round < ROUNDS; round++) {                                         \
    const double start = (r)->host->seconds((r)->host->ctx);                             \
    for (size_t again = 0; again < (repeat); again++) call;                              \
    const double each = ((r)->host->seconds((r)->host->ctx) - start) / (double)(repeat); \
    if (!round || each < (r)->best) (r)->best = each;                                    \
  }

/* Weights of finite scales; activations from quantize. */
static void bench_dot(bench_run *r, ss_pack pack, size_t rows, size_t cols, size_t tokens, const char *kind) {
  char name[64];
  ss_format(name, sizeof name, "%s %s %dx%d x%d", kind, ss_packs[pack].name, (int)rows, (int)cols, (int)tokens);
  if (r->only && !contains(name, r->only)) return;
  const size_t groups = rows / SS_ROWS, blocks = cols / SS_COLS,
               group_bytes = (size_t)ss_pack_group_bytes(pack, (uint32_t)cols);
  const size_t bytes[] = {
      ss_align(groups * group_bytes), ss_align(tokens * cols),        ss_align(tokens * blocks * sizeof(ss_act_block)),
      ss_align(tokens * rows * 4),    ss_panel_bytes((uint32_t)cols), ss_align(tokens * cols * 4)};
  void *p[6];
  for (size_t i = 0; i < 6; i++) p[i] = r->host->alloc(r->host->ctx, bytes[i]);
  ss_rng rng = ss_rng_seed(1);
  for (size_t i = 0; i < bytes[0] / 8; i++) ((uint64_t *)p[0])[i] = ss_rng_next(&rng);
  if (ss_packs[pack].is_float) {
    for (size_t i = 0; i < rows * cols; i++)
      if (ss_packs[pack].group_bytes == 4) ((float *)p[0])[i] = (float)ss_rng_unit(&rng) - 0.5f;
      else ((uint16_t *)p[0])[i] = (uint16_t)(0x3800 + (ss_rng_next(&rng) & 0x3ff));
  } else {
    const size_t each = ss_packs[pack].group_bytes;
    for (size_t i = 0; i < groups * blocks; i++)
      for (size_t s = 0; s < (pack == SS_PACK_6 || ss_packs[pack].has_min ? 16u : 8u); s++)
        ((float *)(void *)((uint8_t *)p[0] + i * each))[s] = (float)ss_rng_unit(&rng) - 0.5f;
  }
  for (size_t i = 0; i < tokens * cols; i++) ((float *)p[5])[i] = (float)ss_rng_unit(&rng) - 0.5f;
  ss_quantize_scalar(p[1], p[2], p[5], tokens * cols);
  const double macs = (double)rows * (double)cols * (double)tokens;
  const size_t repeat = (size_t)(4e7 / macs) + 1;
  if (ss_packs[pack].is_float) BEST_OF(r, repeat, r->k->fgemm[pack](p[3], rows, p[0], rows, cols, p[5], tokens))
  else if (tokens == 1) BEST_OF(r, repeat, r->k->gemv[pack](p[3], p[0], groups, blocks, p[1], p[2]))
  else BEST_OF(r, repeat, r->k->gemm[pack](p[3], rows, p[0], groups, blocks, p[1], p[2], tokens, p[4]))
  tell(r, name, macs, (double)(groups * group_bytes), "GMAC/s");
  for (size_t i = 0; i < 6; i++) r->host->free(r->host->ctx, p[i], bytes[i]);
}

static void bench_elements(bench_run *r) {
  enum { N = 1536, POSITIONS = 512, DIM = 64 };
  const size_t bytes = 4 * POSITIONS * DIM;
  float *x = r->host->alloc(r->host->ctx, bytes), *y = r->host->alloc(r->host->ctx, bytes),
        *p = r->host->alloc(r->host->ctx, bytes);
  int8_t *q = r->host->alloc(r->host->ctx, bytes);
  ss_act_block *b = r->host->alloc(r->host->ctx, bytes);
  ss_rng rng = ss_rng_seed(2);
  for (size_t i = 0; i < bytes / 4; i++) x[i] = y[i] = p[i] = (float)ss_rng_unit(&rng) - 0.5f;
  for (size_t i = 0; i < bytes; i++) q[i] = (int8_t)ss_rng_next(&rng);
#define ELEMENTS(name, n, bytes_each, call)                        \
  if (!r->only || contains(name, r->only)) {                       \
    BEST_OF(r, 2000, call)                                         \
    tell(r, name, (double)(n), (double)(n) * (bytes_each), "G/s"); \
  }
  ELEMENTS("quantize 1536", N, 5, r->k->quantize((int8_t *)(void *)p, b, x, N))
  ELEMENTS("rmsnorm 1536", N, 12, r->k->rmsnorm(p, x, y, N, 1e-5f))
  ELEMENTS("add 1536", N, 12, r->k->add(p, x, N))
  ELEMENTS("swiglu 1536", N, 12, (memcpy(p, x, N * 4), r->k->swiglu(p, y, N)))
  ELEMENTS("softmax 512", POSITIONS, 8, (memcpy(p, x, POSITIONS * 4), r->k->softmax(p, POSITIONS, 0.125f)))
  ELEMENTS("softmax 263", 263, 8, (memcpy(p, x, 263 * 4), r->k->softmax(p, 263, 0.125f)))
  for (size_t i = 0; i < bytes / 4; i++) p[i] = x[i];
  ELEMENTS("mix 512 positions x64 x3 queries", 3 * POSITIONS * DIM, 1.0 / 3,
           (memset(y, 0, 3 * DIM * 4), r->k->mix(y, 3, DIM, p, POSITIONS, q, x, POSITIONS)))
  ELEMENTS("mix 512 positions x64 x24 queries", 24 * POSITIONS * DIM, 1.0 / 24,
           (memset(y, 0, 24 * DIM * 4), r->k->mix(y, 24, DIM, p, POSITIONS, q, x, POSITIONS)))
  void *const all[] = {x, y, p, q, b};
  for (size_t i = 0; i < 5; i++) r->host->free(r->host->ctx, all[i], bytes);
}

void ss_bench_kernels(const ss_kernels *k, const ss_check_host *host, const char *only) {
  bench_run r = {.k = k, .host = host, .only = only};
  for (int pack = SS_PACK_4; pack < SS_PACK_COUNT; pack++) {
    bench_dot(&r, (ss_pack)pack, 576, 576, 1, "gemv");
    bench_dot(&r, (ss_pack)pack, 576, 1536, 1, "gemv");
  }
  bench_dot(&r, SS_PACK_4M, 49152, 576, 1, "gemv"); /* from memory */
  bench_dot(&r, SS_PACK_8, 49152, 576, 1, "gemv");
  for (int pack = SS_PACK_4; pack < SS_PACK_COUNT; pack++) {
    bench_dot(&r, (ss_pack)pack, 1536, 576, TOKENS, "gemm");
    bench_dot(&r, (ss_pack)pack, 576, 1536, TOKENS, "gemm");
  }
  bench_dot(&r, SS_PACK_4M, 192, 576, TOKENS, "gemm");
  bench_dot(&r, SS_PACK_4M, 1536, 576, 512, "gemm");
  bench_dot(&r, SS_PACK_8, 512, 64, 3, "gemm"); /* attention scores */
  bench_dot(&r, SS_PACK_8, 512, 64, 24, "gemm");
  for (int pack = SS_PACK_F32; pack <= SS_PACK_BF16; pack++) {
    bench_dot(&r, (ss_pack)pack, 576, 576, 1, "fgemm");
    bench_dot(&r, (ss_pack)pack, 576, 576, 16, "fgemm");
  }
  bench_elements(&r);
}
