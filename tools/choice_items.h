/* Items of zero-shot evaluation, a JSON object a line, all of a file of one form:
 *
 *   {"context": ..., "choices": [...], "gold": n}         multiple choice: which continuation is likeliest
 *   {"contexts": [...], "continuation": ..., "gold": n}   after which context the one continuation is likeliest
 *   {"context": ..., "continuation": ...}                 is the continuation what the model says? */
#ifndef SS_TOOL_CHOICE_ITEMS_H
#define SS_TOOL_CHOICE_ITEMS_H

#include "corpus.h"

typedef enum item_form { FORM_CHOICES, FORM_CONTEXTS, FORM_CONTINUATION } item_form;

typedef struct choice_item {
  ss_text *contexts, *continuations; /* [n_options] of each option */
  ss_text prompt; /* what a router sees: the context, or what all contexts begin with, whole words */
  uint32_t n_options, gold, set;
  uint64_t number; /* its line */
} choice_item;

typedef struct choice_set {
  char *name; /* the file's, up to the first dot: "arc_easy" */
  item_form form;
  uint32_t first, n; /* its items */
} choice_set;

typedef struct choice_items {
  choice_item *items;
  choice_set *sets;
  uint32_t n, n_sets, capacity;
  buffer *files; /* what the items point into */
} choice_items;

/* Appends a file as a set: at most limit of its items (0: all), drawn by seed, in their order. */
ss_status choice_items_add(choice_items *c, const char *path, uint32_t limit, uint64_t seed, ss_error *err);
void choice_items_free(choice_items *c);

/* Bytes of a continuation, for normalising by length: without its leading white space. */
size_t continuation_bytes(ss_text continuation);

#endif
