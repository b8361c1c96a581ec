#include "train/gate.h"

#include <math.h>

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

double ss_gate_of_noise(double a, double u, double *slope) {
  const double s = sigmoid((log(u) - log1p(-u) + a) / SS_GATE_BETA);
  const double stretched = s * (SS_GATE_ZETA - SS_GATE_GAMMA) + SS_GATE_GAMMA;
  const bool inside = stretched > 0.0 && stretched < 1.0;
  if (slope) *slope = inside ? s * (1.0 - s) * (SS_GATE_ZETA - SS_GATE_GAMMA) / SS_GATE_BETA : 0.0;
  return inside ? stretched : stretched >= 1.0 ? 1.0 : 0.0;
}

static double shift(void) { return SS_GATE_BETA * log(-SS_GATE_GAMMA / SS_GATE_ZETA); }

double ss_gate_open(double a, double *slope) {
  const double p = sigmoid(a - shift());
  if (slope) *slope = p * (1.0 - p);
  return p;
}

double ss_gate_rounded(double a, double *slope) {
  const double p = sigmoid(a);
  if (slope) *slope = p * (1.0 - p);
  return p;
}

double ss_gate_of_open(double p) {
  const double a = log(p) - log1p(-p) + shift();
  return a > SS_GATE_LIMIT ? SS_GATE_LIMIT : a < -SS_GATE_LIMIT ? -SS_GATE_LIMIT : a;
}

double ss_gate_still(double a) {
  const double z = sigmoid(a) * (SS_GATE_ZETA - SS_GATE_GAMMA) + SS_GATE_GAMMA;
  return z < 0.0 ? 0.0 : z > 1.0 ? 1.0 : z;
}

void ss_gates_sample(float *z, float *slopes, const double *a, uint32_t n_blocks, uint32_t n_windows, ss_rng *rng) {
  for (uint32_t w = 0; w < n_windows; w += 2)
    for (uint32_t b = 0; b < n_blocks; b++) {
      const double u = ss_rng_unit(rng) * (1.0 - 0x1p-52) + 0x1p-54; /* neither 0 nor 1, nor is 1 - u */
      for (uint32_t k = 0; k < 2 && w + k < n_windows; k++) {
        const size_t at = (size_t)(w + k) * n_blocks + b;
        double slope;
        z[at] = (float)ss_gate_of_noise(a[b], k ? 1.0 - u : u, &slope);
        slopes[at] = (float)slope;
      }
    }
}

double ss_gates_skipped(const double *a, const uint64_t *costs, uint32_t n_blocks, double *slopes) {
  double total = 0.0, skipped = 0.0;
  for (uint32_t b = 0; b < n_blocks; b++) total += (double)costs[b];
  for (uint32_t b = 0; b < n_blocks; b++) {
    double slope;
    skipped += (double)costs[b] / total * (1.0 - ss_gate_rounded(a[b], &slope));
    if (slopes) slopes[b] = -(double)costs[b] / total * slope;
  }
  return skipped;
}
