/* Prompts of our own that a bank may show as examples of its clusters; each goes to the cluster that it is routed to. */
#ifndef SS_TOOL_EXAMPLE_PROMPTS_H
#define SS_TOOL_EXAMPLE_PROMPTS_H

#include "skipstone.h"

extern const char *const example_prompts[]; /* ends with NULL */
uint32_t example_prompts_count(void);

/* The cluster that each prompt is nearest to, and its distance squared: clusters and distances are [count]. centroids:
 * [k][dim]. */
ss_status example_prompts_route(ss_encoder *encoder, const float *centroids, uint32_t k, uint32_t *clusters,
                                double *distances, ss_error *err);
/* The nearest prompt of each cluster, [k]; empty where there is none. */
ss_status example_prompts_nearest(ss_encoder *encoder, const float *centroids, uint32_t k, ss_text *examples,
                                  ss_error *err);

#endif
