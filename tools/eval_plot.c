/* skipstone eval plot: results of eval nll and eval choice as an SVG, quality against cost. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "commands.h"
#include "json_read.h"
#include "options.h"
#include "plot_svg.h"
#include "state.h"

#define MAX_FILES 64

typedef struct plot_args {
  const char *files[MAX_FILES + 1], *out, *x, *y, *title;
  option_list without;
  float max_loss;
} plot_args;

static parse_result parse(plot_args *a, int argc, char **argv) {
  const option options[] = {
      {.name = "out", .letter = 'o', .text = &a->out, .argument = "FILE", .help = "the SVG (default: standard output)"},
      {.name = "x",
       .text = &a->x,
       .argument = "macs|prefill|decode",
       .help =
           "against the share of multiply-adds skipped, or tokens/s\nas measured by eval nll --speed (default macs)"},
      {.name = "loss",
       .text = &a->y,
       .argument = "excess|kl",
       .help = "of eval nll: NLL over dense, or KL (default excess)"},
      {.name = "max-loss",
       .real = &a->max_loss,
       .argument = "Y",
       .min = 1e-6,
       .max = 1e6,
       .help = "cuts the loss's axis there"},
      {.name = "without",
       .list = &a->without,
       .argument = "SERIES",
       .help = "leaves out rows, by the beginning of their names; may be\nrepeated"},
      {.name = "title", .text = &a->title, .argument = "TEXT", .help = "above the plot (default: the model's name)"},
  };
  const command c = {
      .name = "eval plot",
      .usage = "FILE... [options]",
      .about =
          "Draws the JSON of eval nll (left) and eval choice (right): a line for each way to choose a mask, a point for\n"
          "each depth, with its 95 % interval. Give results of one task on the same texts only.",
      .examples =
          "  skipstone eval plot nll.json choice.json -o quality.svg\n"
          "  skipstone eval plot nll.json --x decode --loss kl -o speed.svg",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->files,
      .max_operands = MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct result {
  const char *path;
  buffer text;
  json_document document;
  bool is_nll;
  const json_value *rows;
} result;

typedef struct plot {
  const plot_args *args;
  result results[MAX_FILES];
  uint32_t n_results;
  plot_panel panels[2]; /* loss, retention */
} plot;

static bool text_is(ss_text text, const char *want) {
  return text.len == strlen(want) && !memcmp(text.data, want, text.len);
}

static ss_status read_result(result *r, const char *path, ss_error *err) {
  r->path = path;
  buffer_add(&r->text, "", 0);
  const ss_status status = read_all(&r->text, path, err);
  if (status != SS_OK) return status;
  if (!json_read(&r->document, r->text.data))
    return ss_fail(err, SS_E_FORMAT, "%s: byte %zu: want %s", path, r->document.at + 1, r->document.wrong);
  const json_value *task = json_member_of(r->document.values, "task", JSON_STRING);
  r->rows = json_member_of(r->document.values, "rows", JSON_ARRAY);
  r->is_nll = task && text_is(task->text, "nll");
  if (!r->rows || !task || (!r->is_nll && !text_is(task->text, "choice")))
    return ss_fail(err, SS_E_FORMAT, "%s: no result of eval nll or eval choice", path);
  return SS_OK;
}

static double number_of(const json_value *object, const char *key) {
  const json_value *v = json_member_of(object, key, JSON_NUMBER);
  return v ? v->number : NAN;
}

/* The row of that name in an nll result; NULL: none. */
static const json_value *find_row(const plot *p, ss_text name) {
  for (uint32_t i = 0; i < p->n_results; i++) {
    const json_value *rows = p->results[i].rows, *row = json_first(rows);
    for (uint32_t k = 0; p->results[i].is_nll && k < rows->n; k++, row = json_next(row)) {
      const json_value *found = json_member_of(row, "name", JSON_STRING);
      if (found && found->text.len == name.len && !memcmp(found->text.data, name.data, name.len)) return row;
    }
  }
  return NULL;
}

static double cost_of(const plot *p, const json_value *row, ss_text name) {
  const char *x = p->args->x;
  if (!x || !strcmp(x, "macs")) return number_of(row, "macs_skipped");
  return number_of(find_row(p, name), !strcmp(x, "prefill") ? "prefill_tokens_per_second" : "decode_tokens_per_second");
}

static bool is_left_out(const plot *p, ss_text name) {
  for (size_t i = 0; i < p->args->without.n; i++) {
    const char *prefix = p->args->without.items[i];
    if (strlen(prefix) <= name.len && !memcmp(prefix, name.data, strlen(prefix))) return true;
  }
  return false;
}

