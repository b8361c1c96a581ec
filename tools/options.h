/* Command-line options from a table. An entry's kind is given by which of its pointers is set:
 *
 *   const option options[] = {
 *     {.name = "count", .letter = 'n', .u32 = &n, .argument = "N", .help = "how many", .min = 1, .max = 64},
 *     {.name = "json", .flag = &as_json, .help = "print one JSON object"},
 *   };
 *
 * Accepted: --name value, --name=value, -n value, -nvalue, and -- to end the options. --help is always there. */
#ifndef SS_TOOL_OPTIONS_H
#define SS_TOOL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct option_list {
  const char **items; /* borrowed strings of argv */
  size_t n;
} option_list;
void option_list_free(option_list *list);

typedef struct option {
  const char *name;
  char letter; /* 0: none */
  bool *flag;
  const char **text;
  option_list *list; /* the option may be repeated */
  uint32_t *u32;
  uint64_t *u64;
  float *real;
  const char *argument; /* its name in the help */
  const char *help;     /* '\n' starts a continuation line */
  double min, max;      /* of a number, both included; both 0: no limits beyond the type's */
} option;

typedef struct command {
  const char *name;
  const char *usage;    /* behind "skipstone NAME " */
  const char *about;    /* a paragraph or more; no newline at the end */
  const char *examples; /* lines; no newline at the end */
  const option *options;
  size_t n_options;
  const char **operands; /* [max_operands] where plain arguments go, may be NULL */
  size_t max_operands;
} command;

typedef enum parse_result { PARSE_OK, PARSE_HELP, PARSE_BAD } parse_result;

/* Reads argv[1..]. PARSE_HELP: the help was printed on stdout; PARSE_BAD: the error was said on stderr. */
parse_result options_parse(const command *c, int argc, char **argv);
void options_help(const command *c, FILE *out);

/* A whole unsigned number within [min, max]; false when text is anything else. */
bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out);

/* The name nearest to `text` by edit distance, or NULL when none is near. names ends with NULL. */
const char *nearest_name(const char *text, const char *const *names);

#endif
