/* Making banks: clustering, losses under masks, greedy removal, the bank file. Native only: libm is allowed here, files and the
 * clock are not (tools/). Everything is deterministic by its seed and the same for any number of threads, as sums
 * are cut into parts that do not depend on them. */
#ifndef SS_TRAIN_H
#define SS_TRAIN_H

#include "base/base.h"

/* ---- k-means ---- */

typedef struct ss_kmeans_options {
  uint32_t k;
  uint32_t restarts; /* 0: 8; the result with the least inertia stays */
  uint32_t max_iterations; /* 0: 100 */
  bool cosine; /* centroids are normalised (spherical k-means); else means. Points are unit vectors either way */
  uint64_t seed;
} ss_kmeans_options;

typedef struct ss_kmeans_result {
  float *centroids; /* [k][dim] */
  uint32_t *clusters; /* [n] of each point */
  uint32_t *sizes; /* [k], none is 0 */
  double inertia; /* sum over points of the squared distance to their centroid */
  uint32_t iterations, best_restart; /* of the restart that won */
  uint32_t repaired; /* empty clusters that got a point, over all restarts */
  bool converged;
  uint32_t k, n, dim;
} ss_kmeans_result;

/* k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's iterations over points[n][dim]; 1 <= k <= n. An empty cluster gets
 * the point that is farthest from its own centroid. SS_E_ARGUMENT names a point that is not finite. */
ss_status ss_kmeans(ss_kmeans_result *out, const float *points, uint32_t n, uint32_t dim,
                    const ss_kmeans_options *options, const ss_host *host, ss_error *err);
void ss_kmeans_free(ss_kmeans_result *result, const ss_host *host);

/* The mean silhouette (Rousseeuw 1987) over at most `sample` points drawn by seed, distances within the sample: exact when
 * n <= sample. In [-1, 1]; 0 for k = 1. O(sample^2 dim). */
ss_status ss_silhouette(double *out, const ss_kmeans_result *clusters, const float *points, uint32_t sample,
                        uint64_t seed, const ss_host *host, ss_error *err);

/* ---- losses under masks ---- */

/* Token windows: each is a text of its own, computed from position 0. Borrowed by what uses it. */
typedef struct ss_windows {
  const int32_t *tokens; /* the windows, one behind the other */
  const uint32_t *starts; /* [n + 1] window i is tokens[starts[i] .. starts[i + 1]), at least 2 tokens */
  const uint32_t *score_from; /* [n] the first token of each window whose loss counts, at least 1; NULL: 1 */
  uint32_t n;
} ss_windows;

/* Mean next-token loss of masks over fixed windows, by the inference kernels. It remembers the residual stream at layer
 * boundaries under one mask, the base; another mask then costs only the layers from its first difference on. */
typedef struct ss_loss ss_loss;

/* Borrows model (complete) and windows. cache_bytes: at most so much for the residual streams; 0: none. */
ss_status ss_loss_create(ss_loss **out, const ss_model *model, const ss_windows *windows, size_t cache_bytes,
                         const ss_host *host, ss_error *err);
void ss_loss_free(ss_loss *loss);

/* Makes `mask` the base, unless it is: recomputes from the first layer where it differs from the former one. */
ss_status ss_loss_set_base(ss_loss *loss, const ss_mask *mask, ss_error *err);
/* Mean NLL in nats per scored token. The same bits with and without a base. */
ss_status ss_loss_of(ss_loss *loss, const ss_mask *mask, double *nll, ss_error *err);

/* Block influence (ShortGPT, arXiv 2403.03853): scores[n_blocks], of each block 1 less the mean cosine of the residual
 * stream before and after it, over all tokens, with every block running. */
ss_status ss_loss_influence(ss_loss *loss, double *scores, ss_error *err);

typedef struct ss_loss_work {
  uint64_t block_tokens, head_tokens; /* tokens that went through a block (one each), and through the head */
} ss_loss_work;
ss_loss_work ss_loss_work_done(const ss_loss *loss);

/* For each row i of n: nll[i] = -log softmax(logits)[targets[i]], and with dense logits kl[i] = KL(dense || logits) in nats.
 * Rows are [n][stride], n_vocab used. scratch: [host->n_threads][stride] floats. kl and dense may be NULL. */
void ss_score_rows(double *nll, double *kl, const float *logits, const float *dense, const int32_t *targets, size_t n,
                   size_t n_vocab, size_t stride, float *scratch, const ss_model *model, const ss_host *host);

