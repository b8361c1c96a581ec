/* Greedy removal of blocks by loss per MAC, lazily. It knows nothing of models: losses come from a callback, so that the
 * caller can cache them, store them for a restart, and be tested with losses of its own. */
#include "train/train.h"

#define MAX_UNITS ((uint64_t)1 << 24)

typedef struct search {
  const ss_greedy_options *options;
  ss_greedy_result *result;
  ss_error *err;
  ss_mask mask; /* so far */
  double loss; /* of mask */
  uint64_t units; /* skipped so far */
  uint32_t level;
  double *scores; /* [n_blocks] last known loss increase of removing the block */
  uint32_t *age; /* [n_blocks] how many blocks were gone when that was measured */
  uint32_t *costs; /* [n_blocks] in units */
  uint8_t *reachable; /* [units_total + 1] sums that the blocks still there can make */
} search;

static uint64_t greatest_divisor(uint64_t a, uint64_t b) {
  while (b) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* ---- budgets ---- */

/* Marks every sum up to `limit` that blocks of mask can make, without block `without`. */
static void mark_reachable(search *s, uint64_t limit, uint32_t without) {
  memset(s->reachable, 0, limit + 1);
  s->reachable[0] = 1;
  uint64_t highest = 0;
  for (uint32_t b = 0; b < s->options->n_blocks; b++) {
    if (b == without || !ss_mask_has(&s->mask, b)) continue;
    const uint64_t cost = s->costs[b];
    highest = highest + cost < limit ? highest + cost : limit;
    for (uint64_t sum = highest; sum >= cost; sum--)
      if (s->reachable[sum - cost]) s->reachable[sum] = 1;
  }
}

/* A level's budget in units: of the sums that can still be made by what is there, on top of what is skipped, the nearest to
 * its share; of two, the larger. */
static uint64_t target_of(search *s, double level) {
  const uint64_t rest = s->result->units_total - s->units;
  const double want = level * (double)s->result->units_total - (double)s->units;
  if (want <= 0.0) return s->units;
  mark_reachable(s, rest, UINT32_MAX);
  uint64_t up = (uint64_t)want, down = up;
  while (up < rest && (!s->reachable[up] || (double)up < want - 1e-9)) up++;
  while (down > 0 && !s->reachable[down]) down--;
  return s->units + (!s->reachable[up] || want - (double)down < (double)up - want - 1e-9 ? down : up);
}

/* May block b go, so that the rest of the budget can still be met exactly? Depends on b only by its cost. */
static bool fits(search *s, uint32_t b, uint64_t left) {
  if (s->costs[b] > left) return false;
  mark_reachable(s, left, b);
  return s->reachable[left - s->costs[b]] != 0;
}

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
static uint32_t most_promising(const search *s, const uint8_t *may_go) {
  uint32_t best = UINT32_MAX;
  for (uint32_t b = 0; b < s->options->n_blocks; b++) {
    if (!may_go[b]) continue;
    if (best == UINT32_MAX || s->scores[b] / s->costs[b] < s->scores[best] / s->costs[best]) best = b;
  }
  return best;
}

static ss_status remove_one(search *s, uint64_t left, uint8_t *may_go) {
  const ss_greedy_options *o = s->options;
  uint32_t last_cost = 0, best;
  bool last_fits = false;
  for (uint32_t b = 0; b < o->n_blocks; b++) {
    may_go[b] = 0;
    if (!ss_mask_has(&s->mask, b)) continue;
    if (s->costs[b] != last_cost) last_fits = fits(s, b, left);
    last_cost = s->costs[b];
    may_go[b] = last_fits;
  }
  for (;;) {
    best = most_promising(s, may_go);
    if (best == UINT32_MAX) return ss_fail(s->err, SS_E_ARGUMENT, "greedy: no block fits the rest of the budget");
    if (o->leave_one_out || s->age[best] == s->result->n_removed) break;
    const ss_status status = score_block(s, best);
    if (status != SS_OK) return status;
  }
  ss_mask_set(&s->mask, best, false);
  s->loss += s->scores[best];
  s->units += s->costs[best];
  s->result->order[s->result->n_removed++] = best;
  return SS_OK;
}

static ss_status search_levels(search *s, uint8_t *may_go) {
  const ss_greedy_options *o = s->options;
  ss_greedy_result *r = s->result;
  ss_mask_fill(&s->mask, o->n_blocks);
  for (uint32_t i = 0; i < o->n_levels; i++) r->units[i] = target_of(s, o->levels[i]);
  ss_status status = measure(s, &s->mask, &s->mask, &r->dense_loss);
  s->loss = r->dense_loss;
  for (uint32_t b = 0; status == SS_OK && b < o->n_blocks; b++) {
    status = score_block(s, b);
    r->scores[b] = s->scores[b];
  }
  for (s->level = 0; status == SS_OK && s->level < o->n_levels; s->level++) {
    r->units[s->level] = target_of(s, o->levels[s->level]);
    while (status == SS_OK && s->units < r->units[s->level])
      status = remove_one(s, r->units[s->level] - s->units, may_go);
    if (status == SS_OK && o->leave_one_out) status = measure(s, &s->mask, &s->mask, &s->loss);
    r->masks[s->level] = s->mask;
    r->losses[s->level] = s->loss;
  }
  return status;
}

static ss_status check(const ss_greedy_options *o, uint64_t *unit, uint64_t *total, ss_error *err) {
  *unit = *total = 0;
  if (o->n_blocks < 1 || o->n_blocks > SS_MAX_BLOCKS || o->n_levels < 1)
    return ss_fail(err, SS_E_ARGUMENT, "greedy: %u blocks and %u levels", o->n_blocks, o->n_levels);
  for (uint32_t i = 0; i < o->n_levels; i++)
    if (!(o->levels[i] > (i ? o->levels[i - 1] : 0.0) && o->levels[i] < 1.0))
      return ss_fail(err, SS_E_ARGUMENT, "greedy: level %u is not between the one before and 1", i);
  for (uint32_t b = 0; b < o->n_blocks; b++) {
    if (o->costs[b] == 0) return ss_fail(err, SS_E_ARGUMENT, "greedy: block %u costs nothing", b);
    *unit = greatest_divisor(*unit, o->costs[b]);
    *total += o->costs[b];
  }
  *total /= *unit;
  if (*total > MAX_UNITS)
    return ss_fail(err, SS_E_UNSUPPORTED, "greedy: the blocks' costs have no common unit: %llu of them",
                   (unsigned long long)*total);
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

static void lay_out(ss_arena *a, search *s, uint8_t **may_go, uint64_t total) {
  const uint32_t n = s->options->n_blocks;
  s->scores = ss_carve(a, n, sizeof *s->scores);
  s->age = ss_carve(a, n, sizeof *s->age);
  s->costs = ss_carve(a, n, sizeof *s->costs);
  s->reachable = ss_carve(a, total + 1, 1);
  *may_go = ss_carve(a, n, 1);
}

ss_status ss_greedy(ss_greedy_result *out, const ss_greedy_options *options, const ss_host *host, ss_error *err) {
  const uint32_t n_blocks = options->n_blocks, n_levels = options->n_levels;
  uint64_t unit, total;
  *out = (ss_greedy_result){0};
  ss_status status = check(options, &unit, &total, err);
  if (status != SS_OK) return status;
  search s = {.options = options, .result = out, .err = err};
  uint8_t *may_go;
  ss_arena arena = {0};
  lay_out(&arena, &s, &may_go, total);
  const size_t bytes = arena.used;
  uint8_t *memory = ss_host_alloc(host, bytes);
  *out = (ss_greedy_result){.n_levels = n_levels, .n_blocks = n_blocks, .unit = unit, .units_total = total};
  out->masks = ss_host_alloc(host, n_levels * sizeof *out->masks);
  out->losses = ss_host_alloc(host, n_levels * sizeof *out->losses);
  out->units = ss_host_alloc(host, n_levels * sizeof *out->units);
  out->scores = ss_host_alloc(host, n_blocks * sizeof *out->scores);
  out->order = ss_host_alloc(host, n_blocks * sizeof *out->order);
  if (!memory || !out->masks || !out->losses || !out->units || !out->scores || !out->order)
    status = ss_fail(err, SS_E_MEMORY, "greedy: the host refused memory for %u blocks", n_blocks);
  if (status == SS_OK) {
    arena = (ss_arena){.base = memory};
    lay_out(&arena, &s, &may_go, total);
    for (uint32_t b = 0; b < n_blocks; b++) s.costs[b] = (uint32_t)(options->costs[b] / unit);
    status = search_levels(&s, may_go);
  }
  ss_host_free(host, memory, bytes);
  if (status != SS_OK) ss_greedy_free(out, host);
  return status;
}
