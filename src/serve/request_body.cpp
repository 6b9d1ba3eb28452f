// Reads the fields of request bodies one by one and refuses what is left over.
#include "serve/request_body.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "quant/plan.h"

namespace qalof::serve {

namespace {

// Bytes of a tree beyond its text: a megabyte of "[[],[],..." must not become a hundred.
constexpr std::size_t kMaxTreeBytes = std::size_t{32} << 20;
constexpr std::size_t kMaxUserBytes = 512;
constexpr std::size_t kMaxMessages = 4096;
constexpr std::size_t kMaxNumber = std::size_t{1} << 24;

// The members of a body. Each getter marks its field as known; finish refuses the others.
class Fields {
 public:
  Fields(std::string_view body, const Limits& limits) {
    JsonLimits json;
    json.max_depth = limits.json_depth;
    json.max_extra_bytes = kMaxTreeBytes;
    json.max_token_bytes = limits.body;
    try {
      object_ = parse_json(body, "the body", json);
    } catch (const Error& error) {
      throw ApiError(400, error.what(), "", "invalid_json");
    }
    if (!object_.is_object())
      throw ApiError(400, fmt::format("the body: found {}, expected an object", kind(object_)));
  }
  explicit Fields(Json object, std::string where)
      : object_(std::move(object)), where_(std::move(where) + ".") {}

  [[noreturn]] void refuse(const std::string& name, const std::string& found,
                           const std::string& expected) const {
    throw ApiError(400, fmt::format("{}{}: found {}, expected {}", where_, name, found, expected),
                   where_ + name);
  }

  /// Null where the field is missing or null.
  const Json& value(const std::string& name) {
    known_.insert(name);
    static const Json null;
    const auto found = object_.find(name);
    return found == object_.end() ? null : *found;
  }
  bool has(const std::string& name) { return !value(name).is_null(); }

  std::string text(const std::string& name, const std::string& otherwise = "") {
    const Json& found = value(name);
    if (found.is_null()) return otherwise;
    if (!found.is_string()) refuse(name, kind(found), "a string");
    return checked(name, found.get<std::string>());
  }
  std::string required_text(const std::string& name) {
    if (!has(name)) throw ApiError(400, fmt::format("{}{} is missing", where_, name), name);
    return text(name);
  }
  bool boolean(const std::string& name, bool otherwise) {
    const Json& found = value(name);
    if (found.is_null()) return otherwise;
    if (!found.is_boolean()) refuse(name, kind(found), "true or false");
    return found.get<bool>();
  }
  std::optional<std::int64_t> integer(const std::string& name, std::int64_t min, std::int64_t max) {
    const Json& found = value(name);
    if (found.is_null()) return std::nullopt;
    if (!found.is_number_integer()) refuse(name, kind(found), "an integer");
    const auto number = found.get<std::int64_t>();
    if (number < min || number > max)
      refuse(name, fmt::format("{}", number), fmt::format("{} to {}", min, max));
    return number;
  }
  std::optional<std::size_t> count(const std::string& name, std::size_t min, std::size_t max) {
    const auto found =
        integer(name, static_cast<std::int64_t>(min), static_cast<std::int64_t>(max));
    if (!found) return std::nullopt;
    return static_cast<std::size_t>(*found);
  }
  double number(const std::string& name, double min, double max, double otherwise) {
    const Json& found = value(name);
    if (found.is_null()) return otherwise;
    if (!found.is_number()) refuse(name, kind(found), "a number");
    const double number = found.get<double>();
    if (!(number >= min && number <= max))
      refuse(name, fmt::format("{}", number), fmt::format("{} to {}", min, max));
    return number;
  }
  std::vector<std::int32_t> ids(const std::string& name, const Json& list) const {
    std::vector<std::int32_t> result;
    result.reserve(list.size());
    for (const Json& item : list) {
      if (!item.is_number_integer()) refuse(name, "a list with " + kind(item), "token ids");
      const auto id = item.get<std::int64_t>();
      if (id < 0 || id > std::numeric_limits<std::int32_t>::max())
        refuse(name, fmt::format("the token id {}", id), "ids of the vocabulary");
      result.push_back(static_cast<std::int32_t>(id));
    }
    return result;
  }
  std::vector<std::string> texts(const std::string& name, const Json& list) const {
    std::vector<std::string> result;
    result.reserve(list.size());
    for (const Json& item : list) {
      if (!item.is_string()) refuse(name, "a list with " + kind(item), "strings");
      result.push_back(checked(name, item.get<std::string>()));
    }
    return result;
  }
  /// Fields of OpenAI's API that are not implemented: refused unless their value is one of those
  /// that change nothing.
  void ignore(const std::string& name, const std::vector<Json>& harmless = {}) {
    const Json& found = value(name);
    if (found.is_null()) return;
    if (std::find(harmless.begin(), harmless.end(), found) != harmless.end()) return;
    throw ApiError(400, fmt::format("{}{} is not supported", where_, name), where_ + name,
                   "unsupported_parameter");
  }
  void finish() const {
    for (const auto& [name, unused] : object_.items()) {
      if (known_.contains(name)) continue;
      const std::string shown = printable(name.substr(0, 64));
      throw ApiError(
          400,
          fmt::format("Unrecognized request argument supplied: {}{} (nearest known: {})", where_,
                      shown, quant::nearest_name(shown, {known_.begin(), known_.end()})),
          shown, "unknown_parameter");
    }
  }

