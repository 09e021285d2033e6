/* tokenizer: SentencePiece behind a C face. No exception passes this face, and nothing is printed. */
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sentencepiece_processor.h>
#include <string>
#include <string_view>
#include <vector>

extern "C" {
#include "data/data.h"
}

/* SentencePiece writes a space as U+2581, and cannot tell that character in the text from a space. */
static const char SPACE_SIGN[] = "\xe2\x96\x81";
enum { SPACE_SIGN_BYTES = 3 };

/* Texts are encoded in segments of about this many bytes: its working memory is about a hundred times that,
 * and its time grows faster than the length. */
enum { SEGMENT = 4096 };

/* Protobuf messages put behind a model file: where a field comes twice the last one counts. So the file's own
 * normalisation, which would lose text, is neither run nor even parsed (SentencePiece trusts the compiled
 * table in it), and the space before a text can be left to us, who encode texts in segments. */
#define NO_CHARSMAP     "\x12\x00" /* precompiled_charsmap = "" */
#define NO_DUMMY_PREFIX "\x18\x00"
#define KEEP_SPACES     "\x20\x00" /* remove_extra_whitespaces = false */
#define ESCAPE_SPACES   "\x28\x01"
static const char DENORMALIZER[] = "\x2a\x02" NO_CHARSMAP; /* denormalizer_spec, 2 bytes */
static const char NORMALIZER[] = "\x1a\x06" NO_CHARSMAP KEEP_SPACES ESCAPE_SPACES;
static const char PREFIXLESS[] = "\x1a\x08" NO_CHARSMAP KEEP_SPACES ESCAPE_SPACES NO_DUMMY_PREFIX;

struct mh_tokenizer {
    std::string file;
    char hash[17];
    int bos, eos;
    sentencepiece::SentencePieceProcessor processor;
    std::vector<std::string> surface; /* the text of each id; nothing for control pieces */
    int byte_id[256];
    bool prefix; /* a space is put before every text */
};

mh_status mh_tokenizer_caught(const char *what)
{
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to SentencePiece; free some", what);
    } catch (const std::exception &e) {
        return mh_fail(MH_EFORMAT, "%s: SentencePiece failed: %s; use another model or text", what, e.what());
    } catch (...) {
        return mh_fail(MH_EFORMAT, "%s: SentencePiece failed and does not say why; use another model or text",
                       what);
    }
}

/* Runs `body` and turns what it throws into a sentence about `what`. */
template <typename F> static mh_status guarded(const char *what, F &&body) noexcept
{
    try {
        return body();
    } catch (...) {
        return mh_tokenizer_caught(what);
    }
}

static mh_status refused(const char *what, const std::string &why)
{
    return mh_fail(MH_EFORMAT,
                   "%s is not a usable SentencePiece model: %s; train one with `mhmoe tokenizer train`", what,
                   why.c_str());
}

/* SentencePiece's messages are "file.cc(12) [a == b] why." or lack the reason. */
static std::string reason(const sentencepiece::util::Status &status)
{
    std::string why = status.message();
    size_t bracket = why.rfind("] ");
    if (bracket != why.npos)
        why.erase(0, bracket + 2);
    if (!why.empty() && why.back() == '.')
        why.pop_back();
    return why.empty() ? "it is damaged or another kind of file" : why;
}

/* ---- loading ------------------------------------------------------------------------------------------- */

static std::string spaced(std::string piece)
{
    for (size_t at = 0; (at = piece.find(SPACE_SIGN, at)) != std::string::npos; at++)
        piece.replace(at, SPACE_SIGN_BYTES, " ");
    return piece;
}

