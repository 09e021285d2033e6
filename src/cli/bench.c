/* mhmoe bench: ratios to what the processor can do, and to rivals. */
#include "bench/bench.h"
#include "cli/cli.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

enum { SHAPES_MAX = 64 };

/* Where results go: lines of a table, one JSON object, rows of a CSV file. */
typedef struct {
    bool json;
    json_t *results;
    mh_text csv;
    cli_bar bar;
    char heading[512]; /* of the table begun */
} report;

/* ---- results ------------------------------------------------------------------------------------------- */

static const char *number(double x, char out[32])
{
    double size = fabs(x);
    if (isnan(x))
        snprintf(out, 32, "-");
    else
        snprintf(out, 32, "%.*f", size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0, x);
    return out;
}

/* A new table begins where the columns change. */
static void print_heading(report *r, const mh_bench_line *line)
{
    char heading[sizeof r->heading];
    int n =
        snprintf(heading, sizeof heading, "%-42s %-5s %-13s %-12s", line->benchmark, "type", "pass", "who");
    for (int i = 0; i < line->figures; i++)
        n += snprintf(heading + n, sizeof heading - (size_t)n, " %-21s", line->figure[i].name);
    snprintf(heading + n, sizeof heading - (size_t)n, " %s", "kept");
    if (strcmp(heading, r->heading) == 0)
        return;
    printf("%s%s\n", r->heading[0] ? "\n" : "", heading);
    memcpy(r->heading, heading, sizeof heading);
}

static void print_line(report *r, const mh_bench_line *line)
{
    print_heading(r, line);
    printf("%-42s %-5s %-13s %-12s", line->subject, line->type, line->pass, line->who);
    for (int i = 0; i < line->figures; i++) {
        const mh_spread *v = &line->figure[i].value;
        char median[32], low[32], high[32], text[100];
        snprintf(text, sizeof text, "%s [%s %s]", number(v->median, median), number(v->low, low),
                 number(v->high, high));
        printf(" %-21s", text);
    }
    printf(" %d of %d\n", line->kept, line->measured);
    fflush(stdout);
}

static json_t *real_or_null(double x)
{
    return isnan(x) ? json_null() : json_real(x);
}

static json_t *line_json(const mh_bench_line *line)
{
    json_t *figures = json_object();
    for (int i = 0; i < line->figures; i++) {
        const mh_spread *v = &line->figure[i].value;
        mh_json_set(figures, line->figure[i].name,
                    json_pack("{s:o, s:o, s:o, s:i}", "median", real_or_null(v->median), "lower_quartile",
                              real_or_null(v->low), "upper_quartile", real_or_null(v->high), "samples",
                              v->count));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:o}", "benchmark", line->benchmark, "subject",
                     line->subject, "type", line->type, "pass", line->pass, "who", line->who, "kept",
                     line->kept, "measured", line->measured, "figures", figures);
}

/* A row a figure. */
static mh_status line_csv(mh_text *csv, const mh_bench_line *line)
{
    for (int i = 0; i < line->figures; i++) {
        const mh_spread *v = &line->figure[i].value;
        MH_TRY(mh_text_printf(csv, "%s,%d,%s,%s,%s,%s,%s,%s,", mh_isa_name(mh_isa_now()), mh_threads(),
                              line->benchmark, line->subject, line->type, line->pass, line->who,
                              line->figure[i].name));
        if (v->count > 0)
            MH_TRY(mh_text_printf(csv, "%.4g,%.4g,%.4g,", v->median, v->low, v->high));
        else
            MH_TRY(mh_text_printf(csv, ",,,"));
        MH_TRY(mh_text_printf(csv, "%d,%d,%d\n", v->count, line->kept, line->measured));
    }
    return MH_OK;
}

static mh_status tell(void *context, const mh_bench_line *line)
{
    report *r = context;
    cli_bar_clear(&r->bar);
    if (r->json)
        mh_json_append(r->results, line_json(line));
    else
        print_line(r, line);
    return line_csv(&r->csv, line);
}

