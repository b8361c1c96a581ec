/* Opening a model: the GGUF file is read in pieces and fed to the core, so that it is never held whole. */
#ifndef SS_TOOL_LOAD_H
#define SS_TOOL_LOAD_H

#include "host.h"
#include "options.h"
#include "support.h"

typedef struct engine_options {
  const char *model;   /* path; NULL: the environment's SKIPSTONE_MODEL */
  uint32_t threads;    /* 0: one per core */
  const char *kernels; /* NULL: the fastest */
  bool header_only;    /* no weights: for inspect and tokenize */
} engine_options;

/* The options that every command with a model takes; `e` is its engine_options. */
#define MODEL_OPTION(e) \
  {.name = "model",     \
   .letter = 'm',       \
   .text = &(e).model,  \
   .argument = "PATH",  \
   .help = "the GGUF file (default: $SKIPSTONE_MODEL)"}
#define THREADS_OPTION(e) \
  {.name = "threads",     \
   .letter = 't',         \
   .u32 = &(e).threads,   \
   .argument = "T",       \
   .min = 1,              \
   .max = SS_MAX_THREADS, \
   .help = "threads (default: one per core)"}
#define KERNELS_OPTION(e) \
  {.name = "kernels",     \
   .text = &(e).kernels,  \
   .argument = "NAME",    \
   .help = "kernel set (default: the fastest; see skipstone --version)"}

typedef struct engine {
  host *pool;
  const ss_host *host;
  ss_model *model;
  ss_tokenizer *tokenizer; /* NULL while engine_tokenizer has not been called */
  ss_model_info info;
  const char *path;
  uint64_t file_bytes; /* what is on disk */
  double load_ms;
} engine;

/* Opens everything; says what went wrong and returns an exit code. On failure *e is empty. */
int engine_open(engine *e, const engine_options *options);
int engine_tokenizer(engine *e);
void engine_close(engine *e);

/* The set of that name, NULL the fastest; says which there are and returns NULL where there is none such. */
const ss_kernels *engine_kernels(const char *name);

/* Feeds the file to the model; header_only stops once the header is known. Draws a progress line on a terminal when
 * it takes more than a second. *file_bytes is the size on disk. */
ss_status load_file(ss_model *model, const char *path, bool header_only, uint64_t *file_bytes, ss_error *err);

#endif
