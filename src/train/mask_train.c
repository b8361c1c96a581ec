#include "train/mask_train.h"

#include <math.h>

#include "train/adam.h"
#include "train/gate.h"

#define CERTAINTY 0.75
#define SPREAD 0.75 /* of log alphas by rank, to each side */
#define MEAN_DECAY 0.9
#define RATE_WARM_UP 10.0 /* steps: the first gradients are mostly noise, and Adam would follow them at full speed */
#define L2_OF_L1 20.0 /* a gap of 1 % then pulls with 40 % of l1 */

/* ---- the start ---- */

static double cost_of_all(const ss_l0_options *o) {
  double total = 0.0;
  for (uint32_t b = 0; b < o->n_blocks; b++) total += (double)o->costs[b];
  return total;
}

static double within_limit(double a) { return fmax(-SS_GATE_LIMIT, fmin(SS_GATE_LIMIT, a)); }

/* Adds the same number to all log alphas, within the limit, so that the expected share is `share`. */
static void shift_to(double *a, const ss_l0_options *o, double share) {
  double shifted[SS_MAX_BLOCKS], low = -2.0 * SS_GATE_LIMIT, high = -low;
  for (int i = 0; i < 60; i++) {
    const double middle = (low + high) / 2.0;
    for (uint32_t b = 0; b < o->n_blocks; b++) shifted[b] = within_limit(a[b] + middle);
    if (ss_gates_skipped(shifted, o->costs, o->n_blocks, NULL) > share) low = middle;
    else high = middle;
  }
  memcpy(a, shifted, o->n_blocks * sizeof *a);
}

static ss_status check_options(const ss_l0_options *o, ss_error *err) {
  if (o->n_blocks < 1 || o->n_blocks > SS_MAX_BLOCKS) return ss_fail(err, SS_E_ARGUMENT, "L0: %u blocks", o->n_blocks);
  if (!(o->from >= 0.0 && o->from < 1.0 && o->to >= 0.0 && o->to < 1.0))
    return ss_fail(err, SS_E_ARGUMENT, "L0: a target share is not within 0 and 1");
  if (o->windows_per_step < 2 || o->windows_per_step % 2)
    return ss_fail(err, SS_E_ARGUMENT, "L0: %u windows a step, want an even number: they come in pairs",
                   o->windows_per_step);
  if (o->n_ranks > 1 && (o->rank >= o->n_ranks || !o->all_reduce))
    return ss_fail(err, SS_E_ARGUMENT, "L0: rank %u of %u%s", o->rank, o->n_ranks,
                   o->all_reduce ? "" : " without a way to add up");
  return SS_OK;
}

/* Where block b is among those on its side of the mask by harm per MAC, from -1 for the least to 1; 0 without scores. */
static double place_of(const ss_l0_options *o, const ss_mask *mask, const double *scores, uint32_t b) {
  uint32_t below = 0, others = 0;
  for (uint32_t i = 0; scores && i < o->n_blocks; i++) {
    if (i == b || ss_mask_has(mask, i) != ss_mask_has(mask, b)) continue;
    const double here = scores[i] / (double)o->costs[i], mine = scores[b] / (double)o->costs[b];
    others++;
    below += here < mine || (here == mine && i < b);
  }
  return others ? 2.0 * below / others - 1.0 : 0.0;
}

ss_status ss_l0_begin(ss_l0_state *s, const ss_l0_options *o, const ss_mask *mask, const double *scores,
                      double certainty, ss_error *err) {
  const ss_status status = check_options(o, err);
  if (status != SS_OK) return status;
  if (certainty == 0.0) certainty = CERTAINTY;
  if (!(certainty > 0.0 && certainty < 1.0)) return ss_fail(err, SS_E_ARGUMENT, "L0: a certainty outside of 0 to 1");
  *s = (ss_l0_state){.n_blocks = o->n_blocks, .rng = ss_rng_seed(o->seed)};
  const double side = -ss_gate_of_open(1.0 - certainty); /* P(z = 0) at -side, and P(z = 1) at side, is certainty */
  for (uint32_t b = 0; b < o->n_blocks; b++)
    s->log_alpha[b] = (ss_mask_has(mask, b) ? side : -side) + SPREAD * place_of(o, mask, scores, b);
  for (uint32_t b = 0; b < o->n_blocks; b++) s->log_alpha[b] = within_limit(s->log_alpha[b]);
  if (o->from > 0.0) shift_to(s->log_alpha, o, o->from);
  return SS_OK;
}

/* ---- a step's windows ---- */

