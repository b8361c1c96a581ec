#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "test.h"

void *read_file(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  fseek(f, 0, SEEK_END);
  *n = (size_t)ftell(f);
  rewind(f);
  char *bytes = malloc(*n + 1);
  if (!bytes || fread(bytes, 1, *n, f) != *n) fail_msg("cannot read %s", path);
  bytes[*n] = 0;
  fclose(f);
  return bytes;
}

ss_model *load_model(const char *path, const ss_kernels *kernels) {
  size_t n;
  void *bytes = read_file(path, &n);
  if (!bytes) return NULL;
  ss_model *m;
  ss_error err = {0};
  if (ss_model_create(&m, &test_host, kernels, &err) || ss_model_feed(m, 0, bytes, n, &err))
    fail_msg("%s: %s", path, err.message);
  free(bytes);
  return m;
}

ss_session *run_tokens(const ss_model *m, const int32_t *tokens, uint32_t n) {
  ss_session *s;
  ss_error err = {0};
  if (ss_session_create(&s, m, &(ss_session_options){.context = n, .max_logits = n}, &test_host, &err) ||
      ss_session_begin(s, tokens, n, n, &err) || ss_session_run(s, 0, &err))
    fail_msg("%s", err.message);
  return s;
}

size_t json_numbers(const char *json, const char *key, double *out, size_t capacity) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  const char *p = strstr(json, quoted);
  if (!p) return 0;
  p += strlen(quoted);
  p += strspn(p, ": \n[");
  size_t count = 0;
  for (char *end; count < capacity; p = end + strspn(end, ", \n")) {
    const double value = strtod(p, &end);
    if (end == p) break;
    out[count++] = value;
  }
  return count;
}

int skip_all(const char *why) {
  printf("skipped: %s\n", why);
  return 77;
}
