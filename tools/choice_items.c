#include "choice_items.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

typedef struct adding {
  choice_items *items;
  choice_set set;
  uint32_t set_index;
} adding;

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

size_t continuation_bytes(ss_text text) {
  size_t n = 0;
  while (n < text.len && is_space(text.data[n])) n++;
  return text.len - n;
}

/* What all contexts begin with, cut back to a whole word. */
static ss_text common_prefix(const ss_text *contexts, uint32_t n) {
  size_t len = contexts[0].len;
  for (uint32_t i = 1; i < n; i++) {
    size_t same = 0;
    while (same < len && same < contexts[i].len && contexts[0].data[same] == contexts[i].data[same]) same++;
    len = same;
  }
  const bool whole = len == contexts[0].len;
  while (!whole && len && !is_space(contexts[0].data[len - 1])) len--;
  while (len && is_space(contexts[0].data[len - 1])) len--;
  return (ss_text){contexts[0].data, len};
}

/* The strings of an array that has at least two, none empty. */
static bool take_options(const json_value *array, ss_text *out) {
  const json_value *v = json_first(array);
  for (uint32_t i = 0; i < array->n; i++, v = json_next(v)) {
    if (v->kind != JSON_STRING || !v->text.len) return false;
    out[i] = v->text;
  }
  return array->n >= 2;
}

static ss_status take_item(void *arg, const json_value *line, const char *path, size_t number, ss_error *err) {
  adding *a = arg;
  choice_items *c = a->items;
  const json_value *context = json_member_of(line, "context", JSON_STRING);
  const json_value *contexts = json_member_of(line, "contexts", JSON_ARRAY);
  const json_value *choices = json_member_of(line, "choices", JSON_ARRAY);
  const json_value *continuation = json_member_of(line, "continuation", JSON_STRING);
  const json_value *gold = json_member_of(line, "gold", JSON_NUMBER), *options = choices ? choices : contexts;
  const bool some = context && context->text.len && (choices || continuation);
  if (!some && !(contexts && continuation))
    return ss_fail(err, SS_E_FORMAT,
                   "%s: line %zu: want context and choices, contexts and continuation, or context and "
                   "continuation",
                   path, number);
  if (continuation && !continuation->text.len)
    return ss_fail(err, SS_E_FORMAT, "%s: line %zu: the continuation is empty", path, number);
  const item_form form = choices ? FORM_CHOICES : contexts ? FORM_CONTEXTS : FORM_CONTINUATION;
  choice_item item = {.n_options = form == FORM_CONTINUATION ? 1 : options->n, .set = a->set_index, .number = number};
  if (form != FORM_CONTINUATION && (!gold || !(gold->number >= 0 && gold->number < item.n_options)))
    return ss_fail(err, SS_E_FORMAT, "%s: line %zu: gold: want a number from 0 to %u", path, number,
                   item.n_options ? item.n_options - 1 : 0);
  if (a->set.n && form != a->set.form)
    return ss_fail(err, SS_E_FORMAT, "%s: line %zu: its form is not that of the lines before", path, number);
  a->set.form = form;
  a->set.n++;
  item.gold = gold && form != FORM_CONTINUATION ? (uint32_t)gold->number : 0;
  item.contexts = take_memory(2 * (size_t)item.n_options, sizeof *item.contexts);
  item.continuations = item.contexts + item.n_options;
  for (uint32_t i = 0; i < item.n_options; i++) {
    if (form != FORM_CONTEXTS) item.contexts[i] = context->text;
    if (form != FORM_CHOICES) item.continuations[i] = continuation->text;
  }
  if (c->n == c->capacity) {
    c->capacity = c->capacity ? 2 * c->capacity : 256;
    c->items = grow_memory(c->items, c->capacity, sizeof *c->items);
  }
  c->items[c->n++] = item; /* owned from here on */
  if (form != FORM_CONTINUATION && !take_options(options, form == FORM_CHOICES ? item.continuations : item.contexts))
    return ss_fail(err, SS_E_FORMAT, "%s: line %zu: %s: want at least two strings, none empty", path, number,
                   form == FORM_CHOICES ? "choices" : "contexts");
  c->items[c->n - 1].prompt = common_prefix(item.contexts, item.n_options);
  return SS_OK;
}

/* Keeps at most limit items of the set, drawn by seed. */
static void draw_items(choice_items *c, choice_set *set, uint32_t limit, uint64_t seed) {
  ss_rng rng = ss_rng_seed(ss_fnv1a(SS_FNV_START, set->name, strlen(set->name)) ^ seed); /* for any order of files */
  uint32_t kept = 0;
  for (uint32_t i = 0; i < set->n; i++) { /* Knuth's algorithm S */
    choice_item *item = &c->items[set->first + i];
    if (!limit || set->n <= limit || ss_rng_below(&rng, set->n - i) < limit - kept)
      c->items[set->first + kept++] = *item;
    else free(item->contexts);
  }
  set->n = kept;
  c->n = set->first + kept;
}

ss_status choice_items_add(choice_items *c, const char *path, uint32_t limit, uint64_t seed, ss_error *err) {
  const ss_text name = domain_of_path(path);
  buffer copy = {0};
  buffer_add(&copy, name.data, name.len);
  adding a = {.items = c, .set = {.name = copy.data, .first = c->n}, .set_index = c->n_sets};
  c->files = grow_memory(c->files, c->n_sets + 1, sizeof *c->files);
  c->sets = grow_memory(c->sets, c->n_sets + 1, sizeof *c->sets);
  buffer *file = &c->files[c->n_sets];
  *file = (buffer){0};
  buffer_add(file, "", 0);
  c->sets[c->n_sets++] = a.set;
  for (uint32_t i = 0; i + 1 < c->n_sets; i++)
    if (!strcmp(c->sets[i].name, copy.data))
      return ss_fail(err, SS_E_ARGUMENT, "%s: there is a set %s already", path, copy.data);
  ss_status status = read_all(file, path, err);
  if (status == SS_OK && memchr(file->data, 0, file->len))
    status = ss_fail(err, SS_E_FORMAT, "%s: a zero byte, want text", path);
  if (status == SS_OK) status = read_json_lines(file->data, path, take_item, &a, err);
  if (status == SS_OK && a.set.n == 0) status = ss_fail(err, SS_E_FORMAT, "%s: no items", path);
  if (status != SS_OK) return status;
  draw_items(c, &a.set, limit, seed);
  c->sets[c->n_sets - 1] = a.set;
  return SS_OK;
}

void choice_items_free(choice_items *c) {
  for (uint32_t i = 0; i < c->n; i++) free(c->items[i].contexts);
  for (uint32_t i = 0; i < c->n_sets; i++) {
    free(c->sets[i].name);
    buffer_free(&c->files[i]);
  }
  free(c->items);
  free(c->sets);
  free(c->files);
  *c = (choice_items){0};
}
