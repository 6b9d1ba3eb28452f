// State of a run as named tensors, and the identity of a run as JSON. See checkpoint.h.
#include "app/train/checkpoint.h"

#include <fmt/ranges.h>

#include <cstring>
#include <set>

#include "app/train/data.h"
#include "app/train/teacher.h"
#include "core/error.h"
#include "core/file.h"
#include "core/format_version.h"
#include "core/hash.h"
#include "io/safetensors.h"

namespace qalof::app {

namespace {

constexpr const char* kStateKey = "qalof.state";
constexpr int kStateVersion = 2;
constexpr std::size_t kStepColumns = 16, kPassColumns = 8;

// Rows of doubles: exact for every number of a record, and for NaN, which JSON has not.
class Table {
 public:
  explicit Table(std::size_t columns) : columns_(columns) {}
  void add(std::initializer_list<double> row) { values_.insert(values_.end(), row); }
  std::size_t rows() const { return values_.size() / columns_; }
  io::TensorToWrite tensor(const std::string& name) const {
    return {name, io::DType::kF64, {rows(), columns_}, std::as_bytes(std::span(values_))};
  }

 private:
  std::size_t columns_;
  std::vector<double> values_;
};

const io::TensorView& tensor_of(const io::SafetensorsFile& file, const std::string& name,
                                io::DType dtype) {
  const auto found = file.tensors().find(name);
  QALOF_CHECK(found != file.tensors().end() && found->second.dtype == dtype,
              ErrorKind::kCorruptFile, "{}: tensor {} is missing or not {}", file.path(), name,
              io::to_string(dtype));
  return found->second;
}

// Reads a table row by row, value by value.
class TableReader {
 public:
  TableReader(const io::SafetensorsFile& file, const std::string& name, std::size_t columns)
      : path_(file.path()) {
    const io::TensorView& view = tensor_of(file, name, io::DType::kF64);
    QALOF_CHECK(view.shape.size() == 2 && view.shape[1] == columns, ErrorKind::kCorruptFile,
                "{}: tensor {} does not have {} columns", path_, name, columns);
    values_.resize(view.num_elements());
    if (!values_.empty()) std::memcpy(values_.data(), view.bytes.data(), view.bytes.size());
  }
  bool done() const { return next_ == values_.size(); }
  double number() {
    QALOF_CHECK(!done(), ErrorKind::kCorruptFile, "{}: its history is too short", path_);
    return values_[next_++];
  }
  std::uint64_t count(std::uint64_t below = std::uint64_t{1} << 53) {
    const double value = number();
    QALOF_CHECK(value >= 0 && value < static_cast<double>(below) &&
                    value == static_cast<double>(static_cast<std::uint64_t>(value)),
                ErrorKind::kCorruptFile, "{}: its history holds {}, expected a count below {}",
                path_, value, below);
    return static_cast<std::uint64_t>(value);
  }

 private:
  std::string path_;
  std::vector<double> values_;
  std::size_t next_ = 0;
};

// Names by number, in the order they first appear.
class Names {
 public:
  double number(const std::string& name) {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == name) return static_cast<double>(i);
    }
    names_.push_back(name);
    return static_cast<double>(names_.size() - 1);
  }
  const std::vector<std::string>& all() const { return names_; }

 private:
  std::vector<std::string> names_;
};

std::vector<std::string> names_of(const Json& json, const char* key, const std::string& where) {
  QALOF_CHECK(json.contains(key) && json[key].is_array(), ErrorKind::kCorruptFile,
              "{}: {} is missing or not a list", where, key);
  std::vector<std::string> names;
  for (const Json& name : json[key]) {
    QALOF_CHECK(name.is_string(), ErrorKind::kCorruptFile, "{}: {} holds {}, expected names", where,
                key, name.type_name());
    names.push_back(name.get<std::string>());
  }
  return names;
}

train::StepRecord read_record(TableReader& steps, TableReader& passes,
                              const std::vector<std::string>& networks) {
  train::StepRecord record;
  record.step = static_cast<std::int64_t>(steps.count());
  record.total_steps = static_cast<std::int64_t>(steps.count());
  for (double* number : {&record.loss, &record.hard_loss, &record.distillation, &record.hidden_loss,
                         &record.contrastive_loss, &record.grad_norm, &record.learning_rate}) {
    *number = steps.number();
  }
  record.tokens = steps.count();
  for (double* number : {&record.times.forward, &record.times.backward, &record.times.optimizer}) {
    *number = steps.number();
  }
  record.skipped = steps.count(2) == 1;
  for (std::uint64_t left = steps.count(); left > 0; --left) {
    train::PassRecord& pass = record.passes.emplace_back();
    pass.network = networks[passes.count(networks.size())];
    for (double* number : {&pass.loss, &pass.hard_loss, &pass.distillation, &pass.hidden_loss,
                           &pass.contrastive_loss, &pass.accuracy}) {
      *number = passes.number();
    }
    pass.tokens = passes.count();
  }
  return record;
}

