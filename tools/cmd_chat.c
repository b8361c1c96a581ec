/* skipstone chat: a conversation. The KV cache of what was said stays; each turn prefills only what is new. */
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(SS_HAVE_LIBEDIT) && SS_HAVE_LIBEDIT
#include <editline/readline.h>
#define HAVE_LINE_EDITING 1
#else
#define HAVE_LINE_EDITING 0
#endif

#include "commands.h"
#include "generate.h"
#include "mask.h"
#include "routing.h"

typedef struct chat_args {
  engine_options engine;
  session_args session;
  sampling_options sampling;
  bank_options bank;
  const char *system, *policy;
  bool verbose;
} chat_args;

typedef struct chat_state {
  const chat_args *args;
  engine engine;
  router router;       /* with --bank */
  routing route;       /* of the last routed message */
  ss_mask mask;
  const ss_recovery *recovery;
  mask_report report;
  ss_session *session; /* with --bank it is made when a message has been routed, and again when the mask changes */
  ss_sampler *sampler;
  ss_chat_message *messages; /* contents are owned, but for the system message */
  size_t n_messages, n_system;
  token_list held;           /* what the session was fed; its first ss_session_length tokens are in the KV cache */
  bool terminal;             /* a person types: prompts, line editing and the summary */
} chat_state;

static parse_result parse(chat_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "system", .letter = 's', .text = &a->system, .argument = "TEXT", .help = "the system message"},
      SAMPLING_OPTIONS(a->sampling),
      SESSION_OPTIONS(a->session, "the smaller of 2048\nand what the model was trained on"),
      BANK_OPTION(a->bank),
      DEPTH_OPTION(a->bank, "depth"),
      ENCODER_OPTION(a->bank),
      RECOVERY_OPTION(a->bank),
      {.name = "policy",
       .text = &a->policy,
       .argument = "session|turn",
       .help = "the bank routes the first message, for the whole\nchat, or every message (default session)"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "verbose", .letter = 'v', .flag = &a->verbose, .help = "a summary on stderr after each answer"},
  };
  const command c = {
      .name = "chat",
      .usage = "-m MODEL [options]",
      .about =
          "Talks with a model, line by line. What was said stays in the KV cache: a turn prefills only what\n"
          "is new. When the context is full the oldest turns are forgotten. Ctrl-C ends an answer.\n"
          "In the chat: /help, /reset, /quit.",
      .examples =
          "  skipstone chat -m model.gguf\n"
          "  skipstone chat -m model.gguf --system 'Answer in one sentence.' --temp 0\n"
          "  skipstone chat -m model.gguf --skip 'attn:3,7;ffn:12' --context 4096",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
  };
  return options_parse(&c, argc, argv);
}

/* ---- lines ---- */

/* The next line without its end, to be freed; NULL at the end of input. */
static char *read_input(const chat_state *s) {
#if HAVE_LINE_EDITING
  if (s->terminal) {
    char *line = readline("> ");
    if (line && *line) add_history(line);
    return line;
  }
#endif
  char *line = NULL;
  size_t capacity = 0;
  if (s->terminal) {
    fputs("> ", stdout);
    fflush(stdout);
  }
  const ssize_t n = getline(&line, &capacity, stdin);
  if (n < 0) {
    free(line);
    return NULL;
  }
  if (n && line[n - 1] == '\n') line[n - 1] = 0;
  return line;
}

/* ---- the conversation ---- */

static void add_message(chat_state *s, const char *role, ss_text content) {
  char *copy = take_memory(content.len + 1, 1);
  memcpy(copy, content.data, content.len);
  copy[content.len] = 0;
  s->messages = grow_memory(s->messages, s->n_messages + 1, sizeof *s->messages);
  s->messages[s->n_messages++] = (ss_chat_message){text_of(role), {copy, content.len}};
}

static void drop_messages(chat_state *s, size_t first, size_t n) {
  for (size_t i = first; i < first + n; i++) {
    union {
      const char *borrowed;
      char *owned;
    } content = {s->messages[i].content.data};
    free(content.owned);
  }
  if (n == 0) return;
  memmove(s->messages + first, s->messages + first + n, (s->n_messages - first - n) * sizeof *s->messages);
  s->n_messages -= n;
}

static void reset(chat_state *s) {
  drop_messages(s, s->n_system, s->n_messages - s->n_system);
  if (!s->router.bank) return;
  ss_session_free(s->session); /* the next message is the first one, and is routed */
  s->session = NULL;
}

