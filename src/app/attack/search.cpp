// Runs the attacker on correctly classified samples, queries drawn hard samples, and keeps the
// best.
#include "app/attack/search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "app/run_journal.h"
#include "app/train/teacher.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/flag_range.h"
#include "core/hash.h"
#include "runtime/classifier.h"
#include "tasks/classification/classification.h"
#include "text/text_stream.h"

namespace qalof::app {

namespace {

// Hard samples per query batch, after which the search checks whether one of them suffices.
constexpr std::uint64_t kQueriesAtOnce = 20;

std::string text_of(const text::BpeTokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  text::TextStream stream;
  std::string text(stream.push(tokenizer.decode(ids)));
  return text.append(stream.finish());
}

// Smoothed inverse document frequencies of tokens in texts, after BERTScore.
std::vector<double> inverse_frequencies(const std::string& path, const text::TextEncoder& encoder) {
  std::vector<double> counts(encoder.tokenizer().vocab_size(), 0.0);
  double texts = 0;
  text::read_classification(path, [&](text::LabeledText&& example) {
    std::vector<std::int32_t> ids = encoder.encode_bare(example.text).ids;
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (const std::int32_t id : ids) counts[static_cast<std::size_t>(id)] += 1;
    texts += 1;
    return true;
  });
  for (double& count : counts) count = std::log((texts + 1) / (count + 1));
  return counts;
}

// Similarity weights of a text's tokens, with sum 1; empty (meaning equal ones) where all would be
// 0. Tokens of the template, at both ends of ids, have weight 0.
std::vector<float> token_weights(const std::vector<double>& frequencies,
                                 const std::vector<std::int32_t>& ids,
                                 const text::TextTemplate& around) {
  const std::span<const std::int32_t> own =
      std::span(ids).subspan(around.before.size(), ids.size() - around.size());
  const auto frequency = [&](std::int32_t id) {
    return frequencies.empty() ? 1.0 : frequencies[static_cast<std::size_t>(id)];
  };
  double sum = 0;
  for (const std::int32_t id : own) sum += frequency(id);
  const bool counts = sum > 0;
  if (around.size() == 0 && (frequencies.empty() || !counts)) return {};
  std::vector<float> weights(ids.size(), 0.0F);
  for (std::size_t i = 0; i < own.size(); ++i) {
    weights[around.before.size() + i] =
        static_cast<float>(counts ? frequency(own[i]) / sum : 1 / static_cast<double>(own.size()));
  }
  return weights;
}

// Samples use disjoint ranges of query numbers; the first of each is about the original.
std::uint64_t queries_per_sample(const AttackRunOptions& options) { return options.queries + 1; }

// The answer of the queried networks about a text.
struct Answer {
  std::size_t fooled = 0;
  double margin = std::numeric_limits<double>::infinity();  // mean; below 0: wrong

  bool better_than(const Answer& other) const {
    return fooled != other.fooled ? fooled > other.fooled : margin < other.margin;
  }
};

// Answers queries: at the attacked precision, at one drawn for each query, or at all of a set.
class Oracle {
 public:
  Oracle(const AttackTarget& target, const AttackRunOptions& options, ParallelFor& parallel)
      : target_(target), options_(options), parallel_(parallel) {}

