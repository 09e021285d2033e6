/* tokenizer_train: a tokenizer out of a sample of text. */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <queue>
#include <sentencepiece_trainer.h>
#include <string>
#include <vector>

extern "C" {
#include "data/data.h"
}

/* SentencePiece marks unknown characters with U+2585 and drops lines that hold it: they are cut there. */
static const char UNKNOWN_SIGN[] = "\xe2\x96\x85";

/* SentencePiece writes a space like this. A text without many would lose it to the character coverage. */
static const char SPACE_SIGN[] = "\xe2\x96\x81";

/* Longer lines are cut: many copies of one huge line would fill the sample, and SentencePiece keeps the place
 * of a symbol within its word in 16 bits. */
enum { LINE_BYTES = 4096 };

/* One line in so many of the sample is kept from training, to measure on. A sample of fewer lines than
 * MEASURE_LINES is too precious: all of it trains, and it is measured on the same text. */
enum { MEASURE_EVERY = 100, MEASURE_LINES = 1000 };

namespace
{

/* The lines with the lowest random keys, as many as fit: a uniform sample in one pass, the same whatever the
 * order of the work, since a line's key depends on its number alone. */
class Sample
{
  public:
    struct Line {
        uint64_t key, index;
        std::string text;
        bool operator<(const Line &other) const { return key < other.key; }
    };

    Sample(uint64_t seed, size_t limit) : seed_(seed), limit_(limit) {}

    void add(std::string_view text)
    {
        uint32_t random[4];
        mh_random4(seed_, mh_stream(MH_RANDOM_SAMPLE, 0, 0), index_, random);
        uint64_t key = (uint64_t)random[0] << 32 | random[1];
        if (key < bound_) {
            lines_.push({key, index_, std::string(text)});
            bytes_ += text.size();
        }
        while (bytes_ > limit_) {
            bound_ = lines_.top().key;
            bytes_ -= lines_.top().text.size();
            lines_.pop();
        }
        index_++;
    }

    size_t bytes() const { return bytes_; }

    /* The lines in the order of the text; none are left inside. */
    std::vector<Line> take()
    {
        std::vector<Line> lines;
        for (; !lines_.empty(); lines_.pop())
            lines.push_back(lines_.top());
        std::sort(lines.begin(), lines.end(), [](const Line &a, const Line &b) { return a.index < b.index; });
        return lines;
    }

  private:
    uint64_t seed_, index_ = 0, bound_ = UINT64_MAX;
    size_t limit_, bytes_ = 0;
    std::priority_queue<Line> lines_;
};

/* Hands the lines to SentencePiece, without those kept for measuring. */
class Lines : public sentencepiece::SentenceIterator
{
  public:
    Lines(const std::vector<Sample::Line> &lines, size_t skip) : lines_(lines), skip_(skip) { settle(); }
    bool done() const override { return at_ >= lines_.size(); }
    void Next() override
    {
        at_++;
        settle();
    }
    const std::string &value() const override { return lines_[at_].text; }
    sentencepiece::util::Status status() const override { return {}; }

  private:
    void settle()
    {
        if (skip_ != 0 && at_ % skip_ == 0)
            at_++;
    }
    const std::vector<Sample::Line> &lines_;
    size_t skip_, at_ = 0;
};

} // namespace

/* Where to cut a line, which thereby has no more than LINE_BYTES: before its last space, else between two
 * characters. */
static size_t cut_line(std::string_view line)
{
    if (line.size() <= LINE_BYTES)
        return line.size();
    size_t cut = line.rfind(' ', LINE_BYTES);
    if (cut == line.npos || cut == 0)
        for (cut = LINE_BYTES; (line[cut] & 0xc0) == 0x80;)
            cut--;
    return cut;
}

/* Adds the lines of a document, without their ends: a newline is a piece of its own. */
static void add_lines(Sample &sample, std::string_view text)
{
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        while (!line.empty()) {
            std::string_view part = line.substr(0, cut_line(line));
            size_t sign = part.find(UNKNOWN_SIGN);
            line.remove_prefix(sign == part.npos ? part.size() : sign + strlen(UNKNOWN_SIGN));
            if (sign > 0)
                sample.add(part.substr(0, sign));
        }
    }
}

static mh_status read_sample(const mh_tokenizer_training *training, Sample &sample,
                             const mh_progress *progress, mh_tokenizer_trained *result)
{
    mh_corpus *corpus;
    MH_TRY(mh_corpus_open(&corpus, training->inputs, training->input_count));
    std::unique_ptr<mh_corpus, void (*)(mh_corpus *)> owner(corpus, mh_corpus_close);
    mh_status status;
    mh_document document;
    bool end = false;
    while ((status = mh_corpus_next(corpus, &document, &end)) == MH_OK && !end) {
        add_lines(sample, std::string_view(document.text, document.length));
        mh_corpus_state state = mh_corpus_where(corpus);
        mh_progress_report(progress, "reading text", state.read, state.total, NULL);
        if (mh_progress_stopped(progress)) {
            status = mh_fail(MH_EINTERRUPTED, "stopped while reading text; no tokenizer was written");
            break;
        }
    }
    if (status == MH_OK)
        status = mh_corpus_check(corpus);
    mh_corpus_state state = mh_corpus_where(corpus);
    result->documents = state.documents;
    result->bytes = state.bytes;
    result->sample_bytes = (int64_t)sample.bytes();
    return status;
}

