/* The parts of `skipstone train` that need no model: settings from options, what they cost, and the folder of a run. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "state.h"
#include "test.h"
#include "train_plan.h"
#include "train_state.h"

static const train_options nothing = {.held_back = -1, .chat_share = -1};

/* ---- plan ---- */

static void test_profiles_decide_what_is_not_given(void **unused) {
  (void)unused;
  train_plan full, fast;
  train_options o = nothing;
  assert_true(train_plan_make(&full, &o, 0));
  assert_string_equal(full.profile, "full");
  assert_int_equal(full.n_clusters, 8);
  assert_int_equal(full.n_levels, 4);
  assert_true(full.held_back == 0.2 && full.chat_share == 0.5);
  o.profile = "fast";
  o.chat_share = 0;
  assert_true(train_plan_make(&fast, &o, 0));
  assert_int_equal(fast.n_clusters, 4);
  assert_int_equal(fast.n_levels, 2);
  assert_true(fast.steps < full.steps && fast.greedy_tokens < full.greedy_tokens);
  assert_true(fast.chat_share == 0);
  o.clusters = 3;
  o.levels = "0.5";
  o.objective = "kl";
  assert_true(train_plan_make(&fast, &o, 0));
  assert_int_equal(fast.n_clusters, 3);
  assert_true(fast.n_levels == 1 && fast.levels[0] == 0.5);
  assert_int_equal(fast.objective, SS_OBJECTIVE_KL);
}

static void test_step_tokens_become_pairs_of_windows(void **unused) {
  (void)unused;
  static const uint32_t cases[][3] = {{1024, 128, 8}, {1, 128, 2},   {128, 128, 2},
                                      {300, 128, 2},  {400, 128, 4}, {512, 64, 8}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    train_plan plan;
    train_options o = nothing;
    o.step_tokens = cases[i][0];
    o.window = cases[i][1];
    assert_true(train_plan_make(&plan, &o, 0));
    assert_int_equal(plan.windows_per_step, cases[i][2]);
  }
}

static void test_impossible_options_are_refused(void **unused) {
  (void)unused;
  train_plan plan;
  for (int i = 0; i < 7; i++) {
    train_options o = nothing;
    uint32_t init_clusters = 0;
    if (i == 0) o.profile = "slow";
    if (i == 1) o.objective = "mse";
    if (i == 2) o.levels = "0.5,0.25";
    if (i == 3) o.recover = "some";
    if (i == 4) o.init = "x.gguf", init_clusters = 4, o.clusters = 5;
    if (i == 5) o.init = "x.gguf", init_clusters = 4, o.greedy_tokens = 64;
    if (i == 6) o.no_swap = true, o.swap_losses = 5;
    assert_false(train_plan_make(&plan, &o, init_clusters));
  }
}

static void test_settings_tell_every_difference(void **unused) {
  (void)unused;
  train_plan a, b;
  train_options o = nothing;
  buffer text = {0}, other = {0};
  assert_true(train_plan_make(&a, &o, 0));
  train_plan_settings(&a, &text);
  for (int i = 0; i < 14; i++) {
    b = a;
    if (i == 0) b.seed++;
    if (i == 1) b.levels[1] += 1e-3;
    if (i == 2) b.n_levels--;
    if (i == 3) b.n_clusters++;
    if (i == 4) b.window++;
    if (i == 5) b.windows_per_step += 2;
    if (i == 6) b.global_steps++;
    if (i == 7) b.steps++;
    if (i == 8) b.greedy_tokens++;
    if (i == 9) b.swap_tokens++;
    if (i == 10) b.swap_losses++;
    if (i == 11) b.held_back += 0.01;
    if (i == 12) b.chat_share += 0.01;
    if (i == 13) b.objective = SS_OBJECTIVE_KL;
    other.len = 0;
    train_plan_settings(&b, &other);
    assert_string_not_equal(text.data, other.data);
  }
  buffer_free(&text);
  buffer_free(&other);
}

static void test_cost_counts_tokens_and_shares_them_among_processes(void **unused) {
  (void)unused;
  train_plan plan;
  train_options o = nothing;
  const train_speeds speeds = {.losses = 1000, .steps = 100, .embeddings = 10};
  train_shape shape = {.n_blocks = 60, .n_samples = 500, .n_ranks = 1, .units = {8, 15, 23, 30}, .units_total = 120};
  train_cost one, many;
  o.clusters = 4;
  o.steps = 10;
  o.global_steps = 20;
  o.window = 128;
  o.step_tokens = 1024;
  assert_true(train_plan_make(&plan, &o, 0));
  train_plan_cost(&one, &plan, &shape, &speeds);
  assert_int_equal(one.phases[TRAIN_GLOBAL].tokens, 4 * 20 * 1024);
  assert_int_equal(one.phases[TRAIN_CLUSTERS].tokens, 4 * 4 * 10 * 1024);
  assert_true(one.phases[TRAIN_GLOBAL].seconds > 819 && one.phases[TRAIN_GLOBAL].seconds < 820);
  assert_true(one.phases[TRAIN_EMBED].seconds == 50);
  shape.n_ranks = 8; /* four teams of two; a step has four pairs of windows */
  train_plan_cost(&many, &plan, &shape, &speeds);
  assert_true(many.phases[TRAIN_GLOBAL].seconds == one.phases[TRAIN_GLOBAL].seconds / 4);
  assert_true(many.phases[TRAIN_CLUSTERS].seconds == one.phases[TRAIN_CLUSTERS].seconds / 8);
  assert_int_equal(many.phases[TRAIN_CLUSTERS].tokens, one.phases[TRAIN_CLUSTERS].tokens);
  plan.greedy_tokens = 0;
  train_plan_cost(&one, &plan, &shape, &speeds);
  assert_int_equal(one.phases[TRAIN_GREEDY].tokens, 0);
}

