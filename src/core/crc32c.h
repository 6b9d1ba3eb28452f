// CRC-32C (Castagnoli, reflected 0x82f63b78): the checksum of tensors in packed files. Check value
// of "123456789" is 0xe3069283. Finds damage, not forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/threads.h"

namespace qalof {

/// Thread-safe. As fast as memory where the CPU has SSE4.2, which the x86-64-v2 baseline
/// guarantees.
std::uint32_t crc32c(std::span<const std::byte> bytes);
/// Checksum of bytes, large spans cut into pieces that run on the threads of parallel.
std::uint32_t crc32c(std::span<const std::byte> bytes, ParallelFor& parallel);
/// The checksum of a followed by b, given both checksums and the length of b in bytes.
std::uint32_t crc32c_combine(std::uint32_t a, std::uint32_t b, std::size_t b_bytes);

}  // namespace qalof
