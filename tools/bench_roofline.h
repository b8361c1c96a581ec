/* skipstone bench --roofline: the kernels' share of what the machine could do. */
#ifndef SS_TOOL_BENCH_ROOFLINE_H
#define SS_TOOL_BENCH_ROOFLINE_H

#include "skipstone.h"

/* Of one kernel set (NULL: the fastest) or "all", for each number of threads; only: a part of a row's name, or NULL.
 * Prints tables, or with as_json one object, an array of several. Returns an exit code. */
int bench_roofline(const char *kernels, const uint32_t *threads, size_t n_threads, const char *only, bool as_json);

#endif
