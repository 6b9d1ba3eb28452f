// Reports: well-formed, self-contained, escaped, and made of what is there.
#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>

#include "core/file.h"
#include "report/parts.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/well_formed.h"

namespace qalof::app {
namespace report_test {

using ::qalof::testing::error_of;
using ::qalof::testing::expect_well_formed;
using ::qalof::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

void write(const TempDir& dir, const std::string& name, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(dir.file(name)).parent_path());
  std::ofstream(dir.file(name), std::ios::binary) << text;
}

std::string page_of(const TempDir& dir) {
  const report::ReportResult result = report::run_report({dir.path(), ""});
  return read_file(result.file, std::size_t{1} << 24);
}

constexpr const char* kMetrics =
    "{\"format_version\":1,\"schema\":\"qalof.metrics\"}\n"
    "{\"global_step\":1,\"step\":1,\"phase\":\"w8\",\"loss\":4.5,\"learning_rate\":0.001}\n"
    "{\"global_step\":2,\"step\":2,\"phase\":\"w8\",\"loss\":0.01,\"learning_rate\":0.002}\n"
    "{\"global_step\":3,\"step\":1,\"phase\":\"w4\",\"loss\":null,\"learning_rate\":0.001}\n";
constexpr const char* kAllResults = R"({"steps": 3, "tokens": 100, "phases": [{"seconds": 1.5,
  "networks": [{"name": "w8", "steps": 2}, {"name": "w4", "steps": 1}]}]})";
constexpr const char* kResults = R"({"format_version": 1, "rows": [
  {"name": "PTQ 4", "precision": "w4a4kv4", "f1": 64.75, "f1_standard_error": 0.9,
   "exact_match": 60.0, "effective_bits": 4.19, "bytes": 932000, "seconds": 2.0},
  {"name": "adapter 8", "precision": "w8a8kv8", "f1": 99.5, "f1_standard_error": 0.1,
   "exact_match": 99.0, "effective_bits": 8.19, "bytes": 1325000, "seconds": 9.0}],
  "commands": ["qalof train --method lora"]})";

std::string sensitivity() {
  Json units = Json::array();
  for (int block = 0; block < 3; ++block) {
    for (const char* kind : {"attn.c_attn", "mlp.c_fc"}) {
      units.push_back({{"name", fmt::format("h.{}.{}", block, kind)},
                       {"block", block},
                       {"kind", kind},
                       {"part", "both"},
                       {"costs",
                        {{{"bits", 4},
                          {"delta_f1", -1.5 * block},
                          {"delta_f1_interval", {-1.5 * block - 0.5, 0.5 - 1.5 * block}},
                          {"kl", 0.25 * block}}}}});
    }
  }
  return Json{{"by", "measured"},
              {"low", 4},
              {"samples", 200},
              {"high", {{"precision", "w8a8kv8"}, {"f1", 90.5}}},
              {"units", units}}
      .dump();
}

void expect_self_contained(const std::string& page) {
  for (const char* outside : {"http", "<script", "src=", "url(", "@import", "<link", "href"})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
}

TEST(Report, ShowsWhatADirectoryHolds) {
  const TempDir dir;
  write(dir, "results.json", kResults);
  write(dir, "switch/metrics.jsonl", kMetrics);
  write(dir, "switch/all_results.json", kAllResults);
  write(dir, "switch/run.json",
        R"({"run": {"base_sha256": "abc", "flags": {"--method": "switch", "--bf16": false,
            "--bit_widths": [8, 4], "--scheme": "", "--note": "two words", "--x": true}}})");
  write(dir, "sensitivity.json", sensitivity());
  const report::ReportResult result = report::run_report({dir.path(), ""});
  EXPECT_EQ(result.file, dir.path() + "/report.html");
  EXPECT_THAT(result.sources,
              ElementsAre("results.json", "sensitivity.json", "switch/metrics.jsonl",
                          "switch/all_results.json", "switch/run.json"));
  const std::string page = page_of(dir);
  expect_well_formed(page);
  expect_self_contained(page);
  for (const char* part :
       {"<h2>Results</h2>", "<h2>Training</h2>", "<h2>Sensitivity</h2>",
        "<h2>Score against bits</h2>", "<h2>Commands</h2>", "64.75 ± 0.90",
        "Steps trained at each width", "F1 lost, by block", "qalof train --method lora",
        "qalof train --bit_widths 8 4 --method switch --note &#39;two words&#39; --x\n",
        "block 2, mlp.c_fc: 3<", "h.1.mlp.c_fc: 1.5 [1, 2]", "200 samples"})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_EQ(page, page_of(dir)) << "the report read itself, or is not deterministic";
}

