// generate, bench and the flags of a run, on the shipped nano model.
#include <algorithm>
#include <set>

#include "cli/program.h"

namespace qalof::cli {
namespace generate_bench_test {

class GenerateTest : public CliTest {
 protected:
  static std::string model() {
    return "--model_name_or_path " QALOF_SOURCE_DIR "/assets/nano/model ";
  }
  Json json_of(const std::string& arguments, const std::string& input = "") {
    const ProgramRun found = run(arguments + " --json", input);
    EXPECT_EQ(found.code, 0) << found.err;
    EXPECT_EQ(std::count(found.out.begin(), found.out.end(), '\n'), 1);
    return parse_json(found.out, "standard output");
  }
  Json generate(const std::string& flags, const std::string& input = "") {
    return json_of("generate " + model() + flags, input);
  }
};

TEST_F(GenerateTest, JsonHoldsTextIdsSpeedAndCache) {
  const Json found = generate("--prompt 'Hugo has' --max_new_tokens 20 --precision 8");
  EXPECT_EQ(found["ids"].size(), 20U);
  EXPECT_EQ(found["prompt_tokens"], 3);
  EXPECT_EQ(found["stop_reason"], "length");
  EXPECT_EQ(found["precision"], "w8a8kv8");
  EXPECT_GT(found["tokens_per_second"], 0.0);
  // 4 layers, K and V, 22 positions (the last token takes none) of 128 bytes and one scale.
  EXPECT_EQ(found["kv_bytes"], 4 * 2 * 22 * (128 + 4));
  EXPECT_FALSE(found["text"].get<std::string>().empty());
}

TEST_F(GenerateTest, StandardOutputIsTheTextAlone) {
  const std::string flags = "--prompt 'Nora' --max_new_tokens 30 --temperature 1 --seed 5";
  const ProgramRun streamed = run("generate " + model() + flags);
  EXPECT_EQ(streamed.code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, generate(flags)["text"].get<std::string>() + "\n");
  EXPECT_NE(streamed.err.find("tokens/s"), std::string::npos);
  EXPECT_EQ(run("generate --quiet " + model() + flags).err, "");
}

TEST_F(GenerateTest, SeedDecidesAndThreadsAndChunksDoNot) {
  const std::string flags = "--prompt 'Where does Hugo live?' --temperature 1 --precision 4 ";
  const Json one = generate(flags + "--seed 1 --threads 1");
  EXPECT_EQ(generate(flags + "--seed 1 --threads 3 --prefill_chunk 2")["ids"], one["ids"]);
  EXPECT_NE(generate(flags + "--seed 2")["ids"], one["ids"]);
}

TEST_F(GenerateTest, ADrawnWidthGivesTheTextOfThatWidth) {
  const std::string flags = "--prompt 'Hugo has' --max_new_tokens 12 --seed 1 ";
  std::set<std::string> drawn;
  for (int request = 0; request < 8; ++request) {
    const Json found =
        generate(flags + "--precision random:3,8 --request " + std::to_string(request));
    EXPECT_EQ(found["precision_seed"], 1);
    const std::string precision = found["precision"];
    drawn.insert(precision);
    EXPECT_EQ(generate(flags + "--precision " + precision)["ids"], found["ids"]);
  }
  EXPECT_EQ(drawn, (std::set<std::string>{"w3a3kv3", "w8a8kv8"}));
}

TEST_F(GenerateTest, PromptFromStandardInputIsThatOfTheFlag) {
  const Json flag = generate("--prompt 'Nora\nlives' --max_new_tokens 8");
  EXPECT_EQ(generate("--prompt - --max_new_tokens 8", "Nora\nlives\n")["ids"], flag["ids"]);
  EXPECT_EQ(generate("--prompt - --max_new_tokens 8", "Nora\nlives\n\n")["prompt_tokens"],
            flag["prompt_tokens"].get<int>() + 1);
  EXPECT_EQ(generate("--prompt '' --max_new_tokens 3 --ignore_eos")["prompt_tokens"], 1);
}

TEST_F(GenerateTest, StopStringEndsTheText) {
  const std::string flags = "--prompt 'Hugo has' --max_new_tokens 40 --ignore_eos ";
  const std::string all = generate(flags)["text"];
  const std::size_t period = all.find(". ");
  ASSERT_NE(period, std::string::npos) << all;
  const Json found = generate(flags + "--stop '. ' --stop 'zzz'");
  EXPECT_EQ(found["text"], all.substr(0, period));
  EXPECT_EQ(found["stop_reason"], "stop_string");
}

TEST_F(GenerateTest, CacheWidthSchemeAndLmHeadAreChosenPerRun) {
  const std::string flags = "--prompt 'Hugo has' --max_new_tokens 20 --precision w8a8kv8 ";
  const auto bytes = [&](const std::string& more) {
    return generate(flags + more)["kv_bytes"].get<int>();
  };
  constexpr int kRows = 4 * 2 * 22;
  EXPECT_EQ(bytes("--kv_bits 4"), kRows * (64 + 4));
  EXPECT_EQ(bytes("--kv_bits 4 --kv_scheme head"), kRows * (64 + 4 * 4));
  EXPECT_EQ(bytes("--kv_bits 16"), kRows * 256);
  const Json found = generate(flags + "--kv_bits 4 --kv_scheme head --lm_head_bits 4");
  EXPECT_EQ(found["precision"], "w8a8kv4, kv scheme head, lm head 4");
  EXPECT_EQ(found["lm_head_bits"], 4);
}

TEST_F(GenerateTest, PackedFileGivesTheTextOfTheDirectory) {
  const std::string packed = dir_.file("nano.qalof");
  ASSERT_EQ(run("quantize " + model() + "--bit_widths 4 --output " + packed).code, 0);
  for (const char* head : {"", "--lm_head_bits 8", "--lm_head_bits 4"}) {
    const std::string flags = std::string("--prompt 'Nora' --precision 4 --temperature 1 ") + head;
    EXPECT_EQ(json_of("generate --model_name_or_path " + packed + " " + flags)["ids"],
              generate(flags)["ids"]);
  }
}

TEST_F(GenerateTest, BadFlagsAreUsageErrors) {
  for (const char* flags :
       {"", "--prompt a --temperature -1", "--prompt a --top_p 0", "--prompt a --kv_bits 9",
        "--prompt a --kv_scheme row", "--prompt a --lm_head_bits 5", "--prompt a --stop ''",
        "--prompt a --max_new_tokens 0", "--prompt a --max_new_tokens -3"}) {
    const ProgramRun found = run("generate " + model() + flags);
    EXPECT_EQ(found.code, 2) << flags << ": " << found.err;
    EXPECT_EQ(found.out, "") << flags;
  }
  EXPECT_EQ(run("generate " + model() + "--prompt -", "\xff\xfe").code, 3);
}

TEST_F(GenerateTest, EvalTakesTheLmHeadsWidth) {
  std::string text;
  for (int i = 0; i < 20; ++i) text += "Hugo lives in Selby. Nora has lost a wool scarf. ";
  std::ofstream(dir_.file("text.txt")) << text;
  const auto loss = [&](const std::string& more) {
    return json_of("eval --task lm " + model() + "--precision 16 --validation_file " +
                   dir_.file("text.txt") + more)["eval_loss"]
        .get<double>();
  };
  const double usual = loss(""), eight = loss(" --lm_head_bits 8"),
               four = loss(" --lm_head_bits 4");
  EXPECT_EQ(loss(" --lm_head_bits 16"), usual);
  EXPECT_NE(eight, usual);
  EXPECT_NEAR(eight, usual, 0.05);
  EXPECT_NE(four, eight);
  EXPECT_NEAR(four, usual, 0.5);
}

TEST_F(GenerateTest, LinesMayBeDocumentsOfTheirOwn) {
  const auto loss = [&](const char* flags) {
    return json_of("eval --task lm " + model() + "--validation_file " + QALOF_SOURCE_DIR +
                   "/assets/nano/data/text.txt" + flags);
  };
  const Json whole = loss(""), lines = loss(" --line_by_line");
  // Nothing predicts the first token of a line; and the nano model has learned lines.
  EXPECT_LT(lines["tokens"].get<int>(), whole["tokens"].get<int>());
  EXPECT_LT(lines["eval_loss"].get<double>(), 0.9);
  EXPECT_GT(whole["eval_loss"].get<double>(), 1.5);
}

TEST_F(GenerateTest, BenchReportsTheMedianOfItsRepeats) {
  for (const char* what : {"prefill", "prefill --logits all", "decode --new_tokens 4"}) {
    const Json found = json_of("bench " + std::string(what) + " " + model() +
                               "--prompt_tokens 16 --batch 2 --repeats 3 --precision 4 --threads 2 "
                               "--lm_head_bits 8");
    const bool decode = found["bench"] == "decode";
    EXPECT_EQ(found["tokens"], decode ? 8 : 32);
    EXPECT_EQ(found["lm_head_bits"], 8);
    EXPECT_EQ(found["threads"], 2);
    std::vector<double> seconds = found["all_seconds"];
    ASSERT_EQ(seconds.size(), 3U);
    std::sort(seconds.begin(), seconds.end());
    EXPECT_EQ(found["seconds"], seconds[1]);
    EXPECT_DOUBLE_EQ(found["tokens_per_second"].get<double>(),
                     found["tokens"].get<double>() / seconds[1]);
  }
  const Json profiled =
      json_of("bench decode " + model() + "--prompt_tokens 8 --new_tokens 3 --repeats 2 --profile");
  for (const Json& entry : profiled["profile"]) {
    if (entry["operation"] != "lm_head") continue;
    EXPECT_EQ(entry["calls"], 6);
  }
}

TEST_F(GenerateTest, BenchOfRandomPrecisionMeasuresItsWidthsBeside) {
  for (const char* what : {"prefill", "decode --new_tokens 3"}) {
    const Json found =
        json_of("bench " + std::string(what) + " " + model() +
                "--prompt_tokens 8 --batch 2 --repeats 3 --precision random:4,6,8 --seed 5 "
                "--requests 11");
    const Json& random = found["random"];
    EXPECT_EQ(random["seed"], 5);
    EXPECT_EQ(random["requests"], 11);
    EXPECT_EQ(found["tokens"], 11 * (found["bench"] == "decode" ? 3 : 8));
    double draws = 0, seconds = 0;
    for (const Json& width : random["widths"]) {
      draws += width["draws"].get<double>();
      seconds += width["draws"].get<double>() / width["tokens_per_second"].get<double>();
    }
    EXPECT_EQ(draws, 11);
    const double mean = random["harmonic_mean"];
    EXPECT_NEAR(mean, draws / seconds, 1e-6 * mean);
    EXPECT_NEAR(random["ratio"].get<double>(), found["tokens_per_second"].get<double>() / mean,
                1e-9);
  }
}

TEST_F(GenerateTest, EvalOfTextAndQuestionsDrawsToo) {
  const std::string data = QALOF_SOURCE_DIR "/assets/nano/data/";
  for (const auto& [task, file] :
       {std::pair{"lm --stride 200", "text.txt"}, {"qa", "validation.json"}}) {
    const std::string command = std::string("eval --task ") + task + " " + model() +
                                "--validation_file " + data + file + " --max_eval_samples 20 ";
    const auto loss = [&](const std::string& precision) {
      const Json found = json_of(command + precision);
      return std::pair(found.value("eval_loss", 0.0), found.value("eval_f1", 0.0));
    };
    const auto drawn = loss("--precision random:2,8 --seed 1 --threads 1");
    EXPECT_EQ(loss("--precision random:2,8 --seed 1 --threads 2"), drawn);
    if (std::string(task) == "qa") continue;
    EXPECT_GT(drawn.first, loss("--precision 8").first);
    EXPECT_LT(drawn.first, loss("--precision 2").first);
  }
}

TEST_F(GenerateTest, BenchRefusesWhatItCannotRun) {
  for (const char* flags :
       {"", "prefil", "prefill --logits some", "prefill --prompt_tokens 257", "prefill --batch 0",
        "decode --prompt_tokens 250 --new_tokens 7", "prefill --repeats 0"}) {
    EXPECT_EQ(run("bench " + std::string(flags) + " " + model()).code, 2) << flags;
  }
}

}  // namespace generate_bench_test
}  // namespace qalof::cli
