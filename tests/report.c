/* report: what is read of runs, whole, damaged and hostile, and the page it is put into. */
#include "report/report.h"
#include "test.h"

#include <stdlib.h>

static char folder[64];

static const char *at(const char *name)
{
    static char path[8][MH_PATH]; /* that many may be in use at once */
    static int next;
    next = (next + 1) % 8;
    OK(mh_path_join(path[next], folder, name));
    return path[next];
}

static void write_file(const char *run, const char *name, const char *text)
{
    char path[MH_PATH];
    OK(mh_make_dirs(at(run)));
    OK(mh_path_join(path, at(run), name));
    OK(mh_file_write(path, text, strlen(text)));
}

static void write_recipe(const char *run, const char *set)
{
    const char *const sets[] = {"model.vocab=100", "model.preset=smoe-top1", "train.steps=40",
                                "train.warmup=5", set};
    mh_recipe recipe;
    mh_text yaml = {0};
    OK(mh_recipe_read(&recipe, NULL, sets, 5));
    OK(mh_options_write_yaml(&mh_recipe_options, &recipe, &yaml));
    write_file(run, "recipe.yaml", yaml.data);
    mh_text_release(&yaml);
}

#define MACHINE \
    "\"machine\":{\"version\":\"0\",\"processor\":\"P\",\"used\":\"avx2\",\"processors\":4,\"threads\":2}"
#define LINE_0 "{\"step\":0,\"tokens\":0,\"valid_loss\":5.0,\"valid_bits_per_byte\":3.0," MACHINE "}\n"
#define LINE_20                                                                                             \
    "{\"step\":20,\"tokens\":200,\"loss\":4.0,\"balance\":1.0,\"grad_norm\":2.0,\"rate\":0.1,"              \
    "\"tokens_per_second\":100.0,\"memory\":7.0,\"experts\":[{\"layer\":1,\"entropy\":0.9,\"largest\":0.6," \
    "\"dropped\":0.0,\"rows\":[60,40]}]}\n"
#define LINE_40                                                                                             \
    "{\"step\":40,\"tokens\":400,\"loss\":3.0,\"balance\":1.0,\"grad_norm\":null,\"rate\":0.1,"             \
    "\"tokens_per_second\":50.0,\"memory\":9.0,\"valid_loss\":2.5,\"valid_bits_per_byte\":1.5,\"experts\":" \
    "[{\"layer\":1,\"entropy\":0.8,\"largest\":0.7,\"dropped\":0.0,\"rows\":[70,30]}]}\n"

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static double in_column(const json_t *run, const char *part, const char *key, size_t i)
{
    const json_t *value = json_array_get(json_object_get(json_object_get(run, part), key), i);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool complains(const json_t *run, const char *part)
{
    const json_t *problem;
    size_t i;
    json_array_foreach(json_object_get(run, "problems"), i, problem)
        if (strstr(json_string_value(problem), part) != NULL)
            return true;
    return false;
}

static void a_whole_run_is_read(void **state)
{
    (void)state;
    write_recipe("whole", "train.seed=1");
    write_file("whole", "metrics.jsonl", LINE_0 LINE_20 LINE_40);
    json_t *run = mh_report_run(at("whole"), "whole");
    assert_int_equal(json_array_size(json_object_get(run, "problems")), 0);
    assert_string_equal(json_string_value(json_object_get(run, "name")), "whole");
    assert_true(number(run, "step") == 40 && number(run, "steps") == 40 && number(run, "memory") == 9);
    assert_true(number(run, "seconds") == 200 / 100.0 + 200 / 50.0);
    assert_true(number(run, "core_seconds") == 2 * number(run, "seconds"));
    assert_true(number(run, "active") < number(run, "parameters"));
    assert_true(number(run, "training_flops") == 3 * number(run, "flops"));
    assert_true(in_column(run, "train", "loss", 0) == 4 && in_column(run, "train", "loss", 1) == 3);
    assert_true(in_column(run, "train", "seconds", 1) == 6);
    assert_true(isnan(in_column(run, "train", "grad_norm", 1)));
    assert_true(in_column(run, "valid", "step", 1) == 40 && in_column(run, "valid", "loss", 1) == 2.5);
    const json_t *load = json_array_get(json_object_get(run, "experts"), 1);
    const json_t *layer = json_array_get(json_object_get(load, "layers"), 0);
    assert_true(number(load, "step") == 40 && number(layer, "largest") == 0.7);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(layer, "rows"), 1)), 30);
    const json_t *machine = json_array_get(json_object_get(run, "machines"), 0);
    assert_string_equal(json_string_value(json_object_get(machine, "processor")), "P");
    json_decref(run);
}

