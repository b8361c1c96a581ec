#include "generate.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Blocks between two looks at Ctrl-C. One block of a whole prefill chunk takes some milliseconds. */
#define BLOCKS_PER_LOOK 4

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupt_flag;
static struct sigaction previous_action;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupt_flag = 1;
}

void interrupt_begin(void) {
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
  sigemptyset(&action.sa_mask);
  interrupt_flag = 0;
  sigaction(SIGINT, &action, &previous_action);
}

void interrupt_end(void) { sigaction(SIGINT, &previous_action, NULL); }

bool interrupted(void) { return interrupt_flag; }

/* ---- tokens ---- */

void token_list_add(token_list *list, const int32_t *tokens, size_t n) {
  if (n > list->capacity - list->n) {
    list->capacity = list->capacity * 2 > list->n + n ? list->capacity * 2 : list->n + n;
    list->items = grow_memory(list->items, list->capacity, sizeof *list->items);
  }
  if (n) memcpy(list->items + list->n, tokens, n * sizeof *tokens);
  list->n += n;
}

void token_list_free(token_list *list) {
  free(list->items);
  *list = (token_list){0};
}

ss_status tokenize_text(token_list *out, const ss_tokenizer *tokenizer, ss_text text, uint32_t flags, ss_error *err) {
  if (!out->capacity) {
    out->capacity = text.len / 2 + 16;
    out->items = take_memory(out->capacity, sizeof *out->items);
  }
  for (;;) {
    const ss_status status = ss_tokenize(tokenizer, text, flags, out->items, out->capacity, &out->n, err);
    if (status != SS_OK || out->n <= out->capacity) return status;
    out->capacity = out->n;
    out->items = grow_memory(out->items, out->capacity, sizeof *out->items);
  }
}

ss_status format_turns(buffer *out, const ss_model *model, const ss_chat_message *messages, size_t n, bool open_answer,
                       ss_error *err) {
  out->len = 0;
  for (size_t len = 4096;;) {
    const size_t capacity = len;
    char *to = buffer_room(out, capacity);
    const ss_status status = ss_chat_format(model, messages, n, open_answer, to, capacity, &len, err);
    if (status != SS_OK) return status;
    if (len > capacity) continue;
    out->len = len;
    out->data[len] = 0;
    return SS_OK;
  }
}

ss_status format_chat(buffer *out, const ss_model *model, const ss_chat_message *messages, size_t n, ss_error *err) {
  return format_turns(out, model, messages, n, true, err);
}

/* ---- generation ---- */

void generation_free(generation *g) {
  buffer_free(&g->text);
  token_list_free(&g->tokens);
  *g = (generation){0};
}

double per_second(size_t tokens, double ms) { return ms > 0 ? (double)tokens * 1e3 / ms : 0; }

/* Runs n tokens and asks for the logits of the last one. SS_MORE: Ctrl-C came first. */
static ss_status run_tokens(ss_session *session, const int32_t *tokens, size_t n, ss_error *err) {
  ss_status status = ss_session_begin(session, tokens, n, 1, err);
  if (status != SS_OK) return status;
  const uint32_t budget = n > 8 ? BLOCKS_PER_LOOK : 0; /* a step of few tokens is over soon */
  while ((status = ss_session_run(session, budget, err)) == SS_MORE && !interrupted()) {}
  if (status != SS_OK) ss_session_cancel(session);
  return status;
}

typedef struct text_stream {
  const ss_tokenizer *tokenizer;
  ss_detokenizer detokenizer;
  ss_stopper *stopper;
  buffer piece;
  generation *out;
  show_text *show;
  void *show_arg;
} text_stream;

