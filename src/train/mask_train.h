/* L0 training of one mask on frozen weights: log alphas of Hard Concrete gates (gate.h), one a block, by Adam on
 *
 *     loss(z) + l1 (E[skipped] - target) + l2 (E[skipped] - target)^2       E[skipped]: the expected share of MACs
 *
 * (CoFi, arXiv 2204.00408; Sheared LLaMA, arXiv 2310.06694). The multipliers rise by gradient ascent; what they may not do is
 * overshoot: the target moves by at most a fixed share a step, and a step that would take the expected share beyond
 * `slack` of the target is shifted back, all log alphas by the same amount.
 * One call is one step, and ss_l0_state is all that there is: a copy of it goes on with the same bits. */
#ifndef SS_MASK_TRAIN_H
#define SS_MASK_TRAIN_H

#include "train/pass.h"

/* Sums values[n] over all machines, in place: the same result on each. */
typedef ss_status ss_all_reduce(void *ctx, double *values, size_t n, ss_error *err);

typedef struct ss_l0_options {
  uint32_t n_blocks;
  const uint64_t *costs; /* [n_blocks] MACs */
  double from, to; /* target share at the first step, and from step `warm_up` on */
  uint32_t warm_up; /* steps */
  uint32_t windows_per_step; /* even: antithetic pairs. Over all machines */
  ss_objective objective;
  double rate; /* of log alphas; 0: 0.1 */
  double multiplier_rate; /* 0: 1 */
  uint64_t seed;
  uint32_t rank, n_ranks; /* this machine takes every n_ranks-th pair of windows; n_ranks 0: one machine */
  ss_all_reduce *all_reduce; /* may be NULL with one machine */
  void *reduce_ctx;
} ss_l0_options;

/* Plain data, no pointers: written and read as bytes by the same build. */
typedef struct ss_l0_state {
  uint32_t n_blocks, step; /* steps done */
  uint64_t drawn; /* windows drawn; every epoch is a shuffle of its own by the seed */
  ss_rng rng; /* the gates' noise */
  double lambda[2];
  double log_alpha[SS_MAX_BLOCKS], m[SS_MAX_BLOCKS], v[SS_MAX_BLOCKS];
} ss_l0_state;

/* Starts at `mask`: gates of blocks that run are open with probability about `certainty` (0: 0.9), the others closed. scores [n_blocks] (may be
 * NULL), the loss of leaving a block out, order blocks within each side: the less harm per MAC, the nearer to closed. */
ss_status ss_l0_begin(ss_l0_state *state, const ss_l0_options *options, const ss_mask *mask, const double *scores,
                      double certainty, ss_error *err);

typedef struct ss_l0_data {
  const ss_windows *windows;
  float *
      dense; /* [tokens of windows][n_embd] room for the dense model's residual stream, computed when first wanted; NULL:
                   computed each time. Used by KL alone */
  bool *dense_known; /* [windows->n] which of it is there; starts false, or is kept together with dense */
} ss_l0_data;

typedef struct ss_l0_report {
  double loss, nll, kl; /* means over the step's scored tokens, gates as sampled; kl 0 unless it is the objective */
  double skipped, target; /* expected share of MACs after the step, and what it aims at */
  double sampled; /* share of MACs that the samples left out */
  double lambda[2];
  uint64_t tokens; /* of the step, over all machines */
} ss_l0_report;

/* One step. `pass` holds a pair of windows at least; more are taken in several batches. */
ss_status ss_l0_step(ss_l0_state *state, const ss_l0_options *options, ss_pass *pass, const ss_l0_data *data,
                     ss_l0_report *report, ss_error *err);

/* The most likely mask that skips exactly `units` (budget.c; of ss_budget_target): the sum of the logits of P(z > 0) of what it skips is
 * least. SS_E_ARGUMENT: no such sum. */
ss_status ss_l0_binarise(ss_mask *mask, const ss_l0_state *state, const ss_budget *budget, uint64_t units,
                         const ss_host *host, ss_error *err);

/* ---- swap search ---- */

typedef struct ss_swap_progress {
  uint32_t n_losses, max_losses, n_swaps;
  double first_loss, loss; /* of the mask given, and so far */
} ss_swap_progress;
typedef bool ss_swap_watch(void *ctx, const ss_swap_progress *progress); /* false: stops, SS_E_STATE "stopped" */

typedef struct ss_swap_options {
  const ss_budget *budget;
  ss_greedy_loss *loss; /* on held-back windows; the base is the mask so far */
  ss_swap_watch *watch; /* may be NULL */
  void *ctx;
  uint32_t max_losses; /* ends then with what it has; 0: 400 */
} ss_swap_options;

typedef struct ss_swap_result {
  double first_loss, loss;
  uint32_t n_losses, n_swaps;
} ss_swap_result;

/* Local search from *mask at equal MACs: one block against one, or one against several of the same cost together, in both directions; a
 * swap stays when it lowers the loss. Candidates go by what adding and removing each block alone does, the most
 * promising first. Deterministic: a caller that remembers losses goes on where it was. */
ss_status ss_swap_search(ss_mask *mask, ss_swap_result *out, const ss_swap_options *options, const ss_host *host,
                         ss_error *err);

#endif
