/* Evolutionary search over masks of one exact budget, after EvoPress (Sieberling et al. 2024, arXiv 2410.14649): one parent,
 * offspring by level switches, selection in stages on more and more text, and the parent stays unless an offspring beats
 * it on all of it. Losses come from a callback, as in greedy.c. */
#include <math.h>

#include "train/train.h"

#define TRIES 64 /* for an offspring that is new */

typedef struct candidate {
  ss_mask mask;
  double loss; /* at the last stage that it was measured in */
} candidate;

typedef struct search {
  const ss_evolution_options *options;
  ss_evolution_result *result;
  ss_error *err;
  ss_rng rng;
  candidate *candidates; /* [offspring] */
  uint32_t n, generation;
} search;

/* ---- making masks ---- */

static ss_mask skipped_of(const ss_budget *b, const ss_mask *mask) {
  ss_mask skipped;
  ss_mask_fill(&skipped, b->n_blocks);
  for (uint32_t i = 0; i < b->n_blocks; i++)
    if (ss_mask_has(mask, i)) ss_mask_set(&skipped, i, false);
  return skipped;
}

static uint32_t draw_block(const ss_budget *b, const ss_mask *from, ss_rng *rng) {
  uint64_t at = ss_rng_below(rng, ss_mask_count(from, b->n_blocks));
  uint32_t block = 0;
  while (!ss_mask_has(from, block) || at-- > 0) block++;
  return block;
}

/* One block changes sides, and others of the same cost change to the other side. False: none can. */
static bool switch_levels(const search *s, ss_mask *runs, ss_rng *rng) {
  ss_budget *b = s->options->budget;
  for (int i = 0; i < TRIES; i++) {
    ss_mask here = *runs, there = skipped_of(b, runs);
    const bool restore = ss_rng_below(rng, 2);
    ss_mask *giver = restore ? &there : &here, *taker = restore ? &here : &there, rest = *taker;
    if (!ss_mask_count(giver, b->n_blocks)) continue;
    const uint32_t block = draw_block(b, giver, rng);
    ss_mask_set(giver, block, false);
    if (!ss_budget_draw(b, &rest, b->costs[block], giver, rng)) continue;
    *taker = rest;
    ss_mask_set(taker, block, true);
    *runs = here;
    return true;
  }
  return false;
}

static bool is_new(const search *s, const ss_mask *mask) {
  if (!memcmp(mask, &s->result->mask, sizeof *mask)) return false;
  for (uint32_t i = 0; i < s->n; i++)
    if (!memcmp(mask, &s->candidates[i].mask, sizeof *mask)) return false;
  return true;
}

static void make_offspring(search *s) {
  s->n = 0;
  for (uint32_t tries = 0; s->n < s->options->offspring && tries < TRIES * s->options->offspring; tries++) {
    const uint64_t a = ss_rng_below(&s->rng, 3), b = ss_rng_below(&s->rng, 3); /* mostly one switch, at most three */
    ss_mask mask = s->result->mask;
    bool made = true;
    for (uint64_t i = 0; made && i <= (a < b ? a : b); i++) made = switch_levels(s, &mask, &s->rng);
    if (made && is_new(s, &mask)) s->candidates[s->n++].mask = mask;
  }
}

bool ss_mask_random(ss_mask *mask, ss_budget *budget, uint64_t units, ss_rng *rng) {
  ss_mask skipped = {0};
  ss_mask_fill(mask, budget->n_blocks);
  return ss_budget_draw(budget, mask, units, &skipped, rng);
}

/* ---- selection ---- */

static ss_status measure(search *s, uint32_t stage, candidate *c) {
  const ss_evolution_options *o = s->options;
  const ss_evolution_progress progress = {s->generation, o->generations, s->result->n_losses, s->result->loss};
  if (o->watch && !o->watch(o->ctx, &progress)) return ss_fail(s->err, SS_E_STATE, "stopped");
  const ss_status status = o->loss(o->ctx, stage, &c->mask, &s->result->mask, &c->loss, s->err);
  s->result->n_losses++;
  if (status == SS_OK && isnan(c->loss)) return ss_fail(s->err, SS_E_FORMAT, "evolution: a loss is not a number");
  return status;
}

/* Measures all candidates at every stage and keeps the best of each; the last one leaves one. */
static ss_status select_best(search *s) {
  const ss_evolution_options *o = s->options;
  ss_status status = SS_OK;
  for (uint32_t stage = 0; status == SS_OK && stage < o->n_stages; stage++) {
    for (uint32_t i = 0; status == SS_OK && i < s->n; i++) {
      status = measure(s, stage, &s->candidates[i]);
      for (uint32_t k = i; status == SS_OK && k > 0 && s->candidates[k].loss < s->candidates[k - 1].loss; k--) {
        const candidate better = s->candidates[k];
        s->candidates[k] = s->candidates[k - 1];
        s->candidates[k - 1] = better;
      }
    }
    s->n = (uint32_t)ss_min(s->n, stage + 1 < o->n_stages ? o->survivors[stage] : 1);
  }
  return status;
}

static ss_status first_parent(search *s) {
  const ss_evolution_options *o = s->options;
  ss_mask_fill(&s->result->mask, o->budget->n_blocks);
  s->n = 1;
  if (o->start) {
    if (ss_budget_skipped(o->budget, o->start) != o->units)
      return ss_fail(s->err, SS_E_ARGUMENT, "evolution: the first mask skips %llu units, want %llu",
                     (unsigned long long)ss_budget_skipped(o->budget, o->start), (unsigned long long)o->units);
    s->candidates[0].mask = *o->start;
  } else {
    for (s->n = 0; s->n < o->offspring; s->n++)
      if (!ss_mask_random(&s->candidates[s->n].mask, o->budget, o->units, &s->rng))
        return ss_fail(s->err, SS_E_ARGUMENT, "evolution: no blocks have %llu units", (unsigned long long)o->units);
  }
  const ss_status status = select_best(s);
  s->result->mask = s->candidates[0].mask;
  s->result->loss = s->result->first_loss = s->candidates[0].loss;
  return status;
}

ss_status ss_evolution(ss_evolution_result *out, const ss_evolution_options *o, const ss_host *host, ss_error *err) {
  *out = (ss_evolution_result){0};
  if (o->n_stages < 1 || o->offspring < 1) return ss_fail(err, SS_E_ARGUMENT, "evolution: no stages or no offspring");
  search s = {.options = o, .result = out, .err = err, .rng = ss_rng_seed(o->seed)};
  s.candidates = ss_host_alloc(host, o->offspring * sizeof *s.candidates);
  if (!s.candidates)
    return ss_fail(err, SS_E_MEMORY, "evolution: the host refused memory for %u offspring", o->offspring);
  ss_status status = first_parent(&s);
  for (s.generation = 0; status == SS_OK && s.generation < o->generations; s.generation++) {
    make_offspring(&s);
    if (s.n == 0) break; /* the budget leaves no choice */
    status = select_best(&s);
    if (status == SS_OK && s.candidates[0].loss < out->loss) {
      out->mask = s.candidates[0].mask;
      out->loss = s.candidates[0].loss;
      out->n_improved++;
    }
  }
  ss_host_free(host, s.candidates, o->offspring * sizeof *s.candidates);
  return status;
}
