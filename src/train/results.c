/* What a comparison says: means over seeds, differences paired by seed, and what they cost. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIDENCE 0.95

/* A model's perplexity on a set, over its finished runs; and less the baseline's, over seeds both have. */
typedef struct {
    int runs, pairs;
    double mean, error;      /* error NaN below two runs */
    double difference, half; /* of the interval's width; NaN below two pairs */
} measure;

static measure measure_of(const mh_comparison *c, int arm, int set)
{
    mh_mean value = {0}, difference = {0};
    for (int first = 0; first < c->runs; first += c->arms) {
        const mh_compare_run *run = &c->run[first + arm], *base = &c->run[first + c->baseline];
        if (run->state != MH_RUN_FINISHED)
            continue;
        mh_mean_add(&value, exp(run->loss[set]));
        if (base->state == MH_RUN_FINISHED)
            mh_mean_add(&difference, exp(run->loss[set]) - exp(base->loss[set]));
    }
    int pairs = difference.count;
    return (measure){.runs = value.count,
                     .pairs = pairs,
                     .mean = mh_mean_value(&value),
                     .error = mh_mean_error(&value),
                     .difference = mh_mean_value(&difference),
                     .half =
                         pairs > 1 ? mh_student(pairs - 1, CONFIDENCE) * mh_mean_error(&difference) : NAN};
}

static bool inside_noise(const measure *m)
{
    return fabs(m->difference) <= m->half;
}

/* ---- the way to the baseline's loss -------------------------------------------------------------------- */

/* The mean validation loss of a model's finished runs at the steps that all of them were evaluated at. */
static mh_status mean_curve(const mh_comparison *c, int arm, mh_curve *mean)
{
    int runs = 0;
    *mean = (mh_curve){0};
    for (int i = arm; i < c->runs; i += c->arms) {
        mh_curve curve;
        if (c->run[i].state != MH_RUN_FINISHED)
            continue;
        MH_TRY(mh_curve_read(&curve, c->run[i].folder));
        if (runs++ == 0) {
            *mean = curve;
            continue;
        }
        int kept = 0;
        for (int a = 0, b = 0; a < mean->count; a++) {
            mh_point *point = &mean->point[a];
            while (b < curve.count && curve.point[b].step < point->step)
                b++;
            if (b < curve.count && curve.point[b].step == point->step)
                mean->point[kept++] = (mh_point){point->step, point->loss + curve.point[b].loss};
        }
        mean->count = kept;
        mh_curve_release(&curve);
    }
    for (int i = 0; i < mean->count; i++)
        mean->point[i].loss /= runs;
    return MH_OK;
}

/* Updates until the curve first comes down to `loss`, on a straight line between evaluations; NaN: never. */
static double updates_to(const mh_curve *curve, double loss)
{
    for (int i = 0; i < curve->count; i++) {
        const mh_point *p = &curve->point[i];
        if (p->loss > loss)
            continue;
        double share = i > 0 ? (p[-1].loss - loss) / (p[-1].loss - p->loss) : 1;
        return i > 0 ? (double)p[-1].step + share * (double)(p->step - p[-1].step) : (double)p->step;
    }
    return NAN;
}

/* ---- everything about one model ------------------------------------------------------------------------ */

typedef struct {
    const mh_arm *arm;
    double updates, update_flops;
    double to_loss;    /* updates until the baseline's final loss; NaN: not reached */
    measure *measures; /* [sets] */
} summary;

typedef struct {
    const mh_comparison *c;
    const char *baseline;
    double target; /* the baseline's final loss; NaN before there is one */
    summary *model;
    measure *measures; /* [arms][sets] */
    int finished, failed;
} digest;

static mh_status find_target(digest *d)
{
    mh_curve curve;
    mh_status status = mean_curve(d->c, d->c->baseline, &curve);
    d->target = curve.count ? curve.point[curve.count - 1].loss : NAN;
    mh_curve_release(&curve);
    return status;
}

static mh_status summarise(digest *d, int index)
{
    summary *s = &d->model[index];
    s->arm = &d->c->arm[index];
    s->updates = (double)s->arm->recipe.train.steps;
    s->update_flops = s->arm->tokens * s->arm->flops.training;
    s->measures = d->measures + (ptrdiff_t)index * d->c->sets;
    for (int i = 0; i < d->c->sets; i++)
        s->measures[i] = measure_of(d->c, index, i);
    mh_curve curve;
    mh_status status = mean_curve(d->c, index, &curve);
    s->to_loss = updates_to(&curve, d->target);
    mh_curve_release(&curve);
    return status;
}

