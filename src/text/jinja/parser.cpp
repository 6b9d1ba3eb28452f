// The parser of templates: Jinja's grammar, less what chat templates have no use for.
#include <algorithm>
#include <array>
#include <charconv>

#include "core/error.h"
#include "text/jinja/functions.h"
#include "text/jinja/lexer.h"
#include "text/jinja/syntax.h"

namespace qalof::text::jinja {

namespace parser_file {

using Kind = Token::Kind;

constexpr int kMaxDepth = 120;
constexpr std::size_t kMaxTokens = 1'000'000;

class Parser {
 public:
  Parser(std::vector<Token> tokens, std::string where)
      : tokens_(std::move(tokens)), where_(std::move(where)) {
    if (tokens_.size() > kMaxTokens) refuse("the template has more than {} parts", kMaxTokens);
  }

  Body run() {
    Body body = parse_body({});
    if (current().kind != Kind::kEnd) refuse("found {}, which closes nothing", current().text);
    return body;
  }

 private:
  // Counts the depth of nested calls, which is that of the source.
  class Nesting {
   public:
    explicit Nesting(Parser* parser) : parser_(parser) {
      if (++parser_->depth_ > kMaxDepth)
        parser_->refuse("expressions and blocks are nested more than {} deep", kMaxDepth);
    }
    ~Nesting() { --parser_->depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser* parser_;
  };

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kBadInput, "{}: line {}: {}", where_, current().line,
         fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void refuse_construct(const std::string& what) const {
    fail(ErrorKind::kUnsupported, "{}: line {}: {} is not implemented", where_, current().line,
         what);
  }

