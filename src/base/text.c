/* text: a growing string, and what is read out of short ones. */
#include "base/base.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Nothing this program holds as one piece of text comes near; a length beyond is a bug or an attack. */
#define TEXT_LIMIT ((size_t)1 << 36)

/* Makes room for `length` more bytes and the final NUL. */
static mh_status reserve(mh_text *text, size_t length)
{
    if (length > TEXT_LIMIT - text->length)
        return mh_fail(
            MH_EMEMORY,
            "a text of %zu bytes cannot grow by %zu: at most %zu are held in memory; split what is read",
            text->length, length, TEXT_LIMIT);
    size_t need = text->length + length + 1;
    if (need <= text->capacity)
        return MH_OK;
    size_t capacity = text->capacity * 2 > need ? text->capacity * 2 : need + 32;
    char *data = realloc(text->data, capacity);
    if (data == NULL)
        return mh_fail(MH_EMEMORY, "the system refused %zu bytes of memory for a text", capacity);
    text->data = data;
    text->capacity = capacity;
    return MH_OK;
}

mh_status mh_text_add(mh_text *text, const void *data, size_t length)
{
    MH_TRY(reserve(text, length));
    if (length > 0)
        memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = '\0';
    return MH_OK;
}

mh_status mh_text_printf(mh_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        return mh_fail(MH_EVALUE, "a text cannot be formatted as \"%s\"; shorten it", format);
    MH_TRY(reserve(text, (size_t)length));
    va_start(arguments, format);
    vsnprintf(text->data + text->length, (size_t)length + 1, format, arguments);
    va_end(arguments);
    text->length += (size_t)length;
    return MH_OK;
}

void mh_text_release(mh_text *text)
{
    free(text->data);
    *text = (mh_text){0};
}

/* Levenshtein's, one row at a time. */
int mh_text_distance(const char *a, const char *b)
{
    enum { LONGEST = 63 };
    int n = (int)strnlen(a, LONGEST), m = (int)strnlen(b, LONGEST);
    int row[LONGEST + 1];
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            int skip = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = change < skip ? change : skip;
        }
    }
    return row[m];
}

char *mh_text_trim(char *text)
{
    text += strspn(text, " \t");
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t", text[n - 1]) != NULL)
        text[--n] = '\0';
    return text;
}

bool mh_choice_at(const char *choices, int index, const char **name, int *length)
{
    for (; index > 0; index--) {
        choices = strchr(choices, '|');
        if (choices == NULL)
            return false;
        choices++;
    }
    *name = choices;
    *length = (int)strcspn(choices, "|");
    return true;
}

bool mh_choice_find(const char *choices, const char *text, int *index)
{
    const char *name;
    int length;
    for (int i = 0; mh_choice_at(choices, i, &name, &length); i++)
        if (strlen(text) == (size_t)length && strncmp(text, name, (size_t)length) == 0) {
            *index = i;
            return true;
        }
    return false;
}

/* The sets of characters keep out what strtoll and strtod accept beyond a plain number: leading blanks,
 * hexadecimal, "inf" and "nan". */
static bool only(const char *text, const char *characters)
{
    return text[0] != '\0' && text[strspn(text, characters)] == '\0';
}

bool mh_text_to_int(const char *text, int64_t *value)
{
    if (!only(text, "+-0123456789"))
        return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end != '\0' || end == text || errno == ERANGE)
        return false;
    *value = v;
    return true;
}

bool mh_text_to_double(const char *text, double *value)
{
    if (!only(text, "+-.eE0123456789"))
        return false;
    char *end; /* with a point, whatever the program's locale writes */
    double v = strtod_l(text, &end, newlocale(LC_ALL_MASK, "C", (locale_t)0));
    if (*end != '\0' || end == text || !isfinite(v))
        return false;
    *value = v;
    return true;
}