TEST(Report, LeavesOutWhatIsMissing) {
  const TempDir dir;
  write(dir, "metrics.jsonl", kMetrics);
  const std::string page = page_of(dir);
  expect_well_formed(page);
  EXPECT_THAT(page, HasSubstr("Training loss"));
  for (const char* part : {"Results</h2>", "Sensitivity", "Score against", "Commands", "Gradient"})
    EXPECT_THAT(page, Not(HasSubstr(part)));
}

TEST(Report, TakesScoresOfOtherTasks) {
  const TempDir dir;
  write(dir, "eval_results.json",
        R"({"accuracy": 91.25, "loss": 0.2512, "precision": "w4a4kv4", "bits_per_weight": 4.2})");
  const std::string page = page_of(dir);
  expect_well_formed(page);
  EXPECT_THAT(page, HasSubstr("91.25"));
  EXPECT_THAT(page, HasSubstr("0.2512"));
}

TEST(Report, RefusesADirectoryWithoutAnything) {
  const TempDir dir;
  write(dir, "checkpoint-5/metrics.jsonl", kMetrics);
  const auto empty = error_of([&] { report::run_report({dir.path(), ""}); });
  EXPECT_EQ(empty.kind, ErrorKind::kNotFound);
  EXPECT_THAT(empty.message, HasSubstr(dir.path() + ": nothing to report; expected metrics.jsonl"));
  EXPECT_FALSE(path_exists(dir.file("report.html")));
  const auto missing = error_of([&] { report::run_report({dir.file("none"), ""}); });
  EXPECT_EQ(missing.kind, ErrorKind::kNotFound);
  write(dir, "results.json", "{\"rows\": [");
  const auto corrupt = error_of([&] { report::run_report({dir.path(), ""}); });
  EXPECT_EQ(corrupt.kind, ErrorKind::kCorruptFile);
  EXPECT_THAT(corrupt.message, HasSubstr("results.json"));
}

TEST(Report, NamesCannotWriteHtml) {
  const TempDir dir;
  const std::string evil = "<script>alert(1)</script>\"'&]]>";
  Json results = Json::parse(kResults);
  results["rows"][0]["name"] = evil;
  results["rows"][0]["precision"] = evil;
  results["commands"][0] = evil;
  write(dir, "results.json", results.dump());
  Json units = Json::parse(sensitivity());
  for (Json& unit : units["units"])
    unit["kind"] = unit["name"] = evil + unit["name"].get<std::string>();
  units["by"] = units["high"]["precision"] = evil;
  write(dir, "sensitivity.json", units.dump());
  write(dir, "a<b onload=\"x\">\xff\x01/metrics.jsonl",
        Json{{"step", 1}, {"phase", evil}, {"loss", 1}}.dump() + "\n" +
            Json{{"step", 2}, {"phase", evil + "2"}, {"loss", 2}}.dump() + "\n");
  write(dir, "b/run.json", Json{{"run", {{"flags", {{evil, evil}}}}}}.dump());
  write(dir, "front.json",
        Json{{"cost", evil},
             {"predicted", {{{"bits", 4}, {"cost", 1}}, {{"bits", 5}, {"cost", 0}}}},
             {"differences",
              {{{"plan", evil}, {"other", evil}, {"delta_f1", 1.5}, {"standard_error", 0.5}}}},
             {"points",
              {{{"name", evil}, {"kind", evil}, {"bits", 4}, {"f1", 1}},
               {{"name", evil}, {"kind", "b"}, {"bits", 5}, {"f1", 2}}}}}
            .dump());
  write(dir, "attack_table.json",
        Json{{"title", evil},
             {"targets", {{{"id", "fp"}, {"name", evil}}}},
             {"cells",
              {{{"defence", "rpi"},
                {"name", evil},
                {"texts", "fp"},
                {"share", 0.5},
                {"low", 0.25},
                {"high", 0.75}}}}}
            .dump());
  const std::string page = page_of(dir);
  expect_well_formed(page);
  expect_self_contained(page);
  EXPECT_THAT(page, HasSubstr("50.0 [25.0, 75.0]"));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;]]&gt;"));
  EXPECT_THAT(page, HasSubstr("+1.50 ± 0.50"));
  EXPECT_THAT(page, HasSubstr("a&lt;b onload=&quot;x&quot;&gt;\xEF\xBF\xBD\xEF\xBF\xBD"));
}

