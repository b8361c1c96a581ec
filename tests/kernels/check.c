/* Every kernel against the scalar specification, for equality of every word. Two NaNs count as equal: their payload is
 * no part of the numbers. Output buffers are prefilled and compared whole, with guard words on both sides, so a write
 * outside shows; inputs end where the allocation ends, so with a trapping allocator a read past the end shows too. */
#include "check.h"

/* ---- buffers ---- */

enum { GUARD = 64 };

typedef struct buffer {
  uint8_t *base;
  size_t bytes; /* allocated */
  void *at;     /* the data */
} buffer;

/* An input that ends where the allocation ends (its alignment is then any multiple of 4), or that starts aligned. */
static buffer input(const ss_check_host *host, size_t bytes, bool aligned) {
  buffer b = {.bytes = ss_align(bytes + !bytes)};
  b.base = host->alloc(host->ctx, b.bytes);
  memset(b.base, 0xff, b.bytes);
  b.at = aligned ? b.base : b.base + (b.bytes - bytes);
  return b;
}

/* An output with guards, `shift` bytes (a multiple of 4) off a 64-byte boundary. */
static buffer output(const ss_check_host *host, size_t bytes, size_t shift) {
  buffer b = {.bytes = ss_align(bytes + shift) + 2 * GUARD};
  b.base = host->alloc(host->ctx, b.bytes);
  memset(b.base, 0xa5, b.bytes);
  b.at = b.base + GUARD + shift;
  return b;
}

static void drop(const ss_check_host *host, buffer b) { host->free(host->ctx, b.base, b.bytes); }

static bool same_word(uint32_t a, uint32_t b) {
  const bool both_nan = (a & 0x7fffffffu) > 0x7f800000u && (b & 0x7fffffffu) > 0x7f800000u;
  return a == b || both_nan;
}

/* ---- reports ---- */

typedef struct trial {
  const ss_kernels *k;
  const ss_check_host *host;
  ss_rng rng;
  size_t failures;
  char what[160]; /* the case at hand */
} trial;

static trial begin(const ss_kernels *k, const ss_check_host *host) {
  return (trial){.k = k, .host = host, .rng = ss_rng_seed(20240817)};
}

static void complain(trial *t, const char *how) {
  char line[320];
  if (t->failures++ >= 3) return;
  ss_format(line, sizeof line, "%s: %s: %s", t->k->name, t->what, how);
  t->host->say(t->host->ctx, line);
}

/* Compares whole output buffers and frees them. */
static void expect_same(trial *t, buffer got, buffer want) {
  char how[120];
  for (size_t i = 0; i < got.bytes; i += 4) {
    uint32_t a, b;
    memcpy(&a, got.base + i, 4);
    memcpy(&b, want.base + i, 4);
    if (same_word(a, b)) continue;
    ss_format(how, sizeof how, "word %lld is %x, want %x",
              ((long long)i - (long long)((uint8_t *)got.at - got.base)) / 4, a, b);
    complain(t, how);
    break;
  }
  drop(t->host, got);
  drop(t->host, want);
}

/* ---- random and extreme input ---- */

static float uniform(ss_rng *rng, float low, float high) { return low + (high - low) * (float)ss_rng_unit(rng); }

/* Wide range: sign, and a magnitude between 2^-6 and 2^6. */
static float wide(ss_rng *rng) {
  const uint32_t exponent = 121 + (uint32_t)ss_rng_below(rng, 12);
  return ss_float_of_bits((uint32_t)(ss_rng_next(rng) & 0x807fffffu) | exponent << 23);
}

static float special(ss_rng *rng) {
  static const uint32_t bits[] = {0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0xff7fffff,
                                  0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x42ae0000, 0xc2ae0000, 0xc2ae0001,
                                  0x42b00000, 0x42b00001, 0xc2b00000, 0x3f000000, 0x0d800000, 0x0d7fffff, 0x3f800000};
  return ss_float_of_bits(bits[ss_rng_below(rng, sizeof bits / sizeof *bits)]);
}

typedef enum style { RANDOM, WIDE, SMALL, HUGE, HALVES, SPECIALS, SOME_SPECIALS, ALL_EQUAL, ZEROS, STYLES } style;
static const char *const style_names[] = {"random",   "wide",          "subnormal", "huge", "halves",
                                          "specials", "some specials", "equal",     "zeros"};

