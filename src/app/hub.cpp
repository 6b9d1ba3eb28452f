// Decides between paths, the cache and the hub.
#include "app/hub.h"

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace {

[[noreturn]] void fail_offline(const std::string& name, const io::HubSettings& settings,
                               const std::string& missing, const char* reason) {
  fail(ErrorKind::kNetwork, "{}: {} is not in the cache {}, and {}", name, missing, settings.cache,
       reason);
}

}  // namespace

io::HubResult run_download(const DownloadOptions& options, Observer& observer) {
  const auto name = io::parse_hub_name(options.name);
  if (!name) {
    QALOF_CHECK(!io::is_pickle_name(options.name), ErrorKind::kUnsupported,
                "{}: pickled files are not downloaded because they can run code; look for "
                "safetensors",
                options.name);
    fail(ErrorKind::kUsage,
         "{:.300}: is no name on a hub, expected org/name[@revision] or "
         "org/name/FILE.gguf[@revision]",
         options.name);
  }
  io::HubSettings settings = io::hub_settings();
  settings.offline = settings.offline || options.offline;
  if (!settings.offline) {
    return io::download(*name, io::HubUse::kAny, settings, observer, options.should_stop);
  }
  std::string missing;
  io::HubResult result =
      io::find_in_cache(*name, io::HubUse::kAny, settings, /*sure=*/false, &missing);
  if (result.path.empty()) fail_offline(to_string(*name), settings, missing, "this is offline");
  return result;
}

std::string local_path(const std::string& given, io::HubUse use, Observer& observer) {
  if (given.empty() || path_exists(given)) return given;
  const auto name = io::parse_hub_name(given);
  if (!name) return given;
  const io::HubSettings settings = io::hub_settings();
  // out/chekpoint is more likely a mistake than a repository where there is a directory out.
  const bool is_path = is_directory(given.substr(0, given.find('/')));
  const bool asks = !settings.offline && !is_path;
  std::string missing;
  io::HubResult cached = io::find_in_cache(*name, use, settings, asks, &missing);
  if (!cached.path.empty()) return cached.path;
  if (is_path) {
    fail(ErrorKind::kNotFound,
         "{}: there is no such file or directory, nor in the cache {}; were it meant as a name on "
         "the hub, qalof download brings it there",
         given, settings.cache);
  }
  if (!asks) fail_offline(to_string(*name), settings, missing, "this is offline (HF_HUB_OFFLINE)");
  cached = io::find_in_cache(*name, use, settings, /*sure=*/false, nullptr);
  try {
    return io::download(*name, use, settings, observer, nullptr).path;
  } catch (const Error& error) {
    const bool may_do_without =
        error.kind() == ErrorKind::kNetwork || error.kind() == ErrorKind::kUnsupported;
    if (may_do_without && !cached.path.empty()) {
      observer.warn(fmt::format("{}; using what the cache holds", error.what()));
      return cached.path;
    }
    if (error.kind() != ErrorKind::kNotFound) throw;
    fail(ErrorKind::kNotFound, "no file or directory {}; {}", given, error.what());
  }
}

}  // namespace qalof::app
