// Continues a prompt at a precision and shows the text as it comes.
//
// Usage: generate MODEL PROMPT [PRECISION [ADAPTER]]
#include <qalof/qalof.h>

#include <iostream>
#include <string>
#include <string_view>

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::cerr << "usage: generate MODEL PROMPT [PRECISION [ADAPTER]]\n";
    return 2;
  }
  try {
    const qalof::Model model = qalof::Model::open(argv[1]);
    const qalof::Variant variant =
        model.variant({.precision = argc > 3 ? argv[3] : "8", .adapter = argc > 4 ? argv[4] : ""});

    qalof::GenerateOptions options;
    options.max_new_tokens = 40;
    options.on_text = [](std::string_view piece) {
      std::cout << piece << std::flush;
      return true;
    };
    std::cout << argv[2];
    const qalof::Generation made = variant.generate(argv[2], options);

    std::cerr << "\n"
              << made.ids.size() << " tokens, " << made.tokens_per_second() << " tokens/s at "
              << variant.precision() << " on " << qalof::instruction_set() << "\n";
  } catch (const qalof::Error& error) {
    std::cerr << "generate: " << error.what() << "\n";
    return 1;
  }
}