static mh_status digest_init(digest *d, const mh_comparison *c)
{
    *d = (digest){.c = c, .baseline = c->arm[c->baseline].name};
    d->model = calloc((size_t)c->arms, sizeof *d->model);
    d->measures = calloc((size_t)c->arms * (size_t)c->sets, sizeof *d->measures);
    if (d->model == NULL || d->measures == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for the results");
    for (int i = 0; i < c->runs; i++) {
        d->finished += c->run[i].state == MH_RUN_FINISHED;
        d->failed += c->run[i].state == MH_RUN_FAILED;
    }
    MH_TRY(find_target(d));
    for (int i = 0; i < c->arms; i++)
        MH_TRY(summarise(d, i));
    return MH_OK;
}

static void digest_release(digest *d)
{
    free(d->model);
    free(d->measures);
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

static json_t *measure_json(const measure *m)
{
    bool interval = !isnan(m->half);
    return json_pack("{s:i, s:o, s:o, s:i, s:o, s:o, s:o, s:o}", "runs", m->runs, "mean",
                     mh_json_real(m->mean), "standard_error", mh_json_real(m->error), "pairs", m->pairs,
                     "difference", mh_json_real(m->difference), "low", mh_json_real(m->difference - m->half),
                     "high", mh_json_real(m->difference + m->half), "inside_noise",
                     interval ? json_boolean(inside_noise(m)) : json_null());
}

static json_t *runs_json(const digest *d, int arm)
{
    static const char *const states[] = {"waiting", "finished", "failed"};
    const mh_comparison *c = d->c;
    json_t *runs = json_array();
    for (int i = arm; i < c->runs; i += c->arms) {
        const mh_compare_run *run = &c->run[i];
        json_t *json = json_pack("{s:I, s:s, s:s}", "seed", (json_int_t)run->seed, "folder",
                                 run->folder + strlen(c->folder) + 1, "state", states[run->state]);
        json_t *loss = json_object();
        for (int s = 0; s < c->sets && run->state == MH_RUN_FINISHED; s++)
            mh_json_set(loss, c->set[s].name, mh_json_real(run->loss[s]));
        mh_json_set(json, "loss", loss);
        if (run->state == MH_RUN_FAILED)
            mh_json_set(json, "message", json_string(run->message));
        mh_json_append(runs, json);
    }
    return runs;
}

static json_t *model_json(const digest *d, int index)
{
    const summary *s = &d->model[index];
    const mh_arm *arm = s->arm;
    json_t *perplexity = json_object();
    for (int i = 0; i < d->c->sets; i++)
        mh_json_set(perplexity, d->c->set[i].name, measure_json(&s->measures[i]));
    return json_pack(
        "{s:s, s:b, s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:o, s:{s:b, s:o, s:o, s:o}, s:o}",
        "name", arm->name, "causal", mh_config_noncausal(&arm->recipe.model) == NULL, "parameters",
        (json_int_t)arm->params.total, "active_parameters", (json_int_t)arm->params.active, "flops_per_token",
        arm->flops.forward, "training_flops_per_token", arm->flops.training, "memory_bytes",
        (json_int_t)arm->memory, "updates", s->updates, "tokens", s->updates * arm->tokens, "flops",
        s->updates * s->update_flops, "tokens_per_second", arm->tokens / arm->update_seconds, "seconds",
        s->updates * arm->update_seconds, "perplexity", perplexity, "to_baseline_loss", "reached",
        !isnan(s->to_loss), "updates", mh_json_real(s->to_loss), "flops",
        mh_json_real(s->to_loss * s->update_flops), "seconds", mh_json_real(s->to_loss * arm->update_seconds),
        "runs", runs_json(d, index));
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define ADD(row, ...) mh_json_append(row, json_sprintf(__VA_ARGS__))

/* Two decimals say enough of a perplexity of 20, not of one of 2. */
static int decimals(const digest *d, int set)
{
    /* NOLINTNEXTLINE(*NullDereference): digest_init saw to the memory */
    return d->model[d->c->baseline].measures[set].mean < 10 ? 3 : 2;
}

static json_t *columns_of(const digest *d)
{
    json_t *columns = json_array();
    ADD(columns, "model");
    for (int i = 0; i < d->c->sets; i++) {
        ADD(columns, "perplexity on %s", d->c->set[i].name);
        ADD(columns, "%s against %s", d->c->set[i].name, d->baseline);
    }
    static const char *const cost[] = {"parameters", "active",   "MFLOPs/token",
                                       "updates",    "tokens/s", "seconds"};
    for (size_t i = 0; i < sizeof cost / sizeof *cost; i++)
        ADD(columns, "%s", cost[i]);
    ADD(columns, "TFLOPs to %s's loss", d->baseline);
    ADD(columns, "seconds to it");
    ADD(columns, "memory (MiB)");
    return columns;
}

/* `flag` goes to a perplexity that is not what it seems. */
static void add_measure(json_t *row, const measure *m, int n, bool baseline, const char *flag)
{
    if (m->runs == 0)
        ADD(row, "-");
    else if (m->runs == 1)
        ADD(row, "%.*f%s", n, m->mean, flag);
    else
        ADD(row, "%.*f \u00b1 %.*f%s", n, m->mean, n, m->error, flag);
    if (baseline || m->pairs == 0)
        ADD(row, "-");
    else if (m->pairs == 1)
        ADD(row, "%+.*f", n, m->difference);
    else
        ADD(row, "%+.*f (%+.*f to %+.*f)", n, m->difference, n, m->difference - m->half, n,
            m->difference + m->half);
}

static json_t *row_of(const digest *d, int index)
{
    const summary *s = &d->model[index];
    const mh_arm *arm = s->arm;
    const char *flag = mh_config_noncausal(&arm->recipe.model) ? " \u2020" : "";
    json_t *row = json_array();
    ADD(row, "%s", arm->name);
    for (int i = 0; i < d->c->sets; i++)
        add_measure(row, &s->measures[i], decimals(d, i), index == d->c->baseline, flag);
    ADD(row, "%.3fM", (double)arm->params.total / 1e6);
    ADD(row, "%.3fM", (double)arm->params.active / 1e6);
    ADD(row, "%.3f", arm->flops.forward / 1e6);
    ADD(row, "%.0f", s->updates);
    ADD(row, "%.0f", arm->tokens / arm->update_seconds);
    ADD(row, "%.1f", s->updates * arm->update_seconds);
    if (s->measures->runs == 0 || isnan(d->target)) {
        ADD(row, "-");
        ADD(row, "-");
    } else if (isnan(s->to_loss)) {
        ADD(row, "not reached");
        ADD(row, "not reached");
    } else {
        ADD(row, "%.4g", s->to_loss * s->update_flops / 1e12);
        ADD(row, "%.1f", s->to_loss * arm->update_seconds);
    }
    ADD(row, "%.0f", (double)arm->memory / (1 << 20));
    return row;
}

static json_t *table_of(const digest *d)
{
    json_t *rows = json_array();
    for (int i = 0; i < d->c->arms; i++)
        mh_json_append(rows, row_of(d, i));
    return json_pack("{s:o, s:o}", "columns", columns_of(d), "rows", rows);
}

/* ---- in words ------------------------------------------------------------------------------------------ */

static void tell_design(const digest *d, json_t *text)
{
    int64_t seeds = d->c->recipe.compare.seeds, first = d->c->recipe.train.seed;
    if (d->finished + d->failed < d->c->runs)
        ADD(text, "%d of %d runs are finished: what follows is preliminary.", d->finished, d->c->runs);
    if (seeds == 1)
        ADD(text,
            "Each model was trained once, with seed %lld, all on the same batches in the same order. One "
            "seed gives no interval: nothing here tells a difference from noise; three seeds do.",
            (long long)first);
    else
        ADD(text,
            "Each model was trained with the seeds %lld to %lld, always on the same batches in the same "
            "order. After \u00b1 stands the standard error over seeds; differences are paired by seed, with "
            "their %.0f %% interval (Student's t) in brackets.",
            (long long)first, (long long)(first + seeds - 1), 100 * CONFIDENCE);
}

static void tell_difference(const digest *d, const summary *s, int set, json_t *text)
{
    const measure *m = &s->measures[set];
    const char *name = s->arm->name, *on = d->c->set[set].name;
    const char *side = m->difference < 0 ? "lower" : "higher";
    int n = decimals(d, set);
    if (m->pairs == 0)
        ADD(text, "%s: no finished run to compare with one of %s on %s.", name, d->baseline, on);
    else if (m->pairs == 1)
        ADD(text, "%s: perplexity %s by %.*f than %s's on %s, in one pair of runs, which gives no interval.",
            name, side, n, fabs(m->difference), d->baseline, on);
    else if (inside_noise(m))
        ADD(text,
            "%s: its difference from %s on %s, %+.*f, is inside the noise: the interval %+.*f to %+.*f "
            "contains 0.",
            name, d->baseline, on, n, m->difference, n, m->difference - m->half, n, m->difference + m->half);
    else
        ADD(text, "%s: perplexity %s by %.*f than %s's on %s (interval %+.*f to %+.*f, %d pairs).", name,
            side, n, fabs(m->difference), d->baseline, on, n, m->difference - m->half, n,
            m->difference + m->half, m->pairs);
}

static void tell_cost(const digest *d, const summary *s, json_t *text)
{
    double ratio = s->arm->flops.forward / d->c->arm[d->c->baseline].flops.forward;
    if (fabs(ratio - 1) > 0.05)
        ADD(text, "%s spends %.2f times the FLOPs of %s on a token: compare them by FLOPs and by seconds.",
            s->arm->name, ratio, d->baseline);
}

static void tell_causality(const summary *s, json_t *text)
{
    const char *why = mh_config_noncausal(&s->arm->recipe.model);
    if (why)
        ADD(text, "\u2020 %s %s, so its perplexity is not quite that of a causal model.", s->arm->name, why);
}

static void tell_failures(const digest *d, json_t *text)
{
    for (int i = 0; i < d->c->runs; i++) {
        const mh_compare_run *run = &d->c->run[i];
        if (run->state == MH_RUN_FAILED)
            ADD(text, "%s, seed %lld, failed and is in no figure: %s.", d->c->arm[run->arm].name,
                (long long)run->seed, run->message);
    }
}

static json_t *text_of(const digest *d)
{
    const mh_comparison *c = d->c;
    json_t *text = json_array();
    tell_design(d, text);
    for (int i = 0; i < c->arms; i++)
        for (int s = 0; s < c->sets && i != c->baseline; s++)
            tell_difference(d, &d->model[i], s, text);
    if (c->arms > 2 && c->recipe.compare.seeds > 1)
        ADD(text, "Each interval stands for itself: of twenty, one misses the truth by chance.");
    for (int i = 0; i < c->arms; i++)
        tell_cost(d, &d->model[i], text);
    for (int i = 0; i < c->arms; i++)
        tell_causality(&d->model[i], text);
    if (!isnan(d->target))
        ADD(text,
            "%s's loss is %.4f, its mean on %s at the end; others reach it where their mean first falls to "
            "it. Seconds are updates times the median update of short runs that took turns.",
            d->baseline, d->target, c->set[0].name);
    tell_failures(d, text);
    return text;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static json_t *results_of(const digest *d)
{
    const mh_comparison *c = d->c;
    json_t *models = json_array(), *sets = json_array();
    for (int i = 0; i < c->arms; i++)
        mh_json_append(models, model_json(d, i));
    for (int i = 0; i < c->sets; i++)
        mh_json_append(sets, json_pack("{s:s, s:s}", "name", c->set[i].name, "path", c->set[i].path));
    return json_pack("{s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:o, s:o, s:o, s:o, s:o}", "format_version",
                     MH_COMPARISON_VERSION, "folder", c->folder, "baseline", d->baseline, "data", c->data,
                     "runs", c->runs, "finished", d->finished, "failed", d->failed, "confidence", CONFIDENCE,
                     "baseline_loss", mh_json_real(d->target), "sets", sets, "models", models, "table",
                     table_of(d), "text", text_of(d));
}

mh_status mh_compare_results(const mh_comparison *comparison, json_t **json)
{
    digest d;
    *json = NULL;
    mh_status status = digest_init(&d, comparison);
    if (status == MH_OK && (*json = results_of(&d)) == NULL)
        status =
            mh_fail(MH_EVALUE,
                    "the results cannot be written as JSON: a name in them is not UTF-8; rename that file");
    digest_release(&d);
    return status;
}

static mh_status add_row(mh_text *out, const json_t *cells)
{
    for (size_t i = 0; i < json_array_size(cells); i++)
        MH_TRY(mh_text_printf(out, "| %s ", json_string_value(json_array_get(cells, i))));
    return mh_text_printf(out, "|\n");
}

mh_status mh_compare_markdown(const json_t *results, mh_text *out)
{
    const json_t *table = json_object_get(results, "table"), *text = json_object_get(results, "text");
    const json_t *columns = json_object_get(table, "columns"), *rows = json_object_get(table, "rows");
    MH_TRY(mh_text_printf(out, "# Comparison %s\n\n", json_string_value(json_object_get(results, "folder"))));
    MH_TRY(add_row(out, columns));
    for (size_t i = 0; i < json_array_size(columns); i++)
        MH_TRY(mh_text_printf(out, i == 0 ? "|---" : "|---:"));
    MH_TRY(mh_text_printf(out, "|\n"));
    for (size_t i = 0; i < json_array_size(rows); i++)
        MH_TRY(add_row(out, json_array_get(rows, i)));
    MH_TRY(mh_text_printf(out, "\n"));
    for (size_t i = 0; i < json_array_size(text); i++)
        MH_TRY(mh_text_printf(out, "* %s\n", json_string_value(json_array_get(text, i))));
    return MH_OK;
}
