/* bench: the statistics on made-up samples, the parts of a step, and each benchmark once on a tiny shape. No
 * time is asserted. */
#include "bench/bench.h"
#include "test.h"

/* ---- statistics ---------------------------------------------------------------------------------------- */

static void expect_spread(mh_spread got, double low, double median, double high, int count)
{
    assert_int_equal(got.count, count);
    assert_float_equal(got.low, low, 1e-12);
    assert_float_equal(got.median, median, 1e-12);
    assert_float_equal(got.high, high, 1e-12);
}

static void test_quartiles(void **state)
{
    (void)state;
    double odd[] = {5, 1, 4, 2, 3}, even[] = {4, 1, 3, 2}, one[] = {7}, outlier[] = {1, 1, 1, 1, 1e9};
    expect_spread(mh_spread_of(odd, 5), 2, 3, 4, 5);
    expect_spread(mh_spread_of(even, 4), 1.75, 2.5, 3.25, 4);
    expect_spread(mh_spread_of(one, 1), 7, 7, 7, 1);
    expect_spread(mh_spread_of(outlier, 5), 1, 1, 1, 5);
    mh_spread none = mh_spread_of(NULL, 0);
    assert_true(isnan(none.median) && isnan(none.low) && isnan(none.high));
    assert_int_equal(none.count, 0);
}

/* Two contenders; the machine is slow in round 1, right after the second's sample in round 2, and the second
 * sits out round 3. */
static void made_up(mh_race *race)
{
    *race = (mh_race){.benchmark = "made up",
                      .subject = "nothing",
                      .pass = "none",
                      .type = MH_F32,
                      .contender = {{.name = "a", .operations = 80}, {.name = "b", .operations = 80}},
                      .contenders = 2,
                      .references = 1,
                      .rounds = 4,
                      .least = 85};
    static const mh_race_sample samples[4][2] = {{{1, 100, 100}, {2, 100, 100}},
                                                 {{9, 50, 40}, {8, 60, 50}},
                                                 {{1, 100, 90}, {4, 90, 84}},
                                                 {{2, 100, 85}, {0, 0, 0}}};
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 2; i++)
            race->sample[r][i] = samples[r][i];
}

static void test_slow_moments_do_not_count(void **state)
{
    (void)state;
    static mh_race race;
    made_up(&race);
    expect_spread(mh_race_share(&race, 0), 0.6, 0.8, 0.8, 3); /* of 0.8, 0.8, 0.4 */
    expect_spread(mh_race_share(&race, 1), 0.4, 0.4, 0.4, 1);
    expect_spread(mh_race_time(&race, 1, 0), 2, 2, 2, 1); /* only round 0 has both */
    expect_spread(mh_race_time(&race, 0, 0), 1, 1, 1, 3);

    mh_bench_line line = mh_race_line(&race, 1);
    assert_string_equal(line.who, "b");
    assert_int_equal(line.kept, 1);
    assert_int_equal(line.measured, 3);
    assert_int_equal(line.figures, 2);
    assert_string_equal(line.figure[0].name, "of probe");
    assert_string_equal(line.figure[1].name, "time/a");

    race.least = 0;
    assert_int_equal(mh_race_line(&race, 1).kept, 3);
}

/* The probe allows 80 operations in 0.8 seconds; bytes that take longer raise the bound. */
static void test_roofline(void **state)
{
    (void)state;
    static mh_race race;
    made_up(&race);
    race.contender[0].least = 0.9;
    expect_spread(mh_race_roofline(&race, 0), 0.675, 0.9, 0.9, 3); /* of 0.9, 0.9, 0.45 */
    expect_spread(mh_race_roofline(&race, 1), 0.4, 0.4, 0.4, 1);

    const mh_memory_level level[MH_MEMORIES] = {{100, 50}, {1000, 20}, {INFINITY, 10}};
    assert_float_equal(mh_memory_seconds(level, 100, 200), 4, 0);
    assert_float_equal(mh_memory_seconds(level, 101, 200), 10, 0);
    assert_float_equal(mh_memory_seconds(level, 1001, 200), 20, 0);
}

