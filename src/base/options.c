/* options: one table of settings behind the recipe, --set, --help, docs/config.md and config.json. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static void *field(const mh_section *section, const mh_option *row, const void *config)
{
    return (char *)config + section->offset + row->offset;
}

/* ---- one value ----------------------------------------------------------------------------------------- */

/* What a row accepts, as the end of the sentence "moe.top_k must be ...". */
static mh_status add_domain(mh_text *out, const mh_option *row)
{
    const char *name;
    int length;
    switch (row->type) {
    case MH_OPTION_BOOL:
        return mh_text_printf(out, "true or false");
    case MH_OPTION_INT:
        if (row->max >= 0x1p53 - 1) /* no limit but that of doubles */
            return mh_text_printf(out, "a whole number of at least %.15g", row->min);
        return mh_text_printf(out, "a whole number from %.15g to %.15g", row->min, row->max);
    case MH_OPTION_FLOAT:
        return mh_text_printf(out, "a number from %.15g to %.15g", row->min, row->max);
    case MH_OPTION_STRING:
        return mh_text_printf(out, "valid UTF-8 text of at most %d bytes", MH_OPTION_TEXT - 1);
    case MH_OPTION_CHOICE:
        for (int i = 0; mh_choice_at(row->choices, i, &name, &length); i++)
            MH_TRY(mh_text_printf(out, "%s%.*s", i > 0 ? ", " : "one of ", length, name));
        return MH_OK;
    }
    return MH_OK;
}

static bool set_bool(int *value, const char *text)
{
    static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 3; i++)
            if (strcmp(text, words[v][i]) == 0) {
                *value = v;
                return true;
            }
    return false;
}

static bool set_string(char *value, const char *text)
{
    size_t length = strlen(text);
    bool fits = length < MH_OPTION_TEXT && mh_utf8_valid(text, length); /* JSON and YAML will need that */
    if (fits)
        memcpy(value, text, length + 1);
    return fits;
}

/* Stores nothing where `text` is not in the row's domain. */
static bool set_value(void *value, const mh_option *row, const char *text)
{
    int64_t i;
    double d;
    switch (row->type) {
    case MH_OPTION_BOOL:
        return set_bool(value, text);
    case MH_OPTION_INT:
        if (!mh_text_to_int(text, &i) || (double)i < row->min || (double)i > row->max)
            return false;
        *(int64_t *)value = i;
        return true;
    case MH_OPTION_FLOAT:
        if (!mh_text_to_double(text, &d) || d < row->min || d > row->max)
            return false;
        *(double *)value = d;
        return true;
    case MH_OPTION_STRING:
        return set_string(value, text);
    case MH_OPTION_CHOICE:
        return mh_choice_find(row->choices, text, value);
    }
    return false;
}

