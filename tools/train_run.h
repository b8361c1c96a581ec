/* A training run: first masks, then L0 training, swap search and recovery of each mask. train_run.c has the order of it all,
 * train_mask.c what happens to one mask, train_bank.c what comes out. */
#ifndef SS_TOOL_TRAIN_RUN_H
#define SS_TOOL_TRAIN_RUN_H

#include "clustering.h"
#include "mask_losses.h"
#include "ranks.h"
#include "train_data.h"
#include "train_state.h"

/* A finished mask. Plain data, kept as bytes in the run's folder. Losses are of held-back text, in nats a token. */
typedef struct mask_result {
  ss_mask start, trained, mask; /* what L0 training began with, what it gave, and what is kept behind the swap search */
  double dense_loss, start_loss, trained_loss, loss;
  uint32_t n_losses, n_swaps;
  /* On other held-back text: of the mask to fall back on, of the start and of the one of the search. NAN: all are one mask, or
   * there is no such text. */
  double other_loss[TRAIN_CONFIRM_LOSSES];
  uint32_t kept; /* which of these `mask` is */
  uint32_t recovered_parts; /* SS_RECOVER_*; 0: no recovery */
  double kl_before, kl, recovered_loss; /* to the dense model, without and with recovery; the loss with it */
  double seconds, recover_seconds; /* that it took, recovery included; recovery alone */
} mask_result;

/* A recovery without pointers into anything else: what a file or another process can hold. */
typedef struct kept_recovery {
  ss_recovery face; /* points into the arrays below */
  ss_recovery_block *blocks;
  float *numbers; /* [kept_numbers]; NULL: no recovery */
} kept_recovery;

/* What work takes, for the time to go: tokens and milliseconds of this process. */
typedef struct work_rate {
  double tokens, ms;
} work_rate;

typedef struct train_run {
  const train_options *options;
  const train_plan *plan;
  train_shape shape;
  train_speeds speeds; /* by a short trial */
  engine engine;
  train_data data;
  ranks world, team; /* all processes; those that train the same clusters */
  uint32_t n_teams, team_index;
  char *folder; /* the state */
  uint64_t of; /* hash of the settings */
  uint64_t *costs;
  ss_budget budget;
  ss_pass *pass;
  mask_result *results; /* [1 + n_clusters][n_levels], the first of all text */
  kept_recovery *recoveries; /* of each result */
  ss_l0_state *states; /* [n_levels] of all text */
  bool has_first; /* the masks below come from a greedy search */
  ss_mask first[TRAIN_MAX_LEVELS];
  double scores[SS_MAX_BLOCKS]; /* the loss of leaving a block out */
  work_rate steps, losses;
  double steps_left, losses_left; /* tokens that this process has in front of it, behind the mask at hand */
  uint32_t n_done, n_loaded; /* masks finished, and how many of them by an earlier run */
  progress_line progress;
  double said_ms;
} train_run;

/* Everything up to the bank's parts. r: options, plan, world, engine, data (opened), folder and lock are there. Interrupted: SS_E_STATE. */
ss_status train_run_all(train_run *r, ss_error *err);
void train_run_free(train_run *r);

/* Costs, budget and what each level skips: what the plan must know. */
ss_status train_run_shape(train_run *r, ss_error *err);
/* How fast losses, steps and embeddings are here, by a short trial on the corpus. */
ss_status train_run_measure(train_run *r, ss_error *err);

/* ---- train_mask.c ---- */

/* One mask set: all text, or a cluster. */
typedef struct train_job {
  train_run *run;
  uint32_t index; /* 0: all text, else cluster index - 1 */
  char name[32]; /* of files: global, cluster-3 */
  char title[32]; /* for people: all text, cluster 3 */
  ranks *team;
  window_set text; /* to train on */
  mask_losses held; /* on held-back text; the team's first process alone uses it */
  mask_losses other; /* on held-back text that no search has seen; no windows: there is none */
  float *dense; /* the dense model's residual streams, for KL */
  bool *dense_known;
  size_t dense_bytes;
  ss_l0_state state; /* of the last level */
  train_log log;
} train_job;

/* All levels. Finished masks are read. */
ss_status train_job_run(train_run *r, uint32_t index, ranks *team, ss_error *err);

static inline uint32_t job_cluster(uint32_t index) { return index ? index - 1 : TRAIN_ALL; }
static inline mask_result *result_of(const train_run *r, uint32_t index, uint32_t level) {
  return &r->results[index * r->plan->n_levels + level];
}
/* Draws a line about progress? Redrawn on a terminal, one a minute elsewhere. The text starts with *start. */
bool train_progress_due(train_run *r, const char **start, const char **end);
/* The mask at hand is one of this job: its work is no longer in front. */
void train_take_work(train_run *r, uint32_t index);
/* Seconds to go, with so much left of the mask at hand. */
double train_seconds_left(const train_run *r, double step_tokens, double loss_tokens);
/* Of files: "global", "cluster-3". */
void train_job_name(uint32_t index, char name[32]);
void train_path(buffer *path, const train_run *r, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- train_bank.c ---- */

ss_status train_write_bank(train_run *r, ss_error *err);
/* All masks' logs as one file: all text first, then cluster by cluster. */
ss_status train_write_log(const train_run *r, const char *path, ss_error *err);
/* run.json, for the report. */
ss_status train_write_about(train_run *r, ss_error *err);

#endif
