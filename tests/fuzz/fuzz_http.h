// The entry of the fuzzers for bytes on the service's socket.
#pragma once

#include <cstddef>
#include <span>

namespace qalof::fuzz {

/// Sends input to a service in this process whose model is loading. True where a handler answered.
bool read_http(std::span<const std::byte> input);

}  // namespace qalof::fuzz
