// Runs a template's tree: variables, expressions, loops, macros.
#include "text/jinja/template.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>

#include "core/error.h"
#include "text/jinja/functions.h"
#include "text/jinja/syntax.h"

namespace qalof::text::jinja {

struct Template::Tree {
  Body body;
  std::string where;
  bool marks_generation = false;
};

namespace template_file {

constexpr int kMaxDepth = 400;               // of nested evaluations: expressions, blocks, macros
constexpr std::int64_t kMaxRange = 100'000;  // as in Jinja's sandbox

using Variables = std::map<std::string, Value, std::less<>>;

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorKind::kBadInput, format, std::forward<Args>(args)...);
}

struct Scope {
  Scope* parent;
  Variables values;
};

enum class Flow { kNormal, kBreak, kContinue };

// strftime in English, for the directives that chat templates use.
std::string format_moment(const Moment& moment, std::string_view format) {
  static constexpr std::array<std::string_view, 12> kMonths = {
      "January", "February", "March",     "April",   "May",      "June",
      "July",    "August",   "September", "October", "November", "December"};
  static constexpr std::array<std::string_view, 7> kDays = {
      "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
  static constexpr std::array<int, 12> kShift = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
  const int month = std::clamp(moment.month, 1, 12);
  const int year = moment.year - (month < 3 ? 1 : 0);
  const auto weekday =
      static_cast<std::size_t>((year + year / 4 - year / 100 + year / 400 +
                                kShift[static_cast<std::size_t>(month - 1)] + moment.day) %
                               7);
  const std::string_view month_name = kMonths[static_cast<std::size_t>(month - 1)];
  std::string result;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      result += format[i];
      continue;
    }
    const bool plain = i + 1 < format.size() && format[i + 1] == '-';  // without leading zeros
    if (plain) ++i;
    ++i;
    const char directive = i < format.size() ? format[i] : '\0';
    const auto number = [&](int value) {
      result += plain ? fmt::format("{}", value) : fmt::format("{:02}", value);
    };
    switch (directive) {
      case 'd':
        number(moment.day);
        break;
      case 'm':
        number(month);
        break;
      case 'H':
        number(moment.hour);
        break;
      case 'M':
        number(moment.minute);
        break;
      case 'S':
        number(moment.second);
        break;
      case 'y':
        number(moment.year % 100);
        break;
      case 'Y':
        result += fmt::format("{:04}", moment.year);
        break;
      case 'B':
        result += month_name;
        break;
      case 'b':
        result += month_name.substr(0, 3);
        break;
      case 'A':
        result += kDays[weekday];
        break;
      case 'a':
        result += kDays[weekday].substr(0, 3);
        break;
      case '%':
        result += '%';
        break;
      default:
        fail(ErrorKind::kUnsupported, "strftime_now: the directive %{} is not implemented",
             directive == '\0' ? ' ' : directive);
    }
  }
  return result;
}

class Run {
 public:
  Run(const Variables& variables, std::optional<Moment> now, unsigned char generated_mark,
      std::size_t bytes)
      : variables_(variables), now_(now), generated_mark_(generated_mark), budget_(bytes) {}

  Text take_output() { return std::move(output_); }
  std::size_t line() const { return line_; }

  void run(const Body& body) { execute(body, &root_); }

 private:
  class Nesting {
   public:
    explicit Nesting(int* depth) : depth_(depth) {
      if (++*depth_ > kMaxDepth) refuse("the template nests more than {} deep", kMaxDepth);
    }
    ~Nesting() { --*depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    int* depth_;
  };
  // Sends output to another text while it lives.
  class Redirect {
   public:
    Redirect(Text** out, Text* target) : out_(out), before_(std::exchange(*out, target)) {}
    ~Redirect() { *out_ = before_; }
    Redirect(const Redirect&) = delete;
    Redirect& operator=(const Redirect&) = delete;

   private:
    Text** out_;
    Text* before_;
  };

  void write(const Text& text) {
    budget_.spend_bytes(text.bytes.size());
    if (out_->bytes.size() + text.bytes.size() > kMaxTextBytes)
      budget_.spend_bytes(out_->bytes.size() + text.bytes.size());
    out_->append(text);
  }