/* The fewest digits that give back the same number. */
static mh_status add_double(mh_text *out, double value)
{
    char digits[32];
    for (int n = 1; n <= 17; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    return mh_text_printf(out, "%s", digits);
}

/* The value as set_value reads it. */
static mh_status add_value(mh_text *out, const mh_option *row, const void *value)
{
    const char *name = "";
    int length = 0;
    switch (row->type) {
    case MH_OPTION_BOOL:
        return mh_text_printf(out, "%s", *(const int *)value ? "true" : "false");
    case MH_OPTION_INT:
        return mh_text_printf(out, "%lld", (long long)*(const int64_t *)value);
    case MH_OPTION_FLOAT:
        return add_double(out, *(const double *)value);
    case MH_OPTION_STRING:
        return mh_text_printf(out, "%s", (const char *)value);
    case MH_OPTION_CHOICE:
        mh_choice_at(row->choices, *(const int *)value, &name, &length);
        return mh_text_printf(out, "%.*s", length, name);
    }
    return MH_OK;
}

static mh_status refuse(const mh_option *row, const char *key, const char *text, const char *where)
{
    mh_text domain = {0};
    mh_status status = add_domain(&domain, row);
    if (status == MH_OK)
        status = mh_fail(MH_EVALUE, "%s: %s must be %s, not \"%.200s\"", where, key, domain.data, text);
    mh_text_release(&domain);
    return status;
}

/* ---- keys ---------------------------------------------------------------------------------------------- */

static bool find(const mh_options *options, const char *key, const mh_section **section,
                 const mh_option **row)
{
    const char *dot = strchr(key, '.');
    if (dot == NULL)
        return false;
    for (int s = 0; s < options->count; s++) {
        const mh_section *in = &options->sections[s];
        if (strlen(in->name) != (size_t)(dot - key) || strncmp(in->name, key, (size_t)(dot - key)) != 0)
            continue;
        for (int i = 0; i < in->count; i++)
            if (strcmp(in->rows[i].key, dot + 1) == 0) {
                *section = in;
                *row = &in->rows[i];
                return true;
            }
    }
    return false;
}

/* The known key nearest to `key`; a right name in a wrong or missing section counts as one letter off. */
static void nearest(const mh_options *options, const char *key, char best[128])
{
    int least = INT32_MAX;
    const char *dot = strchr(key, '.');
    for (int s = 0; s < options->count; s++)
        for (int i = 0; i < options->sections[s].count; i++) {
            char full[128];
            const char *name = options->sections[s].rows[i].key;
            snprintf(full, sizeof full, "%s.%s", options->sections[s].name, name);
            int whole = mh_text_distance(key, full), part = mh_text_distance(dot ? dot + 1 : key, name) + 1;
            int distance = whole < part ? whole : part;
            if (distance < least) {
                least = distance;
                strcpy(best, full);
            }
        }
}

mh_status mh_options_set(const mh_options *options, void *config, const char *key, const char *text,
                         const char *where)
{
    const mh_section *section;
    const mh_option *row;
    if (find(options, key, &section, &row))
        return set_value(field(section, row, config), row, text) ? MH_OK : refuse(row, key, text, where);
    char best[128] = "";
    nearest(options, key, best);
    return mh_fail(MH_EVALUE, "%s: unknown key \"%.200s\"; did you mean \"%s\"?", where, key, best);
}

mh_status mh_options_assign(const mh_options *options, void *config, const char *assignment,
                            const char *where)
{
    const char *equals = strchr(assignment, '=');
    char key[128];
    if (equals == NULL || equals - assignment >= (ptrdiff_t)sizeof key)
        return mh_fail(MH_EVALUE, "%s takes section.key=value, not \"%.200s\"", where, assignment);
    snprintf(key, sizeof key, "%.*s", (int)(equals - assignment), assignment);
    return mh_options_set(options, config, key, equals + 1, where);
}

void mh_options_defaults(const mh_options *options, void *config)
{
    for (int s = 0; s < options->count; s++)
        for (int i = 0; i < options->sections[s].count; i++) {
            const mh_option *row = &options->sections[s].rows[i];
            if (!set_value(field(&options->sections[s], row, config), row, row->value))
                abort(); /* the table contradicts itself */
        }
}

/* ---- YAML ---------------------------------------------------------------------------------------------- */

typedef struct {
    const mh_options *options;
    void *config;
    const char *path;
} recipe;

static mh_status set_from_yaml(void *context, const char *key, const char *value, int line)
{
    const recipe *r = context;
    char where[MH_PATH + 16];
    snprintf(where, sizeof where, "%s:%d", r->path, line);
    return mh_options_set(r->options, r->config, key, value, where);
}

mh_status mh_options_read_yaml(const mh_options *options, void *config, const char *path)
{
    recipe r = {options, config, path};
    mh_text text;
    MH_TRY(mh_file_read(path, MH_RECIPE_LIMIT, &text));
    mh_status status = mh_yaml_read(path, text.data, text.length, set_from_yaml, &r);
    mh_text_release(&text);
    return status;
}

/* Characters that YAML would fold, refuse or misread inside quotes are written as their numbers; the text is
 * valid UTF-8, set_string saw to that. */
static mh_status add_quoted(mh_text *out, const char *text)
{
    MH_TRY(mh_text_add(out, "\"", 1));
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        int length = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
        uint32_t c = length == 1 ? *p : *p & (0x7f >> length);
        for (int i = 1; i < length; i++)
            c = c << 6 | (p[i] & 0x3f);
        bool escape = c < 0x20 || c == '"' || c == '\\' || (c >= 0x7f && c < 0xa0) || c == 0x2028 ||
                      c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff;
        MH_TRY(escape ? mh_text_printf(out, "\\U%08x", c) : mh_text_add(out, p, (size_t)length));
        p += length;
    }
    return mh_text_add(out, "\"", 1);
}