/* Finds the text that piece `id` stands for. */
static mh_status read_piece(mh_tokenizer *t, int id, const char *what)
{
    const std::string &piece = t->processor.IdToPiece(id);
    std::string name = "piece " + std::to_string(id);
    mh_text clean = {};
    int64_t invalid = 0;
    mh_status status = mh_utf8_clean(piece.data(), piece.size(), &clean, &invalid);
    mh_text_release(&clean);
    MH_TRY(status);
    if (piece.empty() || invalid > 0)
        return refused(what, name + " is not valid UTF-8");
    if (!std::isfinite(t->processor.GetScore(id)))
        return refused(what, name + " has no finite score");

    std::string &surface = t->surface[id];
    if (t->processor.IsControl(id)) {
        surface = "";
    } else if (t->processor.IsUnknown(id)) {
        surface = " \xe2\x81\x87 "; /* U+2047, SentencePiece's own choice */
    } else if (t->processor.IsByte(id)) {
        /* "<0x0A>": SentencePiece has checked the form */
        int byte = (int)strtol(piece.c_str() + 3, NULL, 16);
        t->byte_id[byte] = id;
        surface = (char)byte;
    } else {
        surface = spaced(piece);
    }
    return MH_OK;
}

/* Everything that a text may hold, with what SentencePiece treats apart. What a damaged model does to it is
 * found here, before any data is lost. */
static const char PROBE[] =
    "  The quick brown fox, 1234567890 times:\n\n\tjumps over   the lazy dog! \r\n"
    "\xc3\xa9t\xc3\xa9 \xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\xa6\x99 \xef\xbf\xbd \x01\x7f "
    "</s> <0x0A> a\xe2\x96\x81z \xe2\x96\x85 ";

/* Whether a text, or what stands in the middle of one, comes back from its tokens. */
static mh_status gives_back(const mh_tokenizer *t, const std::string &text, bool whole, const char *what)
{
    mh_ids ids = {};
    mh_text back = {};
    mh_status status = mh_tokenizer_encode_part(t, text.data(), text.size(), whole, &ids);
    if (whole && status == MH_OK)
        status = mh_tokenizer_decode(t, ids.id, ids.count, &back);
    for (int64_t i = 0; !whole && i < ids.count && status == MH_OK; i++)
        status = mh_tokenizer_piece(t, ids.id[i], &back);
    bool same = status == MH_OK && text == std::string_view(back.data, back.length);
    mh_ids_release(&ids); /* before anything throws */
    mh_text_release(&back);
    if (status == MH_EFORMAT)
        return refused(what, "it cannot encode every text");
    MH_TRY(status);
    return same ? MH_OK : refused(what, "it does not give a text back as it was");
}

/* SentencePiece looks among control, unknown and byte pieces first, and does not mind if another piece is
 * called the same, or if one is a single character. Where it takes their names in a text for them, that text
 * is lost. */
static mh_status probe(const mh_tokenizer *t, const char *what)
{
    const auto &model = t->processor;
    MH_TRY(gives_back(t, PROBE, true, what));
    for (int id = 0; id < mh_tokenizer_vocab(t); id++)
        if (model.IsControl(id) || model.IsUnknown(id) || model.IsByte(id))
            MH_TRY(gives_back(t, spaced(model.IdToPiece(id)), false, what));
    return MH_OK;
}

static mh_status load(mh_tokenizer *t, const char *what)
{
    MH_TRY(mh_tokenizer_check_seal(t->file.data(), t->file.size(), what));
    sentencepiece::SentencePieceProcessor with_prefix;
    std::string file = t->file + std::string(DENORMALIZER, sizeof DENORMALIZER - 1);
    auto loaded = with_prefix.LoadFromSerializedProto(file + std::string(NORMALIZER, sizeof NORMALIZER - 1));
    if (loaded.ok())
        loaded = t->processor.LoadFromSerializedProto(file + std::string(PREFIXLESS, sizeof PREFIXLESS - 1));
    if (!loaded.ok())
        return refused(what, reason(loaded));

    t->bos = t->processor.bos_id();
    t->eos = t->processor.eos_id();
    int vocab = t->processor.GetPieceSize();
    t->surface.resize((size_t)vocab);
    std::fill_n(t->byte_id, 256, -1);
    for (int id = 0; id < vocab; id++)
        MH_TRY(read_piece(t, id, what));
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_id[byte] < 0)
            return refused(what, "it has no byte pieces (byte_fallback), so it cannot hold every text");

    std::vector<int> ids, ids_with_prefix;
    if (!t->processor.Encode("\n", &ids).ok() || !with_prefix.Encode("\n", &ids_with_prefix).ok())
        return refused(what, "it cannot encode a newline");
    t->prefix = ids.size() != ids_with_prefix.size();
    return probe(t, what);
}

