/* Models and files for tests. */
#ifndef SS_TEST_FIXTURE_H
#define SS_TEST_FIXTURE_H

#include "skipstone.h"

#define SMOLLM2 "models/SmolLM2-135M-Instruct.Q4_1.gguf"

/* A whole file, malloc'ed; NULL when it is not there. */
void *read_file(const char *path, size_t *n);

/* Loads a model for test_host, or fails the test. NULL when the file is not there. */
ss_model *load_model(const char *path, const ss_kernels *kernels);

/* Runs n tokens at once and keeps the logits of all of them. The caller frees the session. */
ss_session *run_tokens(const ss_model *m, const int32_t *tokens, uint32_t n);

/* Numbers of the JSON array behind "key": into out; returns how many. Enough for our own golden files. */
size_t json_numbers(const char *json, const char *key, double *out, size_t capacity);

/* The test was skipped: says why and gives the exit status that ctest takes for a skip. */
int skip_all(const char *why);

#endif