mh_status mh_options_write_yaml(const mh_options *options, const void *config, mh_text *out)
{
    for (int s = 0; s < options->count; s++) {
        const mh_section *section = &options->sections[s];
        MH_TRY(mh_text_printf(out, "%s# %s\n%s:\n", s > 0 ? "\n" : "", section->help, section->name));
        for (int i = 0; i < section->count; i++) {
            const mh_option *row = &section->rows[i];
            const void *value = field(section, row, config);
            MH_TRY(mh_text_printf(out, "  # %s\n  %s: ", row->help, row->key));
            MH_TRY(row->type == MH_OPTION_STRING ? add_quoted(out, value) : add_value(out, row, value));
            MH_TRY(mh_text_add(out, "\n", 1));
        }
    }
    return MH_OK;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

json_t *mh_section_to_json(const mh_section *section, const void *config)
{
    json_t *json = json_object();
    for (int i = 0; i < section->count; i++) {
        const mh_option *row = &section->rows[i];
        const void *value = field(section, row, config);
        const char *name = "";
        int length = 0;
        json_t *item = NULL;
        switch (row->type) {
        case MH_OPTION_BOOL:
            item = json_boolean(*(const int *)value);
            break;
        case MH_OPTION_INT:
            item = json_integer(*(const int64_t *)value);
            break;
        case MH_OPTION_FLOAT:
            item = json_real(*(const double *)value);
            break;
        case MH_OPTION_STRING:
            item = json_string(value);
            break;
        case MH_OPTION_CHOICE:
            mh_choice_at(row->choices, *(const int *)value, &name, &length);
            item = json_stringn(name, (size_t)length);
            break;
        }
        mh_json_set(json, row->key, item);
    }
    return json;
}

json_t *mh_options_to_json(const mh_options *options, const void *config)
{
    json_t *json = json_object();
    for (int s = 0; s < options->count; s++)
        mh_json_set(json, options->sections[s].name, mh_section_to_json(&options->sections[s], config));
    return json;
}

static bool has_type(const json_t *item, mh_option_type type)
{
    switch (type) {
    case MH_OPTION_BOOL:
        return json_is_boolean(item);
    case MH_OPTION_INT:
        return json_is_integer(item);
    case MH_OPTION_FLOAT:
        return json_is_number(item);
    case MH_OPTION_STRING:
    case MH_OPTION_CHOICE:
        return json_is_string(item);
    }
    return false;
}

/* Goes through text, so that a value is checked in one place wherever it comes from. */
static mh_status set_from_json(const mh_options *options, void *config, const char *key, const json_t *item,
                               const char *where)
{
    const mh_section *section;
    const mh_option *row;
    bool wrong = find(options, key, &section, &row) && !has_type(item, row->type);
    mh_text text = {0};
    mh_status status = json_is_string(item)
                           ? mh_text_add(&text, json_string_value(item), json_string_length(item))
                           : mh_json_dump(item, false, &text);
    if (status == MH_OK)
        status = wrong ? refuse(row, key, text.data, where)
                       : mh_options_set(options, config, key, text.data, where);
    mh_text_release(&text);
    return status;
}

mh_status mh_section_from_json(const mh_section *section, void *config, const json_t *json, const char *where)
{
    if (!json_is_object(json))
        return mh_fail(MH_EFORMAT,
                       "%s: an object with the settings of \"%s\" is expected; use another copy of the file",
                       where, section->name);
    const mh_options options = {section, 1};
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)json, name, item) {
        char key[128];
        snprintf(key, sizeof key, "%s.%s", section->name, name);
        MH_TRY(set_from_json(&options, config, key, item, where));
    }
    return MH_OK;
}

/* ---- comparison and documents -------------------------------------------------------------------------- */

static bool same(const mh_option *row, const void *a, const void *b)
{
    static const size_t sizes[] = {[MH_OPTION_BOOL] = sizeof(int),
                                   [MH_OPTION_INT] = sizeof(int64_t),
                                   [MH_OPTION_FLOAT] = sizeof(double),
                                   [MH_OPTION_CHOICE] = sizeof(int)};
    return row->type == MH_OPTION_STRING ? strcmp(a, b) == 0 : memcmp(a, b, sizes[row->type]) == 0;
}

bool mh_options_conflict(const mh_options *options, const void *was, const void *now, char key[128])
{
    for (int s = 0; s < options->count; s++) {
        const mh_section *section = &options->sections[s];
        for (int i = 0; i < section->count; i++) {
            const mh_option *row = &section->rows[i];
            if ((row->flags & MH_OPTION_RESUME) == 0 &&
                !same(row, field(section, row, was), field(section, row, now))) {
                snprintf(key, 128, "%s.%s", section->name, row->key);
                return true;
            }
        }
    }
    return false;
}

mh_status mh_options_markdown(const mh_options *options, mh_text *out)
{
    for (int s = 0; s < options->count; s++) {
        const mh_section *section = &options->sections[s];
        MH_TRY(mh_text_printf(out,
                              "## %s\n\n%s\n\n| key | default | value | on resume | meaning |\n"
                              "|---|---|---|---|---|\n",
                              section->name, section->help));
        for (int i = 0; i < section->count; i++) {
            const mh_option *row = &section->rows[i];
            MH_TRY(mh_text_printf(out, "| `%s.%s` | %s%s%s | ", section->name, row->key,
                                  row->value[0] ? "`" : "", row->value, row->value[0] ? "`" : ""));
            MH_TRY(add_domain(out, row));
            MH_TRY(mh_text_printf(out, " | %s | %s |\n",
                                  row->flags & MH_OPTION_RESUME ? "may change" : "fixed", row->help));
        }
        MH_TRY(mh_text_printf(out, "\n"));
    }
    return MH_OK;
}

mh_status mh_options_help(const mh_options *options, mh_text *out)
{
    for (int s = 0; s < options->count; s++) {
        const mh_section *section = &options->sections[s];
        MH_TRY(mh_text_printf(out, "%s%s: %s\n", s > 0 ? "\n" : "", section->name, section->help));
        for (int i = 0; i < section->count; i++) {
            const mh_option *row = &section->rows[i];
            char set[128];
            snprintf(set, sizeof set, "%s.%s=%s", section->name, row->key, row->value);
            MH_TRY(mh_text_printf(out, "  %-34s %s; ", set, row->help));
            MH_TRY(add_domain(out, row));
            MH_TRY(mh_text_add(out, "\n", 1));
        }
    }
    return MH_OK;
}
