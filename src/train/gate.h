/* Hard Concrete gates (Louizos, Welling and Kingma 2018, arXiv 1712.01312): a gate z in [0, 1] with log alpha a is
 *
 *     s = sigmoid((log u - log(1 - u) + a) / beta),   z = clip(s (zeta - gamma) + gamma, 0, 1),   u uniform in (0, 1)
 *
 * so that z is exactly 0 or 1 with some probability and still has a slope dz/da in between; where it is clipped the
 * slope is 0. */
#ifndef SS_GATE_H
#define SS_GATE_H

#include "base/base.h"

#define SS_GATE_BETA (2.0 / 3.0)
#define SS_GATE_GAMMA (-0.1)
#define SS_GATE_ZETA 1.1
#define SS_GATE_LIMIT 5.0 /* log alphas are kept within +- this: beyond, 97 % of the samples are clipped */

/* z of noise u in (0, 1); *slope (may be NULL) is dz/da. */
double ss_gate_of_noise(double a, double u, double *slope);
/* P(z > 0) = sigmoid(a - beta log(-gamma / zeta)); *slope (may be NULL) is its derivative by a. */
double ss_gate_open(double a, double *slope);
/* P(z > 1/2) = sigmoid(a): the gate is open once it is rounded. */
double ss_gate_rounded(double a, double *slope);
/* The a of which P(z > 0) is p, 0 < p < 1, within the limit. */
double ss_gate_of_open(double p);
/* z at test time: without noise. */
double ss_gate_still(double a);

/* z[n_windows][n_blocks] and slopes[n_windows][n_blocks] = dz/da for n_windows samples: windows 2i and 2i + 1 are an
 * antithetic pair, with noise u and 1 - u. Draws ceil(n_windows / 2) * n_blocks numbers. */
void ss_gates_sample(float *z, float *slopes, const double *a, uint32_t n_blocks, uint32_t n_windows, ss_rng *rng);

/* The share of the MACs that is expected to be skipped once the gates are rounded: sum c (1 - P(z > 1/2)) / sum c; slopes
 * (may be NULL): by each a. */
double ss_gates_skipped(const double *a, const uint64_t *costs, uint32_t n_blocks, double *slopes);

#endif
