// One text grows while the precision of the model that writes it goes from 8 bits to 4 and back.
//
// Both variants share one copy of the model's other weights, and keep keys and values in 8 bits, so
// that a switch is a choice of pointers: the text so far is not read again.
//
// Usage: switch_bits_live MODEL PROMPT [ADAPTER]
#include <qalof/qalof.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

namespace {

constexpr std::size_t kTokensPerStretch = 16;

int run(const char* path, const char* prompt, const std::string& adapter) {
  const qalof::Model model = qalof::Model::open(path);
  const qalof::Variant wide = model.variant({.precision = "w8a8kv8", .adapter = adapter});
  const qalof::Variant narrow = model.variant({.precision = "w4a8kv8", .adapter = adapter});
  const qalof::Variant stretches[] = {wide, narrow, wide};

  using Clock = std::chrono::steady_clock;
  std::string text;
  Clock::time_point start;
  std::size_t stretch = 0, timed_from = 1;  // the first token takes reading the prompt
  const auto report = [&](std::size_t tokens) {
    const std::chrono::duration<double> seconds = Clock::now() - start;
    std::printf("%.2f bits per weight, %.0f tokens/s:%s\n", stretches[stretch].bits().weights,
                static_cast<double>(tokens - timed_from) / seconds.count(), text.c_str());
    text.clear();
    timed_from = tokens;
    start = Clock::now();
  };

  qalof::GenerateOptions options;
  options.max_new_tokens = std::size(stretches) * kTokensPerStretch;
  options.ignore_eos = true;
  options.on_text = [&](std::string_view piece) {
    text += piece;
    return true;
  };
  options.variant_at = [&](std::size_t token) {
    if (token == 1) start = Clock::now();
    if (token / kTokensPerStretch != stretch) report(token);
    stretch = token / kTokensPerStretch;
    return stretches[stretch];
  };
  std::printf("%s\n", prompt);
  report(wide.generate(prompt, options).ids.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fputs("usage: switch_bits_live MODEL PROMPT [ADAPTER]\n", stderr);
    return 2;
  }
  try {
    return run(argv[1], argv[2], argc == 4 ? argv[3] : "");
  } catch (const qalof::Error& error) {
    std::fprintf(stderr, "switch_bits_live: %s\n", error.what());
    return 1;
  }
}
