/* What every part of the core uses: errors, a checked byte cursor, an arena, random numbers, exact math. */
#ifndef SS_BASE_H
#define SS_BASE_H

#include <string.h>

#include "skipstone.h"

#define SS_ALIGN 64

static inline size_t ss_align(size_t n) { return (n + SS_ALIGN - 1) & ~(size_t)(SS_ALIGN - 1); }
static inline size_t ss_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ss_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t ss_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* ---- errors ---- */

/* Sets *err (may be NULL) and returns status. Formats: %s %.*s %c %d %u %x %% with the lengths l, ll and z. */
ss_status ss_fail(ss_error *err, ss_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same formats into a buffer, always NUL-terminated; returns the length that the whole text has. */
size_t ss_format(char *text, size_t capacity, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- host ---- */

void *ss_host_alloc(const ss_host *host, size_t bytes); /* zeroed */
void ss_host_free(const ss_host *host, void *p, size_t bytes);
void ss_host_parallel(const ss_host *host, uint32_t n_parts, ss_task *task, void *arg);

/* Part `part` of n items in n_parts nearly equal ranges: [*first, *end). */
static inline void ss_part(size_t n, uint32_t part, uint32_t n_parts, size_t *first, size_t *end) {
  const size_t each = n / n_parts, more = n % n_parts;
  *first = part * each + (part < more ? part : more);
  *end = *first + each + (part < more);
}

/* ---- cursor: read freely, check `bad` once ---- */

typedef struct ss_cursor {
  const uint8_t *data;
  size_t len, at;
  bool bad; /* a read ran past the end; every later read gives 0 */
} ss_cursor;

const uint8_t *ss_take(ss_cursor *c, size_t n); /* n bytes, or NULL */
uint8_t ss_take_u8(ss_cursor *c);
uint16_t ss_take_u16(ss_cursor *c); /* little-endian, as all of them */
uint32_t ss_take_u32(ss_cursor *c);
uint64_t ss_take_u64(ss_cursor *c);

/* ---- arena: size first, allocate once, free once ----
 * Carve the same sequence twice: with base NULL it only counts, with memory it hands out. */
typedef struct ss_arena {
  uint8_t *base;
  size_t used; /* always a multiple of SS_ALIGN */
  bool overflow; /* the sizes do not fit a size_t */
} ss_arena;
void *ss_carve(ss_arena *arena, size_t n, size_t item_bytes); /* 64-byte aligned; NULL while counting */

/* ---- random numbers: xoshiro256** seeded by splitmix64 (Blackman, Vigna) ---- */

typedef struct ss_rng {
  uint64_t s[4];
} ss_rng;
ss_rng ss_rng_seed(uint64_t seed);
uint64_t ss_rng_next(ss_rng *rng);
double ss_rng_unit(ss_rng *rng);                  /* [0, 1), 53 bits */
uint64_t ss_rng_below(ss_rng *rng, uint64_t n);   /* unbiased, n > 0 */

/* ---- math: the same bits everywhere, no libm ---- */

float ss_expf(float x);                          /* part of the numerics: the kernels vectorise exactly this */
double ss_log(double x);                         /* x > 0 */
double ss_pow(double x, double y);               /* x > 0 */
void ss_sincos(double x, double *s, double *c);  /* |x| < 1e8 */
static inline float ss_sqrtf(float x) { return __builtin_sqrtf(x); }

static inline float ss_float_of_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
static inline uint32_t ss_bits_of_float(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}
/* erf(x) = x p(x^2) / q(x^2) on [-4, 4], where it is 1 to the last bit of a float; odd part of degree 13 over degree 8
 * (the rational fit of Eigen's vectorised erf). A NaN gives a number too. Absolute error
 * below 1e-6. */
static inline float ss_erff(float x) { /* inline, so that a loop over it becomes SIMD */
  x = x > -4.0f ? x : -4.0f;
  x = x < 4.0f ? x : 4.0f;
  const float y = x * x;
  float p = -2.72614225801306e-10f;
  p = p * y + 2.77068142495902e-08f;
  p = p * y + -2.10102402082508e-06f;
  p = p * y + -5.69250639462346e-05f;
  p = p * y + -7.34990630326855e-04f;
  p = p * y + -2.95459980854025e-03f;
  p = p * y + -1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * y + -2.13374055278905e-04f;
  q = q * y + -1.68282697438203e-03f;
  q = q * y + -7.37332916720468e-03f;
  q = q * y + -1.42647390514189e-02f;
  return x * p / q;
}

float ss_float_of_half(uint16_t h); /* exact, subnormals, infinities and NaN included */

/* FNV-1a, 64 bit. Start with SS_FNV_START. */
#define SS_FNV_START UINT64_C(0xcbf29ce484222325)
uint64_t ss_fnv1a(uint64_t hash, const void *bytes, size_t n);

#endif