TEST(Report, AttacksShowWhatEachDefenderKeepsAndTheWorstOfSeveral) {
  const TempDir dir;
  const auto score = [](const char* precision, double clean, double attacked) {
    return Json{{"precision", precision},
                {"clean_accuracy", clean},
                {"clean_ci95", {clean - 5, clean + 5}},
                {"adversarial_accuracy", attacked},
                {"ci95", {attacked - 2, attacked + 2}}};
  };
  Json attack = score("random:4,8", 70, 31);
  attack["samples"] = 300;
  attack["per_precision"] = {score("w8a8kv8", 71, 11), score("w4a4kv4", 69, 12)};
  write(dir, "attack_results.json", attack.dump());
  const auto cell = [](const char* defence, const char* texts, double share) {
    return Json{{"defence", defence},    {"name", std::string(defence) + " named"},
                {"texts", texts},        {"share", share},
                {"low", share - 0.0625}, {"high", share + 0.0625}};
  };
  write(dir, "attack_table.json",
        Json{{"title", "Sentences"},
             {"targets", {{{"id", "a"}, {"name", "FP"}}, {{"id", "b"}, {"name", "RPI"}}}},
             {"cells",
              {cell("fp", "clean", 0.75), cell("fp", "a", 0.125), cell("fp", "b", 0.25),
               cell("rpi", "clean", 0.5)}}}
            .dump());
  const std::string page = page_of(dir);
  expect_well_formed(page);
  for (const char* part :
       {"Under attack", "random:4,8", "31.0 [29.0, 33.0]", "11.0 [9.0, 13.0]", "300 samples",
        "<th>attack on FP</th><th>attack on RPI</th></tr>",
        "<td>fp named</td><td>75.0 [68.8, 81.2]</td><td>12.5 [6.2, 18.8]</td><td>25.0 [18.8, 31.2]"
        "</td>",
        "<td>rpi named</td><td>50.0 [43.8, 56.2]</td><td></td><td></td>",
        "Sentences: Accuracy under the attack that does most"})
    EXPECT_THAT(page, HasSubstr(part));
}

// Rounding makes zeros of small losses, whose sign would look like a finding.
TEST(Report, NoZeroHasASign) {
  const TempDir dir;
  for (const double zero : {-0.0, -1e-9, 0.0}) {
    Json results = Json::parse(kResults);
    for (const char* key : {"f1", "f1_standard_error", "exact_match", "accuracy", "loss",
                            "effective_bits", "bytes", "seconds"})
      results["rows"][0][key] = zero;
    write(dir, "results.json", results.dump());
    Json sensitive = Json::parse(sensitivity());
    for (Json& unit : sensitive["units"]) {
      unit["costs"][0]["delta_f1"] = 0.0;  // a loss is its opposite
      unit["costs"][0]["delta_f1_interval"] = {0.0, zero};
      unit["costs"][0]["kl"] = -0.0;
    }
    sensitive["low"] = sensitive["high"]["f1"] = zero;
    write(dir, "sensitivity.json", sensitive.dump());
    write(dir, "front.json",
          Json{{"points",
                {{{"name", "a"}, {"bits", -0.0}, {"f1", -0.0}},
                 {{"name", "b"}, {"bits", 5}, {"f1", 2}}}},
               {"differences",
                {{{"plan", "a"},
                  {"other", "b"},
                  {"delta_f1", zero},
                  {"interval", {zero, zero}},
                  {"standard_error", zero}}}}}
              .dump());
    const Json score = {{"precision", "w4"},
                        {"clean_accuracy", zero},
                        {"clean_ci95", {zero, zero}},
                        {"adversarial_accuracy", zero},
                        {"ci95", {zero, zero}}};
    write(dir, "attack_results.json", Json{{"per_precision", {score}}}.dump());
    const std::string page = page_of(dir);
    expect_well_formed(page);
    EXPECT_THAT(page, HasSubstr("0.00 ± 0.00"));
    EXPECT_THAT(page, HasSubstr("0.0 [0.0, 0.0]"));
    // Text nodes, <title>s among them.
    const std::regex text(">([^<]+)<"), signed_zero("(^|[^0-9a-z.])[-+]0([.]0+)?($|[^0-9.e])");
    const std::string body = page.substr(page.find("</style>"));
    for (std::sregex_iterator node(body.begin(), body.end(), text), end; node != end; ++node)
      EXPECT_FALSE(std::regex_search(node->str(1), signed_zero)) << node->str(1);
  }
}

