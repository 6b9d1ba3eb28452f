// Samples documents from the model in full precision and keeps them in a file. See self_text.h.
#include "app/train/self_text.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "core/hash.h"
#include "core/random.h"
#include "runtime/sampling.h"

namespace qalof::app {

namespace {

constexpr const char* kSchema = "qalof.self_text";
constexpr std::size_t kMaxFileBytes = std::size_t{4} << 30;
// Greedy tokens after the first: 3, 4 or 5.
constexpr std::uint64_t kFewestGreedy = 3, kGreedyChoices = 3;

struct Document {
  std::vector<std::int32_t> ids;
  std::size_t read = 0;  // tokens of ids that the model has read
  std::size_t greedy = 0;
  runtime::KvCache cache;
  runtime::Sampler sampler;
  bool done = false;
};

runtime::SamplingOptions sampling(const RandomStream& stream, std::uint64_t number) {
  const auto words = stream.words(number, 2);
  runtime::SamplingOptions options;
  options.temperature = 1;
  options.seed = static_cast<std::uint64_t>(words[0]) << 32 | words[1];
  return options;
}

// Documents that are written side by side, a token each at a time.
class Writer {
 public:
  Writer(const runtime::Execution& execution, const SelfTextOptions& options, ParallelFor& parallel)
      : execution_(execution),
        options_(options),
        parallel_(parallel),
        stream_(options.seed, "self_text"),
        choices_(options.num_choices > 0 ? options.num_choices : config().vocab_size),
        length_(std::min(options.max_length, config().max_positions)),
        greedy_(runtime::SamplingOptions{}) {}

  std::vector<Document> write(std::uint64_t first, std::size_t count) {
    first_ = first;
    std::vector<Document> documents;
    for (std::uint64_t number = first; number < first + count; ++number) {
      documents.push_back({options_.before, 0,
                           kFewestGreedy + stream_.below(kGreedyChoices, number, 1),
                           runtime::KvCache(config(), execution_.kv(), length_),
                           runtime::Sampler(sampling(stream_, number))});
      documents.back().ids.push_back(static_cast<std::int32_t>(stream_.below(choices_, number, 0)));
    }
    while (add_tokens(documents)) {
      if (options_.should_stop && options_.should_stop())
        fail(ErrorKind::kInterrupted, "--train_file self: stopped while the model wrote its text");
    }
    return documents;
  }

 private:
  const model::ModelConfig& config() const { return execution_.base().config(); }

  // A token to each document that is not done; false where all are.
  bool add_tokens(std::vector<Document>& documents) {
    std::vector<runtime::Sequence> sequences;
    std::vector<Document*> open;
    std::size_t rows = 0;
    for (Document& document : documents) {
      if (document.done) continue;
      open.push_back(&document);
      sequences.push_back({std::span(document.ids).subspan(document.read), &document.cache});
      rows += document.ids.size() - document.read;
      document.read = document.ids.size();
    }
    if (open.empty()) return false;
    const std::size_t vocab = config().vocab_size, width = config().hidden;
    hidden_.resize(rows * width);
    logits_.resize(open.size() * vocab);
    runtime::forward(execution_, sequences, workspace_, hidden_.data(), parallel_);
    std::size_t row = 0;  // the last of each document's moves to the front
    for (std::size_t i = 0; i < open.size(); ++i) {
      row += sequences[i].ids.size();
      std::copy_n(hidden_.begin() + static_cast<std::ptrdiff_t>((row - 1) * width), width,
                  hidden_.begin() + static_cast<std::ptrdiff_t>(i * width));
    }
    runtime::lm_logits(execution_, hidden_.data(), open.size(), logits_.data(), parallel_,
                       &workspace_.linear);
    for (std::size_t i = 0; i < open.size(); ++i) {
      Document& document = *open[i];
      const std::size_t step = document.ids.size() - 1 - options_.before.size();
      runtime::Sampler& sampler = step < document.greedy ? greedy_ : document.sampler;
      const auto logits = std::span<const float>(logits_).subspan(i * vocab, choices_);
      check_finite(logits, "a logit", [&] {
        return fmt::format("--train_file self: document {}, token {}",
                           first_ + static_cast<std::uint64_t>(&document - documents.data()) + 1,
                           step + 2);
      });
      const std::int32_t id = sampler.sample(logits, step);
      document.ids.push_back(id);
      const std::vector<std::int64_t>& ends = config().eos_token_ids;
      document.done =
          document.ids.size() == length_ || std::find(ends.begin(), ends.end(), id) != ends.end();
    }
    return true;
  }

  const runtime::Execution& execution_;
  const SelfTextOptions& options_;
  ParallelFor& parallel_;
  RandomStream stream_;
  std::size_t choices_, length_;
  std::uint64_t first_ = 0;  // number of the first of the documents being written
  runtime::Sampler greedy_;
  runtime::DecoderWorkspace workspace_;
  std::vector<float> hidden_, logits_;
};

std::string lines_of(const std::vector<std::vector<std::int32_t>>& documents) {
  std::string lines;
  for (const std::vector<std::int32_t>& ids : documents) lines += Json(ids).dump() + "\n";
  return lines;
}

Json header_of(const Json& identity, const std::string& lines) {
  return {{"schema", kSchema},
          {"format_version", 1},
          {"identity", identity},
          {"sha256", sha256_hex(std::as_bytes(std::span(lines.data(), lines.size())))}};
}

}  // namespace

std::vector<std::vector<std::int32_t>> generate_self_text(const runtime::Execution& execution,
                                                          const SelfTextOptions& options,
                                                          ParallelFor& parallel,
                                                          Observer& observer) {
  execution.base().require_lm_head();
  QALOF_CHECK(options.max_length >= 2 + options.before.size(), ErrorKind::kUsage,
              "--max_seq_length: found {}, expected at least {}", options.max_length,
              2 + options.before.size());
  QALOF_CHECK(options.tokens >= 1, ErrorKind::kUsage, "--self_tokens: found 0, expected more");
  Writer writer(execution, options, parallel);
  std::vector<std::vector<std::int32_t>> texts;
  std::uint64_t tokens = 0;
  observer.progress("self text", 0, options.tokens, "", "tokens");
  while (tokens < options.tokens) {
    for (Document& document : writer.write(texts.size(), options.documents_at_once)) {
      if (tokens >= options.tokens) break;
      tokens += document.ids.size();
      texts.push_back(std::move(document.ids));
    }
    observer.progress("self text", std::min(tokens, options.tokens), options.tokens,
                      fmt::format("{} documents", texts.size()), "tokens");
  }
  return texts;
}

void write_self_text(const std::string& path, const Json& identity,
                     const std::vector<std::vector<std::int32_t>>& documents) {
  const std::string lines = lines_of(documents);
  write_file_atomic(path, header_of(identity, lines).dump() + "\n" + lines);
}

std::optional<std::vector<std::vector<std::int32_t>>> read_self_text(const std::string& path,
                                                                     const Json& identity) {
  if (!path_exists(path)) return std::nullopt;
  const std::string text = read_file(path, kMaxFileBytes);
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string lines = end < text.size() ? text.substr(end + 1) : "";
  if (text.substr(0, end) != header_of(identity, lines).dump()) return std::nullopt;
  std::vector<std::vector<std::int32_t>> documents;
  for (std::size_t first = 0; first < lines.size();) {
    const std::size_t last = lines.find('\n', first);
    documents.push_back(parse_json(std::string_view(lines).substr(first, last - first), path)
                            .get<std::vector<std::int32_t>>());
    first = last + 1;
  }
  return documents;
}

}  // namespace qalof::app
