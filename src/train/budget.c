/* Blocks in units, and which sums of them can be made: every method skips exactly the same share. */
#include "train/train.h"

#define MAX_UNITS ((uint64_t)1 << 24)

static uint64_t greatest_divisor(uint64_t a, uint64_t b) {
  while (b) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

ss_status ss_budget_create(ss_budget *out, const uint64_t *costs, uint32_t n_blocks, const ss_host *host,
                           ss_error *err) {
  uint64_t unit = 0, total = 0;
  *out = (ss_budget){0};
  if (n_blocks < 1 || n_blocks > SS_MAX_BLOCKS) return ss_fail(err, SS_E_ARGUMENT, "budget: %u blocks", n_blocks);
  for (uint32_t b = 0; b < n_blocks; b++) {
    if (costs[b] == 0) return ss_fail(err, SS_E_ARGUMENT, "budget: block %u costs nothing", b);
    unit = greatest_divisor(unit, costs[b]);
    total += costs[b];
  }
  total /= unit;
  if (total > MAX_UNITS)
    return ss_fail(err, SS_E_UNSUPPORTED, "budget: the blocks' costs have no common unit: %llu of them",
                   (unsigned long long)total);
  *out = (ss_budget){.n_blocks = n_blocks, .unit = unit, .total = total};
  out->costs = ss_host_alloc(host, n_blocks * sizeof *out->costs);
  out->reachable = ss_host_alloc(host, total + 1);
  if (!out->costs || !out->reachable) {
    ss_budget_free(out, host);
    return ss_fail(err, SS_E_MEMORY, "budget: the host refused memory for %llu units", (unsigned long long)total);
  }
  for (uint32_t b = 0; b < n_blocks; b++) out->costs[b] = (uint32_t)(costs[b] / unit);
  return SS_OK;
}

void ss_budget_free(ss_budget *b, const ss_host *host) {
  ss_host_free(host, b->costs, b->n_blocks * sizeof *b->costs);
  ss_host_free(host, b->reachable, b->total + 1);
  *b = (ss_budget){0};
}

uint64_t ss_budget_skipped(const ss_budget *b, const ss_mask *mask) {
  uint64_t units = 0;
  for (uint32_t i = 0; i < b->n_blocks; i++) units += ss_mask_has(mask, i) ? 0 : b->costs[i];
  return units;
}

/* Marks every sum up to `limit` that blocks of `from` can make, without block `without`. */
static void mark_reachable(ss_budget *b, const ss_mask *from, uint64_t limit, uint32_t without) {
  memset(b->reachable, 0, limit + 1);
  b->reachable[0] = 1;
  uint64_t highest = 0;
  for (uint32_t i = 0; i < b->n_blocks; i++) {
    if (i == without || !ss_mask_has(from, i)) continue;
    const uint64_t cost = b->costs[i];
    highest = highest + cost < limit ? highest + cost : limit;
    for (uint64_t sum = highest; sum >= cost; sum--)
      if (b->reachable[sum - cost]) b->reachable[sum] = 1;
  }
}

uint64_t ss_budget_target(ss_budget *b, const ss_mask *mask, double level) {
  const uint64_t skipped = ss_budget_skipped(b, mask), rest = b->total - skipped;
  const double want = level * (double)b->total - (double)skipped;
  if (want <= 0.0) return skipped;
  mark_reachable(b, mask, rest, UINT32_MAX);
  uint64_t up = (uint64_t)want, down = up;
  while (up < rest && (!b->reachable[up] || (double)up < want - 1e-9)) up++;
  while (down > 0 && !b->reachable[down]) down--;
  return skipped + (!b->reachable[up] || want - (double)down < (double)up - want - 1e-9 ? down : up);
}

void ss_budget_fitting(ss_budget *b, const ss_mask *from, uint64_t left, bool *fits) {
  uint32_t last_cost = 0; /* fitting depends on a block only by its cost */
  bool last_fits = false;
  for (uint32_t i = 0; i < b->n_blocks; i++) {
    fits[i] = false;
    if (!ss_mask_has(from, i)) continue;
    if (b->costs[i] != last_cost) {
      last_cost = b->costs[i];
      last_fits = false;
      if (last_cost <= left) {
        mark_reachable(b, from, left, i);
        last_fits = b->reachable[left - last_cost] != 0;
      }
    }
    fits[i] = last_fits;
  }
}

bool ss_budget_draw(ss_budget *b, ss_mask *from, uint64_t left, ss_mask *taken, ss_rng *rng) {
  bool fits[SS_MAX_BLOCKS];
  while (left) {
    uint32_t n = 0, chosen;
    ss_budget_fitting(b, from, left, fits);
    for (uint32_t i = 0; i < b->n_blocks; i++) n += fits[i];
    if (n == 0) return false;
    uint64_t at = ss_rng_below(rng, n);
    for (chosen = 0; !fits[chosen] || at-- > 0; chosen++) {}
    ss_mask_set(from, chosen, false);
    ss_mask_set(taken, chosen, true);
    left -= b->costs[chosen];
  }
  return true;
}

void ss_budget_fill(ss_budget *b, ss_mask *mask, const double *scores, uint64_t units) {
  bool fits[SS_MAX_BLOCKS];
  for (uint64_t skipped = ss_budget_skipped(b, mask); skipped < units;) {
    uint32_t best = UINT32_MAX;
    ss_budget_fitting(b, mask, units - skipped, fits);
    for (uint32_t i = 0; i < b->n_blocks; i++)
      if (fits[i] && (best == UINT32_MAX || scores[i] / b->costs[i] < scores[best] / b->costs[best])) best = i;
    if (best == UINT32_MAX) return; /* units is no target of this mask */
    ss_mask_set(mask, best, false);
    skipped += b->costs[best];
  }
}
