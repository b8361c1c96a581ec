/* Greedy removal of blocks by loss per MAC, lazily. It knows nothing of models: losses come from a callback, so that the
 * caller can cache them, store them for a restart, and be tested with losses of its own. */
#include "train/train.h"

typedef struct search {
  const ss_greedy_options *options;
  ss_greedy_result *result;
  ss_error *err;
  ss_mask mask; /* so far */
  double loss; /* of mask */
  uint64_t units; /* skipped so far */
  uint32_t level;
  double scores[SS_MAX_BLOCKS]; /* last known loss increase of removing the block */
  uint32_t age[SS_MAX_BLOCKS]; /* how many blocks were gone when that was measured */
  ss_budget budget;
} search;

/* ---- losses ---- */

static ss_status measure(search *s, const ss_mask *mask, const ss_mask *base, double *loss) {
  const ss_greedy_options *o = s->options;
  const ss_status status = o->loss(o->ctx, mask, base, loss, s->err);
  if (status != SS_OK) return status;
  if (!(*loss >= 0.0 || *loss < 0.0)) return ss_fail(s->err, SS_E_FORMAT, "greedy: a loss is not a number");
  s->result->n_losses++;
  const ss_greedy_progress progress = {.level = s->level,
                                       .n_levels = o->n_levels,
                                       .n_losses = s->result->n_losses,
                                       .n_removed = s->result->n_removed,
                                       .units = s->units,
                                       .target = s->result->units[o->n_levels - 1],
                                       .loss = s->loss,
                                       .dense_loss = s->result->dense_loss};
  if (o->watch && !o->watch(o->ctx, &progress)) return ss_fail(s->err, SS_E_STATE, "stopped");
  return SS_OK;
}

/* The loss without block b as well; s->scores and s->age know it from then on. */
static ss_status score_block(search *s, uint32_t b) {
  ss_mask candidate = s->mask;
  double loss;
  ss_mask_set(&candidate, b, false);
  const ss_status status = measure(s, &candidate, &s->mask, &loss);
  if (status != SS_OK) return status;
  s->scores[b] = loss - s->loss;
  s->age[b] = s->result->n_removed;
  return SS_OK;
}

/* ---- the search ---- */

/* Of the blocks that may go, the one with the least score per unit; ties go to the lower block. */
static uint32_t most_promising(const search *s, const bool *may_go) {
  uint32_t best = UINT32_MAX;
  for (uint32_t b = 0; b < s->options->n_blocks; b++) {
    if (!may_go[b]) continue;
    if (best == UINT32_MAX || s->scores[b] / s->budget.costs[b] < s->scores[best] / s->budget.costs[best]) best = b;
  }
  return best;
}

static ss_status remove_one(search *s, uint64_t left) {
  const ss_greedy_options *o = s->options;
  bool may_go[SS_MAX_BLOCKS];
  uint32_t best;
  ss_budget_fitting(&s->budget, &s->mask, left, may_go);
  for (;;) {
    best = most_promising(s, may_go);
    if (best == UINT32_MAX) return ss_fail(s->err, SS_E_ARGUMENT, "greedy: no block fits the rest of the budget");
    if (o->leave_one_out || s->age[best] == s->result->n_removed) break;
    const ss_status status = score_block(s, best);
    if (status != SS_OK) return status;
  }
  ss_mask_set(&s->mask, best, false);
  s->loss += s->scores[best];
  s->units += s->budget.costs[best];
  s->result->order[s->result->n_removed++] = best;
  return SS_OK;
}

static ss_status search_levels(search *s) {
  const ss_greedy_options *o = s->options;
  ss_greedy_result *r = s->result;
  ss_mask_fill(&s->mask, o->n_blocks);
  for (uint32_t i = 0; i < o->n_levels; i++) r->units[i] = ss_budget_target(&s->budget, &s->mask, o->levels[i]);
  ss_status status = measure(s, &s->mask, &s->mask, &r->dense_loss);
  s->loss = r->dense_loss;
  for (uint32_t b = 0; status == SS_OK && b < o->n_blocks; b++) {
    status = score_block(s, b);
    r->scores[b] = s->scores[b];
  }
  for (s->level = 0; status == SS_OK && s->level < o->n_levels; s->level++) {
    r->units[s->level] = ss_budget_target(&s->budget, &s->mask, o->levels[s->level]);
    while (status == SS_OK && s->units < r->units[s->level]) status = remove_one(s, r->units[s->level] - s->units);
    if (status == SS_OK && o->leave_one_out) status = measure(s, &s->mask, &s->mask, &s->loss);
    r->masks[s->level] = s->mask;
    r->losses[s->level] = s->loss;
  }
  return status;
}

static ss_status check_levels(const ss_greedy_options *o, ss_error *err) {
  if (o->n_levels < 1) return ss_fail(err, SS_E_ARGUMENT, "greedy: no levels");
  for (uint32_t i = 0; i < o->n_levels; i++)
    if (!(o->levels[i] > (i ? o->levels[i - 1] : 0.0) && o->levels[i] < 1.0))
      return ss_fail(err, SS_E_ARGUMENT, "greedy: level %u is not between the one before and 1", i);
  return SS_OK;
}

void ss_greedy_free(ss_greedy_result *r, const ss_host *host) {
  ss_host_free(host, r->masks, r->n_levels * sizeof *r->masks);
  ss_host_free(host, r->losses, r->n_levels * sizeof *r->losses);
  ss_host_free(host, r->units, r->n_levels * sizeof *r->units);
  ss_host_free(host, r->scores, r->n_blocks * sizeof *r->scores);
  ss_host_free(host, r->order, r->n_blocks * sizeof *r->order);
  *r = (ss_greedy_result){0};
}

ss_status ss_greedy(ss_greedy_result *out, const ss_greedy_options *options, const ss_host *host, ss_error *err) {
  const uint32_t n_blocks = options->n_blocks, n_levels = options->n_levels;
  search s = {.options = options, .result = out, .err = err};
  *out = (ss_greedy_result){0};
  ss_status status = check_levels(options, err);
  if (status == SS_OK) status = ss_budget_create(&s.budget, options->costs, n_blocks, host, err);
  if (status != SS_OK) return status;
  *out = (ss_greedy_result){
      .n_levels = n_levels, .n_blocks = n_blocks, .unit = s.budget.unit, .units_total = s.budget.total};
  out->masks = ss_host_alloc(host, n_levels * sizeof *out->masks);
  out->losses = ss_host_alloc(host, n_levels * sizeof *out->losses);
  out->units = ss_host_alloc(host, n_levels * sizeof *out->units);
  out->scores = ss_host_alloc(host, n_blocks * sizeof *out->scores);
  out->order = ss_host_alloc(host, n_blocks * sizeof *out->order);
  if (out->masks && out->losses && out->units && out->scores && out->order) status = search_levels(&s);
  else status = ss_fail(err, SS_E_MEMORY, "greedy: the host refused memory for %u blocks", n_blocks);
  ss_budget_free(&s.budget, host);
  if (status != SS_OK) ss_greedy_free(out, host);
  return status;
}
