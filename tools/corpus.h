/* Calibration and evaluation text: JSON Lines with "text" and optionally "prompt" and "domain", or plain text. */
#ifndef SS_TOOL_CORPUS_H
#define SS_TOOL_CORPUS_H

#include "support.h"

typedef struct sample {
  ss_text prompt; /* what a router sees: the file's prompt, else the text's first 240 characters */
  ss_text text;   /* all of it, the prompt included */
  uint32_t domain; /* of corpus.domains: the sample's own, else its file's name */
} sample;

typedef struct corpus {
  sample *samples;
  size_t n, capacity;
  char **domains;
  uint32_t n_domains;
  buffer *files; /* what the samples point into */
  size_t n_files;
  uint64_t hash; /* of all prompts, texts and domains */
} corpus;

/* Appends a file's samples. A name that ends in .jsonl or .json is JSON Lines: an object a line, and a line without "text" is an
 * error that names it. Any other file is plain text, cut at blank lines into samples of about 1,000 characters. */
ss_status corpus_add(corpus *c, const char *path, ss_error *err);
void corpus_free(corpus *c);

/* Keeps at most n samples, drawn by seed, in their order. */
void corpus_draw(corpus *c, size_t n, uint64_t seed);

/* "GIVEN; samples: math 320, code 17": for a bank's provenance, to be freed. given may be NULL. */
char *corpus_provenance(const corpus *c, const char *given);

#endif
