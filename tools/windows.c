#include "windows.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define BYTES_PER_TOKEN 32 /* more than text has: so much of a long text is enough to look at */

void window_set_free(window_set *w) {
  token_list_free(&w->tokens);
  free(w->starts);
  free(w->samples);
  free(w->score_from);
  *w = (window_set){0};
}

ss_windows window_set_face(const window_set *w) {
  return (ss_windows){.tokens = w->tokens.items, .starts = w->starts, .score_from = w->score_from, .n = w->n};
}

ss_status window_set_add_text(window_set *w, const ss_tokenizer *tokenizer, ss_text text, uint32_t flags,
                              uint32_t n_head, uint32_t sample_index, uint32_t length, size_t left, size_t *n_added,
                              ss_error *err) {
  token_list tokens = {0};
  const size_t enough = (size_t)length * BYTES_PER_TOKEN;
  *n_added = 0;
  if (text.len > enough)
    for (text.len = enough; text.len && ((unsigned char)text.data[text.len] & 0xc0) == 0x80;) text.len--;
  const ss_status status = tokenize_text(&tokens, tokenizer, text, flags, err);
  const size_t n = ss_min(ss_min(tokens.n, length), left);
  const size_t least = w->least ? w->least : LEAST_WINDOW;
  if (status == SS_OK && n >= ss_max(least, (size_t)n_head + 2)) {
    if (w->n + 1 >= w->capacity) {
      w->capacity = w->capacity ? 2 * w->capacity : 64;
      w->starts = grow_memory(w->starts, w->capacity, sizeof *w->starts);
      w->samples = grow_memory(w->samples, w->capacity, sizeof *w->samples);
      w->score_from = grow_memory(w->score_from, w->capacity, sizeof *w->score_from);
    }
    w->starts[0] = 0;
    token_list_add(&w->tokens, tokens.items, n);
    w->score_from[w->n] = n_head ? n_head : 1;
    w->samples[w->n++] = sample_index;
    w->starts[w->n] = (uint32_t)w->tokens.n;
    w->hash = ss_fnv1a(w->hash ? w->hash : SS_FNV_START, &w->starts[w->n], sizeof *w->starts);
    w->hash = ss_fnv1a(w->hash, tokens.items, n * sizeof *tokens.items);
    if (n_head) w->hash = ss_fnv1a(w->hash, &n_head, sizeof n_head);
    *n_added = n;
  }
  token_list_free(&tokens);
  return status;
}

ss_status window_set_add(window_set *w, const ss_tokenizer *tokenizer, const corpus *c, uint32_t sample_index,
                         uint32_t length, size_t left, size_t *n_added, ss_error *err) {
  return window_set_add_text(w, tokenizer, c->samples[sample_index].text, SS_TOKENIZE_BOS, 0, sample_index, length,
                             left, n_added, err);
}

ss_status window_set_draw(window_set *w, const ss_tokenizer *tokenizer, const corpus *c, const uint32_t *samples,
                          size_t n, uint32_t length, size_t n_tokens, uint64_t seed, ss_error *err) {
  uint32_t *order = take_memory(n, sizeof *order);
  ss_rng rng = ss_rng_seed(seed);
  ss_status status = SS_OK;
  if (n) memcpy(order, samples, n * sizeof *order);
  for (size_t i = 0; status == SS_OK && i < n && w->tokens.n + LEAST_WINDOW <= n_tokens; i++) {
    const size_t j = i + ss_rng_below(&rng, n - i);
    const uint32_t chosen = order[j];
    size_t n_added;
    order[j] = order[i];
    status = window_set_add(w, tokenizer, c, chosen, length, n_tokens - w->tokens.n, &n_added, err);
  }
  free(order);
  return status;
}
