/* Checks every kernel set of this build against scalar, and the checks themselves with planted errors. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "check.h"

/* Memory that ends at an inaccessible page: a read or write behind it traps. */
static size_t fenced_bytes(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page + page;
}

static void *fenced_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  const size_t whole = fenced_bytes(bytes), page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + whole - page, page, PROT_NONE)) abort();
  return p + (whole - page - bytes);
}

static void fenced_free(void *ctx, void *p, size_t bytes) {
  (void)ctx;
  const size_t whole = fenced_bytes(bytes), page = (size_t)sysconf(_SC_PAGESIZE);
  munmap((uint8_t *)p - (whole - page - bytes), whole);
}

static void say(void *ctx, const char *line) {
  (void)ctx;
  fprintf(stderr, "%s\n", line);
}
static void say_nothing(void *ctx, const char *line) { (void)ctx, (void)line; }

static const ss_check_host loud = {fenced_alloc, fenced_free, say, NULL};
static const ss_check_host quiet = {fenced_alloc, fenced_free, say_nothing, NULL};

typedef struct test_case {
  const ss_kernels *k;
  const ss_check *check;
  const ss_planted *planted;
} test_case;

static void test_set(void **state) {
  const test_case *c = *state;
  assert_int_equal(c->check->run(c->k, &loud), 0);
}

static void test_planted_error(void **state) {
  const test_case *c = *state;
  ss_kernels broken = ss_kernels_scalar;
  c->planted->plant(&broken);
  assert_int_not_equal(ss_check_kernels(&broken, &quiet), 0);
}

int main(void) {
  static struct CMUnitTest tests[512];
  static test_case cases[512];
  static char names[512][128];
  size_t n = 0;
  const ss_kernels *k;
  for (size_t i = 0; (k = ss_kernels_at(i)); i++)
    for (size_t c = 0; c < ss_n_checks; c++, n++) {
      cases[n] = (test_case){.k = k, .check = &ss_checks[c]};
      snprintf(names[n], sizeof names[n], "%s %s", k->name, ss_checks[c].name);
      tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_set, .initial_state = &cases[n]};
    }
  for (size_t i = 0; i < ss_n_planted_errors; i++, n++) {
    cases[n] = (test_case){.planted = &ss_planted_errors[i]};
    snprintf(names[n], sizeof names[n], "the checks see that %s", ss_planted_errors[i].error);
    tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_planted_error, .initial_state = &cases[n]};
  }
  /* cmocka's macro wants an array of known size */
  return _cmocka_run_group_tests("kernels", tests, n, NULL, NULL);
}
