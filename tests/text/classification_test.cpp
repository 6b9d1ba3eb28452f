#include "text/classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::text {
namespace {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::HasSubstr;

class ClassificationFiles : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& contents) const {
    std::ofstream(dir_.file(name), std::ios::binary) << contents;
    return dir_.file(name);
  }
  std::vector<LabeledText> read(const std::string& path) const {
    std::vector<LabeledText> examples;
    read_classification(path, [&](LabeledText&& example) {
      examples.push_back(std::move(example));
      return true;
    });
    return examples;
  }
  std::string refusal(const std::string& name, const std::string& contents) const {
    const std::string path = write(name, contents);
    const auto error = error_of([&] { scan_classification(path); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << contents;
    return error.message;
  }

  TempDir dir_;
};

TEST_F(ClassificationFiles, TsvIsSentenceAndLabelWithOrWithoutAHeader) {
  const std::string rows =
      "it 's \"fine\" , really\t1\r\nno , it is not\t0\nlast without an end\t1";
  for (const std::string& header : {std::string(), std::string("sentence\tlabel\n")}) {
    const std::string path = write("a.tsv", header + rows);
    const auto examples = read(path);
    ASSERT_EQ(examples.size(), 3U);
    EXPECT_EQ(examples[0].text, "it 's \"fine\" , really");
    EXPECT_EQ(examples[0].label, 1);
    EXPECT_EQ(examples[1].label, 0);
    EXPECT_EQ(examples[2].text, "last without an end");
    EXPECT_EQ(examples[2].line, header.empty() ? 3U : 4U);
    const ClassificationFile file = scan_classification(path);
    EXPECT_EQ(file.num_labels, 2U);
    EXPECT_EQ(file.label_names, (std::vector<std::string>{"0", "1"}));
    EXPECT_EQ(file.examples, 3U);
  }
}

TEST_F(ClassificationFiles, CsvIsClassTitleAndDescriptionCountedFromOne) {
  const std::string path = write("a.csv",
                                 "Class Index,Title,Description\n"
                                 "\"3\",\"A \"\"quoted\"\" title\",\"two\nlines, a comma\"\r\n"
                                 "1,plain,text\n"
                                 "\"2\",\"\",\"d\\$5\"\n");
  const auto examples = read(path);
  ASSERT_EQ(examples.size(), 3U);
  EXPECT_EQ(examples[0].text, "A \"quoted\" title two\nlines, a comma");
  EXPECT_EQ(examples[0].label, 2);
  EXPECT_EQ(examples[0].line, 2U);
  EXPECT_EQ(examples[1].text, "plain text");
  EXPECT_EQ(examples[1].line, 4U);
  EXPECT_EQ(examples[2].text, " d\\$5");
  EXPECT_EQ(scan_classification(path).label_names, (std::vector<std::string>{"1", "2", "3"}));
}

TEST_F(ClassificationFiles, BadLinesAreNamed) {
  const std::string good = "a\t0\nb\t1\n";
  EXPECT_THAT(refusal("a.tsv", good + "no label\n"), HasSubstr("a.tsv: line 3: 1 fields"));
  EXPECT_THAT(refusal("a.tsv", good + "x\ty\t1\n"), HasSubstr("line 3: 3 fields"));
  EXPECT_THAT(refusal("a.tsv", good + "\n"), HasSubstr("line 3"));
  EXPECT_THAT(refusal("a.tsv", good + "\t1\n"), HasSubstr("line 3: an empty sentence"));
  for (const char* label : {"", "-1", "01", "1.0", "x", "1000", "99999999999999999999", "1 "}) {
    EXPECT_THAT(refusal("a.tsv", good + "c\t" + label + "\n"), HasSubstr("line 3: label")) << label;
  }
  EXPECT_THAT(refusal("a.tsv", "c\t7\n" + good), HasSubstr("line 1: label 7, but none"));
  EXPECT_THAT(refusal("a.tsv", "a\t0\n"), HasSubstr("1 classes"));
  EXPECT_THAT(refusal("a.tsv", ""), HasSubstr("0 classes"));
  EXPECT_THAT(refusal("a.tsv", good + "\xff\t1\n"), HasSubstr("line 3: bytes that are not UTF-8"));
  EXPECT_THAT(refusal("a.tsv", good + std::string("a\0b\t1\n", 6)), HasSubstr("line 3: a NUL"));
  EXPECT_THAT(refusal("a.tsv", good + std::string(40, '\t')), HasSubstr("line 3: too many fields"));
  EXPECT_THAT(refusal("a.tsv", good + std::string(5 << 20, 'x')), HasSubstr("line 3: more than"));
  EXPECT_THAT(refusal("a.csv", "0,a,b\n"), HasSubstr("line 1: label \"0\", expected 1..1000"));
  EXPECT_THAT(refusal("a.csv", "1,a,b\n2,a\n"), HasSubstr("line 2: 2 fields"));
  EXPECT_THAT(refusal("a.csv", "1,a,b\n2,\"a\nb,c"), HasSubstr("line 2: a quoted field"));
  EXPECT_THAT(refusal("a.csv", "1,a,\"b\"c\n"), HasSubstr("text behind a quoted field"));
  EXPECT_THAT(refusal("a.csv", "1,a,b\"c\"\n"), HasSubstr("a quotation mark inside a field"));
}

TEST_F(ClassificationFiles, OtherNamesAndMissingFilesAreRefused) {
  EXPECT_EQ(error_of([&] { scan_classification(write("a.json", "[]")); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { scan_classification(dir_.file("none.tsv")); }).kind,
            ErrorKind::kNotFound);
}

TEST_F(ClassificationFiles, ReadingStopsWhenToldTo) {
  const std::string path = write("a.tsv", "a\t0\nb\t1\nbroken\n");
  int taken = 0;
  read_classification(path, [&](LabeledText&&) { return ++taken < 2; });
  EXPECT_EQ(taken, 2);
}

}  // namespace
}  // namespace qalof::text
