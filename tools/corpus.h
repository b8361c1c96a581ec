/* Calibration and evaluation text: JSON Lines with "text" and optionally "prompt" and "domain", or plain text. */
#ifndef SS_TOOL_CORPUS_H
#define SS_TOOL_CORPUS_H

#include "json_read.h"
#include "support.h"

typedef struct sample {
  ss_text prompt; /* what a router sees: the file's prompt, else the text's first 240 characters */
  ss_text text;   /* all of it, the prompt included */
  uint32_t domain; /* of corpus.domains: the sample's own, else its file's name */
  bool instruction; /* the file gave the prompt, and it is more than the beginning of the text */
} sample;

typedef struct corpus {
  sample *samples;
  size_t n, capacity;
  char **domains;
  uint32_t n_domains;
  buffer *files; /* what the samples point into */
  size_t n_files;
  size_t
      plain_bytes; /* a sample of plain text ends at the first blank line behind so many, or a line, or a space; 0: 1000 */
  uint64_t hash; /* of all prompts, texts and domains */
} corpus;

/* Appends a file's samples. A name that ends in .jsonl or .json is JSON Lines: an object a line, and a line without "text" is an
 * error that names it. Any other file is plain text, cut at blank lines into samples. */
ss_status corpus_add(corpus *c, const char *path, ss_error *err);
void corpus_free(corpus *c);

/* Keeps at most n samples, drawn by seed, in their order. */
void corpus_draw(corpus *c, size_t n, uint64_t seed);

/* What a path's samples are of, without a domain of their own: "data/math.heldout.jsonl" is math. */
ss_text domain_of_path(const char *path);

/* Calls take for each line of JSON Lines that is not empty, an object; the first failure ends it. `data` is changed and
 * must outlive what take keeps of it. Messages name the path and the line. */
typedef ss_status json_line(void *arg, const json_value *line, const char *path, size_t number, ss_error *err);
ss_status read_json_lines(char *data, const char *path, json_line *take, void *arg, ss_error *err);

/* "GIVEN; samples: math 320, code 17": for a bank's provenance, to be freed. given may be NULL. */
char *corpus_provenance(const corpus *c, const char *given);

#endif