  static std::string kind(const Json& value) {
    if (value.is_null()) return "null";
    if (value.is_string()) return "a string";
    if (value.is_boolean()) return "a boolean";
    if (value.is_number_integer()) return "an integer";
    if (value.is_number()) return "a number";
    return value.is_array() ? "a list" : "an object";
  }

 private:
  std::string checked(const std::string& name, std::string text) const {
    if (text.find('\0') != std::string::npos)
      refuse(name, "a text with a NUL character", "a text without");
    return text;
  }

  Json object_;
  std::string where_;
  std::set<std::string> known_;
};

VariantChoice read_choice(Fields& fields) {
  VariantChoice choice;
  choice.model = fields.text("model");
  choice.precision = fields.value("precision");
  if (const auto bits = fields.integer("kv_bits", 2, 32)) choice.kv_bits = static_cast<int>(*bits);
  if (const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                       std::numeric_limits<std::int64_t>::max()))
    choice.seed = static_cast<std::uint64_t>(*seed);
  return choice;
}

void read_stop(Fields& fields, const Limits& limits, GenerationRequest& request) {
  const Json& stop = fields.value("stop");
  if (stop.is_string()) {
    request.stop = {fields.text("stop")};
  } else if (stop.is_array()) {
    request.stop = fields.texts("stop", stop);
  } else if (!stop.is_null()) {
    fields.refuse("stop", Fields::kind(stop), "a string or a list of strings");
  }
  if (request.stop.size() > limits.stop_strings) {
    fields.refuse("stop", fmt::format("{} strings", request.stop.size()),
                  fmt::format("at most {}", limits.stop_strings));
  }
  for (const std::string& text : request.stop) {
    if (text.empty() || text.size() > limits.stop_bytes) {
      fields.refuse("stop", fmt::format("a string of {} bytes", text.size()),
                    fmt::format("1 to {}", limits.stop_bytes));
    }
  }
}

void read_logit_bias(Fields& fields, const Limits& limits, GenerationRequest& request) {
  const Json& biases = fields.value("logit_bias");
  if (biases.is_null()) return;
  if (!biases.is_object() || biases.size() > limits.logit_biases) {
    fields.refuse(
        "logit_bias",
        biases.is_object() ? fmt::format("{} tokens", biases.size()) : Fields::kind(biases),
        fmt::format("an object of at most {} token ids", limits.logit_biases));
  }
  for (const auto& [key, value] : biases.items()) {
    const bool is_id =
        !key.empty() && key.size() <= 9 &&
        std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!is_id)
      fields.refuse("logit_bias", "\"" + printable(key.substr(0, 20)) + "\"", "token ids");
    if (!value.is_number()) fields.refuse("logit_bias", Fields::kind(value), "numbers");
    const double bias = value.get<double>();
    if (!(bias >= -100 && bias <= 100))
      fields.refuse("logit_bias", fmt::format("{}", bias), "-100 to 100");
    request.logit_bias.emplace_back(std::stoi(key), static_cast<float>(bias));
  }
}

void read_generation(Fields& fields, const Limits& limits, GenerationRequest& request) {
  request.choice = read_choice(fields);
  request.temperature = fields.number("temperature", 0, 2, 1);
  request.top_p = fields.number("top_p", 0, 1, 1);
  if (request.top_p == 0) fields.refuse("top_p", "0", "more than 0 and at most 1");
  request.top_k = fields.count("top_k", 0, kMaxNumber).value_or(0);
  request.presence_penalty = fields.number("presence_penalty", -2, 2, 0);
  request.frequency_penalty = fields.number("frequency_penalty", -2, 2, 0);
  request.n = fields.count("n", 1, limits.choices).value_or(1);
  request.stream = fields.boolean("stream", false);
  request.ignore_eos = fields.boolean("ignore_eos", false);
  read_stop(fields, limits, request);
  read_logit_bias(fields, limits, request);
  if (const Json& options = fields.value("stream_options"); !options.is_null()) {
    if (!options.is_object()) fields.refuse("stream_options", Fields::kind(options), "an object");
    if (!request.stream) fields.refuse("stream_options", "it", "\"stream\": true beside it");
    Fields inner(options, "stream_options");
    request.include_usage = inner.boolean("include_usage", false);
    inner.ignore("include_obfuscation", {false});
    inner.finish();
  }
  if (fields.text("user").size() > kMaxUserBytes)
    fields.refuse("user", "a longer text", fmt::format("at most {} bytes", kMaxUserBytes));
  // Sent by clients, without a meaning here.
  fields.ignore("store", {false});
  fields.ignore("metadata", {Json::object()});
}

