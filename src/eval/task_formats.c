/* task_formats: one question out of a record, in the forms in which benchmarks are handed around. */
#include "eval/eval.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- choices ------------------------------------------------------------------------------------------- */

static mh_status no_memory(void)
{
    return mh_fail(MH_EMEMORY, "the system refused memory for the questions of a task");
}

/* A context of NULL is that of the choices before. */
static mh_status add_choice(mh_item *item, const char *context, const char *answer, bool correct)
{
    if (*answer == '\0')
        return mh_fail(MH_EFORMAT, "choice %d is empty", item->count);
    mh_choice *grown = realloc(item->choice, (size_t)(item->count + 1) * sizeof *grown);
    if (grown == NULL)
        return no_memory();
    item->choice = grown;
    mh_choice *choice = &grown[item->count++];
    *choice = (mh_choice){.context = context != NULL ? strdup(context) : grown[0].context,
                          .answer = strdup(answer),
                          .correct = correct};
    return choice->context != NULL && choice->answer != NULL ? MH_OK : no_memory();
}

void mh_item_release(mh_item *item)
{
    for (int c = item->count; c-- > 0;) {
        if (c == 0 || item->choice[c].context != item->choice[0].context)
            free(item->choice[c].context);
        free(item->choice[c].answer);
    }
    free(item->choice);
}

/* ---- prompts ------------------------------------------------------------------------------------------- */

/* Puts the fields, in order, where the prompt has {}. */
static mh_status fill(mh_text *out, const char *prompt, const char *first, const char *second)
{
    out->length = 0;
    const char *field = first;
    for (const char *hole; (hole = strstr(prompt, "{}")) != NULL; prompt = hole + 2, field = second) {
        MH_TRY(mh_text_add(out, prompt, (size_t)(hole - prompt)));
        MH_TRY(mh_text_add(out, field, strlen(field)));
    }
    return mh_text_add(out, prompt, strlen(prompt));
}

/* Takes off what the file puts around a question. */
static mh_status unwrap(mh_text *out, const char *query, const mh_task *task)
{
    size_t length = strlen(query), head = strlen(task->head), end = strlen(task->end);
    if (strncmp(query, task->head, head) != 0)
        return mh_fail(MH_EFORMAT, "its \"query\" does not begin with \"%s\"", task->head);
    if (length < head + end || strcmp(query + length - end, task->end) != 0)
        return mh_fail(MH_EFORMAT, "its \"query\" does not end in a newline");
    return mh_text_add(out, query + head, length - head - end);
}

/* ---- the formats --------------------------------------------------------------------------------------- */

static mh_status get_string(const json_t *json, const char *key, const char **value)
{
    *value = json_string_value(json_object_get(json, key));
    return *value ? MH_OK : mh_fail(MH_EFORMAT, "it has no string \"%s\"", key);
}

/* The string at `index` of a list of choices. */
static mh_status get_choice(const json_t *list, size_t index, const char **value)
{
    *value = json_string_value(json_array_get(list, index));
    return *value ? MH_OK : mh_fail(MH_EFORMAT, "choice %zu is no string", index);
}

/* A list of at least two choices and the number of the right one. */
static mh_status get_choices(const json_t *json, const char *key, const json_t **list, size_t *gold)
{
    *list = json_object_get(json, key);
    const json_t *number = json_object_get(json, "gold");
    if (json_array_size(*list) < 2)
        return mh_fail(MH_EFORMAT, "it has no list \"%s\" of at least two choices", key);
    if (!json_is_integer(number))
        return mh_fail(MH_EFORMAT, "it has no whole number \"gold\"");
    json_int_t value = json_integer_value(number);
    if (value < 0 || (size_t)value >= json_array_size(*list))
        return mh_fail(MH_EFORMAT, "\"gold\" is %lld, but its %zu choices are numbered from 0",
                       (long long)value, json_array_size(*list));
    *gold = (size_t)value;
    return MH_OK;
}

/* {query, choices, gold} */
static mh_status parse_query(const mh_task *task, const json_t *json, mh_item *item, mh_text *work)
{
    const char *query, *answer;
    const json_t *choices;
    size_t gold;
    MH_TRY(get_string(json, "query", &query));
    MH_TRY(get_choices(json, "choices", &choices, &gold));
    mh_text question = {0};
    mh_status status = unwrap(&question, query, task);
    if (status == MH_OK)
        status = fill(work, task->prompt, question.data, NULL);
    mh_text_release(&question);
    for (size_t c = 0; status == MH_OK && c < json_array_size(choices); c++) {
        status = get_choice(choices, c, &answer);
        if (status == MH_OK)
            status = add_choice(item, c == 0 ? work->data : NULL, answer, c == gold);
    }
    return status;
}

const mh_item_format mh_format_query = {.lines = 1, .parse_json = parse_query};

/* {context_options, continuation, gold}: the choices are contexts of one continuation. */
static mh_status parse_partial(const mh_task *task, const json_t *json, mh_item *item, mh_text *work)
{
    const char *context, *continuation;
    const json_t *options;
    size_t gold;
    MH_TRY(get_string(json, "continuation", &continuation));
    MH_TRY(get_choices(json, "context_options", &options, &gold));
    for (size_t c = 0; c < json_array_size(options); c++) {
        MH_TRY(get_choice(options, c, &context));
        MH_TRY(fill(work, task->prompt, context, NULL));
        MH_TRY(add_choice(item, work->data, continuation, c == gold));
    }
    return MH_OK;
}

