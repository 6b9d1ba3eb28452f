// Finds the first member in which two run identities differ and phrases it as an error.
#include "app/run_identity.h"

#include "core/error.h"

namespace qalof::app {

namespace {

// "KEY is X there and Y here" for the first difference, or "".
std::string difference(const Json& there, const Json& here) {
  for (const auto& [key, value] : here.items()) {
    const Json other = there.is_object() ? there.value(key, Json()) : Json();
    if (other != value)
      return fmt::format("{} is {:.80} there and {:.80} here", key, other.dump(), value.dump());
  }
  return there == here ? "" : "more is said there";
}

}  // namespace

void check_same_run(const Json& there, const Json& here, const std::string& path) {
  const std::string differs = difference(there, here);
  QALOF_CHECK(differs.empty(), ErrorKind::kUsage,
              "{}: is of another run ({}); give another --output_dir or --overwrite_output_dir",
              path, differs);
}

}  // namespace qalof::app
