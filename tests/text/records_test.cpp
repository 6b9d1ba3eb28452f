// Lines and quoted fields of text files: byte order marks, line ends, encodings, bad records.
#include "text/records.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/byte_order_mark.h"
#include "core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::text {
namespace records_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::HasSubstr;
using namespace std::string_literals;
using Records = std::vector<std::vector<std::string>>;

class RecordFiles : public ::testing::Test {
 protected:
  std::string write(const std::string& contents) const {
    std::ofstream(dir_.file("data"), std::ios::binary) << contents;
    return dir_.file("data");
  }
  Records read(const std::string& contents, char separator = '\t', bool quotes = false) {
    RecordReader reader(write(contents), {separator, quotes, "records"});
    Records records;
    lines_.clear();
    for (std::vector<std::string> fields; reader.next(&fields);) {
      records.push_back(fields);
      lines_.push_back(reader.line());
    }
    return records;
  }
  std::string refusal(const std::string& contents, bool quotes = false) {
    return error_of([&] { read(contents, quotes ? ',' : '\t', quotes); }).message;
  }

  TempDir dir_;
  std::vector<std::size_t> lines_;
};

TEST_F(RecordFiles, MarksLineEndsAndEmptyLinesDoNotMatter) {
  const Records expected = {{"a", "1"}, {"b", "2"}};
  for (const std::string mark : {"", "\xef\xbb\xbf"}) {
    for (const std::string end : {"\n", "\r\n", "\r"}) {
      const std::string text = "a\t1" + end + "b\t2";
      for (const std::string& contents :
           {text, text + end, text + end + end + end, text + end + "   " + end + end}) {
        EXPECT_EQ(read(mark + contents), expected) << contents;
        EXPECT_EQ(lines_, (std::vector<std::size_t>{1, 2}));
      }
      EXPECT_EQ(read(mark + end + "a\t1" + end + "  " + end + end + "b\t2"), expected);
      EXPECT_EQ(lines_, (std::vector<std::size_t>{2, 5}));
    }
    EXPECT_EQ(read(mark), Records());
    EXPECT_EQ(read(mark + "\r\n\n"), Records());
  }
}

TEST_F(RecordFiles, QuotedFieldsHoldWhateverTheyHold) {
  EXPECT_EQ(read("\"a\r\nb\n\",\"c \"\"d\"\"\"\r\ne,\rf\r", ',', true),
            (Records{{"a\r\nb\n", "c \"d\""}, {"e", ""}, {"f"}}));
  EXPECT_EQ(lines_, (std::vector<std::size_t>{1, 4, 5}));
  // Without quotes a mark is text.
  EXPECT_EQ(read("\"a\t\"\"\n"), (Records{{"\"a", "\"\""}}));
}

TEST_F(RecordFiles, BadRecordsAreNamed) {
  EXPECT_THAT(refusal("a\n\xef\xbb\xbf b\xff\n"),
              HasSubstr("data: line 2: bytes that are not UTF-8, at byte 7"));
  EXPECT_THAT(refusal("\xef\xbb\xbf"
                      "a\r\xff"),
              HasSubstr("line 2: bytes that are not UTF-8, at byte 5"));
  EXPECT_THAT(refusal("a\n\nb\0"s), HasSubstr("line 3: a NUL byte, expected records"));
  EXPECT_THAT(refusal("a\n\"b\nc", true), HasSubstr("line 2: a quoted field that does not end"));
  EXPECT_THAT(refusal("\"b\" c", true), HasSubstr("line 1: text after a quoted field"));
  EXPECT_THAT(refusal("b\"", true), HasSubstr("line 1: a quotation mark inside a field"));
  EXPECT_THAT(refusal(std::string(40, '\t')), HasSubstr("line 1: too many fields"));
  EXPECT_THAT(refusal("\"" + std::string(5 << 20, 'x'), true), HasSubstr("line 1: more than"));
}

TEST_F(RecordFiles, OtherEncodingsAreNamedWithWhatToDo) {
  for (const auto& [mark, name] : {std::pair{"\xff\xfe"s, "UTF-16"},
                                   {"\xfe\xff"s, "UTF-16"},
                                   {"\xff\xfe\0\0"s, "UTF-32"},
                                   {"\0\0\xfe\xff"s, "UTF-32"}}) {
    const std::string path = write(mark + "a\0\t\0"s);
    const auto expected =
        HasSubstr(fmt::format("data: begins with the byte order mark of {}, "
                              "expected UTF-8; save it as UTF-8, or convert it "
                              "with iconv -f {} -t UTF-8",
                              name, name));
    const auto records = error_of([&] { RecordReader(path, {}); });
    EXPECT_EQ(records.kind, ErrorKind::kCorruptFile);
    EXPECT_THAT(records.message, expected);
    EXPECT_THAT(error_of([&] { read_plain_text(path, 1 << 20); }).message, expected);
  }
  EXPECT_EQ(byte_order_mark("\xef\xbb", "x"), 0U);
}

TEST_F(RecordFiles, PlainTextIsWhatPythonReads) {
  PlainText text = read_plain_text(write("\xef\xbb\xbf"
                                         "a\r\nb\rc\r\r\n\nd\xef\xbb\xbf"),
                                   100);
  EXPECT_EQ(text.text, "a\nb\nc\n\n\nd\xef\xbb\xbf");
  EXPECT_TRUE(text.had_mark);
  EXPECT_TRUE(text.had_other_line_ends);
  EXPECT_EQ(text.changes("t"),
            "t: read without its byte order mark and its carriage returns, each line end being a "
            "line feed");
  text = read_plain_text(write("a\nb"), 100);
  EXPECT_EQ(text.text, "a\nb");
  EXPECT_FALSE(text.is_changed());
  EXPECT_EQ(read_plain_text(write(""), 100).text, "");
  EXPECT_EQ(read_plain_text(write("\xef\xbb\xbf"), 100).changes("t"),
            "t: read without its byte order mark");
  EXPECT_EQ(error_of([&] { read_plain_text(write("ab\nc\xe9"), 100); }).message,
            dir_.file("data") + ": line 2: bytes that are not UTF-8, at byte 4 of the file");
  EXPECT_EQ(error_of([&] { read_plain_text(write("abc"), 2); }).kind, ErrorKind::kBadInput);
}

TEST(WholeLines, AreThoseThatEndAndAreNotBlank) {
  std::vector<std::pair<std::string, std::size_t>> lines;
  const auto take = [&](std::string_view line, std::size_t number) {
    lines.emplace_back(line, number);
  };
  EXPECT_EQ(for_each_whole_line("a\n\n \r\nb\r\ncut", take), 9U);
  EXPECT_EQ(lines, (std::vector<std::pair<std::string, std::size_t>>{{"a", 1}, {"b\r", 4}}));
  EXPECT_EQ(for_each_whole_line("cut", take), 0U);
  EXPECT_EQ(lines.size(), 2U);
}

TEST(WholeNumbers, AreReadAsToolsWriteThem) {
  const std::pair<const char*, std::int64_t> good[] = {
      {"0", 0},   {"7", 7}, {"-1", -1}, {"83.0", 83}, {" 7 ", 7}, {"9999999999", 9999999999},
      {"1.00", 1}};
  for (const auto& [text, number] : good) EXPECT_EQ(parse_whole_number(text), number) << text;
  for (const char* text :
       {"", " ", "-", "07", "1.", "1.5", ".0", "+1", "1e3", "12345678901", "1 2", "x", "1,0"})
    EXPECT_FALSE(parse_whole_number(text).has_value()) << text;
}

}  // namespace records_test
}  // namespace qalof::text
