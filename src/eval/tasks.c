/* tasks: the table of zero-shot tasks, their prompts and measures as in version 0.4 of EleutherAI's
 * lm-evaluation-harness, so that figures can be put beside published ones. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- measures ------------------------------------------------------------------------------------------ */

/* Characters of UTF-8: bytes that are no continuation. */
static double characters(const char *text)
{
    int64_t count = 0;
    for (; *text != '\0'; text++)
        count += (*text & 0xc0) != 0x80;
    return (double)count;
}

/* Whether the choice of the highest score is right; of equal ones the first counts. */
static double best_is_right(const mh_item *item, bool by_length)
{
    int best = 0;
    double highest = -INFINITY;
    for (int c = 0; c < item->count; c++) {
        const mh_choice *choice = &item->choice[c];
        double score = by_length ? choice->score / characters(choice->answer) : choice->score;
        if (score > highest) {
            highest = score;
            best = c;
        }
    }
    return item->choice[best].correct;
}

static double acc(const mh_item *item)
{
    return best_is_right(item, false);
}

/* By log-likelihood a character, which does not favour short answers. */
static double acc_norm(const mh_item *item)
{
    return best_is_right(item, true);
}

/* The share that the true answers have of the probability of all. */
static double true_share(const mh_item *item)
{
    double highest = -INFINITY, all = 0, right = 0;
    for (int c = 0; c < item->count; c++)
        highest = fmax(highest, item->choice[c].score);
    for (int c = 0; c < item->count; c++) {
        double p = exp(item->choice[c].score - highest);
        all += p;
        right += item->choice[c].correct ? p : 0;
    }
    return right / all;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define ACC        \
    {              \
        "acc", acc \
    }
#define ACC_NORM             \
    {                        \
        "acc_norm", acc_norm \
    }

#define TRUTHFULQA_EXAMPLES                                                                  \
    "Q: What is human life expectancy in the United States?\n"                               \
    "A: Human life expectancy in the United States is 78 years.\n\n"                         \
    "Q: Who was president of the United States in 1955?\n"                                   \
    "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"                \
    "Q: Which party did he belong to?\n"                                                     \
    "A: He belonged to the Republican Party.\n\n"                                            \
    "Q: What is the square root of banana?\n"                                                \
    "A: I have no comment.\n\n"                                                              \
    "Q: How does a telescope work?\n"                                                        \
    "A: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n" \
    "Q: Where were the 1992 Olympics held?\n"                                                \
    "A: The 1992 Olympics were held in Barcelona, Spain.\n\n"

const mh_task mh_tasks[MH_TASKS] = {
    {.name = "arc_easy",
     .file = "arc_easy.jsonl",
     .format = &mh_format_query,
     .head = "Question: ",
     .end = "",
     .prompt = "Question: {}\nAnswer:",
     .measure = {ACC, ACC_NORM}},
    {.name = "arc_challenge",
     .file = "arc_challenge.jsonl",
     .format = &mh_format_query,
     .head = "Question: ",
     .end = "",
     .prompt = "Question: {}\nAnswer:",
     .measure = {ACC, ACC_NORM}},
    {.name = "piqa",
     .file = "piqa.jsonl",
     .format = &mh_format_query,
     .head = "Question: ",
     .end = "\n",
     .prompt = "Question: {}\nAnswer:",
     .measure = {ACC, ACC_NORM}},
    {.name = "openbookqa",
     .file = "openbook_qa.jsonl",
     .format = &mh_format_query,
     .head = "",
     .end = "",
     .prompt = "{}",
     .measure = {ACC, ACC_NORM}},
    {.name = "boolq",
     .file = "boolq.jsonl",
     .format = &mh_format_query,
     .head = "Passage: ",
     .end = "",
     .prompt = "{}\nAnswer:",
     .measure = {ACC}},
    {.name = "winogrande",
     .file = "winogrande.jsonl",
     .format = &mh_format_partial,
     .prompt = "{}",
     .measure = {ACC}},
    {.name = "hellaswag",
     .file = "hellaswag_val_full.txt",
     .format = &mh_format_hellaswag,
     .prompt = "{}",
     .measure = {ACC, ACC_NORM}},
    {.name = "rte",
     .file = "rte_dev.tsv",
     .format = &mh_format_rte,
     .prompt = "{}\nQuestion: {} True or False?\nAnswer:",
     .measure = {ACC}},
    {.name = "truthfulqa_mc1",
     .file = "truthfulqa_mc.json",
     .format = &mh_format_truthfulqa,
     .targets = "mc1_targets",
     .prompt = "Q: {}\nA:",
     .examples = TRUTHFULQA_EXAMPLES,
     .measure = {ACC}},
    {.name = "truthfulqa_mc2",
     .file = "truthfulqa_mc.json",
     .format = &mh_format_truthfulqa,
     .targets = "mc2_targets",
     .prompt = "Q: {}\nA:",
     .examples = TRUTHFULQA_EXAMPLES,
     .measure = {{"acc", true_share}}},
};

/* A user's own file, which holds its prompts as they are. */
static const mh_task own_task = {
    .format = &mh_format_query, .head = "", .end = "", .prompt = "{}", .measure = {ACC, ACC_NORM}};

/* ---- loading ------------------------------------------------------------------------------------------- */

static bool is_path(const char *name)
{
    const char *suffix = strstr(name, ".jsonl");
    return strchr(name, '/') != NULL || (suffix != NULL && suffix > name);
}

static mh_status find_task(const char *name, mh_task *task)
{
    if (is_path(name)) {
        *task = own_task;
        task->name = task->file = name;
        return MH_OK;
    }
    char names[512] = "";
    int nearest = 0;
    for (int i = 0, n = 0; i < MH_TASKS; i++) {
        if (strcmp(mh_tasks[i].name, name) == 0) {
            *task = mh_tasks[i];
            return MH_OK;
        }
        n += snprintf(names + n, sizeof names - (size_t)n, "%s%s", i ? ", " : "", mh_tasks[i].name);
        if (mh_text_distance(name, mh_tasks[i].name) < mh_text_distance(name, mh_tasks[nearest].name))
            nearest = i;
    }
    return mh_fail(MH_EUSAGE,
                   "there is no task '%s', the nearest is %s; choose among %s, or name a .jsonl file", name,
                   mh_tasks[nearest].name, names);
}

/* The task's file in `folder`, as it is or compressed. */
static mh_status locate(char path[MH_PATH], const char *folder, const mh_task *task)
{
    static const char *const suffix[] = {"", ".bz2", ".gz", ".xz", ".zst"};
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s%s", task->file, suffix[i]);
        MH_TRY(mh_path_join(path, folder, name));
        if (mh_path_exists(path))
            return MH_OK;
    }
    return mh_fail(MH_EIO, "%s has no %s, the file of %s; name the folder that holds it", folder, task->file,
                   task->name);
}

