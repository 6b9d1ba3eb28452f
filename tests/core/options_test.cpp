// Lists of options: values, ranges, identity, and what help says of them.
#include "core/options.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof {
namespace options_test {

using testing::error_of;

enum class Shape { kRound, kSquare };
constexpr Named<Shape> kShapes[] = {{"round", Shape::kRound}, {"square", Shape::kSquare}};

struct Fields {
  int count = 3;
  double rate = 0.5;
  Shape shape = Shape::kSquare;
  std::optional<Shape> other;
  std::optional<int> bits;
  std::vector<int> widths = {8, 4};
  std::string name;
  bool loud = false;

  void list(OptionList& list) {
    list.group("numbers");
    list.option("--count", count, "how many")->within(1, 9);
    list.option("--rate,--speed", rate, "how fast")->positive();
    list.option("--bits", bits, "or none", "0");
    list.option("--widths", widths, "several")->delimiter(',');
    list.group("words");
    list.choice("--shape", shape, kShapes, "what it looks like");
    list.choice("--other", other, kShapes, "or none");
    list.option("--name", name, "text")->incidental();
    list.flag("--loud", loud, "or not")->incidental();
  }
};

// Gives options texts as a command line does; the first refusal or "".
std::string give(Fields& fields, const std::vector<std::pair<std::string, std::string>>& texts) {
  struct Open : OptionList {
    using OptionList::find;
  } list;
  fields.list(list);
  for (const auto& [name, text] : texts) {
    Option* option = list.find(name);
    option->give(text);
    if (std::string reason = option->store(); !reason.empty()) return name + ": " + reason;
  }
  return "";
}

TEST(Options, ValuesReachTheirFields) {
  Fields fields;
  EXPECT_EQ(give(fields, {{"--count", "5"},
                          {"--speed", "2"},
                          {"--bits", "16"},
                          {"--widths", "3,2"},
                          {"--shape", "round"},
                          {"--other", "square"},
                          {"--loud", "yes"}}),
            "");
  EXPECT_EQ(fields.count, 5);
  EXPECT_EQ(fields.rate, 2);
  EXPECT_EQ(fields.bits, 16);
  EXPECT_THAT(fields.widths, ::testing::ElementsAre(3, 2));
  EXPECT_EQ(fields.shape, Shape::kRound);
  EXPECT_EQ(fields.other, Shape::kSquare);
  EXPECT_TRUE(fields.loud);
  EXPECT_EQ(give(fields, {{"--bits", "0"}}), "");
  EXPECT_FALSE(fields.bits.has_value());
}

TEST(Options, WordsThatAreNoValueAreRefusedWithTheKnownOnes) {
  Fields fields;
  EXPECT_EQ(give(fields, {{"--shape", "flat"}}), "--shape: found flat, expected round or square");
  EXPECT_EQ(give(fields, {{"--bits", "few"}}), "--bits: found few, expected a whole number");
  EXPECT_EQ(fields.shape, Shape::kSquare);
}

TEST(Options, FieldsOutsideTheirRangeAreRefusedByName) {
  const auto refusal = [](const std::function<void(Fields&)>& set) {
    Fields fields;
    set(fields);
    OptionList list;
    fields.list(list);
    const auto error = error_of([&] { list.check(); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    return error.message;
  };
  EXPECT_EQ(refusal([](Fields& f) { f.count = 0; }), "--count: found 0, expected 1..9");
  EXPECT_EQ(refusal([](Fields& f) { f.count = 10; }), "--count: found 10, expected 1..9");
  EXPECT_EQ(refusal([](Fields& f) { f.rate = 0; }), "--rate: found 0, expected a positive number");
  EXPECT_EQ(refusal([](Fields& f) { f.rate = NAN; }),
            "--rate: found nan, expected a finite number of at least 0");
  EXPECT_EQ(refusal([](Fields& f) { f.rate = 1e300; }),
            "--rate: found 1e+300, expected at most 1e+30");
  Fields fields;
  OptionList list;
  fields.list(list);
  EXPECT_NO_THROW(list.check());
}

TEST(Options, IdentityLeavesOutWhatChangesNoResult) {
  Fields fields;
  OptionList list;
  fields.list(list);
  const Json all = list.values(), identity = list.identity();
  EXPECT_EQ(all, Json({{"--count", 3},
                       {"--rate", 0.5},
                       {"--bits", 0},
                       {"--widths", "[8,4]"},
                       {"--shape", "square"},
                       {"--other", ""},
                       {"--name", ""},
                       {"--loud", false}}));
  EXPECT_FALSE(identity.contains("--name"));
  EXPECT_FALSE(identity.contains("--loud"));
  EXPECT_EQ(identity.size(), all.size() - 2);
}

}  // namespace options_test
}  // namespace qalof