  std::size_t networks() const { return options_.adaptive ? target_.set().size() : 1; }
  // ids: texts with the same label; query: number of the first among all queries of all samples.
  std::vector<Answer> ask(const std::vector<std::vector<std::int32_t>>& ids, std::int32_t label,
                          std::uint64_t query) {
    std::vector<runtime::Sequence> sequences;
    std::vector<std::size_t> owners;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i].empty()) continue;
      for (const runtime::Execution* execution : asked(query + i)) {
        runtime::Sequence sequence{ids[i]};
        sequence.execution = execution;
        sequences.push_back(sequence);
        owners.push_back(i);
      }
    }
    std::vector<Answer> answers(ids.size());
    if (sequences.empty()) return answers;
    runtime::class_logits(target_.own(), sequences, workspace_, logits_, parallel_);
    const std::size_t classes = logits_.size() / sequences.size();
    for (std::size_t k = 0; k < sequences.size(); ++k) {
      const auto row = std::span<const float>(logits_).subspan(k * classes, classes);
      check_finite(row, "a logit", [&] {
        return fmt::format("sample {} at {}", (query + owners[k]) / queries_per_sample(options_),
                           sequences[k].execution->description());
      });
      Answer& answer = answers[owners[k]];
      if (std::isinf(answer.margin)) answer.margin = 0;
      answer.fooled += runtime::best_class(row) != label ? 1 : 0;
      answer.margin += margin(row, label) / static_cast<double>(networks());
    }
    return answers;
  }

 private:
  std::vector<const runtime::Execution*> asked(std::uint64_t query) const {
    if (options_.adaptive) {
      std::vector<const runtime::Execution*> all;
      for (const auto& execution : target_.set()) all.push_back(execution.get());
      return all;
    }
    if (options_.score.defence == Defence::kRandom) return {&target_.drawn(query)};
    return {&target_.own()};
  }
  static double margin(std::span<const float> logits, std::int32_t label) {
    float other = -std::numeric_limits<float>::infinity();
    for (std::size_t k = 0; k < logits.size(); ++k) {
      if (static_cast<std::int32_t>(k) != label) other = std::max(other, logits[k]);
    }
    return static_cast<double>(logits[static_cast<std::size_t>(label)] - other);
  }

  const AttackTarget& target_;
  const AttackRunOptions& options_;
  ParallelFor& parallel_;
  runtime::ClassifierWorkspace workspace_;
  std::vector<float> logits_;
};

struct Sample {
  std::string text;
  std::int32_t label = 0;
  std::vector<std::int32_t> ids;
};

std::vector<Sample> read_samples(const AttackRunOptions& options, const text::TextEncoder& encoder,
                                 std::size_t classes, std::size_t max_tokens, Observer& observer) {
  observer.status("reading " + options.validation_file);
  tasks::check_classification(options.validation_file, classes);
  tasks::DataOptions data;
  data.file = options.validation_file;
  data.max_seq_length = max_tokens;
  tasks::ClassificationEncoder cutter({encoder, max_tokens, observer}, data);
  std::vector<Sample> samples;
  text::read_classification(options.validation_file, [&](text::LabeledText&& example) {
    Sample& sample = samples.emplace_back();
    sample.ids = cutter.encode(example);
    sample.label = example.label;
    sample.text = std::move(example.text);
    return samples.size() != options.num_samples;
  });
  cutter.report(observer);
  return samples;
}

Json identity_of(const AttackRunOptions& options, const ModelHandle& handle,
                 const ModelHandle& reference, const AttackTarget& target,
                 const std::vector<Sample>& samples) {
  Sha256 texts;
  for (const Sample& sample : samples) {
    const std::string line = fmt::format("{}\t{}\n", sample.label, sample.text);
    texts.update(std::as_bytes(std::span(line.data(), line.size())));
  }
  Json precisions = Json::array();
  for (const auto& execution : target.set()) precisions.push_back(execution->description());
  const train::AttackOptions& attack = options.attack;
  return {
      {"base_sha256", handle.base->source().sha256()},
      {"adapters_sha256", handle.adapters ? Json(adapters_sha256(*handle.adapters)) : Json()},
      {"precision", target.own().description()},
      {"precisions", precisions},
      {"reference_sha256", reference.base->source().sha256()},
      {"texts_sha256", texts.finish()},
      {"samples", samples.size()},
      {"max_seq_length", options.score.max_seq_length},
      {"defence", options.score.defence == Defence::kRandom ? "rpi" : "none"},
      {"adaptive", options.adaptive},
      {"expectation", train::to_string(attack.expectation)},
      {"queries", options.queries},
      {"iterations", attack.iterations},
      {"gumbel_samples", attack.gumbel_samples},
      {"initial", attack.initial},
      {"temperature", attack.temperature},
      {"learning_rate", attack.learning_rate},
      {"kappa", attack.kappa},
      {"lambda_similarity", attack.lambda_similarity},
      {"lambda_fluency", attack.lambda_fluency},
      {"idf_sha256", options.idf_file.empty() ? Json() : Json(sha256_of_file(options.idf_file))},
      {"device", options.device == train::Device::kCuda ? "cuda" : "cpu"},
      {"seed", attack.seed}};
}

