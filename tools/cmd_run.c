/* skipstone run: one prompt, one answer. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "generate.h"
#include "mask.h"
#include "routing.h"

typedef struct run_args {
  engine_options engine;
  session_args session;
  sampling_options sampling;
  bank_options bank;
  const char *prompt, *file, *system, *operand;
  bool chat, plain, json, verbose;
} run_args;

/* What a run makes; all of it is released by run_free, whatever was reached. */
typedef struct run_state {
  engine engine;
  buffer prompt;
  token_list tokens;
  router router;
  routing route; /* with --bank */
  ss_mask mask;
  mask_report report;
  ss_session *session;
  ss_sampler *sampler;
  generation result;
} run_state;

static parse_result parse(run_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "prompt",
       .letter = 'p',
       .text = &a->prompt,
       .argument = "TEXT",
       .help = "the prompt; -: standard input"},
      {.name = "file",
       .letter = 'f',
       .text = &a->file,
       .argument = "FILE",
       .help = "the prompt from a file; -: standard input"},
      {.name = "chat",
       .flag = &a->chat,
       .help = "the prompt is a user's message: formats it by the\nmodel's chat template"},
      {.name = "system", .text = &a->system, .argument = "TEXT", .help = "a system message before it; means --chat"},
      {.name = "plain", .flag = &a->plain, .help = "text like <|im_start|> in the prompt stays text"},
      SAMPLING_OPTIONS(a->sampling),
      SESSION_OPTIONS(a->session, "prompt and answer"),
      BANK_OPTION(a->bank),
      DEPTH_OPTION(a->bank, "depth"),
      ENCODER_OPTION(a->bank),
      RECOVERY_OPTION(a->bank),
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print one JSON object instead of the text"},
      {.name = "verbose",
       .letter = 'v',
       .flag = &a->verbose,
       .help = "a summary on stderr, also where that is no terminal"},
  };
  const command c = {
      .name = "run",
      .usage = "-m MODEL -p TEXT [options]",
      .about =
          "Answers one prompt and streams the text to standard output. Ctrl-C ends the answer.\n"
          "\n"
          "--json prints {text, tokens, prompt_tokens, logits_hash, mask, timings, threads, kernels,\n"
          "finish_reason}. tokens are the ids that were picked, an end token included; logits_hash is of\n"
          "the logits of the last pick and is the same on every machine, kernel set and thread count.\n"
          "With --bank there is also routing: {cluster, distance, depth, level, routing_ms, ...}.",
      .examples =
          "  skipstone run -m model.gguf -p 'The capital of France is' -n 16 --temp 0\n"
          "  skipstone run -m model.gguf --chat -p 'Name three rivers.' --seed 7\n"
          "  skipstone run -m model.gguf -p 'Once' --skip 'attn:3,7;ffn:12' --json\n"
          "  git diff | skipstone run -m model.gguf --chat --system 'Describe this change.' -f -",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = &a->operand,
      .max_operands = 1,
  };
  return options_parse(&c, argc, argv);
}

static int read_prompt(const run_args *a, buffer *prompt) {
  ss_error err = {0};
  const int n_given = (a->prompt != NULL) + (a->file != NULL) + (a->operand != NULL);
  if (n_given != 1) {
    say(n_given ? "run: more than one prompt; give -p TEXT or -f FILE" : "run: no prompt; give -p TEXT or -f FILE");
    return CODE_USAGE;
  }
  const char *text = a->prompt ? a->prompt : a->operand;
  const char *path = a->file ? a->file : !strcmp(text, "-") ? "-" : NULL;
  if (path) return read_all(prompt, path, &err) == SS_OK ? CODE_OK : report_failure(&err);
  buffer_add(prompt, text, strlen(text));
  return CODE_OK;
}

/* The prompt's tokens, formatted as a chat where that is asked for. */
static ss_status prompt_tokens(run_state *s, const run_args *a, ss_error *err) {
  const bool chat = a->chat || a->system;
  buffer formatted = {0};
  ss_status status = SS_OK;
  if (chat) {
    const ss_chat_message messages[] = {{text_of("system"), text_of(a->system ? a->system : "")},
                                        {text_of("user"), buffer_text(&s->prompt)}};
    const size_t first = a->system ? 0 : 1;
    status = format_chat(&formatted, s->engine.model, messages + first, 2 - first, err);
  }
  const uint32_t flags = SS_TOKENIZE_BOS | (a->plain && !chat ? SS_TOKENIZE_PLAIN : SS_TOKENIZE_SPECIAL);
  if (status == SS_OK)
    status = tokenize_text(&s->tokens, s->engine.tokenizer, buffer_text(chat ? &formatted : &s->prompt), flags, err);
  buffer_free(&formatted);
  return status;
}

static void show_on_stdout(void *arg, ss_text text) {
  (void)arg;
  fwrite(text.data, 1, text.len, stdout);
  fflush(stdout);
}

static ss_status run_prompt(run_state *s, const run_args *a, ss_error *err) {
  const ss_sampler_options *sampler = &a->sampling.sampler;
  uint32_t context = a->session.context;
  if (context == 0) { /* what the prompt and the answer need */
    const uint64_t need = (uint64_t)s->tokens.n + a->sampling.max_tokens;
    context = (uint32_t)(need < 16777216 ? need : 16777216);
  }
  const ss_session_options options = {.context = context,
                                      .chunk = a->session.chunk,
                                      .max_logits = 1,
                                      .run_mask = &s->mask,
                                      .recovery = s->route.recovery};
  ss_status status = ss_session_create(&s->session, s->engine.model, &options, s->engine.host, err);
  if (status != SS_OK) return status;
  status = ss_sampler_create(&s->sampler, s->engine.info.n_vocab, sampler, s->engine.host, err);
  if (status != SS_OK) return status;
  interrupt_begin();
  status = generate(&s->result, &s->engine, s->session, s->sampler, &a->sampling, s->tokens.items, s->tokens.n,
                    a->json ? NULL : show_on_stdout, NULL, err);
  interrupt_end();
  return status;
}