/* which[n]: the next windows; order [n_windows] is scratch. Every epoch shuffles anew. */
static void draw_windows(ss_l0_state *s, uint64_t seed, uint32_t *which, uint32_t n, uint32_t *order,
                         uint32_t n_windows) {
  uint64_t shuffled = UINT64_MAX; /* the epoch that order is of */
  for (uint32_t i = 0; i < n; i++, s->drawn++) {
    const uint64_t epoch = s->drawn / n_windows;
    if (epoch != shuffled) {
      ss_rng rng = ss_rng_seed(seed ^ (epoch + 1) * UINT64_C(0x9e3779b97f4a7c15));
      for (uint32_t k = 0; k < n_windows; k++) order[k] = k;
      for (uint32_t k = n_windows; k-- > 1;) {
        const uint32_t j = (uint32_t)ss_rng_below(&rng, k + 1), chosen = order[j];
        order[j] = order[k];
        order[k] = chosen;
      }
      shuffled = epoch;
    }
    which[i] = order[s->drawn % n_windows];
  }
}

/* ---- a step ---- */

enum { SUM_NLL, SUM_KL, SUM_SCORED, SUM_TOKENS, SUM_SKIPPED, N_SUMS }; /* behind the gradients in sums */

typedef struct step {
  const ss_l0_options *o;
  ss_pass *pass;
  const ss_l0_data *data;
  ss_pass_shape shape;
  uint32_t *order, *which; /* [windows], [windows_per_step] of all machines */
  float *z, *slopes; /* [windows_per_step][n_blocks] */
  uint32_t *mine; /* [windows_per_step] which of `which` this machine takes */
  uint32_t n_mine;
  uint32_t *batch; /* [max_windows] */
  float *batch_z, *d_gates; /* [max_windows][n_blocks] */
  float *dense; /* [max_tokens][n_embd] */
  double sums[SS_MAX_BLOCKS + N_SUMS];
} step;

static void lay_out(ss_arena *a, step *s) {
  const size_t n = s->o->windows_per_step, B = s->o->n_blocks;
  s->order = ss_carve(a, s->data->windows->n, sizeof *s->order);
  s->which = ss_carve(a, n, sizeof *s->which);
  s->mine = ss_carve(a, n, sizeof *s->mine);
  s->z = ss_carve(a, n * B, sizeof *s->z);
  s->slopes = ss_carve(a, n * B, sizeof *s->slopes);
  s->batch = ss_carve(a, s->shape.max_windows, sizeof *s->batch);
  s->batch_z = ss_carve(a, s->shape.max_windows * B, sizeof *s->batch_z);
  s->d_gates = ss_carve(a, s->shape.max_windows * B, sizeof *s->d_gates);
  if (s->o->objective == SS_OBJECTIVE_KL)
    s->dense = ss_carve(a, (size_t)s->shape.max_tokens * s->shape.n_embd, sizeof *s->dense);
}

static uint32_t length_of(const ss_windows *w, uint32_t i) { return w->starts[i + 1] - w->starts[i]; }

/* The dense residual stream of the batch, side by side. */
static ss_status find_dense(step *s, uint32_t n, ss_error *err) {
  const ss_windows *w = s->data->windows;
  float *to = s->dense;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t window = s->batch[i];
    const size_t size = (size_t)length_of(w, window) * s->shape.n_embd;
    float *kept = s->data->dense ? s->data->dense + (size_t)(w->starts[window] - w->starts[0]) * s->shape.n_embd : NULL;
    if (!kept || !s->data->dense_known[window]) {
      const ss_status status = ss_pass_dense(s->pass, &(ss_batch){w, &window, 1}, to, err);
      if (status != SS_OK) return status;
      if (kept) {
        memcpy(kept, to, size * sizeof *to);
        s->data->dense_known[window] = true;
      }
    } else {
      memcpy(to, kept, size * sizeof *to);
    }
    to += size;
  }
  return SS_OK;
}

/* As many of this machine's windows from `first` on as the pass holds: *n of them. */
static ss_status run_batch(step *s, uint32_t first, uint32_t *n, ss_error *err) {
  const uint32_t B = s->o->n_blocks;
  const ss_windows *w = s->data->windows;
  size_t n_tokens = 0;
  for (*n = 0; first + *n < s->n_mine && *n < s->shape.max_windows; (*n)++) {
    const uint32_t at = s->mine[first + *n], length = length_of(w, s->which[at]);
    if (*n && n_tokens + length > s->shape.max_tokens) break;
    n_tokens += length;
    s->batch[*n] = s->which[at];
    memcpy(s->batch_z + *n * B, s->z + (size_t)at * B, B * sizeof *s->z);
  }
  ss_pass_input in = {.batch = {w, s->batch, *n}, .z = s->batch_z, .objective = s->o->objective};
  ss_pass_output out = {.d_gates = s->d_gates};
  ss_status status = SS_OK;
  if (s->o->objective == SS_OBJECTIVE_KL) {
    if (n_tokens > s->shape.max_tokens)
      return ss_fail(err, SS_E_ARGUMENT, "L0: a window of %zu tokens, the pass holds %u", n_tokens,
                     s->shape.max_tokens);
    status = find_dense(s, *n, err);
    in.dense = s->dense;
  }
  if (status == SS_OK) status = ss_pass_run(s->pass, &in, &out, err);
  if (status != SS_OK) return status;
  double *sums = s->sums + B;
  for (uint32_t i = 0; i < *n; i++)
    for (uint32_t b = 0; b < B; b++) {
      const float *slopes = s->slopes + (size_t)s->mine[first + i] * B;
      s->sums[b] += (double)s->d_gates[i * B + b] * (double)slopes[b];
      if (s->batch_z[i * B + b] == 0.0f) sums[SUM_SKIPPED] += (double)s->o->costs[b];
    }
  sums[SUM_NLL] += out.nll;
  sums[SUM_KL] += out.kl;
  sums[SUM_SCORED] += out.n_scored;
  sums[SUM_TOKENS] += (double)n_tokens;
  return SS_OK;
}

