/* The folder that a training run lives in. Whatever happens to the process, what is there is whole, and of this run:
 *
 *   settings               what decides the result, as text: a run that goes on must agree line by line
 *   run.json               what the report tells about the run
 *   embeddings             of the prompts
 *   greedy.losses          each loss of the greedy search, as state.h says
 *   NAME.losses            each loss on held-back text; NAME is global or cluster-C
 *   NAME.other.losses      on held-back text that no search has seen
 *   NAME.level-L.l0        the last checkpoint of L0 training
 *   NAME.level-L.recover   the last checkpoint of fitting its recovery
 *   NAME.level-L.mask      the finished mask, and its recovery
 *   NAME.level-L.jsonl     the log: an object a line
 *   lock                   held by the process that runs */
#ifndef SS_TOOL_TRAIN_STATE_H
#define SS_TOOL_TRAIN_STATE_H

#include "json.h"
#include "support.h"

/* Takes or makes the folder and its lock: a process that runs in it already is an error. With resume it may hold a run
 * with the same settings; a setting that differs is named. Without it a run there is an error too. *lock: a file
 * descriptor to close at the end. */
ss_status train_folder_open(const char *folder, const char *settings, bool resume, int *lock, ss_error *err);

/* Plain bytes under a header that tells their kind, run and hash; written under a temporary name and renamed. `kind` has
 * up to 7 characters, `of` is the run. */
ss_status train_file_write(const char *path, const char *kind, uint64_t of, const void *bytes, size_t n, ss_error *err);
/* Appends the file's content; *found: it was there. A file of another run, or a damaged one, is an error. */
ss_status train_file_load(const char *path, const char *kind, uint64_t of, buffer *out, bool *found, ss_error *err);
/* The same where the length is known: another one is an error. */
ss_status train_file_read(const char *path, const char *kind, uint64_t of, void *bytes, size_t n, bool *found,
                          ss_error *err);

/* A log that goes on where a checkpoint was made: what was written behind it is taken again. */
typedef struct train_log {
  FILE *file;
  const char *path; /* borrowed */
} train_log;
ss_status train_log_open(train_log *log, const char *path, uint64_t keep_bytes, ss_error *err);
uint64_t train_log_bytes(const train_log *log);
/* A line: json_open first and json_done last are the caller's, on log->file; train_log_check then says whether it was written. */
ss_status train_log_check(train_log *log, ss_error *err);
void train_log_close(train_log *log);

#endif
