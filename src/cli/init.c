/* mhmoe init: the files that a new experiment starts from. */
#include "cli/cli.h"

#include <string.h>
#include <unistd.h>

static const char recipe[] =
    "# The recipe of this experiment: everything a training is told. Every key has a default; `mhmoe config` "
    "lists\n"
    "# them all. Paths are as seen from where mhmoe is called: call it in this folder.\n"
    "\n"
    "model:\n"
    "  preset: mhmoe-h2        # the feed-forward layers by name; `mhmoe presets` lists others: dense, "
    "smoe-top1, ...\n"
    "  dim: 192                # width; parameters and time grow with its square\n"
    "  layers: 4               # with experts in every second one\n"
    "  attention_heads: 6      # a divisor of dim\n"
    "  context: 256            # most tokens the model looks at\n"
    "\n"
    "data:\n"
    "  train: data/tokens      # made by `mhmoe data build`; or a mixture: \"data/tokens=0.7, "
    "data/other=0.3\"\n"
    "\n"
    "train:\n"
    "  run: runs/first         # the folder that the run is kept in; a new one for each run\n"
    "  precision: bf16         # or f32: slower on processors with AVX-512 BF16 or AMX, and somewhat more "
    "exact\n"
    "  seed: 1                 # the same seed gives the same bytes\n"
    "  steps: 600              # updates; `mhmoe train recipe.yaml --dry-run` tells how long they take\n"
    "  batch: 16               # sequences of an update, each of model.context tokens\n"
    "  micro_batch: 0          # sequences computed at a time: a smaller divisor of batch takes less memory; "
    "0: all\n"
    "  rate: 2e-3              # lower it if the loss jumps up\n"
    "  min_rate: 2e-4          # that it falls to\n"
    "  warmup: 50              # updates over which it rises\n"
    "  eval_every: 200         # updates between two looks at the validation part\n"
    "  checkpoint_every: 200   # a run that is killed goes on from the last one: --resume\n"
    "\n"
    "# What `mhmoe compare recipe.yaml` trains alike: which model is better?\n"
    "compare:\n"
    "  models: dense, smoe-top1, mhmoe-h2\n"
    "  seeds: 3                # runs of each: without several, a difference may be chance\n";

static const char ignore[] = "# Made from the recipe and the texts, and large.\n"
                             "/tokenizer.model\n"
                             "/data/\n"
                             "/runs/\n";

static const struct {
    const char *name, *text;
} files[] = {{"recipe.yaml", recipe}, {".gitignore", ignore}};
enum { FILES = sizeof files / sizeof *files };

/* Looks at all before it writes any: what is there is somebody's work. */
static mh_status make(const char *folder)
{
    char path[FILES][MH_PATH];
    for (int i = 0; i < FILES; i++) {
        MH_TRY(mh_path_join(path[i], folder, files[i].name));
        MH_TRY(mh_path_check_new(path[i]));
    }
    MH_TRY(mh_make_dirs(folder));
    mh_status status = MH_OK;
    int written = 0;
    while (written < FILES && status == MH_OK) {
        status = mh_file_write(path[written], files[written].text, strlen(files[written].text));
        written += status == MH_OK;
    }
    while (status != MH_OK && written > 0) /* half of it would stop the next attempt */
        unlink(path[--written]);
    return status;
}

/* As one word of a shell's command. */
static void print_word(const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+,:@%";
    if (word[strspn(word, plain)] == '\0') {
        fputs(word, stdout);
        return;
    }
    putchar('\'');
    for (const char *p = word; *p != '\0'; p++)
        fputs(*p == '\'' ? "'\\''" : (char[]){*p, '\0'}, stdout);
    putchar('\'');
}

int cli_init(int argc, char **argv)
{
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "DIR",
        .summary =
            "Makes the folder of a new experiment, with a recipe that explains itself and a .gitignore "
            "that leaves data and runs out, and says what to do next.",
        .examples = "mhmoe init fables\n"
                    "mhmoe init .",
        .min_arguments = 1,
        .max_arguments = 1,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    const char *folder = arguments.item[0];
    mh_status status = make(folder);
    if (status != MH_OK)
        return cli_report(status);
    printf("%s has a recipe.yaml and a .gitignore now.\n"
           "\n"
           "What to do next, with your texts (.txt, .md, .jsonl, also compressed or in tars) in %s/texts:\n"
           "  cd ",
           folder, folder);
    print_word(folder);
    puts("\n"
         "  mhmoe tokenizer train --input texts --vocab 4096 --output tokenizer.model\n"
         "  mhmoe data build --tokenizer tokenizer.model --input texts --output data/tokens\n"
         "  mhmoe train recipe.yaml --dry-run\n"
         "  mhmoe train recipe.yaml\n"
         "  mhmoe generate runs/first --prompt \"Once\"");
    return CLI_OK;
}
