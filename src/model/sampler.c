/* Picks tokens from logits: penalties, top-k, top-p, min-p, temperature. The same token on every target. */
#include "base/base.h"

struct ss_sampler {
  ss_host host;
  size_t bytes; /* of the one allocation */
  ss_sampler_options options;
  ss_rng rng;
  uint32_t n_vocab;
  int32_t *window;   /* [options.repetition_window] the last tokens, a ring */
  uint32_t n_window, next;
  uint32_t *counts;  /* [n_vocab] how often each token is in the window */
  uint32_t *heap;    /* [n_vocab] candidate ids */
  float *weights;    /* [n_vocab] of the candidates */
};

ss_sampler_options ss_sampler_defaults(void) {
  return (ss_sampler_options){.temperature = 0.8f,
                              .top_k = 40,
                              .top_p = 0.95f,
                              .min_p = 0.05f,
                              .repetition_penalty = 1.0f,
                              .repetition_window = 64};
}

static bool is_finite(float x) { return (ss_bits_of_float(x) & 0x7f800000u) != 0x7f800000u; }

static ss_status check(const ss_sampler_options *o, ss_error *err) {
  if (!is_finite(o->temperature) || o->temperature < 0.0f)
    return ss_fail(err, SS_E_ARGUMENT, "temperature must be 0 or more");
  if (!(o->top_p > 0.0f && o->top_p <= 1.0f)) return ss_fail(err, SS_E_ARGUMENT, "top_p must be above 0 and at most 1");
  if (!(o->min_p >= 0.0f && o->min_p <= 1.0f)) return ss_fail(err, SS_E_ARGUMENT, "min_p must be from 0 to 1");
  if (!is_finite(o->repetition_penalty) || o->repetition_penalty <= 0.0f)
    return ss_fail(err, SS_E_ARGUMENT, "repetition_penalty must be above 0");
  if (!is_finite(o->frequency_penalty) || !is_finite(o->presence_penalty))
    return ss_fail(err, SS_E_ARGUMENT, "frequency_penalty and presence_penalty must be finite");
  if (o->repetition_window > (1u << 20))
    return ss_fail(err, SS_E_ARGUMENT, "repetition_window %u is more than %u", o->repetition_window, 1u << 20);
  return SS_OK;
}

static ss_sampler *lay_out(ss_arena *arena, uint32_t n_vocab, uint32_t window) {
  ss_sampler *s = ss_carve(arena, 1, sizeof *s);
  int32_t *ring = ss_carve(arena, window, sizeof *ring);
  uint32_t *counts = ss_carve(arena, n_vocab, sizeof *counts), *heap = ss_carve(arena, n_vocab, sizeof *heap);
  float *weights = ss_carve(arena, n_vocab, sizeof *weights);
  if (s) *s = (ss_sampler){.window = ring, .counts = counts, .heap = heap, .weights = weights, .n_vocab = n_vocab};
  return s;
}

ss_status ss_sampler_create(ss_sampler **out, uint32_t n_vocab, const ss_sampler_options *options, const ss_host *host,
                            ss_error *err) {
  *out = NULL;
  ss_sampler_options o = options ? *options : ss_sampler_defaults();
  if (!o.repetition_window) o.repetition_window = 64;
  const ss_status status = check(&o, err);
  if (status) return status;
  if (!n_vocab) return ss_fail(err, SS_E_ARGUMENT, "an empty vocabulary");
  ss_arena arena = {0};
  lay_out(&arena, n_vocab, o.repetition_window);
  const size_t bytes = arena.used;
  arena = (ss_arena){.base = ss_host_alloc(host, bytes)};
  if (!arena.base) return ss_fail(err, SS_E_MEMORY, "no memory for a sampler: %zu bytes", bytes);
  ss_sampler *s = lay_out(&arena, n_vocab, o.repetition_window);
  s->host = *host;
  s->bytes = bytes;
  s->options = o;
  s->rng = ss_rng_seed(o.seed);
  *out = s;
  return SS_OK;
}

void ss_sampler_free(ss_sampler *s) {
  if (!s) return;
  const ss_host host = s->host;
  ss_host_free(&host, s, s->bytes);
}

void ss_sampler_accept(ss_sampler *s, int32_t token) {
  if (token < 0 || (uint32_t)token >= s->n_vocab) return;
  if (s->n_window == s->options.repetition_window) s->counts[s->window[s->next]]--;
  else s->n_window++;
  s->window[s->next] = token;
  s->counts[token]++;
  s->next = (s->next + 1) % s->options.repetition_window;
}

static void apply_penalties(ss_sampler *s, float *logits) {
  const ss_sampler_options *o = &s->options;
  if (o->repetition_penalty == 1.0f && o->frequency_penalty == 0.0f && o->presence_penalty == 0.0f) return;
  const uint32_t seen = UINT32_C(1) << 31; /* marks a token that had its penalty */
  for (uint32_t i = 0; i < s->n_window; i++) {
    const int32_t t = s->window[i];
    if (s->counts[t] & seen) continue;
    logits[t] = logits[t] > 0.0f ? logits[t] / o->repetition_penalty : logits[t] * o->repetition_penalty;
    logits[t] -= (float)s->counts[t] * o->frequency_penalty + o->presence_penalty;
    s->counts[t] |= seen;
  }
  for (uint32_t i = 0; i < s->n_window; i++) s->counts[s->window[i]] &= ~seen;
}

