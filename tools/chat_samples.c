#include "chat_samples.h"

#include <string.h>

#include "base/base.h"

enum { DRAW_CHAT = 1 }; /* tells this draw from others by the same seed */

/* The tokens that a chat begins with, whatever its first message says: a template may have a system text of its own. */
ss_status chat_samples_open(chat_samples *c, const engine *e, double share, uint64_t seed, ss_error *err) {
  buffer empty = {0}, other = {0};
  token_list tokens = {0};
  ss_error why = {0};
  const ss_chat_message none = {text_of("user"), text_of("")}, some = {text_of("user"), text_of("Why?")};
  *c = (chat_samples){.engine = e, .share = share, .seed = seed};
  ss_status status = format_turns(&empty, e->model, &none, 1, false, &why);
  if (status == SS_OK) status = format_turns(&other, e->model, &some, 1, false, &why);
  c->known = status == SS_OK;
  if (status == SS_OK) {
    size_t same = 0;
    while (same < empty.len && same < other.len && empty.data[same] == other.data[same]) same++;
    status = tokenize_text(&tokens, e->tokenizer, (ss_text){empty.data, same}, SS_TOKENIZE_SPECIAL, err);
    c->head = (uint32_t)tokens.n;
  } else if (status == SS_E_UNSUPPORTED) status = SS_OK; /* a model without a template that we know */
  else if (err) *err = why;
  token_list_free(&tokens);
  buffer_free(&empty);
  buffer_free(&other);
  return status;
}

bool chat_samples_has(const chat_samples *c, const corpus *of, uint32_t i) {
  const uint64_t drawn[] = {c->seed, i, DRAW_CHAT};
  ss_rng rng = ss_rng_seed(ss_fnv1a(SS_FNV_START, drawn, sizeof drawn));
  return c->known && of->samples[i].instruction && ss_rng_unit(&rng) < c->share;
}

static ss_text without_space(ss_text t) {
  while (t.len && strchr(" \t\r\n", t.data[0])) t.data++, t.len--;
  return t;
}

static ss_status format_sample(buffer *out, const chat_samples *c, const sample *s, ss_error *err) {
  ss_text answer = s->text;
  if (answer.len >= s->prompt.len && !memcmp(answer.data, s->prompt.data, s->prompt.len))
    answer = (ss_text){answer.data + s->prompt.len, answer.len - s->prompt.len};
  const ss_chat_message turns[] = {{text_of("user"), s->prompt}, {text_of("assistant"), without_space(answer)}};
  return format_turns(out, c->engine->model, turns, 2, false, err);
}

ss_status chat_samples_add(const chat_samples *c, window_set *out, const corpus *of, const uint32_t *samples, size_t n,
                           uint32_t window, size_t n_tokens, ss_error *err) {
  buffer chat = {0};
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < n && out->tokens.n + LEAST_WINDOW <= n_tokens; i++) {
    const size_t left = n_tokens - out->tokens.n;
    size_t n_added;
    if (!chat_samples_has(c, of, samples[i])) {
      status = window_set_add(out, c->engine->tokenizer, of, samples[i], window, left, &n_added, err);
      continue;
    }
    status = format_sample(&chat, c, &of->samples[samples[i]], err);
    if (status == SS_OK)
      status = window_set_add_text(out, c->engine->tokenizer, buffer_text(&chat), SS_TOKENIZE_SPECIAL, c->head,
                                   samples[i], window, left, &n_added, err);
  }
  buffer_free(&chat);
  return status;
}
