/* A small JSON writer: compact, one line, correct commas and escapes.
 *
 *   json j = {.out = stdout};
 *   json_open(&j, NULL, '{');  json_uint(&j, "threads", 2);  json_close(&j);  json_done(&j);
 *
 * Inside an object every value needs a key, inside an array the key is NULL. */
#ifndef SS_TOOL_JSON_H
#define SS_TOOL_JSON_H

#include <stdint.h>
#include <stdio.h>

#include "skipstone.h"

#define JSON_MAX_DEPTH 32

typedef struct json {
  FILE *out;
  uint32_t depth;
  char close[JSON_MAX_DEPTH]; /* the bracket that ends each open level */
  bool some[JSON_MAX_DEPTH];  /* the level has a value: the next one needs a comma */
} json;

void json_open(json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(json *j);
void json_done(json *j); /* closes what is open and ends the line */

void json_text(json *j, const char *key, ss_text text); /* invalid UTF-8 becomes U+FFFD */
void json_string(json *j, const char *key, const char *text);
void json_uint(json *j, const char *key, uint64_t value);
void json_int(json *j, const char *key, int64_t value);
void json_fixed(json *j, const char *key, double value, int decimals); /* not finite: null */
void json_real(json *j, const char *key, double value, bool single); /* shortest that reads back; single: as a float */
void json_bool(json *j, const char *key, bool value);
void json_null(json *j, const char *key);

/* The quoted, escaped form of text alone. */
void json_quote(FILE *out, ss_text text);

#endif
