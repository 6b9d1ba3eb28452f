// Names of what is on a model hub, as users write them: org/name[@revision] for a repository,
// org/name/FILE[@revision] for one GGUF or packed file of it; and which names are safe as paths.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qalof::io {

struct HubName {
  std::string repository;         // "org/name"
  std::string revision = "main";  // branch, tag or commit
  std::string file;               // within the repository; "" = the repository
};

/// `org/name@revision`; without `@main`.
std::string to_string(const HubName& name);
/// Nothing where text is no such name: both parts of the repository are letters, digits, "-", "_"
/// and ".", at most 96, as the Hub has them; the file ends in .gguf or .qalof.
std::optional<HubName> parse_hub_name(std::string_view text);
/// True for a relative path of plain parts: no empty part, ".", "..", leading hyphen or backslash,
/// no byte outside of printable ASCII, parts of at most 255 bytes and 1024 in all. Names from a
/// server become paths only if this holds.
bool is_safe_hub_path(std::string_view path);
/// True for names of files that hold pickles, which can run code: .bin, .pt and the like.
bool is_pickle_name(std::string_view path);
/// True for a commit: 40 lower-case hexadecimal digits.
bool is_commit(std::string_view text);
/// True for lower-case hexadecimal digits alone.
bool is_hex(std::string_view text);

}  // namespace qalof::io