static double target_at(const ss_l0_options *o, uint32_t n_steps) {
  return n_steps >= o->warm_up ? o->to : o->from + (o->to - o->from) * n_steps / o->warm_up;
}

/* What a share of the MACs costs in loss: the median of the blocks' averaged gradients over their slopes, weighted by
 * these. With it for -l1 as much of the expected share is pulled up as down. */
static double price_of(const double *mean, const double *slopes, uint32_t n) {
  double prices[SS_MAX_BLOCKS], weights[SS_MAX_BLOCKS], total = 0.0, below = 0.0;
  uint32_t n_sorted = 0;
  for (uint32_t b = 0; b < n; b++) {
    const double weight = fabs(slopes[b]), price = weight > 0.0 ? mean[b] / slopes[b] : 0.0;
    uint32_t at = n_sorted++;
    for (; at > 0 && prices[at - 1] > price; at--) prices[at] = prices[at - 1], weights[at] = weights[at - 1];
    prices[at] = price;
    weights[at] = weight;
    total += weight;
  }
  for (uint32_t i = 0; i < n; i++)
    if ((below += weights[i]) >= total / 2.0) return prices[i];
  return 0.0;
}

/* The gradients are known: one step of multipliers and log alphas. */
static void update(ss_l0_state *s, const ss_l0_options *o, const double *gradient, double target) {
  const double rate = o->multiplier_rate > 0.0 ? o->multiplier_rate : 0.5;
  double slopes[SS_MAX_BLOCKS], total[SS_MAX_BLOCKS];
  const double gap = ss_gates_skipped(s->log_alpha, o->costs, o->n_blocks, slopes) - target;
  const double share = fmax(1.0 - MEAN_DECAY, 1.0 / (s->step + 1)); /* at first the plain mean */
  for (uint32_t b = 0; b < o->n_blocks; b++) s->mean[b] += share * (gradient[b] - s->mean[b]);
  s->lambda[0] += (s->step ? rate : 1.0) * (-price_of(s->mean, slopes, o->n_blocks) - s->lambda[0]);
  s->lambda[1] = L2_OF_L1 * fabs(s->lambda[0]);
  for (uint32_t b = 0; b < o->n_blocks; b++)
    total[b] = gradient[b] + (s->lambda[0] + 2.0 * s->lambda[1] * gap) * slopes[b];
  const ss_adam_options adam =
      ss_adam_defaults((o->rate > 0.0 ? o->rate : 0.2) * fmin(1.0, (s->step + 1) / RATE_WARM_UP));
  ss_adam_step(s->log_alpha, total, s->m, s->v, o->n_blocks, ++s->step, &adam);
  for (uint32_t b = 0; b < o->n_blocks; b++) s->log_alpha[b] = within_limit(s->log_alpha[b]);
  const double skipped = ss_gates_skipped(s->log_alpha, o->costs, o->n_blocks, NULL);
  if (fabs(skipped - target) > SS_L0_SLACK)
    shift_to(s->log_alpha, o, skipped > target ? target + SS_L0_SLACK : target - SS_L0_SLACK);
}

