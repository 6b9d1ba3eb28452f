// Reading SQuAD files: nested and flat forms, ids, answers to locate, and damaged files.
#include "text/squad.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::text {
namespace squad_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::HasSubstr;

constexpr const char* kNested = R"({"version": "v2.0", "data": [
 {"title": "question", "paragraphs": [
  {"context": "The cat sat.", "qas": [
   {"id": "1", "question": "Who?", "answers": [{"text": "cat", "answer_start": 4}], "is_impossible": false},
   {"question": "Why?", "id": "2", "is_impossible": true, "answers": [],
    "plausible_answers": [{"text": "sat", "answer_start": 8}]}]},
  {"qas": [], "context": "Nothing asked."}]},
 {"paragraphs": [{"qas": [{"answers": [{"answer_start": 0, "text": "Ein"}, {"answer_start": 0, "text": "Ein Hund"}],
   "question": "Was?", "id": "1"}], "context": "Ein Hund."}], "title": "B"}]})";
constexpr const char* kExample =
    R"({"id": "a", "title": "T", "context": "Ein Hund.", "question": "Was?",)"
    R"( "answers": {"text": ["Hund", "Ein"], "answer_start": [4, 0]}})";
constexpr const char* kOther =
    R"({"context": "x y", "question": "?", "id": "b", "answers": {"text": [], "answer_start": []}})";

class Squad : public ::testing::Test {
 protected:
  std::string write(const std::string& text, const std::string& name = "data.json") {
    std::ofstream(directory_.file(name), std::ios::binary) << text;
    return directory_.file(name);
  }
  std::vector<SquadParagraph> read(const std::string& text) {
    std::vector<SquadParagraph> paragraphs;
    summary_ = read_squad(write(text), [&](SquadParagraph&& paragraph) {
      paragraphs.push_back(std::move(paragraph));
      return true;
    });
    return paragraphs;
  }
  void expect_refused(const std::string& text, ErrorKind kind, const std::string& piece) {
    const std::string path = write(text);
    const auto error = error_of([&] { scan_squad(path); });
    EXPECT_EQ(error.kind, kind) << text.substr(0, 200);
    EXPECT_THAT(error.message, HasSubstr(piece)) << text.substr(0, 200);
    EXPECT_THAT(error.message, HasSubstr("data.json")) << text.substr(0, 200);
  }

  TempDir directory_;
  SquadSummary summary_;
};

TEST_F(Squad, NestedFormInAnyKeyOrder) {
  const auto paragraphs = read(kNested);
  ASSERT_EQ(paragraphs.size(), 3U);
  EXPECT_EQ(paragraphs[0].title, "question");
  EXPECT_EQ(paragraphs[0].context, "The cat sat.");
  ASSERT_EQ(paragraphs[0].questions.size(), 2U);
  EXPECT_EQ(paragraphs[0].questions[0].answers.at(0).text, "cat");
  EXPECT_EQ(paragraphs[0].questions[0].answers.at(0).start, 4);
  EXPECT_FALSE(paragraphs[0].questions[0].is_impossible);
  EXPECT_TRUE(paragraphs[0].questions[1].is_impossible);
  EXPECT_TRUE(paragraphs[0].questions[1].answers.empty());
  EXPECT_EQ(paragraphs[2].context, "Ein Hund.");
  EXPECT_EQ(paragraphs[2].questions.at(0).id, "1");  // ids may repeat
  EXPECT_EQ(paragraphs[2].questions.at(0).answers.size(), 2U);
  EXPECT_EQ(summary_.form, SquadForm::kNested);
  EXPECT_EQ(summary_.questions, 3U);
  EXPECT_EQ(summary_.paragraphs, 3U);
  EXPECT_EQ(summary_.unanswered, 1U);
  EXPECT_TRUE(summary_.has_is_impossible);
}

