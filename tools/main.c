/* The native `skipstone` command: finds the subcommand and hands over. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "options.h"
#include "support.h"

static const struct {
  const char *name;
  int (*main)(int argc, char **argv);
  const char *summary;
} commands[] = {
    {"run", cmd_run, "answer one prompt"},
    {"chat", cmd_chat, "talk with a model"},
    {"inspect", cmd_inspect, "what is in a model or bank file"},
    {"tokenize", cmd_tokenize, "text to token ids and back"},
    {"bench", cmd_bench, "measure prefill and decode, dense and with blocks skipped"},
    {"embed", cmd_embed, "texts to vectors"},
    {"route", cmd_route, "which cluster of a mask bank a prompt belongs to"},
    {"cluster", cmd_cluster, "cluster the prompts of a corpus"},
    {"bank", cmd_bank, "make a mask bank from a corpus"},
    {"train", cmd_train, "train a mask bank on a corpus"},
    {"report", cmd_report, "an HTML report of a training run"},
    {"eval", cmd_eval, "measure the quality of masks and banks on held-out text"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void print_help(FILE *out) {
  fputs(
      "Usage: skipstone COMMAND [options]\n"
      "\n"
      "Runs a llama-family language model from a GGUF file and skips the transformer blocks\n"
      "that a mask leaves out.\n"
      "\n"
      "Commands:\n",
      out);
  for (size_t i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fputs(
      "\n"
      "  skipstone COMMAND --help   all options of a command, with examples\n"
      "  skipstone --version        version and the kernel sets that this processor runs\n"
      "\n"
      "Environment: SKIPSTONE_MODEL is the model file where -m is not given.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n"
      "\n"
      "Examples:\n"
      "  skipstone run -m model.gguf -p 'The capital of France is' -n 16 --temp 0\n"
      "  skipstone chat -m model.gguf\n",
      out);
}

static void print_version(void) {
  printf("skipstone %s (numerics %d, layout %d)\nkernels:", SS_VERSION, SS_NUMERICS_VERSION, SS_LAYOUT_VERSION);
  for (size_t i = 0; ss_kernels_at(i); i++) printf(" %s", ss_kernels_name(ss_kernels_at(i)));
  putchar('\n');
}

static int unknown_command(const char *name) {
  const char *names[N_COMMANDS + 3] = {"--help", "--version"};
  for (size_t i = 0; i < N_COMMANDS; i++) names[i + 2] = commands[i].name;
  const char *near = nearest_name(name, names), *what = name[0] == '-' ? "option" : "command";
  if (near) say("unknown %s %s; did you mean %s?", what, name, near);
  else say("unknown %s %s; see skipstone --help", what, name);
  return CODE_USAGE;
}

static int run_command(int argc, char **argv) {
  for (size_t i = 0; i < N_COMMANDS; i++)
    if (!strcmp(argv[0], commands[i].name)) return commands[i].main(argc, argv);
  return unknown_command(argv[0]);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    print_help(stderr);
    return CODE_USAGE;
  }
  if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
    print_version();
    return CODE_OK;
  }
  if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
    if (argc == 2) {
      print_help(stdout);
      return CODE_OK;
    }
    char help[] = "--help";
    char *forwarded[] = {argv[2], help, NULL}; /* skipstone help run */
    return run_command(2, forwarded);
  }
  return run_command(argc - 1, argv + 1);
}
