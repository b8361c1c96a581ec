/* Routing: the nearest centroid. Sums run in order and in double, so that every target and every build of it takes the
 * same cluster: a few thousand operations, nothing to gain from lanes. */
#include "route/bank.h"

ss_status ss_bank_route(const ss_bank *b, const float *embedding, size_t dim, uint32_t *cluster, float *distance,
                        ss_error *err) {
  *cluster = b->n_clusters;
  *distance = 0.0f;
  if (dim != b->dim)
    return ss_fail(err, SS_E_ARGUMENT, "route: the embedding has %zu elements, the bank's centroids %u", dim, b->dim);
  bool zero = true;
  for (size_t i = 0; i < dim; i++) {
    if ((ss_bits_of_float(embedding[i]) & 0x7f800000u) == 0x7f800000u)
      return ss_fail(err, SS_E_ARGUMENT, "route: element %zu of the embedding is not finite", i);
    if (embedding[i] != 0.0f) zero = false;
  }
  if (zero) return SS_OK;
  double best = 0.0;
  for (uint32_t c = 0; c < b->n_clusters; c++) {
    const float *centroid = b->centroids + (size_t)c * dim;
    double sum = 0.0;
    for (size_t i = 0; i < dim; i++) {
      const double d = (double)embedding[i] - (double)centroid[i];
      sum += d * d;
    }
    if (c == 0 || sum < best) {
      best = sum;
      *cluster = c;
    }
  }
  *distance = ss_sqrtf((float)best);
  return SS_OK;
}