TEST_F(Squad, FlatFormsAreTheSameExamples) {
  const std::string a = kExample, b = kOther;
  const std::pair<std::string, SquadForm> forms[] = {
      {"{\"version\": 1, \"data\": [" + a + "," + b + "]}", SquadForm::kFlat},
      {" [" + a + "," + b + "]\n", SquadForm::kFlat},
      {a + "\n" + b + "\n", SquadForm::kJsonLines},
      {"\n  " + a + "\r\n\n" + b, SquadForm::kJsonLines},
  };
  for (const auto& [text, form] : forms) {
    const auto paragraphs = read(text);
    EXPECT_EQ(summary_.form, form) << text;
    ASSERT_EQ(paragraphs.size(), 2U) << text;
    EXPECT_EQ(paragraphs[0].context, "Ein Hund.");
    const SquadQuestion& first = paragraphs[0].questions.at(0);
    EXPECT_EQ(first.id, "a");
    ASSERT_EQ(first.answers.size(), 2U);
    EXPECT_EQ(first.answers[0].text, "Hund");
    EXPECT_EQ(first.answers[0].start, 4);
    EXPECT_EQ(paragraphs[1].questions.at(0).id, "b");
    EXPECT_EQ(summary_.unanswered, 1U);
    EXPECT_FALSE(summary_.has_is_impossible);
  }
}

TEST_F(Squad, NumbersAreIdsAsPythonWritesThem) {
  const std::pair<std::string, std::string> ids[] = {
      {"7", "7"},        {"-3", "-3"},
      {"0", "0"},        {"18446744073709551615", "18446744073709551615"},
      {"7.0", "7.0"},    {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"\"7\"", "7"},    {"1e3", "1000.0"},
      {"\"007\"", "007"}};
  for (const auto& [written, id] : ids) {
    for (const std::string& text :
         {R"([{"context": "c", "question": "?", "id": )" + written + "}]",
          R"({"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "?", "id": )" +
              written + "}]}]}]}",
          R"({"context": "c", "question": "?", "id": )" + written + "}\n"}) {
      EXPECT_EQ(read(text).at(0).questions.at(0).id, id) << text;
    }
  }
}

TEST_F(Squad, ValuesAreReadAsExportsWriteThem) {
  auto question = [&](const std::string& more) {
    return read(
               R"({"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1, "question": "?", )" +
               more + "}]}]}]}")
        .at(0)
        .questions.at(0);
  };
  const std::pair<std::string, std::int64_t> starts[] = {
      {"83", 83}, {"83.0", 83}, {"\"83\"", 83}, {"\"83.0\"", 83},
      {"-1", -1}, {"-1.0", -1}, {"\"-1\"", -1}};
  for (const auto& [written, start] : starts) {
    for (const std::string& answers : {R"([{"text": "x", "answer_start": )" + written + "}]",
                                       R"({"text": ["x"], "answer_start": [)" + written + "]}",
                                       R"({"answer_start": )" + written + R"(, "text": "x"})"}) {
      const SquadQuestion found = question("\"answers\": " + answers);
      ASSERT_EQ(found.answers.size(), 1U) << answers;
      EXPECT_EQ(found.answers[0].start, start) << answers;
      EXPECT_EQ(found.answers[0].text, "x") << answers;
    }
  }
  const std::pair<std::string, bool> truths[] = {
      {"true", true},     {"1", true},          {"1.0", true},        {"\"true\"", true},
      {"\"True\"", true}, {"\"1\"", true},      {"false", false},     {"0", false},
      {"0.0", false},     {"\"false\"", false}, {"\"False\"", false}, {"\"0\"", false}};
  for (const auto& [written, is_impossible] : truths) {
    EXPECT_EQ(question("\"is_impossible\": " + written).is_impossible, is_impossible) << written;
    EXPECT_TRUE(summary_.has_is_impossible) << written;
  }
  for (const std::string written : {"2", "-1", "0.5", "\"no\"", "\"\"", "[]"}) {
    expect_refused(R"([{"id": 1, "is_impossible": )" + written + "}]", ErrorKind::kBadInput,
                   "is_impossible: found");
  }
  // No text nowhere is no answer.
  for (const std::string answers :
       {"null", "[]", R"([{"text": "", "answer_start": -1}])",
        R"({"text": "", "answer_start": -1})", R"({"text": [""], "answer_start": [-1]})",
        R"({"text": [], "answer_start": []})"}) {
    EXPECT_TRUE(question("\"answers\": " + answers).answers.empty()) << answers;
    EXPECT_EQ(summary_.unanswered, 1U) << answers;
  }
  expect_refused(R"([{"answers": {"text": "x", "text": ["y"]}}])", ErrorKind::kBadInput,
                 "answers.text: appears twice");
  expect_refused(R"([{"id": 1, "question": "?", "context": "c", "answers": {"text": "x"}}])",
                 ErrorKind::kBadInput, "answers has 1 texts and 0 positions");
}

