/* Adam (Kingma and Ba 2015, arXiv 1412.6980), without weight decay. */
#ifndef SS_ADAM_H
#define SS_ADAM_H

#include "base/base.h"

typedef struct ss_adam_options {
  double rate, beta1, beta2, epsilon;
} ss_adam_options;
static inline ss_adam_options ss_adam_defaults(double rate) { return (ss_adam_options){rate, 0.9, 0.999, 1e-8}; }

/* x -= rate * m' / (sqrt(v') + epsilon) for n numbers; m and v [n] start at 0 and are the whole state beside the step,
 * from 1. */
void ss_adam_step(double *x, const double *gradient, double *m, double *v, size_t n, uint32_t step,
                  const ss_adam_options *options);
void ss_adam_step_f32(float *x, const float *gradient, float *m, float *v, size_t n, uint32_t step,
                      const ss_adam_options *options);

#endif
