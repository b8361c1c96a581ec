#include "train_plan.h"

#include <math.h>
#include <string.h>

#include "base/base.h"
#include "clustering.h"
#include "windows.h"

const train_profile train_profiles[] = {
    {.name = "full",
     .levels = "0.0625,0.125,0.1875,0.25",
     .clusters = 8,
     .window = 128,
     .step_tokens = 1024,
     .global_steps = 120,
     .steps = 60,
     .greedy_tokens = 6144,
     .swap_tokens = 2048,
     .swap_losses = 140,
     .recover_steps = 40},
    {.name = "fast",
     .levels = "0.125,0.25",
     .clusters = 4,
     .window = 128,
     .step_tokens = 1024,
     .global_steps = 40,
     .steps = 20,
     .greedy_tokens = 1536,
     .swap_tokens = 768,
     .swap_losses = 24,
     .recover_steps = 12},
    {0},
};

static const char *const objective_names[] = {[SS_OBJECTIVE_LM] = "lm", [SS_OBJECTIVE_KL] = "kl"};
static const char *const recover_names[] = {"none", "gains", "standin", "all"}; /* by RECOVER_* */

static bool find_profile(const char *name, const train_profile **out) {
  for (*out = train_profiles; (*out)->name; ++*out)
    if (!name || !strcmp(name, (*out)->name)) return true;
  say("train: --profile %s: want full or fast", name);
  return false;
}

