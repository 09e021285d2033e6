/* Questions: a file as each task of the table would read it, and as a user's own .jsonl. */
#include "eval/eval.h"

#include "fuzz.h"

static void check(mh_items *items)
{
    hold(items->count > 0);
    for (int64_t i = 0; i < items->count; i++) {
        const mh_item *item = &items->item[i];
        hold(item->count > 0);
        for (int c = 0; c < item->count; c++)
            hold(strlen(item->choice[c].context) + strlen(item->choice[c].answer) > 0);
    }
    mh_items_release(items);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file("questions.jsonl", data, size);
    mh_items items;
    for (int i = 0; i < MH_TASKS; i++)
        if (mh_items_read(&items, &mh_tasks[i], path, 0) == MH_OK)
            check(&items);
    mh_task_options options = {.shots = 1, .shots_path = path};
    if (mh_task_load(&items, path, &options) == MH_OK)
        check(&items);
    return 0;
}
