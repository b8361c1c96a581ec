#include "corpus.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "json_read.h"

#define PROMPT_CHARACTERS 240
#define PLAIN_BYTES 1000

/* ---- samples ---- */

static uint32_t find_domain(corpus *c, ss_text name) {
  for (uint32_t i = 0; i < c->n_domains; i++)
    if (strlen(c->domains[i]) == name.len && !memcmp(c->domains[i], name.data, name.len)) return i;
  c->domains = grow_memory(c->domains, c->n_domains + 1, sizeof *c->domains);
  char *copy = take_memory(name.len + 1, 1);
  memcpy(copy, name.data, name.len);
  copy[name.len] = 0;
  c->domains[c->n_domains] = copy;
  return c->n_domains++;
}

/* "data/math.heldout.jsonl" is math */
ss_text domain_of_path(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  return (ss_text){name, strcspn(name, ".")};
}

static ss_text first_characters(ss_text text, size_t n) {
  size_t at = 0;
  for (; at < text.len; at++) {
    if (((unsigned char)text.data[at] & 0xc0) == 0x80) continue;
    if (n-- == 0) break;
  }
  return (ss_text){text.data, at};
}

/* prompt and domain may be without data: the text's beginning, the file's name */
static void add_sample(corpus *c, ss_text text, ss_text prompt, ss_text domain) {
  if (c->n == c->capacity) {
    c->capacity = c->capacity ? 2 * c->capacity : 256;
    c->samples = grow_memory(c->samples, c->capacity, sizeof *c->samples);
  }
  const ss_text beginning = first_characters(text, PROMPT_CHARACTERS);
  const bool same = prompt.len == beginning.len && !memcmp(prompt.data, beginning.data, beginning.len);
  const sample s = {.prompt = prompt.data ? prompt : beginning,
                    .text = text,
                    .domain = find_domain(c, domain),
                    .instruction = prompt.len && !same};
  const uint64_t shape[] = {s.prompt.len, s.text.len, s.domain};
  c->hash = ss_fnv1a(c->hash ? c->hash : SS_FNV_START, shape, sizeof shape);
  c->hash = ss_fnv1a(ss_fnv1a(c->hash, s.prompt.data, s.prompt.len), s.text.data, s.text.len);
  c->samples[c->n++] = s;
}

ss_status read_json_lines(char *data, const char *path, json_line *take, void *arg, ss_error *err) {
  json_document d = {0};
  ss_status status = SS_OK;
  size_t number = 1;
  for (char *line = data; status == SS_OK && line && *line; number++) {
    char *end = strchr(line, '\n');
    if (end) *end = 0;
    if (line[strspn(line, " \t\r")]) {
      if (!json_read(&d, line))
        status = ss_fail(err, SS_E_FORMAT, "%s: line %zu, byte %zu: want %s", path, number, d.at + 1, d.wrong);
      else if (d.values[0].kind != JSON_OBJECT)
        status = ss_fail(err, SS_E_FORMAT, "%s: line %zu: want an object", path, number);
      else status = take(arg, d.values, path, number, err);
    }
    line = end ? end + 1 : NULL;
  }
  json_document_free(&d);
  return status;
}

static ss_text string_of(const json_value *object, const char *key) {
  const json_value *v = json_member_of(object, key, JSON_STRING);
  return v ? v->text : (ss_text){NULL, 0};
}

static ss_status add_line(void *arg, const json_value *line, const char *path, size_t number, ss_error *err) {
  const ss_text text = string_of(line, "text"), domain = string_of(line, "domain");
  if (!text.data) return ss_fail(err, SS_E_FORMAT, "%s: line %zu: no \"text\"", path, number);
  add_sample(arg, text, string_of(line, "prompt"), domain.data ? domain : domain_of_path(path));
  return SS_OK;
}

/* Where a line of nothing but spaces begins at or behind `at`, or NULL. */
static char *blank_line(char *at) {
  while ((at = strchr(at, '\n'))) {
    at++;
    if (at[strspn(at, " \t\r")] == '\n') return at;
  }
  return NULL;
}

/* Where a sample of plain text ends: at the first blank line behind n bytes; where none comes before twice as many, at the end
 * of a line, and where none comes before four times as many, at a space. */
static char *sample_end(char *at, size_t n) {
  const size_t left = strlen(at);
  if (left <= n) return at + left;
  char *end = blank_line(at + n);
  if (end && end <= at + 2 * n) return end;
  if (left > 2 * n && (end = strchr(at + 2 * n, '\n')) && end <= at + 4 * n) return end;
  if (left <= 4 * n) return at + left;
  end = strpbrk(at + 4 * n, " \t\r\n");
  return end ? end : at + left;
}

static void add_plain(corpus *c, char *data, const char *path) {
  const size_t n_bytes = c->plain_bytes ? c->plain_bytes : PLAIN_BYTES;
  for (char *at = data + strspn(data, " \t\r\n"); *at;) {
    char *end = sample_end(at, n_bytes);
    add_sample(c, (ss_text){at, (size_t)(end - at)}, (ss_text){NULL, 0}, domain_of_path(path));
    at = end + strspn(end, " \t\r\n");
  }
}

ss_status corpus_add(corpus *c, const char *path, ss_error *err) {
  const size_t len = strlen(path);
  const bool lines = (len > 6 && !strcmp(path + len - 6, ".jsonl")) || (len > 5 && !strcmp(path + len - 5, ".json"));
  const size_t before = c->n;
  c->files = grow_memory(c->files, c->n_files + 1, sizeof *c->files);
  buffer *file = &c->files[c->n_files++];
  *file = (buffer){0};
  buffer_add(file, "", 0);
  ss_status status = read_all(file, path, err);
  if (status == SS_OK && memchr(file->data, 0, file->len))
    status = ss_fail(err, SS_E_FORMAT, "%s: a zero byte, want text", path);
  if (status == SS_OK && lines) status = read_json_lines(file->data, path, add_line, c, err);
  else if (status == SS_OK) add_plain(c, file->data, path);
  if (status == SS_OK && c->n == before) status = ss_fail(err, SS_E_FORMAT, "%s: no samples", path);
  return status;
}

void corpus_draw(corpus *c, size_t n, uint64_t seed) {
  if (n >= c->n) return;
  ss_rng rng = ss_rng_seed(seed);
  size_t kept = 0;
  for (size_t i = 0; i < c->n; i++) /* Knuth's algorithm S */
    if (ss_rng_below(&rng, c->n - i) < n - kept) c->samples[kept++] = c->samples[i];
  c->n = kept;
}

char *corpus_provenance(const corpus *c, const char *given) {
  buffer text = {0};
  uint32_t *counts = take_memory(c->n_domains, sizeof *counts);
  memset(counts, 0, c->n_domains * sizeof *counts);
  for (size_t i = 0; i < c->n; i++) counts[c->samples[i].domain]++;
  if (given) buffer_addf(&text, "%s; ", given);
  buffer_addf(&text, "samples:");
  for (uint32_t d = 0; d < c->n_domains; d++) buffer_addf(&text, "%s %s %u", d ? "," : "", c->domains[d], counts[d]);
  free(counts);
  return text.data;
}

void corpus_free(corpus *c) {
  for (size_t i = 0; i < c->n_files; i++) buffer_free(&c->files[i]);
  for (uint32_t i = 0; i < c->n_domains; i++) free(c->domains[i]);
  free(c->files);
  free(c->domains);
  free(c->samples);
  *c = (corpus){0};
}