TEST_F(Squad, MarksAndLineEndsDoNotMatter) {
  const std::string mark = "\xef\xbb\xbf";
  EXPECT_EQ(read(mark + kNested).size(), 3U);
  for (const std::string end : {"\n", "\r\n", "\r"}) {
    const std::string lines = end + kExample + end + end + "  " + end + kOther + end + end;
    for (const std::string& text : {lines, mark + lines, mark + lines.substr(end.size())}) {
      EXPECT_EQ(read(text).size(), 2U) << text;
      EXPECT_EQ(summary_.form, SquadForm::kJsonLines);
    }
    expect_refused(std::string(kExample) + end + end + "{\"id\": []}", ErrorKind::kBadInput,
                   "line 3: id: found a list");
  }
  expect_refused(mark, ErrorKind::kCorruptFile, "not valid JSON");
  expect_refused(std::string("\xff\xfe{\0", 4), ErrorKind::kCorruptFile,
                 "begins with the byte order mark of UTF-16, expected UTF-8");
  expect_refused(R"([{"id": NaN}])", ErrorKind::kCorruptFile, "JSON has no NaN");
  expect_refused(R"([{"id": -Infinity}])", ErrorKind::kCorruptFile, "JSON has no NaN");
}

TEST_F(Squad, AnIdBesideTheDataIsNoExample) {
  EXPECT_EQ(read(std::string(R"({"id": "set", "data": [)") + kExample + "]}").size(), 1U);
  EXPECT_EQ(summary_.form, SquadForm::kFlat);
}

TEST_F(Squad, RepeatedIdsAreCounted) {
  std::string qas;
  for (const char* id : {"1", "\"1\"", "\"b\"", "2", "\"b\"", "1"})
    qas += fmt::format("{}{{\"id\": {}, \"question\": \"?\"}}", qas.empty() ? "" : ", ", id);
  const std::string path =
      write(R"({"data": [{"paragraphs": [{"context": "c", "qas": [)" + qas + "]}]}]}");
  using Counts = std::unordered_map<std::string, std::uint64_t>;
  EXPECT_EQ(repeated_ids(path, 0), (Counts{{"1", 3}, {"b", 2}}));
  EXPECT_EQ(repeated_ids(path, 4), (Counts{{"1", 2}}));
  EXPECT_EQ(repeated_ids(path, 1), Counts());
}

TEST_F(Squad, StopsWhenAskedTo) {
  int seen = 0;
  read_squad(write(kNested), [&](SquadParagraph&&) { return ++seen < 2; });
  EXPECT_EQ(seen, 2);
}

TEST_F(Squad, ScanCountsAnswersThatStandElsewhere) {
  const SquadSummary summary =
      scan_squad(write(R"([{"id": "1", "question": "?", "context": "a cat, a cat", "answers":)"
                       R"( {"text": ["cat", "cat", "dog", ""], "answer_start": [2, 5, 0, 0]}}])"));
  EXPECT_EQ(summary.moved_answers, 1U);
  EXPECT_EQ(summary.lost_answers, 2U);
}

TEST(FindAnswer, IsTheNearestOccurrenceInCodePoints) {
  const std::string context = "\U0001f600 ab \u00e9 ab \u4e2d ab";  // ab at 2, 7 and 12
  const std::pair<std::int64_t, std::int64_t> cases[] = {{2, 2}, {0, 2}, {4, 2},   {5, 7},
                                                         {7, 7}, {9, 7}, {10, 12}, {99, 12}};
  for (const auto& [start, expected] : cases)
    EXPECT_EQ(find_answer(context, {"ab", start}), expected) << start;
  EXPECT_EQ(find_answer(context, {"abc", 0}), -1);
  EXPECT_EQ(find_answer(context, {"", 0}), -1);
  EXPECT_EQ(find_answer("", {"a", 0}), -1);
  EXPECT_EQ(find_answer("ab ab", {"ab", kUnknownStart}), 0);
  EXPECT_EQ(find_answer("b ab ab", {"ab", kUnknownStart}), 2);
  EXPECT_EQ(find_answer("b", {"ab", kUnknownStart}), -1);
  EXPECT_EQ(find_answer("aaaa", {"aa", 3}), 2);  // overlapping occurrences count
}

