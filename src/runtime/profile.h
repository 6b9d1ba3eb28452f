// Time per operation of a forward pass, for --profile. Not thread-safe: one Profile per calling
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace qalof::runtime {

/// Calls, bytes and seconds by operation.
class Profile {
 public:
  struct Entry {
    std::uint64_t calls = 0;
    std::uint64_t bytes = 0;  // weights and activations read and written once
    double seconds = 0;
  };
  std::map<std::string, Entry> entries;

  /// Adds the time from construction to destruction to an entry; a null profile costs nothing.
  class Scope {
   public:
    Scope(Profile* profile, const char* name, std::uint64_t bytes)
        : profile_(profile), name_(name), bytes_(bytes) {
      if (profile_ != nullptr) start_ = std::chrono::steady_clock::now();
    }
    ~Scope() {
      if (profile_ == nullptr) return;
      Entry& entry = profile_->entries[name_];
      entry.calls += 1;
      entry.bytes += bytes_;
      entry.seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Profile* profile_;
    const char* name_;
    std::uint64_t bytes_;
    std::chrono::steady_clock::time_point start_;
  };
};

}  // namespace qalof::runtime