static ss_status make_session(chat_state *s, ss_error *err) {
  const chat_args *a = s->args;
  const ss_session_options options = {.context = a->session.context,
                                      .chunk = a->session.chunk,
                                      .max_logits = 1,
                                      .run_mask = &s->mask,
                                      .recovery = s->recovery};
  ss_session_free(s->session);
  s->session = NULL;
  s->held.n = 0; /* what was said is prefilled again: a mask never meets KV of another one */
  mask_report_free(&s->report);
  const ss_status status = mask_report_make(&s->report, s->engine.model, &s->mask, err);
  return status == SS_OK ? ss_session_create(&s->session, s->engine.model, &options, s->engine.host, err) : status;
}

/* Routes the last message where the policy says so, and makes a session of its mask. */
static ss_status route_message(chat_state *s, ss_error *err) {
  const bool every_turn = s->args->policy && !strcmp(s->args->policy, "turn");
  if (!s->router.bank || (s->session && !every_turn)) return SS_OK;
  const ss_status status = route_text(&s->router, s->messages[s->n_messages - 1].content, &s->route, err);
  if (status != SS_OK) return status;
  const bool same = s->session && !memcmp(&s->route.mask, &s->mask, sizeof s->mask) && s->route.recovery == s->recovery;
  s->mask = s->route.mask;
  s->recovery = s->route.recovery;
  return same ? SS_OK : make_session(s, err);
}

/* The tokens of the whole conversation; forgets the oldest turns until they and an answer fit. */
static ss_status conversation_tokens(chat_state *s, token_list *tokens, ss_error *err) {
  const uint32_t context = ss_session_context(s->session);
  const uint32_t answer = s->args->sampling.max_tokens < context / 4 ? s->args->sampling.max_tokens : context / 4;
  buffer text = {0};
  size_t n_forgotten = 0;
  ss_status status;
  for (;;) {
    status = format_chat(&text, s->engine.model, s->messages, s->n_messages, err);
    if (status == SS_OK)
      status =
          tokenize_text(tokens, s->engine.tokenizer, buffer_text(&text), SS_TOKENIZE_BOS | SS_TOKENIZE_SPECIAL, err);
    if (status != SS_OK || tokens->n + answer <= context) break;
    if (s->n_messages - s->n_system < 3) break; /* the last message alone: ss_session_begin says when it does not fit */
    drop_messages(s, s->n_system, 2); /* a question and its answer */
    n_forgotten += 2;
  }
  if (n_forgotten) say("the context of %u tokens is full: forgot the oldest %zu messages", context, n_forgotten);
  buffer_free(&text);
  return status;
}

/* Cuts the session back to what it shares with tokens and returns how many tokens that is, less than n. */
static size_t keep_common_prefix(chat_state *s, const int32_t *tokens, size_t n, ss_error *err) {
  const size_t held = ss_session_length(s->session);
  size_t same = 0;
  while (same < held && same + 1 < n && s->held.items[same] == tokens[same]) same++; /* one token at least must run */
  if (ss_session_truncate(s->session, (uint32_t)same, err) != SS_OK) return SIZE_MAX;
  s->held.n = same;
  return same;
}

static void show_on_stdout(void *arg, ss_text text) {
  (void)arg;
  fwrite(text.data, 1, text.len, stdout);
  fflush(stdout);
}

static void print_summary(const generation *g, size_t n_kept) {
  fprintf(stderr, "[%zu kept, %zu prefilled at %.1f/s, %zu tokens at %.1f/s, %s]\n", n_kept, g->prefill_tokens,
          per_second(g->prefill_tokens, g->prefill_ms), g->tokens.n, per_second(g->decode_tokens, g->decode_ms),
          g->finish_reason);
}

/* Answers the last message. */
static ss_status answer(chat_state *s, ss_error *err) {
  token_list tokens = {0};
  generation g = {0};
  size_t kept = 0;
  ss_status status = route_message(s, err);
  if (status == SS_OK) status = conversation_tokens(s, &tokens, err);
  if (status == SS_OK) {
    kept = keep_common_prefix(s, tokens.items, tokens.n, err);
    if (kept == SIZE_MAX) status = err->status;
  }
  if (status == SS_OK) {
    token_list_add(&s->held, tokens.items + kept, tokens.n - kept);
    interrupt_begin();
    status = generate(&g, &s->engine, s->session, s->sampler, &s->args->sampling, tokens.items + kept, tokens.n - kept,
                      show_on_stdout, NULL, err);
    interrupt_end();
    token_list_add(&s->held, g.tokens.items, g.tokens.n);
    fputc('\n', stdout);
    fflush(stdout);
  }
  if (status == SS_OK) {
    add_message(s, "assistant", buffer_text(&g.text));
    if ((s->terminal || s->args->verbose) && s->router.bank)
      fprintf(stderr, "[cluster %u, distance %.3f, routed in %.1f ms, %u of %u blocks] ", s->route.cluster,
              (double)s->route.distance, s->route.ms, s->report.blocks_run, s->report.blocks_total);
    if (s->terminal || s->args->verbose) print_summary(&g, kept);
  }
  generation_free(&g);
  token_list_free(&tokens);
  return status;
}

