/* A small JSON reader: one text to a flat list of values, in the order of the text. Strings are decoded where they stand. */
#ifndef SS_TOOL_JSON_READ_H
#define SS_TOOL_JSON_READ_H

#include "support.h"

typedef enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_kind;

typedef struct json_value {
  json_kind kind;
  uint32_t n; /* elements or members */
  uint32_t size; /* values from this one to the end of what is in it, itself included */
  ss_text key; /* of an object's member */
  ss_text text; /* of a string */
  double number; /* a bool is 0 or 1 */
} json_value;

typedef struct json_document {
  json_value *values; /* [n] the first is the whole */
  uint32_t n, capacity;
  const char *wrong; /* what was wanted where reading stopped */
  size_t at; /* that byte */
} json_document;

/* Reads a NUL-terminated text and changes it: what a former text of this document gave is gone. False: see wrong and at. */
bool json_read(json_document *d, char *text);
void json_document_free(json_document *d);

/* An array's or object's first value, and the one behind a value: for (i = 0, v = json_first(a); i < a->n; i++, v = json_next(v)) */
static inline const json_value *json_first(const json_value *v) { return v + 1; }
static inline const json_value *json_next(const json_value *v) { return v + v->size; }
/* A member by its key, the first of that name; NULL: none, or no object. */
const json_value *json_member(const json_value *object, const char *key);
/* The same when it is of that kind, else NULL. */
const json_value *json_member_of(const json_value *object, const char *key, json_kind kind);

#endif
