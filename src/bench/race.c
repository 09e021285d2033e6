/* race: contenders take turns, each sample between two probes. */
#include "bench/bench.h"

#include <math.h>
#include <string.h>

#define PROBE_SECONDS  1e-3
#define SAMPLE_SECONDS 4e-3  /* at least: shorter runs are repeated */
#define PATIENCE       4.0   /* times its seconds a race may last, waiting for the machine to be fast */
#define WARM_SECONDS   50e-3 /* a first run this long is no matter of cold caches */

double mh_time_together(void (*work)(const void *context), const void *context)
{
    double first = INFINITY, last = 0;
#pragma omp parallel
    {
#pragma omp barrier
        double start = mh_seconds();
        work(context);
        double end = mh_seconds();
#pragma omp critical
        {
            first = start < first ? start : first;
            last = end > last ? end : last;
        }
    }
    return last - first;
}

typedef struct {
    const mh_probe *probe;
    int64_t rounds;
} probing;

static void run_probe(const void *context)
{
    const probing *p = context;
    p->probe->run(p->rounds);
}

static double probe_rate(mh_bench *bench, mh_type type)
{
    probing p = {mh_probe_of(type), bench->rounds[type]};
    double operations = mh_threads() * p.probe->operations * (double)p.rounds;
    double rate = operations / mh_time_together(run_probe, &p);
    bench->best[type] = rate > bench->best[type] ? rate : bench->best[type];
    return rate;
}

mh_status mh_bench_init(mh_bench *bench)
{
    static const mh_type types[] = {MH_F32, MH_BF16};
    bench->keep = MH_BENCH_KEEP;
    for (int t = 0; t < 2; t++) {
        const mh_probe *probe = mh_probe_of(types[t]);
        double seconds = 0;
        int64_t rounds = 1000;
        while (seconds < PROBE_SECONDS) {
            rounds *= 2;
            seconds = mh_seconds();
            probe->run(rounds);
            seconds = mh_seconds() - seconds;
        }
        bench->rounds[types[t]] = rounds;
        for (int i = 0; i < 50; i++) /* the first do not know the best yet */
            probe_rate(bench, types[t]);
    }
    return mh_memory_measure(bench->memory);
}

/* The first run is for caches and primitives to warm up. Returns how many runs make a sample. */
static int warm_up(const mh_contender *c, bool once)
{
    double seconds = c->run(c->context);
    if (seconds < WARM_SECONDS && !once)
        seconds = c->run(c->context);
    return seconds < SAMPLE_SECONDS && !once ? 1 + (int)(SAMPLE_SECONDS / (seconds + 1e-7)) : 1;
}

/* A slow spell of the machine lasts seconds: a sample begun in it would not count. */
static void wait_for_speed(mh_bench *bench, mh_type type, double *probe, double until)
{
    while (*probe < bench->keep * bench->best[type] && mh_seconds() < until &&
           !mh_progress_stopped(bench->progress))
        *probe = probe_rate(bench, type);
}

static mh_race_sample take_sample(mh_bench *bench, mh_type type, const mh_contender *c, int repeat,
                                  double *probe)
{
    double seconds = 0, before = *probe;
    for (int i = 0; i < repeat; i++)
        seconds += c->run(c->context);
    double after = *probe = probe_rate(bench, type);
    return (mh_race_sample){seconds / repeat, (before + after) / 2, before < after ? before : after};
}

mh_status mh_race_run(mh_race *race, mh_bench *bench)
{
    int repeat[MH_CONTENDERS];
    for (int i = 0; i < race->contenders; i++)
        repeat[i] = warm_up(&race->contender[i], race->once);
    double seconds = bench->seconds > 0 ? bench->seconds : race->seconds, start = mh_seconds();
    double probe = probe_rate(bench, race->type);
    for (int r = 0; r < MH_ROUNDS && (r < MH_ROUNDS_LEAST || mh_seconds() < start + seconds);
         r++, race->rounds++)
        for (int i = 0; i < race->contenders; i++) {
            const mh_contender *c = &race->contender[i];
            wait_for_speed(bench, race->type, &probe, start + PATIENCE * seconds);
            if (mh_progress_stopped(bench->progress))
                return mh_fail(MH_EINTERRUPTED, "the benchmark was stopped; what was printed is complete");
            race->sample[r][i] = (mh_race_sample){0};
            if (c->rounds == 0 || r < c->rounds)
                race->sample[r][i] = take_sample(bench, race->type, c, repeat[i], &probe);
        }
    race->least = bench->keep * bench->best[race->type];
    return MH_OK;
}

bool mh_race_kept(const mh_race *race, int round, int contender)
{
    const mh_race_sample *s = &race->sample[round][contender];
    return s->seconds > 0 && s->worst >= race->least;
}

/* The least time, by the probe beside each sample or `least`, over the sample's. */
static mh_spread share(const mh_race *race, int contender, double least)
{
    double value[MH_ROUNDS], operations = race->contender[contender].operations;
    int count = 0;
    for (int r = 0; r < race->rounds; r++) {
        const mh_race_sample *s = &race->sample[r][contender];
        if (mh_race_kept(race, r, contender))
            value[count++] = fmax(operations / s->probe, least) / s->seconds;
    }
    return mh_spread_of(value, count);
}

mh_spread mh_race_share(const mh_race *race, int contender)
{
    return share(race, contender, 0);
}

mh_spread mh_race_roofline(const mh_race *race, int contender)
{
    return share(race, contender, race->contender[contender].least);
}

mh_spread mh_race_time(const mh_race *race, int contender, int other)
{
    double value[MH_ROUNDS];
    int count = 0;
    for (int r = 0; r < race->rounds; r++)
        if (mh_race_kept(race, r, contender) && mh_race_kept(race, r, other))
            value[count++] = race->sample[r][contender].seconds / race->sample[r][other].seconds;
    return mh_spread_of(value, count);
}

mh_bench_line mh_race_line(const mh_race *race, int contender)
{
    mh_bench_line line = {.benchmark = race->benchmark,
                          .type = race->type == MH_F32 ? "f32" : "bf16",
                          .pass = race->pass,
                          .who = race->contender[contender].name};
    snprintf(line.subject, sizeof line.subject, "%s", race->subject);
    for (int r = 0; r < race->rounds; r++) {
        line.kept += mh_race_kept(race, r, contender);
        line.measured += race->sample[r][contender].seconds > 0;
    }
    strcpy(line.figure[0].name, "of probe");
    line.figure[0].value = mh_race_share(race, contender);
    for (int i = 0; i < race->references; i++) {
        snprintf(line.figure[i + 1].name, sizeof line.figure->name, "time/%s", race->contender[i].name);
        line.figure[i + 1].value = mh_race_time(race, contender, i);
    }
    line.figures = 1 + race->references;
    return line;
}

void mh_bench_fill(mh_mat x, uint32_t which)
{
    uint64_t stream = mh_stream(MH_RANDOM_TEST, 0, which);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < x.rows; r++)
        for (int64_t j = 0; j < x.cols; j += 4) {
            uint32_t word[4];
            float number[4];
            mh_random4(1, stream, (uint64_t)(r * x.cols + j), word);
            for (int i = 0; i < 4; i++)
                number[i] = (float)(int32_t)word[i] * 0x1p-31f;
            mh_write(x, r, j, mh_least(4, x.cols - j), number);
        }
}
