#include "corpus.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define PROMPT_CHARACTERS 240
#define PLAIN_BYTES 1000 /* a plain-text sample ends at the first blank line behind so many */

/* ---- one line of JSON, decoded in place ---- */

typedef struct scanner {
  char *at; /* the line ends with a NUL */
  const char *wrong; /* what was expected where it stopped, or NULL */
} scanner;

static void skip_space(scanner *s) { s->at += strspn(s->at, " \t\r\n"); }

static bool take(scanner *s, char c) {
  skip_space(s);
  if (*s->at != c) return false;
  s->at++;
  return true;
}

static bool hex4(const char *p, uint32_t *code) {
  *code = 0;
  for (int i = 0; i < 4; i++) {
    const char c = p[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return false;
    *code = *code << 4 | (uint32_t)digit;
  }
  return true;
}

static char *put_utf8(char *to, uint32_t code) {
  if (code < 0x80) *to++ = (char)code;
  else if (code < 0x800) {
    *to++ = (char)(0xc0 | code >> 6);
    *to++ = (char)(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    *to++ = (char)(0xe0 | code >> 12);
    *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    *to++ = (char)(0x80 | (code & 0x3f));
  } else {
    *to++ = (char)(0xf0 | code >> 18);
    *to++ = (char)(0x80 | (code >> 12 & 0x3f));
    *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    *to++ = (char)(0x80 | (code & 0x3f));
  }
  return to;
}

/* \uXXXX at s->at, a surrogate pair whole; a lone surrogate is U+FFFD. */
static bool take_escape(scanner *s, uint32_t *code) {
  uint32_t low;
  if (!hex4(s->at + 2, code)) return false;
  s->at += 6;
  if (*code >= 0xd800 && *code < 0xdc00 && s->at[0] == '\\' && s->at[1] == 'u' && hex4(s->at + 2, &low) &&
      low >= 0xdc00 && low < 0xe000) {
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    s->at += 6;
  } else if (*code >= 0xd800 && *code < 0xe000) *code = 0xfffd;
  return true;
}

/* A string, decoded over itself: escapes are never shorter than what they stand for. */
static bool take_string(scanner *s, ss_text *out) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  if (!take(s, '"')) {
    s->wrong = "a string";
    return false;
  }
  char *to = s->at;
  out->data = to;
  while (*s->at && *s->at != '"') {
    uint32_t code;
    const char *name;
    if (*s->at != '\\') *to++ = *s->at++;
    else if (s->at[1] == 'u' && take_escape(s, &code)) to = put_utf8(to, code);
    else if (s->at[1] && s->at[1] != 'u' && (name = strchr(names, s->at[1]))) {
      *to++ = values[name - names];
      s->at += 2;
    } else {
      s->wrong = "a valid escape";
      return false;
    }
  }
  if (!*s->at) {
    s->wrong = "the end of a string";
    return false;
  }
  s->at++;
  out->len = (size_t)(to - out->data);
  return true;
}

/* Steps over a value of no interest; brackets are matched outside strings. */
static bool skip_value(scanner *s) {
  ss_text ignored;
  size_t depth = 0;
  do {
    skip_space(s);
    if (*s->at == '"') {
      if (!take_string(s, &ignored)) return false;
    } else if (*s->at == '{' || *s->at == '[') {
      depth++;
      s->at++;
      continue;
    } else if (depth && (*s->at == '}' || *s->at == ']')) {
      depth--;
      s->at++;
    } else if (depth && (*s->at == ',' || *s->at == ':')) s->at++;
    else {
      const size_t n = strcspn(s->at, ",:{}[]\" \t\r\n");
      if (n == 0) {
        s->wrong = "a value";
        return false;
      }
      s->at += n;
    }
  } while (depth);
  return true;
}

typedef struct fields {
  ss_text prompt, text, domain; /* data NULL: not there */
} fields;

static bool key_is(ss_text key, const char *name) {
  return key.len == strlen(name) && !memcmp(key.data, name, key.len);
}

static bool take_fields(scanner *s, fields *out) {
  *out = (fields){0};
  s->wrong = "an object";
  if (!take(s, '{')) return false;
  if (take(s, '}')) return true;
  do {
    ss_text key;
    if (!take_string(s, &key)) return false;
    if (!take(s, ':')) {
      s->wrong = "':'";
      return false;
    }
    ss_text *field = key_is(key, "prompt")   ? &out->prompt
                     : key_is(key, "text")   ? &out->text
                     : key_is(key, "domain") ? &out->domain
                                             : NULL;
    skip_space(s);
    if (!(field && *s->at == '"' ? take_string(s, field) : skip_value(s))) return false;
  } while (take(s, ','));
  s->wrong = "',' or '}'";
  if (!take(s, '}')) return false;
  skip_space(s);
  s->wrong = "the end of the line";
  return *s->at == 0;
}

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
static ss_text domain_of_path(const char *path) {
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

static void add_sample(corpus *c, const fields *f, ss_text file_domain) {
  if (c->n == c->capacity) {
    c->capacity = c->capacity ? 2 * c->capacity : 256;
    c->samples = grow_memory(c->samples, c->capacity, sizeof *c->samples);
  }
  const sample s = {.prompt = f->prompt.data ? f->prompt : first_characters(f->text, PROMPT_CHARACTERS),
                    .text = f->text,
                    .domain = find_domain(c, f->domain.data ? f->domain : file_domain)};
  const uint64_t shape[] = {s.prompt.len, s.text.len, s.domain};
  c->hash = ss_fnv1a(c->hash ? c->hash : SS_FNV_START, shape, sizeof shape);
  c->hash = ss_fnv1a(ss_fnv1a(c->hash, s.prompt.data, s.prompt.len), s.text.data, s.text.len);
  c->samples[c->n++] = s;
}

static ss_status add_lines(corpus *c, char *data, const char *path, ss_error *err) {
  size_t number = 1;
  for (char *line = data; line && *line; number++) {
    char *end = strchr(line, '\n');
    if (end) *end = 0;
    if (line[strspn(line, " \t\r")]) {
      scanner s = {.at = line};
      fields f;
      if (!take_fields(&s, &f))
        return ss_fail(err, SS_E_FORMAT, "%s: line %zu, byte %zu: want %s", path, number, (size_t)(s.at - line) + 1,
                       s.wrong);
      if (!f.text.data) return ss_fail(err, SS_E_FORMAT, "%s: line %zu: no \"text\"", path, number);
      add_sample(c, &f, domain_of_path(path));
    }
    line = end ? end + 1 : NULL;
  }
  return SS_OK;
}

static void add_plain(corpus *c, char *data, const char *path) {
  for (char *at = data + strspn(data, "\r\n"); *at;) {
    char *end = at + strnlen(at, PLAIN_BYTES);
    end = strstr(end, "\n\n");
    if (!end) end = at + strlen(at);
    add_sample(c, &(fields){.text = {at, (size_t)(end - at)}}, domain_of_path(path));
    at = end + strspn(end, "\r\n");
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
  if (status == SS_OK && lines) status = add_lines(c, file->data, path, err);
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
