/* skipstone route: which cluster of a bank a prompt belongs to, and what it would run with. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "mask.h"
#include "routing.h"

typedef struct route_args {
  engine_options engine;
  bank_options bank;
  const char *text, *file, *operand;
  bool json, lines;
} route_args;

static parse_result parse(route_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      BANK_OPTION(a->bank),
      ENCODER_OPTION(a->bank),
      {.name = "text", .letter = 'p', .text = &a->text, .argument = "TEXT", .help = "the prompt"},
      {.name = "file",
       .letter = 'f',
       .text = &a->file,
       .argument = "FILE",
       .help = "the prompt from a file; -: standard input"},
      {.name = "lines", .flag = &a->lines, .help = "every line is a prompt of its own; prints a line each"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print one JSON object a prompt"},
  };
  const command c = {
      .name = "route",
      .usage = "-m MODEL --bank BANK TEXT [options]",
      .about =
          "Embeds a prompt, finds its nearest cluster in a mask bank, and prints the cluster, the distance and\n"
          "the mask of each depth level.",
      .examples =
          "  skipstone route -m model.gguf --bank bank.gguf 'Write a poem about rain.'\n"
          "  skipstone route -m model.gguf --bank bank.gguf --lines --json -f prompts.txt",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = &a->operand,
      .max_operands = 1,
  };
  return options_parse(&c, argc, argv);
}

/* The masks of the levels for one routed prompt. */
static ss_status print_route(const route_args *a, const engine *e, const router *r, const routing *route,
                             ss_error *err) {
  json j = {.out = stdout};
  ss_status status = SS_OK;
  if (a->json) {
    json_open(&j, NULL, '{');
    routing_json(&j, "routing", r, route);
    json_open(&j, "levels", '[');
  } else if (a->lines) {
    printf("%u\t%.4f\n", route->cluster, (double)route->distance);
    return SS_OK;
  } else {
    if (route->cluster < r->info.n_clusters) printf("cluster %u of %u", route->cluster, r->info.n_clusters);
    else printf("no cluster: the global mask");
    printf(", distance %.4f, routed in %.1f ms by %.*s\n", (double)route->distance, route->ms,
           (int)r->info.encoder_kind.len, r->info.encoder_kind.data);
  }
  for (uint32_t i = 0; status == SS_OK && i < r->info.n_levels; i++) {
    ss_mask mask;
    mask_report report = {0};
    status = ss_bank_mask(r->bank, route->cluster, 1.0 - (double)r->info.levels[i], &mask, err);
    if (status == SS_OK) status = mask_report_make(&report, e->model, &mask, err);
    if (status == SS_OK && a->json) {
      json_open(&j, NULL, '{');
      json_real(&j, "level", (double)r->info.levels[i], true);
      mask_report_json(&j, "mask", &report);
      json_close(&j);
    } else if (status == SS_OK) {
      printf("  depth %.4f: %2u of %u blocks, %llu of %llu units skipped: %s\n", 1.0 - (double)r->info.levels[i],
             report.blocks_run, report.blocks_total, (unsigned long long)report.units_skipped,
             (unsigned long long)report.units_total, report.skip);
    }
    mask_report_free(&report);
  }
  if (a->json && status == SS_OK) json_done(&j);
  return status;
}

static ss_status route_all(const route_args *a, const engine *e, router *r, ss_text text, ss_error *err) {
  ss_status status = SS_OK;
  do {
    const char *end = a->lines ? memchr(text.data, '\n', text.len) : NULL;
    const ss_text prompt = {text.data, end ? (size_t)(end - text.data) : text.len};
    routing route;
    status = route_text(r, prompt, &route, err);
    if (status == SS_OK) status = print_route(a, e, r, &route, err);
    const size_t used = prompt.len + (end != NULL);
    text = (ss_text){text.data + used, text.len - used};
  } while (status == SS_OK && text.len);
  return status;
}

static int route(const route_args *a, engine *e, router *r, buffer *text) {
  ss_error err = {0};
  const int n_given = (a->text != NULL) + (a->file != NULL) + (a->operand != NULL);
  if (!a->bank.bank || n_given != 1) {
    say(!a->bank.bank ? "route: no bank: give --bank BANK" : "route: want one prompt: TEXT, -p TEXT or -f FILE");
    return CODE_USAGE;
  }
  if (a->file && read_all(text, a->file, &err) != SS_OK) return report_failure(&err);
  if (!a->file) buffer_addf(text, "%s", a->text ? a->text : a->operand);
  const int code = engine_open(e, &a->engine);
  if (code != CODE_OK) return code;
  if (router_open(r, e, &a->bank, &err) != SS_OK) return report_failure(&err);
  return route_all(a, e, r, buffer_text(text), &err) == SS_OK ? CODE_OK : report_failure(&err);
}

int cmd_route(int argc, char **argv) {
  route_args a = {.bank = {.depth = 1}};
  engine e = {0};
  router r = {0};
  buffer text = {0};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = route(&a, &e, &r, &text);
  router_close(&r);
  engine_close(&e);
  buffer_free(&text);
  return code;
}
