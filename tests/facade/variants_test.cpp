// Variants of one model side by side: switching while a text grows, threads, and errors by kind.
#include <gmock/gmock.h>

#include <stdexcept>
#include <thread>

#include "facade/library.h"

namespace qalof {
namespace variants_test {

using testing::error_of;
using testing::kNanoModel;
using testing::LibraryTest;

class VariantsTest : public LibraryTest {
 protected:
  static GenerateOptions tokens(std::size_t count) {
    GenerateOptions options;
    options.max_new_tokens = count;
    options.ignore_eos = true;
    return options;
  }
  Model model_ = Model::open(kNanoModel, {.threads = 2});
};

TEST_F(VariantsTest, ChoosingTheSameVariantForEachTokenChangesNothing) {
  const Variant variant = model_.variant({.precision = "8"});
  GenerateOptions options = tokens(20);
  const Generation plain = variant.generate("Hugo has", options);
  options.variant_at = [&](std::size_t) { return model_.variant({.precision = "8"}); };
  EXPECT_EQ(variant.generate("Hugo has", options).ids, plain.ids);
}

TEST_F(VariantsTest, PrecisionSwitchesWhileATextGrows) {
  const Variant wide = model_.variant({.precision = "w8a8kv8"});
  const Variant narrow = model_.variant({.precision = "w2a8kv8"});
  GenerateOptions options = tokens(24);
  const Generation at_wide = wide.generate("Hugo has", options);
  std::vector<std::size_t> asked;
  options.variant_at = [&](std::size_t token) {
    asked.push_back(token);
    return token < 8 || token >= 16 ? wide : narrow;
  };
  const Generation switched = wide.generate("Hugo has", options);
  ASSERT_EQ(switched.ids.size(), 24U);
  EXPECT_EQ(asked.size(), 23U);
  EXPECT_EQ(asked.front(), 1U);
  // Token 8 is the first that 2 bits made.
  EXPECT_TRUE(std::equal(at_wide.ids.begin(), at_wide.ids.begin() + 8, switched.ids.begin()));
  EXPECT_NE(switched.ids, at_wide.ids);
  EXPECT_EQ(switched.kv_bytes, at_wide.kv_bytes);
}

TEST_F(VariantsTest, AVariantOfAnotherModelIsRefused) {
  const Variant variant = model_.variant();
  const Variant other = Model::open(kNanoModel).variant();
  GenerateOptions options = tokens(4);
  options.variant_at = [&](std::size_t) { return other; };
  EXPECT_EQ(error_of([&] { variant.generate("Hugo", options); }).kind, ErrorKind::kUsage);
}

TEST_F(VariantsTest, WhatACallbackThrowsPassesThrough) {
  const Variant variant = model_.variant();
  GenerateOptions options = tokens(4);
  options.on_text = [](std::string_view) -> bool { throw std::out_of_range("mine"); };
  EXPECT_THROW(variant.generate("Hugo", options), std::out_of_range);
  options.on_text = nullptr;
  options.variant_at = [](std::size_t) -> Variant { throw 7; };
  EXPECT_THROW(variant.generate("Hugo", options), int);
  EXPECT_EQ(variant.generate("Hugo", tokens(4)).ids.size(), 4U);
}

TEST_F(VariantsTest, TwoThreadsShareAModel) {
  const Variant eight = model_.variant({.precision = "8"});
  const Variant four = model_.variant({.precision = "4"});
  const GenerateOptions options = tokens(16);
  const Generation expected[] = {eight.generate("Hugo has", options),
                                 four.generate("Nora lives", options)};
  Generation found[2];
  double scores[2] = {};
  std::thread one([&] {
    found[0] = eight.generate("Hugo has", options);
    scores[0] = eight.score("Hugo has", " a wool scarf").log_likelihood;
  });
  std::thread two([&] {
    found[1] = four.generate("Nora lives", options);
    scores[1] =
        model_.variant({.precision = "4"}).score("Hugo has", " a wool scarf").log_likelihood;
  });
  one.join();
  two.join();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(found[i].ids, expected[i].ids);
  EXPECT_EQ(scores[0], eight.score("Hugo has", " a wool scarf").log_likelihood);
  EXPECT_EQ(scores[1], four.score("Hugo has", " a wool scarf").log_likelihood);
}

TEST_F(VariantsTest, AVariantKeepsItsModelOpen) {
  std::vector<std::int32_t> expected = model_.variant().generate("Hugo has", tokens(4)).ids;
  const Variant variant = Model::open(kNanoModel).variant();
  EXPECT_EQ(variant.generate("Hugo has", tokens(4)).ids, expected);
}

TEST_F(VariantsTest, ErrorsHaveTheirKinds) {
  const Variant variant = model_.variant({.precision = "8"});
  const auto kind = [](const auto& action) { return error_of(action).kind; };
  EXPECT_EQ(kind([] { Model::open("/nowhere"); }), ErrorKind::kNotFound);
  EXPECT_EQ(kind([] { Model::open(""); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([] { Model::open(kNanoModel, {.threads = -1}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { model_.variant({.precision = "9"}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { model_.variant({.adapter = "/nowhere"}); }), ErrorKind::kNotFound);
  EXPECT_EQ(kind([&] { model_.variant({.adapter = kNanoModel}); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { model_.variant({.precision = "8", .scheme = "g7"}); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { variant.generate("\xff"); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.generate("Hugo", tokens(0)); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { variant.score("Hugo", ""); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.score("\xff", "a"); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.score_texts(std::vector<std::string>{}); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.answer("Who?", "Hugo."); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.classify("Hugo"); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { model_.decode(std::vector<std::int32_t>{9999}); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { model_.encode("\xff"); }), ErrorKind::kBadInput);
  std::string longest;
  for (int i = 0; i < 300; ++i) longest += "Hugo ";
  EXPECT_EQ(kind([&] { variant.generate(longest); }), ErrorKind::kBadInput);
  EXPECT_EQ(kind([&] { variant.score(longest, "a"); }), ErrorKind::kBadInput);
}

TEST_F(VariantsTest, AdaptersAreReadOnceAndWarnEveryTime) {
  const std::string path = random_adapter("adapter", weights::HeadKind::kLm, 5);
  const Variant first = model_.variant({.precision = "8", .adapter = path});
  const Variant second = model_.variant({.precision = "4", .adapter = path});
  EXPECT_EQ(first.warnings(), second.warnings());
  EXPECT_FALSE(first.warnings().empty());  // a plain PEFT directory serves every width
  EXPECT_GT(first.bytes().adapters, 0U);
  EXPECT_NE(first.generate("Hugo", tokens(8)).ids,
            model_.variant({.precision = "8"}).generate("Hugo", tokens(8)).ids);
}

}  // namespace variants_test
}  // namespace qalof
