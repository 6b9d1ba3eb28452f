// Charts: round ticks, places of marks, labels that do not collide, escaped text.
#include "app/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "app/html.h"
#include "support/well_formed.h"

namespace qalof::app {
namespace {

using ::qalof::testing::expect_well_formed;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pointwise;

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST(ChartAxis, TicksAreRound) {
  EXPECT_THAT(linear_axis(3, 97, 5).ticks, ElementsAre(0, 20, 40, 60, 80, 100));
  EXPECT_THAT(linear_axis(-1, 1.9, 3).ticks, ElementsAre(-1, 0, 1, 2));
  EXPECT_THAT(linear_axis(0, 0.0045, 5).ticks,
              Pointwise(DoubleEq(), {0.0, 0.001, 0.002, 0.003, 0.004, 0.005}));
  EXPECT_THAT(linear_axis(100, 100, 4).ticks, ElementsAre(50, 100, 150));
  EXPECT_THAT(linear_axis(0, 0, 2).ticks, ElementsAre(-1, 0, 1));
  EXPECT_THAT(log_axis(0.0003, 4.4, 10).ticks,
              Pointwise(DoubleEq(), {1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0}));
  EXPECT_THAT(log_axis(4.19, 32, 2).ticks, ElementsAre(4, 8, 16, 32));
}

TEST(ChartAxis, PositionsRunFrom0To1) {
  const ChartAxis linear = linear_axis(0, 10, 5), log = log_axis(1, 100, 10);
  EXPECT_EQ(linear.position(0), 0);
  EXPECT_EQ(linear.position(5), 0.5);
  EXPECT_EQ(linear.position(10), 1);
  EXPECT_EQ(log.position(1), 0);
  EXPECT_DOUBLE_EQ(log.position(10), 0.5);
  EXPECT_DOUBLE_EQ(log.position(100), 1);
}

TEST(SvgChart, NumbersAreShort) {
  EXPECT_EQ(short_number(0.25), "0.25");
  EXPECT_EQ(short_number(-1200), "-1,200");
  EXPECT_EQ(short_number(999999), "999,999");
  EXPECT_EQ(short_number(3.5e6), "3.5M");
  EXPECT_EQ(short_number(1e-5), "1e-05");
}

TEST(SvgChart, TextIsEscaped) {
  EXPECT_EQ(html_escape("a<b>&\"'\x01\xC3\xA9\xC3\xFF\xED\xA0\x80"),
            "a&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "\xEF\xBF\xBD\xEF\xBF\xBD");
  const std::string text = svg(BarChart{"<l>", "<u>", {{"<n>", 1, std::nullopt}}, true});
  expect_well_formed(text);
  EXPECT_THAT(text, HasSubstr("&lt;n&gt;"));
}

TEST(SvgChart, LinesHoldFiniteNumbersAlone) {
  LineChart chart{"loss", "step", {{"w8", {}}, {"w4", {{1, 2}, {2, NAN}, {INFINITY, 1}}}}};
  EXPECT_EQ(count_of(svg(chart), "<circle"), 1U);
  chart.series[1].points.clear();
  EXPECT_EQ(svg(chart), "");
  for (int i = 0; i < 1000; ++i) chart.series[0].points.push_back({i * 1.0, i < 500 ? 1.0 : 3.0});
  const std::string text = svg(chart);
  expect_well_formed(text);
  EXPECT_THAT(text, Not(HasSubstr("nan")));
  EXPECT_LE(count_of(text, "<circle"), 150U);
  EXPECT_GE(count_of(text, "<circle"), 100U);
}

TEST(SvgChart, ScatterJoinsUndominatedPointsAndLabelsWhatFits) {
  ScatterChart chart{"f1", "bits", "F1", false, {}};
  for (int i = 0; i < 20; ++i) chart.points.push_back({"a rather long name", {5, 50}, 0, 0, true});
  const std::string crowded = svg(chart);
  EXPECT_LT(count_of(crowded, "class=\"mark\""), 9U);
  EXPECT_GT(count_of(crowded, "class=\"mark\""), 0U);
  chart.points = {
      {"a", {4, 60}, 1, 0, true}, {"b", {8, 90}, 0, 0, true}, {"c", {8, 50}, 0, 1, true}};
  const std::string text = svg(chart);
  expect_well_formed(text);
  EXPECT_EQ(count_of(text, "class=\"mark\""), 3U);
  EXPECT_EQ(count_of(text, "class=\"stairs\""), 1U);
  EXPECT_EQ(count_of(text.substr(text.find("stairs"), 60), "L"), 2U);  // a to b; c lies below
  EXPECT_EQ(count_of(text, "class=\"error"), 1U);
}

TEST(SvgChart, HeatMapHasACellForEveryNumber) {
  const HeatMap map{
      "cost", {"block 0", "block 1"}, {"attn", "mlp"}, {1.0, std::nullopt, -0.5, 0.0}};
  const std::string text = svg(map);
  expect_well_formed(text);
  EXPECT_EQ(count_of(text, "<rect"), 3U);
  EXPECT_EQ(count_of(text, "class=\"gain\""), 1U);
  EXPECT_THAT(text, HasSubstr("block 1, attn: -0.5"));
}

TEST(SvgChart, LegendsBeginWithTwoNames) {
  EXPECT_EQ(legend_html({"one"}), "");
  EXPECT_THAT(legend_html({"one", "<two>"}), HasSubstr("<i class=\"s2\"></i>&lt;two&gt;"));
}

}  // namespace
}  // namespace qalof::app
