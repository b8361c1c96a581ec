/* The commands. Each takes its own argv (argv[0] is the command's name) and returns an exit code. */
#ifndef SS_TOOL_COMMANDS_H
#define SS_TOOL_COMMANDS_H

int cmd_run(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_embed(int argc, char **argv);
int cmd_route(int argc, char **argv);
int cmd_cluster(int argc, char **argv);
int cmd_bank(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_report(int argc, char **argv);

/* Below a command: argv[0] is the second word. */
int bank_baseline(int argc, char **argv);
int bank_recover(int argc, char **argv);
int eval_nll(int argc, char **argv);
int eval_choice(int argc, char **argv);
int eval_generate(int argc, char **argv);
int eval_plot(int argc, char **argv);

#endif
