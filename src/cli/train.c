/* mhmoe train: a run from its recipe, or the rest of one. */
#include "cli/cli.h"

#include <math.h>

/* What the command remembers of the run for its last words. */
typedef struct {
    cli_bar bar;
    mh_recipe recipe;
    bool logged;
    mh_train_log last, validated; /* step 0 where there was none */
} view;

static void print_facts(FILE *out, const mh_recipe *recipe, const mh_train_facts *facts)
{
    char a[32], b[32];
    fprintf(out, "run         %s, %s, %d thread%s\n", recipe->train.run,
            recipe->train.precision == MH_PRECISION_BF16 ? "bf16" : "f32", mh_threads(),
            mh_threads() > 1 ? "s" : "");
    fprintf(out, "parameters  %s, %s active for a token\n", cli_count((double)facts->params.total, a),
            cli_count((double)facts->params.active, b));
    fprintf(out, "FLOPs       %s a token forward, %s in training\n", cli_count(facts->flops.forward, a),
            cli_count(facts->flops.training, b));
    fprintf(out, "data        %s tokens to train on, %s to validate\n",
            cli_count((double)facts->train_tokens, a), cli_count((double)facts->valid_tokens, b));
    fprintf(out, "updates     %lld of %lld tokens: ", (long long)recipe->train.steps,
            (long long)(recipe->train.batch * recipe->train.sequence));
    if (facts->least_epochs < facts->most_epochs)
        fprintf(out, "%.2f to %.2f times the parts of the data\n", facts->least_epochs, facts->most_epochs);
    else
        fprintf(out, "%.2f times the data\n", facts->epochs);
    fprintf(out, "memory      about %s", cli_bytes((double)facts->memory, a));
}

static void show_facts(void *context, const mh_recipe *recipe, const mh_train_facts *facts)
{
    (void)context;
    print_facts(stderr, recipe, facts);
    fputs("\n\n", stderr);
}

static void show_validation(const mh_train_log *log)
{
    char loss[32], perplexity[32], bits[32];
    fprintf(stderr, "  validation: loss %s, perplexity %s, %s bits a byte",
            cli_real(log->valid_loss, 4, loss), cli_real(log->valid_perplexity, 2, perplexity),
            cli_real(log->valid_bits_per_byte, 4, bits));
}

static void show_training(const mh_train_log *log)
{
    char tokens[32], loss[32], perplexity[32], gradient[32], speed[32], flops[32], memory[32], left[32];
    fprintf(stderr, "  %s tokens  loss %s  perplexity %s  balance %.3f",
            cli_count((double)log->tokens, tokens), cli_real(log->loss, 4, loss),
            cli_real(log->perplexity, 2, perplexity), log->balance);
    if (!isnan(log->z_loss))
        fprintf(stderr, "  z-loss %.3f", log->z_loss);
    fprintf(stderr, "  gradient %s  rate %.2e  %s tokens/s  %s FLOP/s  %s  %s left",
            cli_real(log->grad_norm, 2, gradient), log->rate, cli_count(log->tokens_per_second, speed),
            cli_count(log->flops_per_second, flops), cli_bytes(log->memory, memory),
            cli_duration(log->seconds_left, left));
}

static void show_load(const mh_train_log *log)
{
    fputs("\n  experts", stderr);
    for (int i = 0; i < log->moe_layers; i++)
        fprintf(stderr, "%s layer %lld: entropy %.3f, largest %.1f %%, dropped %.1f %%", i > 0 ? ";" : "",
                (long long)log->moe_layer[i], log->load[i].entropy, 100 * log->load[i].largest,
                100 * log->load[i].dropped);
}

/* Lines for a file; above a bar only what it does not show. */
static void show_log(void *context, const mh_train_log *log)
{
    view *v = context;
    v->logged = true;
    cli_bar_clear(&v->bar);
    if (log->validated) {
        v->validated = *log;
        cli_bar_init(&v->bar); /* the next evaluation's time and rate are its own */
    }
    if (v->bar.terminal && !log->validated)
        return;
    fprintf(stderr, "step %lld/%lld", (long long)log->step, (long long)log->steps);
    bool updated = !isnan(log->loss);
    if (updated)
        show_training(log);
    if (log->validated)
        show_validation(log);
    if (updated && log->moe_layers > 0)
        show_load(log);
    fputc('\n', stderr);
}

static void show_step(void *context, const mh_train_log *log)
{
    view *v = context;
    char note[96], loss[32], speed[32];
    v->last = *log;
    if (!v->bar.terminal)
        return;
    snprintf(note, sizeof note, "loss %s  %s tokens/s", cli_real(log->loss, 3, loss),
             cli_count(log->tokens_per_second, speed));
    cli_bar_report(&v->bar, "training", (double)log->step, (double)log->steps, note);
}