std::vector<Prompt> read_prompts(Fields& fields, const Limits& limits) {
  const Json& prompt = fields.value("prompt");
  std::vector<Prompt> prompts;
  if (prompt.is_string()) {
    prompts.emplace_back(fields.text("prompt"));
  } else if (prompt.is_array() && !prompt.empty()) {
    if (prompt.front().is_number()) {
      prompts.emplace_back(fields.ids("prompt", prompt));
    } else if (prompt.front().is_array()) {
      if (prompt.size() > limits.choices)
        fields.refuse("prompt", fmt::format("{} prompts", prompt.size()),
                      fmt::format("at most {}", limits.choices));
      for (const Json& list : prompt) {
        if (!list.is_array()) fields.refuse("prompt", "a mixed list", "lists of token ids");
        prompts.emplace_back(fields.ids("prompt", list));
      }
    } else {
      if (prompt.size() > limits.choices)
        fields.refuse("prompt", fmt::format("{} prompts", prompt.size()),
                      fmt::format("at most {}", limits.choices));
      for (std::string& text : fields.texts("prompt", prompt))
        prompts.emplace_back(std::move(text));
    }
  } else if (prompt.is_null()) {
    throw ApiError(400, "prompt is missing", "prompt");
  } else {
    fields.refuse("prompt", prompt.is_array() ? "an empty list" : Fields::kind(prompt),
                  "a string, a list of strings, token ids, or a list of lists of token ids");
  }
  for (const Prompt& one : prompts) {
    const auto* list = std::get_if<std::vector<std::int32_t>>(&one);
    if (list != nullptr && list->empty()) fields.refuse("prompt", "an empty list", "token ids");
  }
  return prompts;
}