static void fill(ss_rng *rng, float *x, size_t n, style s) {
  const float same = uniform(rng, -3, 3);
  for (size_t i = 0; i < n; i++) switch (s) {
      case RANDOM: x[i] = uniform(rng, -4, 4); break;
      case WIDE: x[i] = wide(rng); break;
      case SMALL: x[i] = ss_float_of_bits((uint32_t)(ss_rng_next(rng) & 0x80ffffffu)); break;
      case HUGE: x[i] = uniform(rng, -3e38f, 3e38f); break;
      case HALVES: x[i] = i % 32 ? (float)(int)ss_rng_below(rng, 254) - 126.5f : 127.0f; break; /* ties, scale 1 */
      case SPECIALS: x[i] = special(rng); break;
      case SOME_SPECIALS: x[i] = ss_rng_below(rng, 100) ? uniform(rng, -100, 100) : special(rng); break;
      case ALL_EQUAL: x[i] = same; break;
      default: x[i] = i % 3 ? 0.0f : -0.0f; break;
    }
}

static buffer floats(trial *t, size_t n, style s, bool aligned) {
  const buffer b = input(t->host, n * sizeof(float), aligned);
  fill(&t->rng, b.at, n, s);
  return b;
}

/* The same floats as a pair of buffers for got and want: input that the kernel overwrites. */
static void in_place(trial *t, buffer pair[2], size_t n, style s, size_t shift) {
  for (int i = 0; i < 2; i++) pair[i] = output(t->host, n * sizeof(float), shift);
  fill(&t->rng, pair[0].at, n, s);
  memcpy(pair[1].at, pair[0].at, n * sizeof(float));
}

/* ---- quantised matmuls ---- */

typedef enum codes_style {
  CODES_RANDOM,
  CODES_MAX,
  CODES_MIN,
  CODES_MIXED,
  SCALES_SMALL,
  SCALES_HUGE,
  CODES_STYLES
} codes_style;
static const char *const codes_names[] = {"random",           "largest codes", "smallest codes", "codes at either end",
                                          "subnormal scales", "huge scales"};

static float scale_of(ss_rng *rng, codes_style s) {
  if (s == SCALES_SMALL) return ss_float_of_bits((uint32_t)(ss_rng_next(rng) & 0x80ffffffu));
  if (s == SCALES_HUGE) return ss_rng_below(rng, 3) ? uniform(rng, -3e38f, 3e38f) : special(rng);
  return uniform(rng, -0.1f, 0.1f);
}

/* Scales and minima come first in every block, codes after them. */
static size_t scales_of(ss_pack pack) { return pack == SS_PACK_6 || ss_packs[pack].has_min ? 16 : 8; }

static buffer random_weights(trial *t, ss_pack pack, size_t n, codes_style s) {
  const size_t bytes = ss_packs[pack].group_bytes, n_scales = scales_of(pack);
  const buffer b = input(t->host, n * bytes, true);
  for (size_t i = 0; i < n; i++) {
    uint8_t *block = (uint8_t *)b.at + i * bytes;
    for (size_t k = 0; k < n_scales; k++) ((float *)(void *)block)[k] = scale_of(&t->rng, s);
    for (size_t k = n_scales * sizeof(float); k < bytes; k++) {
      const uint8_t random = (uint8_t)ss_rng_next(&t->rng);
      const uint8_t most = pack == SS_PACK_8 ? 127 : 255, least = pack == SS_PACK_8 ? 128 : 0;
      block[k] = s == CODES_MAX     ? most
                 : s == CODES_MIN   ? least
                 : s == CODES_MIXED ? (random & 1 ? most : least)
                                    : random;
    }
  }
  return b;
}

