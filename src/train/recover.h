/* Fitting a recovery (ss_recovery): what makes up for the blocks that one mask skips, on frozen weights and text of the
 * mask's own cluster.
 *
 *   closed form   stand-ins, front to back on the pruned trajectory: a and b of a skipped block are the ridge regression,
 *                 channel by channel, of block(h) on h, where h is what reaches the block with all stand-ins before it in
 *                 place (FLAP, arXiv 2312.11983, has the bias alone; ReplaceMe, arXiv 2505.02819, a matrix). The other
 *                 target, the dense model's residual stream less the pruned one, was tried and is worse: what a channel has
 *                 drifted is mostly not to be told from the channel, and regression then shrinks what it should keep
 *   trained       gains, scales and stand-ins by Adam on KL(dense || masked), with the backward pass of pass.h
 *   started       from the numbers of a mask that is much alike, where a block runs, or is skipped, in both; the closed
 *                 form then is that of the other skipped blocks. Masks of one level differ in few blocks, so that all of
 *                 them go on where the one for all text ended, instead of each from nothing
 *
 * Held-back text decides: the closed form stays where it lowers KL, training ends where KL has not fallen for a while and
 * goes back to the best numbers, and in the end each part is left out unless KL is lower with it. KL is always measured on
 * the numbers that a bank would hold, rounded to f16.
 *
 * ss_recover_step does a bit of work at a time, and ss_recover_state is all that there is: a copy of it goes on with the
 * same bits. Deterministic by its options, the same for any number of threads and any keep_bytes.
 *
 * Memory: the state and two more copies of the numbers, 32 (3 n_blocks + 1) n_embd bytes (SmolLM2-135M: 3.3 MB); 4 n_embd
 * bytes for each held-back token; while stand-ins are fitted 8 n_embd bytes for each of fit_tokens, and a session of the
 * longest window; else a pass of tokens_per_step with keep_bytes (pass.h). */
#ifndef SS_RECOVER_H
#define SS_RECOVER_H

#include "train/pass.h"

enum { SS_RECOVER_GAINS = 1, SS_RECOVER_SCALES = 2, SS_RECOVER_STAND_INS = 4, SS_RECOVER_ALL = 7 };

typedef struct ss_recover_options {
  uint32_t parts; /* which may be used; 0: all */
  uint32_t fit_tokens; /* of the training text, for the closed form; 0: 4096 */
  uint32_t steps; /* of Adam; 0 leaves only the closed form */
  uint32_t tokens_per_step; /* 0: 1024; raised to the longest window */
  uint32_t check_every; /* steps from one look at the held-back text to the next; 0: 10 */
  uint32_t patience; /* looks without a new best before training ends; 0: 3 */
  double rate; /* of Adam, relative: a gain moves by about this share of itself a step; 0: 0.02 */
  double ridge; /* share of a channel's variance that is added to it; 0: 0.01 */
  double keep_near; /* each step pulls all numbers back by rate times this share; 0: 0.01, below 0: not at all */
  uint64_t seed; /* of the order of windows */
  size_t keep_bytes; /* of the pass (ss_pass_options): changes no result */
} ss_recover_options;

typedef struct ss_recover_data { /* all borrowed; windows of the two sets come from different samples */
  const ss_model *model; /* complete */
  const ss_mask *mask;
  const ss_windows *train, *held;
  const ss_recovery *start; /* of another mask; NULL: none */
} ss_recover_data;

typedef struct ss_quality { /* means over the scored held-back tokens, in nats */
  double nll, kl;
} ss_quality;

typedef enum ss_recover_phase {
  SS_RECOVER_MEASURE, /* the mask alone */
  SS_RECOVER_FIT, /* the closed form */
  SS_RECOVER_TRAIN,
  SS_RECOVER_CHOOSE, /* which parts stay: a step for each */
  SS_RECOVER_DONE,
} ss_recover_phase;

typedef struct ss_recover_report {
  ss_recover_phase phase; /* what comes next */
  uint32_t step, steps; /* of training: done, and at most */
  double train_kl; /* of the last batch, before its update; 0: none yet */
  double dense_nll;
  ss_quality none, closed, trained, final; /* closed: all that is there before training; 0: not measured (yet) */
  uint32_t best_step; /* the step whose numbers were the best; 0: before training */
  uint32_t parts; /* that stay; in the end */
  double without[3]; /* KL without gains, scales, stand-ins; 0: not measured, as the part is not there */
} ss_recover_report;

typedef struct ss_recover ss_recover;

/* What ss_recover_create and the steps would take at most; 0 when the options are impossible. */
size_t ss_recover_bytes(const ss_recover_data *data, const ss_recover_options *options, const ss_host *host);

ss_status ss_recover_create(ss_recover **out, const ss_recover_data *data, const ss_recover_options *options,
                            const ss_host *host, ss_error *err);
void ss_recover_free(ss_recover *recover);

/* SS_MORE: more is due; SS_OK: done. One step is a look at the held-back text, the closed form, or a batch of training: some
 * seconds on a small model. */
ss_status ss_recover_step(ss_recover *recover, ss_error *err);
ss_recover_report ss_recover_progress(const ss_recover *recover);

/* Plain data, *n bytes, no pointers: written and read as bytes by the same build. ss_recover_resume takes what another of the
 * same data and options had; SS_E_FORMAT: it is of another one. */
const void *ss_recover_state(const ss_recover *recover, size_t *n);
ss_status ss_recover_resume(ss_recover *recover, const void *state, size_t n, ss_error *err);

/* The result once done, owned by it; NULL: nothing helps. Its numbers are f16 values. */
const ss_recovery *ss_recover_result(ss_recover *recover);

/* A copy that outlives it; freed with the same host. */
ss_status ss_recovery_copy(ss_recovery **out, const ss_recovery *recovery, const ss_host *host, ss_error *err);
void ss_recovery_free(ss_recovery *copy, const ss_host *host);

#endif