  const Token& current() const { return tokens_[next_]; }
  const Token& look(std::size_t ahead) const {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  bool is(Kind kind, std::string_view text) const {
    return current().kind == kind && current().text == text;
  }
  bool is_name(std::string_view text) const { return is(Kind::kName, text); }
  bool is_operator(std::string_view text) const { return is(Kind::kOperator, text); }
  Token take() {
    Token token = current();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool skip(Kind kind, std::string_view text) {
    if (!is(kind, text)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view text) { return skip(Kind::kName, text); }
  bool skip_operator(std::string_view text) { return skip(Kind::kOperator, text); }
  void expect(Kind kind, std::string_view text) {
    if (!skip(kind, text)) refuse("found {}, expected {}", found(), text);
  }
  std::string expect_name(const char* what) {
    if (current().kind != Kind::kName) refuse("found {}, expected {}", found(), what);
    return take().text;
  }
  std::string found() const {
    if (current().kind == Kind::kEnd) return "the end of the template";
    if (current().kind == Kind::kText) return "text";
    return current().kind == Kind::kString ? "a string" : current().text;
  }

  ExpressionPtr make(Expression::Kind kind, std::size_t line) const {
    auto made = std::make_unique<Expression>();
    made->kind = kind;
    made->line = line;
    return made;
  }
  void add(Expression* parent, ExpressionPtr child) const {
    if (child != nullptr) raise_depth(parent, *child);
    parent->operands.push_back(std::move(child));
  }
  void raise_depth(Expression* parent, const Expression& child) const {
    parent->depth = std::max(parent->depth, child.depth + 1);
    if (parent->depth > kMaxDepth) refuse("an expression has more than {} levels", kMaxDepth);
  }

  // --- statements ---

  // Statements up to a block that begins with one of ends, which stays, or to the template's end.
  Body parse_body(const std::vector<std::string_view>& ends) {
    const Nesting nesting(this);
    Body body;
    for (;;) {
      switch (current().kind) {
        case Kind::kEnd:
          if (!ends.empty())
            refuse("found the end of the template, expected {{% {} %}}", ends.back());
          return body;
        case Kind::kText: {
          Statement& text = body.emplace_back();
          text.line = current().line;
          text.text = Text(take().text);
          break;
        }
        case Kind::kVariableBegin: {
          Statement output;
          output.kind = Statement::Kind::kOutput;
          output.line = take().line;
          output.expression = parse_tuple(true);
          allow_safe(output.expression.get());
          expect(Kind::kVariableEnd, "}}");
          body.push_back(std::move(output));
          break;
        }
        case Kind::kBlockBegin: {
          const Token& tag = look(1);
          if (tag.kind == Kind::kName &&
              std::find(ends.begin(), ends.end(), tag.text) != ends.end())
            return body;
          body.push_back(parse_block());
          break;
        }
        default:
          refuse("found {}", found());
      }
    }
  }

  Statement parse_block() {
    expect(Kind::kBlockBegin, "{%");
    const std::size_t line = current().line;
    if (current().kind != Kind::kName) refuse("found {}, expected the name of a block", found());
    const std::string tag = current().text;
    Statement statement;
    if (tag == "if") {
      statement = parse_if();
    } else if (tag == "for") {
      statement = parse_for();
    } else if (tag == "set") {
      statement = parse_set();
    } else if (tag == "macro") {
      statement = parse_macro();
    } else if (tag == "generation") {
      take();
      statement.kind = Statement::Kind::kGeneration;
      end_block();
      statement.body = parse_inner({"endgeneration"});
      close("endgeneration");
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) refuse("{{% {} %}} is outside a loop", tag);
      take();
      statement.kind = tag == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      end_block();
    } else if (tag.starts_with("end") || tag == "else" || tag == "elif") {
      refuse("found {{% {} %}}, which closes nothing", tag);
    } else {
      refuse_construct(fmt::format("the block {{% {} %}}", tag));
    }
    statement.line = line;
    return statement;
  }

  Body parse_inner(const std::vector<std::string_view>& ends) {
    ++inner_;
    Body body = parse_body(ends);
    --inner_;
    return body;
  }

  void end_block() {
    if (unplaced_safe_ != 0) refuse_safe();
    expect(Kind::kBlockEnd, "%}");
  }
  // {% tag %}, which parse_body has found.
  void close(std::string_view tag) {
    expect(Kind::kBlockBegin, "{%");
    expect(Kind::kName, tag);
    end_block();
  }

  Statement parse_if() {
    Statement statement;
    statement.kind = Statement::Kind::kIf;
    take();
    for (;;) {
      Statement::Branch& branch = statement.branches.emplace_back();
      branch.condition = parse_tuple(false);
      end_block();
      branch.body = parse_body({"elif", "else", "endif"});
      expect(Kind::kBlockBegin, "{%");
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        end_block();
        statement.branches.push_back({nullptr, parse_body({"endif"})});
        expect(Kind::kBlockBegin, "{%");
      }
      expect(Kind::kName, "endif");
      end_block();
      return statement;
    }
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool bracketed = skip_operator("(");
    do {
      if (!targets.empty() && current().kind != Kind::kName) break;  // a comma at the end
      targets.push_back(parse_target());
    } while (skip_operator(","));
    if (bracketed) expect(Kind::kOperator, ")");
    return targets;
  }
  std::string parse_target() {
    std::string name = expect_name("the name of a variable");
    if (is_reserved(name)) refuse("found {}, expected the name of a variable", name);
    return name;
  }
  static bool is_reserved(const std::string& name) {
    static constexpr std::array<std::string_view, 13> kReserved = {
        "true", "false", "none", "True", "False", "None", "and",
        "or",   "not",   "in",   "is",   "if",    "else"};
    return std::find(kReserved.begin(), kReserved.end(), name) != kReserved.end();
  }

  Statement parse_for() {
    Statement statement;
    statement.kind = Statement::Kind::kFor;
    take();
    statement.targets = parse_targets();
    expect(Kind::kName, "in");
    statement.expression = parse_tuple(false);
    if (skip_name("if")) statement.condition = parse_expression();
    if (is_name("recursive")) refuse_construct("a recursive loop");
    end_block();
    ++loops_;
    statement.body = parse_inner({"else", "endfor"});
    --loops_;
    expect(Kind::kBlockBegin, "{%");
    if (skip_name("else")) {
      end_block();
      statement.otherwise = parse_inner({"endfor"});
      expect(Kind::kBlockBegin, "{%");
    }
    expect(Kind::kName, "endfor");
    end_block();
    return statement;
  }

  Statement parse_set() {
    Statement statement;
    statement.kind = Statement::Kind::kSet;
    take();
    if (current().kind == Kind::kName && look(1).kind == Kind::kOperator && look(1).text == ".") {
      statement.space = parse_target();
      take();
      statement.targets = {expect_name("the name of an attribute")};
    } else {
      statement.targets = parse_targets();
    }
    if (skip_operator("=")) {
      statement.expression = parse_tuple(true);
      end_block();
      return statement;
    }
    if (!statement.space.empty() || statement.targets.size() != 1)
      refuse("found {}, expected =", found());
    statement.kind = Statement::Kind::kSetBlock;
    if (is_operator("|")) statement.expression = parse_filters(nullptr);
    end_block();
    const int loops = std::exchange(loops_, 0);
    statement.body = parse_inner({"endset"});
    loops_ = loops;
    close("endset");
    return statement;
  }

  Statement parse_macro() {
    Statement statement;
    statement.kind = Statement::Kind::kMacro;
    take();
    // A macro inside another block would have to keep that block's variables.
    if (inner_ > 0) refuse_construct("a macro inside a loop, macro or other block");
    statement.macro = std::make_unique<Macro>();
    Macro& macro = *statement.macro;
    macro.name = parse_target();
    expect(Kind::kOperator, "(");
    while (!skip_operator(")")) {
      if (!macro.parameters.empty()) expect(Kind::kOperator, ",");
      macro.parameters.push_back(parse_target());
      if (skip_operator("=")) {
        macro.defaults.push_back(parse_expression());
      } else if (!macro.defaults.empty()) {
        refuse("the parameter {} needs a default, as those before it have",
               macro.parameters.back());
      }
    }
    end_block();
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_inner({"endmacro"});
    loops_ = loops;
    close("endmacro");
    return statement;
  }

  // --- expressions, from the loosest operator to the tightest ---

  // Expressions between commas: one is itself, more are a tuple.
  ExpressionPtr parse_tuple(bool with_condition) {
    const std::size_t line = current().line;
    const auto parse_one = [&] { return with_condition ? parse_expression() : parse_or(); };
    ExpressionPtr first = parse_one();
    if (!is_operator(",")) return first;
    ExpressionPtr tuple = make(Expression::Kind::kTuple, line);
    add(tuple.get(), std::move(first));
    while (skip_operator(",")) {
      if (ends_tuple()) break;
      add(tuple.get(), parse_one());
    }
    return tuple;
  }
  bool ends_tuple() const {
    return current().kind == Kind::kBlockEnd || current().kind == Kind::kVariableEnd ||
           is_operator(")");
  }

  ExpressionPtr parse_expression() {
    const Nesting nesting(this);
    ExpressionPtr value = parse_or();
    while (is_name("if")) {
      ExpressionPtr conditional = make(Expression::Kind::kConditional, take().line);
      add(conditional.get(), parse_or());
      add(conditional.get(), std::move(value));
      if (skip_name("else")) add(conditional.get(), parse_expression());
      value = std::move(conditional);
    }
    return value;
  }

  template <typename Parse>
  ExpressionPtr parse_left(std::initializer_list<std::string_view> operators, Token::Kind token,
                           Expression::Kind kind, Parse&& parse) {
    ExpressionPtr left = parse();
    while (current().kind == token &&
           std::find(operators.begin(), operators.end(), current().text) != operators.end()) {
      ExpressionPtr both = make(kind, current().line);
      both->name = take().text;
      add(both.get(), std::move(left));
      add(both.get(), parse());
      left = std::move(both);
    }
    return left;
  }

  ExpressionPtr parse_or() {
    return parse_left({"or"}, Kind::kName, Expression::Kind::kLogical, [&] {
      return parse_left({"and"}, Kind::kName, Expression::Kind::kLogical,
                        [&] { return parse_not(); });
    });
  }

  ExpressionPtr parse_not() {
    const Nesting nesting(this);
    if (!is_name("not")) return parse_comparison();
    ExpressionPtr negation = make(Expression::Kind::kUnary, current().line);
    negation->name = take().text;
    add(negation.get(), parse_not());
    return negation;
  }

  ExpressionPtr parse_comparison() {
    ExpressionPtr first = parse_sum();
    ExpressionPtr comparison;
    for (;;) {
      static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<",
                                                                     "<=", ">",  ">="};
      std::string name;
      const bool compares =
          current().kind == Kind::kOperator &&
          std::find(kOperators.begin(), kOperators.end(), current().text) != kOperators.end();
      if (compares || is_name("in")) {
        name = take().text;
      } else if (is_name("not") && look(1).kind == Kind::kName && look(1).text == "in") {
        take();
        take();
        name = "not in";
      } else {
        break;
      }
      if (comparison == nullptr) {
        comparison = make(Expression::Kind::kComparison, current().line);
        add(comparison.get(), std::move(first));
      }
      comparison->names.push_back(std::move(name));
      add(comparison.get(), parse_sum());
    }
    return comparison == nullptr ? std::move(first) : std::move(comparison);
  }

