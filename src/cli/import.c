/* mhmoe import: other programs' checkpoints become ours. */
#include "cli/cli.h"

#include <string.h>

int cli_import(int argc, char **argv)
{
    const char *tokenizer = NULL, *output = NULL;
    cli_list arguments = {0};
    const cli_option options[] = {
        {"tokenizer", "FILE.model", "the SentencePiece model it was trained with", CLI_STRING, &tokenizer, 0,
         0, true},
        {"output", "DIR", "the checkpoint folder to write; must not exist", CLI_STRING, &output, 0, 0, true},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "FORMAT FILE",
        .summary = "Converts the checkpoint of another program. The only FORMAT is llama2c: the .bin files "
                   "of llama2.c, version 0.",
        .examples = "mhmoe import llama2c stories15M.bin --tokenizer tokenizer.model --output stories15M\n"
                    "mhmoe generate stories15M --prompt '' --temperature 0",
        .min_arguments = 2,
        .max_arguments = 2,
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    if (strcmp(arguments.item[0], "llama2c") != 0)
        return cli_report(
            mh_fail(MH_EUSAGE, "the format '%s' is not known; the only one is llama2c", arguments.item[0]));
    mh_status status = mh_import_llama2c(arguments.item[1], tokenizer, output);
    if (status == MH_OK)
        fprintf(stderr, "%s written; try: mhmoe generate %s --prompt ''\n", output, output);
    return cli_report(status);
}
