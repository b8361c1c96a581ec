/* L0 training of one mask on frozen weights: log alphas of Hard Concrete gates (gate.h), one a block, by Adam on
 *
 *     loss(z) + l1 (E[skipped] - target) + l2 (E[skipped] - target)^2      E[skipped]: the expected share of MACs
 *
 * (CoFi, arXiv 2204.00408; Sheared LLaMA, arXiv 2310.06694), with two changes that make short runs from a given mask work.
 *
 * E[skipped] counts a gate as open when it would be rounded to 1, P(z > 1/2), not when it is anything but 0, P(z > 0), as
 * there. With the latter a nearly closed gate pays in full for an opening that is worth little yet, and a nearly open one
 * is paid for closing long after the loss has felt it: gates that start on a side stay there. The former is symmetric,
 * and the mask will be rounded.
 *
 * And l1 is not climbed to by the gap. It has to grow to what a share of the MACs costs in loss, and by then the gates of a
 * short run are closed: it overshoots by far. Here l1 follows that price as the averaged gradient tells it, the one at
 * which a step pulls as much of the expected share up as down; l2 is in proportion to it; and where the expected share
 * still strays from the target by more than SS_L0_SLACK, all log alphas are shifted by the same amount.
 *
 * One call is one step, and ss_l0_state is all that there is: a copy of it goes on with the same bits. */
#ifndef SS_MASK_TRAIN_H
#define SS_MASK_TRAIN_H

#include "train/pass.h"

#define SS_L0_SLACK 0.002 /* of all MACs */

/* Sums values[n] over all machines, in place: the same result on each. */
typedef ss_status ss_all_reduce(void *ctx, double *values, size_t n, ss_error *err);

typedef struct ss_l0_options {
  uint32_t n_blocks;
  const uint64_t *costs; /* [n_blocks] MACs */
  double from, to; /* the target share goes from one to the other within the first `warm_up` steps */
  uint32_t warm_up; /* steps */
  uint32_t windows_per_step; /* even: antithetic pairs. Over all machines */
  ss_objective objective;
  double rate; /* of log alphas, after the first 10 steps; 0: 0.2 */
  double multiplier_rate; /* how fast l1 follows, up to 1; 0: 0.5 */
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
  double lambda[2]; /* l1 and l2 */
  double log_alpha[SS_MAX_BLOCKS], m[SS_MAX_BLOCKS], v[SS_MAX_BLOCKS]; /* m and v: Adam's */
  double mean[SS_MAX_BLOCKS]; /* of the loss's gradient, what l1 is solved from */
} ss_l0_state;

/* Starts at `mask`: the gate of a block that runs is 1 with probability about `certainty` (0: 0.75), of another it is
 * 0; all shifted so that the expected share is options->from. scores [n_blocks] (may be NULL), the loss of leaving a
 * block out, order the blocks within each side: the less harm per MAC, the nearer to closed. */
ss_status ss_l0_begin(ss_l0_state *state, const ss_l0_options *options, const ss_mask *mask, const double *scores,
                      double certainty, ss_error *err);

typedef struct ss_l0_data {
  const ss_windows *windows;
  float
      *dense; /* [tokens of windows][n_embd] room for the dense model's residual stream, filled when first wanted; NULL:
                   computed each time. Used by KL alone */
  bool *dense_known; /* [windows->n] which of it is there; starts false, or is kept together with dense */
} ss_l0_data;

typedef struct ss_l0_report {
  double loss, nll, kl; /* means over the step's scored tokens, gates as sampled; kl 0 unless it is the objective */
  double skipped, target; /* expected share of MACs after the step, and what it aims at */
  double sampled; /* share of MACs that the samples left out: gates of exactly 0 */
  double lambda[2];
  uint64_t tokens; /* of the step, over all machines */
} ss_l0_report;

/* One step. More windows than `pass` holds are taken in several batches. */
ss_status ss_l0_step(ss_l0_state *state, const ss_l0_options *options, ss_pass *pass, const ss_l0_data *data,
                     ss_l0_report *report, ss_error *err);

/* The mask that skips exactly `units` (of ss_budget_target) with the least sum of log alphas: what is most surely closed.
 * SS_E_ARGUMENT: no such sum. */
ss_status ss_l0_binarise(ss_mask *mask, const ss_l0_state *state, const ss_budget *budget, uint64_t units,
                         const ss_host *host, ss_error *err);

/* ---- swap search ---- */

/* What two masks' mean losses on the same n tokens must differ by, so that chance alone seldom does it: two standard errors
 * of the difference, if a token's losses under masks a swap apart differ by 0.35 nats (standard deviation; assumed, not
 * measured). Many masks are tried on the same text: without a margin the luckiest one wins. */
double ss_loss_margin(size_t n_tokens);


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
  double margin; /* by which a swap must lower the loss to stay; ss_loss_margin */
  const double *scores; /* [n_blocks] what is lower is rather skipped, as log alphas; NULL: not known */
} ss_swap_options;

typedef struct ss_swap_result {
  double first_loss, loss;
  uint32_t n_losses, n_swaps;
} ss_swap_result;

/* Local search from *mask at equal MACs: one block against one, or one against up to 8 equal ones of the same cost
 * together, in both directions; a swap stays when it lowers the loss by more than the margin. Scores say which
 * swaps are promising, then what adding and removing each block alone does, which costs a loss a block; these are tried
 * first, and it ends when SS_SWAP_TRIES in a row have not helped and nothing was swapped since the blocks were last
 * measured. Deterministic: a caller that remembers losses goes on where
 * it was. */
#define SS_SWAP_TRIES 16
ss_status ss_swap_search(ss_mask *mask, ss_swap_result *out, const ss_swap_options *options, const ss_host *host,
                         ss_error *err);

#endif