static void groups_differ_in_more_than_the_seed(void **state)
{
    (void)state;
    write_recipe("one", "train.seed=1");
    write_recipe("two", "train.seed=2");
    write_recipe("three", "train.rate=0.01");
    const char *group[3];
    json_t *run[3];
    const char *const names[] = {"one", "two", "three"};
    for (int i = 0; i < 3; i++) {
        run[i] = mh_report_run(at(names[i]), names[i]);
        group[i] = json_string_value(json_object_get(run[i], "group"));
        assert_true(complains(run[i], "metrics.jsonl"));
    }
    assert_string_equal(group[0], group[1]);
    assert_string_not_equal(group[0], group[2]);
    for (int i = 0; i < 3; i++)
        json_decref(run[i]);
}

/* A curve has as many points as a screen can show; each is the mean of its updates. */
static void long_logs_are_thinned(void **state)
{
    (void)state;
    enum { LINES = 4000 };
    mh_text log = {0};
    for (int i = 1; i <= LINES; i++)
        OK(mh_text_printf(&log,
                          "{\"step\":%d,\"tokens\":%d,\"loss\":%d.0,\"tokens_per_second\":10.0,\"experts\":"
                          "[{\"layer\":0,\"rows\":[1,2]}]}\n",
                          i, 10 * i, i % 2));
    write_recipe("long", "train.steps=4000");
    write_file("long", "metrics.jsonl", log.data);
    mh_text_release(&log);
    json_t *run = mh_report_run(at("long"), "long");
    const json_t *steps = json_object_get(json_object_get(run, "train"), "step");
    assert_int_equal(json_array_size(steps), 400);
    assert_int_equal(json_array_size(json_object_get(run, "experts")), 100);
    for (size_t i = 0; i < 400; i++) {
        assert_true(in_column(run, "train", "step", i) == 10 * ((double)i + 1));
        assert_true(in_column(run, "train", "loss", i) == 0.5);
    }
    assert_true(number(run, "seconds") == LINES);
    assert_true(json_is_null(json_object_get(run, "core_seconds"))); /* no machine was logged */
    json_decref(run);
}

static void damage_is_told_and_the_rest_shown(void **state)
{
    (void)state;
    write_file("damaged", "recipe.yaml", "model:\n  dim: many\n");
    write_file("damaged", "metrics.jsonl",
               LINE_0 "{\"step\":\n" LINE_20 "{\"step\":10,\"tokens\":1}\n"
                      "[1, 2]\n"
                      "\xff\xfe\n"
                      "{\"step\":30,\"tokens\":300,\"loss\":\"low\",\"experts\":[7,{\"rows\":\"x\"}],"
                      "\"machine\":[]}\n" LINE_40 "{\"step\":50,\"tok");
    json_t *run = mh_report_run(at("damaged"), "damaged");
    assert_true(complains(run, "recipe.yaml:2"));
    assert_true(complains(run, "metrics.jsonl:2"));
    assert_true(complains(run, "metrics.jsonl:4 goes back"));
    assert_true(complains(run, "metrics.jsonl:5 has no numbers"));
    assert_true(complains(run, "2 more lines"));
    assert_non_null(json_object_get(run, "yaml"));
    assert_true(number(run, "step") == 40);
    assert_true(in_column(run, "train", "loss", 0) == 4);
    json_decref(run);

    /* One wrong digit does not put the rest behind it. */
    write_recipe("digit", "train.seed=1");
    write_file("digit", "metrics.jsonl", LINE_0 "{\"step\":420,\"tokens\":200}\n" LINE_40);
    run = mh_report_run(at("digit"), "digit");
    assert_true(complains(run, "metrics.jsonl:2 is of a step beyond"));
    assert_true(number(run, "step") == 40);
    json_decref(run);

    write_file("binary", "recipe.yaml", "\xff\x01");
    write_file("binary", "metrics.jsonl", "");
    run = mh_report_run(at("binary"), "\xff");
    assert_string_equal(json_string_value(json_object_get(run, "name")), "\xef\xbf\xbd");
    assert_true(complains(run, "recipe.yaml"));
    json_decref(run);
}

static char *read_page(const char *path)
{
    mh_text page;
    OK(mh_file_read(path, 1 << 24, &page));
    return page.data;
}

static int count_of(const char *text, const char *part)
{
    int count = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        count++;
    return count;
}

/* What the browser will read: from the data's tag to the first that ends a script. */
static json_t *data_of(const char *page)
{
    static const char tag[] = "<script id=\"data\" type=\"application/json\">";
    const char *begin = strstr(page, tag) + strlen(tag);
    json_t *data;
    OK(mh_json_parse(&data, begin, (size_t)(strstr(begin, "</script>") - begin), "the page's data"));
    return data;
}