static void test_memory(void **state)
{
    (void)state;
    mh_memory_level level[MH_MEMORIES] = {{0, 0}, {0, INFINITY}, {0, 0}};
    OK(mh_memory_measure(level));
    assert_true(level[MH_L2].holds > 0 && level[MH_L2].holds <= level[MH_L3].holds);
    assert_true(level[MH_L3].holds < level[MH_DRAM].holds);
    assert_true(level[MH_L2].rate > 0 && level[MH_DRAM].rate > 0);
    assert_true(isinf(level[MH_L3].rate)); /* the better of now and before */
}

/* ---- the parts of a step ------------------------------------------------------------------------------- */

static mh_config tiny_config(const char *preset)
{
    mh_config config = mh_bench_reference().model;
    snprintf(config.preset, sizeof config.preset, "%s", preset);
    config.dim = 32, config.layers = 2, config.attention_heads = 2, config.ffn_dim = 96;
    config.vocab = 64, config.context = 16;
    return config;
}

/* One forward and backward of a tiny MH-MoE by the timed table: each part that takes part got time, all
 * together not more than there was, and the numbers are those of the plain table. */
static void test_parts(void **state)
{
    (void)state;
    mh_config config = tiny_config("mhmoe-h2");
    mh_model *model;
    mh_pass *pass;
    OK(mh_config_resolve(&config));
    OK(mh_model_create(&model, &config, MH_PRECISION_BF16, true));
    OK(mh_pass_create(&pass, model, (mh_pass_shape){2, 16, 16, true}));
    mh_model_init(model, 1);
    int32_t token[32];
    for (int i = 0; i < 32; i++)
        token[i] = i * 7 % 64;
    mh_call call = {.token = token, .batch = 2, .rows = 16, .train = true};
    float plain[32], timed[32];
    mh_forward(pass, model, &call);
    mh_loss(pass, model, &call, token, plain, 1);

    double part[MH_TIMES] = {0}, start = mh_seconds(), sum = 0;
    model->ops = mh_timed_ops(&model->params, part);
    mh_forward(pass, model, &call);
    mh_loss(pass, model, &call, token, timed, 1);
    mh_backward(pass, model, &call, 1);
    double total = mh_seconds() - start;
    for (int i = 0; i < MH_TIMES; i++)
        sum += part[i];
    assert_true(sum <= total);
    static const mh_time_part expected[] = {MH_TIME_EMBEDDING, MH_TIME_ATTENTION,  MH_TIME_NORM,
                                            MH_TIME_FFN,       MH_TIME_ROUTER,     MH_TIME_DISPATCH,
                                            MH_TIME_EXPERTS,   MH_TIME_HEAD_MERGE, MH_TIME_LOSS};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!(part[expected[i]] > 0))
            fail_msg("no time for the part %s", mh_time_name(expected[i]));
    assert_float_equal(part[MH_TIME_OPTIMIZER] + part[MH_TIME_REST], 0, 0); /* the caller's to measure */
    assert_memory_equal(plain, timed, sizeof plain);
    mh_pass_free(pass);
    mh_model_free(model);
}

/* ---- each benchmark ------------------------------------------------------------------------------------ */

static mh_status listen(void *context, const mh_bench_line *line)
{
    int *lines = context;
    bool part = strcmp(line->pass, "share of time") == 0; /* which may have none */
    (*lines)++;
    for (int i = 0; i < line->figures; i++) {
        const mh_spread *v = &line->figure[i].value;
        bool sound = isfinite(v->median) && (v->median > 0 || (part && v->median == 0)) &&
                     v->low <= v->median && v->median <= v->high && v->count <= line->measured;
        if (!sound)
            fail_msg("%s, %s, %s, %s: %s is %g [%g %g]", line->benchmark, line->subject, line->pass,
                     line->who, line->figure[i].name, v->median, v->low, v->high);
    }
    assert_int_equal(line->kept, line->measured);
    return MH_OK;
}

/* Every sample is kept: this machine may be anything. */
static mh_bench quick(int *lines)
{
    *lines = 0;
    mh_bench bench = {.seconds = 1e-3, .tell = listen, .context = lines};
    OK(mh_bench_init(&bench));
    assert_true(bench.best[MH_F32] > 0 && bench.best[MH_BF16] > 0);
    bench.keep = 0;
    return bench;
}

