/* What a long run has measured so far, on disk: a text file that only grows, a line for each result. A run that is
 * killed loses at most the line that it was writing; a run that goes on asks the file before it measures. */
#ifndef SS_TOOL_STATE_H
#define SS_TOOL_STATE_H

#include "support.h"

#define STATE_VALUES 3

typedef struct state_entry {
  uint64_t key; /* 0: a free slot */
  double values[STATE_VALUES];
} state_entry;

typedef struct state {
  FILE *file;
  state_entry *entries; /* a hash table by key */
  size_t n, capacity;   /* capacity: a power of two, or 0 */
  size_t n_loaded;      /* how many came from the file */
} state;

/* Opens or makes the file. `of` says what is measured (model, data, settings): a file of something else is an error
 * with `resume`, and is written anew without it. Without resume it always starts empty. */
ss_status state_open(state *s, const char *path, uint64_t of, bool resume, ss_error *err);
void state_close(state *s);

const double *state_find(const state *s, uint64_t key); /* [STATE_VALUES], or NULL */
/* Adds and writes; the line is with the system when it returns. */
ss_status state_add(state *s, uint64_t key, const double values[STATE_VALUES], ss_error *err);

/* Writes a whole file under a temporary name and renames it: path is the old file or the new one, never a part. */
ss_status write_whole(const char *path, const void *bytes, size_t n, ss_error *err);
/* mkdir -p */
ss_status make_folder(const char *path, ss_error *err);

#endif
