#include "ranks.h"

#if SS_HAVE_MPI
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>

#include "support.h"

static ranks wrap(MPI_Comm group) {
  int rank, n;
  MPI_Comm_rank(group, &rank);
  MPI_Comm_size(group, &n);
  ranks r = {.rank = (uint32_t)rank, .n = (uint32_t)n};
  if (n > 1) {
    MPI_Comm *kept = take_memory(1, sizeof *kept);
    *kept = group;
    r.group = kept;
  }
  return r;
}

static MPI_Comm group_of(const ranks *r) { return *(MPI_Comm *)r->group; }

ranks ranks_begin(void) {
  int level;
  MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level); /* the pool's threads do not talk */
  return wrap(MPI_COMM_WORLD);
}

void ranks_end(void) { MPI_Finalize(); }

void ranks_abort(const ranks *r, int code) {
  if (r->group) MPI_Abort(group_of(r), code);
}

ranks ranks_split(const ranks *r, uint32_t color) {
  if (!r->group) return *r;
  MPI_Comm part;
  MPI_Comm_split(group_of(r), (int)color, (int)r->rank, &part);
  const ranks out = wrap(part);
  if (!out.group) MPI_Comm_free(&part);
  return out;
}

void ranks_free(ranks *r) {
  if (r->group && group_of(r) != MPI_COMM_WORLD) MPI_Comm_free(r->group);
  free(r->group);
  r->group = NULL;
}

ss_status ranks_sum(void *ctx, double *values, size_t n, ss_error *err) {
  const ranks *r = ctx;
  (void)err;
  if (r->group) MPI_Allreduce(MPI_IN_PLACE, values, (int)n, MPI_DOUBLE, MPI_SUM, group_of(r));
  return SS_OK;
}

void ranks_share(const ranks *r, uint32_t from, void *bytes, size_t n) {
  char *at = bytes;
  for (size_t part; r->group && n; at += part, n -= part) {
    part = n < INT_MAX ? n : INT_MAX;
    MPI_Bcast(at, (int)part, MPI_BYTE, (int)from, group_of(r));
  }
}

bool ranks_any(const ranks *r, bool flag) {
  int any = flag;
  if (r->group) MPI_Allreduce(MPI_IN_PLACE, &any, 1, MPI_INT, MPI_LOR, group_of(r));
  return any != 0;
}

#else

ranks ranks_begin(void) { return (ranks){.n = 1}; }
void ranks_end(void) {}
void ranks_abort(const ranks *r, int code) { (void)r, (void)code; }
ranks ranks_split(const ranks *r, uint32_t color) {
  (void)color;
  return *r;
}
void ranks_free(ranks *r) { (void)r; }
ss_status ranks_sum(void *ctx, double *values, size_t n, ss_error *err) {
  (void)ctx, (void)values, (void)n, (void)err;
  return SS_OK;
}
void ranks_share(const ranks *r, uint32_t from, void *bytes, size_t n) { (void)r, (void)from, (void)bytes, (void)n; }
bool ranks_any(const ranks *r, bool flag) {
  (void)r;
  return flag;
}

#endif