/* ---- what is told once --------------------------------------------------------------------------------- */

static json_t *yardstick(const mh_bench *bench)
{
    static const mh_type types[] = {MH_F32, MH_BF16};
    json_t *probes = json_object();
    for (int i = 0; i < 2; i++)
        mh_json_set(probes, types[i] == MH_F32 ? "f32" : "bf16",
                    json_pack("{s:s, s:f}", "name", mh_probe_of(types[i])->name, "best_gflops",
                              bench->best[types[i]] * 1e-9));
    return probes;
}

static json_t *memories(const mh_bench *bench)
{
    json_t *levels = json_object();
    for (int i = 0; i < MH_MEMORIES; i++) {
        json_t *level = json_pack("{s:f}", "gbytes_per_second", bench->memory[i].rate * 1e-9);
        if (i < MH_DRAM)
            mh_json_set(level, "bytes", json_integer((json_int_t)bench->memory[i].holds));
        mh_json_set(levels, mh_memory_name(i), level);
    }
    return levels;
}

static int print_json(report *r, const mh_bench *bench)
{
    char name[128];
    mh_processor(name);
    return cli_print_json(json_pack("{s:s, s:s, s:s, s:i, s:f, s:o, s:o, s:O}", "version", MHMOE_VERSION,
                                    "processor", name, "instruction_set", mh_isa_name(mh_isa_now()),
                                    "threads", mh_threads(), "keep", bench->keep, "probes", yardstick(bench),
                                    "memory", memories(bench), "results", r->results));
}

static void print_yardstick(const mh_bench *bench)
{
    printf("Threads: %d. Instruction set: %s. Probes: %s at %.0f GFLOP/s, %s at %.0f GFLOP/s.\n",
           mh_threads(), mh_isa_name(mh_isa_now()), mh_probe_of(MH_F32)->name, bench->best[MH_F32] * 1e-9,
           mh_probe_of(MH_BF16)->name, bench->best[MH_BF16] * 1e-9);
    char l2[32], l3[32];
    printf("Read at most: L2 (%s) %.0f GB/s, L3 (%s) %.0f GB/s, DRAM %.0f GB/s.\n",
           cli_bytes(bench->memory[MH_L2].holds, l2), bench->memory[MH_L2].rate * 1e-9,
           cli_bytes(bench->memory[MH_L3].holds, l3), bench->memory[MH_L3].rate * 1e-9,
           bench->memory[MH_DRAM].rate * 1e-9);
    puts("Medians with [quartiles]. Kept: samples whose probes reach 85 % of the best. time/X 0.5: twice as "
         "fast as X.\n");
}

/* "AMD EPYC 7543 32-Core" -> FOLDER/amd-epyc-7543-32-core.csv */
static mh_status csv_path(char path[MH_PATH], const char *folder)
{
    char name[128], file[160];
    size_t n = 0;
    mh_processor(name);
    for (const char *c = name[0] ? name : "unknown"; *c; c++)
        if (isalnum((unsigned char)*c))
            file[n++] = (char)tolower((unsigned char)*c);
        else if (n > 0 && file[n - 1] != '-')
            file[n++] = '-';
    snprintf(file + n, sizeof file - n, ".csv");
    return mh_path_join(path, folder, file);
}

/* Whether it can be written is known before the measuring. */
static mh_status prepare_csv(char path[MH_PATH], const char *folder)
{
    mh_writer attempt;
    MH_TRY(csv_path(path, folder));
    MH_TRY(mh_writer_open(&attempt, path));
    mh_writer_abort(&attempt);
    return MH_OK;
}

/* ---- the command --------------------------------------------------------------------------------------- */

static mh_status run_step(mh_bench *bench, const mh_bench_shape *shapes, int count)
{
    (void)shapes, (void)count;
    mh_bench_training training = mh_bench_reference();
    return mh_bench_step(bench, &training);
}

