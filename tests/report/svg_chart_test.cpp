// Charts: round ticks, places of marks, labels that do not collide, escaped text.
#include "report/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>
#include <regex>

#include "report/html.h"
#include "support/well_formed.h"

namespace qalof::app {
namespace svg_chart_test {

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
  EXPECT_THAT(report::linear_axis(3, 97, 5).ticks, ElementsAre(0, 20, 40, 60, 80, 100));
  EXPECT_THAT(report::linear_axis(-1, 1.9, 3).ticks, ElementsAre(-1, 0, 1, 2));
  EXPECT_THAT(report::linear_axis(0, 0.0045, 5).ticks,
              Pointwise(DoubleEq(), {0.0, 0.001, 0.002, 0.003, 0.004, 0.005}));
  EXPECT_THAT(report::linear_axis(100, 100, 4).ticks, ElementsAre(50, 100, 150));
  EXPECT_THAT(report::linear_axis(0, 0, 2).ticks, ElementsAre(-1, 0, 1));
  EXPECT_THAT(report::log_axis(0.0003, 4.4, 10).ticks,
              Pointwise(DoubleEq(), {1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0}));
  EXPECT_THAT(report::log_axis(4.19, 32, 2).ticks, ElementsAre(4, 8, 16, 32));
}

TEST(ChartAxis, PositionsRunFrom0To1) {
  const report::ChartAxis linear = report::linear_axis(0, 10, 5),
                          log = report::log_axis(1, 100, 10);
  EXPECT_EQ(linear.position(0), 0);
  EXPECT_EQ(linear.position(5), 0.5);
  EXPECT_EQ(linear.position(10), 1);
  EXPECT_EQ(log.position(1), 0);
  EXPECT_DOUBLE_EQ(log.position(10), 0.5);
  EXPECT_DOUBLE_EQ(log.position(100), 1);
}

// Numbers of every size, with neighbours that differ in the last bit.
std::vector<double> numbers_of_every_size() {
  std::vector<double> numbers = {
      0,       -0.0,    NAN,  INFINITY,           5e-324,           1e-310,
      DBL_MIN, DBL_MAX, 1e15, 9007199254740993.0, 4.420428878407753};
  for (int exponent = -308; exponent <= 308; exponent += 28)
    numbers.push_back(3.7 * std::pow(10, exponent));
  const std::size_t count = numbers.size();
  for (std::size_t i = 0; i < count; ++i) {
    numbers.push_back(-numbers[i]);
    numbers.push_back(std::nextafter(numbers[i], INFINITY));
  }
  return numbers;
}

TEST(ChartAxis, HasFewFiniteRisingTicksWhateverTheRange) {
  const std::vector<double> numbers = numbers_of_every_size();
  for (const double low : numbers) {
    for (const double high : numbers) {
      for (const report::ChartAxis& axis :
           {report::linear_axis(low, high, 5), report::linear_axis(low, high, 1),
            report::log_axis(low, high, 10), report::log_axis(low, high, 2)}) {
        ASSERT_GE(axis.ticks.size(), 2U) << low << " " << high;
        ASSERT_LE(axis.ticks.size(), 13U) << low << " " << high;
        ASSERT_TRUE(std::is_sorted(axis.ticks.begin(), axis.ticks.end(), std::less_equal<>()))
            << low << " " << high;
        ASSERT_TRUE(std::isfinite(axis.high - axis.low) && axis.high > axis.low);
        for (const double value : {low, high, axis.low, axis.high}) {
          const double at = axis.position(value);
          ASSERT_TRUE(at >= 0 && at <= 1) << low << " " << high << " " << value << " at " << at;
        }
      }
    }
  }
}

TEST(ChartAxis, NeighboursAreOneNumber) {
  const double loss = 4.420428878407753, other = 4.420428878407752;
  const report::ChartAxis axis = report::linear_axis(other, loss, 5);
  EXPECT_THAT(axis.ticks, ElementsAre(2, 3, 4, 5, 6, 7));
  EXPECT_NEAR(axis.position(loss), axis.position(other), 1e-12);
  // What differs in six digits does not.
  EXPECT_LT(report::linear_axis(4.42042, 4.42043, 5).high, 4.4205);
}

TEST(SvgChart, AnyNumbersAreDrawnInsideThePage) {
  const std::vector<double> numbers = numbers_of_every_size();
  report::LineChart lines{"l", "step", {{"a", {}}, {"b", {}}}};
  report::ScatterChart points{"p", "x", "y", false, {}};
  report::BarChart bars{"b", "unit", {}, true};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    lines.series[i % 2].points.push_back({numbers[i], numbers[(i * 7) % numbers.size()]});
    bars.rows.push_back({"row", numbers[i], std::pair{numbers[i], numbers[0]}});
    if (std::isfinite(numbers[i]))
      points.points.push_back({"p", {numbers[i], numbers[i]}, std::abs(numbers[i]), 0, false});
  }
  for (const std::string& text : {report::svg(lines), report::svg(points), report::svg(bars)}) {
    EXPECT_LT(text.size(), 200'000U);
    for (const char* wrong : {"=\"nan", "=\"-nan", "=\"inf", "=\"-inf", "Mnan", "Lnan", " nan\""})
      EXPECT_EQ(count_of(text, wrong), 0U) << wrong;
    const std::regex place(" [cxy][xy12]?=\"(-?[0-9.]+)\"");
    for (std::sregex_iterator at(text.begin(), text.end(), place), end; at != end; ++at) {
      const double value = std::stod((*at)[1]);
      ASSERT_TRUE(value > -50 && value < 2000) << at->str();
    }
  }
}

TEST(SvgChart, NumbersAreShort) {
  EXPECT_EQ(report::short_number(0.25), "0.25");
  EXPECT_EQ(report::short_number(-1200), "-1,200");
  EXPECT_EQ(report::short_number(999999), "999,999");
  EXPECT_EQ(report::short_number(3.5e6), "3.5M");
  EXPECT_EQ(report::short_number(1e-5), "1e-05");
  EXPECT_EQ(report::short_number(0.0), "0");
  EXPECT_EQ(report::short_number(-0.0), "0");
  EXPECT_EQ(report::short_number(999'999.7), "1M");
  EXPECT_EQ(report::short_number(-999'999.7), "-1M");
  EXPECT_EQ(report::short_number(999'400'000), "999M");
  EXPECT_EQ(report::short_number(2.5e9), "2.5e+09");
  EXPECT_EQ(report::short_number(-INFINITY), "-inf");
  EXPECT_EQ(report::short_number(NAN), "nan");
  for (const double number : numbers_of_every_size())
    EXPECT_LE(report::short_number(number).size(), 11U);
}

TEST(SvgChart, RoundedZerosHaveNoSign) {
  EXPECT_EQ(report::fixed_number(-0.001, 2), "0.00");
  EXPECT_EQ(report::fixed_number(0.001, 2, /*with_plus=*/true), "0.00");
  EXPECT_EQ(report::fixed_number(-0.0, 0), "0");
  EXPECT_EQ(report::fixed_number(-0.006, 2), "-0.01");
  EXPECT_EQ(report::fixed_number(1.5, 2, /*with_plus=*/true), "+1.50");
  EXPECT_EQ(report::fixed_number(-1.5, 2, /*with_plus=*/true), "-1.50");
  EXPECT_EQ(report::fixed_number(-INFINITY, 1), "-inf");
  EXPECT_EQ(report::fixed_number(INFINITY, 1), "inf");
  EXPECT_EQ(report::rounded_number(-0.0, 3), "0");
  EXPECT_EQ(report::rounded_number(-0.12345, 3), "-0.123");
}

TEST(SvgChart, TextIsEscaped) {
  EXPECT_EQ(report::html_escape("a<b>&\"'\x01\xC3\xA9\xC3\xFF\xED\xA0\x80"),
            "a&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "\xEF\xBF\xBD\xEF\xBF\xBD");
  const std::string text =
      report::svg(report::BarChart{"<l>", "<u>", {{"<n>", 1, std::nullopt}}, true});
  expect_well_formed(text);
  EXPECT_THAT(text, HasSubstr("&lt;n&gt;"));
}

TEST(SvgChart, LinesHoldFiniteNumbersAlone) {
  report::LineChart chart{"loss", "step", {{"w8", {}}, {"w4", {{1, 2}, {2, NAN}, {INFINITY, 1}}}}};
  EXPECT_EQ(count_of(report::svg(chart), "<circle"), 1U);
  chart.series[1].points.clear();
  EXPECT_EQ(report::svg(chart), "");
  for (int i = 0; i < 1000; ++i) chart.series[0].points.push_back({i * 1.0, i < 500 ? 1.0 : 3.0});
  const std::string text = report::svg(chart);
  expect_well_formed(text);
  EXPECT_THAT(text, Not(HasSubstr("nan")));
  EXPECT_LE(count_of(text, "<circle"), 150U);
  EXPECT_GE(count_of(text, "<circle"), 100U);
}

TEST(SvgChart, ScatterJoinsUndominatedPointsAndLabelsWhatFits) {
  report::ScatterChart chart{"f1", "bits", "F1", false, {}};
  for (int i = 0; i < 20; ++i) chart.points.push_back({"a rather long name", {5, 50}, 0, 0, true});
  const std::string crowded = report::svg(chart);
  EXPECT_LT(count_of(crowded, "class=\"mark\""), 9U);
  EXPECT_GT(count_of(crowded, "class=\"mark\""), 0U);
  chart.points = {
      {"a", {4, 60}, 1, 0, true}, {"b", {8, 90}, 0, 0, true}, {"c", {8, 50}, 0, 1, true}};
  const std::string text = report::svg(chart);
  expect_well_formed(text);
  EXPECT_EQ(count_of(text, "class=\"mark\""), 3U);
  EXPECT_EQ(count_of(text, "class=\"stairs\""), 1U);
  EXPECT_EQ(count_of(text.substr(text.find("stairs"), 60), "L"), 2U);  // a to b; c lies below
  EXPECT_EQ(count_of(text, "class=\"error"), 1U);
}

TEST(SvgChart, HeatMapHasACellForEveryNumber) {
  const report::HeatMap map{
      "cost", {"block 0", "block 1"}, {"attn", "mlp"}, {1.0, std::nullopt, -0.5, 0.0}};
  const std::string text = report::svg(map);
  expect_well_formed(text);
  EXPECT_EQ(count_of(text, "<rect"), 3U);
  EXPECT_EQ(count_of(text, "class=\"gain\""), 1U);
  EXPECT_THAT(text, HasSubstr("block 1, attn: -0.5"));
}

TEST(SvgChart, LegendsBeginWithTwoNames) {
  EXPECT_EQ(report::legend_html({"one"}), "");
  EXPECT_THAT(report::legend_html({"one", "<two>"}), HasSubstr("<i class=\"s2\"></i>&lt;two&gt;"));
}

}  // namespace svg_chart_test
}  // namespace qalof::app