Json losses_json(const train::AttackLosses& losses) {
  return {
      {"margin", losses.margin}, {"fluency", losses.fluency}, {"similarity", losses.similarity}};
}

train::AttackNetworks networks_of(const AttackRunOptions& options, const ModelHandle& handle,
                                  const ModelHandle& reference, const AttackTarget& target,
                                  const text::BpeTokenizer& tokenizer) {
  train::AttackNetworks networks;
  auto add = [&](const quant::PrecisionPlan& plan) {
    networks.classifiers.push_back({options.score.model.model, handle.base, handle.adapters, plan});
  };
  if (options.adaptive) {
    for (const auto& execution : target.set()) add(execution->plan());
  } else {
    add(target.own().plan());
  }
  networks.num_labels = runtime::num_classes(target.own());
  networks.reference = {options.reference_model, reference.base, nullptr,
                        quant::resolve(reference.plan, reference.base->target())};
  networks.allowed.assign(tokenizer.vocab_size(), true);
  for (const auto& [content, id] : tokenizer.added_tokens())
    networks.allowed[static_cast<std::size_t>(id)] = false;
  return networks;
}

// Attacks samples in their order and adds their records to the store.
class Search {
 public:
  Search(const AttackRunOptions& options, const std::vector<Sample>& samples,
         const train::AttackNetworks& networks, const AttackTarget& target,
         const text::TextEncoder& encoder, ParallelFor& parallel, Observer& observer)
      : options_(options),
        samples_(samples),
        encoder_(encoder),
        allowed_(networks.allowed),
        observer_(observer),
        oracle_(target, options, parallel),
        max_tokens_(
            std::min(options.score.max_seq_length, target.own().base().config().max_positions)) {
    if (!options.idf_file.empty()) frequencies_ = inverse_frequencies(options.idf_file, encoder);
    std::size_t longest = 1;
    for (const Sample& sample : samples) longest = std::max(longest, sample.ids.size());
    attacker_ = std::make_unique<train::Attacker>(networks, options.attack, options.device, longest,
                                                  parallel);
  }

  /// Attacks all samples after the first `done`, of which so many were fooled. take gets their
  /// records in order. The processes of a group each attack a part of them at a time.
  void run(std::size_t done, std::uint64_t fooled, ProcessGroup* group,
           const std::function<void(const AttackRecord&)>& take) {
    fooled_ = fooled;
    progress(done, 0);
    while (done < samples_.size()) {
      std::vector<AttackRecord> records;
      if (group == nullptr)
        records = attack_some(done, samples_.size());
      else
        records = attack_shared(done, *group);
      for (const AttackRecord& record : records) {
        fooled_ += record.success ? 1 : 0;
        take(record);
      }
      done += records.size();
      progress(done, options_.attack.iterations);
    }
  }