/* Hands on the text of token, or with -1 what was held back. Sets *stopped at a stop string. */
static ss_status stream_token(text_stream *s, int32_t token, bool *stopped, ss_error *err) {
  size_t capacity = 256, len;
  while ((len = ss_detokenize(&s->detokenizer, s->tokenizer, token, buffer_room(&s->piece, capacity), capacity)) >
         capacity)
    capacity = len;
  ss_error feed_error = {0};
  ss_text shown = {0};
  *stopped = ss_stopper_feed(s->stopper, (ss_text){s->piece.data, len}, token < 0, &shown, &feed_error);
  if (feed_error.status < 0) {
    if (err) *err = feed_error;
    return feed_error.status;
  }
  if (shown.len) {
    buffer_add(&s->out->text, shown.data, shown.len);
    if (s->show) s->show(s->show_arg, shown);
  }
  return SS_OK;
}

static ss_status decode_loop(text_stream *s, const engine *e, ss_session *session, ss_sampler *sampler,
                             const sampling_options *options, ss_error *err) {
  generation *out = s->out;
  /* Penalties change the logits in place, so their hash must be taken before the pick; else once at the end will do. */
  const bool penalties = options->sampler.repetition_penalty != 1 || options->sampler.frequency_penalty != 0 ||
                         options->sampler.presence_penalty != 0;
  const size_t n_vocab = e->info.n_vocab;
  ss_status status = SS_OK;
  float *logits = ss_session_logits(session, 0);
  out->finish_reason = "length";
  out->logits_hash = penalties ? ss_logits_hash(logits, n_vocab) : 0;
  while (out->tokens.n < options->max_tokens) {
    const int32_t token = ss_sampler_pick(sampler, logits);
    bool stopped = false;
    token_list_add(&out->tokens, &token, 1);
    if (ss_token_is_end(e->tokenizer, token) && !options->ignore_eos) stopped = true;
    else status = stream_token(s, token, &stopped, err);
    if (status != SS_OK) return status;
    if (stopped) {
      out->finish_reason = "stop";
      break;
    }
    if (interrupted()) {
      out->finish_reason = "abort";
      break;
    }
    if (out->tokens.n == options->max_tokens || ss_session_length(session) == ss_session_context(session)) break;
    status = run_tokens(session, &token, 1, err);
    if (status != SS_OK) return status;
    out->decode_tokens++;
    logits = ss_session_logits(session, 0);
    if (penalties) out->logits_hash = ss_logits_hash(logits, n_vocab);
  }
  if (!penalties) out->logits_hash = ss_logits_hash(logits, n_vocab);
  return SS_OK;
}

ss_status generate(generation *out, const engine *e, ss_session *session, ss_sampler *sampler,
                   const sampling_options *options, const int32_t *prompt, size_t n, show_text *show, void *show_arg,
                   ss_error *err) {
  *out = (generation){.finish_reason = "abort", .prefill_tokens = n};
  text_stream stream = {.tokenizer = e->tokenizer, .out = out, .show = show, .show_arg = show_arg};
  ss_text *stops = take_memory(options->stops.n, sizeof *stops);
  for (size_t i = 0; i < options->stops.n; i++) stops[i] = text_of(options->stops.items[i]);
  ss_status status = ss_stopper_create(&stream.stopper, stops, options->stops.n, e->host, err);
  if (status == SS_OK) {
    const double start = now_ms();
    for (size_t i = 0; i < n; i++) ss_sampler_accept(sampler, prompt[i]);
    status = run_tokens(session, prompt, n, err);
    out->prefill_ms = now_ms() - start;
  }
  if (status == SS_OK) {
    const double start = now_ms();
    status = decode_loop(&stream, e, session, sampler, options, err);
    out->decode_ms = now_ms() - start;
    bool stopped;
    if (status == SS_OK) status = stream_token(&stream, -1, &stopped, err);
  }
  ss_stopper_free(stream.stopper);
  buffer_free(&stream.piece);
  free(stops);
  if (status != SS_MORE) return status;
  out->finish_reason = "abort"; /* Ctrl-C while tokens ran */
  return SS_OK;
}