static void random_acts(trial *t, int8_t *q, ss_act_block *b, size_t n_blocks, codes_style s) {
  for (size_t i = 0; i < n_blocks; i++, q += SS_COLS, b++) {
    int32_t sum = 0, sum_lo = 0;
    const int kind = s == CODES_RANDOM ? 0 : (int)ss_rng_below(&t->rng, 5);
    for (size_t k = 0; k < SS_COLS; k++) {
      const int random = (int)ss_rng_below(&t->rng, 255) - 127;
      const int v = kind == 1 ? 127 : kind == 2 ? -127 : kind == 3 ? (random & 1 ? 127 : -127) : random;
      q[k] = (int8_t)v;
      sum += v;
      if (k < 16) sum_lo += v;
    }
    *b = (ss_act_block){.d = uniform(&t->rng, 0.0f, 0.5f), .fsum = (float)sum, .sum = sum, .sum_lo = sum_lo};
    if (kind == 4) { /* what quantize leaves of a block of zeros */
      memset(q, 0, SS_COLS);
      *b = (ss_act_block){0};
    }
  }
}

static void matmul_case(trial *t, ss_pack pack, size_t n_groups, size_t n_blocks, size_t n_tokens, codes_style s,
                        bool as_gemv) {
  static const size_t pads[] = {0, 3, 8, 24};
  const size_t stride = n_groups * SS_ROWS + pads[ss_rng_below(&t->rng, 4)],
               shift = 4 * (size_t)ss_rng_below(&t->rng, 16);
  ss_format(t->what, sizeof t->what, "%s of pack %s, %d groups, %d blocks, %d tokens, %s", as_gemv ? "gemv" : "gemm",
            ss_packs[pack].name, (int)n_groups, (int)n_blocks, (int)n_tokens, codes_names[s]);
  const buffer w = random_weights(t, pack, n_groups * n_blocks, s);
  const buffer q = input(t->host, n_tokens * n_blocks * SS_COLS + 4, false); /* 4 more: not 32-byte aligned */
  const buffer b = input(t->host, n_tokens * n_blocks * sizeof(ss_act_block), false);
  const buffer panel = input(t->host, ss_panel_bytes((uint32_t)(n_blocks * SS_COLS)), true);
  const buffer got = output(t->host, n_tokens * stride * sizeof(float), shift);
  const buffer want = output(t->host, n_tokens * stride * sizeof(float), shift);
  int8_t *acts = (int8_t *)q.at + 4;
  random_acts(t, acts, b.at, n_tokens * n_blocks, s);
  if (as_gemv) {
    t->k->gemv[pack](got.at, w.at, n_groups, n_blocks, acts, b.at);
    ss_kernels_scalar.gemv[pack](want.at, w.at, n_groups, n_blocks, acts, b.at);
  } else {
    t->k->gemm[pack](got.at, stride, w.at, n_groups, n_blocks, acts, b.at, n_tokens, panel.at);
    ss_kernels_scalar.gemm[pack](want.at, stride, w.at, n_groups, n_blocks, acts, b.at, n_tokens, NULL);
  }
  expect_same(t, got, want);
  drop(t->host, w);
  drop(t->host, q);
  drop(t->host, b);
  drop(t->host, panel);
}

static size_t check_gemv(const ss_kernels *k, const ss_check_host *host, ss_pack pack) {
  static const size_t shapes[][2] = {
      {1, 1},  {1, 2}, {2, 1}, {3, 3},   {4, 2},  {5, 18},
      {2, 48}, {7, 5}, {9, 2}, {17, 26}, {19, 1}, {33, 3}}; /* runs of several groups, the last shorter */
  trial t = begin(k, host);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int s = 0; s < CODES_STYLES; s++) matmul_case(&t, pack, shapes[i][0], shapes[i][1], 1, (codes_style)s, true);
  return t.failures;
}

static size_t check_gemm(const ss_kernels *k, const ss_check_host *host, ss_pack pack) {
  static const size_t shapes[][2] = {{1, 1}, {2, 2}, {3, 2}, {4, 5}};
  trial t = begin(k, host);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (size_t n = 1; n <= 18; n++)
      for (int s = 0; s < CODES_STYLES; s += n > 4 && n % 4 ? 3 : 1)
        matmul_case(&t, pack, shapes[i][0], shapes[i][1], n, (codes_style)s, false);
  for (int s = 0; s < CODES_STYLES; s++) {
    matmul_case(&t, pack, 5, 18, 33, (codes_style)s, false);
    matmul_case(&t, pack, 3, 48, 7, (codes_style)s, false);
    for (size_t n = 1; n <= 3; n++) matmul_case(&t, pack, 19, 26, n, (codes_style)s, false); /* 1 and 2 in runs */
  }
  return t.failures;
}

