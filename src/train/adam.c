#include "train/adam.h"

#include <math.h>

#define ADAM_STEP(real)                                                                     \
  const double c1 = 1.0 - pow(o->beta1, step), c2 = 1.0 - pow(o->beta2, step);              \
  for (size_t i = 0; i < n; i++) {                                                          \
    const double g = (double)gradient[i];                                                   \
    m[i] = (real)(o->beta1 * (double)m[i] + (1.0 - o->beta1) * g);                          \
    v[i] = (real)(o->beta2 * (double)v[i] + (1.0 - o->beta2) * g * g);                      \
    x[i] -= (real)(o->rate * ((double)m[i] / c1) / (sqrt((double)v[i] / c2) + o->epsilon)); \
  }

void ss_adam_step(double *x, const double *gradient, double *m, double *v, size_t n, uint32_t step,
                  const ss_adam_options *o) {
  ADAM_STEP(double)
}

void ss_adam_step_f32(float *x, const float *gradient, float *m, float *v, size_t n, uint32_t step,
                      const ss_adam_options *o) {
  ADAM_STEP(float)
}
