// Streaming text: pieces are whole code points, invalid bytes are replaced, stop strings end it.
#include "text/text_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "support/error_of.h"
#include "text/unicode.h"

namespace qalof::text {
namespace text_stream_test {

// Pieces as they come out of chunks of that many bytes.
std::vector<std::string> pieces_of(const std::string& bytes, std::size_t chunk,
                                   const std::vector<std::string>& stops = {}) {
  TextStream stream(stops);
  std::vector<std::string> pieces;
  for (std::size_t i = 0; i < bytes.size(); i += chunk)
    pieces.emplace_back(stream.push(std::string_view(bytes).substr(i, chunk)));
  pieces.emplace_back(stream.finish());
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

TEST(TextStreamTest, PiecesAreWholeCodePointsHoweverBytesAreCut) {
  const std::string text = "aé€😀z\u0301 end";
  for (std::size_t chunk = 1; chunk <= text.size(); ++chunk) {
    const std::vector<std::string> pieces = pieces_of(text, chunk);
    for (const std::string& piece : pieces)
      EXPECT_EQ(find_invalid_utf8(piece), std::string::npos) << piece;
    EXPECT_EQ(joined(pieces), text);
  }
}

TEST(TextStreamTest, CompleteTextIsNotHeldBack) {
  TextStream stream({"###"});
  EXPECT_EQ(stream.push("Hello "), "Hello ");
  EXPECT_EQ(stream.push("a#"), "a");
  EXPECT_EQ(stream.push("#b"), "##b");
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.push("\x98\x80"), "😀");
}

// Expected values are those of Python's bytes.decode("utf-8", errors="replace").
TEST(TextStreamTest, WhatIsNotUtf8IsReplacedAsPythonDoes) {
  const std::string r = "\uFFFD";
  const std::pair<std::string, std::string> cases[] = {
      {"\xFF", r},
      {"a\x80\x80z", "a" + r + r + "z"},
      {"\xE2\x82", r},
      {"\xE2\x82z", r + "z"},
      {"\xC0\xAF", r + r},
      {"\xED\xA0\x80", r + r + r},
      {"\xF0\x9F\x98", r},
      {"\xF0\x80\x80\x80", r + r + r + r},
      {"\xF4\x90\x80\x80", r + r + r + r},
      {"\xF0\x9F\x98\xE2\x82\xAC", r + "€"},
      {"\xE2\xE2\x82\xAC", r + "€"},
  };
  for (const auto& [bytes, expected] : cases) {
    for (std::size_t chunk = 1; chunk <= bytes.size(); ++chunk)
      EXPECT_EQ(joined(pieces_of(bytes, chunk)), expected) << expected;
  }
}

TEST(TextStreamTest, StopStringEndsTheTextWhereverItIsCut) {
  const std::string text = "one two§ three§§ four";
  for (std::size_t chunk = 1; chunk <= text.size(); ++chunk) {
    EXPECT_EQ(joined(pieces_of(text, chunk, {"§§"})), "one two§ three");
    EXPECT_EQ(joined(pieces_of(text, chunk, {"four", " th"})), "one two§");
    EXPECT_EQ(joined(pieces_of(text, chunk, {"fourth", "x"})), text);
    EXPECT_EQ(joined(pieces_of(text, chunk, {"o"})), "");
  }
  TextStream stream({"b"});
  EXPECT_EQ(stream.push("ab"), "a");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("c"), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStreamTest, BadStopStringsAreRefused) {
  EXPECT_EQ(qalof::testing::error_of([] { TextStream stream({"a", ""}); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(qalof::testing::error_of([] { TextStream stream({"\xFF"}); }).kind, ErrorKind::kUsage);
}

TEST(TextStreamTest, RandomBytesAlwaysGiveValidText) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes(1 + random() % 12, '\0');
    for (char& byte : bytes)
      byte = static_cast<char>(random() % 3 == 0 ? random() : 0x80 | random());
    std::string first;
    for (const std::size_t chunk : {1, 2, 5, 12}) {
      const std::vector<std::string> pieces = pieces_of(bytes, chunk);
      for (const std::string& piece : pieces)
        EXPECT_EQ(find_invalid_utf8(piece), std::string::npos);
      if (chunk == 1) first = joined(pieces);
      EXPECT_EQ(joined(pieces), first);
    }
  }
}

}  // namespace text_stream_test
}  // namespace qalof::text
