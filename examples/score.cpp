// Which of several endings a model finds most likely behind a text, at 8 bits and at 4, and what
// the weights take.
//
// Usage: score MODEL TEXT ENDING ENDING...
#include <qalof/qalof.h>

#include <cstdio>

namespace {

void score(const qalof::Variant& variant, const char* text, int count, char** endings) {
  std::printf("%s: %.2f bits per weight, %llu bytes\n", variant.precision().c_str(),
              variant.bits().weights, static_cast<unsigned long long>(variant.bytes().total));
  int best = 0;
  double most = 0;
  for (int i = 0; i < count; ++i) {
    const qalof::ContinuationScore found = variant.score(text, endings[i]);
    std::printf("  %10.4f nats, %zu tokens: %s\n", found.log_likelihood, found.ids.size(),
                endings[i]);
    if (i > 0 && found.log_likelihood <= most) continue;
    best = i;
    most = found.log_likelihood;
  }
  std::printf("  most likely: %s\n", endings[best]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: score MODEL TEXT ENDING ENDING...\n", stderr);
    return 2;
  }
  try {
    const qalof::Model model = qalof::Model::open(argv[1]);
    for (const char* precision : {"8", "4"})
      score(model.variant({.precision = precision}), argv[2], argc - 3, argv + 3);
  } catch (const qalof::Error& error) {
    std::fprintf(stderr, "score: %s\n", error.what());
    return 1;
  }
}