io::TensorToWrite float_tensor(const std::string& name, const std::vector<float>& values,
                               std::vector<std::size_t> shape) {
  return {name, io::DType::kF32, std::move(shape), std::as_bytes(std::span(values))};
}

std::vector<float> floats_of(const io::TensorView& view) {
  std::vector<float> values(view.num_elements());
  io::copy_as_f32(view, values);
  return values;
}

// Over the files that texts are encoded by: a tokenizer.json needs no other.
std::string tokenizer_sha256(const ModelHandle& handle) {
  Sha256 hash;
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"}) {
    if (!handle.packed_files.empty()) {
      const auto found = handle.packed_files.find(name);
      if (found == handle.packed_files.end()) continue;
      hash.update(std::as_bytes(std::span(found->second)));
    } else {
      const std::string path = fmt::format("{}/{}", handle.base->path(), name);
      if (!path_exists(path)) continue;
      hash.update(MappedFile::open(path).bytes());
    }
    if (name == std::string_view("tokenizer.json")) break;
  }
  return hash.finish();
}

}  // namespace

Json run_identity(const TrainRunOptions& options, const ModelHandle& handle,
                  const text::TextEncoder& encoder) {
  Json identity = {
      {"flags", options.flags},
      {"plan", options.train.plan ? quant::to_json(handle.plan) : Json()},
      {"base_sha256", handle.base->source().sha256()},
      {"teacher", teacher_identity(options)},
      {"start_sha256",
       options.train.start != nullptr ? Json(adapters_sha256(*options.train.start)) : Json()},
      {"train_file_sha256",
       options.train_file == kTrainFileSelf ? kTrainFileSelf : sha256_of_file(options.train_file)},
      {"tokenizer_sha256", tokenizer_sha256(handle)}};
  Observer silent;
  task_of(options).identify_windows({encoder, handle.base->config().max_positions, silent},
                                    identity);
  return identity;
}

