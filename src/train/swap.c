/* Local search at equal MACs; mask_train.h says which swaps. Like greedy.c it knows nothing of models: losses come from a
 * callback. */
#include "train/mask_train.h"

#include <math.h>

#define MOST_TOGETHER 8
#define MAX_LOSSES 400

typedef struct swap {
  uint32_t out[MOST_TOGETHER], in[MOST_TOGETHER]; /* blocks that stop running, and that start to */
  uint32_t n_out, n_in;
  double promise; /* what the loss would change by if blocks did not depend on each other */
} swap;

typedef struct search {
  const ss_swap_options *o;
  ss_error *err;
  ss_swap_result result;
  ss_mask mask;
  double *harm; /* [n_blocks] how much the loss is lower with the block than without it */
  uint32_t max_losses;
} search;

static bool spent(const search *s) { return s->result.n_losses >= s->max_losses; }

static ss_status measure(search *s, const ss_mask *mask, double *loss) {
  const ss_status status = s->o->loss(s->o->ctx, mask, &s->mask, loss, s->err);
  if (status != SS_OK) return status;
  if (!(*loss >= 0.0 || *loss < 0.0)) return ss_fail(s->err, SS_E_FORMAT, "swap: a loss is not a number");
  s->result.n_losses++;
  const ss_swap_progress progress = {s->result.n_losses, s->max_losses, s->result.n_swaps, s->result.first_loss,
                                     s->result.loss};
  if (s->o->watch && !s->o->watch(s->o->ctx, &progress)) return ss_fail(s->err, SS_E_STATE, "stopped");
  return SS_OK;
}

static ss_status measure_blocks(search *s) {
  for (uint32_t b = 0; b < s->o->budget->n_blocks && !spent(s); b++) {
    const bool runs = ss_mask_has(&s->mask, b);
    ss_mask candidate = s->mask;
    double loss;
    ss_mask_set(&candidate, b, !runs);
    const ss_status status = measure(s, &candidate, &loss);
    if (status != SS_OK) return status;
    s->harm[b] = runs ? loss - s->result.loss : s->result.loss - loss;
  }
  return SS_OK;
}

/* ---- candidates ---- */

/* The n blocks of `cost` on the given side with the least harm (runs) or the most (else): false when there are too few. */
static bool extreme_blocks(const search *s, bool run, uint32_t cost, uint32_t n, uint32_t *blocks, double *sum) {
  ss_mask taken = {0};
  *sum = 0.0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t best = UINT32_MAX;
    for (uint32_t b = 0; b < s->o->budget->n_blocks; b++) {
      if (ss_mask_has(&s->mask, b) != run || s->o->budget->costs[b] != cost || ss_mask_has(&taken, b)) continue;
      if (best == UINT32_MAX || (run ? s->harm[b] < s->harm[best] : s->harm[b] > s->harm[best])) best = b;
    }
    if (best == UINT32_MAX) return false;
    ss_mask_set(&taken, best, true);
    blocks[i] = best;
    *sum += s->harm[best];
  }
  return true;
}

/* Keeps it if it is among the SS_SWAP_TRIES most promising; the list is sorted. */
static void offer(swap *list, uint32_t *n, const swap *candidate) {
  uint32_t at = *n;
  while (at > 0 && list[at - 1].promise > candidate->promise) at--;
  if (at == SS_SWAP_TRIES) return;
  if (*n < SS_SWAP_TRIES) (*n)++;
  memmove(list + at + 1, list + at, (*n - 1 - at) * sizeof *list);
  list[at] = *candidate;
}

static uint32_t find_swaps(const search *s, swap *list) {
  const ss_budget *budget = s->o->budget;
  uint32_t n = 0;
  for (uint32_t a = 0; a < budget->n_blocks; a++) {
    const bool runs = ss_mask_has(&s->mask, a);
    for (uint32_t b = 0; !runs && b < budget->n_blocks; b++) { /* a starts and b stops */
      if (!ss_mask_has(&s->mask, b) || budget->costs[a] != budget->costs[b]) continue;
      offer(list, &n, &(swap){.out = {b}, .in = {a}, .n_out = 1, .n_in = 1, .promise = s->harm[b] - s->harm[a]});
    }
    for (uint32_t b = 0; b < budget->n_blocks; b++) { /* a against several that cost what b does */
      const uint32_t each = budget->costs[b], together = budget->costs[a] / each;
      bool seen = together < 2 || together > MOST_TOGETHER || budget->costs[a] % each;
      for (uint32_t c = 0; c < b; c++) seen = seen || budget->costs[c] == each;
      swap several = {.n_out = 1, .n_in = 1};
      double sum;
      if (seen || !extreme_blocks(s, !runs, each, together, runs ? several.in : several.out, &sum)) continue;
      *(runs ? several.out : several.in) = a;
      *(runs ? &several.n_in : &several.n_out) = together;
      several.promise = runs ? s->harm[a] - sum : sum - s->harm[a];
      offer(list, &n, &several);
    }
  }
  return n;
}

static void apply(ss_mask *mask, const swap *w) {
  for (uint32_t i = 0; i < w->n_out; i++) ss_mask_set(mask, w->out[i], false);
  for (uint32_t i = 0; i < w->n_in; i++) ss_mask_set(mask, w->in[i], true);
}

/* ---- the search ---- */

double ss_loss_margin(size_t n_tokens) { return n_tokens ? 2.0 * 0.35 / sqrt((double)n_tokens) : 0.0; }

/* Tries the most promising swaps; after one that helps, those that look best then. *swapped: something helped. */
static ss_status try_swaps(search *s, bool *swapped) {
  swap list[SS_SWAP_TRIES];
  uint32_t n = find_swaps(s, list);
  *swapped = false;
  for (uint32_t i = 0; i < n && !spent(s); i++) {
    ss_mask candidate = s->mask;
    double loss;
    apply(&candidate, &list[i]);
    const ss_status status = measure(s, &candidate, &loss);
    if (status != SS_OK) return status;
    if (!(loss < s->result.loss - s->o->margin)) continue;
    s->mask = candidate;
    s->result.loss = loss;
    s->result.n_swaps++;
    *swapped = true;
    n = find_swaps(s, list); /* harms as they were measured: about right still */
    i = UINT32_MAX;
  }
  return SS_OK;
}

ss_status ss_swap_search(ss_mask *mask, ss_swap_result *out, const ss_swap_options *o, const ss_host *host,
                         ss_error *err) {
  search s = {.o = o, .err = err, .mask = *mask, .max_losses = o->max_losses ? o->max_losses : MAX_LOSSES};
  const size_t bytes = o->budget->n_blocks * sizeof *s.harm;
  *out = (ss_swap_result){0};
  s.harm = ss_host_alloc(host, bytes);
  if (!s.harm) return ss_fail(err, SS_E_MEMORY, "swap: the host refused %zu bytes", bytes);
  double first;
  ss_status status = measure(&s, &s.mask, &first);
  s.result.first_loss = s.result.loss = first;
  bool swapped = true;
  if (status == SS_OK && o->scores) {
    memcpy(s.harm, o->scores, bytes);
    status = try_swaps(&s, &swapped);
    swapped = true; /* the blocks' own losses may say more */
  }
  while (status == SS_OK && swapped && s.max_losses - s.result.n_losses > (o->scores ? o->budget->n_blocks : 0)) {
    status = measure_blocks(&s);
    if (status == SS_OK) status = try_swaps(&s, &swapped);
  }
  ss_host_free(host, s.harm, bytes);
  if (status != SS_OK) return status;
  *mask = s.mask;
  *out = s.result;
  return SS_OK;
}