static void texts_cannot_leave_their_place(void **state)
{
    (void)state;
    static const char hostile[] = "</script><!--<script>\xe2\x80\xa8{{data}}";
    char set[MH_PATH];
    snprintf(set, sizeof set, "data.train=%s", hostile);
    write_recipe("hostile", set);
    write_file("hostile", "metrics.jsonl", LINE_0 LINE_20);
    const char *const paths[] = {at("hostile"), at("whole")};
    const char *output = at("page.html");
    json_t *summary;
    OK(mh_report_write(output, paths + 1, 1, NULL, NULL, NULL));
    char *plain = read_page(output);
    OK(mh_report_write(output, paths, 2, NULL, NULL, &summary));
    char *page = read_page(output);
    assert_int_equal(count_of(page, "</script"), count_of(plain, "</script"));
    assert_int_equal(count_of(page, "<!--"), count_of(plain, "<!--"));
    json_t *data = data_of(page);
    const json_t *run = json_array_get(json_object_get(data, "runs"), 0);
    const json_t *recipe = json_object_get(json_object_get(run, "recipe"), "data");
    assert_string_equal(json_string_value(json_object_get(recipe, "train")), hostile);
    assert_true(number(summary, "runs") == 2);
    json_decref(data);
    json_decref(summary);
    free(plain);
    free(page);
}

static void folders_stand_for_the_runs_in_them(void **state)
{
    (void)state;
    static const char *const runs[] = {"many/b/seed-10", "many/b/seed-2", "many/a"};
    for (int i = 0; i < 3; i++) {
        write_recipe(runs[i], "train.seed=1");
        write_file(runs[i], "metrics.jsonl", LINE_0);
    }
    write_recipe("many", "train.seed=1"); /* which does not make it a run */
    write_file("many", "compare.json",
               "{\"format_version\":1,\"table\":{\"columns\":[\"m\"],\"rows\":[[\"b\"]]},\"text\":\"none\"}");
    const char *path = at("many"), *output = at("many/report.html");
    OK(mh_report_write(output, &path, 1, NULL, NULL, NULL));
    char *page = read_page(output);
    json_t *data = data_of(page);
    static const char *const names[] = {"a", "b/seed-2", "b/seed-10"};
    for (size_t i = 0; i < 3; i++) {
        const json_t *run = json_array_get(json_object_get(data, "runs"), i);
        assert_string_equal(json_string_value(json_object_get(run, "name")), names[i]);
    }
    const json_t *comparison = json_array_get(json_object_get(data, "comparisons"), 0);
    assert_string_equal(json_string_value(json_object_get(comparison, "text")), "none");
    json_decref(data);
    free(page);

    static const char *const bad[] = {"{", "{\"format_version\":2}"};
    for (int i = 0; i < 2; i++) {
        json_t *summary;
        write_file("many", "compare.json", bad[i]);
        OK(mh_report_write(output, &path, 1, NULL, NULL, &summary));
        assert_true(complains(summary, "compare.json"));
        json_decref(summary);
    }
}

static void what_is_no_run_is_refused(void **state)
{
    (void)state;
    OK(mh_make_dirs(at("empty")));
    const char *const paths[] = {at("empty"), at("nowhere"), at("whole")};
    const char *output = at("refused.html");
    FAILS(MH_EVALUE, "metrics.jsonl", mh_report_write(output, &paths[0], 1, NULL, NULL, NULL));
    FAILS(MH_EIO, "nowhere", mh_report_write(output, &paths[1], 1, NULL, NULL, NULL));
    FAILS(MH_EIO, "missing.json", mh_report_write(output, &paths[2], 1, at("missing.json"), NULL, NULL));
    write_file("other", "other.json", "{\"format\":1}");
    FAILS(MH_EFORMAT, "mhmoe analyse",
          mh_report_write(output, &paths[2], 1, at("other/other.json"), NULL, NULL));
    assert_false(mh_path_exists(output));
    FAILS(MH_EIO, "folder", mh_report_write(folder, &paths[2], 1, NULL, NULL, NULL));
    write_file("other", "newer.json", "{\"format\":\"mhmoe-analysis\",\"format_version\":2}");
    const char *whole = at("whole");
    FAILS(MH_EFORMAT, "newer.json: format version 2, this program reads up to 1",
          mh_report_write(output, &whole, 1, at("other/newer.json"), NULL, NULL));
}

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/mhmoe-report-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    OK(mh_remove_tree(folder));
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_run_is_read),
        cmocka_unit_test(groups_differ_in_more_than_the_seed),
        cmocka_unit_test(long_logs_are_thinned),
        cmocka_unit_test(damage_is_told_and_the_rest_shown),
        cmocka_unit_test(texts_cannot_leave_their_place),
        cmocka_unit_test(folders_stand_for_the_runs_in_them),
        cmocka_unit_test(what_is_no_run_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