TEST(FindAnswer, RepetitionIsNoQuadraticWork) {
  const std::string context = std::string(4 << 20, 'a') + "b";
  EXPECT_EQ(find_answer(context, {std::string(2 << 20, 'a') + "c", 0}), -1);
  EXPECT_EQ(find_answer(context, {std::string(2 << 20, 'a') + "b", 0}), 2 << 20);
}

TEST_F(Squad, CorruptFilesAreRefusedWithTheirPlace) {
  const auto corrupt = ErrorKind::kCorruptFile;
  const auto bad = ErrorKind::kBadInput;
  auto question = [](const std::string& qa) {
    return R"({"data": [{"paragraphs": [{"context": "c", "qas": []}]}, {"paragraphs": [{"context": "c", "qas": [)" +
           qa + "]}]}]}";
  };
  const std::string place = "data[1].paragraphs[0].qas[0]";
  expect_refused("", corrupt, "not valid JSON");
  expect_refused("nonsense", corrupt, "not valid JSON");
  expect_refused(std::string(kNested) + "x", corrupt, "not valid JSON");
  expect_refused("{\"data\": [{\"title\": \"\xff\"}]}", corrupt, "not valid JSON");
  expect_refused("{\"data\": [{\"title\": \"\\ud800\"}]}", corrupt, "not valid JSON");
  expect_refused("3", bad, "found 3, expected an object or a list");
  expect_refused("null", bad, "found null");
  expect_refused("{}", bad, "holds no list of examples");
  expect_refused("[]", bad, "holds no questions");
  expect_refused(R"({"data": []})", bad, "holds no questions");
  expect_refused(R"({"data": {}})", bad, "data: found an object, expected a list");
  expect_refused(R"({"data": 7})", bad, "data: found 7, expected a list");
  expect_refused(R"({"data": [7]})", bad, "data[0]: found 7, expected an object");
  expect_refused(R"({"data": [], "data": []})", bad, "data: appears twice");
  expect_refused(R"({"data": [{"title": "t"}]})", bad, "data[0]: id is missing");
  expect_refused(R"({"data": [{"paragraphs": "p"}]})", bad,
                 "data[0].paragraphs: found a string, expected a list");
  expect_refused(R"({"data": [{"paragraphs": [{"qas": []}]}]})", bad,
                 "data[0].paragraphs[0]: context is missing");
  expect_refused(R"({"data": [{"paragraphs": [{"context": "c"}]}]})", bad,
                 "data[0].paragraphs[0]: qas is missing");
  expect_refused(R"({"data": [{"paragraphs": [{"context": 5, "qas": []}]}]})", bad,
                 "context: found 5, expected a string");
  expect_refused(R"({"data": [{"paragraphs": [{"context": "a", "context": "b"}]}]})", bad,
                 "context: appears twice");
  expect_refused(question("{}"), bad, place + ": id is missing");
  expect_refused(question(R"({"id": null})"), bad,
                 place + ".id: found null, expected a string or a number");
  expect_refused(question("{\"id\": \"" + std::string(70'000, 'x') + "\"}"), bad,
                 place + ".id: a string of 70000 bytes, at most 65536 are read");
  expect_refused(question(R"({"id": "1"})"), bad, place + ": question is missing");
  expect_refused(question(R"({"id": "1", "is_impossible": "no"})"), bad,
                 place + ".is_impossible: found a string, expected true or false");
  expect_refused(question(R"({"id": "1", "answers": "x"})"), bad,
                 place + ".answers: found a string");
  expect_refused(question(R"({"id": "1", "answers": [[]]})"), bad,
                 place + ".answers[0]: found a list, expected an object");
  expect_refused(question(R"({"id": "1", "answers": [{"text": "x"}]})"), bad,
                 place + ".answers[0]: answer_start is missing");
  expect_refused(question(R"({"id": "1", "answers": [{"answer_start": 1}]})"), bad,
                 place + ".answers[0]: text is missing");
  for (const std::string start : {"-2", "1.5", "\"four\"", "\"1.5\"", "\"\"", "true", "null",
                                  "4294967296", "99999999999999999999"}) {
    expect_refused(
        question(R"({"id": "1", "answers": [{"text": "x", "answer_start": )" + start + "}]}"), bad,
        place + ".answers[0].answer_start: found");
  }
  expect_refused(
      R"([{"id": "1", "question": "?", "context": "c", "answers": {"text": ["a"], "answer_start": []}}])",
      bad, "answers has 1 texts and 0 positions");
  expect_refused(R"([{"id": "1", "question": "?", "answers": null}])", bad,
                 "[0]: context is missing");
  expect_refused(R"([{"paragraphs": []}, )" + std::string(kExample) + "]", bad,
                 "[1]: paragraphs is missing");
  expect_refused(std::string("[") + kExample + R"(, {"paragraphs": []}])", bad,
                 "[1].paragraphs: an article among questions");
  expect_refused(std::string(kExample) + "\n{\"id\": []}", bad, "line 2: id: found a list");
  expect_refused(std::string(kExample) + "\n[]", bad, "line 2: found a list");
  expect_refused(R"([{"id": 7, "question": " \n", "context": ""}])", bad,
                 "[0]: question \"7\" and its context are empty");
  expect_refused(std::string(kExample) + "\n\n{\"id\": ", corrupt, "line 3: not valid JSON");
  expect_refused(std::string(kExample) + " " + kExample, corrupt, "line 1: not valid JSON");
}

TEST_F(Squad, DepthAndLengthHaveLimits) {
  const std::string deep(100'000, '[');
  expect_refused(R"({"data": [{"x": )" + deep, ErrorKind::kBadInput, "more than 32 levels");
  expect_refused(deep, ErrorKind::kBadInput, "[0]: found a list, expected an object");
  expect_refused(R"({"x": )" + deep, ErrorKind::kBadInput, "more than 32 levels");
  expect_refused("{\"data\": [{\"title\": \"" + std::string(5 << 20, 'x') + "\"}]}",
                 ErrorKind::kBadInput, "at most 4194304");
  expect_refused("{\"data\": [" + std::string(2 << 20, '\n'), ErrorKind::kCorruptFile,
                 "bytes of white space");
  expect_refused("{\"data\": [{\"title\": \"" + std::string(10 << 20, 'x'), ErrorKind::kBadInput,
                 "a value of more than");
  const std::string part = "{\"id\": \"1\", \"question\": \"" + std::string(4 << 20, 'x') + "\"}";
  std::string parts = part;
  for (int i = 1; i < 17; ++i) parts += "," + part;
  expect_refused(R"({"data": [{"paragraphs": [{"qas": [)" + parts + "]}]}]}", ErrorKind::kBadInput,
                 "a paragraph of more than");
}

TEST_F(Squad, ATruncatedFileIsRefusedAtEveryByte) {
  for (const std::string& whole : {std::string(kNested), fmt::format("[{}]", kExample)}) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const std::string path = write(whole.substr(0, size));
      EXPECT_EQ(error_of([&] { scan_squad(path); }).kind, ErrorKind::kCorruptFile) << size;
    }
  }
  // JSON lines cannot tell a missing line; within one the cut is found.
  const std::string lines = std::string(kExample) + "\n" + kOther + "\n";
  const std::size_t first = std::string(kExample).size(),
                    second = first + 1 + std::string(kOther).size();
  for (std::size_t size = 0; size < lines.size(); ++size) {
    const std::string path = write(lines.substr(0, size));
    if (size == first || size == first + 1 || size == second) {
      EXPECT_EQ(scan_squad(path).questions, size == second ? 2U : 1U);
    } else {
      EXPECT_EQ(error_of([&] { scan_squad(path); }).kind, ErrorKind::kCorruptFile) << size;
    }
  }
}

TEST_F(Squad, FlippedBytesAreRefusedOrReadButNeverMore) {
  const std::string whole = kNested;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string text = whole;
    text[i] = static_cast<char>(static_cast<unsigned char>(text[i]) ^ (1U << (i % 8)));
    const std::string path = write(text);
    try {
      EXPECT_LE(scan_squad(path).questions, 3U);
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kBadInput || error.kind() == ErrorKind::kCorruptFile)
          << error.what();
    }
  }
}

TEST_F(Squad, WhatIsNoFileIsRefused) {
  EXPECT_EQ(error_of([&] { scan_squad(directory_.file("none.json")); }).kind, ErrorKind::kNotFound);
  EXPECT_EQ(error_of([&] { scan_squad(directory_.path()); }).kind, ErrorKind::kBadInput);
}

}  // namespace squad_test
}  // namespace qalof::text
