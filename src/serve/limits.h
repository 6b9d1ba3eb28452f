// What one request, one client and the whole service may take; checked before work starts.
#pragma once

#include <chrono>
#include <cstddef>

namespace qalof::serve {

/// Sizes in bytes unless the name says otherwise. docs/serving.md lists them for users.
struct Limits {
  std::size_t body = std::size_t{1} << 20;
  std::size_t header = std::size_t{16} << 10;  // of all header lines
  std::size_t header_lines = 100;
  std::size_t target = std::size_t{8} << 10;
  std::size_t json_depth = 32;
  std::size_t choices = 64;      // prompts times n
  std::size_t stop_strings = 4;  // of at most stop_bytes each
  std::size_t stop_bytes = 256;
  std::size_t logprobs = 5;
  std::size_t logit_biases = 300;
  std::size_t queued_requests = 64;
  std::size_t connections = 256;
  std::size_t labels = 256;    // pairs of adapter and precision in metrics
  std::size_t variants = 256;  // pairs of adapter and precision kept ready
  std::chrono::milliseconds header_time{10'000};
  std::chrono::milliseconds body_time{30'000};
  std::chrono::milliseconds idle_time{60'000};
  std::chrono::milliseconds write_time{30'000};  // of one write to a client
  std::chrono::milliseconds request_time{300'000};
  std::chrono::milliseconds drain_time{10'000};
  std::chrono::milliseconds ping_time{15'000};  // between comments in a silent stream
};

}  // namespace qalof::serve