#define MATMUL_CHECKS(name, pack)                                                                                 \
  static size_t gemv_##name(const ss_kernels *k, const ss_check_host *host) { return check_gemv(k, host, pack); } \
  static size_t gemm_##name(const ss_kernels *k, const ss_check_host *host) { return check_gemm(k, host, pack); }
MATMUL_CHECKS(4, SS_PACK_4)
MATMUL_CHECKS(4m, SS_PACK_4M)
MATMUL_CHECKS(5, SS_PACK_5)
MATMUL_CHECKS(5m, SS_PACK_5M)
MATMUL_CHECKS(6, SS_PACK_6)
MATMUL_CHECKS(8, SS_PACK_8)

/* ---- float matmuls ---- */

static void fgemm_case(trial *t, ss_pack pack, size_t rows, size_t cols, size_t tokens, style s) {
  const size_t stride = rows + (size_t)ss_rng_below(&t->rng, 4), each = ss_packs[pack].group_bytes;
  ss_format(t->what, sizeof t->what, "fgemm of %s, %d rows, %d columns, %d tokens, %s", ss_packs[pack].name, (int)rows,
            (int)cols, (int)tokens, style_names[s]);
  const buffer w = input(t->host, (rows * cols * each + 3) / 4 * 4, false), x = floats(t, tokens * cols, s, false);
  for (size_t i = 0; i < rows * cols; i++) {
    float v;
    fill(&t->rng, &v, 1, s == HUGE || s == SOME_SPECIALS ? RANDOM : s);
    if (pack == SS_PACK_F32) ((float *)w.at)[i] = v;
    else if (pack == SS_PACK_BF16) ((uint16_t *)w.at)[i] = (uint16_t)(ss_bits_of_float(v) >> 16);
    else if (s == SPECIALS || s == SMALL) ((uint16_t *)w.at)[i] = (uint16_t)ss_rng_next(&t->rng); /* any f16 */
    else ((uint16_t *)w.at)[i] = (uint16_t)((ss_rng_next(&t->rng) & 0x83ffu) | (8 + ss_rng_below(&t->rng, 10)) << 10);
  }
  const buffer got = output(t->host, tokens * stride * sizeof(float), 4),
               want = output(t->host, tokens * stride * sizeof(float), 4);
  t->k->fgemm[pack](got.at, stride, w.at, rows, cols, x.at, tokens);
  ss_kernels_scalar.fgemm[pack](want.at, stride, w.at, rows, cols, x.at, tokens);
  expect_same(t, got, want);
  drop(t->host, w);
  drop(t->host, x);
}

static size_t check_fgemm(const ss_kernels *k, const ss_check_host *host, ss_pack pack) {
  static const style styles[] = {RANDOM, WIDE, SMALL, HUGE, SPECIALS, SOME_SPECIALS};
  trial t = begin(k, host);
  for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
    for (size_t cols = 1; cols <= 40; cols += cols > 17 ? 5 : 1) {
      fgemm_case(&t, pack, 8, cols, 1 + cols % 5, styles[i]);
      fgemm_case(&t, pack, 1 + cols % 7, cols, 1 + cols % 3, styles[i]);
    }
    for (size_t tokens = 1; tokens <= 9; tokens++) fgemm_case(&t, pack, 16, 64, tokens, styles[i]);
    fgemm_case(&t, pack, 16, 576, 3, styles[i]);
  }
  return t.failures;
}

static size_t fgemm_f32(const ss_kernels *k, const ss_check_host *host) { return check_fgemm(k, host, SS_PACK_F32); }
static size_t fgemm_f16(const ss_kernels *k, const ss_check_host *host) { return check_fgemm(k, host, SS_PACK_F16); }
static size_t fgemm_bf16(const ss_kernels *k, const ss_check_host *host) { return check_fgemm(k, host, SS_PACK_BF16); }

/* ---- element-wise ---- */

static const size_t lengths[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,  11,  12,  13,  14,  15,
                                 16, 17, 23, 24, 31, 32, 33, 47, 64, 65, 127, 128, 511, 576, 577, 1536};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