/* What SentencePiece's refusal means for the person who chose the vocabulary. It names what would do: "...
 * required_chars. 300 vs 338. ...", "... set it to a value <= 1671." */
static mh_status explain(int vocab, const char *message)
{
    const char *number;
    if ((number = strstr(message, " vs ")) != NULL)
        return mh_fail(MH_EVALUE,
                       "a vocabulary of %d is too small for the characters of this text; choose at least %ld",
                       vocab, strtol(number + 4, NULL, 10));
    if ((number = strstr(message, "value <= ")) != NULL)
        return mh_fail(MH_EVALUE,
                       "this text is too small for a vocabulary of %d; choose at most %ld or add text", vocab,
                       strtol(number + 9, NULL, 10));
    return mh_fail(MH_EVALUE,
                   "SentencePiece could not train a vocabulary of %d: %s; try another size or other text",
                   vocab, message);
}

static mh_status train_model(int vocab, const std::vector<Sample::Line> &lines, size_t skip,
                             std::string *model)
{
    /* As LLaMA's, but for the exact identity normalisation. num_threads is written into the file and so must
     * not follow the machine; training BPE gains nothing from it. */
    Lines iterator(lines, skip);
    auto trained =
        sentencepiece::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                    {"vocab_size", std::to_string(vocab)},
                                                    {"byte_fallback", "true"},
                                                    {"normalization_rule_name", "identity"},
                                                    {"remove_extra_whitespaces", "false"},
                                                    {"add_dummy_prefix", "true"},
                                                    {"split_digits", "true"},
                                                    {"allow_whitespace_only_pieces", "true"},
                                                    {"character_coverage", "0.9995"},
                                                    {"required_chars", SPACE_SIGN},
                                                    {"max_sentence_length", std::to_string(1 << 20)},
                                                    {"unk_id", "0"},
                                                    {"bos_id", "1"},
                                                    {"eos_id", "2"},
                                                    {"pad_id", "-1"},
                                                    {"num_threads", "1"},
                                                    {"minloglevel", "4"}},
                                                   &iterator, model);
    return trained.ok() ? MH_OK : explain(vocab, trained.message());
}

/* Bytes a token of the lines kept for measuring. */
static mh_status measure(const mh_tokenizer *tokenizer, const std::vector<Sample::Line> &lines, size_t every,
                         double *bytes_per_token)
{
    std::string text;
    for (size_t i = 0; i < lines.size(); i += every)
        text += lines[i].text + "\n";
    mh_ids ids = {};
    mh_status status = mh_tokenizer_encode(tokenizer, text.data(), text.size(), &ids);
    if (status == MH_OK)
        *bytes_per_token = (double)text.size() / (double)ids.count;
    mh_ids_release(&ids);
    return status;
}

static mh_status train(const mh_tokenizer_training *training, const char *path, const mh_progress *progress,
                       mh_tokenizer_trained *result)
{
    double started = mh_seconds();
    /* Whether the model can be written is known before the work. The file is not held open through it: it
     * would stay behind if the process were killed. */
    mh_writer attempt;
    MH_TRY(mh_make_parent(path));
    MH_TRY(mh_writer_open(&attempt, path));
    mh_writer_abort(&attempt);
    Sample sample(training->seed, training->sample_bytes);
    MH_TRY(read_sample(training, sample, progress, result));
    std::vector<Sample::Line> lines = sample.take();
    if (lines.empty())
        return mh_fail(MH_EVALUE, "there is no line of text in %s to train a tokenizer on; name other inputs",
                       training->inputs[0]);
    size_t skip = lines.size() >= MEASURE_LINES ? MEASURE_EVERY : 0;

    mh_progress_report(progress, "training the tokenizer", 0, 0, NULL);
    std::string model;
    MH_TRY(train_model(training->vocab, lines, skip, &model));
    if (mh_progress_stopped(progress))
        return mh_fail(MH_EINTERRUPTED, "stopped while training; no tokenizer was written");

    char seal[MH_TOKENIZER_SEAL];
    mh_tokenizer_seal(model.data(), model.size(), seal);
    model.append(seal, sizeof seal);

    mh_tokenizer *tokenizer;
    MH_TRY(mh_tokenizer_from_bytes(&tokenizer, model.data(), model.size(), "the tokenizer just trained"));
    std::unique_ptr<mh_tokenizer, void (*)(mh_tokenizer *)> owner(tokenizer, mh_tokenizer_free);
    MH_TRY(measure(tokenizer, lines, skip == 0 ? 1 : skip, &result->bytes_per_token));
    MH_TRY(mh_file_write(path, model.data(), model.size()));
    result->seconds = mh_seconds() - started;
    return MH_OK;
}

mh_status mh_tokenizer_train(const mh_tokenizer_training *training, const char *path,
                             const mh_progress *progress, mh_tokenizer_trained *result)
{
    mh_tokenizer_trained unused;
    try {
        return train(training, path, progress, result != NULL ? result : &unused);
    } catch (const std::bad_alloc &) {
        return mh_fail(MH_EMEMORY,
                       "the system refused memory for training a tokenizer; take a smaller sample");
    } catch (...) {
        return mh_tokenizer_caught("training a tokenizer");
    }
}
