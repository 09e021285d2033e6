/* Verification against the authors' code, and that it can fail. */
#include "test.h"

#include "eval/eval.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

static void verify_all(mh_precision precision, int expected)
{
    DIR *dir = opendir(TEST_GOLDEN);
    int files = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[MH_PATH];
        mh_verify_result r;
        if (strstr(entry->d_name, ".safetensors") == NULL)
            continue;
        OK(mh_path_join(path, TEST_GOLDEN, entry->d_name));
        if (strstr(entry->d_name, "bitnet") != NULL) {
            FAILS(MH_EVALUE, "BitNet", mh_verify(path, precision, &r));
            continue;
        }
        OK(mh_verify(path, precision, &r));
        for (int i = 0; i < r.count; i++)
            if (!(r.tensor[i].error <= r.tensor[i].bound))
                fail_msg("%s: %s has relative error %.3g over %.3g", entry->d_name, r.tensor[i].name,
                         r.tensor[i].error, r.tensor[i].bound);
        assert_true(r.passed);
        if (precision == MH_PRECISION_F32)
            assert_int_equal(r.flips, 0);
        assert_int_equal(r.drops, 0);
        files++;
        mh_verify_release(&r);
    }
    closedir(dir);
    assert_int_equal(files, expected);
}

static void test_golden_f32(void **state)
{
    (void)state;
    verify_all(MH_PRECISION_F32, 13);
}

static void test_golden_bf16(void **state)
{
    (void)state;
    verify_all(MH_PRECISION_BF16, 13);
}

/* Rewrites a reference file with one number of `name` multiplied. */
static void rewrite(const char *from, const char *to, const char *name, float factor)
{
    mh_tensors *file;
    OK(mh_tensors_open(&file, from));
    int n = mh_tensors_count(file);
    mh_tensor *list = calloc((size_t)n, sizeof *list);
    void *changed = NULL;
    for (int i = 0; i < n; i++) {
        list[i] = *mh_tensors_at(file, i);
        if (strcmp(list[i].name, name) != 0)
            continue;
        size_t bytes = (size_t)mh_tensor_elements(&list[i]) * 4;
        changed = malloc(bytes);
        memcpy(changed, list[i].data, bytes);
        for (int64_t j = 0; j < mh_tensor_elements(&list[i]); j++)
            if (list[i].type == MH_F32)
                ((float *)changed)[j] *= factor;
        if (list[i].type == MH_I32)
            ((int32_t *)changed)[0] ^= 1;
        list[i].data = changed;
    }
    assert_non_null(changed);
    static const char *const keys[] = {
        "kind", "dim",    "heads",    "experts",      "top_k",      "ffn_dim",          "activation",
        "bias", "router", "capacity", "weight_quant", "aux_weight", "renormalize_gates"};
    json_t *meta = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set_new(meta, keys[i], json_string(mh_tensors_meta(file, keys[i])));
    OK(mh_tensors_write(to, list, n, meta));
    json_decref(meta);
    mh_tensors_close(file);
    free(changed);
    free(list);
}

static void test_verify_can_fail(void **state)
{
    (void)state;
    char path[] = "/tmp/mhmoe-verify-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    static const char *const golden = TEST_GOLDEN "/layer_mhmoe_h4_top2_capacity.safetensors";
    static const char *const names[] = {"expect.y", "expect.d.router.weight", "expect.topk", "expect.kept"};
    mh_verify_result r;
    for (int i = 0; i < 4; i++) {
        rewrite(golden, path, names[i], 1.01f);
        OK(mh_verify(path, MH_PRECISION_F32, &r));
        assert_false(r.passed);
        mh_verify_release(&r);
    }
    rewrite(golden, path, "expect.y", 1);
    OK(mh_verify(path, MH_PRECISION_F32, &r));
    assert_true(r.passed);
    mh_verify_release(&r);
    unlink(path);
    FAILS(MH_EIO, path, mh_verify(path, MH_PRECISION_F32, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_f32),
        cmocka_unit_test(test_golden_bf16),
        cmocka_unit_test(test_verify_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