static size_t check_quantize(const ss_kernels *k, const ss_check_host *host) {
  trial t = begin(k, host);
  for (size_t blocks = 1; blocks <= 48; blocks += blocks < 5 ? 1 : 43)
    for (int s = 0; s < STYLES; s++)
      for (int again = 0; again < 16; again++) {
        const size_t n = blocks * SS_COLS;
        ss_format(t.what, sizeof t.what, "quantize of %d, %s", (int)n, style_names[s]);
        const buffer x = floats(&t, n, (style)s, again & 1);
        if (again > 8 && s == RANDOM) ((float *)x.at)[ss_rng_below(&t.rng, n)] = special(&t.rng);
        const buffer q[2] = {output(host, n, 4), output(host, n, 4)};
        const buffer b[2] = {output(host, blocks * sizeof(ss_act_block), 12),
                             output(host, blocks * sizeof(ss_act_block), 12)};
        k->quantize(q[0].at, b[0].at, x.at, n);
        ss_quantize_scalar(q[1].at, b[1].at, x.at, n);
        expect_same(&t, q[0], q[1]);
        expect_same(&t, b[0], b[1]);
        drop(host, x);
      }
  return t.failures;
}

static size_t check_rmsnorm(const ss_kernels *k, const ss_check_host *host) {
  trial t = begin(k, host);
  for (size_t i = 1; i < N_LENGTHS; i++)
    for (int s = 0; s < STYLES; s++) {
      const size_t n = lengths[i], bytes = n * sizeof(float);
      ss_format(t.what, sizeof t.what, "rmsnorm of %d, %s", (int)n, style_names[s]);
      const buffer x = floats(&t, n, (style)s, false), w = floats(&t, n, RANDOM, false);
      const buffer got = output(host, bytes, 4), want = output(host, bytes, 4);
      k->rmsnorm(got.at, x.at, w.at, n, 1e-5f);
      ss_rmsnorm_scalar(want.at, x.at, w.at, n, 1e-5f);
      expect_same(&t, got, want);
      buffer pair[2];
      in_place(&t, pair, n, (style)s, 20);
      k->rmsnorm(pair[0].at, pair[0].at, w.at, n, 1e-5f);
      ss_rmsnorm_scalar(pair[1].at, pair[1].at, w.at, n, 1e-5f);
      expect_same(&t, pair[0], pair[1]);
      drop(host, x);
      drop(host, w);
    }
  return t.failures;
}

static size_t check_add(const ss_kernels *k, const ss_check_host *host) {
  trial t = begin(k, host);
  for (size_t i = 0; i < N_LENGTHS; i++)
    for (int s = 0; s < STYLES; s++) {
      ss_format(t.what, sizeof t.what, "add of %d, %s", (int)lengths[i], style_names[s]);
      const buffer x = floats(&t, lengths[i], (style)s, false);
      buffer pair[2];
      in_place(&t, pair, lengths[i], (style)s, 12);
      k->add(pair[0].at, x.at, lengths[i]);
      ss_add_scalar(pair[1].at, x.at, lengths[i]);
      expect_same(&t, pair[0], pair[1]);
      drop(host, x);
    }
  return t.failures;
}

static size_t check_swiglu(const ss_kernels *k, const ss_check_host *host) {
  trial t = begin(k, host);
  for (size_t i = 0; i < N_LENGTHS; i++)
    for (int s = 0; s < STYLES; s++) {
      ss_format(t.what, sizeof t.what, "swiglu of %d, %s", (int)lengths[i], style_names[s]);
      const buffer u = floats(&t, lengths[i], i & 1 ? RANDOM : (style)s, false);
      buffer pair[2];
      in_place(&t, pair, lengths[i], (style)s, 4);
      k->swiglu(pair[0].at, u.at, lengths[i]);
      ss_swiglu_scalar(pair[1].at, u.at, lengths[i]);
      expect_same(&t, pair[0], pair[1]);
      drop(host, u);
    }
  return t.failures;
}