/* ---- the loop ---- */

static void print_help(void) {
  puts(
      "/help   this list\n"
      "/reset  forget the conversation (the system message stays)\n"
      "/quit   leave; so does the end of input (Ctrl-D)\n"
      "Ctrl-C  end the answer");
}

/* Answers one line. False: leave. */
static bool take_line(chat_state *s, const char *line, int *code) {
  ss_error err = {0};
  if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) return false;
  if (!line[strspn(line, " \t")]) return true;
  if (!strcmp(line, "/help")) print_help();
  else if (!strcmp(line, "/reset")) reset(s);
  else if (line[0] == '/' && line[strcspn(line, " \t")] == 0 && !strchr(line + 1, '/'))
    say("unknown command %s; /help lists them", line);
  else {
    const size_t n_before = s->n_messages;
    add_message(s, "user", text_of(line));
    if (answer(s, &err) != SS_OK) {
      if (s->n_messages > n_before) drop_messages(s, s->n_messages - 1, 1); /* the message without an answer */
      *code = report_failure(&err);
      return s->terminal;
    }
  }
  return true;
}

static ss_status open_session(chat_state *s, ss_error *err) {
  const chat_args *a = s->args;
  const ss_chat_message hello = {text_of("user"), text_of("hello")};
  buffer text = {0};
  ss_status status = format_chat(&text, s->engine.model, &hello, 1, err); /* does the core know the template? */
  buffer_free(&text);
  if (status == SS_OK && a->bank.bank) status = router_open(&s->router, &s->engine, &a->bank, err);
  else if (status == SS_OK) status = make_session(s, err);
  if (status == SS_OK)
    status = ss_sampler_create(&s->sampler, s->engine.info.n_vocab, &a->sampling.sampler, s->engine.host, err);
  return status;
}

static int chat(chat_state *s) {
  const chat_args *a = s->args;
  ss_error err = {0};
  if (!bank_options_fit(&a->bank, "chat", "depth")) return CODE_USAGE;
  if (a->bank.bank && a->session.skip) {
    say("chat: --skip and --bank exclude each other");
    return CODE_USAGE;
  }
  if (a->policy && strcmp(a->policy, "session") && strcmp(a->policy, "turn")) {
    say("chat: --policy %s: want session or turn", a->policy);
    return CODE_USAGE;
  }
  int code = engine_open(&s->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&s->engine);
  if (code != CODE_OK) return code;
  if (ss_mask_parse_skip(&s->mask, s->engine.info.n_layers, a->session.skip ? a->session.skip : "", &err) != SS_OK) {
    say("chat: %s", err.message);
    return CODE_USAGE;
  }
  if (open_session(s, &err) != SS_OK) return report_failure(&err);
  if (a->system) add_message(s, "system", text_of(a->system));
  s->n_system = s->n_messages;
  if (s->terminal && s->router.bank)
    fprintf(stderr, "%s %s, %u clusters at depth %g, %u threads, %s. /help lists the commands.\n",
            s->engine.info.name[0] ? s->engine.info.name : s->engine.path, s->engine.info.quantisation,
            s->router.info.n_clusters, s->router.depth, s->engine.host->n_threads, s->engine.info.kernels);
  else if (s->terminal)
    fprintf(stderr, "%s %s, %u of %u blocks, %u tokens of context, %u threads, %s. /help lists the commands.\n",
            s->engine.info.name[0] ? s->engine.info.name : s->engine.path, s->engine.info.quantisation,
            s->report.blocks_run, s->report.blocks_total, ss_session_context(s->session), s->engine.host->n_threads,
            s->engine.info.kernels);
  for (bool more = true; more;) {
    char *line = read_input(s);
    if (!line) break;
    more = take_line(s, line, &code);
    free(line);
  }
  return s->terminal ? CODE_OK : code;
}

static void chat_free(chat_state *s) {
  router_close(&s->router);
  drop_messages(s, 0, s->n_messages);
  free(s->messages);
  token_list_free(&s->held);
  ss_sampler_free(s->sampler);
  ss_session_free(s->session);
  mask_report_free(&s->report);
  engine_close(&s->engine);
}

int cmd_chat(int argc, char **argv) {
  chat_args a = {.sampling = {.sampler = ss_sampler_defaults(), .max_tokens = 512}};
  chat_state s = {.args = &a, .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
  setlocale(LC_CTYPE, ""); /* line editing by characters */
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = chat(&s);
  chat_free(&s);
  option_list_free(&a.sampling.stops);
  return code;
}
