// Tables, sizes and profiles as text and JSON. See format.h.
#include "cli/format.h"

#include <algorithm>

namespace qalof::cli {

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string table_text(const std::vector<std::vector<std::string>>& rows,
                       const std::vector<std::size_t>& right) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const bool is_right = std::find(right.begin(), right.end(), c) != right.end();
      if (c > 0) line += "  ";
      line += is_right ? fmt::format("{:>{}}", row[c], widths[c])
                       : fmt::format("{:<{}}", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

namespace {

std::vector<std::pair<std::string, runtime::Profile::Entry>> by_time(
    const runtime::Profile& profile) {
  std::vector<std::pair<std::string, runtime::Profile::Entry>> entries(profile.entries.begin(),
                                                                       profile.entries.end());
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  return entries;
}

}  // namespace

std::string profile_text(const runtime::Profile& profile) {
  double total = 0;
  for (const auto& [name, entry] : profile.entries) total += entry.seconds;
  std::vector<std::vector<std::string>> rows = {{"operation", "calls", "seconds", "share", "GB/s"}};
  for (const auto& [name, entry] : by_time(profile)) {
    rows.push_back({name, std::to_string(entry.calls), fmt::format("{:.3f}", entry.seconds),
                    fmt::format("{:.1f} %", 100 * entry.seconds / total),
                    fmt::format("{:.1f}", static_cast<double>(entry.bytes) / entry.seconds / 1e9)});
  }
  return table_text(rows, {1, 2, 3, 4});
}

Json profile_json(const runtime::Profile& profile) {
  Json list = Json::array();
  for (const auto& [name, entry] : by_time(profile)) {
    list.push_back({{"operation", name},
                    {"calls", entry.calls},
                    {"seconds", entry.seconds},
                    {"bytes", entry.bytes}});
  }
  return list;
}

}  // namespace qalof::cli