/* ---- intervals ---- */

typedef struct ss_estimate {
  double value, low, high; /* low to high: 95 % of the resamples */
} ss_estimate;

/* The mean over strata of sum(sums) / sum(weights) within each, and its percentile bootstrap interval (Efron 1979) from
 * resampling the n items within their stratum. Paired when the sums are differences. Every stratum has an item. */
ss_status ss_bootstrap(ss_estimate *out, const double *sums, const double *weights, const uint32_t *strata, uint32_t n,
                       uint32_t n_strata, uint32_t resamples, uint64_t seed, const ss_host *host, ss_error *err);

/* The ratio of two such means, that of a over that of b, resampled together. Where the mean of b can be near 0 the interval
 * says little. */
ss_status ss_bootstrap_ratio(ss_estimate *out, const double *a, const double *b, const double *weights,
                             const uint32_t *strata, uint32_t n, uint32_t n_strata, uint32_t resamples, uint64_t seed,
                             const ss_host *host, ss_error *err);

/* ---- budgets ---- */

/* The blocks' MACs in units, the greatest common divisor of them: what a mask skips is counted in these. */
typedef struct ss_budget {
  uint32_t *costs; /* [n_blocks] in units */
  uint8_t *reachable; /* [total + 1] scratch: sums that can be made */
  uint64_t unit, total; /* MACs of a unit; units of all blocks */
  uint32_t n_blocks;
} ss_budget;

/* costs[n_blocks] in MACs, none 0. SS_E_UNSUPPORTED: more than 2^24 units. */
ss_status ss_budget_create(ss_budget *out, const uint64_t *costs, uint32_t n_blocks, const ss_host *host,
                           ss_error *err);
void ss_budget_free(ss_budget *budget, const ss_host *host);

uint64_t ss_budget_skipped(const ss_budget *budget, const ss_mask *mask); /* units */
/* A level's budget for masks within `mask`: of the sums that its blocks can make on top of what it skips, the nearest to the
 * level's share of all units; halves go up: 7.5 units mean 8. */
uint64_t ss_budget_target(ss_budget *budget, const ss_mask *mask, double level);
/* fits[n_blocks]: which blocks of `from` may be the next, so that exactly `left` units can still be made of `from`. */
void ss_budget_fitting(ss_budget *budget, const ss_mask *from, uint64_t left, bool *fits);
/* Moves random blocks of exactly `left` units out of `from` and into `taken`. False: no such sum, with some moved. */
bool ss_budget_draw(ss_budget *budget, ss_mask *from, uint64_t left, ss_mask *taken, ss_rng *rng);
/* Skips the blocks with the least score per unit until the mask skips `units`, a target of it. Ties: the lower block. */
void ss_budget_fill(ss_budget *budget, ss_mask *mask, const double *scores, uint64_t units);

/* ---- greedy removal ---- */

/* The loss of `mask`; base is the mask that it differs from in one block, so that a cache can be kept. */
typedef ss_status ss_greedy_loss(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err);
/* Called after each loss, for progress and to stop: false ends the search with SS_E_STATE "stopped". */
typedef struct ss_greedy_progress {
  uint32_t level, n_levels; /* the level that is being filled; n_levels once done */
  uint32_t n_losses, n_removed;
  uint64_t units, target; /* skipped so far, and wanted at the deepest level */
  double loss, dense_loss; /* of the mask so far */
} ss_greedy_progress;
typedef bool ss_greedy_watch(void *ctx, const ss_greedy_progress *progress);

typedef struct ss_greedy_options {
  uint32_t n_blocks;
  const uint64_t *costs; /* [n_blocks] MACs of each block */
  const double *levels; /* [n_levels] shares of all MACs to skip, ascending, in (0, 1) */
  uint32_t n_levels;
  ss_greedy_loss *loss;
  ss_greedy_watch *watch; /* may be NULL */
  void *ctx;
  bool leave_one_out; /* masks from leave-one-out scores alone: no loss is taken again */
} ss_greedy_options;

typedef struct ss_greedy_result {
  ss_mask *masks; /* [n_levels] each within the one before */
  double *losses; /* [n_levels] */
  uint64_t *units; /* [n_levels] skipped, in units */
  double *scores; /* [n_blocks] leave-one-out: loss without that block less the dense loss */
  uint32_t *order; /* [n_removed] blocks in the order of their removal */
  uint32_t n_removed, n_losses, n_levels, n_blocks;
  uint64_t unit, units_total; /* MACs of a unit: the greatest common divisor of the costs */
  double dense_loss;
} ss_greedy_result;