static const struct {
    const char *name;
    int numbers; /* of a shape; 0: takes none */
    mh_status (*run)(mh_bench *bench, const mh_bench_shape *shapes, int count);
} benchmarks[] = {{"gemm", 3, mh_bench_gemm},
                  {"experts", 4, mh_bench_experts},
                  {"layer", 3, mh_bench_layer},
                  {"step", 0, run_step}};
enum { BENCHMARKS = sizeof benchmarks / sizeof *benchmarks };

typedef struct {
    bool wanted[BENCHMARKS];
    mh_bench_shape shape[SHAPES_MAX];
    int shapes;
} request;

static mh_status choose(request *q, const cli_list *names)
{
    for (int b = 0; b < BENCHMARKS; b++)
        q->wanted[b] = names->count == 0;
    for (int i = 0; i < names->count; i++) {
        int b = 0;
        while (b < BENCHMARKS && strcmp(names->item[i], benchmarks[b].name) != 0)
            b++;
        if (b == BENCHMARKS)
            return mh_fail(MH_EUSAGE, "there is no benchmark '%s': choose gemm, experts, layer or step",
                           names->item[i]);
        q->wanted[b] = true;
    }
    return MH_OK;
}

/* "256x1365x512": so many whole numbers. Returns how many characters they take; 0 where they are none. */
static int read_shape(const char *text, int numbers, int64_t *out)
{
    int at = 0;
    for (int i = 0; i < numbers; i++) {
        int used = 0;
        if (!isdigit((unsigned char)text[at]) || sscanf(text + at, "%7" SCNd64 "%n", &out[i], &used) != 1 ||
            out[i] < 1)
            return 0;
        at += used;
        if (i + 1 < numbers && text[at++] != 'x')
            return 0;
    }
    return text[at] == '\0' || text[at] == ',' ? at : 0;
}

static mh_status parse_shapes(request *q, const char *text)
{
    int numbers = 0;
    for (int b = 0; b < BENCHMARKS; b++) {
        if (q->wanted[b] && (benchmarks[b].numbers == 0 || (numbers && numbers != benchmarks[b].numbers)))
            return mh_fail(MH_EUSAGE, "--shapes goes with one of the benchmarks gemm, experts and layer; "
                                      "name the one that is meant");
        numbers = q->wanted[b] ? benchmarks[b].numbers : numbers;
    }
    while (*text != '\0') {
        int64_t n[4] = {0, 0, 0, 1};
        int used = read_shape(text, numbers, n), loads = numbers == 4 ? 3 : 1;
        if (used == 0 || n[3] > 1024 || q->shapes + loads > SHAPES_MAX)
            return mh_fail(
                MH_EUSAGE,
                "--shapes takes a few shapes such as %s, numbers from 1 to 9999999 (experts 1024), not '%s'",
                numbers == 4 ? "2048x1365x512x8,512x1365x512x8" : "256x1365x512,64x512x512", text);
        for (int l = 0; l < loads; l++)
            q->shape[q->shapes++] = (mh_bench_shape){n[0], n[1], n[2], (int)n[3], (mh_loads)l};
        text += used + (text[used] == ',');
    }
    return MH_OK;
}

/* Options of step are without effect on the others. */
static mh_status check_step(const request *q, bool precision, bool save)
{
    bool step = false;
    for (int b = 0; b < BENCHMARKS; b++)
        step |= q->wanted[b] && benchmarks[b].run == run_step;
    if (step || !(precision || save))
        return MH_OK;
    return mh_fail(MH_EUSAGE, "--%s goes with the benchmark step; name that one, too, or leave it out",
                   save ? "save" : "precision");
}

static mh_status run_all(const request *q, mh_bench *bench)
{
    for (int b = 0; b < BENCHMARKS; b++)
        if (q->wanted[b])
            MH_TRY(benchmarks[b].run(bench, q->shapes ? q->shape : NULL, q->shapes));
    return MH_OK;
}

