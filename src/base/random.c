/* xoshiro256** by Blackman and Vigna (2018), seeded by splitmix64; and FNV-1a. */
#include "base/base.h"

static uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

ss_rng ss_rng_seed(uint64_t seed) {
  ss_rng rng;
  for (int i = 0; i < 4; i++) {
    uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    rng.s[i] = z ^ (z >> 31);
  }
  return rng;
}

uint64_t ss_rng_next(ss_rng *rng) {
  uint64_t *s = rng->s;
  const uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return result;
}

double ss_rng_unit(ss_rng *rng) { return (double)(ss_rng_next(rng) >> 11) * 0x1p-53; }

uint64_t ss_rng_below(ss_rng *rng, uint64_t n) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n; /* a whole number of n's */
  uint64_t x;
  do x = ss_rng_next(rng);
  while (x >= limit);
  return x % n;
}

uint64_t ss_fnv1a(uint64_t hash, const void *bytes, size_t n) {
  const uint8_t *p = bytes;
  for (size_t i = 0; i < n; i++) hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
  return hash;
}