std::vector<text::ChatMessage> read_messages(Fields& fields) {
  const Json& list = fields.value("messages");
  if (!list.is_array() || list.empty() || list.size() > kMaxMessages) {
    fields.refuse("messages",
                  list.is_array() ? fmt::format("{} messages", list.size()) : Fields::kind(list),
                  fmt::format("a list of 1 to {}", kMaxMessages));
  }
  std::vector<text::ChatMessage> messages;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    if (!list[i].is_object())
      throw ApiError(400,
                     fmt::format("{}: found {}, expected an object", where, Fields::kind(list[i])),
                     where);
    Fields fields_of(list[i], where);
    text::ChatMessage message;
    message.role = fields_of.required_text("role");
    const Json& content = fields_of.value("content");
    if (content.is_array()) {  // parts, of which texts alone are known here
      for (std::size_t p = 0; p < content.size(); ++p) {
        const std::string part_where = fmt::format("{}.content[{}]", where, p);
        if (!content[p].is_object())
          throw ApiError(400, part_where + ": expected an object", part_where);
        Fields part(content[p], part_where);
        const std::string type = part.required_text("type");
        if (type != "text") part.refuse("type", printable(type.substr(0, 40)), "\"text\"");
        message.content += part.required_text("text");
        part.finish();
      }
    } else {
      message.content = fields_of.required_text("content");
    }
    fields_of.text("name");
    fields_of.ignore("refusal");
    fields_of.ignore("tool_calls", {Json::array()});
    fields_of.ignore("function_call");
    fields_of.ignore("tool_call_id");
    fields_of.ignore("audio");
    fields_of.ignore("annotations", {Json::array()});
    fields_of.finish();
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace

CompletionRequest parse_completion(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  CompletionRequest request;
  read_generation(fields, limits, request);
  request.prompts = read_prompts(fields, limits);
  request.echo = fields.boolean("echo", false);
  request.max_tokens = fields.count("max_tokens", 0, kMaxNumber);
  if (request.max_tokens == std::size_t{0} && !request.echo)
    fields.refuse("max_tokens", "0", "at least 1, or \"echo\": true");
  request.logprobs = fields.count("logprobs", 0, limits.logprobs);
  if (request.echo && request.stream && request.logprobs)
    fields.refuse("echo", "true", "false in a stream with logprobs");
  const auto best_of = fields.count("best_of", 1, limits.choices);
  if (best_of && *best_of != request.n)
    fields.refuse("best_of", fmt::format("{}", *best_of), "the value of n");
  fields.ignore("suffix", {""});
  fields.finish();
  if (request.n * request.prompts.size() > limits.choices) {
    fields.refuse("n", fmt::format("{} for each of {} prompts", request.n, request.prompts.size()),
                  fmt::format("at most {} choices", limits.choices));
  }
  return request;
}

ChatRequest parse_chat(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  ChatRequest request;
  read_generation(fields, limits, request);
  request.messages = read_messages(fields);
  const auto old_name = fields.count("max_tokens", 1, kMaxNumber);
  request.max_tokens = fields.count("max_completion_tokens", 1, kMaxNumber);
  if (!request.max_tokens) request.max_tokens = old_name;
  request.add_generation_prompt = fields.boolean("add_generation_prompt", true);
  const auto top = fields.count("top_logprobs", 0, limits.logprobs);
  if (fields.boolean("logprobs", false)) request.logprobs = top.value_or(0);
  if (top && !request.logprobs) fields.refuse("top_logprobs", "it", "\"logprobs\": true beside it");
  fields.ignore("tools", {Json::array()});
  fields.ignore("tool_choice", {"none", "auto"});
  fields.ignore("parallel_tool_calls", {true, false});
  fields.ignore("functions", {Json::array()});
  fields.ignore("function_call", {"none", "auto"});
  fields.ignore("response_format", {Json{{"type", "text"}}});
  fields.ignore("modalities", {Json::array({"text"})});
  fields.ignore("audio");
  fields.ignore("prediction");
  fields.ignore("reasoning_effort");
  fields.ignore("service_tier", {"auto", "default"});
  fields.ignore("verbosity");
  fields.ignore("web_search_options");
  fields.finish();
  return request;
}

AnswerRequest parse_answer(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  AnswerRequest request;
  request.choice = read_choice(fields);
  request.question = fields.required_text("question");
  request.context = fields.required_text("context");
  request.n_best = fields.count("n_best", 1, 20).value_or(request.n_best);
  request.max_answer_length =
      fields.count("max_answer_length", 1, 1000).value_or(request.max_answer_length);
  request.doc_stride = fields.count("doc_stride", 1, kMaxNumber).value_or(request.doc_stride);
  request.max_seq_length = fields.count("max_seq_length", 8, kMaxNumber);
  request.may_be_missing = fields.boolean("may_be_missing", false);
  fields.text("user");
  fields.finish();
  return request;
}

ClassificationRequest parse_classification(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  ClassificationRequest request;
  request.choice = read_choice(fields);
  const Json& input = fields.value("input");
  if (input.is_string()) {
    request.inputs = {fields.text("input")};
  } else if (input.is_array() && !input.empty() && input.size() <= limits.choices) {
    request.inputs = fields.texts("input", input);
  } else {
    fields.refuse("input",
                  input.is_array() ? fmt::format("{} texts", input.size()) : Fields::kind(input),
                  fmt::format("a string or a list of 1 to {} strings", limits.choices));
  }
  fields.text("user");
  fields.finish();
  return request;
}

TokenizeRequest parse_tokenize(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  TokenizeRequest request;
  request.model = fields.text("model");
  if (fields.has("messages")) {
    if (fields.has("prompt")) fields.refuse("prompt", "it", "prompt or messages, not both");
    request.messages = read_messages(fields);
  } else {
    fields.value("messages");
    request.prompt = fields.required_text("prompt");
  }
  request.add_special_tokens = fields.boolean("add_special_tokens", true);
  request.add_generation_prompt = fields.boolean("add_generation_prompt", true);
  request.return_token_strs = fields.boolean("return_token_strs", false);
  fields.finish();
  return request;
}

DetokenizeRequest parse_detokenize(std::string_view body, const Limits& limits) {
  Fields fields(body, limits);
  DetokenizeRequest request;
  request.model = fields.text("model");
  const Json& tokens = fields.value("tokens");
  if (!tokens.is_array()) fields.refuse("tokens", Fields::kind(tokens), "a list of token ids");
  request.tokens = fields.ids("tokens", tokens);
  fields.finish();
  return request;
}

AdapterRequest parse_adapter(std::string_view body, const Limits& limits, bool with_path) {
  Fields fields(body, limits);
  AdapterRequest request;
  request.name = fields.required_text("lora_name");
  if (with_path) request.path = fields.required_text("lora_path");
  fields.ignore("lora_int_id");
  fields.ignore("load_inplace", {true});
  fields.finish();
  return request;
}

}  // namespace qalof::serve