static void test_products(void **state)
{
    (void)state;
    int lines;
    mh_bench bench = quick(&lines);
    const mh_bench_shape dense = {17, 40, 24, 1, MH_LOADS_EVEN};
    OK(mh_bench_gemm(&bench, &dense, 1));
    assert_true(lines >= 2 * 3 * 2); /* types, passes, ours and the portable version */
    for (mh_loads loads = MH_LOADS_EVEN; loads <= MH_LOADS_SOME_EMPTY; loads++) {
        const mh_bench_shape experts = {19, 24, 16, 5, loads};
        lines = 0;
        OK(mh_bench_experts(&bench, &experts, 1));
        assert_true(lines >= 2 * 3 * 2);
    }
}

static void test_layer(void **state)
{
    (void)state;
    int lines;
    mh_bench bench = quick(&lines);
    const mh_bench_shape shape = {.rows = 12, .out = 96, .in = 24};
    OK(mh_bench_layer(&bench, &shape, 1));
    assert_int_equal(lines, 2 * 5 + 2 * 2 * 2 * 3); /* kinds; by tokens and by experts */
}

static void test_step(void **state)
{
    (void)state;
    int lines;
    mh_bench bench = quick(&lines);
    mh_bench_training training = {tiny_config("none"), 2, 2};
    for (bench.precision = MH_PRECISION_F32; bench.precision <= MH_PRECISION_BF16; bench.precision++) {
        lines = 0;
        OK(mh_bench_step(&bench, &training));
        assert_int_equal(lines, 3 + MH_TIMES);
    }
}

/* What is saved is a checkpoint, and the losses beside it are those of its weights. */
static void test_save(void **state)
{
    (void)state;
    int lines;
    char folder[] = "/tmp/mhmoe-bench-XXXXXX", path[MH_PATH];
    assert_non_null(mkdtemp(folder));
    mh_bench bench = quick(&lines);
    bench.save = folder;
    mh_bench_training training = {tiny_config("none"), 2, 2};
    OK(mh_bench_step(&bench, &training));

    mh_model *model;
    mh_pass *pass;
    mh_tensors *batch;
    OK(mh_path_join(path, folder, "mhmoe-h2"));
    OK(mh_checkpoint_read(&model, NULL, path, MH_PRECISION_F32, true));
    OK(mh_pass_create(&pass, model, (mh_pass_shape){2, 16, 16, true}));
    OK(mh_path_join(path, folder, "mhmoe-h2/batch.safetensors"));
    OK(mh_tensors_open(&batch, path));
    mh_call call = {.token = mh_tensors_find(batch, "token")->data, .batch = 2, .rows = 16, .train = true};
    float nll[32];
    mh_forward(pass, model, &call);
    mh_loss(pass, model, &call, mh_tensors_find(batch, "target")->data, nll, 0);
    assert_memory_equal(nll, mh_tensors_find(batch, "nll")->data, sizeof nll);
    assert_true(strtod(mh_tensors_meta(batch, "grad_norm"), NULL) > 0);
    mh_tensors_close(batch);
    mh_pass_free(pass);
    mh_model_free(model);
    OK(mh_remove_tree(folder));
}

static void test_stop(void **state)
{
    (void)state;
    int lines;
    mh_bench bench = quick(&lines);
    volatile int stop = 1;
    mh_progress progress = {.stop = &stop};
    bench.progress = &progress;
    const mh_bench_shape shape = {17, 40, 24, 1, MH_LOADS_EVEN};
    FAILS(MH_EINTERRUPTED, "stopped", mh_bench_gemm(&bench, &shape, 1));
    assert_int_equal(lines, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quartiles), cmocka_unit_test(test_slow_moments_do_not_count),
        cmocka_unit_test(test_roofline),  cmocka_unit_test(test_memory),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_products),
        cmocka_unit_test(test_layer),     cmocka_unit_test(test_step),
        cmocka_unit_test(test_save),      cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