  void write_value(const Value& value) {
    budget_.spend(value.weight());
    write(to_text(value));
  }

  // --- statements ---

  Flow execute(const Body& body, Scope* scope) {
    const Nesting nesting(&depth_);
    for (const Statement& statement : body) {
      const Flow flow = execute(statement, scope);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow execute(const Statement& statement, Scope* scope) {
    line_ = statement.line;
    budget_.spend(1);
    switch (statement.kind) {
      case Statement::Kind::kText:
        write(statement.text);
        break;
      case Statement::Kind::kOutput:
        write_value(evaluate(*statement.expression, scope));
        break;
      case Statement::Kind::kIf:
        for (const Statement::Branch& branch : statement.branches) {
          if (branch.condition == nullptr || evaluate(*branch.condition, scope).truth())
            return execute(branch.body, scope);
        }
        break;
      case Statement::Kind::kFor:
        execute_for(statement, scope);
        break;
      case Statement::Kind::kSet:
        execute_set(statement, scope);
        break;
      case Statement::Kind::kSetBlock: {
        Value value = capture(statement.body, scope);
        if (statement.expression != nullptr)
          value = evaluate_filter(*statement.expression, scope, &value);
        scope->values[statement.targets[0]] = std::move(value);
        break;
      }
      case Statement::Kind::kMacro:
        scope->values[statement.macro->name] = Value(statement.macro.get());
        break;
      case Statement::Kind::kGeneration: {
        Text text = capture(statement.body, scope);
        text.marks.resize(text.bytes.size(), '\0');
        for (char& mark : text.marks)
          mark = static_cast<char>(static_cast<unsigned char>(mark) | generated_mark_);
        write(text);
        break;
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  // What a body writes, with variables of its own.
  Text capture(const Body& body, Scope* scope) {
    Text text;
    const Redirect redirect(&out_, &text);
    Scope inner{scope, {}};
    execute(body, &inner);
    return text;
  }

  void assign(const std::vector<std::string>& targets, const Value& value, Scope* scope) {
    if (targets.size() == 1) {
      scope->values[targets[0]] = value;
      return;
    }
    const std::vector<Value> items = get_items(value, &budget_);
    if (items.size() != targets.size())
      refuse("found {} values, expected {}", items.size(), targets.size());
    for (std::size_t i = 0; i < items.size(); ++i) scope->values[targets[i]] = items[i];
  }

  void execute_set(const Statement& statement, Scope* scope) {
    Value value = evaluate(*statement.expression, scope);
    line_ = statement.line;
    if (statement.space.empty()) {
      assign(statement.targets, value, scope);
      return;
    }
    Namespace* space = lookup(statement.space, scope).space();
    if (space == nullptr)
      refuse("{} is no namespace, so {} cannot be set in it", statement.space,
             statement.targets[0]);
    space->values[statement.targets[0]] = std::move(value);
  }

  void execute_for(const Statement& statement, Scope* scope) {
    std::vector<Value> items = get_items(evaluate(*statement.expression, scope), &budget_);
    if (statement.condition != nullptr) {
      std::vector<Value> kept;
      for (Value& item : items) {
        Scope inner{scope, {}};
        assign(statement.targets, item, &inner);
        if (evaluate(*statement.condition, &inner).truth()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      Scope inner{scope, {}};
      execute(statement.otherwise, &inner);
      return;
    }
    // Each round sees a loop of its own, so that one kept in a namespace does not change.
    const auto shared = std::make_shared<const List>(make_list(std::move(items)));
    for (std::size_t i = 0; i < shared->items.size(); ++i) {
      budget_.spend(1);
      Scope inner{scope, {}};
      assign(statement.targets, shared->items[i], &inner);
      auto loop = std::make_shared<Loop>();
      loop->list = shared;
      loop->index = i;
      inner.values["loop"] = Value(std::shared_ptr<const Loop>(std::move(loop)));
      if (execute(statement.body, &inner) == Flow::kBreak) break;
    }
  }

  // --- expressions ---

  Value lookup(const std::string& name, const Scope* scope) const {
    for (; scope != nullptr; scope = scope->parent) {
      const auto found = scope->values.find(name);
      if (found != scope->values.end()) return found->second;
    }
    const auto given = variables_.find(name);
    if (given != variables_.end()) return given->second;
    if (name == "range") return Function::kRange;
    if (name == "namespace") return Function::kNamespace;
    if (name == "dict") return Function::kDict;
    if (name == "raise_exception") return Function::kRaiseException;
    if (name == "strftime_now" && now_) return Function::kStrftimeNow;
    if (name == "lipsum" || name == "cycler" || name == "joiner")
      fail(ErrorKind::kUnsupported, "the function {} is not implemented", name);
    return {};
  }

  Value evaluate(const Expression& expression, Scope* scope) {
    const Nesting nesting(&depth_);
    budget_.spend(1);
    line_ = expression.line;
    switch (expression.kind) {
      case Expression::Kind::kLiteral:
        return expression.literal;
      case Expression::Kind::kName:
        return lookup(expression.name, scope);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple:
        return make_list(
            evaluate_all(expression, 0, scope),
            expression.kind == Expression::Kind::kList ? ListKind::kList : ListKind::kTuple);
      case Expression::Kind::kDict:
        return evaluate_dict(expression, scope);
      case Expression::Kind::kUnary:
        return evaluate_unary(expression, scope);
      case Expression::Kind::kBinary:
        return evaluate_binary(expression, scope);
      case Expression::Kind::kLogical: {
        Value left = evaluate(*expression.operands[0], scope);
        if (left.truth() == (expression.name == "or")) return left;
        return evaluate(*expression.operands[1], scope);
      }
      case Expression::Kind::kComparison:
        return evaluate_comparison(expression, scope);
      case Expression::Kind::kConditional:
        if (evaluate(*expression.operands[0], scope).truth())
          return evaluate(*expression.operands[1], scope);
        return expression.operands.size() > 2 ? evaluate(*expression.operands[2], scope) : Value();
      case Expression::Kind::kAttribute:
        return evaluate_attribute(expression, scope);
      case Expression::Kind::kItem:
        return evaluate_item(expression, scope);
      case Expression::Kind::kSlice:
        return evaluate_slice(expression, scope);
      case Expression::Kind::kCall:
        return evaluate_call(expression, scope);
      case Expression::Kind::kFilter:
        return evaluate_filter(expression, scope, nullptr);
      case Expression::Kind::kTest: {
        const Value subject = evaluate(*expression.operands[0], scope);
        const Arguments arguments = evaluate_arguments(expression, scope);
        line_ = expression.line;
        return apply_test(expression.name, subject, arguments, &budget_) != expression.negated;
      }
    }
    return {};
  }

  std::vector<Value> evaluate_all(const Expression& expression, std::size_t first, Scope* scope) {
    std::vector<Value> values;
    for (std::size_t i = first; i < expression.operands.size(); ++i)
      values.push_back(evaluate(*expression.operands[i], scope));
    line_ = expression.line;
    return values;
  }

  Arguments evaluate_arguments(const Expression& expression, Scope* scope) {
    Arguments arguments;
    arguments.values = evaluate_all(expression, 1, scope);
    for (const auto& [name, value] : expression.keywords)
      arguments.keywords.emplace_back(name, evaluate(*value, scope));
    line_ = expression.line;
    return arguments;
  }

  // subject: of a block, whose innermost filter has none.
  Value evaluate_filter(const Expression& expression, Scope* scope, const Value* subject) {
    const Expression* inner = expression.operands[0].get();
    const Value value = inner == nullptr     ? *subject
                        : subject == nullptr ? evaluate(*inner, scope)
                                             : evaluate_filter(*inner, scope, subject);
    const Arguments arguments = evaluate_arguments(expression, scope);
    return apply_filter(expression.name, value, arguments, &budget_);
  }

  Value evaluate_dict(const Expression& expression, Scope* scope) {
    std::vector<std::pair<Value, Value>> items;
    for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
      Value key = evaluate(*expression.operands[i], scope);
      if (key.text() == nullptr && !key.is_number() && !key.is_none())
        refuse("{} cannot be a key", key.kind());
      Value value = evaluate(*expression.operands[i + 1], scope);
      set_item(&items, std::move(key), std::move(value));
    }
    return make_dict(std::move(items));
  }
  void set_item(std::vector<std::pair<Value, Value>>* items, Value key, Value value) {
    budget_.spend(items->size());
    for (auto& [own, held] : *items) {
      if (!equal(own, key)) continue;
      held = std::move(value);
      return;
    }
    items->emplace_back(std::move(key), std::move(value));
  }

  Value evaluate_unary(const Expression& expression, Scope* scope) {
    const Value value = evaluate(*expression.operands[0], scope);
    line_ = expression.line;
    if (expression.name == "not") return !value.truth();
    if (!value.is_number())
      refuse("{}: found {}, expected a number", expression.name, value.kind());
    if (expression.name == "+") return value.is_float() ? value : Value(value.integer());
    if (value.is_float()) return -value.number();
    if (value.integer() == INT64_MIN) refuse("a number does not fit 64 bits");
    return -value.integer();
  }

  Value evaluate_binary(const Expression& expression, Scope* scope) {
    const Value left = evaluate(*expression.operands[0], scope);
    const Value right = evaluate(*expression.operands[1], scope);
    line_ = expression.line;
    const std::string& name = expression.name;
    if (name == "~" || (name == "+" && left.text() != nullptr && right.text() != nullptr)) {
      budget_.spend(left.weight() + right.weight());
      Text text = to_text(left);
      const Text end = to_text(right);
      budget_.spend_bytes(text.bytes.size() + end.bytes.size());
      text.append(end);
      return text;
    }
    if (name == "+" && left.list() != nullptr && right.list() != nullptr &&
        left.list()->kind == right.list()->kind && left.list()->kind <= ListKind::kTuple) {
      std::vector<Value> items = left.list()->items;
      budget_.spend(items.size() + right.list()->items.size());
      items.insert(items.end(), right.list()->items.begin(), right.list()->items.end());
      return make_list(std::move(items), left.list()->kind);
    }
    if (name == "*" && (left.text() != nullptr || right.text() != nullptr)) {
      const Value& count = left.text() != nullptr ? right : left;
      return repeat(left.text() != nullptr ? *left.text() : *right.text(), count);
    }
    if (name == "%" && left.text() != nullptr)
      fail(ErrorKind::kUnsupported, "formatting by % is not implemented");
    if (!left.is_number() || !right.is_number())
      refuse("{} {} {} has no meaning", left.kind(), name, right.kind());
    return name == "/" || left.is_float() || right.is_float()
               ? float_result(name, left.number(), right.number())
               : integer_result(name, left.integer(), right.integer());
  }

  Value repeat(const Text& text, const Value& count) {
    if (!count.is_integer() && !count.is_bool())
      refuse("a string times {} has no meaning", count.kind());
    const auto times = static_cast<std::size_t>(std::max<std::int64_t>(count.integer(), 0));
    if (times > kMaxTextBytes) refuse("a text is longer than {} bytes", kMaxTextBytes);
    budget_.spend_bytes(times * std::min(text.bytes.size(), kMaxTextBytes));
    Text result;
    if (text.bytes.empty()) return result;
    for (std::size_t i = 0; i < times; ++i) result.append(text);
    return result;
  }

  static Value float_result(const std::string& name, double a, double b) {
    if (b == 0 && (name == "/" || name == "//" || name == "%")) refuse("a number is divided by 0");
    double result = 0;
    if (name == "+") result = a + b;
    if (name == "-") result = a - b;
    if (name == "*") result = a * b;
    if (name == "/") result = a / b;
    if (name == "//") result = std::floor(a / b);
    if (name == "**") result = std::pow(a, b);
    if (name == "%") {
      result = std::fmod(a, b);
      if (result != 0 && (result < 0) != (b < 0)) result += b;
    }
    if (!std::isfinite(result)) refuse("the result of {} is not finite", name);
    return result;
  }

  static Value integer_result(const std::string& name, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    bool overflows = false;
    if (name == "+") {
      overflows = __builtin_add_overflow(a, b, &result);
    } else if (name == "-") {
      overflows = __builtin_sub_overflow(a, b, &result);
    } else if (name == "*") {
      overflows = __builtin_mul_overflow(a, b, &result);
    } else if (name == "**") {
      if (b < 0) return float_result(name, static_cast<double>(a), static_cast<double>(b));
      result = 1;
      if (b > 64 && a != 0 && a != 1 && a != -1) refuse("a number does not fit 64 bits");
      const std::int64_t rounds = b > 64 ? b % 2 + 2 : b;  // of 0, 1 and -1
      for (std::int64_t i = 0; i < rounds && !overflows; ++i)
        overflows = __builtin_mul_overflow(result, a, &result);
    } else {
      if (b == 0) refuse("a number is divided by 0");
      if (a == INT64_MIN && b == -1) refuse("a number does not fit 64 bits");
      const std::int64_t rest = a % b;
      const bool below = rest != 0 && (rest < 0) != (b < 0);
      result = name == "//" ? a / b - (below ? 1 : 0) : rest + (below ? b : 0);
    }
    if (overflows) refuse("a number does not fit 64 bits");
    return result;
  }

  Value evaluate_comparison(const Expression& expression, Scope* scope) {
    Value left = evaluate(*expression.operands[0], scope);
    for (std::size_t i = 0; i < expression.names.size(); ++i) {
      Value right = evaluate(*expression.operands[i + 1], scope);
      line_ = expression.line;
      budget_.spend(left.weight() + right.weight());
      if (!compare(expression.names[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }
  static bool compare(const std::string& name, const Value& left, const Value& right) {
    if (name == "==") return equal(left, right);
    if (name == "!=") return !equal(left, right);
    if (name == "<") return less(left, right);
    if (name == ">") return less(right, left);
    if (name == "<=") return equal(left, right) || less(left, right);
    if (name == ">=") return equal(left, right) || less(right, left);
    return contains(right, left) == (name == "in");
  }

  // How messages call an operand.
  static std::string name_of(const Expression& expression) {
    if (expression.kind == Expression::Kind::kName ||
        expression.kind == Expression::Kind::kAttribute)
      return expression.name;
    return "a value";
  }

  static Value loop_attribute(const Loop& loop, const std::string& name) {
    const auto number = [](std::size_t value) { return static_cast<std::int64_t>(value); };
    const std::vector<Value>& items = loop.list->items;
    if (name == "index") return number(loop.index + 1);
    if (name == "index0") return number(loop.index);
    if (name == "revindex") return number(items.size() - loop.index);
    if (name == "revindex0") return number(items.size() - loop.index - 1);
    if (name == "first") return loop.index == 0;
    if (name == "last") return loop.index + 1 == items.size();
    if (name == "length") return number(items.size());
    if (name == "depth") return number(1);  // of recursive loops, which there are none of
    if (name == "depth0") return number(0);
    if (name == "previtem") return loop.index == 0 ? Value() : items[loop.index - 1];
    if (name == "nextitem") return loop.index + 1 == items.size() ? Value() : items[loop.index + 1];
    fail(ErrorKind::kUnsupported, "loop.{} is not implemented", name);
  }

  Value attribute_of(const Value& object, const std::string& name, const Expression& operand) {
    if (object.is_undefined()) refuse("{} is not defined, so it has no {}", name_of(operand), name);
    if (const Loop* loop = object.loop()) return loop_attribute(*loop, name);
    if (const Namespace* space = object.space()) {
      const auto found = space->values.find(name);
      return found == space->values.end() ? Value() : found->second;
    }
    if (has_method(object, name))
      fail(ErrorKind::kUnsupported, "the method {} that is not called is not implemented", name);
    if (const Dict* dict = object.dict()) {
      budget_.spend(dict->items.size());
      const Value* found = dict->find(name);
      return found == nullptr ? Value() : *found;
    }
    return {};
  }

  Value evaluate_attribute(const Expression& expression, Scope* scope) {
    const Value object = evaluate(*expression.operands[0], scope);
    line_ = expression.line;
    return attribute_of(object, expression.name, *expression.operands[0]);
  }

  Value evaluate_item(const Expression& expression, Scope* scope) {
    const Value object = evaluate(*expression.operands[0], scope);
    const Value key = evaluate(*expression.operands[1], scope);
    line_ = expression.line;
    if (object.is_undefined())
      refuse("{} is not defined, so it has no items", name_of(*expression.operands[0]));
    if (object.text() != nullptr) budget_.spend_bytes(object.text()->bytes.size());
    if (object.dict() != nullptr) budget_.spend(object.dict()->items.size());
    Value found = get_item(object, key);
    // Jinja looks for an attribute next.
    if (!found.is_undefined() || key.text() == nullptr) return found;
    return attribute_of(object, key.text()->bytes, *expression.operands[0]);
  }

  Value evaluate_slice(const Expression& expression, Scope* scope) {
    std::array<Value, 4> parts;
    for (std::size_t i = 0; i < 4; ++i) {
      if (expression.operands[i] != nullptr) parts[i] = evaluate(*expression.operands[i], scope);
    }
    line_ = expression.line;
    if (parts[0].text() != nullptr) budget_.spend_bytes(parts[0].text()->bytes.size());
    if (parts[0].list() != nullptr) budget_.spend(parts[0].list()->items.size());
    return get_slice(parts[0], parts[1], parts[2], parts[3]);
  }

  Value evaluate_call(const Expression& expression, Scope* scope) {
    const Expression& callee = *expression.operands[0];
    if (callee.kind == Expression::Kind::kAttribute) {
      const Value object = evaluate(*callee.operands[0], scope);
      const Arguments arguments = evaluate_arguments(expression, scope);
      if (object.is_undefined()) {
        refuse("{} is not defined, so {}() cannot be called", name_of(*callee.operands[0]),
               callee.name);
      }
      if (object.loop() != nullptr && callee.name == "cycle") {
        if (arguments.values.empty()) refuse("loop.cycle: expected an argument");
        return arguments.values[object.loop()->index % arguments.values.size()];
      }
      if (object.space() != nullptr)
        return call(attribute_of(object, callee.name, callee), callee.name, arguments);
      return call_method(object, callee.name, arguments, &budget_);
    }
    const Value function = evaluate(callee, scope);
    const Arguments arguments = evaluate_arguments(expression, scope);
    return call(function, name_of(callee), arguments);
  }

  Value call(const Value& function, const std::string& name, const Arguments& arguments) {
    if (function.macro() != nullptr) return call_macro(*function.macro(), arguments);
    if (function.function() == nullptr) {
      if (name == "strftime_now" && function.is_undefined())
        refuse("the template writes the date, and none is given");
      refuse("{} cannot be called: it is {}", name, function.kind());
    }
    switch (*function.function()) {
      case Function::kRange:
        return call_range(arguments);
      case Function::kNamespace: {
        if (!arguments.values.empty())
          fail(ErrorKind::kUnsupported, "namespace of a dictionary is not implemented");
        Namespace& space = spaces_.emplace_back();
        for (const auto& [key, value] : arguments.keywords) space.values[key] = value;
        return &space;
      }
      case Function::kDict: {
        std::vector<std::pair<Value, Value>> items;
        if (arguments.values.size() > 1 ||
            (arguments.values.size() == 1 && arguments.values[0].dict() == nullptr))
          fail(ErrorKind::kUnsupported, "dict of other than a dictionary is not implemented");
        if (!arguments.values.empty()) items = arguments.values[0].dict()->items;
        for (const auto& [key, value] : arguments.keywords)
          set_item(&items, Value::of_text(key), value);
        return make_dict(std::move(items));
      }
      case Function::kRaiseException: {
        const Value message = bind_arguments(arguments, {"message"}, 1, "raise_exception")[0];
        refuse("the template refuses the conversation: {}", to_text(message).bytes);
      }
      case Function::kStrftimeNow: {
        const Value format = bind_arguments(arguments, {"format"}, 1, "strftime_now")[0];
        if (format.text() == nullptr)
          refuse("strftime_now: found {}, expected a string", format.kind());
        return Value::of_text(format_moment(*now_, format.text()->bytes));
      }
    }
    return {};
  }

  Value call_range(const Arguments& arguments) {
    const std::vector<Value> bound =
        bind_arguments(arguments, {"start", "stop", "step"}, 1, "range");
    std::array<std::int64_t, 3> parts = {0, 0, 1};
    for (std::size_t i = 0; i < 3; ++i) {
      if (bound[i].is_undefined()) continue;
      if (!bound[i].is_integer() && !bound[i].is_bool())
        refuse("range: found {}, expected a whole number", bound[i].kind());
      parts[i] = bound[i].integer();
    }
    auto [start, stop, step] = parts;
    if (bound[1].is_undefined()) {
      stop = start;
      start = 0;
    }
    if (step == 0) refuse("range: found step 0");
    std::vector<Value> items;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
      if (static_cast<std::int64_t>(items.size()) >= kMaxRange)
        refuse("range: more than {} numbers", kMaxRange);
      items.emplace_back(i);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    budget_.spend(items.size());
    return make_list(std::move(items), ListKind::kRange);
  }

  Value call_macro(const Macro& macro, const Arguments& arguments) {
    const Nesting nesting(&depth_);
    const std::vector<std::string_view> names(macro.parameters.begin(), macro.parameters.end());
    std::vector<Value> bound = bind_arguments(arguments, names, 0, macro.name);
    Scope scope{&root_, {}};
    const std::size_t first_default = names.size() - macro.defaults.size();
    std::vector<bool> given(names.size(), false);
    for (std::size_t i = 0; i < arguments.values.size(); ++i) given[i] = true;
    for (const auto& [name, value] : arguments.keywords) {
      for (std::size_t i = 0; i < names.size(); ++i) given[i] = given[i] || names[i] == name;
    }
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (!given[i] && i >= first_default)
        bound[i] = evaluate(*macro.defaults[i - first_default], &scope);
      scope.values[macro.parameters[i]] = bound[i];
    }
    Text text;
    const Redirect redirect(&out_, &text);
    execute(macro.body, &scope);
    return text;
  }

  const Variables& variables_;
  std::optional<Moment> now_;
  unsigned char generated_mark_;
  Budget budget_;
  Text output_;
  Text* out_ = &output_;
  Scope root_{nullptr, {}};
  std::deque<Namespace> spaces_;
  std::size_t line_ = 0;
  int depth_ = 0;
};

bool has_generation(const Body& body) {
  return std::any_of(body.begin(), body.end(), [](const Statement& statement) {
    return statement.kind == Statement::Kind::kGeneration || has_generation(statement.body) ||
           has_generation(statement.otherwise) ||
           (statement.macro != nullptr && has_generation(statement.macro->body)) ||
           std::any_of(statement.branches.begin(), statement.branches.end(),
                       [](const auto& branch) { return has_generation(branch.body); });
  });
}

std::size_t bytes_of(const Value& value) {
  std::size_t bytes = 8;
  if (value.text() != nullptr) bytes += value.text()->bytes.size();
  if (value.list() != nullptr) {
    for (const Value& item : value.list()->items) bytes += bytes_of(item);
  }
  if (value.dict() != nullptr) {
    for (const auto& [key, held] : value.dict()->items) bytes += bytes_of(key) + bytes_of(held);
  }
  return bytes;
}

}  // namespace template_file

Template Template::parse(std::string_view source, const std::string& where) {
  auto tree = std::make_shared<Tree>();
  tree->body = parse_template(source, where);
  tree->where = where;
  tree->marks_generation = template_file::has_generation(tree->body);
  return Template(std::move(tree));
}

bool Template::marks_generation() const { return tree_->marks_generation; }

Text Template::render(const std::map<std::string, Value, std::less<>>& variables,
                      std::optional<Moment> now, unsigned char generated_mark) const {
  std::size_t bytes = 0;
  for (const auto& [name, value] : variables) bytes += template_file::bytes_of(value);
  template_file::Run run(variables, now, generated_mark, bytes);
  try {
    run.run(tree_->body);
  } catch (const Error& error) {
    throw Error(error.kind(),
                fmt::format("{}: line {}: {}", tree_->where, run.line(), error.what()));
  }
  return run.take_output();
}

}  // namespace qalof::text::jinja
