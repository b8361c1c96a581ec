/* skipstone eval: the quality of masks and banks. Each task is a file: eval_nll.c, eval_choice.c, eval_generate.c, eval_plot.c; eval.h has
 * what they share. */
#include <string.h>

#include "commands.h"
#include "options.h"
#include "support.h"

static const struct {
  const char *name;
  int (*main)(int argc, char **argv);
  const char *summary;
} tasks[] = {
    {"nll", eval_nll, "next-token loss and KL to the dense model, on text by domain"},
    {"choice", eval_choice, "zero-shot multiple choice, and the last words of lambada"},
    {"generate", eval_generate, "greedy answers: repetition, KL along the dense answer, first sentences"},
    {"plot", eval_plot, "an SVG of quality against cost, from the other tasks' results"},
};
#define N_TASKS (sizeof tasks / sizeof tasks[0])

static void print_help(FILE *out) {
  fputs(
      "Usage: skipstone eval TASK [options]\n\n"
      "Measures masks, banks, baselines and controls against the dense model, with paired bootstrap intervals (95 %).\n"
      "Every row sees the same items; what was measured is kept, so that a killed run goes on with --resume.\n\n"
      "Tasks:\n",
      out);
  for (size_t i = 0; i < N_TASKS; i++) fprintf(out, "  %-10s %s\n", tasks[i].name, tasks[i].summary);
  fputs(
      "\n  skipstone eval TASK --help   all options of a task\n\n"
      "Examples:\n"
      "  skipstone eval nll -m model.gguf --data heldout.jsonl --bank bank.gguf --baseline greedy=greedy.gguf -o nll.json\n"
      "  skipstone eval choice -m model.gguf --data arc_easy.jsonl --bank bank.gguf -o choice.json\n"
      "  skipstone eval plot nll.json choice.json -o plot.svg\n",
      out);
}

int cmd_eval(int argc, char **argv) {
  if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
    print_help(stdout);
    return CODE_OK;
  }
  const char *names[N_TASKS + 1] = {NULL};
  for (size_t i = 0; i < N_TASKS; i++) {
    if (argc > 1 && !strcmp(argv[1], tasks[i].name)) return tasks[i].main(argc - 1, argv + 1);
    names[i] = tasks[i].name;
  }
  const char *near = argc > 1 && argv[1][0] != '-' ? nearest_name(argv[1], names) : NULL;
  if (near) say("eval: unknown task %s; did you mean %s?", argv[1], near);
  else say("eval: want a task: nll, choice, generate or plot; see skipstone eval --help");
  return CODE_USAGE;
}
