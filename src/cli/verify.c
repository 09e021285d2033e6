/* mhmoe verify: reference vectors against this build. */
#include "cli/cli.h"

static void print_result(const char *path, const mh_verify_result *r)
{
    printf("%s\n", path);
    for (int i = 0; i < r->count; i++) {
        const mh_verified *v = &r->tensor[i];
        printf("  %-36s %9.2e  %s\n", v->name, v->error, v->error <= v->bound ? "ok" : "FAILED");
    }
    if (r->choices > 0)
        printf("  %lld choices, %lld differ", (long long)r->choices, (long long)r->flips);
    if (r->kept > 0)
        printf("; %lld kept flags, %lld differ", (long long)r->kept, (long long)r->drops);
    printf("%s  %s (relative errors up to %.0e)\n", r->choices > 0 ? "\n" : "",
           r->passed ? "passed" : "FAILED", r->count > 0 ? r->tensor[0].bound : 0);
}

static json_t *result_json(const char *path, const mh_verify_result *r)
{
    json_t *tensors = json_object();
    for (int i = 0; i < r->count; i++)
        mh_json_set(tensors, r->tensor[i].name, mh_json_real(r->tensor[i].error));
    return json_pack("{s:s, s:b, s:f, s:I, s:I, s:I, s:I, s:o}", "file", path, "passed", r->passed, "bound",
                     r->count > 0 ? r->tensor[0].bound : 0.0, "choices", (json_int_t)r->choices, "flips",
                     (json_int_t)r->flips, "kept", (json_int_t)r->kept, "drops_differ", (json_int_t)r->drops,
                     "relative_errors", tensors);
}

int cli_verify(int argc, char **argv)
{
    mh_precision precision = MH_PRECISION_F32;
    bool json = false;
    const cli_option options[] = {
        {"precision", "f32|bf16", "what to compute in (default f32); bf16 forces the expected choices",
         CLI_CHOICE, &precision, 0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe verify",
        "FILE.safetensors...",
        "Runs the layer or decoder of reference vector files, forward and backward, and prints the relative "
        "error of each expected tensor and whether the experts chosen and the rows dropped agree.",
        "mhmoe verify tests/golden/layer_mhmoe_h2_top2.safetensors\n"
        "mhmoe verify --precision bf16 tests/golden/model_*.safetensors",
        1,
        CLI_LIST_MAX,
        options,
        sizeof options / sizeof *options,
    };
    cli_list files;
    int code = cli_parse(&usage, argc, argv, &files);
    if (code >= 0)
        return code;

    json_t *list = json ? json_array() : NULL;
    int passed = 0;
    for (int i = 0; i < files.count; i++) {
        mh_verify_result result;
        if (mh_verify(files.item[i], precision, &result) != MH_OK) {
            cli_report(MH_EFORMAT);
            continue;
        }
        if (json)
            mh_json_append(list, result_json(files.item[i], &result));
        else
            print_result(files.item[i], &result);
        passed += result.passed;
        mh_verify_release(&result);
    }
    bool all = passed == files.count;
    if (json)
        cli_print_json(json_pack("{s:b, s:s, s:o}", "passed", all, "precision",
                                 precision == MH_PRECISION_BF16 ? "bf16" : "f32", "files", list));
    else if (files.count > 1)
        printf("%d of %d files passed\n", passed, files.count);
    return all ? CLI_OK : CLI_FAILURE;
}
