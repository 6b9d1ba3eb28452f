// Finds the first member in which two run identities differ and phrases it as an error.
#include "app/run_identity.h"

#include "core/error.h"

namespace qalof::app {

namespace {

// "KEY was X and is now Y" for the first difference, or "".
std::string difference(const Json& there, const Json& here) {
  for (const auto& [key, value] : here.items()) {
    const Json other = there.is_object() ? there.value(key, Json()) : Json();
    if (other != value)
      return fmt::format("{} was {:.80} and is now {:.80}", key, other.dump(), value.dump());
  }
  return there == here ? "" : "it has more members";
}

}  // namespace

void check_same_run(const Json& there, const Json& here, const std::string& path) {
  const std::string differs = difference(there, here);
  QALOF_CHECK(differs.empty(), ErrorKind::kUsage,
              "{}: is of another run ({}); give another --output_dir or --overwrite_output_dir",
              path, differs);
}

}  // namespace qalof::app
