// Models and adapters by their name on a hub: `qalof download`, and what other commands do with
// org/name in place of a path.
#pragma once

#include <functional>
#include <string>

#include "core/progress.h"
#include "io/hub/download.h"

namespace qalof::app {

struct DownloadOptions {
  std::string name;      // org/name[@revision], or org/name/FILE.gguf[@revision]
  bool offline = false;  // only look into the cache
  std::function<bool()> should_stop;
};
/// Brings a repository's files into the cache. Error{kUsage} for what is no name; others are
/// io::download's. Offline, Error{kNetwork} where the cache does not hold enough.
io::HubResult run_download(const DownloadOptions& options, Observer& observer);

/// given as it is where it exists or is no hub's name. Else the repository's directory in the
/// cache, or the one file that is named; what is missing there is downloaded, unless the
/// environment says offline or the name begins with a directory that exists: then it is a mistyped
/// path. Errors are io::download's and say what was looked for.
std::string local_path(const std::string& given, io::HubUse use, Observer& observer);

}  // namespace qalof::app
