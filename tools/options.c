#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

void option_list_free(option_list *list) {
  free(list->items);
  *list = (option_list){0};
}

/* ---- names ---- */

#define MAX_NAME 40

/* Levenshtein distance of two short names, by one row of the table. */
static size_t edit_distance(const char *a, const char *b) {
  const size_t n = strlen(b);
  size_t row[MAX_NAME + 1];
  if (n > MAX_NAME) return MAX_NAME;
  for (size_t j = 0; j <= n; j++) row[j] = j;
  for (size_t i = 0; a[i]; i++) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < n; j++) {
      const size_t replace = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      const size_t step = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
      row[j + 1] = step < replace ? step : replace;
    }
  }
  return row[n];
}

const char *nearest_name(const char *text, const char *const *names) {
  const char *best = NULL;
  size_t best_distance = strlen(text) / 3 + 2; /* farther than this is no help */
  if (strlen(text) > MAX_NAME) return NULL;
  for (; *names; names++) {
    const bool starts = strlen(text) >= 2 && !strncmp(*names, text, strlen(text));
    const size_t distance = starts ? 1 : edit_distance(text, *names);
    if (distance < best_distance) best = *names, best_distance = distance;
  }
  return best;
}

static parse_result unknown_option(const command *c, const char *given, size_t len) {
  char name[MAX_NAME + 1];
  snprintf(name, sizeof name, "%.*s", (int)(len < MAX_NAME ? len : MAX_NAME), given);
  const char **names = take_memory(c->n_options + 2, sizeof *names);
  size_t n = 0;
  for (size_t i = 0; i < c->n_options; i++) names[n++] = c->options[i].name;
  names[n++] = "help";
  names[n] = NULL;
  const char *near = nearest_name(name, names);
  if (near) say("%s: unknown option --%s; did you mean --%s?", c->name, name, near);
  else say("%s: unknown option --%s; see skipstone %s --help", c->name, name, c->name);
  free(names);
  return PARSE_BAD;
}

/* ---- values ---- */

bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out) {
  char *end;
  if (!isdigit((unsigned char)text[0])) return false; /* strtoull takes signs and white space */
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  if (errno || *end || value < min || value > max) return false;
  *out = value;
  return true;
}

static parse_result bad_value(const command *c, const option *o, const char *value, const char *want) {
  say("%s: --%s %s: want %s", c->name, o->name, value, want);
  return PARSE_BAD;
}

static parse_result set_option(const command *c, const option *o, const char *value) {
  const bool limited = o->min != 0 || o->max != 0;
  char want[96];
  if (o->text) *o->text = value;
  if (o->list) {
    o->list->items = grow_memory(o->list->items, o->list->n + 1, sizeof *o->list->items);
    o->list->items[o->list->n++] = value;
  }
  if (o->u32 || o->u64) {
    const uint64_t min = limited ? (uint64_t)o->min : 0;
    const uint64_t max = limited ? (uint64_t)o->max : o->u32 ? UINT32_MAX : UINT64_MAX;
    uint64_t number;
    snprintf(want, sizeof want, "a whole number from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    if (!parse_number(value, min, max, &number)) return bad_value(c, o, value, want);
    if (o->u32) *o->u32 = (uint32_t)number;
    else *o->u64 = number;
  }
  if (o->real) {
    char *end;
    const double number = strtod(value, &end);
    const bool is_number = end != value && !*end && isfinite(number);
    if (limited) snprintf(want, sizeof want, "a number from %g to %g", o->min, o->max);
    else snprintf(want, sizeof want, "a number");
    if (!is_number || (limited && (number < o->min || number > o->max))) return bad_value(c, o, value, want);
    *o->real = (float)number;
  }
  return PARSE_OK;
}

/* ---- parsing ---- */

static const option *find_letter(const command *c, char letter) {
  for (size_t i = 0; i < c->n_options; i++)
    if (c->options[i].letter == letter) return &c->options[i];
  return NULL;
}

static const option *find_name(const command *c, const char *name, size_t len) {
  for (size_t i = 0; i < c->n_options; i++)
    if (strlen(c->options[i].name) == len && !memcmp(c->options[i].name, name, len)) return &c->options[i];
  return NULL;
}

/* One option at argv[*i], which starts with '-'; its value may be the next argument. */
static parse_result parse_option(const command *c, int argc, char **argv, int *i) {
  const char *arg = argv[*i], *value = NULL;
  const option *o;
  if (arg[1] == '-') {
    const char *name = arg + 2, *equals = strchr(name, '=');
    const size_t len = equals ? (size_t)(equals - name) : strlen(name);
    o = find_name(c, name, len);
    if (!o) return unknown_option(c, name, len);
    if (equals) value = equals + 1;
  } else {
    o = find_letter(c, arg[1]);
    if (!o) {
      say("%s: unknown option -%c; see skipstone %s --help", c->name, arg[1], c->name);
      return PARSE_BAD;
    }
    if (arg[2]) value = arg + 2;
  }
  if (o->flag) {
    if (value) {
      say("%s: --%s takes no value, found %s", c->name, o->name, value);
      return PARSE_BAD;
    }
    *o->flag = true;
    return PARSE_OK;
  }
  if (!value) {
    if (*i + 1 >= argc) {
      say("%s: --%s needs a value: %s", c->name, o->name, o->argument);
      return PARSE_BAD;
    }
    value = argv[++*i];
  }
  return set_option(c, o, value);
}

parse_result options_parse(const command *c, int argc, char **argv) {
  size_t n_operands = 0;
  bool only_operands = false;
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--")) break;
    else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
      options_help(c, stdout);
      return PARSE_HELP;
    }
  for (int i = 1; i < argc; i++) {
    if (!only_operands && !strcmp(argv[i], "--")) only_operands = true;
    else if (!only_operands && argv[i][0] == '-' && argv[i][1]) {
      const parse_result result = parse_option(c, argc, argv, &i);
      if (result != PARSE_OK) return result;
    } else if (n_operands < c->max_operands) c->operands[n_operands++] = argv[i];
    else {
      say("%s: unexpected argument %s; see skipstone %s --help", c->name, argv[i], c->name);
      return PARSE_BAD;
    }
  }
  return PARSE_OK;
}

/* ---- help ---- */

#define HELP_COLUMN 27

static void help_line(FILE *out, char letter, const char *name, const char *argument, const char *help) {
  char left[64], short_form[8] = "    ";
  if (letter) snprintf(short_form, sizeof short_form, "-%c, ", letter);
  const int len =
      snprintf(left, sizeof left, "  %s--%s%s%s", short_form, name, argument ? " " : "", argument ? argument : "");
  fprintf(out, "%-*s", HELP_COLUMN, left);
  if (len > HELP_COLUMN - 2) fprintf(out, "\n%*s", HELP_COLUMN, "");
  for (; *help; help++)
    if (*help == '\n') fprintf(out, "\n%*s", HELP_COLUMN, "");
    else fputc(*help, out);
  fputc('\n', out);
}

void options_help(const command *c, FILE *out) {
  fprintf(out, "Usage: skipstone %s %s\n\n%s\n\nOptions:\n", c->name, c->usage, c->about);
  for (size_t i = 0; i < c->n_options; i++) {
    const option *o = &c->options[i];
    help_line(out, o->letter, o->name, o->argument, o->help);
  }
  help_line(out, 'h', "help", NULL, "show this help");
  fprintf(out, "\nExamples:\n%s\n", c->examples);
}