static void test_clock_reads_as_hours_minutes_seconds(void **unused) {
  (void)unused;
  assert_string_equal(clock_of(0).text, "0:00:00");
  assert_string_equal(clock_of(59.6).text, "0:01:00");
  assert_string_equal(clock_of(3 * 3600 + 125).text, "3:02:05");
  assert_string_equal(clock_of(-1).text, "0:00:00");
}

/* ---- the folder ---- */

static char folder[64];

static int make_place(void **unused) {
  (void)unused;
  strcpy(folder, "/tmp/skipstone-train-XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_place(void **unused) {
  (void)unused;
  char shell[128];
  snprintf(shell, sizeof shell, "rm -r %s", folder);
  return system(shell);
}

static const char *at(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void test_folder_is_taken_by_one_and_goes_on_with_the_same_settings(void **unused) {
  (void)unused;
  int lock, other;
  ss_error err = {0};
  assert_int_equal(train_folder_open(at("run"), "a 1\nb 2\n", false, &lock, &err), SS_OK);
  assert_int_equal(train_folder_open(at("run"), "a 1\nb 2\n", true, &other, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "another process"));
  if (other >= 0) close(other);
  close(lock);
  assert_int_equal(train_folder_open(at("run"), "a 1\nb 2\n", false, &lock, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "--resume"));
  close(lock);
  assert_int_equal(train_folder_open(at("run"), "a 1\nb 2\n", true, &lock, &err), SS_OK);
  close(lock);
  assert_int_equal(train_folder_open(at("run"), "a 1\nb 3\n", true, &lock, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "it has 'b 2', this command 'b 3'"));
  close(lock);
  assert_int_equal(train_folder_open(at("run"), "a 1\n", true, &lock, &err), SS_E_ARGUMENT);
  close(lock);
}

static void test_files_come_back_or_are_refused(void **unused) {
  (void)unused;
  ss_error err = {0};
  bool found;
  char out[8] = "";
  const char *path = at("x");
  assert_int_equal(train_file_read(path, "l0", 7, out, 5, &found, &err), SS_OK);
  assert_false(found);
  assert_int_equal(train_file_write(path, "l0", 7, "hello", 5, &err), SS_OK);
  assert_int_equal(train_file_read(path, "l0", 7, out, 5, &found, &err), SS_OK);
  assert_true(found && !memcmp(out, "hello", 5));
  assert_int_equal(train_file_read(path, "l0", 7, out, 4, &found, &err), SS_E_FORMAT); /* another length */
  assert_int_equal(train_file_read(path, "l0", 8, out, 5, &found, &err), SS_E_FORMAT); /* another run */
  assert_int_equal(train_file_read(path, "mask", 7, out, 5, &found, &err), SS_E_FORMAT); /* another kind */
  buffer file = {0};
  assert_int_equal(read_all(&file, path, &err), SS_OK);
  file.data[file.len - 1] ^= 1;
  assert_int_equal(write_whole(path, file.data, file.len, &err), SS_OK);
  assert_int_equal(train_file_read(path, "l0", 7, out, 5, &found, &err), SS_E_FORMAT); /* a flipped bit */
  assert_non_null(strstr(err.message, "damaged"));
  assert_false(found);
  buffer_free(&file);
}

static void test_log_goes_on_behind_what_is_kept(void **unused) {
  (void)unused;
  train_log log;
  ss_error err = {0};
  buffer text = {0};
  const char *path = at("log");
  assert_int_equal(train_log_open(&log, path, 0, &err), SS_OK);
  fputs("one\n", log.file);
  assert_int_equal(train_log_check(&log, &err), SS_OK);
  const uint64_t kept = train_log_bytes(&log);
  fputs("two\nthr", log.file);
  train_log_close(&log);
  assert_int_equal(train_log_open(&log, path, kept, &err), SS_OK);
  fputs("TWO\n", log.file);
  assert_int_equal(train_log_check(&log, &err), SS_OK);
  train_log_close(&log);
  assert_int_equal(read_all(&text, path, &err), SS_OK);
  assert_string_equal(text.data, "one\nTWO\n");
  buffer_free(&text);
  assert_int_equal(train_log_open(&log, "/dev/full", 0, &err), SS_OK); /* a full disk */
  fputs("x\n", log.file);
  assert_int_equal(train_log_check(&log, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "No space left"));
  train_log_close(&log);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_profiles_decide_what_is_not_given),
      cmocka_unit_test(test_step_tokens_become_pairs_of_windows),
      cmocka_unit_test(test_impossible_options_are_refused),
      cmocka_unit_test(test_settings_tell_every_difference),
      cmocka_unit_test(test_cost_counts_tokens_and_shares_them_among_processes),
      cmocka_unit_test(test_clock_reads_as_hours_minutes_seconds),
      cmocka_unit_test_setup_teardown(test_folder_is_taken_by_one_and_goes_on_with_the_same_settings, make_place,
                                      remove_place),
      cmocka_unit_test_setup_teardown(test_files_come_back_or_are_refused, make_place, remove_place),
      cmocka_unit_test_setup_teardown(test_log_goes_on_behind_what_is_kept, make_place, remove_place),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