/* exp itself, over every exponent and sign: steps of a prime through the 2^32 bit patterns. */
static size_t check_exp(const ss_kernels *k, const ss_check_host *host) {
  enum { CHUNK = 4096 };
  trial t = begin(k, host);
  const buffer u = floats(&t, CHUNK, ALL_EQUAL, true);
  uint64_t bits = 0;
  while (bits <= UINT32_MAX) {
    ss_format(t.what, sizeof t.what, "swiglu of bit patterns from %x", (uint32_t)bits);
    buffer pair[2];
    in_place(&t, pair, CHUNK, ZEROS, 0);
    for (size_t i = 0; i < CHUNK; i++, bits += 4093)
      ((float *)pair[0].at)[i] = ((float *)pair[1].at)[i] = ss_float_of_bits((uint32_t)bits);
    k->swiglu(pair[0].at, u.at, CHUNK);
    ss_swiglu_scalar(pair[1].at, u.at, CHUNK);
    expect_same(&t, pair[0], pair[1]);
  }
  drop(host, u);
  return t.failures;
}

static size_t check_softmax(const ss_kernels *k, const ss_check_host *host) {
  static const float scales[] = {1.0f, 0.125f, 7.5f, 0.0f, -1.0f};
  trial t = begin(k, host);
  for (size_t i = 1; i < N_LENGTHS; i++)
    for (int s = 0; s < STYLES; s++)
      for (size_t c = 0; c < sizeof scales / sizeof *scales; c++) {
        ss_format(t.what, sizeof t.what, "softmax of %d, %s", (int)lengths[i], style_names[s]);
        buffer pair[2], sums[2] = {output(host, 4, 0), output(host, 4, 0)};
        in_place(&t, pair, lengths[i], (style)s, 4);
        *(float *)sums[0].at = k->softmax(pair[0].at, lengths[i], scales[c]);
        *(float *)sums[1].at = ss_softmax_scalar(pair[1].at, lengths[i], scales[c]);
        expect_same(&t, pair[0], pair[1]);
        expect_same(&t, sums[0], sums[1]);
      }
  return t.failures;
}

static void mix_case(trial *t, size_t n_q, size_t dim, size_t n_pos, style s) {
  const size_t p_stride = n_pos + (size_t)ss_rng_below(&t->rng, 9);
  ss_format(t->what, sizeof t->what, "mix of %d queries, dim %d, %d positions, %s", (int)n_q, (int)dim, (int)n_pos,
            style_names[s]);
  const buffer p = floats(t, n_q * p_stride, s, false), d = floats(t, n_pos * (dim / SS_COLS), RANDOM, false);
  const buffer v = input(t->host, n_pos * dim, false);
  for (size_t i = 0; i < n_pos * dim; i++)
    ((int8_t *)v.at)[i] = s == ALL_EQUAL ? (ss_rng_below(&t->rng, 2) ? -128 : 127) : (int8_t)ss_rng_next(&t->rng);
  buffer pair[2];
  in_place(t, pair, n_q * dim, RANDOM, 4);
  t->k->mix(pair[0].at, n_q, dim, p.at, p_stride, v.at, d.at, n_pos);
  ss_mix_scalar(pair[1].at, n_q, dim, p.at, p_stride, v.at, d.at, n_pos);
  expect_same(t, pair[0], pair[1]);
  drop(t->host, p);
  drop(t->host, d);
  drop(t->host, v);
}

static size_t check_mix(const ss_kernels *k, const ss_check_host *host) {
  static const size_t positions[] = {0, 1, 2, 3, 7, 8, 31, 33, 63, 64, 65, 130};
  trial t = begin(k, host);
  for (size_t i = 0; i < sizeof positions / sizeof *positions; i++)
    for (size_t dim = 32; dim <= 128; dim += 32)
      for (size_t n_q = 1; n_q <= 9; n_q++) mix_case(&t, n_q, dim, positions[i], n_q & 1 ? RANDOM : WIDE);
  for (int s = 0; s < STYLES; s++) mix_case(&t, 3, 64, 40, (style)s);
  mix_case(&t, 27, 64, 50, RANDOM);
  return t.failures;
}

/* These two are vectors of the compiler's own in every set: compared with the definition, a pair at a time. */

static void rope_pairs(float *head, const float *cosine, const float *sine, size_t n_rot, bool neox) {
  for (size_t i = 0; i < n_rot / 2; i++) {
    float *a = head + (neox ? i : 2 * i), *b = a + (neox ? n_rot / 2 : 1);
    const float x = *a, y = *b;
    *a = x * cosine[i] - y * sine[i];
    *b = x * sine[i] + y * cosine[i];
  }
}

