// qalof.json of an adapter directory: round trip, every truncation, damaged and hostile contents.
#include "io/adapter_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "io/io_test_util.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace adapter_dir_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

Json good() {
  return {{"format_version", 1},
          {"base", {{"id", "gpt2"}, {"sha256", std::string(64, 'a')}}},
          {"scheme", "seed"},
          {"plan", nullptr},
          {"adapters", {{"8", "w8"}, {"4", "w4"}}},
          {"heads", {{"8", "w8"}}},
          {"separator", 50256}};
}

AdapterDir read_text(const TempDir& dir, const std::string& text) {
  put_file(dir.file("qalof.json"), text);
  return read_adapter_dir(dir.path());
}

TEST(AdapterDir, ReadsBackWhatItWrote) {
  const TempDir dir;
  EXPECT_FALSE(is_adapter_dir(dir.path()));
  AdapterDir written;
  written.base_id = "some/base";
  written.base_sha256 = std::string(64, 'b');
  written.scheme = "g64";
  written.adapters = {{4, "w4"}, {8, "w8"}, {32, "full"}};
  written.heads = {{8, "w8"}};
  for (const bool with_rest : {false, true}) {
    if (with_rest) {
      written.separator = 7;
      written.plan = {{"default", "w8a8"}};
    }
    write_adapter_dir(dir.path(), written);
    EXPECT_TRUE(is_adapter_dir(dir.path()));
    const AdapterDir read = read_adapter_dir(dir.path());
    EXPECT_EQ(read.base_id, written.base_id);
    EXPECT_EQ(read.base_sha256, written.base_sha256);
    EXPECT_EQ(read.scheme, written.scheme);
    EXPECT_EQ(read.adapters, written.adapters);
    EXPECT_EQ(read.heads, written.heads);
    EXPECT_EQ(read.separator, written.separator);
    EXPECT_EQ(read.plan, written.plan);
  }
}

TEST(AdapterDir, RefusesTruncationAtEveryByte) {
  const TempDir dir;
  const std::string text = good().dump();
  EXPECT_EQ(read_text(dir, text).separator, 50256);
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_EQ(error_of([&] { read_text(dir, text.substr(0, size)); }).kind, ErrorKind::kCorruptFile)
        << size;
  }
}

TEST(AdapterDir, RefusesMissingFile) {
  const TempDir dir;
  EXPECT_EQ(error_of([&] { read_adapter_dir(dir.path()); }).kind, ErrorKind::kNotFound);
}

TEST(AdapterDir, RefusesAMissingMember) {
  const TempDir dir;
  for (const char* key : {"format_version", "base", "scheme", "adapters", "heads"}) {
    Json json = good();
    json.erase(key);
    const auto error = error_of([&] { read_text(dir, json.dump()); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << key;
    EXPECT_THAT(error.message, HasSubstr(std::string(key) + " is missing"));
  }
}

struct BadMember {
  const char* name;
  const char* patch;  // merged into a good file
  const char* message;
  ErrorKind kind = ErrorKind::kBadInput;
};

class RefusedMembers : public ::testing::TestWithParam<BadMember> {};

TEST_P(RefusedMembers, AreNamed) {
  const TempDir dir;
  Json json = good();
  json.merge_patch(Json::parse(GetParam().patch));
  const auto error = error_of([&] { read_text(dir, json.dump()); });
  EXPECT_EQ(error.kind, GetParam().kind);
  EXPECT_THAT(error.message, HasSubstr(dir.file("qalof.json")));
  EXPECT_THAT(error.message, HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, RefusedMembers,
    ::testing::Values(
        BadMember{"List", "[]", "found array, expected an object"},
        BadMember{"NewerVersion", R"({"format_version": 2})",
                  "format_version 2, this program reads 1", ErrorKind::kUnsupported},
        BadMember{"VersionZero", R"({"format_version": 0})", "format_version 0",
                  ErrorKind::kUnsupported},
        BadMember{"VersionText", R"({"format_version": "1"})", "format_version is \"1\""},
        BadMember{"VersionFloat", R"({"format_version": 1.0})", "format_version is 1.0"},
        BadMember{"UnknownKey", R"({"extra": 1})", "unknown key extra"},
        BadMember{"BaseText", R"({"base": "gpt2"})", "base: found string"},
        BadMember{"BaseWithoutHash", R"({"base": {"sha256": null}})", "sha256 is missing"},
        BadMember{"SchemeNumber", R"({"scheme": 4})", "scheme is 4"},
        BadMember{"PlanText", R"({"plan": "w4a4"})", "plan is string"},
        BadMember{"AdaptersList", R"({"adapters": ["w8"]})",
                  "adapters is missing or not an object"},
        BadMember{"AdaptersEmpty", R"({"adapters": {"8": null, "4": null}})", "adapters is empty"},
        BadMember{"WidthNine", R"({"adapters": {"9": "w9"}})", "adapters[\"9\"]: expected a width"},
        BadMember{"WidthWithZero", R"({"adapters": {"08": "w8"}})", "adapters[\"08\"]"},
        BadMember{"WidthText", R"({"heads": {"eight": "w8"}})", "heads[\"eight\"]"},
        BadMember{"NameNumber", R"({"adapters": {"8": 8}})", "adapters[\"8\"] is not a name"},
        BadMember{"NameParent", R"({"adapters": {"8": ".."}})", "expected the bare name"},
        BadMember{"NameAbove", R"({"adapters": {"8": "../w8"}})", "expected the bare name"},
        BadMember{"NameAbsolute", R"({"adapters": {"8": "/etc"}})", "expected the bare name"},
        BadMember{"NameNested", R"({"heads": {"8": "a/b"}})", "expected the bare name"},
        BadMember{"NameBackslash", R"({"heads": {"8": "a\\b"}})", "expected the bare name"},
        BadMember{"NameNul", R"({"heads": {"8": "a\u0000b"}})", "expected the bare name"},
        BadMember{"NameEmpty", R"({"heads": {"8": ""}})", "expected the bare name"},
        BadMember{"NameHidden", R"({"heads": {"8": ".ssh"}})", "expected the bare name"},
        BadMember{"SeparatorNegative", R"({"separator": -1})", "separator is -1"},
        BadMember{"SeparatorLarge", R"({"separator": 2147483648})", "separator is 2147483648"},
        BadMember{"SeparatorText", R"({"separator": "|"})", "separator is \"|\""}),
    [](const auto& test) { return test.param.name; });

TEST(AdapterDir, RefusesLongNamesAndDuplicateWidths) {
  const TempDir dir;
  Json json = good();
  json["adapters"]["8"] = std::string(256, 'a');
  EXPECT_EQ(error_of([&] { read_text(dir, json.dump()); }).kind, ErrorKind::kBadInput);
  std::string text = good().dump();
  text.replace(text.find("\"4\":\"w4\""), 8, "\"8\":\"w8\"");
  EXPECT_THAT(error_of([&] { read_text(dir, text); }).message, HasSubstr("the key \"8\" twice"));
}

}  // namespace adapter_dir_test
}  // namespace qalof::io