static void show_progress(void *context, const char *what, double done, double total, const char *note)
{
    view *v = context;
    cli_bar_report(&v->bar, what, done, total, note);
}

static void show_message(void *context, const char *sentence)
{
    view *v = context;
    cli_bar_clear(&v->bar);
    fprintf(stderr, "%s\n", sentence);
}

static void print_summary(const view *v)
{
    const char *run = v->recipe.train.run;
    char loss[32], perplexity[32], bits[32];
    printf("run         %s, all %lld updates made\n", run, (long long)v->recipe.train.steps);
    if (v->last.step > 0)
        printf("loss        %s nats a token (perplexity %s)\n", cli_real(v->last.loss, 4, loss),
               cli_real(v->last.perplexity, 2, perplexity));
    if (v->validated.step > 0)
        printf("validation  %s nats a token (perplexity %s), %s bits a byte\n",
               cli_real(v->validated.valid_loss, 4, loss),
               cli_real(v->validated.valid_perplexity, 2, perplexity),
               cli_real(v->validated.valid_bits_per_byte, 4, bits));
    const char *noncausal = mh_config_noncausal(&v->recipe.model);
    if (noncausal)
        printf("not causal  it %s; perplexities are not quite those of a causal model\n", noncausal);
    printf("\nWhat to try next:\n");
    if (!noncausal)
        printf("  mhmoe generate %s --prompt \"Once upon a time\"\n", run);
    printf("  mhmoe eval %s --perplexity FILE.txt\n"
           "  tensorboard --logdir %s\n"
           "  %s/report.html in a browser\n",
           run, run, run);
}

/* A recipe that stands where the run's own record goes would be replaced by it. */
static mh_status read_recipe(mh_recipe *recipe, const char *path, const cli_list *sets, bool resume)
{
    char record[MH_PATH];
    MH_TRY(mh_recipe_read(recipe, path, sets->item, sets->count));
    MH_TRY(mh_path_join(record, recipe->train.run, "recipe.yaml"));
    if (resume || !mh_path_same(record, path))
        return MH_OK;
    MH_TRY(mh_train_check_folder(recipe->train.run, false)); /* where there is a run, that is the trouble */
    return mh_fail(MH_EVALUE,
                   "%s stands where the run keeps a recipe of its own; choose another folder by --set "
                   "train.run=FOLDER",
                   path);
}

static mh_status train(view *v, const char *path, const cli_list *sets, bool resume, const char *init_from)
{
    if (resume && init_from)
        return mh_fail(MH_EUSAGE,
                       "--resume goes on with a run and --init-from starts another; give one of them");
    MH_TRY(read_recipe(&v->recipe, path, sets, resume));
    cli_bar_init(&v->bar);
    mh_train_watch watch = {.context = v,
                            .facts = show_facts,
                            .log = show_log,
                            .step = show_step,
                            .message = show_message,
                            .progress = show_progress,
                            .stop = cli_catch_signals()};
    mh_status status = mh_train(&v->recipe, resume ? MH_TRAIN_RESUME : MH_TRAIN_NEW, init_from, &watch);
    cli_bar_clear(&v->bar);
    return status;
}

/* ---- --dry-run ----------------------------------------------------------------------------------------- */

static void print_rehearsal(const mh_recipe *recipe, const mh_rehearsal *r)
{
    char a[32], b[32];
    print_facts(stdout, recipe, &r->facts);
    printf(", of %s available\n", cli_bytes((double)r->memory_available, a));
    if (r->update_seconds == 0) /* not come so far */
        return;
    double tokens = (double)(recipe->train.batch * recipe->train.sequence);
    printf("disk        %lld checkpoint%s of %s kept: %s", (long long)r->checkpoints,
           r->checkpoints > 1 ? "s" : "", cli_bytes((double)r->checkpoint_bytes, a),
           cli_bytes((double)r->checkpoints * (double)r->checkpoint_bytes, b));
    if (r->disk_available < SIZE_MAX)
        printf(", of %s free", cli_bytes((double)r->disk_available, a));
    putchar('\n');
    printf("speed       %s an update, %s tokens/s\n", cli_duration(r->update_seconds, a),
           cli_count(tokens / r->update_seconds, b));
    printf("time        about %s, of which %lld evaluation%s take %s\n", cli_duration(r->seconds, a),
           (long long)r->evaluations, r->evaluations > 1 ? "s" : "",
           cli_duration((double)r->evaluations * r->evaluation_seconds, b));
}

