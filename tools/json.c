#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Length of the well-formed UTF-8 character at p (Unicode table 3-7), 0 when there is none. */
static size_t character_length(const unsigned char *p, size_t n) {
  if (p[0] < 0x80) return 1;
  const size_t len = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
                     : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
                     : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                                   : 0;
  if (len == 0 || len > n) return 0;
  for (size_t i = 1; i < len; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  const bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
  const bool outside = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f); /* surrogates, > U+10FFFF */
  return overlong || outside ? 0 : len;
}

void json_quote(FILE *out, ss_text text) {
  const unsigned char *p = (const unsigned char *)text.data, *end = p + text.len;
  fputc('"', out);
  while (p < end) {
    const size_t len = character_length(p, (size_t)(end - p));
    const char *at = *p ? strchr("\"\"\\\\\nn\tt\rr\bb\ff", *p) : NULL; /* pairs: character, letter of its escape */
    if (len == 0) fputs("\xef\xbf\xbd", out);
    else if (*p == '"' || *p == '\\') fprintf(out, "\\%c", *p);
    else if (*p < 0x20 && at) fprintf(out, "\\%c", at[1]);
    else if (*p < 0x20 || *p == 0x7f) fprintf(out, "\\u%04x", (unsigned)*p);
    else fwrite(p, 1, len, out);
    p += len ? len : 1;
  }
  fputc('"', out);
}

static void start_value(json *j, const char *key) {
  if (j->depth) {
    bool *some = &j->some[j->depth - 1];
    if (*some) fputc(',', j->out);
    *some = true;
  }
  if (key) {
    json_quote(j->out, (ss_text){key, strlen(key)});
    fputc(':', j->out);
  }
}

void json_open(json *j, const char *key, char bracket) {
  start_value(j, key);
  fputc(bracket, j->out);
  if (j->depth == JSON_MAX_DEPTH) return; /* no caller nests so deep */
  j->close[j->depth] = bracket == '{' ? '}' : ']';
  j->some[j->depth++] = false;
}

void json_close(json *j) { fputc(j->close[--j->depth], j->out); }

void json_done(json *j) {
  while (j->depth) json_close(j);
  fputc('\n', j->out);
}

void json_text(json *j, const char *key, ss_text text) {
  start_value(j, key);
  json_quote(j->out, text);
}

void json_string(json *j, const char *key, const char *text) { json_text(j, key, (ss_text){text, strlen(text)}); }

void json_uint(json *j, const char *key, uint64_t value) {
  start_value(j, key);
  fprintf(j->out, "%llu", (unsigned long long)value);
}

void json_int(json *j, const char *key, int64_t value) {
  start_value(j, key);
  fprintf(j->out, "%lld", (long long)value);
}

void json_fixed(json *j, const char *key, double value, int decimals) {
  if (!isfinite(value)) json_null(j, key);
  else {
    start_value(j, key);
    fprintf(j->out, "%.*f", decimals, value);
  }
}

void json_real(json *j, const char *key, double value, bool single) {
  char text[40];
  int digits = 6; /* as few as give the number back */
  if (!isfinite(value)) {
    json_null(j, key);
    return;
  }
  do snprintf(text, sizeof text, "%.*g", digits++, value);
  while (digits <= 17 && (single ? strtof(text, NULL) != (float)value : strtod(text, NULL) != value));
  start_value(j, key);
  fputs(text, j->out);
}

void json_bool(json *j, const char *key, bool value) {
  start_value(j, key);
  fputs(value ? "true" : "false", j->out);
}

void json_null(json *j, const char *key) {
  start_value(j, key);
  fputs("null", j->out);
}