// Cards as sixths of the page: "3 3 2 2 2" are two halves above three thirds.
std::string sixths_of(const std::vector<int>& least_sixths) {
  std::vector<report::Card> cards;
  for (const int least : least_sixths) cards.push_back(report::table_card("card", "text", least));
  const std::string page = report::grid(cards);
  std::string sixths;
  for (std::size_t at = 0; (at = page.find("card six", at)) != std::string::npos; ++at)
    sixths += fmt::format("{}{}", sixths.empty() ? "" : " ", page[at + 8]);
  return sixths;
}

TEST(ReportGrid, CardsFillEveryRow) {
  EXPECT_EQ(sixths_of({}), "");
  EXPECT_EQ(sixths_of({2}), "6");
  EXPECT_EQ(sixths_of({2, 2}), "3 3");
  EXPECT_EQ(sixths_of({2, 2, 2}), "2 2 2");
  EXPECT_EQ(sixths_of({2, 2, 2, 2}), "3 3 3 3");
  EXPECT_EQ(sixths_of({2, 2, 2, 2, 2}), "3 3 2 2 2");
  EXPECT_EQ(sixths_of({2, 2, 2, 2, 2, 2, 2}), "3 3 3 3 2 2 2");
  EXPECT_EQ(sixths_of({2, 3, 2}), "6 3 3") << "the table needs half a page";
  EXPECT_EQ(sixths_of({2, 2, 6}), "3 3 6");
}

// A chart as wide as a page would be unreadable on a phone: there the narrow one is shown.
TEST(ReportGrid, WideChartsComeWithNarrowOnes) {
  const auto chart =
      report::chart_card("Loss", report::LineChart{"loss", "step", {{"w8", {{1, 2}, {2, 1}}}}});
  const std::string one = report::grid({chart}), two = report::grid({chart, chart});
  for (const char* width : {"0 0 360 ", "0 0 540 ", "0 0 1080 "})
    EXPECT_THAT(one, HasSubstr(width));
  EXPECT_THAT(two, HasSubstr("0 0 540 "));
  EXPECT_THAT(two, Not(HasSubstr("0 0 1080 ")));
  EXPECT_EQ(report::grid({report::chart_card("none", report::LineChart{})}), "");
}

TEST(Report, ValuesOfOtherTypesAreLeftOut) {
  const TempDir dir;
  write(dir, "results.json", R"({"rows": [3, {"name": 5, "f1": "x"}, {"name": "a", "f1": 50}],
                                 "commands": {"a": 1}})");
  write(dir, "sensitivity.json",
        R"({"high": 3, "units": [1, {"costs": [{"bits": 4, "kl": []}]}]})");
  write(dir, "run.json", R"({"run": [1]})");
  write(dir, "all_results.json", R"({"phases": [{"networks": 3}, 4], "steps": "x"})");
  write(dir, "trainer_state.json", R"([1, 2])");
  write(dir, "front.json", R"({"points": [{"bits": 4}, {"f1": null, "bits": 5}, 7],
                               "differences": [3, {"plan": 1, "delta_f1": "x"}]})");
  write(dir, "attack_results.json", R"({"per_precision": [1, {"clean_accuracy": "x"}]})");
  write(dir, "attack_table.json", R"({"targets": [3], "cells": [1, {"defence": 2, "share": 1}]})");
  write(dir, "metrics.jsonl", "[1]\n{\"loss\": 1}\n{\"loss\": 1, \"step\": 4}\n{\"loss\": ");
  expect_well_formed(page_of(dir));
}

}  // namespace report_test
}  // namespace qalof::app