static size_t check_rope(const ss_kernels *k, const ss_check_host *host) {
  static const uint32_t sizes[] = {0, 2, 6, 8, 10, 14, 16, 20, 64, 80, 128};
  trial t = begin(k, host);
  for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++)
    for (int s = 0; s < STYLES; s++) {
      const uint32_t n = sizes[i / 2];
      const bool neox = i % 2;
      ss_format(t.what, sizeof t.what, "rope of %u%s, %s", n, neox ? " neox" : "", style_names[s]);
      const buffer cosine = floats(&t, n / 2, RANDOM, false), sine = floats(&t, n / 2, (style)s, false);
      buffer pair[2];
      in_place(&t, pair, n, (style)s, 12);
      ss_rope(pair[0].at, cosine.at, sine.at, n, neox);
      rope_pairs(pair[1].at, cosine.at, sine.at, n, neox);
      expect_same(&t, pair[0], pair[1]);
      drop(host, cosine);
      drop(host, sine);
    }
  return t.failures;
}

static void hadamard_pairs(float *x, size_t n) {
  for (size_t half = SS_COLS / 2; half; half /= 2)
    for (size_t i = 0; i < n; i++) {
      if (i & half) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
}

static size_t check_hadamard(const ss_kernels *k, const ss_check_host *host) {
  trial t = begin(k, host);
  for (size_t n = 0; n <= 128; n += SS_COLS)
    for (int s = 0; s < STYLES; s++) {
      ss_format(t.what, sizeof t.what, "Hadamard transform of %d, %s", (int)n, style_names[s]);
      buffer pair[2];
      in_place(&t, pair, n, (style)s, 12);
      ss_hadamard(pair[0].at, n);
      hadamard_pairs(pair[1].at, n);
      expect_same(&t, pair[0], pair[1]);
    }
  return t.failures;
}

const ss_check ss_checks[] = {
    {"gemv of 4-bit weights with an offset gives the bits of scalar", gemv_4},
    {"gemv of 4-bit weights with a minimum gives the bits of scalar", gemv_4m},
    {"gemv of 5-bit weights with an offset gives the bits of scalar", gemv_5},
    {"gemv of 5-bit weights with a minimum gives the bits of scalar", gemv_5m},
    {"gemv of 6-bit weights gives the bits of scalar", gemv_6},
    {"gemv of 8-bit weights gives the bits of scalar", gemv_8},
    {"gemm of 4-bit weights with an offset gives the bits of scalar", gemm_4},
    {"gemm of 4-bit weights with a minimum gives the bits of scalar", gemm_4m},
    {"gemm of 5-bit weights with an offset gives the bits of scalar", gemm_5},
    {"gemm of 5-bit weights with a minimum gives the bits of scalar", gemm_5m},
    {"gemm of 6-bit weights gives the bits of scalar", gemm_6},
    {"gemm of 8-bit weights gives the bits of scalar", gemm_8},
    {"fgemm of f32 weights gives the bits of scalar", fgemm_f32},
    {"fgemm of f16 weights gives the bits of scalar", fgemm_f16},
    {"fgemm of bf16 weights gives the bits of scalar", fgemm_bf16},
    {"quantize gives the bits of scalar", check_quantize},
    {"rmsnorm gives the bits of scalar, in place too", check_rmsnorm},
    {"add gives the bits of scalar", check_add},
    {"swiglu gives the bits of scalar", check_swiglu},
    {"exp gives the bits of scalar on every exponent", check_exp},
    {"softmax gives the bits of scalar", check_softmax},
    {"mix gives the bits of scalar", check_mix},
    {"RoPE is that of its pairs", check_rope},
    {"the Hadamard transform is that of its pairs", check_hadamard},
};
const size_t ss_n_checks = sizeof ss_checks / sizeof *ss_checks;

size_t ss_check_kernels(const ss_kernels *k, const ss_check_host *host) {
  size_t failures = 0;
  for (size_t i = 0; i < ss_n_checks; i++) failures += ss_checks[i].run(k, host);
  return failures;
}