static ss_status run_step(ss_l0_state *state, step *s, ss_l0_report *report, ss_error *err) {
  const ss_l0_options *o = s->o;
  const uint32_t B = o->n_blocks, n_ranks = o->n_ranks ? o->n_ranks : 1;
  ss_l0_state next = *state; /* a step that fails leaves the state as it was */
  draw_windows(&next, o->seed, s->which, o->windows_per_step, s->order, s->data->windows->n);
  ss_gates_sample(s->z, s->slopes, next.log_alpha, B, o->windows_per_step, &next.rng);
  for (uint32_t i = 0; i < o->windows_per_step; i++)
    if (i / 2 % n_ranks == o->rank) s->mine[s->n_mine++] = i;
  ss_status status = SS_OK;
  for (uint32_t first = 0, n; status == SS_OK && first < s->n_mine; first += n) status = run_batch(s, first, &n, err);
  if (status == SS_OK && n_ranks > 1) status = o->all_reduce(o->reduce_ctx, s->sums, B + N_SUMS, err);
  if (status != SS_OK) return status;
  const double *sums = s->sums + B, n_scored = sums[SUM_SCORED];
  for (uint32_t b = 0; b < B; b++) s->sums[b] /= n_scored;
  for (uint32_t b = 0; b <= B + SUM_KL; b++)
    if (!isfinite(s->sums[b]))
      return ss_fail(err, SS_E_FORMAT, "L0: step %u: a loss or gradient is not finite", state->step);
  const double target = target_at(o, state->step + 1);
  update(&next, o, s->sums, target);
  *state = next;
  *report = (ss_l0_report){.nll = sums[SUM_NLL] / n_scored,
                           .kl = sums[SUM_KL] / n_scored,
                           .skipped = ss_gates_skipped(state->log_alpha, o->costs, B, NULL),
                           .target = target,
                           .sampled = sums[SUM_SKIPPED] / (cost_of_all(o) * o->windows_per_step),
                           .lambda = {state->lambda[0], state->lambda[1]},
                           .tokens = (uint64_t)sums[SUM_TOKENS]};
  report->loss = o->objective == SS_OBJECTIVE_KL ? report->kl : report->nll;
  return SS_OK;
}

ss_status ss_l0_step(ss_l0_state *state, const ss_l0_options *o, ss_pass *pass, const ss_l0_data *data,
                     ss_l0_report *report, ss_error *err) {
  step s = {.o = o, .pass = pass, .data = data, .shape = ss_pass_shape_get(pass)};
  ss_arena arena = {0};
  ss_status status = check_options(o, err);
  if (status != SS_OK) return status;
  if (o->n_blocks != s.shape.n_blocks || state->n_blocks != o->n_blocks)
    return ss_fail(err, SS_E_ARGUMENT, "L0: options for %u blocks, a state of %u, the model has %u", o->n_blocks,
                   state->n_blocks, s.shape.n_blocks);
  if (data->windows->n < 1) return ss_fail(err, SS_E_ARGUMENT, "L0: no windows");
  lay_out(&arena, &s);
  const size_t bytes = arena.used;
  uint8_t *memory = ss_host_alloc(s.shape.host, bytes);
  if (!memory) return ss_fail(err, SS_E_MEMORY, "L0: the host refused %zu bytes", bytes);
  arena = (ss_arena){.base = memory};
  lay_out(&arena, &s);
  status = run_step(state, &s, report, err);
  ss_host_free(s.shape.host, memory, bytes);
  return status;
}

/* ---- the mask ---- */

ss_status ss_l0_binarise(ss_mask *mask, const ss_l0_state *s, const ss_budget *budget, uint64_t units,
                         const ss_host *host, ss_error *err) {
  const uint32_t B = budget->n_blocks;
  if (B != s->n_blocks) return ss_fail(err, SS_E_ARGUMENT, "L0: a budget for %u blocks, a state of %u", B, s->n_blocks);
  if (units > budget->total)
    return ss_fail(err, SS_E_ARGUMENT, "L0: %llu units of %llu to skip", (unsigned long long)units,
                   (unsigned long long)budget->total);
  /* a knapsack that must be full: best[u] is the least sum of log alphas of the blocks so far that make u units */
  const size_t width = (size_t)units + 1, bytes = width * sizeof(double) + B * width;
  uint8_t *memory = ss_host_alloc(host, bytes);
  if (!memory) return ss_fail(err, SS_E_MEMORY, "L0: the host refused %zu bytes", bytes);
  double *best = (double *)(void *)memory;
  uint8_t *taken = memory + width * sizeof *best; /* [n_blocks][width] */
  for (size_t u = 1; u < width; u++) best[u] = INFINITY;
  for (uint32_t b = 0; b < B; b++)
    for (size_t u = width; u-- > budget->costs[b];) {
      const double with = best[u - budget->costs[b]] + s->log_alpha[b];
      if (!(with < best[u])) continue;
      best[u] = with;
      taken[b * width + u] = 1;
    }
  ss_status status = SS_OK;
  if (isinf(best[units]))
    status = ss_fail(err, SS_E_ARGUMENT, "L0: no blocks make exactly %llu units", (unsigned long long)units);
  ss_mask_fill(mask, B);
  size_t left = status == SS_OK ? (size_t)units : 0;
  for (uint32_t b = B; b-- > 0 && left;) {
    if (!taken[b * width + left]) continue;
    ss_mask_set(mask, b, false);
    left -= budget->costs[b];
  }
  ss_host_free(host, memory, bytes);
  return status;
}
