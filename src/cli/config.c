/* mhmoe config: the recipe's keys; docs/config.md is its output. */
#include "cli/cli.h"

int cli_config(int argc, char **argv)
{
    bool markdown = false;
    const cli_option options[] = {
        {"markdown", NULL, "as docs/config.md in place of plain text", CLI_FLAG, &markdown, 0, 0, false},
    };
    const cli_usage usage = {
        .command = argv[0],
        .arguments = "",
        .summary = "Prints every key of a recipe with its type, default and meaning.",
        .examples = "mhmoe config\n"
                    "mhmoe config --markdown > docs/config.md",
        .options = options,
        .option_count = 1,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    mh_text text = {0};
    if (markdown)
        puts(
            "# The keys of a recipe\n\nWritten by `make docs` from the tables that the program reads: `mhmoe "
            "config` prints the same.\n\"on resume\" tells whether a key may change when a run is "
            "resumed.\n");
    mh_status status = markdown ? mh_options_markdown(&mh_recipe_options, &text)
                                : mh_options_help(&mh_recipe_options, &text);
    if (status == MH_OK)
        fwrite(text.data, 1, text.length, stdout);
    mh_text_release(&text);
    return cli_report(status);
}