static int run(const request *q, report *r, double seconds, mh_precision precision, const char *save,
               const char *folder)
{
    char csv[MH_PATH];
    cli_bar_init(&r->bar);
    mh_progress progress = {cli_bar_report, &r->bar, cli_catch_signals()};
    mh_bench bench = {.seconds = seconds,
                      .precision = precision,
                      .save = save,
                      .progress = &progress,
                      .tell = tell,
                      .context = r};
    mh_status status = folder != NULL ? prepare_csv(csv, folder) : MH_OK;
    if (status == MH_OK)
        status = mh_bench_init(&bench);
    if (status == MH_OK && !r->json)
        print_yardstick(&bench);
    if (status == MH_OK)
        status = mh_text_printf(&r->csv,
                                "isa,threads,benchmark,subject,type,pass,who,figure,median,lower_quartile,"
                                "upper_quartile,samples,kept,measured\n");
    if (status == MH_OK)
        status = run_all(q, &bench);
    cli_bar_clear(&r->bar);
    if (status == MH_OK && folder != NULL)
        status = mh_file_write(csv, r->csv.data, r->csv.length);
    int code = cli_report(status), printed = r->json && status == MH_OK ? print_json(r, &bench) : CLI_OK;
    return code ? code : printed;
}

int cli_bench(int argc, char **argv)
{
    const char *shapes = NULL, *folder = NULL, *save = NULL;
    int precision = -1; /* not given */
    int64_t threads = 0;
    double seconds = 0;
    bool json = false;
    const cli_option options[] = {
        {"shapes", "MxNxK,...",
         "rows, outputs and inputs instead of the usual ones; experts: MxNxKxE; layer: tokens, hidden width, "
         "width",
         CLI_STRING, &shapes, 0, 0, false},
        {"threads", "N", "threads to use (default: OMP_NUM_THREADS, or all processors)", CLI_INT, &threads, 1,
         1024, false},
        {"precision", "f32|bf16", "precision of step (bf16)", CLI_CHOICE, &precision, 0, 0, false},
        {"save", "FOLDER", "write the models of step, their batch and its losses to FOLDER", CLI_STRING,
         &save, 0, 0, false},
        {"seconds", "S", "time for each comparison (default: from one second to two minutes)", CLI_FLOAT,
         &seconds, 0.001, 86400, false},
        {"csv", "FOLDER", "also write FOLDER/PROCESSOR.csv", CLI_STRING, &folder, 0, 0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe bench",
        "[gemm|experts|layer|step]",
        "Measures matrix products, products by experts, whole layers and training steps, all of them where "
        "none is named. Every figure is a ratio: to a probe of the processor's widest multiply-adds timed "
        "right before and after, and to rivals that take turns. bench/README.md says how to read them.",
        "mhmoe bench layer\n"
        "mhmoe bench gemm --shapes 256x1365x512,4096x1365x512 --seconds 2\n"
        "mhmoe bench experts --shapes 2048x1365x512x8 --threads 1 --json",
        0,
        BENCHMARKS,
        options,
        sizeof options / sizeof *options,
    };
    cli_list names;
    int code = cli_parse(&usage, argc, argv, &names);
    if (code >= 0)
        return code;
    request q = {0};
    mh_status status = choose(&q, &names);
    if (status == MH_OK && shapes != NULL)
        status = parse_shapes(&q, shapes);
    if (status == MH_OK)
        status = check_step(&q, precision >= 0, save != NULL);
    if (status != MH_OK)
        return cli_report(status);
    if (threads > 0)
        omp_set_num_threads((int)threads);

    report r = {.json = json, .results = json_array()};
    code = run(&q, &r, seconds, precision < 0 ? MH_PRECISION_BF16 : (mh_precision)precision, save, folder);
    json_decref(r.results);
    mh_text_release(&r.csv);
    return code;
}