mh_status mh_tokenizer_from_bytes(mh_tokenizer **tokenizer, const void *data, size_t bytes, const char *what)
{
    *tokenizer = NULL;
    return guarded(what, [&] {
        mh_tokenizer *t = new mh_tokenizer();
        mh_status status = guarded(what, [&] {
            t->file.assign((const char *)data, bytes);
            mh_hash_text(mh_hash(data, bytes), t->hash);
            return load(t, what);
        });
        if (status == MH_OK)
            *tokenizer = t;
        else
            delete t;
        return status;
    });
}

void mh_tokenizer_free(mh_tokenizer *tokenizer)
{
    delete tokenizer;
}

/* ---- what it is ---------------------------------------------------------------------------------------- */

int mh_tokenizer_vocab(const mh_tokenizer *tokenizer)
{
    return (int)tokenizer->surface.size();
}

int32_t mh_tokenizer_bos(const mh_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t mh_tokenizer_eos(const mh_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

const char *mh_tokenizer_hash(const mh_tokenizer *tokenizer)
{
    return tokenizer->hash;
}

const void *mh_tokenizer_bytes(const mh_tokenizer *tokenizer, size_t *bytes)
{
    *bytes = tokenizer->file.size();
    return tokenizer->file.data();
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

mh_status mh_tokenizer_encode_part(const mh_tokenizer *tokenizer, const char *text, size_t length, bool start,
                                   mh_ids *ids)
{
    return guarded("encoding", [&] {
        std::vector<int> id;
        std::string prefixed;
        bool prefix = start && tokenizer->prefix;
        std::string_view rest(text, length);
        while (!rest.empty()) {
            std::string_view segment = rest.substr(0, mh_utf8_cut(rest.data(), rest.size(), SEGMENT));
            size_t sign = segment.find(SPACE_SIGN);
            segment = segment.substr(0, sign);
            rest.remove_prefix(segment.size());
            if (prefix) {
                prefixed = " " + std::string(segment);
                segment = prefixed;
                prefix = false;
            }
            auto encoded = tokenizer->processor.Encode(segment, &id);
            if (!encoded.ok())
                return mh_fail(MH_EFORMAT, "SentencePiece cannot encode a text: %s; use another tokenizer",
                               encoded.message());
            MH_TRY(mh_ids_add(ids, id.data(), (int64_t)id.size()));
            if (sign != std::string_view::npos) {
                for (int i = 0; i < SPACE_SIGN_BYTES; i++)
                    MH_TRY(mh_ids_add(ids, &tokenizer->byte_id[(unsigned char)SPACE_SIGN[i]], 1));
                rest.remove_prefix(SPACE_SIGN_BYTES);
            }
        }
        return MH_OK;
    });
}

mh_status mh_tokenizer_encode(const mh_tokenizer *tokenizer, const char *text, size_t length, mh_ids *ids)
{
    return mh_tokenizer_encode_part(tokenizer, text, length, true, ids);
}

/* ---- decoding ------------------------------------------------------------------------------------------ */

mh_status mh_tokenizer_piece(const mh_tokenizer *tokenizer, int32_t id, mh_text *text)
{
    if (id < 0 || (size_t)id >= tokenizer->surface.size())
        return mh_fail(MH_EVALUE,
                       "token %d is outside this tokenizer's vocabulary of %zu; decode with the model's own",
                       id, tokenizer->surface.size());
    return mh_text_add(text, tokenizer->surface[id].data(), tokenizer->surface[id].size());
}

mh_status mh_tokenizer_decode(const mh_tokenizer *tokenizer, const int32_t *id, int64_t count, mh_text *text)
{
    MH_TRY(mh_text_add(text, "", 0));
    size_t begin = text->length;
    bool prefix = tokenizer->prefix;
    for (int64_t i = 0; i < count; i++) {
        MH_TRY(mh_tokenizer_piece(tokenizer, id[i], text));
        if (prefix && text->length > begin) {
            if (text->data[begin] == ' ') {
                text->length--;
                memmove(text->data + begin, text->data + begin + 1, text->length - begin + 1);
            }
            prefix = false;
        }
    }
    return MH_OK;
}