std::string identity_difference(const Json& there, const Json& here) {
  std::vector<std::string> differences;
  const Json empty = Json::object();
  auto member = [&](const Json& json, const std::string& key) {
    return json.is_object() && json.contains(key) ? json[key] : Json();
  };
  const Json flags_there = member(there, "flags"), flags_here = member(here, "flags");
  std::set<std::string> names;
  for (const Json* flags : {&flags_there, &flags_here}) {
    if (!flags->is_object()) continue;
    for (const auto& [name, value] : flags->items()) names.insert(name);
  }
  for (const std::string& name : names) {
    const Json a = member(flags_there, name), b = member(flags_here, name);
    if (a != b)
      differences.push_back(fmt::format("{} was {} and is now {}", name, a.dump(), b.dump()));
  }
  for (const auto& [key, what] : {std::pair{"base_sha256", "the base model's weights differ"},
                                  {"train_file_sha256", "the contents of --train_file differ"},
                                  {"teacher", "the teacher differs"},
                                  {"start_sha256", "the adapters to start from differ"},
                                  {"plan", "the precision plan differs"},
                                  {"special_tokens", "the special tokens of texts differ"}}) {
    if (member(there, key) != member(here, key)) differences.emplace_back(what);
  }
  // Runs from before these were looked at do not hold them.
  for (const auto& [key, what] : {std::pair{"tokenizer_sha256", "the tokenizer differs"},
                                  {"mix_sha256", "the contents of --mix differ"},
                                  {"chat_template", "the chat template differs"}}) {
    if (there.is_object() && there.contains(key) && there[key] != member(here, key))
      differences.emplace_back(what);
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

Json to_json(const train::RangeTest& test) {
  Json probes = Json::array();
  for (const train::RangeProbe& probe : test.probes) {
    probes.push_back(
        {{"bits", probe.bits}, {"first_loss", probe.first_loss}, {"last_loss", probe.last_loss}});
  }
  return {{"min_bits", test.min_bits}, {"probes", probes}};
}

train::RangeTest read_range_test(const Json& json, const std::string& where) {
  const auto bits = [&](const Json& object, const char* key) {
    return static_cast<int>(json_int(object, key, where, 2, 8));
  };
  train::RangeTest test;
  test.min_bits = bits(json, "min_bits");
  QALOF_CHECK(json.contains("probes") && json["probes"].is_array(), ErrorKind::kBadInput,
              "{}: probes is missing or not a list", where);
  for (const Json& probe : json["probes"]) {
    test.probes.push_back({bits(probe, "bits"), json_number(probe, "first_loss", where),
                           json_number(probe, "last_loss", where)});
  }
  return test;
}

void write_run_state(const std::string& path, const train::RunState& state) {
  Table steps(kStepColumns), passes(kPassColumns);
  Names phases, networks;
  for (std::size_t phase = 0; phase < state.steps.size(); ++phase) {
    for (const train::StepRecord& record : state.steps[phase]) {
      steps.add({static_cast<double>(phase), static_cast<double>(record.step),
                 static_cast<double>(record.total_steps), record.loss, record.hard_loss,
                 record.distillation, record.hidden_loss, record.contrastive_loss, record.grad_norm,
                 record.learning_rate, static_cast<double>(record.tokens), record.times.forward,
                 record.times.backward, record.times.optimizer + record.times.exchange,
                 record.skipped ? 1.0 : 0.0, static_cast<double>(record.passes.size())});
      for (const train::PassRecord& pass : record.passes) {
        passes.add({networks.number(pass.network), pass.loss, pass.hard_loss, pass.distillation,
                    pass.hidden_loss, pass.contrastive_loss, pass.accuracy,
                    static_cast<double>(pass.tokens)});
      }
    }
  }
  Json phase_names = Json::array();
  for (const auto& phase : state.steps) {
    phase_names.push_back(phase.empty() ? "" : phase.front().phase);
  }
  const Json header = {{"format_version", kStateVersion},
                       {"phases", phase_names},
                       {"networks", networks.all()},
                       {"optimizer_steps", state.optimizer.steps}};
  std::vector<io::TensorToWrite> tensors = {
      steps.tensor("history.steps"), passes.tensor("history.passes"),
      float_tensor("values", state.values, {state.values.size()}),
      float_tensor("optimizer.mean", state.optimizer.mean, {state.optimizer.mean.size()}),
      float_tensor("optimizer.square", state.optimizer.square, {state.optimizer.square.size()})};
  for (const auto& [name, tensor] : state.finished) {
    tensors.push_back(float_tensor("finished." + name, tensor.values, tensor.shape));
  }
  io::write_safetensors(path, tensors, {{kStateKey, dump_json(header, path)}});
}

train::RunState read_run_state(const std::string& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const auto found = file.metadata().find(kStateKey);
  QALOF_CHECK(found != file.metadata().end(), ErrorKind::kCorruptFile,
              "{}: its metadata has no {}, so it is no training state", path, kStateKey);
  const std::string where = fmt::format("{}: {}", path, kStateKey);
  const Json header = parse_json(found->second, where);
  read_format_version(header, where, kStateVersion);
  const std::vector<std::string> phases = names_of(header, "phases", where);
  const std::vector<std::string> networks = names_of(header, "networks", where);
  train::RunState state;
  state.steps.resize(phases.size());
  QALOF_CHECK(!phases.empty(), ErrorKind::kCorruptFile, "{}: it has no phases", where);
  TableReader steps(file, "history.steps", kStepColumns);
  TableReader passes(file, "history.passes", kPassColumns);
  while (!steps.done()) {
    const std::size_t phase = steps.count(phases.size());
    state.steps[phase].push_back(read_record(steps, passes, networks));
    state.steps[phase].back().phase = phases[phase];
  }
  state.values = floats_of(tensor_of(file, "values", io::DType::kF32));
  state.optimizer.mean = floats_of(tensor_of(file, "optimizer.mean", io::DType::kF32));
  state.optimizer.square = floats_of(tensor_of(file, "optimizer.square", io::DType::kF32));
  QALOF_CHECK(header.contains("optimizer_steps") && header["optimizer_steps"].is_array(),
              ErrorKind::kCorruptFile, "{}: optimizer_steps is missing or not a list", where);
  for (const Json& count : header["optimizer_steps"]) {
    QALOF_CHECK(count.is_number_integer(), ErrorKind::kCorruptFile,
                "{}: optimizer_steps holds {}, expected integers", where, count.dump());
    state.optimizer.steps.push_back(count.get<std::int64_t>());
  }
  constexpr std::string_view kFinished = "finished.";
  for (const auto& [name, view] : file.tensors()) {
    if (!name.starts_with(kFinished)) continue;
    state.finished[name.substr(kFinished.size())] = {view.shape, floats_of(view)};
  }
  return state;
}

}  // namespace qalof::app