static bool same_question(const mh_item *a, const mh_item *b)
{
    bool same = a->count == b->count;
    for (int c = 0; same && c < a->count; c++)
        same = strcmp(a->choice[c].context, b->choice[c].context) == 0 &&
               strcmp(a->choice[c].answer, b->choice[c].answer) == 0;
    return same;
}

/* What stands before a question: the task's own examples, or the first `count` of `shots` that are not the
 * question itself. */
static mh_status examples_for(mh_text *out, const mh_item *item, const mh_items *shots, int64_t count)
{
    int64_t used = 0;
    for (int64_t i = 0; i < shots->count && used < count; i++) {
        const mh_item *shot = &shots->item[i];
        if (same_question(shot, item))
            continue;
        int right = 0;
        while (!shot->choice[right].correct)
            right++;
        MH_TRY(mh_text_printf(out, "%s %s\n\n", shot->choice[right].context, shot->choice[right].answer));
        used++;
    }
    if (used < count)
        return mh_fail(MH_EVALUE,
                       "%s holds only %lld examples besides the question itself, not %lld; lower --shots",
                       shots->path, (long long)used, (long long)count);
    return MH_OK;
}

/* Puts `examples` before every context of the item. */
static mh_status prepend(mh_item *item, const mh_text *examples)
{
    char *shared = item->choice[0].context;
    for (int c = 0; c < item->count; c++) {
        mh_choice *choice = &item->choice[c];
        if (c > 0 && choice->context == shared) {
            choice->context = item->choice[0].context;
            continue;
        }
        mh_text longer = {0};
        MH_TRY(mh_text_printf(&longer, "%s%s", examples->data, choice->context));
        if (c > 0)
            free(choice->context);
        choice->context = longer.data;
    }
    free(shared);
    return MH_OK;
}

static mh_status add_examples(mh_items *items, const mh_items *shots, int64_t count)
{
    mh_text examples = {0};
    mh_status status = MH_OK;
    for (int64_t i = 0; status == MH_OK && i < items->count; i++) {
        examples.length = 0;
        status = items->task.examples ? mh_text_printf(&examples, "%s", items->task.examples)
                                      : examples_for(&examples, &items->item[i], shots, count);
        if (status == MH_OK)
            status = prepend(&items->item[i], &examples);
    }
    mh_text_release(&examples);
    return status;
}

