/* The processes that train together, by MPI where the build has it (-DSS_MPI=ON); else there is one. Values are summed over,
 * or handed to, all of a group; every one of them must make the same calls in the same order. A failure of MPI itself
 * ends all processes, as is its default. */
#ifndef SS_TOOL_RANKS_H
#define SS_TOOL_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "skipstone.h"

typedef struct ranks {
  uint32_t rank, n; /* 0 and 1: alone */
  void *group; /* of MPI; NULL: alone */
} ranks;

/* Joins what mpirun started, or is alone. Balanced by ranks_end. */
ranks ranks_begin(void);
void ranks_end(void);
/* This process failed and has said why: ends all of them with `code`, and does not return where there are others. */
void ranks_abort(const ranks *r, int code);

/* Those of r with the same color, in the same order; to be freed. */
ranks ranks_split(const ranks *r, uint32_t color);
void ranks_free(ranks *r);

/* An ss_all_reduce; ctx is a ranks. */
ss_status ranks_sum(void *ctx, double *values, size_t n, ss_error *err);
/* Copies bytes[n] of the process `from` to all. */
void ranks_share(const ranks *r, uint32_t from, void *bytes, size_t n);
/* Is the flag set anywhere? */
bool ranks_any(const ranks *r, bool flag);

#endif