static bool find_name(const char *option_name, const char *name, const char *const *names, uint32_t n, uint32_t *out) {
  buffer all = {0};
  for (*out = 0; *out < n; ++*out)
    if (!strcmp(name, names[*out])) return true;
  for (uint32_t i = 0; i < n; i++) buffer_addf(&all, "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " or ", names[i]);
  say("train: --%s %s: want %s", option_name, name, all.data);
  buffer_free(&all);
  return false;
}

/* The windows of a step come in antithetic pairs. */
static uint32_t windows_for(uint32_t tokens, uint32_t window) {
  const uint32_t pairs = (tokens + window) / (2 * window);
  return 2 * (pairs ? pairs : 1);
}

bool train_plan_make(train_plan *plan, const train_options *o, uint32_t init_clusters) {
  const train_profile *p;
  uint32_t objective = SS_OBJECTIVE_LM;
  if (!find_profile(o->profile, &p)) return false;
  *plan = (train_plan){
      .profile = p->name,
      .n_clusters = init_clusters ? init_clusters
                    : o->clusters ? o->clusters
                                  : p->clusters,
      .restarts = o->restarts,
      .max_samples = o->max_samples,
      .window = o->window ? o->window : p->window,
      .global_steps = o->global_steps ? o->global_steps : p->global_steps,
      .steps = o->steps ? o->steps : p->steps,
      .greedy_tokens = o->greedy_tokens ? o->greedy_tokens : p->greedy_tokens,
      .leave_one_out = o->leave_one_out,
      .swap_tokens = o->swap_tokens ? o->swap_tokens : p->swap_tokens,
      .swap_losses = o->no_swap       ? 0
                     : o->swap_losses ? o->swap_losses
                                      : p->swap_losses,
      .recover_steps = o->recover_steps ? o->recover_steps : p->recover_steps,
      .held_back = o->held_back >= 0 ? (double)o->held_back : 0.2,
      .chat_share = o->chat_share >= 0 ? (double)o->chat_share : 0.5,
      .euclidean = o->euclidean,
      .seed = o->seed,
  };
  if (!parse_levels("train", o->levels ? o->levels : p->levels, plan->levels, TRAIN_MAX_LEVELS, &plan->n_levels) ||
      (o->objective && !find_name("objective", o->objective, objective_names, 2, &objective)) ||
      !find_name("recover", o->recover ? o->recover : DEFAULT_RECOVER, recover_names, 4, &plan->recover))
    return false;
  plan->objective = (ss_objective)objective;
  plan->windows_per_step = windows_for(o->step_tokens ? o->step_tokens : p->step_tokens, plan->window);
  if (init_clusters && o->clusters && o->clusters != init_clusters) {
    say("train: --clusters %u: the bank of --init has %u; its clusters are taken", o->clusters, init_clusters);
    return false;
  }
  if (o->init && (o->greedy_tokens || o->leave_one_out || o->euclidean || o->restarts)) {
    say("train: --init brings masks and clusters: --greedy-tokens, --leave-one-out, --euclidean and --restarts have no use");
    return false;
  }
  if (o->no_swap && o->swap_losses) {
    say("train: --no-swap and --swap-losses exclude each other");
    return false;
  }
  if (o->init) plan->greedy_tokens = 0;
  return true;
}

/* ---- settings ---- */

typedef struct setting {
  const char *name;
  double value;
} setting;

/* All but the seed and names. */
static size_t list_settings(const train_plan *p, setting out[20]) {
  const setting all[] = {
      {"clusters", p->n_clusters},
      {"restarts", p->restarts},
      {"max_samples", p->max_samples},
      {"window", p->window},
      {"windows_per_step", p->windows_per_step},
      {"global_steps", p->global_steps},
      {"steps", p->steps},
      {"greedy_tokens", p->greedy_tokens},
      {"leave_one_out", p->leave_one_out},
      {"swap_tokens", p->swap_tokens},
      {"swap_losses", p->swap_losses},
      {"recover_steps", p->recover & RECOVER_GAINS ? p->recover_steps : 0},
      {"held_back", p->held_back},
      {"chat_share", p->chat_share},
  };
  memcpy(out, all, sizeof all);
  return sizeof all / sizeof all[0];
}

void train_plan_settings(const train_plan *p, buffer *out) {
  setting all[20];
  const size_t n = list_settings(p, all);
  buffer_addf(out, "levels ");
  for (uint32_t i = 0; i < p->n_levels; i++) buffer_addf(out, "%s%.9g", i ? "," : "", p->levels[i]);
  buffer_addf(out, "\nobjective %s\nrecover %s\nmetric %s\nseed %llu\n", objective_names[p->objective],
              recover_names[p->recover], p->euclidean ? "euclidean" : "cosine", (unsigned long long)p->seed);
  for (size_t i = 0; i < n; i++) buffer_addf(out, "%s %.9g\n", all[i].name, all[i].value);
}

void train_plan_json(const train_plan *p, json *j, const char *key) {
  setting all[20];
  const size_t n = list_settings(p, all);
  json_open(j, key, '{');
  json_string(j, "profile", p->profile);
  json_string(j, "objective", objective_names[p->objective]);
  json_string(j, "recover", recover_names[p->recover]);
  json_string(j, "metric", p->euclidean ? "euclidean" : "cosine");
  json_uint(j, "seed", p->seed);
  for (size_t i = 0; i < n; i++) json_real(j, all[i].name, all[i].value, true);
  json_close(j);
}

/* ---- what it costs ---- */

static const char *const phase_names[] = {[TRAIN_EMBED] = "embed",
                                          [TRAIN_GREEDY] = "first masks",
                                          [TRAIN_GLOBAL] = "train, all text",
                                          [TRAIN_CLUSTERS] = "train, clusters",
                                          [TRAIN_SWAP] = "swap search",
                                          [TRAIN_RECOVER] = "recovery"};

double train_greedy_losses(const train_plan *plan, const train_shape *shape) {
  const double removed = (double)shape->units[plan->n_levels - 1] * shape->n_blocks / (double)shape->units_total;
  return 1.0 + shape->n_blocks + (plan->leave_one_out ? plan->n_levels : 4.0 * removed);
}

double train_swap_losses(const train_plan *plan) { return plan->swap_losses ? 1.0 + plan->swap_losses : 0; }

double train_swap_tokens(const train_plan *plan) {
  return plan->swap_tokens * (train_swap_losses(plan) + TRAIN_CONFIRM_LOSSES * TRAIN_CONFIRM_TEXT);
}

void train_plan_cost(train_cost *cost, const train_plan *p, const train_shape *s, const train_speeds *speeds) {
  const uint32_t n_ranks = s->n_ranks ? s->n_ranks : 1, teams = n_ranks < p->n_clusters ? n_ranks : p->n_clusters;
  const uint32_t pairs = p->windows_per_step / 2, in_team = n_ranks / teams;
  const double step = (double)p->windows_per_step * p->window;
  const double together = n_ranks < pairs ? n_ranks : pairs, team = (in_team < pairs ? in_team : pairs) * (double)teams;
  const double greedy_losses = p->greedy_tokens ? train_greedy_losses(p, s) : 0;
  const double masks = p->n_clusters * (double)p->n_levels;
  const double recover_step = p->recover & RECOVER_GAINS ? p->recover_steps * step : 0;
  /* a stand-in is fitted on as much text as eight steps see, in about the time of losses */
  const double standin = p->recover & RECOVER_STANDIN ? 8 * step : 0;
  double tokens[TRAIN_N_PHASES], seconds[TRAIN_N_PHASES];
  tokens[TRAIN_EMBED] = s->n_samples;
  seconds[TRAIN_EMBED] = s->n_samples / speeds->embeddings;
  tokens[TRAIN_GREEDY] = greedy_losses * p->greedy_tokens;
  seconds[TRAIN_GREEDY] = tokens[TRAIN_GREEDY] * TRAIN_LOSS_SHARE / speeds->losses;
  tokens[TRAIN_GLOBAL] = p->n_levels * p->global_steps * step;
  seconds[TRAIN_GLOBAL] = tokens[TRAIN_GLOBAL] / speeds->steps / together;
  tokens[TRAIN_CLUSTERS] = masks * p->steps * step;
  seconds[TRAIN_CLUSTERS] = tokens[TRAIN_CLUSTERS] / speeds->steps / team;
  const double swap = train_swap_tokens(p);
  tokens[TRAIN_SWAP] = (2.0 * p->n_levels + masks) * swap;
  seconds[TRAIN_SWAP] = (2.0 * p->n_levels + masks / teams) * swap * TRAIN_LOSS_SHARE / speeds->losses;
  tokens[TRAIN_RECOVER] = (p->n_levels + masks) * (recover_step + standin);
  seconds[TRAIN_RECOVER] = (p->n_levels + masks / teams) * (recover_step / speeds->steps + standin / speeds->losses);
  *cost = (train_cost){0};
  for (int i = 0; i < TRAIN_N_PHASES; i++) {
    cost->phases[i].tokens = (uint64_t)llround(tokens[i]);
    cost->phases[i].seconds = seconds[i];
    cost->seconds += seconds[i];
  }
#define SAY(phase, ...) ss_format(cost->phases[phase].what, sizeof cost->phases[phase].what, __VA_ARGS__)
  SAY(TRAIN_EMBED, "%u prompts", s->n_samples);
  if (p->greedy_tokens)
    SAY(TRAIN_GREEDY, "%s, about %u losses of %u tokens", p->leave_one_out ? "leave-one-out" : "greedy",
        (unsigned)greedy_losses, p->greedy_tokens);
  else SAY(TRAIN_GREEDY, "from the bank of --init");
  SAY(TRAIN_GLOBAL, "%u levels, %u steps of %u tokens", p->n_levels, p->global_steps, (unsigned)step);
  SAY(TRAIN_CLUSTERS, "%u clusters, %u levels, %u steps of %u tokens", p->n_clusters, p->n_levels, p->steps,
      (unsigned)step);
  SAY(TRAIN_SWAP, "%u masks, at most %u losses of %u tokens", (p->n_clusters + 1) * p->n_levels,
      (unsigned)train_swap_losses(p), p->swap_tokens);
  if (p->recover) SAY(TRAIN_RECOVER, "%u masks, %s", (p->n_clusters + 1) * p->n_levels, recover_names[p->recover]);
  else SAY(TRAIN_RECOVER, "none");
#undef SAY
}

clock_text clock_of(double seconds) {
  clock_text out;
  const unsigned long long whole = seconds > 0 && seconds < 1e12 ? (unsigned long long)llround(seconds) : 0;
  snprintf(out.text, sizeof out.text, "%llu:%02llu:%02llu", whole / 3600, whole / 60 % 60, whole % 60);
  return out;
}

void train_plan_print(FILE *out, const train_plan *p, const train_shape *s, const train_speeds *speeds) {
  train_cost cost;
  train_plan_cost(&cost, p, s, speeds);
  fprintf(out, "plan: profile %s, objective %s, %u samples, %u clusters, levels", p->profile,
          objective_names[p->objective], s->n_samples, p->n_clusters);
  for (uint32_t i = 0; i < p->n_levels; i++)
    fprintf(out, "%s %g %% (%llu)", i ? "," : "", 100 * p->levels[i], (unsigned long long)s->units[i]);
  fprintf(out, " of %llu units\n", (unsigned long long)s->units_total);
  for (int i = 0; i < TRAIN_N_PHASES; i++)
    fprintf(out, "  %-16s %-52s %9llu %s %9s\n", phase_names[i], cost.phases[i].what,
            (unsigned long long)cost.phases[i].tokens, i == TRAIN_EMBED ? "      " : "tokens",
            clock_of(cost.phases[i].seconds).text);
  fprintf(out, "  about %.2f hours", cost.seconds / 3600);
  if (s->n_ranks > 1) fprintf(out, " with %u processes", s->n_ranks);
  fprintf(out, "; measured here: losses %.0f and training steps %.0f tokens/s\n", speeds->losses, speeds->steps);
}

void train_cost_json(const train_cost *cost, json *j, const char *key) {
  json_open(j, key, '{');
  json_open(j, "phases", '[');
  for (int i = 0; i < TRAIN_N_PHASES; i++) {
    json_open(j, NULL, '{');
    json_string(j, "name", phase_names[i]);
    json_string(j, "what", cost->phases[i].what);
    json_uint(j, i == TRAIN_EMBED ? "prompts" : "tokens", cost->phases[i].tokens);
    json_fixed(j, "seconds", cost->phases[i].seconds, 1);
    json_close(j);
  }
  json_close(j);
  json_fixed(j, "hours", cost->seconds / 3600, 3);
  json_close(j);
}
