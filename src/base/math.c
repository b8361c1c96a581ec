/* Elementary functions with the same bits on every target: plain multiplies and adds in a fixed order, no libm.
 * exp in f32 is part of the numerics; the others run in double, a few times per chunk or once at load. */
#include "base/base.h"

/* exp(x) = 2^n * exp(r), n the nearest integer to x / ln 2, |r| <= ln 2 / 2; a polynomial of degree 6 for exp(r)
 * (coefficients as in Cephes' expf). Below -87 and for a NaN the result is 0, above 88 it is that of 88. Relative error below 2e-7. */
float ss_expf(float x) {
  if (!(x >= -87.0f)) return 0.0f;
  if (x > 88.0f) x = 88.0f;
  const float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the addition rounds half to even */
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r);
  p = p + r;
  p = p + 1.0f;
  return p * ss_float_of_bits((uint32_t)((int32_t)n + 127) << 23);
}

static double double_of_bits(uint64_t u) {
  double d;
  memcpy(&d, &u, sizeof d);
  return d;
}

static uint64_t bits_of_double(double d) {
  uint64_t u;
  memcpy(&u, &d, sizeof u);
  return u;
}

#define LN2 0.69314718055994530942

/* log(x) = e ln 2 + 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)); the series in odd powers to z^21. */
double ss_log(double x) {
  int64_t e = 0;
  if (x < 0x1p-1022) { /* subnormal */
    x *= 0x1p54;
    e = -54;
  }
  const uint64_t u = bits_of_double(x);
  e += (int64_t)(u >> 52) - 1023;
  double m = double_of_bits((u & UINT64_C(0xfffffffffffff)) | UINT64_C(0x3ff0000000000000));
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    e++;
  }
  const double z = (m - 1.0) / (m + 1.0), z2 = z * z;
  double sum = 0.0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
  return (double)e * LN2 + 2.0 * z * sum;
}

static double exp_double(double x) {
  if (x < -700.0) return 0.0;
  if (x > 700.0) x = 700.0;
  const double shifted = x * (1.0 / LN2) + 0x1.8p52, n = shifted - 0x1.8p52;
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = 1.0;
  for (int k = 14; k >= 1; k--) p = p * r / k + 1.0; /* Horner's form of the Taylor series */
  return p * double_of_bits((uint64_t)((int64_t)n + 1023) << 52);
}

double ss_pow(double x, double y) { return exp_double(y * ss_log(x)); }

/* Reduced by multiples of pi/2 in three parts (fdlibm's), then Taylor series on |r| <= pi/4. */
void ss_sincos(double x, double *s, double *c) {
  const double shifted = x * 6.36619772367581382433e-01 + 0x1.8p52, n = shifted - 0x1.8p52;
  double r = x - n * 1.57079632673412561417e+00;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const double r2 = r * r;
  double ps = 0.0, pc = 0.0;
  for (int k = 17; k >= 3; k -= 2) ps = (ps + 1.0) * -r2 / ((k - 1) * k);
  for (int k = 18; k >= 2; k -= 2) pc = (pc + 1.0) * -r2 / ((k - 1) * k);
  const double sine = r + r * ps, cosine = 1.0 + pc;
  switch ((int64_t)n & 3) {
    case 0: *s = sine, *c = cosine; break;
    case 1: *s = cosine, *c = -sine; break;
    case 2: *s = -sine, *c = -cosine; break;
    default: *s = -cosine, *c = sine; break;
  }
}

float ss_float_of_half(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return ss_float_of_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent) return ss_float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = (float)mantissa * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}
