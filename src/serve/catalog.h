// Which models the service offers (the base and its adapters, by name), and the executions that
// serve a choice of model, precision and K/V bits. Names come from clients: nothing here opens a
// file that a client names, except load_adapter below its one directory.
#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "serve/http.h"
#include "serve/limits.h"
#include "text/chat_template.h"

namespace qalof::serve {

/// What runs a request. Immutable.
struct Variant {
  std::shared_ptr<const runtime::Execution> execution;
  app::ModelHandle handle;  // for heads: separator, names of labels
  std::string model;        // as /v1/models names it
  std::string adapter;      // "" = the base
  std::string precision;    // effective, in words
  std::string label;        // of the precision in metrics: few values
  double kv_bits = 0;       // effective mean
  std::string cache_key;    // equal where K and V of equal tokens are equal
};

/// What a request asks for.
struct VariantChoice {
  std::string model;  // "" = the base
  Json precision;     // null = the default; text, or an object in the form of a plan file
  std::optional<int> kv_bits;
  std::optional<std::uint64_t> seed;  // of random:...; none: drawn by nobody's choice
};

struct CatalogOptions {
  std::string name;                          // of the base; "" = from its path
  app::ModelOptions model;                   // scheme, kv_bits, ...: of every request by default
  std::vector<std::string> adapters, plans;  // NAME=PATH
  std::vector<std::string> precisions;       // that requests may name; empty: any
  std::vector<std::string> elastic;          // precisions by level; empty: none
  std::string loading_directory;             // below which adapters may be loaded; "" = nowhere
};

class Catalog {
 public:
  /// Opens the model, adapters and plans, and packs what requests without a precision need.
  /// Errors as app::open_model's; Error{kUsage} for names that stand twice or have other characters
  /// than letters, digits, and . _ -
  Catalog(const CatalogOptions& options, const Limits& limits, ThreadPool& pool,
          Observer& observer);

  /// The variants that may serve a choice, by elastic level; one where the request fixes its
  /// precision or nothing is elastic. Packs weights where a width is new. Throws ApiError: 404 for
  /// an unknown model, 400 for a precision that is unknown, not allowed or not held by a packed
  /// file. Any thread.
  std::vector<std::shared_ptr<const Variant>> find(const VariantChoice& choice);

  /// Of GET /v1/models.
  Json models() const;
  /// Names of models, base first.
  std::vector<std::string> names() const;
  std::vector<std::string> adapter_names() const;
  std::vector<std::string> plan_names() const;
  /// What requests may name as their precision: those listed, else the widths that there are; and
  /// plans.
  std::vector<std::string> precisions() const;
  /// True where requests may name those alone.
  bool has_fixed_precisions() const { return !options_.precisions.empty(); }
  /// What requests without a precision get, as it was given.
  std::string default_precision() const;
  const std::vector<std::string>& elastic() const { return options_.elastic; }
  const std::string& name() const { return options_.name; }

  bool allows_loading() const { return !options_.loading_directory.empty(); }
  /// Loads, or replaces, an adapter of a directory below the loading directory. Requests that run
  /// keep the one they began with. Throws ApiError.
  void load_adapter(const std::string& name, const std::string& path);
  void unload_adapter(const std::string& name);

  /// The tokens of a conversation by the model's chat template. Throws ApiError{400} where the
  /// model has none or it refuses the conversation.
  std::vector<std::int32_t> chat_tokens(std::span<const text::ChatMessage> messages,
                                        bool add_generation_prompt) const;
  bool has_chat_template() const { return chat_.has_value(); }
  /// The token by which the template ends an answer; none where it ends with text.
  std::optional<std::int32_t> turn_end() const { return turn_end_; }

  const text::TextEncoder& encoder() const { return *encoder_; }
  const weights::BaseModel& base() const { return *stored_.base; }
  ThreadPool& pool() const { return pool_; }
  /// Of files and adapters, from opening.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct Adapter {
    std::shared_ptr<const weights::AdapterSet> set;
    std::string digest;
    std::uint64_t generation;  // a name that is loaded again has another
    std::time_t created;
  };
  struct Wanted {
    std::string text;                     // key of the precision
    std::string label;                    // in metrics
    std::optional<quant::PlanSpec> plan;  // none: the model's own
  };

  Wanted wanted_of_text(const std::string& text, const VariantChoice& choice) const;
  Wanted wanted_of(const Json& precision, const VariantChoice& choice) const;
  void check_allowed(const std::string& form) const;
  std::shared_ptr<const Variant> variant(const std::string& model, const Wanted& wanted,
                                         std::optional<int> kv_bits);
  std::shared_ptr<const Variant> make_variant(const std::string& model, const Adapter* adapter,
                                              const Wanted& wanted, std::optional<int> kv_bits);
  void find_chat(Observer& observer);
  Adapter open_adapter(const std::string& path, Observer& observer);
  // Under mutex_: an adapter's variants go with it, so that their memory is free once no request
  // uses them.
  void forget_variants(std::uint64_t generation);

  CatalogOptions options_;
  Limits limits_;
  ThreadPool& pool_;
  app::StoredModel stored_;
  std::unique_ptr<text::TextEncoder> encoder_;
  std::optional<text::ChatTemplate> chat_;
  std::string no_chat_;  // why there is no template
  std::optional<std::int32_t> turn_end_;
  std::map<std::string, quant::PlanSpec> plans_;
  std::vector<std::string> warnings_;
  std::time_t created_;
  std::uint64_t draw_seed_;
  mutable std::atomic<std::uint64_t> draws_{0};

  mutable std::mutex mutex_;  // of what follows
  std::map<std::string, Adapter> adapters_;
  std::uint64_t next_generation_ = 1;
  using Ready = std::list<std::pair<std::string, std::shared_ptr<const Variant>>>;
  Ready ready_;  // most recently used first
  std::map<std::string, Ready::iterator> ready_by_key_;
  std::mutex making_;  // one variant is packed at a time
};

/// 404 for a name that no model has.
ApiError unknown_model(const std::string& name);

/// Error{kUsage} for a text that is not NAME=VALUE or whose name has other characters than
/// letters, digits, and . _ - (or more than 64, or begins with a dot).
std::pair<std::string, std::string> parse_named(const std::string& text, const std::string& flag);

}  // namespace qalof::serve
