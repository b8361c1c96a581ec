/* Making text, shared by run and chat: prompt tokens -> session -> sampler -> detokenizer -> stop strings. */
#ifndef SS_TOOL_GENERATE_H
#define SS_TOOL_GENERATE_H

#include "load.h"

/* ---- options that run and chat share ---- */

typedef struct sampling_options {
  ss_sampler_options sampler;
  option_list stops;
  uint32_t max_tokens;
  bool ignore_eos;
} sampling_options;

#define SAMPLING_OPTIONS(s)                                                               \
  {.name = "tokens",                                                                      \
   .letter = 'n',                                                                         \
   .u32 = &(s).max_tokens,                                                                \
   .argument = "N",                                                                       \
   .help = "at most N tokens per answer (default 512)"},                                  \
      {.name = "temp",                                                                    \
       .real = &(s).sampler.temperature,                                                  \
       .argument = "X",                                                                   \
       .min = 0,                                                                          \
       .max = 100,                                                                        \
       .help = "temperature; 0: always the likeliest token (default 0.8)"},               \
      {.name = "top-k",                                                                   \
       .u32 = &(s).sampler.top_k,                                                         \
       .argument = "K",                                                                   \
       .help = "the K likeliest tokens; 0: off (default 40)"},                            \
      {.name = "top-p",                                                                   \
       .real = &(s).sampler.top_p,                                                        \
       .argument = "P",                                                                   \
       .min = 0,                                                                          \
       .max = 1,                                                                          \
       .help = "the likeliest tokens of together P; 1: off (default 0.95)"},              \
      {.name = "min-p",                                                                   \
       .real = &(s).sampler.min_p,                                                        \
       .argument = "P",                                                                   \
       .min = 0,                                                                          \
       .max = 1,                                                                          \
       .help = "tokens at least P times as likely as the first;\n0: off (default 0.05)"}, \
      {.name = "repeat-penalty",                                                          \
       .real = &(s).sampler.repetition_penalty,                                           \
       .argument = "X",                                                                   \
       .min = 0.01,                                                                       \
       .max = 100,                                                                        \
       .help = "divides the odds of recent tokens; 1: off (default 1)"},                  \
      {.name = "repeat-window",                                                           \
       .u32 = &(s).sampler.repetition_window,                                             \
       .argument = "N",                                                                   \
       .min = 1,                                                                          \
       .max = 65536,                                                                      \
       .help = "how many tokens are recent (default 64)"},                                \
      {.name = "seed",                                                                    \
       .u64 = &(s).sampler.seed,                                                          \
       .argument = "S",                                                                   \
       .help = "same seed, same text, on every machine (default 0)"},                     \
      {.name = "stop",                                                                    \
       .list = &(s).stops,                                                                \
       .argument = "TEXT",                                                                \
       .help = "ends the answer before TEXT; may be repeated"},                           \
      {.name = "ignore-eos", .flag = &(s).ignore_eos, .help = "goes on behind the end of an answer"}

typedef struct session_args {
  const char *skip;
  uint32_t context, chunk;
} session_args;

/* context_help is a literal that tells the default. */
#define SESSION_OPTIONS(s, context_help)                                         \
  {.name = "skip",                                                               \
   .text = &(s).skip,                                                            \
   .argument = "BLOCKS",                                                         \
   .help = "blocks that do not run, by kind and layer:\n\"attn:3,7-9;ffn:12\""}, \
      {.name = "context",                                                        \
       .letter = 'c',                                                            \
       .u32 = &(s).context,                                                      \
       .argument = "N",                                                          \
       .min = 1,                                                                 \
       .max = 16777216,                                                          \
       .help = "tokens of context (default: " context_help ")"},                 \
      {.name = "chunk",                                                          \
       .u32 = &(s).chunk,                                                        \
       .argument = "N",                                                          \
       .min = 1,                                                                 \
       .max = 65536,                                                             \
       .help = "tokens per prefill step; changes no result"}

/* ---- tokens ---- */

typedef struct token_list {
  int32_t *items;
  size_t n, capacity;
} token_list;
void token_list_add(token_list *list, const int32_t *tokens, size_t n);
void token_list_free(token_list *list);

/* Replaces the list's content by the tokens of text. */
ss_status tokenize_text(token_list *out, const ss_tokenizer *tokenizer, ss_text text, uint32_t flags, ss_error *err);
/* Replaces the buffer's content by the formatted chat; open_answer: and the beginning of the assistant's next turn. */
ss_status format_turns(buffer *out, const ss_model *model, const ss_chat_message *messages, size_t n, bool open_answer,
                       ss_error *err);
/* The same with an open answer: what a reply is generated behind. */
ss_status format_chat(buffer *out, const ss_model *model, const ss_chat_message *messages, size_t n, ss_error *err);

/* ---- generation ---- */

typedef struct generation {
  buffer text;
  token_list tokens; /* all that were picked, an end token included */
  const char *finish_reason; /* "stop", "length" or "abort" */
  uint64_t logits_hash; /* of the row that the last token was picked from */
  double prefill_ms, decode_ms;
  size_t prefill_tokens, decode_tokens; /* a decoded token is a step of one token: one less than picked */
} generation;
void generation_free(generation *g);

/* Receives each piece of text that can be shown. */
typedef void show_text(void *arg, ss_text text);

/* Prefills `prompt` (n > 0) behind what the session holds and picks up to max_tokens tokens. The last one is not run:
 * the session then holds the prompt and all tokens but the last. Ctrl-C ends it with the reason "abort". */
ss_status generate(generation *out, const engine *e, ss_session *session, ss_sampler *sampler,
                   const sampling_options *options, const int32_t *prompt, size_t n, show_text *show, void *show_arg,
                   ss_error *err);

/* Between begin and end Ctrl-C sets a flag instead of ending the program; a second Ctrl-C does end it. */
void interrupt_begin(void);
void interrupt_end(void);
bool interrupted(void);

/* tokens per second, 0 when no time passed */
double per_second(size_t tokens, double ms);

#endif