/* Higher logit first, then lower id. A NaN is never better. */
static bool better(const float *logits, uint32_t a, uint32_t b) {
  if (logits[a] > logits[b]) return true;
  return !(logits[a] < logits[b]) && a < b && logits[a] == logits[a];
}

static uint32_t best(const float *logits, uint32_t n) {
  uint32_t at = 0;
  for (uint32_t i = 1; i < n; i++)
    if (logits[i] > logits[at] || logits[at] != logits[at]) at = i;
  return at;
}

static void sift_down(const float *logits, uint32_t *heap, uint32_t n, uint32_t at) {
  for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && better(logits, heap[child + 1], heap[child])) child++;
    if (!better(logits, heap[child], heap[at])) return;
    const uint32_t id = heap[at];
    heap[at] = heap[child];
    heap[child] = id;
  }
}

/* Moves the next best of the heap's first n to its end. */
static void pop(const float *logits, uint32_t *heap, uint32_t n) {
  const uint32_t id = heap[0];
  heap[0] = heap[n - 1];
  heap[n - 1] = id;
  sift_down(logits, heap, n - 1, 0);
}

/* Puts the candidates that top-k and top-p leave at the end of s->heap; returns how many. Best last. */
static uint32_t take_best(ss_sampler *s, const float *logits, float max) {
  const ss_sampler_options *o = &s->options;
  const uint32_t n = s->n_vocab, most = o->top_k ? (uint32_t)ss_min(o->top_k, n) : n;
  uint32_t *heap = s->heap, taken = 0;
  for (uint32_t i = 0; i < n; i++) heap[i] = i;
  for (uint32_t i = n / 2; i-- > 0;) sift_down(logits, heap, n, i);
  double total = 0.0, sum = 0.0;
  if (o->top_k)
    for (; taken < most; taken++) {
      pop(logits, heap, n - taken);
      total += ss_expf(logits[heap[n - taken - 1]] - max);
    }
  else
    for (uint32_t i = 0; i < n; i++) total += ss_expf(logits[i] - max);
  for (uint32_t kept = 0; kept < most; kept++) {
    if (kept == taken) {
      pop(logits, heap, n - taken);
      taken++;
    }
    sum += ss_expf(logits[heap[n - kept - 1]] - max);
    if (sum >= o->top_p * total) return kept + 1;
  }
  return most;
}

int32_t ss_sampler_pick(ss_sampler *s, float *logits) {
  const ss_sampler_options *o = &s->options;
  const uint32_t n = s->n_vocab;
  apply_penalties(s, logits);
  uint32_t token = best(logits, n);
  if (o->temperature > 0.0f && o->top_k != 1) {
    const float max = logits[token];
    const bool sorted = o->top_k > 0 || o->top_p < 1.0f;
    const uint32_t count = sorted ? take_best(s, logits, max) : n;
    double total = 0.0;
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t id = sorted ? s->heap[n - 1 - i] : i;
      const bool kept = ss_expf(logits[id] - max) >= o->min_p;
      s->weights[i] = kept ? ss_expf((logits[id] - max) / o->temperature) : 0.0f;
      total += s->weights[i];
    }
    double left = ss_rng_unit(&s->rng) * total;
    for (uint32_t i = 0; i < count; i++) {
      if (s->weights[i] == 0.0f) continue;
      token = sorted ? s->heap[n - 1 - i] : i;
      left -= s->weights[i];
      if (left < 0.0) break;
    }
  }
  ss_sampler_accept(s, (int32_t)token);
  return (int32_t)token;
}

/* log(sum exp(logits - max)) */
static double log_sum(const float *logits, size_t n, float *max) {
  double sum = 0.0;
  *max = logits[best(logits, (uint32_t)n)];
  for (size_t i = 0; i < n; i++) sum += ss_expf(logits[i] - *max);
  return ss_log(sum);
}

float ss_logprob(const float *logits, size_t n, int32_t token) {
  float max;
  const double log = log_sum(logits, n, &max);
  return (float)((double)(logits[token] - max) - log);
}

void ss_top_logprobs(const float *logits, size_t n, size_t k, int32_t *tokens, float *logprobs) {
  float max;
  const double log = log_sum(logits, n, &max);
  for (size_t i = 0; i < k; i++) {
    uint32_t next = UINT32_MAX; /* the best of those behind the last one taken */
    for (uint32_t t = 0; t < n; t++)
      if ((!i || better(logits, (uint32_t)tokens[i - 1], t)) && (next == UINT32_MAX || better(logits, t, next)))
        next = t;
    if (next == UINT32_MAX) next = 0; /* NaNs are behind nothing */
    tokens[i] = (int32_t)next;
    logprobs[i] = (float)((double)(logits[next] - max) - log);
  }
}