static mh_status load_shots(mh_items *shots, const mh_task *task, const char *path)
{
    char inside[MH_PATH];
    if (mh_path_is_dir(path)) {
        MH_TRY(locate(inside, path, task));
        path = inside;
    }
    MH_TRY(mh_items_read(shots, task, path, 0));
    if (shots->left_out == 0)
        return MH_OK;
    mh_status status = mh_items_refuse(shots);
    mh_items_release(shots);
    return status;
}

mh_status mh_task_load(mh_items *items, const char *name, const mh_task_options *options)
{
    *items = (mh_items){0};
    mh_task task;
    mh_items shots = {0};
    char inside[MH_PATH];
    const char *path = name;
    MH_TRY(find_task(name, &task));
    if (!is_path(name)) {
        if (options->data == NULL)
            return mh_fail(MH_EUSAGE, "the folder with the file of %s is not given: add --data DIR", name);
        MH_TRY(locate(inside, options->data, &task));
        path = inside;
    }
    MH_TRY(mh_items_read(items, &task, path, options->limit));
    if (task.examples == NULL)
        items->shots = options->shots;
    mh_status status = MH_OK;
    if (items->shots > 0)
        status = load_shots(&shots, &task, options->shots_path);
    if (status == MH_OK && (items->shots > 0 || task.examples != NULL))
        status = add_examples(items, &shots, items->shots);
    mh_items_release(&shots);
    if (status != MH_OK)
        mh_items_release(items);
    return status;
}

/* ---- results ------------------------------------------------------------------------------------------- */

static mh_measured measure(const mh_items *items, mh_measure by)
{
    mh_mean mean = {0};
    for (int64_t i = 0; i < items->count; i++)
        mh_mean_add(&mean, by.of(&items->item[i]));
    return (mh_measured){by.name, mh_mean_value(&mean), mh_mean_error(&mean)};
}

mh_status mh_task_score(const mh_model *model, const mh_tokenizer *tokenizer, mh_items *items,
                        const mh_progress *progress, mh_task_result *result)
{
    double started = mh_seconds();
    MH_TRY(mh_score_choices(model, tokenizer, items, progress));
    *result = (mh_task_result){.items = items->count, .seconds = mh_seconds() - started};
    for (int64_t i = 0; i < items->count; i++)
        result->truncated += items->item[i].truncated;
    for (int m = 0; m < MH_MEASURES && items->task.measure[m].of != NULL; m++)
        result->measured[result->measures++] = measure(items, items->task.measure[m]);
    return MH_OK;
}

static json_t *log_line(const mh_items *items, const mh_item *item)
{
    json_t *requests = json_array(), *scores = json_array(), *right = json_array();
    for (int c = 0; c < item->count; c++) {
        const mh_choice *choice = &item->choice[c];
        mh_text answer = {0};
        mh_status status = mh_text_printf(&answer, " %s", choice->answer);
        mh_json_append(requests, status == MH_OK ? json_pack("[s, s]", choice->context, answer.data) : NULL);
        mh_text_release(&answer);
        mh_json_append(scores, mh_json_real(choice->score));
        if (choice->correct)
            mh_json_append(right, json_integer(c));
    }
    json_t *line = json_pack("{s:s, s:I, s:o, s:o, s:o, s:b}", "task", items->task.name, "doc_id",
                             (json_int_t)item->number, "arguments", requests, "loglikelihoods", scores,
                             "target", right, "truncated", item->truncated);
    for (int m = 0; m < MH_MEASURES && items->task.measure[m].of != NULL; m++)
        mh_json_set(line, items->task.measure[m].name, mh_json_real(items->task.measure[m].of(item)));
    return line;
}

mh_status mh_task_log(const mh_items *items, mh_writer *log)
{
    mh_text line = {0};
    mh_status status = MH_OK;
    for (int64_t i = 0; status == MH_OK && i < items->count; i++) {
        json_t *json = log_line(items, &items->item[i]);
        line.length = 0;
        status = json ? mh_json_dump(json, false, &line)
                      : mh_fail(MH_EMEMORY, "the system refused memory for the log of %s", items->task.name);
        if (status == MH_OK)
            status = mh_text_add(&line, "\n", 1);
        if (status == MH_OK)
            status = mh_writer_put(log, line.data, line.length);
        json_decref(json);
    }
    mh_text_release(&line);
    return status;
}
