// A libFuzzer program for the format that QALOF_FUZZ_FORMAT names; scripts/fuzz runs it.
#include <cstdint>

#include "fuzz/fuzz_formats.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const qalof::fuzz::Format& format = qalof::fuzz::format_of(QALOF_FUZZ_FORMAT);
  format.read(std::as_bytes(std::span(data, size)));
  return 0;
}
