// Which files of a repository are wanted: the names that this project reads, and no other.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "io/hub/cache.h"
#include "io/hub/name.h"

namespace qalof::io {

/// What a repository is wanted for. kAny: whatever of the others it holds.
enum class HubUse { kAny, kModel, kAdapter, kTokenizer };

/// The repository's list of files.
using HubListing = std::vector<HubFile>;

/// Reads one page of the hub's list (GET api/models/org/name/tree/commit) and adds its files; where
/// names it in messages. Error{kCorruptFile} for what no hub lists; files with names that are not
/// safe as paths are left out.
void add_listing_page(const Json& page, const std::string& where, HubListing& listing);

/// The files to fetch first, small ones and single weight files. Shards are chosen by the index
/// (list_shards). Error{kUnsupported} where what is wanted is there as a pickle or a GGUF file
/// alone, {kBadInput} where it is not there; the message names what is.
std::vector<HubFile> select_files(const HubListing& listing, const HubName& name, HubUse use);
/// Name of the index of sharded weights.
inline constexpr const char* kShardIndex = "model.safetensors.index.json";
/// The shards that an index of a listed repository names. Error{kCorruptFile} for names that are
/// not bare or are not listed.
std::vector<HubFile> list_shards(const Json& index, const HubListing& listing, const HubName& name);

/// Names that a use may lack; whether a commit lacks them is worth remembering.
std::vector<std::string> optional_files(HubUse use);
/// What the snapshot in the cache still needs for a use, in words, or "". With sure, names that
/// may be missing or not are asked for too, unless it is known that the commit lacks them.
std::string missing_in_cache(const HubRepository& cache, const std::string& commit,
                             const HubName& name, HubUse use, bool sure);

}  // namespace qalof::io