/* Removes block after block, each time the one that adds the least loss per MAC, until each level's budget is met exactly
 * (of the sums that blocks can make, the nearest to the level's share; halves go up: 7.5 units mean 8). Lazy (Minoux
 * 1978): a block's last score is taken for a lower bound, since the harm of a removal grows with what is already gone;
 * only blocks that could still be best are measured again. */
ss_status ss_greedy(ss_greedy_result *out, const ss_greedy_options *options, const ss_host *host, ss_error *err);
void ss_greedy_free(ss_greedy_result *result, const ss_host *host);

/* ---- evolution ---- */

/* A random mask that skips exactly `units`. False: no blocks have that sum. */
bool ss_mask_random(ss_mask *mask, ss_budget *budget, uint64_t units, ss_rng *rng);

/* The loss of `mask` at a stage of the selection: the first has the least text, the last all of it. base: the parent. */
typedef ss_status ss_evolution_loss(void *ctx, uint32_t stage, const ss_mask *mask, const ss_mask *base, double *loss,
                                    ss_error *err);
typedef struct ss_evolution_progress {
  uint32_t generation, generations, n_losses;
  double loss; /* of the parent */
} ss_evolution_progress;
/* Called before each loss: false ends the search with SS_E_STATE "stopped". */
typedef bool ss_evolution_watch(void *ctx, const ss_evolution_progress *progress);

typedef struct ss_evolution_options {
  ss_budget *budget;
  uint64_t units; /* that every mask skips, exactly */
  const ss_mask *start; /* the first parent; NULL: the best of `offspring` random masks */
  uint32_t generations, offspring;
  const uint32_t *survivors; /* [n_stages - 1] how many go on from each stage but the last, which leaves one */
  uint32_t n_stages;
  uint64_t seed;
  ss_evolution_loss *loss;
  ss_evolution_watch *watch; /* may be NULL */
  void *ctx;
} ss_evolution_options;

typedef struct ss_evolution_result {
  ss_mask mask;
  double loss, first_loss; /* of mask and of the first parent, on all text */
  uint32_t n_losses, n_improved; /* losses of all stages; generations that beat their parent */
} ss_evolution_result;

/* EvoPress (arXiv 2410.14649): each generation makes offspring of one parent by level switches (a block changes sides, others
 * of the same cost change back), selects them in stages, and takes the best if it beats the parent on all text. At most
 * (generations + 1) * (offspring + the survivors' sum) losses. */
ss_status ss_evolution(ss_evolution_result *out, const ss_evolution_options *options, const ss_host *host,
                       ss_error *err);

/* ---- writing a bank ---- */

typedef struct ss_bank_parts { /* what the file holds; see route/bank.c. Texts may be NULL: left out */
  uint32_t n_clusters, n_levels, n_layers, dim;
  const float *levels; /* [n_levels] */
  const float *centroids; /* [n_clusters][dim] */
  const ss_mask *masks; /* [n_levels][n_clusters + 1] */
  const ss_recovery *const *recoveries; /* [n_levels][n_clusters + 1] of each mask; may be NULL, as may each */
  const float *losses; /* [n_levels][n_clusters + 1], may be NULL */
  const float *dense_losses; /* [n_clusters + 1], may be NULL */
  const uint32_t *sizes; /* [n_clusters], may be NULL */
  const ss_text *examples; /* [n_clusters], may be NULL */
  ss_fingerprint model, encoder;
  const char *name, *model_name, *encoder_kind, *encoder_name, *method, *training, *provenance;
} ss_bank_parts;

/* The nearest f16, halves to even; beyond its range the largest finite one. NaN stays NaN. */
uint16_t ss_half_of_float(float x);

/* The bank file's bytes, *n of them. Of a recovery, gains are written when every block that runs and the output norm have
 * them, and none otherwise; scales when one is not 1; stand-ins when a skipped block has one, 0 for those that have none.
 * Its numbers become f16 (ss_half_of_float). To be freed with ss_host_free(host, *out, *n). */
ss_status ss_bank_write(uint8_t **out, size_t *n, const ss_bank_parts *parts, const ss_host *host, ss_error *err);

#endif