static ss_status add_row(plot *p, const result *r, const json_value *row, ss_error *err) {
  const json_value *name = json_member_of(row, "name", JSON_STRING),
                   *series = json_member_of(row, "series", JSON_STRING);
  const bool kl = p->args->y && !strcmp(p->args->y, "kl");
  const json_value *y = json_member_of(row, !r->is_nll ? "retention" : kl ? "kl" : "excess_nll", JSON_OBJECT);
  plot_panel *panel = &p->panels[r->is_nll ? 0 : 1];
  if (!name || !series || !y) return ss_fail(err, SS_E_FORMAT, "%s: a row without name, series or value", r->path);
  if (is_left_out(p, name->text)) return SS_OK;
  plot_point point = {.x = cost_of(p, row, name->text),
                      .y = number_of(y, "mean"),
                      .low = number_of(y, "low"),
                      .high = number_of(y, "high"),
                      .order = number_of(row, "macs_skipped")};
  if (!isfinite(point.x) || !isfinite(point.y) || !isfinite(point.low) || !isfinite(point.high))
    return p->args->x && !isfinite(point.x) && isfinite(point.y)
               ? SS_OK /* an oracle has no speed, and a row may not have been timed */
               : ss_fail(err, SS_E_FORMAT, "%s: %.*s: a value is missing or not finite", r->path, (int)name->text.len,
                         name->text.data);
  plot_series *to = plot_series_of(panel, series->text);
  for (uint32_t i = 0; i < to->n; i++)
    if (to->points[i].order == point.order)
      return point.order == 0.0 ? SS_OK /* dense: each result has it */
                                : ss_fail(err, SS_E_ARGUMENT, "%s: a second row %.*s: give results of one kind",
                                          r->path, (int)name->text.len, name->text.data);
  buffer label = {0};
  buffer_addf(&label, r->is_nll ? "%.*s: %.4f (%.4f, %.4f)" : "%.*s: %.3f (%.3f, %.3f)", (int)name->text.len,
              name->text.data, point.y, point.low, point.high);
  point.label = label.data;
  plot_add(to, point);
  return SS_OK;
}

static ss_status draw(plot *p, ss_error *err) {
  const plot_args *a = p->args;
  const bool speed = a->x && strcmp(a->x, "macs") != 0, kl = a->y && !strcmp(a->y, "kl");
  const char *x_title = !speed                     ? "multiply-adds of blocks skipped"
                        : !strcmp(a->x, "prefill") ? "prefill, tokens/s, routing included"
                                                   : "decode, tokens/s";
  p->panels[0] = (plot_panel){.title = kl ? "KL to the dense model" : "Loss over the dense model",
                              .x_title = x_title,
                              .y_title = kl ? "nats per token" : "nats per token over dense",
                              .percent_x = !speed,
                              .max_y = (double)a->max_loss};
  p->panels[1] = (plot_panel){.title = "Zero-shot accuracy kept",
                              .x_title = x_title,
                              .y_title = "share of the dense model's accuracy",
                              .percent_x = !speed,
                              .percent_y = true};
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && a->files[i]; i++) {
    status = read_result(&p->results[i], a->files[i], err);
    p->n_results++;
  }
  for (uint32_t i = 0; status == SS_OK && i < p->n_results; i++) {
    const json_value *rows = p->results[i].rows, *row = json_first(rows);
    for (uint32_t k = 0; status == SS_OK && k < rows->n; k++, row = json_next(row))
      status = add_row(p, &p->results[i], row, err);
  }
  if (status == SS_OK && !p->panels[0].n && !p->panels[1].n)
    status = ss_fail(err, SS_E_ARGUMENT, "eval plot: nothing to draw%s",
                     speed ? ": no row has a speed: eval nll --speed N measures it" : "");
  if (status != SS_OK) return status;
  const json_value *model = json_member_of(p->results[0].document.values, "model", JSON_STRING);
  buffer title = {0}, svg = {0};
  if (a->title) buffer_addf(&title, "%s", a->title);
  else buffer_addf(&title, "%.*s", model ? (int)model->text.len : 0, model ? model->text.data : "");
  const uint32_t first = p->panels[0].n ? 0 : 1, n = (p->panels[0].n != 0) + (p->panels[1].n != 0);
  plot_write(&svg, title.data, p->panels + first, n);
  if (a->out) status = write_whole(a->out, svg.data, svg.len, err);
  else fwrite(svg.data, 1, svg.len, stdout);
  buffer_free(&title);
  buffer_free(&svg);
  return status;
}

static bool is_one_of(const char *name, const char *value, const char *const *names) {
  if (!value) return true;
  for (size_t i = 0; names[i]; i++)
    if (!strcmp(value, names[i])) return true;
  say("eval plot: --%s %s: see skipstone eval plot --help", name, value);
  return false;
}

static int run(plot *p) {
  const plot_args *a = p->args;
  ss_error err = {0};
  if (!a->files[0]) {
    say("eval plot: no results: give FILE...");
    return CODE_USAGE;
  }
  if (!is_one_of("x", a->x, (const char *const[]){"macs", "prefill", "decode", NULL}) ||
      !is_one_of("loss", a->y, (const char *const[]){"excess", "kl", NULL}))
    return CODE_USAGE;
  return draw(p, &err) == SS_OK ? CODE_OK : report_failure(&err);
}

int eval_plot(int argc, char **argv) {
  plot_args a = {0};
  plot p = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&p);
  for (uint32_t i = 0; i < p.n_results; i++) {
    json_document_free(&p.results[i].document);
    buffer_free(&p.results[i].text);
  }
  for (uint32_t i = 0; i < 2; i++) plot_panel_free(&p.panels[i]);
  option_list_free(&a.without);
  return code;
}
