// Downloads what is wanted of a hub repository into the cache, or finds it there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "io/hub/name.h"
#include "io/hub/select.h"
#include "io/hub/settings.h"

namespace qalof::io {

struct HubResult {
  std::string path;                // the snapshot's directory, or the one file that was named
  std::string commit;              // 40 hexadecimal digits
  std::vector<std::string> files;  // in the snapshot, of those that are wanted
  std::uint64_t bytes = 0;         // of files
  std::uint64_t downloaded = 0;    // bytes that came over the network
};

/// What the cache holds, without a connection. path is "" where it holds too little for the use;
/// missing, which may be null, then says what. With sure, also where a file may be missing of which
/// the cache does not know whether the repository has it.
HubResult find_in_cache(const HubName& name, HubUse use, const HubSettings& settings, bool sure,
                        std::string* missing);

/// Asks the hub for the revision's commit and brings what is missing. Every file is verified
/// (sha256, or git's sha1 of small files) before it appears; a broken download resumes where it
/// ended, in this process and in the next. Error{kNetwork} where the hub is not reached, fails or
/// sends something else than it listed, {kNotFound} where repository, revision or file are not
/// there or may not be read, {kUnsupported} for pickles and for a build without libcurl,
/// {kResource} where the disk is too small, {kInterrupted} where should_stop, which may be null,
/// says so.
HubResult download(const HubName& name, HubUse use, const HubSettings& settings, Observer& observer,
                   const std::function<bool()>& should_stop);

}  // namespace qalof::io
