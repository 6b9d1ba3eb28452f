// Classification files (TSV, CSV): columns, headers, labels, and errors that name the line.
#include "text/classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::text {
namespace classification_test {

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
  EXPECT_THAT(refusal("a.tsv", good + "\t1\n"), HasSubstr("line 3: an empty sentence"));
  for (const char* label : {"", "-1", "01", "1.5", "x", "1000", "99999999999999999999", "\"1\""}) {
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
  EXPECT_THAT(refusal("a.csv", "1,a,\"b\"c\n"), HasSubstr("text after a quoted field"));
  EXPECT_THAT(refusal("a.csv", "1,a,b\"c\"\n"), HasSubstr("a quotation mark inside a field"));
}

TEST_F(ClassificationFiles, MarksLineEndsAndEmptyLinesDoNotMatter) {
  for (const std::string mark : {"", "\xef\xbb\xbf"}) {
    for (const std::string end : {"\n", "\r\n", "\r"}) {
      const std::string tsv = mark + "sentence\tlabel" + end + end + "the red boat\t1" + end +
                              "a small pony\t0" + end + end;
      const std::string csv = mark + "Class Index,Title,Description" + end + end +
                              "2,the red,boat" + end + "1,\"a small\",\"pony\"" + end + end;
      for (const std::string& path : {write("a.tsv", tsv), write("a.csv", csv)}) {
        const auto examples = read(path);
        ASSERT_EQ(examples.size(), 2U) << path;
        EXPECT_EQ(examples[0].text, "the red boat");
        EXPECT_EQ(examples[0].label, 1);
        EXPECT_EQ(examples[0].line, 3U);
        EXPECT_EQ(examples[1].text, "a small pony");
        EXPECT_EQ(scan_classification(path).num_labels, 2U);
      }
    }
    // Nothing, or nothing but a header.
    for (const std::string rest : {"", "\n", "sentence\tlabel\n"}) {
      EXPECT_THAT(refusal("a.tsv", mark + rest), HasSubstr("0 classes"));
      EXPECT_TRUE(read(write("a.tsv", mark + rest)).empty());
    }
    EXPECT_TRUE(read(write("a.csv", mark + "text,label\n")).empty());
  }
}

TEST_F(ClassificationFiles, LabelsMayLookLikeFloats) {
  const auto examples = read(write("a.tsv", "a\t1.0\nb\t0.0\nc\t 1 \n"));
  ASSERT_EQ(examples.size(), 3U);
  EXPECT_EQ(examples[0].label, 1);
  EXPECT_EQ(examples[1].label, 0);
  EXPECT_EQ(examples[2].label, 1);
}

TEST_F(ClassificationFiles, AHeaderGivesTheColumns) {
  const struct {
    const char *name, *contents;
  } files[] = {
      {"a.tsv", "label\tsentence\n1\tred boat\n0\tpony\n"},
      {"a.tsv", "Sentence \tLabel\nred boat\t1\npony\t0\n"},
      {"a.tsv", "idx\treview\tlabel\n0\tred boat\t1\n1\tpony\t0\n"},
      {"a.tsv", "Class Index\tText\n2\tred boat\n1\tpony\n"},
      {"a.csv", "text,label\nred boat,1\npony,0\n"},
      {"a.csv", ",text,label\n0,red boat,1.0\n1,pony,0.0\n"},
      {"a.csv", "\"Class Index\",\"Title\",\"Description\"\n\"2\",\"red\",\"boat\"\n1,pony,\n"},
      {"a.csv", "label,title,description\n1,red,boat\n0,pony,\n"},
      {"a.csv", "tweet,label\nred boat,1\npony,0\n"},
      {"a.csv", "2,red boat\n1,pony\n"},
      {"a.csv", "2,red,boat\n1,pony,\n"},
  };
  for (const auto& [name, contents] : files) {
    const auto examples = read(write(name, contents));
    ASSERT_EQ(examples.size(), 2U) << contents;
    EXPECT_EQ(examples[0].text, "red boat") << contents;
    EXPECT_EQ(examples[0].label, 1) << contents;
    EXPECT_EQ(examples[1].label, 0) << contents;
  }
  EXPECT_EQ(scan_classification(write("a.csv", "text,label\na,1\nb,0\n")).label_names,
            (std::vector<std::string>{"0", "1"}));
}

TEST_F(ClassificationFiles, TwoReadingsAreRefused) {
  EXPECT_THAT(refusal("a.tsv", "sentence\tlabel\na\t-1\nb\t-1\n"),
              HasSubstr("line 2: label \"-1\", expected 0..999; -1 marks a text without a label"));
  EXPECT_THAT(refusal("a.csv", "1,a,b\n0,a,b\n"), HasSubstr("of a column named label at 0"));
  EXPECT_THAT(refusal("a.csv", "text,label\na,1\nb,2\n"),
              HasSubstr("a column \"label\" counts classes from 0, and no label is 0"));
  EXPECT_THAT(refusal("a.tsv", "index\tsentence\n0\ta\n"),
              HasSubstr("line 1: a header without a column of labels"));
  EXPECT_THAT(refusal("a.tsv", "label\tclass\n"), HasSubstr("line 1: two columns of labels"));
  EXPECT_THAT(refusal("a.tsv", "label\tidx\n"), HasSubstr("without a column of texts"));
  EXPECT_THAT(refusal("a.tsv", "sentence1\tsentence2\tlabel\n"),
              HasSubstr("line 1: columns \"sentence1\" and \"sentence2\", expected label"));
  EXPECT_THAT(refusal("a.tsv", "index\tquestion\tsentence\tlabel\n"),
              HasSubstr("line 1: column \"question\", expected label"));
  EXPECT_THAT(refusal("a.tsv", "idx\ttext\tlabel\n0\ta\t1\n1\tb\n"),
              HasSubstr("line 3: 2 fields, expected 3, as line 1 names them"));
  EXPECT_THAT(refusal("a.tsv", "a\tpositive\n"), HasSubstr("line 1: label \"positive\""));
  // As spreadsheets save "Unicode text".
  EXPECT_THAT(error_of([&] {
                scan_classification(write("a.tsv", std::string("\xff\xfe"
                                                               "a\0\t\0",
                                                               6)));
              }).message,
              HasSubstr("a.tsv: begins with the byte order mark of UTF-16"));
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

}  // namespace classification_test
}  // namespace qalof::text