/* ---- reports ---- */

static void print_json(const run_state *s) {
  const generation *g = &s->result;
  json j = {.out = stdout};
  char hash[17];
  snprintf(hash, sizeof hash, "%016llx", (unsigned long long)g->logits_hash);
  json_open(&j, NULL, '{');
  json_text(&j, "text", buffer_text(&g->text));
  json_open(&j, "tokens", '[');
  for (size_t i = 0; i < g->tokens.n; i++) json_int(&j, NULL, g->tokens.items[i]);
  json_close(&j);
  json_uint(&j, "prompt_tokens", s->tokens.n);
  json_string(&j, "logits_hash", hash);
  mask_report_json(&j, "mask", &s->report);
  if (s->router.bank) routing_json(&j, "routing", &s->router, &s->route);
  json_open(&j, "timings", '{');
  json_fixed(&j, "load_ms", s->engine.load_ms, 3);
  json_fixed(&j, "prefill_ms", g->prefill_ms, 3);
  json_uint(&j, "prefill_tokens", g->prefill_tokens);
  json_fixed(&j, "prefill_tps", per_second(g->prefill_tokens, g->prefill_ms), 2);
  json_fixed(&j, "decode_ms", g->decode_ms, 3);
  json_uint(&j, "decode_tokens", g->decode_tokens);
  json_fixed(&j, "decode_tps", per_second(g->decode_tokens, g->decode_ms), 2);
  json_close(&j);
  json_uint(&j, "threads", s->engine.host->n_threads);
  json_string(&j, "kernels", s->engine.info.kernels);
  json_string(&j, "finish_reason", g->finish_reason);
  json_done(&j);
}

static void print_summary(const run_state *s) {
  const generation *g = &s->result;
  if (s->router.bank)
    fprintf(stderr, "cluster %u, distance %.3f, routed in %.1f ms; ", s->route.cluster, (double)s->route.distance,
            s->route.ms);
  fprintf(stderr,
          "%zu prompt tokens at %.1f/s, %zu tokens at %.1f/s (%s), %u of %u blocks (%.1f %% of MACs skipped), "
          "%u thread%s, %s, loaded in %.2f s\n",
          g->prefill_tokens, per_second(g->prefill_tokens, g->prefill_ms), g->tokens.n,
          per_second(g->decode_tokens, g->decode_ms), g->finish_reason, s->report.blocks_run, s->report.blocks_total,
          100 * s->report.macs_skipped, s->engine.host->n_threads, s->engine.host->n_threads == 1 ? "" : "s",
          s->engine.info.kernels, s->engine.load_ms / 1e3);
}

/* What runs: all but --skip, or what the bank says for this prompt. */
static int choose_mask(run_state *s, const run_args *a) {
  ss_error err = {0};
  if (!bank_options_fit(&a->bank, "run", "depth")) return CODE_USAGE;
  if (a->bank.bank && a->session.skip) {
    say("run: --skip and --bank exclude each other");
    return CODE_USAGE;
  }
  if (a->bank.bank) {
    ss_status status = router_open(&s->router, &s->engine, &a->bank, &err);
    if (status == SS_OK) status = route_text(&s->router, buffer_text(&s->prompt), &s->route, &err);
    if (status != SS_OK) return report_failure(&err);
    s->mask = s->route.mask;
  } else if (ss_mask_parse_skip(&s->mask, s->engine.info.n_layers, a->session.skip ? a->session.skip : "", &err) !=
             SS_OK) {
    say("run: %s", err.message);
    return CODE_USAGE;
  }
  return CODE_OK;
}

static void run_free(run_state *s) {
  router_close(&s->router);
  generation_free(&s->result);
  ss_sampler_free(s->sampler);
  ss_session_free(s->session);
  mask_report_free(&s->report);
  token_list_free(&s->tokens);
  buffer_free(&s->prompt);
  engine_close(&s->engine);
}

static int run(run_state *s, const run_args *a) {
  ss_error err = {0};
  int code = read_prompt(a, &s->prompt);
  if (code == CODE_OK) code = engine_open(&s->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&s->engine);
  if (code == CODE_OK) code = choose_mask(s, a);
  if (code != CODE_OK) return code;
  ss_status status = mask_report_make(&s->report, s->engine.model, &s->mask, &err);
  if (status == SS_OK) status = prompt_tokens(s, a, &err);
  if (status == SS_OK && s->tokens.n == 0) {
    say("run: the prompt is empty");
    return CODE_USAGE;
  }
  if (status == SS_OK) status = run_prompt(s, a, &err);
  if (!a->json && s->result.text.len) {
    fputc('\n', stdout);
    fflush(stdout);
  }
  if (status != SS_OK) return report_failure(&err);
  if (a->json) print_json(s);
  if (a->verbose || (!a->json && isatty(STDERR_FILENO))) print_summary(s);
  return strcmp(s->result.finish_reason, "abort") ? CODE_OK : CODE_INTERRUPTED;
}

int cmd_run(int argc, char **argv) {
  run_args a = {.sampling = {.sampler = ss_sampler_defaults(), .max_tokens = 512}};
  run_state s = {0};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&s, &a);
  run_free(&s);
  option_list_free(&a.sampling.stops);
  return code;
}