 private:
  // Batches the next correctly classified samples; wrong ones between them need no attack.
  std::vector<AttackRecord> attack_some(std::size_t first, std::size_t end) {
    std::vector<AttackRecord> records;
    std::vector<train::AttackText> texts;
    for (std::size_t i = first; i < end && texts.size() < options_.batch_size; ++i) {
      const Sample& sample = samples_[i];
      AttackRecord& record = records.emplace_back();
      record.index = i;
      record.label = sample.label;
      record.original = record.text = sample.text;
      record.fooled = share(oracle_.ask({sample.ids}, sample.label, query(i, 0)).front());
      record.attacked = record.fooled < 1;
      if (!record.attacked) continue;
      texts.push_back({i, sample.ids, sample.label,
                       token_weights(frequencies_, sample.ids, encoder_.text_template()),
                       kept_tokens(sample.ids)});
    }
    attack(texts, records, first);
    return records;
  }
  std::vector<AttackRecord> attack_shared(std::size_t done, ProcessGroup& group) {
    const std::size_t each = options_.batch_size;
    const std::vector<std::string> parts = share_items(&group, group.size(), [&](std::size_t rank) {
      const std::size_t first = std::min(done + rank * each, samples_.size());
      Json json = Json::array();
      for (const AttackRecord& record : attack_some(first, std::min(first + each, samples_.size())))
        json.push_back(to_json(record));
      return dump_json(json, options_.validation_file);
    });
    std::vector<AttackRecord> records;
    for (const std::string& part : parts) {
      for (const Json& json : Json::parse(part))
        records.push_back(record_of(json, "another process"));
    }
    return records;
  }
  double share(const Answer& answer) const {
    return static_cast<double>(answer.fooled) / static_cast<double>(oracle_.networks());
  }
  // Tokens that the search may not use are kept in place: the template's and special ones.
  std::vector<bool> kept_tokens(const std::vector<std::int32_t>& ids) const {
    const text::TextTemplate& around = encoder_.text_template();
    std::vector<bool> kept(ids.size());
    for (std::size_t t = 0; t < ids.size(); ++t) {
      kept[t] = t < around.before.size() || t >= ids.size() - around.after.size() ||
                !allowed_[static_cast<std::size_t>(ids[t])];
    }
    return kept;
  }
  // The text of a hard sample, without the template's tokens.
  std::string text_of_sample(const std::vector<std::int32_t>& ids) const {
    const text::TextTemplate& around = encoder_.text_template();
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(around.before.size());
    const auto last = ids.end() - static_cast<std::ptrdiff_t>(around.after.size());
    return text_of(encoder_.tokenizer(), {first, last});
  }
  std::uint64_t query(std::size_t sample, std::uint64_t number) const {
    return sample * queries_per_sample(options_) + number;
  }
  void progress(std::size_t done, std::size_t iteration) {
    observer_.progress("samples", done, samples_.size(),
                       fmt::format("{} fooled, iteration {}", fooled_, iteration));
  }

  void attack(const std::vector<train::AttackText>& texts, std::vector<AttackRecord>& records,
              std::size_t done) {
    if (texts.empty()) return;
    const std::vector<train::AttackedText> attacked =
        attacker_->attack(texts, [&](std::size_t iteration) {
          progress(done, iteration);
          if (options_.should_stop && options_.should_stop())
            fail(ErrorKind::kInterrupted,
                 "stopped after {} samples; the same command resumes after them", done);
        });
    for (std::size_t i = 0; i < texts.size(); ++i) {
      AttackRecord& record = records[texts[i].index - done];
      record.iterations = options_.attack.iterations;
      record.losses = {{"first", losses_json(attacked[i].first)},
                       {"last", losses_json(attacked[i].last)}};
      keep_best(texts[i], attacked[i].distribution, record);
    }
  }

  void keep_best(const train::AttackText& text, const train::TokenDistribution& distribution,
                 AttackRecord& record) {
    Answer best;
    for (std::uint64_t first = 0; first < options_.queries && !record.success;
         first += kQueriesAtOnce) {
      const std::uint64_t end = std::min(options_.queries, first + kQueriesAtOnce);
      std::vector<std::string> drawn;
      std::vector<std::vector<std::int32_t>> ids;
      for (std::uint64_t number = first; number < end; ++number) {
        drawn.push_back(text_of_sample(attacker_->hard_sample(text, distribution, number)));
        ids.push_back(encoder_.encode_cut(drawn.back(), max_tokens_));
      }
      const std::vector<Answer> answers =
          oracle_.ask(ids, text.label, query(text.index, first + 1));
      for (std::size_t k = 0; k < answers.size() && !record.success; ++k) {
        ++record.queries;
        if (ids[k].empty() || !answers[k].better_than(best)) continue;
        best = answers[k];
        record.text = drawn[k];
        record.fooled = share(best);
        record.success = best.fooled == oracle_.networks();
      }
    }
  }

  const AttackRunOptions& options_;
  const std::vector<Sample>& samples_;
  const text::TextEncoder& encoder_;
  std::vector<bool> allowed_;  // [tokens] that the search may use
  Observer& observer_;
  Oracle oracle_;
  std::size_t max_tokens_;
  std::vector<double> frequencies_;
  std::unique_ptr<train::Attacker> attacker_;
  std::uint64_t fooled_ = 0;
};