const mh_item_format mh_format_partial = {.lines = 1, .parse_json = parse_partial};

/* {question, TARGETS: {answer: 1 or 0}} */
static mh_status parse_truthfulqa(const mh_task *task, const json_t *json, mh_item *item, mh_text *work)
{
    const char *question;
    MH_TRY(get_string(json, "question", &question));
    MH_TRY(fill(work, task->prompt, question, NULL));
    json_t *targets = json_object_get(json, task->targets);
    const char *answer;
    json_t *label;
    int correct = 0;
    json_object_foreach(targets, answer, label) {
        json_int_t value = json_is_integer(label) ? json_integer_value(label) : -1;
        if (value != 0 && value != 1)
            return mh_fail(MH_EFORMAT, "an answer in \"%s\" is neither 1 (true) nor 0", task->targets);
        correct += value == 1;
        MH_TRY(add_choice(item, item->count == 0 ? work->data : NULL, answer, value == 1));
    }
    if (correct == 0 || correct == item->count)
        return mh_fail(MH_EFORMAT, "\"%s\" has no true answer, or no false one", task->targets);
    return MH_OK;
}

const mh_item_format mh_format_truthfulqa = {.parse_json = parse_truthfulqa};

/* What the harness does to HellaSwag's texts: strips, drops [marks], halves pairs of spaces. In place. */
static char *clean_hellaswag(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    const char *last = strrchr(text, ']');
    char *to = text;
    for (const char *from = text; *from != '\0';)
        if (*from == '[' && last != NULL && from < last)
            from += strcspn(from, "]") + 1;
        else
            *to++ = *from++;
    *to = '\0';
    to = text;
    for (const char *from = text; *from != '\0'; from += from[0] == ' ' && from[1] == ' ' ? 2 : 1)
        *to++ = *from;
    *to = '\0';
    return text;
}

/* The harness capitalises the unfinished last sentence, which the file has joined to those before it. It
 * begins with an ASCII letter wherever it begins with a letter. */
static void capitalise_last(char *text)
{
    size_t length = strlen(text);
    if (length == 0 || strchr(".!?", text[length - 1]) != NULL)
        return;
    for (char *at = text + length - 1; at > text + 1; at--)
        if (at[-1] == ' ') {
            const char *before = at - 2;
            while (before > text && strchr("\"')", *before) != NULL)
                before--;
            if (strchr(".!?", *before) == NULL)
                continue;
            *at = (char)toupper((unsigned char)*at);
            return;
        }
}

/* Six lines: context, the right ending's number, four endings. */
static mh_status parse_hellaswag(const mh_task *task, char *const line[], mh_item *item, mh_text *work)
{
    if (strlen(line[1]) != 1 || line[1][0] < '0' || line[1][0] > '3')
        return mh_fail(MH_EFORMAT,
                       "its second line must be the right ending's number, 0 to 3; it is \"%.40s\"", line[1]);
    char *context = clean_hellaswag(line[0]);
    capitalise_last(context);
    MH_TRY(fill(work, task->prompt, context, NULL));
    for (int c = 0; c < 4; c++)
        MH_TRY(add_choice(item, c == 0 ? work->data : NULL, clean_hellaswag(line[2 + c]),
                          line[1][0] - '0' == c));
    return MH_OK;
}

const mh_item_format mh_format_hellaswag = {.lines = 6, .parse_lines = parse_hellaswag};

/* The next field of a line of TSV, in place, or NULL; one that begins with a quotation mark ends with one,
 * and has two for each in it. */
static char *next_field(char **rest)
{
    char *field = *rest, *to = field;
    if (field == NULL || *field != '"')
        return strsep(rest, "\t");
    *rest = NULL;
    for (char *from = field + 1; *from != '\0'; *to++ = *from++)
        if (*from == '"' && *++from != '"') { /* the end, and not the first of two */
            *rest = *from == '\t' ? from + 1 : NULL;
            break;
        }
    *to = '\0';
    return field;
}

/* sentence1, sentence2, label (0: entailed, 1: not) */
static mh_status parse_rte(const mh_task *task, char *const line[], mh_item *item, mh_text *work)
{
    char *rest = line[0];
    const char *premise = next_field(&rest), *hypothesis = next_field(&rest), *label = next_field(&rest);
    if (label == NULL)
        return mh_fail(MH_EFORMAT,
                       "it has less than three fields between tabs, or a quotation mark is not closed");
    bool no = strcmp(label, "1") == 0;
    if (!no && strcmp(label, "0") != 0)
        return mh_fail(MH_EFORMAT, "its label is \"%.40s\"; it must be 0 (entailed) or 1", label);
    MH_TRY(fill(work, task->prompt, premise, hypothesis));
    MH_TRY(add_choice(item, work->data, "True", !no));
    return add_choice(item, NULL, "False", no);
}

const mh_item_format mh_format_rte = {
    .lines = 1, .header = "sentence1\tsentence2\tlabel", .parse_lines = parse_rte};
