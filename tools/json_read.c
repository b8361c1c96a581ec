#include "json_read.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64

typedef struct reader {
  json_document *d;
  char *at; /* the text ends with a NUL */
} reader;

static bool want(reader *r, const char *what) {
  r->d->wrong = what;
  return false;
}

static void skip_space(reader *r) { r->at += strspn(r->at, " \t\r\n"); }

static bool take(reader *r, char c) {
  skip_space(r);
  if (*r->at != c) return false;
  r->at++;
  return true;
}

/* ---- strings ---- */

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

/* \uXXXX at r->at, a surrogate pair whole; a lone surrogate is U+FFFD. */
static bool take_escape(reader *r, uint32_t *code) {
  uint32_t low;
  if (!hex4(r->at + 2, code)) return false;
  r->at += 6;
  if (*code >= 0xd800 && *code < 0xdc00 && r->at[0] == '\\' && r->at[1] == 'u' && hex4(r->at + 2, &low) &&
      low >= 0xdc00 && low < 0xe000) {
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    r->at += 6;
  } else if (*code >= 0xd800 && *code < 0xe000) *code = 0xfffd;
  return true;
}

/* A string, decoded over itself: escapes are never shorter than what they stand for. */
static bool take_string(reader *r, ss_text *out) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  if (!take(r, '"')) return want(r, "a string");
  char *to = r->at;
  out->data = to;
  while (*r->at && *r->at != '"') {
    uint32_t code;
    const char *name;
    if (*r->at != '\\') *to++ = *r->at++;
    else if (r->at[1] == 'u' && take_escape(r, &code)) to = put_utf8(to, code);
    else if (r->at[1] && r->at[1] != 'u' && (name = strchr(names, r->at[1]))) {
      *to++ = values[name - names];
      r->at += 2;
    } else return want(r, "a valid escape");
  }
  if (!*r->at) return want(r, "the end of a string");
  r->at++;
  out->len = (size_t)(to - out->data);
  return true;
}

/* ---- values ---- */

static bool take_word(reader *r, const char *word) {
  const size_t n = strlen(word);
  if (strncmp(r->at, word, n) != 0) return false;
  r->at += n;
  return true;
}

static bool take_scalar(reader *r, json_value *v) {
  if (take_word(r, "null")) v->kind = JSON_NULL;
  else if (take_word(r, "true")) *v = (json_value){.kind = JSON_BOOL, .number = 1};
  else if (take_word(r, "false")) v->kind = JSON_BOOL;
  else {
    char *end = r->at;
    if (strchr("-0123456789", *r->at) && *r->at) v->number = strtod(r->at, &end);
    if (end == r->at) return want(r, "a value");
    v->kind = JSON_NUMBER;
    r->at = end;
  }
  return true;
}

static bool take_value(reader *r, ss_text key, uint32_t depth) {
  json_document *d = r->d;
  const uint32_t index = d->n;
  if (d->n == d->capacity) {
    d->capacity = d->capacity ? 2 * d->capacity : 64;
    d->values = grow_memory(d->values, d->capacity, sizeof *d->values);
  }
  json_value v = {0};
  d->n++;
  skip_space(r);
  const char open = *r->at;
  if (open == '"') {
    v.kind = JSON_STRING;
    if (!take_string(r, &v.text)) return false;
  } else if (open == '{' || open == '[') {
    const bool object = open == '{';
    if (depth == MAX_DEPTH) return want(r, "at most 64 brackets in each other");
    v.kind = object ? JSON_OBJECT : JSON_ARRAY;
    r->at++;
    for (bool more = !take(r, object ? '}' : ']'); more; v.n++) {
      ss_text name = {"", 0};
      if (v.n && take(r, object ? '}' : ']')) break;
      if (v.n && !take(r, ',')) return want(r, object ? "',' or '}'" : "',' or ']'");
      if (object && !take_string(r, &name)) return false;
      if (object && !take(r, ':')) return want(r, "':'");
      if (!take_value(r, name, depth + 1)) return false;
    }
  } else if (!take_scalar(r, &v)) return false;
  v.key = key;
  v.size = d->n - index;
  d->values[index] = v;
  return true;
}

bool json_read(json_document *d, char *text) {
  reader r = {.d = d, .at = text};
  d->n = 0;
  d->wrong = NULL;
  bool ok = take_value(&r, (ss_text){"", 0}, 0);
  skip_space(&r);
  if (ok && *r.at) ok = want(&r, "the end");
  d->at = (size_t)(r.at - text);
  return ok;
}

void json_document_free(json_document *d) {
  free(d->values);
  *d = (json_document){0};
}

const json_value *json_member(const json_value *object, const char *key) {
  if (!object || object->kind != JSON_OBJECT) return NULL;
  const json_value *v = json_first(object);
  for (uint32_t i = 0; i < object->n; i++, v = json_next(v))
    if (v->key.len == strlen(key) && !memcmp(v->key.data, key, v->key.len)) return v;
  return NULL;
}

const json_value *json_member_of(const json_value *object, const char *key, json_kind kind) {
  const json_value *v = json_member(object, key);
  return v && v->kind == kind ? v : NULL;
}