static int print_rehearsal_json(const mh_recipe *recipe, const mh_rehearsal *r)
{
    const mh_train_facts *f = &r->facts;
    return cli_print_json(json_pack(
        "{s:s, s:i, s:{s:I, s:I}, s:{s:f, s:f}, s:{s:I, s:I, s:f, s:f, s:f}, s:{s:I, s:I}, "
        "s:{s:I, s:I}, s:{s:I, s:I, s:o}, s:{s:I, s:f, s:f, s:f}}",
        "run", recipe->train.run, "threads", mh_threads(), "parameters", "total", (json_int_t)f->params.total,
        "active", (json_int_t)f->params.active, "flops_per_token", "forward", f->flops.forward, "training",
        f->flops.training, "data", "train_tokens", (json_int_t)f->train_tokens, "valid_tokens",
        (json_int_t)f->valid_tokens, "epochs", f->epochs, "least_epochs", f->least_epochs, "most_epochs",
        f->most_epochs, "updates", "count", (json_int_t)recipe->train.steps, "tokens",
        (json_int_t)(recipe->train.batch * recipe->train.sequence), "memory_bytes", "needed",
        (json_int_t)f->memory, "available", (json_int_t)r->memory_available, "disk", "checkpoints",
        (json_int_t)r->checkpoints, "checkpoint_bytes", (json_int_t)r->checkpoint_bytes, "available_bytes",
        r->disk_available < SIZE_MAX ? json_integer((json_int_t)r->disk_available) : json_null(), "seconds",
        "evaluations", (json_int_t)r->evaluations, "update", r->update_seconds, "evaluation",
        r->evaluation_seconds, "all", r->seconds));
}

/* Where memory, disk or the run folder stands in the way, what is known is printed all the same. */
static int rehearse(const char *path, const cli_list *sets, const char *init_from, bool json)
{
    mh_recipe recipe;
    mh_rehearsal rehearsal;
    mh_status status = read_recipe(&recipe, path, sets, false);
    if (status != MH_OK)
        return cli_report(status);
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};
    cli_bar_init(&bar);
    status = mh_train_rehearse(&recipe, init_from, &progress, &rehearsal);
    cli_bar_clear(&bar);
    if (json && status == MH_OK)
        return print_rehearsal_json(&recipe, &rehearsal);
    if (!json && rehearsal.facts.memory > 0)
        print_rehearsal(&recipe, &rehearsal);
    if (status == MH_OK)
        printf("\nNothing was written. Without --dry-run it begins.\n");
    return cli_report(status);
}

int cli_train(int argc, char **argv)
{
    cli_list sets = {0}, arguments;
    bool resume = false, dry = false, json = false;
    const char *init_from = NULL;
    const cli_option options[] = {
        {"set", "KEY=VALUE", "change a key of the recipe; 'mhmoe config' lists them", CLI_LIST, &sets, 0, 0,
         false},
        {"resume", NULL, "go on from the newest checkpoint of the recipe's run folder", CLI_FLAG, &resume, 0,
         0, false},
        {"init-from", "CHECKPOINT", "start from these weights (a checkpoint or a run folder)", CLI_STRING,
         &init_from, 0, 0, false},
        {"dry-run", NULL,
         "tell what a new run would be and take, timed by a few real updates, and write nothing", CLI_FLAG,
         &dry, 0, 0, false},
        {"json", NULL, "with --dry-run: print one JSON object", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe train",
        "RECIPE.yaml",
        "Trains a model as the recipe says. Ctrl-C once saves a checkpoint and stops; twice stops at once. A "
        "run that was stopped or killed goes on with --resume and ends in the same bytes as one that was "
        "not.",
        "mhmoe train recipes/demo.yaml --dry-run\n"
        "mhmoe train recipes/demo.yaml\n"
        "mhmoe train recipes/demo.yaml --resume\n"
        "mhmoe train recipes/demo.yaml --set train.run=runs/fast --set train.rate=2e-3\n"
        "mhmoe train recipes/demo.yaml --set train.run=runs/longer --init-from runs/demo",
        1,
        1,
        options,
        sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &arguments);
    if (code >= 0)
        return code;
    if ((dry && resume) || (json && !dry)) {
        mh_fail(MH_EUSAGE, json && !dry
                               ? "--json goes with --dry-run; a run keeps its numbers in metrics.jsonl"
                               : "--dry-run tells of a new run; leave --resume out");
        return cli_report(MH_EUSAGE);
    }
    if (dry)
        return rehearse(arguments.item[0], &sets, init_from, json);
    view v = {0};
    mh_status status = train(&v, arguments.item[0], &sets, resume, init_from);
    code = cli_report(status);
    if (v.logged)
        cli_write_page(v.recipe.train.run);
    if (status == MH_OK)
        print_summary(&v);
    return code;
}
