// Labelled texts: SST-2 TSV and AG News CSV (docs/file_formats.md, "Classification data").
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace qalof::text {

/// A text and its class, counted from 0.
struct LabeledText {
  std::string text;  // valid UTF-8, never empty
  std::int32_t label = 0;
  std::size_t line = 0;  // 1-based, of its first byte in the file
};

struct ClassificationFile {
  std::size_t num_labels = 0;            // the largest label + 1
  std::vector<std::string> label_names;  // as written in the file: "0", "1" or "1", "2", ...
  std::uint64_t examples = 0;
};

/// Passes the examples of a file in order to take until it returns false. In a ".tsv" file a line
/// is a sentence, a tab and a label, classes from 0; in a ".csv" file it is class, title and
/// description (or class and text), quoted where needed, classes from 1; texts of several columns
/// are joined by spaces. A header line overrides columns and first class. Error{kBadInput} names
/// the first wrong line; {kNotFound}; {kUsage} for any other file name.
void read_classification(const std::string& path, const std::function<bool(LabeledText&&)>& take);
/// Reads the whole file. Also Error{kBadInput} where a class below the largest has no example, or
/// where there are fewer than two classes.
ClassificationFile scan_classification(const std::string& path);

}  // namespace qalof::text