  ExpressionPtr parse_sum() {
    constexpr auto kBinary = Expression::Kind::kBinary;
    return parse_left({"+", "-"}, Kind::kOperator, kBinary, [&] {
      return parse_left({"~"}, Kind::kOperator, kBinary, [&] {
        return parse_left({"*", "/", "//", "%"}, Kind::kOperator, kBinary, [&] {
          return parse_left({"**"}, Kind::kOperator, kBinary, [&] { return parse_unary(true); });
        });
      });
    });
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const Nesting nesting(this);
    ExpressionPtr value;
    if (is_operator("-") || is_operator("+")) {
      value = make(Expression::Kind::kUnary, current().line);
      value->name = take().text;
      add(value.get(), parse_unary(false));
    } else {
      value = parse_primary();
    }
    value = parse_postfix(std::move(value));
    return with_filters ? parse_filters(std::move(value)) : std::move(value);
  }

  ExpressionPtr literal(Value value, std::size_t line) {
    ExpressionPtr made = make(Expression::Kind::kLiteral, line);
    made->literal = std::move(value);
    return made;
  }

  ExpressionPtr parse_primary() {
    const Token token = current();
    switch (token.kind) {
      case Kind::kName: {
        if (token.text == "true" || token.text == "True") return literal(true, take().line);
        if (token.text == "false" || token.text == "False") return literal(false, take().line);
        if (token.text == "none" || token.text == "None") return literal(None{}, take().line);
        if (is_reserved(token.text)) refuse("found {}, expected a value", token.text);
        ExpressionPtr name = make(Expression::Kind::kName, take().line);
        name->name = token.text;
        return name;
      }
      case Kind::kString: {
        std::string text = take().text;
        while (current().kind == Kind::kString) text += take().text;
        return literal(Value::of_text(std::move(text)), token.line);
      }
      case Kind::kInteger: {
        std::int64_t number = 0;
        const char* end = token.text.data() + token.text.size();
        const auto read = std::from_chars(token.text.data(), end, number);
        if (read.ec != std::errc{} || read.ptr != end)
          refuse("the number {} does not fit 64 bits", token.text);
        return literal(number, take().line);
      }
      case Kind::kFloat: {
        double number = 0;
        const char* end = token.text.data() + token.text.size();
        const auto read = std::from_chars(token.text.data(), end, number);
        if (read.ec != std::errc{} || read.ptr != end)
          refuse("the number {} is too large", token.text);
        return literal(number, take().line);
      }
      default:
        break;
    }
    if (skip_operator("(")) {
      if (skip_operator(")")) return make(Expression::Kind::kTuple, token.line);
      ExpressionPtr inner = parse_tuple(true);
      expect(Kind::kOperator, ")");
      return inner;
    }
    if (skip_operator("[")) {
      ExpressionPtr list = make(Expression::Kind::kList, token.line);
      while (!skip_operator("]")) {
        if (!list->operands.empty()) expect(Kind::kOperator, ",");
        if (skip_operator("]")) break;
        add(list.get(), parse_expression());
      }
      return list;
    }
    if (skip_operator("{")) {
      ExpressionPtr dict = make(Expression::Kind::kDict, token.line);
      while (!skip_operator("}")) {
        if (!dict->operands.empty()) expect(Kind::kOperator, ",");
        if (skip_operator("}")) break;
        add(dict.get(), parse_expression());
        expect(Kind::kOperator, ":");
        add(dict.get(), parse_expression());
      }
      return dict;
    }
    refuse("found {}, expected a value", found());
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    for (;;) {
      const std::size_t line = current().line;
      if (skip_operator(".")) {
        if (current().kind == Kind::kInteger) {
          ExpressionPtr item = make(Expression::Kind::kItem, line);
          add(item.get(), std::move(value));
          add(item.get(), parse_primary());
          value = std::move(item);
          continue;
        }
        ExpressionPtr attribute = make(Expression::Kind::kAttribute, line);
        attribute->name = expect_name("the name of an attribute");
        add(attribute.get(), std::move(value));
        value = std::move(attribute);
      } else if (skip_operator("[")) {
        value = parse_subscript(std::move(value), line);
      } else if (is_operator("(")) {
        ExpressionPtr call = make(Expression::Kind::kCall, line);
        add(call.get(), std::move(value));
        parse_arguments(call.get());
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr object, std::size_t line) {
    std::array<ExpressionPtr, 3> parts;
    std::size_t colons = 0;
    if (!is_operator(":")) parts[0] = parse_expression();
    while (colons < 2 && skip_operator(":")) {
      ++colons;
      if (!is_operator(":") && !is_operator("]")) parts[colons] = parse_expression();
    }
    if (is_operator(",")) refuse_construct("a subscript with a comma");
    expect(Kind::kOperator, "]");
    ExpressionPtr item =
        make(colons == 0 ? Expression::Kind::kItem : Expression::Kind::kSlice, line);
    add(item.get(), std::move(object));
    for (std::size_t i = 0; i < (colons == 0 ? std::size_t{1} : std::size_t{3}); ++i)
      add(item.get(), std::move(parts[i]));
    return item;
  }

  // (a, b, name=c)
  void parse_arguments(Expression* call) {
    expect(Kind::kOperator, "(");
    bool first = true;
    while (!skip_operator(")")) {
      if (!first) expect(Kind::kOperator, ",");
      first = false;
      if (skip_operator(")")) break;
      if (is_operator("*") || is_operator("**")) refuse_construct("an argument with *");
      if (current().kind == Kind::kName && look(1).kind == Kind::kOperator && look(1).text == "=") {
        std::string name = take().text;
        take();
        ExpressionPtr value = parse_expression();
        raise_depth(call, *value);
        call->keywords.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call->keywords.empty()) refuse("an argument without name follows one with a name");
        add(call, parse_expression());
      }
    }
  }

  ExpressionPtr parse_filters(ExpressionPtr value) {
    for (;;) {
      if (skip_operator("|")) {
        ExpressionPtr filter = make(Expression::Kind::kFilter, current().line);
        filter->name = expect_name("the name of a filter");
        if (!is_filter(filter->name)) refuse_construct(fmt::format("the filter {}", filter->name));
        add(filter.get(), std::move(value));
        if (is_operator("(")) parse_arguments(filter.get());
        value = std::move(filter);
        if (value->name == "safe") ++unplaced_safe_;
      } else if (value != nullptr && is_name("is")) {
        value = parse_test(std::move(value));
      } else if (value != nullptr && is_operator("(")) {
        ExpressionPtr call = make(Expression::Kind::kCall, current().line);
        add(call.get(), std::move(value));
        parse_arguments(call.get());
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_test(ExpressionPtr value) {
    ExpressionPtr test = make(Expression::Kind::kTest, take().line);
    test->negated = skip_name("not");
    test->name = expect_name("the name of a test");
    if (!is_test(test->name)) refuse_construct(fmt::format("the test {}", test->name));
    add(test.get(), std::move(value));
    static constexpr std::array<std::string_view, 7> kWords = {"else", "or", "and", "if",
                                                               "is",   "in", "not"};
    const bool is_word = current().kind == Kind::kName &&
                         std::find(kWords.begin(), kWords.end(), current().text) != kWords.end();
    if (is_operator("(")) {
      parse_arguments(test.get());
    } else if ((current().kind == Kind::kName && !is_word) || current().kind == Kind::kString ||
               current().kind == Kind::kInteger || current().kind == Kind::kFloat ||
               is_operator("[") || is_operator("{")) {
      add(test.get(), parse_postfix(parse_primary()));
    }
    return test;
  }

  // The filter safe changes what later operations do, so it may only be the last step of an output.
  void allow_safe(const Expression* output) {
    if (output->kind == Expression::Kind::kFilter && output->name == "safe") --unplaced_safe_;
    if (unplaced_safe_ != 0) refuse_safe();
  }
  [[noreturn]] void refuse_safe() const {
    refuse_construct("the filter safe inside an expression");
  }

  std::vector<Token> tokens_;
  std::string where_;
  std::size_t next_ = 0;
  int depth_ = 0;
  int loops_ = 0;  // around the current block
  int inner_ = 0;  // blocks with variables of their own around it
  int unplaced_safe_ = 0;
};

}  // namespace parser_file

Body parse_template(std::string_view source, const std::string& where) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 20;
  QALOF_CHECK(source.size() <= kMaxBytes, ErrorKind::kBadInput,
              "{}: the template has {} bytes, expected at most {}", where, source.size(),
              kMaxBytes);
  return parser_file::Parser(split_template(source, where), where).run();
}

}  // namespace qalof::text::jinja
