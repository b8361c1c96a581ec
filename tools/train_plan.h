/* What a training run will do: options, profiles, settings and what they cost. Nothing here runs anything. */
#ifndef SS_TOOL_TRAIN_PLAN_H
#define SS_TOOL_TRAIN_PLAN_H

#include "json.h"
#include "load.h"
#include "train/mask_train.h"

#define TRAIN_MAX_LEVELS 16
#define TRAIN_MAX_CLUSTERS 256
#define TRAIN_MAX_FILES 256

/* As given. 0, NULL or, for a share or seconds, less than 0: not given. */
typedef struct train_options {
  engine_options engine;
  option_list corpus;
  const char *operands[TRAIN_MAX_FILES];
  const char *encoder, *levels, *out, *state, *init, *report, *log, *profile, *objective, *recover, *name, *provenance;
  uint32_t clusters, restarts, max_samples, window, step_tokens, global_steps, steps, greedy_tokens, swap_tokens,
      swap_losses, recover_steps, memory_mb;
  float held_back, chat_share, checkpoint_seconds;
  uint64_t seed;
  bool resume, dry_run, leave_one_out, no_swap, euclidean, json;
} train_options;

typedef struct train_profile {
  const char *name, *levels;
  uint32_t clusters, window, step_tokens, global_steps, steps, greedy_tokens, swap_tokens, swap_losses, recover_steps;
} train_profile;
extern const train_profile train_profiles[]; /* ends with a NULL name; the first is the default */

/* Settled: every number has its value. What decides the result is here, in the corpus, the model and the encoder. */
typedef struct train_plan {
  const char *profile;
  double levels[TRAIN_MAX_LEVELS]; /* shares of the block MACs to skip, ascending */
  uint32_t n_levels, n_clusters, restarts, max_samples;
  uint32_t window, windows_per_step; /* tokens of a window at most; even */
  uint32_t global_steps, steps;      /* of L0 training at each level: for all text, for a cluster */
  uint32_t greedy_tokens;            /* text of a greedy loss; 0: no search, the first masks come from a bank */
  bool leave_one_out;                /* instead of greedy removal */
  uint32_t swap_tokens;              /* held-back text of a cluster; twice as much for all text */
  uint32_t swap_losses;              /* at most, for each mask; 0: no swap search */
  uint32_t recover;                  /* RECOVER_* */
  uint32_t recover_steps;            /* of training gains and scales */
  double held_back, chat_share;      /* of the samples; of those with a prompt */
  ss_objective objective;
  bool euclidean;
  uint64_t seed;
} train_plan;

#define DEFAULT_RECOVER "all" /* by default */
enum { RECOVER_GAINS = 1, RECOVER_STANDIN = 2 };

/* Settles the options by their profile. False: said what is impossible. init_clusters: of the bank to start from, which
 * decides about the clusters; 0 without one. */
bool train_plan_make(train_plan *plan, const train_options *options, uint32_t init_clusters);

/* The settings that decide the result, "name value\n" each: what a run that goes on must have in common with its state. */
void train_plan_settings(const train_plan *plan, buffer *out);
void train_plan_json(const train_plan *plan, json *j, const char *key);

/* ---- what it costs ---- */

typedef struct train_shape {
  uint32_t n_blocks, n_samples, n_ranks;
  uint64_t units[TRAIN_MAX_LEVELS], units_total; /* that each level skips, of so many */
} train_shape;

typedef struct train_speeds { /* tokens or prompts a second, of one process */
  double losses, steps, embeddings;
} train_speeds;

typedef enum train_phase {
  TRAIN_EMBED,
  TRAIN_GREEDY,
  TRAIN_GLOBAL,
  TRAIN_CLUSTERS,
  TRAIN_SWAP,
  TRAIN_RECOVER,
  TRAIN_N_PHASES
} train_phase;

typedef struct train_cost {
  struct {
    char what[80];
    uint64_t tokens; /* that go through the model, or prompts to embed */
    double seconds;
  } phases[TRAIN_N_PHASES];
  double seconds;
} train_cost;
void train_plan_cost(train_cost *cost, const train_plan *plan, const train_shape *shape, const train_speeds *speeds);

/* A loss costs less than its text, as layers in front of the first difference are remembered: so much of it, about. */
#define TRAIN_LOSS_SHARE 0.6
/* Losses of a mask's swap search, at most. */
double train_swap_losses(const train_plan *plan);
/* Masks that are compared on text of their own behind it, at most, and that text in units of the search's. */
#define TRAIN_CONFIRM_LOSSES 3
#define TRAIN_CONFIRM_TEXT 2
/* Tokens of both, for a cluster's mask. */
double train_swap_tokens(const train_plan *plan);
/* Losses of a greedy search over all levels, about. */
double train_greedy_losses(const train_plan *plan, const train_shape *shape);

void train_plan_print(FILE *out, const train_plan *plan, const train_shape *shape, const train_speeds *speeds);
void train_cost_json(const train_cost *cost, json *j, const char *key);

/* "2:05:09" */
typedef struct clock_text {
  char text[32];
} clock_text;
clock_text clock_of(double seconds);

#endif