void check_options(const AttackRunOptions& options) {
  for (const auto& [value, flag] : {std::pair{&options.reference_model, "--reference_model"},
                                    {&options.validation_file, "--validation_file"},
                                    {&options.score.output_dir, "--output_dir"}}) {
    QALOF_CHECK(!value->empty(), ErrorKind::kUsage, "{} is missing", flag);
  }
  QALOF_CHECK(!options.adaptive || options.score.precisions.size() >= 2, ErrorKind::kUsage,
              "--adaptive: found {} --precisions, expected at least 2",
              options.score.precisions.size());
  for (const std::string* path : {&options.validation_file, &options.idf_file}) {
    QALOF_CHECK(path->empty() || path_exists(*path), ErrorKind::kNotFound, "{}: no such file",
                *path);
  }
  check_count("--queries", options.queries);
  check_count("--batch_size", options.batch_size);
  check_attack_scores(options.score);
  train::check_attack(options.attack);
}

}  // namespace

AttackScores run_attack(const AttackRunOptions& options, const Processes& processes) {
  check_options(options);
  Observer& observer = processes.observer();
  ModelOptions model = options.score.model, reference_options;
  model.shared_memory = reference_options.shared_memory = processes.shared_memory();
  const ModelHandle handle = open_model(model, observer);
  reference_options.model = options.reference_model;
  const ModelHandle reference = open_model(reference_options, observer);
  QALOF_CHECK(
      options.attack.lambda_fluency == 0 ||
          reference.base->config().lm_head == model::LmHead::kTied,
      ErrorKind::kUnsupported,
      "--reference_model {}: its LM head is not its token embedding, as the fluency of texts "
      "needs it; expected a model with a tied head, or --lambda_fluency 0",
      options.reference_model);
  const text::TextEncoder encoder = open_encoder(handle, observer);
  check_same_tokens("--reference_model " + options.reference_model, open_tokenizer(reference),
                    encoder.tokenizer());
  ThreadPool pool(choose_threads(options.score.model.threads));
  const AttackTarget target(handle, options.score, pool, observer);
  const std::size_t max_tokens =
      std::min({options.score.max_seq_length, handle.base->config().max_positions,
                reference.base->config().max_positions});
  const std::vector<Sample> samples =
      read_samples(options, encoder, runtime::num_classes(target.own()), max_tokens, observer);

  const train::AttackNetworks networks =
      networks_of(options, handle, reference, target, encoder.tokenizer());
  Search search(options, samples, networks, target, encoder, pool, observer);
  Json identity = identity_of(options, handle, reference, target, samples);
  if (!encoder.is_plain()) identity["special_tokens"] = encoder.description();
  processes.check_same(identity, member_difference);
  if (!processes.lead()) {
    const std::size_t resumed = std::stoul(processes.of_leader({}));
    search.run(resumed, 0, processes.group(), [](const AttackRecord& /*record*/) {});
    processes.wait_for_all();
    return {};
  }
  const NewDirectory made(options.score.output_dir);
  const DirectoryLock lock(options.score.output_dir);
  AttackStore store(options.score.output_dir, identity, options.overwrite_output_dir);
  const std::size_t resumed = store.records().size();
  if (resumed > 0) observer.info(fmt::format("resuming after {} samples", resumed));
  processes.of_leader([&] { return std::to_string(resumed); });
  std::uint64_t fooled = 0;
  for (const AttackRecord& record : store.records()) fooled += record.success ? 1 : 0;
  const auto start = std::chrono::steady_clock::now();
  search.run(resumed, fooled, processes.group(),
             [&](const AttackRecord& record) { store.add(record); });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  AttackScores scores =
      score_attack(target, encoder, options.score, store.records(), pool, observer);
  write_scores(scores, options.score.output_dir);
  scores.output_dir = options.score.output_dir;
  if (resumed < samples.size())
    scores.seconds_per_sample = seconds / static_cast<double>(samples.size() - resumed);
  processes.wait_for_all();
  return scores;
}

}  // namespace qalof::app
